//! Signals: what the user or the system wants of a command.

use rustix::process;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// The wish that the command end: SIGINT or SIGTERM. Nothing that comes after this is made is missed.
pub(crate) struct EndSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl EndSignals {
    pub(crate) fn listen() -> Result<EndSignals, Failure> {
        Ok(EndSignals { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Cancel safe.
    pub(crate) async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What becomes of the terminal: SIGHUP and SIGCONT.
pub(crate) struct TerminalSignals {
    hangup: Signal,
    continued: Signal,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TerminalSignal {
    /// It is no more.
    Gone,
    /// Somebody else has had it.
    Back,
}

impl TerminalSignals {
    pub(crate) fn listen() -> Result<TerminalSignals, Failure> {
        let continued = SignalKind::from_raw(process::Signal::CONT.as_raw());
        Ok(TerminalSignals { hangup: listen(SignalKind::hangup())?, continued: listen(continued)? })
    }

    /// Cancel safe.
    pub(crate) async fn received(&mut self) -> TerminalSignal {
        tokio::select! {
            biased;
            _ = self.hangup.recv() => TerminalSignal::Gone,
            _ = self.continued.recv() => TerminalSignal::Back,
        }
    }
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::system("listen for signals", error))
}
