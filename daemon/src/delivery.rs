//! Delivery: a span, or a large frame that is still in its publisher's pipe, to all who get it.
//!
//! Those whose pipe takes it get it at once, past their queues; the others as they have room.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pipebus_proto::control::Overflow;
use pipebus_proto::splitter::Span;
use tokio::time::Instant;

use crate::core::queue::{Introductions, Pushed};
use crate::core::routes::Target;
use crate::loans::Loan;
use crate::outbox::{Direct, Outbox};
use crate::relay::{self, Scratch};
use crate::transport::Reader;

/// From so many subscribers on, a span is copied into a pipe once and its pages are shared.
const SHARED_TARGETS_MIN: usize = 3;

/// A span that is shared so has at least so many bytes.
const SHARED_BYTES_MIN: usize = 8 * 1024;

/// How long a publisher of large messages may be kept waiting for room in its subscribers' pipes, before they get copies.
const PATIENCE: Duration = Duration::from_millis(2);

/// Who gets something, and what they have to know about it.
pub(crate) struct Delivery<'a> {
    pub(crate) targets: &'a [Target<Arc<Outbox>>],
    pub(crate) names: Introductions<'a>,
    /// What did not fit somewhere: empty before and after, kept for its memory.
    pub(crate) waiting: &'a mut Vec<(Arc<Outbox>, Span, Overflow)>,
}

/// A frame of which the beginning has been read and the rest is in its publisher's pipe.
#[derive(Clone, Copy)]
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
pub(crate) struct Laggard<'a> {
    target: &'a Target<Arc<Outbox>>,
    direct: Option<Direct<'a>>,
    taken: usize,
    /// How much of that is no longer in the publisher's pipe; nobody else needs it.
    moved: usize,
}

impl<'a> Delivery<'a> {
    /// Delivers a span. What does not fit somewhere stays in `waiting`, for [`Delivery::wait`].
    pub(crate) fn deliver(&mut self, span: Span) {
        let shares = self.targets.len() >= SHARED_TARGETS_MIN && span.bytes.len() >= SHARED_BYTES_MIN;
        match Some(&span.bytes).filter(|_| shares).and_then(|bytes| Scratch::of(bytes)) {
            Some(scratch) => self.share(&span, scratch),
            None => self.targets.iter().for_each(|target| self.push(target, span.clone())),
        }
    }

    fn share(&mut self, span: &Span, scratch: Scratch) {
        for target in self.targets {
            let Some(direct) = target.to.begin_direct(span, span.bytes.len(), target.overflow) else {
                self.push(target, span.clone());
                continue;
            };
            let taken = relay::share_with(scratch.pipe(), direct.writer(), span.bytes.len());
            if let Some(behind) = direct.end_within(span, taken) {
                self.push(target, behind);
            }
        }
        scratch.give_back(span.bytes.len());
    }

    /// Delivers a frame whose rest is in its publisher's pipe to all who take it at once. Returns those who did not; if there
    /// are none, it is out of the pipe.
    pub(crate) fn deliver_large(&mut self, large: &Large<'a>) -> Vec<Laggard<'a>> {
        let Large { span, beginning, pipe, in_pipe, loan } = *large;
        let bytes = beginning.len() + in_pipe;
        let mut laggards = Vec::new();
        let mut left = in_pipe;
        for (index, target) in self.targets.iter().enumerate() {
            let lent = loan.is_none_or(|loan| target.to.loans.lend(loan));
            let direct = if lent { target.to.begin_direct(span, bytes, target.overflow) } else { None };
            let Some(direct) = direct else {
                laggards.push(Laggard { target, direct: None, taken: 0, moved: 0 });
                continue;
            };
            let mut taken = direct.write(beginning);
            let mut moved = 0;
            if taken == beginning.len() {
                if laggards.is_empty() && index + 1 == self.targets.len() {
                    moved = relay::move_to(pipe, direct.writer(), in_pipe);
                    taken += moved;
                    left -= moved;
                } else {
                    taken += relay::share_with(pipe, direct.writer(), in_pipe);
                }
            }
            if taken == bytes {
                direct.end(bytes, Bytes::new());
            } else {
                laggards.push(Laggard { target, direct: Some(direct), taken, moved });
            }
        }
        if laggards.is_empty() {
            relay::discard(pipe, left);
        }
        laggards
    }

    /// Gives the laggards the rest: as pages to those who soon have room, as a copy in their queues to the others. Then the
    /// frame is out of the publisher's pipe.
    pub(crate) async fn catch_up(mut self, large: &Large<'a>, laggards: Vec<Laggard<'a>>) {
        let Large { span, beginning, pipe, in_pipe, .. } = *large;
        let bytes = beginning.len() + in_pipe;
        let deadline = Instant::now() + PATIENCE;
        let alone = laggards.len() == 1;
        let mut others = Vec::new();
        for Laggard { target, direct, taken, moved } in laggards {
            let direct = match direct {
                Some(direct) if taken >= beginning.len() => direct,
                other => {
                    others.push((target, other, taken));
                    continue;
                }
            };
            relay::grow(direct.writer());
            // Only who makes its publishers wait is waited for.
            let until = if target.overflow == Overflow::Block { deadline } else { Instant::now() };
            if alone {
                relay::discard(pipe, taken - beginning.len() - moved);
                let taken = taken + relay::move_until(pipe, direct.writer(), bytes - taken, until).await;
                let rest = relay::read_rest(pipe, bytes - taken);
                return direct.end(taken, rest.into());
            }
            let Some(scratch) = Scratch::with_part_of(pipe, taken - beginning.len(), in_pipe) else {
                others.push((target, Some(direct), taken));
                continue;
            };
            let taken = taken + relay::move_until(scratch.pipe(), direct.writer(), bytes - taken, until).await;
            let rest = relay::read_rest(scratch.pipe(), bytes - taken);
            direct.end(taken, rest.into());
            scratch.give_back(0);
        }
        if others.is_empty() {
            return relay::discard(pipe, in_pipe);
        }
        let frame = Bytes::from([beginning, &relay::read_rest(pipe, in_pipe)].concat());
        for (target, direct, taken) in others {
            match direct {
                Some(direct) if taken > 0 => direct.end(taken, frame.slice(taken..)),
                untouched => {
                    if let Some(direct) = untouched {
                        direct.end(0, Bytes::new());
                    }
                    self.push(target, Span { bytes: frame.clone(), ..span.clone() });
                }
            }
        }
        self.wait().await;
    }

    /// Waits until all that is waiting has been taken.
    pub(crate) async fn wait(self) {
        for (outbox, rest, overflow) in self.waiting.drain(..) {
            outbox.push_waiting(rest, overflow, self.names).await;
        }
    }

    fn push(&mut self, target: &Target<Arc<Outbox>>, span: Span) {
        if let Pushed::Full(rest) = target.to.push(span, target.overflow, self.names) {
            self.waiting.push((target.to.clone(), rest, target.overflow));
        }
    }
}
