//! Timed: a message of which is told how long it is on its way, through the queue or past it.
//!
//! One at a time, so that an instance that does nothing is small. Whoever sends it asks for it before it is pushed;
//! nothing else knows of it but the places where messages come, go and are dropped.

use std::sync::Arc;
use std::time::Instant;

use pipebus_proto::frame::Kind;
use pipebus_proto::splitter::Span;
use pipebus_proto::topic::InstanceId;

use super::{Entry, Queue};
use crate::core::latency::Latency;

/// A message that is timed: the last of the span it came in.
#[derive(Debug)]
pub(super) struct Timed {
    sender: InstanceId,
    sequence: u64,
    since: Instant,
    place: Place,
    latency: Arc<Latency>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Its sender has it still, or is writing it past the queue.
    Coming,
    Waits,
    /// So many bytes have to be written until it has been, too.
    InFlight(usize),
}

impl Timed {
    /// Whether the message ends with this span. A record of it is another thing.
    fn ends(&self, span: &Span) -> bool {
        (self.sender, self.sequence) == (span.sender, span.last) && is_timeable(span)
    }

    /// It has been written.
    fn end(&self, now: Instant) {
        self.latency.record(now.saturating_duration_since(self.since));
    }
}

/// Whether a message ends with this span.
fn is_timeable(span: &Span) -> bool {
    span.part.ends() && span.kind != Kind::Record
}

impl Queue {
    /// Times the last message of a span that is about to come, and that ends one, unless another is timed: how long it
    /// takes from `since`, when it was read, until it is written. One that is dropped is forgotten.
    pub fn time(&mut self, span: &Span, since: Instant, latency: &Arc<Latency>) {
        if self.timed.is_none() && is_timeable(span) {
            let (sender, sequence, latency) = (span.sender, span.last, latency.clone());
            self.timed = Some(Box::new(Timed { sender, sequence, since, place: Place::Coming, latency }));
        }
    }

    /// Whether a message is timed.
    pub fn is_timing(&self) -> bool {
        self.timed.is_some()
    }

    /// A span that ends with this message has been pushed; `waits` if some of it has to be pushed again.
    pub(super) fn timed_is_pushed(&mut self, sender: InstanceId, sequence: u64, waits: bool) {
        let Some(timed) = &mut self.timed else { return };
        if (timed.sender, timed.sequence) != (sender, sequence) || timed.place != Place::Coming {
            return;
        }
        match self.entries.back() {
            Some(Entry::Messages { span, .. }) if timed.ends(span) => timed.place = Place::Waits,
            _ if waits => {}
            // It was dropped.
            _ => self.timed = None,
        }
    }

    /// A span has been taken, after so many bytes.
    pub(super) fn timed_is_taken(&mut self, span: &Span, bytes_before: usize) {
        if let Some(timed) = self.timed.as_mut().filter(|timed| timed.ends(span)) {
            timed.place = Place::InFlight(self.in_flight + bytes_before + span.bytes.len());
        }
    }

    /// So many bytes have been written of what is in flight.
    pub(super) fn timed_is_written(&mut self, bytes: usize, now: Instant) {
        let Some(timed) = &mut self.timed else { return };
        let Place::InFlight(left) = timed.place else { return };
        if bytes < left {
            timed.place = Place::InFlight(left - bytes);
            return;
        }
        timed.end(now);
        self.timed = None;
    }

    /// All of a span has been written past the queue, but for so many bytes that come first now.
    pub(super) fn timed_is_past(&mut self, span: &Span, rest: usize, now: Instant) {
        if let Some(timed) = self.timed.as_mut().filter(|timed| timed.ends(span)) {
            timed.place = Place::InFlight(rest);
            if rest == 0 {
                self.timed_is_written(0, now);
            }
        }
    }

    /// A span that waited was dropped.
    pub(super) fn timed_is_dropped(&mut self, span: &Span) {
        self.timed.take_if(|timed| timed.ends(span));
    }

    /// A message of which fragments waited, or were to come, was dropped.
    pub(super) fn timed_is_withdrawn(&mut self, sender: InstanceId, sequence: u64) {
        self.timed.take_if(|timed| (timed.sender, timed.sequence) == (sender, sequence));
    }

    /// The sender sends nothing more.
    pub(super) fn timed_does_not_come(&mut self, sender: InstanceId) {
        self.timed.take_if(|timed| timed.sender == sender && timed.place == Place::Coming);
    }

    /// What waited was thrown away, but for what is in flight.
    pub(super) fn timed_is_cleared(&mut self) {
        self.timed.take_if(|timed| !matches!(timed.place, Place::InFlight(_)));
    }
}
