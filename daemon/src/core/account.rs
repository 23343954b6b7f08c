//! Account: what each user holds of what all share, and how much more it may.
//!
//! Shared by all instances of a user, on all threads; numbers only. What several take at the same moment may exceed a
//! bound by as much as they take at once.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::core::limits::{Limit, Limits, Rate};

/// How much more than its rate somebody may send at once: what comes in this time.
const BURST: Duration = Duration::from_millis(100);

/// What all users hold together.
#[derive(Debug)]
pub struct Total {
    queued: AtomicUsize,
    queued_max: AtomicUsize,
    /// Users who have sent something lately: among them the rate of all is divided.
    active: AtomicUsize,
    reached: Tally,
}

/// What one user holds.
#[derive(Debug)]
pub struct Account {
    total: Arc<Total>,
    queued: AtomicUsize,
    queued_max: AtomicUsize,
    /// Whether there is any rate, so that mostly nobody has to look.
    has_rate: AtomicBool,
    pace: Mutex<Pace>,
    reached: Tally,
}

/// How often each limit has been reached.
#[derive(Debug, Default)]
struct Tally([AtomicU64; Limit::ALL.len()]);

impl Tally {
    fn count(&self, limit: Limit) {
        self.0[limit as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn take(&self) -> Vec<(Limit, u64)> {
        let take = |limit: &Limit| (*limit, self.0[*limit as usize].swap(0, Ordering::Relaxed));
        Limit::ALL.iter().map(take).filter(|(_, times)| *times > 0).collect()
    }
}

impl Total {
    /// Of a bus with these limits, on which nobody holds anything.
    pub fn new(limits: &Limits) -> Total {
        let queued_max = AtomicUsize::new(limits.queued_bytes_max);
        Total { queued: AtomicUsize::new(0), queued_max, active: AtomicUsize::new(0), reached: Tally::default() }
    }

    /// Obeys these limits from now on.
    pub fn set_limits(&self, limits: &Limits) {
        self.queued_max.store(limits.queued_bytes_max, Ordering::Relaxed);
    }

    /// Bytes that wait for all instances.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Counts that a limit was reached which is of the bus as a whole.
    pub fn count(&self, limit: Limit) {
        self.reached.count(limit);
    }

    /// How often limits were reached by nobody in particular, since the last call.
    pub fn take_reached(&self) -> Vec<(Limit, u64)> {
        self.reached.take()
    }

    /// So many users have sent something lately.
    pub fn set_active(&self, users: usize) {
        self.active.store(users, Ordering::Relaxed);
    }
}

impl Account {
    /// Of somebody who holds nothing.
    pub fn new(total: Arc<Total>, limits: &Limits, now: Instant) -> Account {
        let account = Account {
            total,
            queued: AtomicUsize::new(0),
            queued_max: AtomicUsize::new(0),
            has_rate: AtomicBool::new(false),
            pace: Mutex::new(Pace::new(now)),
            reached: Tally::default(),
        };
        account.set_limits(limits);
        account
    }

    /// Obeys these limits from now on.
    pub fn set_limits(&self, limits: &Limits) {
        self.queued_max.store(limits.queued_bytes_per_user_max, Ordering::Relaxed);
        let mut pace = self.pace();
        (pace.of_user, pace.of_all) = (limits.rate_per_user_max, limits.rate_max);
        let has_rate = [limits.rate_per_user_max, limits.rate_max].iter().any(|rate| *rate != Rate::default());
        self.has_rate.store(has_rate, Ordering::Relaxed);
    }

    /// How many bytes more may wait for the user's instances.
    ///
    /// No more than its own limit, and no more than then is left for all others together: so however many fill their
    /// queues, there is room for one more (A. K. Choudhury, E. L. Hahne, "Dynamic Queue Length Thresholds for
    /// Shared-Memory Packet Switches", 1998).
    pub fn room(&self) -> usize {
        let queued = self.queued();
        let own = self.queued_max.load(Ordering::Relaxed).saturating_sub(queued);
        let left = self.total.queued_max.load(Ordering::Relaxed).saturating_sub(self.total.queued());
        own.min(left.saturating_sub(queued) / 2)
    }

    /// Which limit leaves no more room.
    pub(crate) fn scarce(&self) -> Limit {
        let (own, held) = (self.queued_max.load(Ordering::Relaxed), self.queued());
        let all = self.total.queued_max.load(Ordering::Relaxed);
        // Alone, it may hold half of what there is for all; more than that is its own bound's to allow.
        if own.saturating_sub(held) > all.saturating_sub(self.total.queued()).saturating_sub(held) / 2 {
            Limit::QueuedBytes
        } else {
            Limit::QueuedBytesPerUser
        }
    }

    /// Bytes that wait for the user's instances.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// For one of the user's instances `after` bytes wait, where `before` did.
    pub(crate) fn charge_queued(&self, before: usize, after: usize) {
        for queued in [&self.queued, &self.total.queued] {
            if after > before {
                queued.fetch_add(after - before, Ordering::Relaxed);
            } else {
                queued.fetch_sub(before - after, Ordering::Relaxed);
            }
        }
    }

    /// Whether what the user sends has a rate.
    pub fn has_rate(&self) -> bool {
        self.has_rate.load(Ordering::Relaxed)
    }

    /// The user has sent so much. Returns how long none of its instances is to be read.
    pub fn charge_sent(&self, messages: u64, bytes: u64, now: Instant) -> Duration {
        let active = self.total.active.load(Ordering::Relaxed).max(1);
        let waits = self.pace().charge(messages, bytes, active as u64, now);
        for (limit, wait) in waits {
            if wait > Duration::ZERO {
                self.count(limit);
            }
        }
        waits.map(|(_, wait)| wait).into_iter().max().unwrap_or_default()
    }

    /// Whether it has sent anything since the last call.
    pub(crate) fn take_active(&self) -> bool {
        std::mem::take(&mut self.pace().active)
    }

    /// Whether it may send at its rate at once, so that nothing is owed if it is forgotten.
    pub(crate) fn owes_nothing(&self, now: Instant) -> bool {
        let pace = self.pace();
        pace.messages_until.max(pace.bytes_until) <= now
    }

    /// Counts that a limit was reached.
    pub fn count(&self, limit: Limit) {
        self.reached.count(limit);
    }

    /// How often limits were reached since the last call.
    pub(crate) fn take_reached(&self) -> Vec<(Limit, u64)> {
        self.reached.take()
    }

    fn pace(&self) -> std::sync::MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How fast somebody sends, by the generic cell rate algorithm (ITU-T I.371): of each kind, when all that has been sent
/// would have been sent at just the rate.
#[derive(Debug)]
struct Pace {
    of_user: Rate,
    of_all: Rate,
    messages_until: Instant,
    bytes_until: Instant,
    active: bool,
}

impl Pace {
    fn new(now: Instant) -> Pace {
        let (of_user, of_all) = (Rate::default(), Rate::default());
        Pace { of_user, of_all, messages_until: now, bytes_until: now, active: false }
    }

    /// How long to wait for the sake of messages, and of bytes, and of which limit.
    fn charge(&mut self, messages: u64, bytes: u64, active: u64, now: Instant) -> [(Limit, Duration); 2] {
        self.active = true;
        let (of_user, of_all) = (self.of_user, self.of_all);
        let share = |rate: Option<u64>| rate.map(|rate| (rate / active).max(1));
        let messages_rate = narrower(
            (Limit::MessagesPerSecond, of_user.messages),
            (Limit::MessagesPerSecondOfAll, share(of_all.messages)),
        );
        let bytes_rate =
            narrower((Limit::BytesPerSecond, of_user.bytes), (Limit::BytesPerSecondOfAll, share(of_all.bytes)));
        [
            (messages_rate.0, wait(&mut self.messages_until, messages, messages_rate.1, now)),
            (bytes_rate.0, wait(&mut self.bytes_until, bytes, bytes_rate.1, now)),
        ]
    }
}

/// Of two rates the one that counts.
fn narrower(one: (Limit, Option<u64>), other: (Limit, Option<u64>)) -> (Limit, Option<u64>) {
    let is_narrower = |other: u64| one.1.is_none_or(|one| other < one);
    if other.1.is_some_and(is_narrower) { other } else { one }
}

fn wait(until: &mut Instant, count: u64, per_second: Option<u64>, now: Instant) -> Duration {
    let Some(per_second) = per_second else { return Duration::ZERO };
    let nanoseconds = u128::from(count) * 1_000_000_000 / u128::from(per_second.max(1));
    *until = now.max(*until) + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX >> 1));
    let ahead = until.duration_since(now);
    if ahead > BURST { ahead } else { Duration::ZERO }
}

#[cfg(test)]
mod tests;
