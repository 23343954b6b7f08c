//! The service side on Windows: the service control manager and the console, the Event Log, and where things are.

mod commands;
mod console;
mod event_log;
mod figures;
mod manager;
mod places;
mod run;
mod supervisor;

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

use self::commands::Action;
pub(crate) use self::figures::{open_files, open_files_max, processor_time, resident_bytes};
pub(crate) use self::places::{check_trusted, system_directory};
pub use self::supervisor::{Ends, Reloads, Supervisor};
use super::{NoLog, Program};
use crate::config::LogFormat;

/// What the program is, at the head of its help.
pub const ABOUT: &str = "\
The broker of pipebus: a message bus whose only door is a named pipe.

The security descriptor of that pipe decides which programs may connect.";

/// What an address may be.
pub const BUS_HELP: &str = r"Which bus to serve: session, system, or a pipe such as \\.\pipe\NAME";

/// Of `--config`.
pub const CONFIG_HELP: &str = r"A configuration file to read after those in %ProgramData%\pipebus";

/// Of `--log-format`.
pub const LOG_FORMAT_HELP: &str = "How to log: text, json or event-log";

/// What the log may be here.
pub const LOG_FORMATS: [&str; 3] = ["text", "json", "event-log"];

/// At the end of its help.
pub const EXAMPLES: &str = "\
Examples:
  pipebusd                             serve this user's session bus
  pipebusd service install             have the system bus served whenever the machine runs
  pipebusd --set limits.instances_max=100 --check-config

Exit codes: 0 ended cleanly, 1 failed, 2 wrong usage or configuration, 3 the service does not run, 4 the bus is taken.";

/// What the service is called.
const NAME: &str = "pipebusd";

/// What else there is to do than to serve.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// The broker as a service of Windows
    #[command(subcommand)]
    Service(Action),
}

/// Does what the command line says.
pub fn start(options: &Options, program: impl Program) -> ExitCode {
    let done = match &options.command {
        None => program.serve(Supervisor::default()).map(|()| ExitCode::SUCCESS),
        Some(Command::Service(Action::Run)) => run::dispatch(program),
        Some(Command::Service(action)) => action.perform(&program),
    };
    done.unwrap_or_else(|failure| failure.show())
}

/// Makes a file, which others may read whom its directory lets. There is none yet, so that it is not written through a link
/// that somebody else has put there.
pub(crate) fn create_for_everyone(path: &Path) -> io::Result<File> {
    File::create_new(path)
}

/// Opens a log to add to it, or makes it. Its directory says who may read it.
///
/// # Errors
/// What the system says.
pub fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Whether there is such a log here.
///
/// # Errors
/// There is none.
pub fn check_log_format(format: LogFormat) -> Result<(), NoLog> {
    match format {
        LogFormat::Text | LogFormat::Json | LogFormat::EventLog => Ok(()),
        LogFormat::Journald => Err(NoLog::Elsewhere("journal on Windows; set log.format to text, json or event-log")),
    }
}

/// The system's own log: the Event Log, for what matters there.
///
/// # Errors
/// It can't be reached.
pub fn system_log<S>() -> Result<impl Layer<S> + Send + Sync, NoLog>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    event_log::layer().map_err(|error| NoLog::Unreachable("the Event Log", error))
}
