//! The wish of the user, or of the system, that a command end.

use std::time::Duration;

use tokio::task::AbortHandle;

use crate::failure::Failure;
use crate::system::signal::EndSignals;

/// How long a command that was asked to end may take before it is ended, wherever it hangs.
const GRACE: Duration = Duration::from_secs(1);

/// Listens from when it is made; nothing that comes later is missed.
pub(crate) struct Interrupt(EndSignals);

impl Interrupt {
    pub(crate) fn listen() -> Result<Interrupt, Failure> {
        EndSignals::listen().map(Interrupt)
    }

    /// Cancel safe.
    pub(crate) async fn received(&mut self) {
        self.0.received().await;
    }
}

/// Ends the program with success some time after an interrupt, unless this is dropped before: for while the main thread
/// may be blocked because nobody reads what it writes.
pub(crate) struct LastResort(AbortHandle);

impl LastResort {
    pub(crate) fn arm() -> Result<LastResort, Failure> {
        let mut interrupt = Interrupt::listen()?;
        let task = tokio::spawn(async move {
            interrupt.received().await;
            tokio::time::sleep(GRACE).await;
            std::process::exit(0);
        });
        Ok(LastResort(task.abort_handle()))
    }
}

impl Drop for LastResort {
    fn drop(&mut self) {
        self.0.abort();
    }
}
