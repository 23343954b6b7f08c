//! Counters: what has passed an instance, and the broker as a whole; and how often what has happened to clients.

use std::sync::atomic::{AtomicU64, Ordering};

use pipebus_proto::control::{Failure, Farewell, Reason};

/// A count that many tasks add to. Counts order nothing else, so their order does not matter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts one more, and returns how many there are.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts of things that are of a few kinds.
#[derive(Debug)]
pub(crate) struct ByKind<K, const N: usize>([(K, Counter); N]);

impl<K: Copy + PartialEq, const N: usize> ByKind<K, N> {
    fn of(kinds: [K; N]) -> ByKind<K, N> {
        ByKind(kinds.map(|kind| (kind, Counter::default())))
    }

    /// Counts one more.
    pub(crate) fn count(&self, kind: K) {
        self.0.iter().filter(|(known, _)| *known == kind).for_each(|(_, counter)| counter.add(1));
    }

    pub(crate) fn read(&self) -> impl Iterator<Item = (K, u64)> {
        self.0.iter().map(|(kind, counter)| (*kind, counter.read()))
    }
}

/// How often what has happened to clients, since the broker started.
#[derive(Debug)]
pub(crate) struct Tally {
    /// They were let in.
    pub(crate) connected: Counter,
    /// They were not.
    pub(crate) turned_away: ByKind<Reason, { Reason::ALL.len() }>,
    /// Those who were let in are no more.
    pub(crate) ended: ByKind<Farewell, { Farewell::ALL.len() }>,
    /// They were refused something.
    pub(crate) refused: ByKind<Reason, { Reason::ALL.len() }>,
    /// They knocked, and that led nowhere.
    pub(crate) unfit_knocks: Counter,
    /// What they asked went to a server, or to the broker.
    pub(crate) requests: Counter,
    /// They were told that nobody will answer.
    pub(crate) unanswered: ByKind<Failure, { Failure::ALL.len() }>,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            connected: Counter::default(),
            turned_away: ByKind::of(Reason::ALL),
            ended: ByKind::of(Farewell::ALL),
            refused: ByKind::of(Reason::ALL),
            unfit_knocks: Counter::default(),
            requests: Counter::default(),
            unanswered: ByKind::of(Failure::ALL),
        }
    }
}

/// Messages, and the bytes of all frames, in both directions; and the control frames that clients send.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) messages_in: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) controls_in: Counter,
    pub(crate) messages_out: Counter,
    pub(crate) bytes_out: Counter,
}

impl Counters {
    /// What the client has said so far, messages and all else, and in how many bytes.
    pub(crate) fn sent(&self) -> (u64, u64) {
        (self.messages_in.read() + self.controls_in.read(), self.bytes_in.read())
    }

    /// Adds another's counts, for an instance that has ended.
    pub(crate) fn absorb(&self, other: &Counters) {
        self.messages_in.add(other.messages_in.read());
        self.bytes_in.add(other.bytes_in.read());
        self.controls_in.add(other.controls_in.read());
        self.messages_out.add(other.messages_out.read());
        self.bytes_out.add(other.bytes_out.read());
    }
}
