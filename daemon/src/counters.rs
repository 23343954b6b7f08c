//! Counters: what has passed an instance, and the broker as a whole.

use std::sync::atomic::{AtomicU64, Ordering};

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
