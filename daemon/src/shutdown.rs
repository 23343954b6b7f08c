//! Shutdown: how the broker ends in steps that lose nothing that can be kept.
//!
//! First nobody new is let in and every reader takes what its client has written by now; when all readers are done,
//! every writer writes what waits and says goodbye; then the broker ends. Each step has a deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::{Notify, mpsc};

/// How far the shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Not begun.
    Running,
    /// Clients are asked to end, and readers finish.
    LastCall,
    /// Writers finish.
    Closing,
}

/// Where the shutdown is, and a bell for those who wait for its next phase. A watch channel would do, but to look at it
/// takes a lock, and every instance looks whenever it wakes.
#[derive(Debug)]
struct Course {
    phase: AtomicU8,
    bell: Notify,
}

impl Course {
    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
        self.bell.notify_waiters();
    }
}

/// One instance's view of the shutdown.
#[derive(Clone, Debug)]
pub(crate) struct Shutdown {
    course: Arc<Course>,
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
    pub(crate) async fn reached(&self, phase: Phase) {
        loop {
            // Rung from now on, it is heard.
            let bell = self.course.bell.notified();
            if self.has_reached(phase) {
                return;
            }
            bell.await;
        }
    }

    /// Whether the shutdown has come as far as `phase`. When it enters one, the instances are woken to look.
    pub(crate) fn has_reached(&self, phase: Phase) -> bool {
        self.course.phase.load(Ordering::SeqCst) >= phase as u8
    }

    /// This instance's reader has finished.
    pub(crate) fn reader_done(&mut self) {
        self.reading = None;
    }
}

/// Leads the instances through the shutdown.
#[derive(Debug)]
pub(crate) struct Conductor {
    view: Shutdown,
    readers: mpsc::Receiver<()>,
    instances: mpsc::Receiver<()>,
}

impl Conductor {
    pub(crate) fn new() -> Conductor {
        let course = Arc::new(Course { phase: AtomicU8::new(Phase::Running as u8), bell: Notify::new() });
        let (reading, readers) = mpsc::channel(1);
        let (living, instances) = mpsc::channel(1);
        let view = Shutdown { course, reading: Some(reading), _living: living };
        Conductor { view, readers, instances }
    }

    /// For one more instance.
    pub(crate) fn view(&self) -> Shutdown {
        self.view.clone()
    }

    /// Goes through the phases, each until all instances are done with it or `deadline` has passed; `wake` wakes those
    /// that have been let in.
    pub(crate) async fn conduct(self, deadline: tokio::time::Instant, wake: impl Fn()) {
        let Conductor { view, mut readers, mut instances } = self;
        let course = view.course.clone();
        drop(view);
        // Half of the time for the readers: one that waits for room must not keep the writers from saying goodbye.
        let half = tokio::time::Instant::now() + deadline.saturating_duration_since(tokio::time::Instant::now()) / 2;
        course.enter(Phase::LastCall);
        wake();
        let _ = tokio::time::timeout_at(half, readers.recv()).await;
        course.enter(Phase::Closing);
        wake();
        let _ = tokio::time::timeout_at(deadline, instances.recv()).await;
    }
}
