//! Children: how programs that this one has started are asked to end, and how they end with it.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::Duration;

use pipebus_client::Client;
use pipebus_proto::admin::{DRAIN, DrainOrder};
use pipebus_windows::job::tie_children;
use tokio::process::{Child, Command};

use crate::failure::Failure;

/// A console's Ctrl-C is not for programs that are started with this (CREATE_NEW_PROCESS_GROUP).
const NEW_PROCESS_GROUP: u32 = 0x200;

/// How long a broker may take to let its own command in, and again to answer.
const ORDER_WAIT: Duration = Duration::from_secs(5);

/// What all children have in common: not even a kill of this process leaves one behind.
#[derive(Debug)]
pub(crate) struct Family;

impl Family {
    pub(crate) fn found() -> Result<Family, Failure> {
        tie_children().map_err(|error| Failure::system("tie programs to this one", error))?;
        Ok(Family)
    }

    /// What starts a broker.
    pub(crate) fn broker(&self, _pipebus: &Path, pipebusd: &Path) -> Command {
        Command::new(pipebusd)
    }
}

/// Puts it in a group of its own, so that Ctrl-C reaches this program alone, which then ends the others in order.
pub(crate) fn set_apart(command: &mut Command) {
    command.creation_flags(NEW_PROCESS_GROUP);
}

/// Ends a program. There is no way to ask one that need not have a console.
pub(crate) fn terminate(child: &mut Child) {
    // One that has just ended by itself can't be ended, and need not.
    let _ = child.start_kill();
}

/// Asks a broker to end, over its bus, and ends it if that does not work.
pub(crate) async fn terminate_broker(broker: &mut Child, bus: &str) {
    if ask_to_end(bus).await.is_err() {
        terminate(broker);
    }
}

async fn ask_to_end(bus: &str) -> Result<(), Failure> {
    let order = DrainOrder { timeout_ms: Some(0), cancel: false };
    let order = serde_json::to_vec(&order).map_err(|error| Failure::system("give an order", error))?;
    let client = Client::builder().name("pipebus").visit(true).timeout(ORDER_WAIT).reconnect(false);
    client.connect(bus).await?.request(DRAIN, order, ORDER_WAIT).await?;
    Ok(())
}

/// Nothing here needs it: programs are tied to the one that has started them without the help of a third.
pub(crate) fn tether(_: &[OsString]) -> Result<(), Failure> {
    let why = "there is no need for it on this system, where programs end with the one that has started them";
    Err(Failure::system("tie a process to this one", io::Error::new(io::ErrorKind::Unsupported, why)))
}

/// What a program says that ends with this code, for tests.
#[cfg(test)]
pub(crate) fn status_of(code: u8) -> std::process::ExitStatus {
    std::os::windows::process::ExitStatusExt::from_raw(u32::from(code))
}
