//! Timing: the message that a client's queue times, and what it must tell of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pipebus_proto::frame::Kind;
use pipebus_proto::splitter::{Span, next_span};
use pipebus_proto::topic::InstanceId;
use pipebusd::core::latency::Latency;
use pipebusd::core::queue::Queue;

type Message = (InstanceId, u64);

#[derive(Default)]
pub(super) struct Timing {
    latency: Arc<Latency>,
    timed: Option<(Message, Instant)>,
    /// Messages that it has ceased to time: they must not come.
    forgotten: BTreeSet<Message>,
    /// How many it has told of, and how long they took together.
    told: (u64, Duration),
    /// What has been written, from the last frame that is not whole.
    written: BytesMut,
}

impl Timing {
    /// A span is about to come.
    pub(super) fn begin(&mut self, queue: &mut Queue, span: &Span, now: Instant) {
        self.note_forgotten(queue);
        queue.time(span, now, &self.latency);
        if self.timed.is_none() && span.part.ends() && span.kind != Kind::Record {
            self.timed = Some(((span.sender, span.last), now));
        }
    }

    /// So much has been written. The message is told of just when all of it has been.
    pub(super) fn check_written(&mut self, queue: &Queue, bytes: &[u8], now: Instant) {
        self.written.extend_from_slice(bytes);
        while let Some(span) = next_span(&mut self.written).unwrap() {
            if matches!(span.kind, Kind::Control | Kind::Record) || !span.part.ends() {
                continue;
            }
            for frame in span.iter() {
                let message = (frame.head.sender, frame.head.sequence);
                assert!(!self.forgotten.contains(&message), "{message:?} came and was not told of");
                if let Some((_, since)) = self.timed.take_if(|(timed, _)| *timed == message) {
                    self.told.0 += 1;
                    self.told.1 += now - since;
                }
            }
        }
        let told = self.latency.read();
        assert_eq!((told.count, told.sum), self.told);
        self.note_forgotten(queue);
    }

    /// Nothing waits and nobody is about to send: nothing is timed.
    pub(super) fn check_settled(&self, queue: &Queue) {
        assert!(!queue.is_timing(), "{:?} is timed for ever", self.timed);
    }

    fn note_forgotten(&mut self, queue: &Queue) {
        if !queue.is_timing() {
            self.forgotten.extend(self.timed.take().map(|(message, _)| message));
        }
    }
}
