//! Direct: writing to an instance's pipe past its queue.

use std::io::IoSlice;
use std::pin::pin;
use std::sync::MutexGuard;

use bytes::Bytes;
use pipebus_proto::control::Overflow;
use pipebus_proto::splitter::Span;
use tokio::time::{Instant, timeout_at};

use super::{Outbox, State};
use crate::transport::{Writer, try_write};

/// The pipe of an instance for which nothing waits. Nobody else writes to it until [`Direct::end`].
pub(crate) struct Direct<'a> {
    outbox: &'a Outbox,
    span: &'a Span,
    bytes: usize,
    writer: Writer,
}

impl Outbox {
    /// The way past the queue for a span with so many bytes, if there is one now; see
    /// [`Queue::begin_direct`](crate::core::queue::Queue::begin_direct).
    pub(crate) fn begin_direct<'a>(&'a self, span: &'a Span, bytes: usize, overflow: Overflow) -> Option<Direct<'a>> {
        let mut state = self.lock();
        // Those who wait come first.
        let waiting = overflow == Overflow::Block && state.waiting > 0;
        if waiting { None } else { self.begin(&mut state, span, bytes) }
    }

    /// Waits until nothing is in the queue, so that there is a way past it for a span; not longer than until then, and
    /// not at all if that makes no sense.
    ///
    /// # Cancel safety
    /// It may be cancelled and called again.
    pub(crate) async fn is_idle_until(&self, span: &Span, until: Instant) -> bool {
        loop {
            let mut room = pin!(self.room.notified());
            room.as_mut().enable();
            {
                let state = self.lock();
                let in_vain = state.queue.stalled() || state.waiting > 0 || !state.queue.is_known(span);
                if in_vain || state.farewell.is_some() {
                    return false;
                }
                if state.writer.is_some() && state.queue.is_empty() {
                    return true;
                }
            }
            if timeout_at(until, room).await.is_err() {
                return false;
            }
        }
    }

    pub(super) fn begin<'a>(
        &'a self,
        state: &mut MutexGuard<'_, State>,
        span: &'a Span,
        bytes: usize,
    ) -> Option<Direct<'a>> {
        if state.writer.is_none() || state.farewell.is_some() || !state.queue.begin_direct(span, bytes) {
            return None;
        }
        let writer = state.writer.take()?;
        Some(Direct { outbox: self, span, bytes, writer })
    }
}

impl Direct<'_> {
    /// The client's pipe.
    pub(crate) fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Writes what the pipe takes at once. Of an error the instance's own writer learns.
    pub(crate) fn write(&self, bytes: &[u8]) -> usize {
        try_write(&self.writer, &[IoSlice::new(bytes)]).unwrap_or(0)
    }

    /// So many bytes of the span have been written. Returns the frames behind, which are to be pushed.
    pub(crate) fn end_within(self, written: usize) -> Option<Span> {
        let span = self.span;
        if written == 0 {
            self.end(0, 0, Bytes::new());
            return Some(span.clone());
        }
        let (of_frame, behind) = span.clone().rest_from(written);
        let messages = span.messages() - behind.as_ref().map_or(0, Span::messages);
        self.end(messages, written, of_frame);
        behind
    }

    /// So many messages have been begun with so many bytes, and the rest of the last frame is to follow.
    pub(crate) fn end(self, messages: u64, written: usize, rest: Bytes) {
        let Direct { outbox, span, bytes, writer } = self;
        let mut state = outbox.lock();
        state.queue.end_direct(span, bytes, written, rest, Instant::now().into_std());
        if !state.ended {
            state.writer = Some(writer);
        }
        super::ring(state);
        outbox.counters.messages_out.add(messages);
        outbox.counters.bytes_out.add(written as u64);
        outbox.room.notify_waiters();
    }
}
