//! Signals: what the user or the system wants of a command.

use tokio::signal::windows::{
    CtrlBreak, CtrlC, CtrlClose, CtrlLogoff, CtrlShutdown, ctrl_break, ctrl_c, ctrl_close, ctrl_logoff, ctrl_shutdown,
};

use crate::failure::Failure;

/// The wish that the command end: Ctrl-C, Ctrl-Break, that its window is closed, that somebody logs off, or that the system shuts down. Nothing that
/// comes after this is made is missed.
pub(crate) struct EndSignals {
    interrupt: CtrlC,
    terminate: CtrlBreak,
    close: CtrlClose,
    logoff: CtrlLogoff,
    shutdown: CtrlShutdown,
}

impl EndSignals {
    pub(crate) fn listen() -> Result<EndSignals, Failure> {
        let cannot = |error| Failure::system("listen for signals", error);
        Ok(EndSignals {
            interrupt: ctrl_c().map_err(cannot)?,
            terminate: ctrl_break().map_err(cannot)?,
            close: ctrl_close().map_err(cannot)?,
            logoff: ctrl_logoff().map_err(cannot)?,
            shutdown: ctrl_shutdown().map_err(cannot)?,
        })
    }

    /// Cancel safe.
    pub(crate) async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.close.recv() => {}
            _ = self.logoff.recv() => {}
            _ = self.shutdown.recv() => {}
        }
    }
}

/// What becomes of the terminal.
pub(crate) struct TerminalSignals {
    close: CtrlClose,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TerminalSignal {
    /// It is no more.
    Gone,
    /// Somebody else has had it. No program gives its console to another here.
    #[expect(dead_code, reason = "whoever asks is told the same on all systems")]
    Back,
}

impl TerminalSignals {
    pub(crate) fn listen() -> Result<TerminalSignals, Failure> {
        let close = ctrl_close().map_err(|error| Failure::system("listen for signals", error))?;
        Ok(TerminalSignals { close })
    }

    /// Cancel safe.
    pub(crate) async fn received(&mut self) -> TerminalSignal {
        if self.close.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        TerminalSignal::Gone
    }
}
