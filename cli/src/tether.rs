//! Tether: how a broker that this program has started ends with it, even if this program is killed.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::failure::Failure;

/// Becomes another program, which is asked to end when the thread that has started this process does.
pub(crate) fn run(command: &[OsString]) -> Result<(), Failure> {
    let [program, arguments @ ..] = command else { return Ok(()) };
    let tied = set_parent_process_death_signal(Some(Signal::TERM));
    tied.map_err(|error| Failure::system("tie a process to this one", error))?;
    let error = Command::new(program).args(arguments).exec();
    Err(Failure::system(format!("start {}", program.display()), error))
}
