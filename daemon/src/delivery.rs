//! Delivery: a span, or a large frame that is still in its publisher's pipe, to all who get it.
//!
//! Those whose pipe takes it get it at once, past their queues; the others as they have room.

use std::sync::Arc;

use bytes::Bytes;
use pipebus_proto::control::Overflow;
use pipebus_proto::splitter::Span;

use crate::core::queue::{Introductions, Pushed};
use crate::core::routes::Target;
use crate::loans::Loan;
use crate::outbox::{Direct, Outbox};
use crate::relay;
use crate::transport::Reader;

/// From so many subscribers on, a span is copied into a pipe once and its pages are shared.
const SHARED_TARGETS_MIN: usize = 3;

/// A span that is shared so has at least so many bytes.
const SHARED_BYTES_MIN: usize = 8 * 1024;

/// Who gets something, and what they have to know about it.
pub(crate) struct Delivery<'a> {
    pub(crate) targets: &'a [Target<Arc<Outbox>>],
    pub(crate) names: Introductions<'a>,
    /// What did not fit somewhere: empty before and after, kept for its memory.
    pub(crate) waiting: &'a mut Vec<(Arc<Outbox>, Span, Overflow)>,
}

/// A frame of which the beginning has been read and the rest is in its publisher's pipe.
pub(crate) struct Large<'a> {
    /// Without its bytes.
    pub(crate) span: &'a Span,
    /// Its beginning: the head and perhaps some more.
    pub(crate) beginning: &'a [u8],
    pub(crate) pipe: &'a Reader,
    /// How many bytes of it are in the pipe.
    pub(crate) in_pipe: usize,
    pub(crate) loan: Option<&'a Arc<Loan>>,
}

/// A subscriber that did not take all of a large frame at once.
struct Laggard<'a> {
    target: &'a Target<Arc<Outbox>>,
    direct: Option<Direct<'a>>,
    taken: usize,
}

impl<'a> Delivery<'a> {
    /// Delivers a span; what does not fit somewhere stays in `waiting`, for [`Delivery::wait`].
    pub(crate) fn deliver(&mut self, span: Span) {
        let shares = self.targets.len() >= SHARED_TARGETS_MIN && span.bytes.len() >= SHARED_BYTES_MIN;
        if !shares || !relay::with_pipe_of(&span.bytes, |pipe| self.share(&span, pipe)) {
            for target in self.targets {
                self.push(target, span.clone());
            }
        }
    }

    /// Waits until all that is waiting has been taken.
    pub(crate) async fn wait(self) {
        if !self.waiting.is_empty() {
            Box::pin(self.wait_for_room()).await;
        }
    }

    /// What `pipe` holds is the span.
    fn share(&mut self, span: &Span, pipe: &relay::Pipe) {
        for target in self.targets {
            let Some(direct) = target.to.begin_direct(span, span.bytes.len(), target.overflow) else {
                self.push(target, span.clone());
                continue;
            };
            let taken = relay::share_with(pipe, direct.writer(), span.bytes.len());
            if let Some(behind) = direct.end_within(span, taken) {
                self.push(target, behind);
            }
        }
    }

    /// Delivers a frame whose rest is in its publisher's pipe, and takes it out of there; otherwise as
    /// [`Delivery::deliver`].
    pub(crate) fn deliver_large(&mut self, large: &Large<'_>) {
        let Large { span, beginning, pipe, in_pipe, loan } = *large;
        let bytes = beginning.len() + in_pipe;
        let mut laggards = Vec::new();
        // What is no longer in the pipe.
        let mut moved = 0;
        for (index, target) in self.targets.iter().enumerate() {
            let lent = loan.is_none_or(|loan| target.to.loans.lend(loan));
            let direct = if lent { target.to.begin_direct(span, bytes, target.overflow) } else { None };
            let Some(direct) = direct else {
                laggards.push(Laggard { target, direct: None, taken: 0 });
                continue;
            };
            let mut taken = direct.write(beginning);
            if taken == beginning.len() {
                if laggards.is_empty() && index + 1 == self.targets.len() {
                    moved = relay::move_to(pipe, direct.writer(), in_pipe);
                    taken += moved;
                } else {
                    taken += relay::share_with(pipe, direct.writer(), in_pipe);
                }
            }
            if taken == bytes {
                direct.end(bytes, Bytes::new());
            } else {
                relay::grow(direct.writer());
                laggards.push(Laggard { target, direct: Some(direct), taken });
            }
        }
        if laggards.is_empty() {
            relay::discard(pipe, in_pipe - moved);
            return;
        }
        // Without what was moved: nobody but the one who has it missed any of it.
        let frame = Bytes::from([beginning, &relay::read_rest(pipe, in_pipe - moved)].concat());
        for Laggard { target, direct, taken } in laggards {
            match direct {
                Some(direct) if taken > 0 => direct.end(taken, frame.slice(taken - moved..)),
                untouched => {
                    if let Some(direct) = untouched {
                        direct.end(0, Bytes::new());
                    }
                    self.push(target, Span { bytes: frame.clone(), ..span.clone() });
                }
            }
        }
    }

    fn push(&mut self, target: &Target<Arc<Outbox>>, span: Span) {
        if let Pushed::Full(rest) = target.to.push(span, target.overflow, self.names) {
            self.waiting.push((target.to.clone(), rest, target.overflow));
        }
    }

    async fn wait_for_room(self) {
        for (outbox, rest, overflow) in self.waiting.drain(..) {
            outbox.push_waiting(rest, overflow, self.names).await;
        }
    }
}
