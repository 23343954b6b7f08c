//! Shutdown: how the broker ends in steps that lose nothing that can be kept.
//!
//! First nobody new is let in and every reader takes what its client has written by now; when all readers are done,
//! every writer writes what waits and says goodbye; then the broker ends. Each step has a deadline.

use tokio::sync::{mpsc, watch};

/// How far the shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Not begun.
    Running,
    /// Readers finish.
    Draining,
    /// Writers finish.
    Closing,
}

/// One instance's view of the shutdown.
#[derive(Clone, Debug)]
pub(crate) struct Shutdown {
    phase: watch::Receiver<Phase>,
    /// Dropped when its reader is done; nothing is ever sent.
    reading: Option<mpsc::Sender<()>>,
    /// Dropped with the instance.
    _living: mpsc::Sender<()>,
}

impl Shutdown {
    /// Waits until the shutdown has come as far as `phase`.
    ///
    /// # Cancel safety
    /// It may be cancelled and called again.
    pub(crate) async fn reached(&mut self, phase: Phase) {
        // An error means that the conductor is gone, and with it the broker.
        let _ = self.phase.wait_for(|now| *now >= phase).await;
    }

    /// This instance's reader has finished.
    pub(crate) fn reader_done(&mut self) {
        self.reading = None;
    }
}

/// Leads the instances through the shutdown.
#[derive(Debug)]
pub(crate) struct Conductor {
    phase: watch::Sender<Phase>,
    view: Shutdown,
    readers: mpsc::Receiver<()>,
    instances: mpsc::Receiver<()>,
}

impl Conductor {
    pub(crate) fn new() -> Conductor {
        let (phase, watched) = watch::channel(Phase::Running);
        let (reading, readers) = mpsc::channel(1);
        let (living, instances) = mpsc::channel(1);
        let view = Shutdown { phase: watched, reading: Some(reading), _living: living };
        Conductor { phase, view, readers, instances }
    }

    /// For one more instance.
    pub(crate) fn view(&self) -> Shutdown {
        self.view.clone()
    }

    /// Goes through the phases, each until all instances are done with it or `deadline` has passed.
    pub(crate) async fn conduct(self, deadline: tokio::time::Instant) {
        let Conductor { phase, view, mut readers, mut instances } = self;
        drop(view);
        // Half of the time for the readers: one that waits for room must not keep the writers from saying goodbye.
        let half = tokio::time::Instant::now() + deadline.saturating_duration_since(tokio::time::Instant::now()) / 2;
        let _ = phase.send(Phase::Draining);
        let _ = tokio::time::timeout_at(half, readers.recv()).await;
        let _ = phase.send(Phase::Closing);
        let _ = tokio::time::timeout_at(deadline, instances.recv()).await;
    }
}
