//! `pipebus`: publish, subscribe, ask, and look at a bus, from a shell.
//!
//! This file turns the outcome of a command into an exit code; each command has a file of its own.

mod apart;
mod args;
mod bench;
mod bus;
mod complete;
mod demo;
mod doctor;
mod failure;
mod format;
mod interrupt;
mod look;
mod metrics;
mod monitor;
mod orders;
mod output;
mod policy;
mod publish;
mod reply;
mod request;
mod stage;
mod subscribe;
mod system;
mod table;
mod top;
mod transport;

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use tokio::runtime::Builder;

use crate::args::policy::Policy;
use crate::args::{Arguments, Command};
use crate::failure::Failure;
use crate::output::complain;

fn main() -> ExitCode {
    let arguments = Arguments::of_process();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        // As with any filter: whoever read has seen enough.
        Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(failure) => {
            if !matches!(failure, Failure::Denied) {
                complain(&failure.to_string());
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.command {
        // Chooses its runtime itself, if it needs one.
        Command::BenchPart { part } => return bench::part::run(&arguments.bus, part),
        Command::Tether { command } => return system::child::tether(command),
        Command::Completions(arguments) => return complete::print_script(arguments),
        Command::Complete(arguments) => return complete::run(arguments),
        Command::Man(arguments) => return write_manual(&arguments.directory),
        _ => {}
    }
    // One worker keeps the connection. The commands run on the main thread, where they may block, as on a full pipe.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::system("start", error))?;
    let bus = &arguments.bus;
    runtime.block_on(async {
        match &arguments.command {
            Command::Pub(arguments) => publish::run(bus, arguments).await,
            Command::Sub(arguments) => subscribe::run(bus, arguments).await,
            Command::Monitor(arguments) => monitor::run(bus, arguments).await,
            Command::Request(arguments) => request::run(bus, arguments).await,
            Command::Reply(arguments) => reply::run(bus, arguments).await,
            Command::Status(arguments) => look::status(bus, arguments).await,
            Command::Instances(arguments) => look::instances(bus, arguments).await,
            Command::Subscriptions(arguments) => look::subscriptions(bus, arguments).await,
            Command::Topics(arguments) => look::topics(bus, arguments).await,
            Command::Users(arguments) => look::users(bus, arguments).await,
            Command::Metrics(arguments) => metrics::run(bus, arguments).await,
            Command::Top(arguments) => top::run(bus, arguments).await,
            Command::Disconnect(arguments) => orders::disconnect(bus, arguments).await,
            Command::Reload(arguments) => orders::reload(bus, arguments).await,
            Command::Log(arguments) => orders::log(bus, arguments).await,
            Command::Drain(arguments) => orders::drain(bus, arguments).await,
            Command::Policy { question: Policy::Check(arguments) } => policy::check(bus, arguments).await,
            Command::Doctor(doctor) => doctor::run(bus, doctor).await,
            Command::Scan(scan) => transport::scan::run(bus, arguments.bus_flag(), scan).await,
            Command::Demo => demo::run().await,
            Command::Bench { work } => bench::run(arguments.bus_flag(), work).await,
            Command::BenchPart { .. } | Command::Tether { .. } => Ok(()),
            Command::Completions(_) | Command::Complete(_) | Command::Man(_) => Ok(()),
        }
    })
}

fn write_manual(directory: &Path) -> Result<(), Failure> {
    let written = pipebus_manual::write_pages(Arguments::command(), "1", "pipebusd(8), pipebus.toml(5)", directory);
    written.map_err(|error| Failure::system(format!("write manual pages to {}", directory.display()), error))
}
