//! Who supervises a broker on Unix: systemd, where that has started it, and whoever sends it signals.

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, warn};

use crate::pulse::Pulse;

/// Whoever has started this process. Nothing happens where that was not systemd.
#[derive(Clone, Debug, Default)]
pub struct Supervisor(());

impl Supervisor {
    /// What it sets where the configuration says nothing else: `section.key`, and the value.
    pub fn defaults(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Begins to listen to what this process is told.
    ///
    /// # Errors
    /// What the system says.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O.
    pub fn signals(&self) -> io::Result<(Ends, Reloads)> {
        let ends = Ends { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
        Ok((ends, Reloads { hangup: signal(SignalKind::hangup())? }))
    }

    /// The broker lets clients in. To end, it will need at most this time.
    pub fn ready(&self, _to_end: Duration) {
        notify(&[NotifyState::Ready]);
    }

    /// It is about to read its configuration. The time tells systemd that this is about its last wish to reload, and not
    /// about one before.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(error) => warn!(target: "pipebusd", %error, "systemd could not be notified"),
        }
    }

    /// It has read it.
    pub fn reloaded(&self) {
        notify(&[NotifyState::Ready]);
    }

    /// It ends.
    pub fn stopping(&self) {
        notify(&[NotifyState::Stopping]);
    }

    /// Tells systemd's watchdog, twice within its time, that the broker is not stuck. If it is, or if this thread is,
    /// systemd hears nothing, ends it and starts another.
    pub async fn feed_watchdog(self, pulse: Pulse) {
        let Some(interval) = sd_notify::watchdog_enabled() else { return };
        let part = (interval / 4).max(Duration::from_millis(1));
        let mut ticks = tokio::time::interval(part);
        loop {
            ticks.tick().await;
            // Asked again at once if not: one that is slow for a moment is not stuck.
            if pulse.beats(part).await {
                notify(&[NotifyState::Watchdog]);
            } else {
                error!(target: "pipebusd", "a thread is stuck; systemd will end this broker and start another, if it goes on");
            }
        }
    }
}

/// Never fatal: a message bus does not depend on its supervisor.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(target: "pipebusd", %error, "systemd could not be notified");
    }
}

/// Wishes that the broker end: SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    /// Waits for one.
    ///
    /// # Cancel safety
    /// None is lost.
    pub async fn wished(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Wishes that it read its configuration anew: SIGHUP.
#[derive(Debug)]
pub struct Reloads {
    hangup: Signal,
}

impl Reloads {
    /// Waits for one; `None`, if there will be none any more.
    ///
    /// # Cancel safety
    /// None is lost.
    pub async fn wished(&mut self) -> Option<()> {
        self.hangup.recv().await
    }
}
