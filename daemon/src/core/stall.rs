//! StallClock: how long an instance has taken nothing of what there is for it.

use std::time::{Duration, Instant};

/// Runs while messages wait for the instance, and begins anew whenever it takes some bytes: a large message to a slow
/// reader is no stall. Told the time by its owner.
#[derive(Debug)]
pub(crate) struct StallClock {
    since: Instant,
    /// Whether `since` means anything: there are messages for the instance. Answers alone don't count, and nobody says
    /// when they come.
    running: bool,
    timeout: Duration,
    stalled: bool,
}

impl StallClock {
    pub(crate) fn new(timeout: Duration, now: Instant) -> StallClock {
        StallClock { since: now, running: false, timeout, stalled: false }
    }

    /// There is something for the instance; `anew` if there was nothing before.
    pub(crate) fn run(&mut self, anew: bool, now: Instant) {
        if anew || !self.running {
            self.since = now;
            self.running = true;
        }
    }

    /// The instance has taken something; `idle` if there is nothing more for it.
    pub(crate) fn progress(&mut self, idle: bool, now: Instant) {
        self.since = now;
        self.running &= !idle;
        self.stalled = false;
    }

    /// Begins anew, for time in which the instance could not have been served.
    pub(crate) fn forgive(&mut self, now: Instant) {
        self.since = now;
    }

    /// When the instance counts as stalled if it takes nothing until then.
    pub(crate) fn deadline(&self) -> Instant {
        self.since + self.timeout
    }

    /// Notices a stall, besides answering. It lasts until the instance moves.
    pub(crate) fn notice(&mut self, now: Instant) -> bool {
        self.stalled |= now >= self.deadline();
        self.stalled
    }

    /// Whether a stall has been noticed.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled
    }
}
