//! The service side on Unix: signals, systemd, its journal, and what `/proc` says.

mod process;
mod supervisor;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::{Mode, OFlags, fchmod};
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

pub(crate) use self::process::{open_files, open_files_max, processor_time, resident_bytes};
pub use self::supervisor::{Ends, Reloads, Supervisor};
use super::{NoLog, Program};
use crate::config::LogFormat;

/// What the program is, at the head of its help.
pub const ABOUT: &str = "\
The broker of pipebus: a message bus whose only door is a named pipe.

Programs connect through the FIFO \"bus\" in the bus's directory; the permissions of that file decide who may.";

/// What an address may be.
pub const BUS_HELP: &str = "Which bus to serve: session, system, or a directory";

/// Of `--config`.
pub const CONFIG_HELP: &str = "A configuration file to read after those in /etc/pipebus";

/// Of `--log-format`.
pub const LOG_FORMAT_HELP: &str = "How to log: text, json or journald";

/// What the log may be here.
pub const LOG_FORMATS: [&str; 3] = ["text", "json", "journald"];

/// At the end of its help.
pub const EXAMPLES: &str = "\
Examples:
  pipebusd                             serve this user's session bus
  pipebusd --bus /tmp/my-bus           serve a bus of your own
  pipebusd --set limits.instances_max=100 --check-config

Exit codes: 0 ended cleanly, 1 failed, 2 wrong usage or configuration, 4 the bus is taken.";

/// Everybody may read what node_exporter collects: it is another user.
const MODE_FOR_EVERYONE: u32 = 0o644;

/// A log tells who does what on the bus, which is its owner's and their group's to know.
const MODE_OF_LOG: u32 = 0o640;

/// What else there is to do than to serve: nothing here, where systemd has the commands for services.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {}

/// Does what the command line says.
pub fn start(_options: &Options, program: impl Program) -> ExitCode {
    match program.serve(Supervisor::default()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.show(),
    }
}

/// Where the machine's configuration is.
pub(crate) fn system_directory() -> PathBuf {
    "/etc/pipebus".into()
}

/// Only root writes to `/etc`.
#[expect(clippy::unnecessary_wraps, reason = "on other systems it may fail")]
pub(crate) fn check_trusted(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Makes a file that everybody may read. There is none yet, so that it is not written through a link that somebody else has
/// put there.
pub(crate) fn create_for_everyone(path: &Path) -> io::Result<File> {
    let file = File::create_new(path)?;
    fchmod(&file, Mode::from_raw_mode(MODE_FOR_EVERYONE))?;
    Ok(file)
}

/// Opens a log to add to it, or makes it; not through a link.
///
/// # Errors
/// What the system says.
pub fn open_log(path: &Path) -> io::Result<File> {
    let no_link = OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new().create(true).append(true).mode(MODE_OF_LOG).custom_flags(no_link).open(path)
}

/// Whether there is such a log here.
///
/// # Errors
/// There is none.
pub fn check_log_format(format: LogFormat) -> Result<(), NoLog> {
    match format {
        LogFormat::Text | LogFormat::Json | LogFormat::Journald => Ok(()),
        LogFormat::EventLog => {
            Err(NoLog::Elsewhere("Event Log on this system; set log.format to text, json or journald"))
        }
    }
}

/// The system's own log: the journal.
///
/// # Errors
/// It can't be reached.
pub fn system_log<S>() -> Result<impl Layer<S> + Send + Sync, NoLog>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    tracing_journald::layer().map_err(|error| NoLog::Unreachable("the journal", error))
}
