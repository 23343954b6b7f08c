//! Children: how programs that this one has started are asked to end, and how they end with it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process;

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::process::{Child, Command};

use crate::failure::Failure;

/// What all children have in common. Dropped, it does nothing to them.
#[derive(Debug)]
pub(crate) struct Family;

impl Family {
    pub(crate) fn found() -> Result<Family, Failure> {
        Ok(Family)
    }

    /// What starts a broker that not even a kill of this process leaves behind.
    pub(crate) fn broker(&self, pipebus: &Path, pipebusd: &Path) -> Command {
        let mut command = Command::new(pipebus);
        command.args(["tether", "--"]).arg(pipebusd);
        command
    }
}

/// Puts it in a group of its own, so that Ctrl-C reaches this program alone, which then ends the others in order.
pub(crate) fn set_apart(command: &mut Command) {
    command.process_group(0);
}

/// Asks a program to end.
pub(crate) fn terminate(child: &mut Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // One that has just ended by itself can't be told, and need not.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Asks a broker to end, for which it needs not be asked over its bus.
pub(crate) async fn terminate_broker(broker: &mut Child, _: &str) {
    terminate(broker);
}

/// Becomes another program, which is asked to end when the thread that has started this process does.
pub(crate) fn tether(command: &[OsString]) -> Result<(), Failure> {
    let [program, arguments @ ..] = command else { return Ok(()) };
    let tied = set_parent_process_death_signal(Some(Signal::TERM));
    tied.map_err(|error| Failure::system("tie a process to this one", error))?;
    let error = process::Command::new(program).args(arguments).exec();
    Err(Failure::system(format!("start {}", program.display()), error))
}

/// What a program says that ends with this code, for tests.
#[cfg(test)]
pub(crate) fn status_of(code: u8) -> process::ExitStatus {
    std::os::unix::process::ExitStatusExt::from_raw(i32::from(code) << 8)
}
