//! A bus of a command's own: its directory, which goes with it.

use std::path::Path;

use tempfile::TempDir;

use crate::failure::Failure;
use crate::stage::Stage;

/// Where it is. Dropped, it is gone.
#[derive(Debug)]
pub(crate) struct TemporaryBus {
    directory: TempDir,
}

impl TemporaryBus {
    /// A place for the bus of a command.
    pub(crate) fn of(command: &str) -> Result<TemporaryBus, Failure> {
        let directory = tempfile::Builder::new().prefix(&format!("pipebus-{command}.")).tempdir();
        Ok(TemporaryBus { directory: directory.map_err(cannot_make)? })
    }

    pub(crate) fn address(&self) -> String {
        self.directory.path().join("bus").display().to_string()
    }

    /// Removes what is left of it.
    pub(crate) fn close(self) -> Result<(), Failure> {
        self.directory.close().map_err(|error| Failure::system("remove the temporary directory", error))
    }
}

/// A directory beside the stage's bus; gone at the latest with the stage.
pub(super) fn scratch(stage: &Stage) -> Result<TempDir, Failure> {
    let bus = stage.bus();
    let beside = Path::new(&bus).parent().unwrap_or(Path::new("."));
    tempfile::tempdir_in(beside).map_err(cannot_make)
}

fn cannot_make(error: std::io::Error) -> Failure {
    Failure::system("make a temporary directory", error)
}
