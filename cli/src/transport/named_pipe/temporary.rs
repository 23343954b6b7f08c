//! A bus of a command's own.

use pipebus_proto::place::PIPES;

use crate::failure::Failure;

/// Where it is. A pipe goes with its broker.
#[derive(Debug)]
pub(crate) struct TemporaryBus {
    address: String,
}

impl TemporaryBus {
    /// A place for the bus of a command.
    pub(crate) fn of(command: &str) -> Result<TemporaryBus, Failure> {
        Ok(TemporaryBus { address: format!("{PIPES}pipebus-{command}-{}", std::process::id()) })
    }

    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    /// Nothing is left of it.
    pub(crate) fn close(self) -> Result<(), Failure> {
        Ok(())
    }
}
