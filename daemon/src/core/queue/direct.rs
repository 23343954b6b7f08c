//! Direct: a span that is written at once, past the queue, because nothing waits in it.
//!
//! The queue still knows of it: while it is being written it is in flight, and what the client did not take comes
//! first.

use std::time::Instant;

use bytes::Bytes;
use pipebus_proto::frame::{Kind, Part};
use pipebus_proto::splitter::Span;

use super::{Entry, Queue, Unfinished};

impl Queue {
    /// Whether `span` may be written at once: nothing waits or is in flight, and the client knows what it needs to
    /// know. If so, its `bytes` are in flight until [`Queue::end_direct`].
    ///
    /// Of the span only its description counts: its bytes may be elsewhere.
    pub fn begin_direct(&mut self, span: &Span, bytes: usize) -> bool {
        if !self.entries.is_empty() || self.in_flight > 0 || !self.is_known(span) {
            return false;
        }
        self.in_flight = bytes;
        true
    }

    /// Whether the client knows what it needs to know about a span, so that [`Queue::begin_direct`] will let it pass
    /// when nothing waits any more.
    pub fn is_known(&self, span: &Span) -> bool {
        (span.kind == Kind::Reply || self.topics_told.contains(&span.topic))
            && self.senders_told.contains(&span.sender)
            && (span.part.begins() || self.passes(span))
    }

    /// Of the `bytes` that might be written at once so many have been. Where they end within a frame, `rest` is the
    /// rest of it, which comes before all else; whole frames that are left are pushed like any others.
    pub fn end_direct(&mut self, span: &Span, bytes: usize, written: usize, rest: Bytes, now: Instant) {
        // The account has not been told: mostly all is written at once. Unless the queue has changed in the meantime.
        // The client may have ended meanwhile.
        self.in_flight -= bytes.min(self.in_flight);
        if written == 0 {
            self.settle();
            return;
        }
        if written + rest.len() == bytes {
            self.timed_is_past(span, rest.len(), now);
        }
        match span.part {
            Part::First => {
                let message = Unfinished { kind: span.kind, topic: span.topic, sequence: span.first };
                self.unfinished.insert(span.sender, message);
            }
            Part::Last => drop(self.unfinished.remove(&span.sender)),
            Part::Whole | Part::Middle => {}
        }
        if !rest.is_empty() {
            self.stall.run(false, now);
            self.bytes += rest.len();
            self.entries.push_front(Entry::Rest(rest));
        }
        self.refusing = None;
        self.stall.progress(self.is_idle(), now);
        self.settle();
    }
}
