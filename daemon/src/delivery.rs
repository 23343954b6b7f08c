//! Delivery: a span, or a large frame that is still in its publisher's pipe, to all who get it.
//!
//! Those whose pipe takes it get it at once, past their queues; the others as they have room.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pipebus_proto::control::{Identity, Overflow};
use pipebus_proto::splitter::Span;
use tokio::time::Instant;

use crate::core::queue::{Introductions, Pushed};
use crate::core::routes::Target;
use crate::loans::{Lent, Loan};
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
    /// Whose it is. Only the same user gets pages: whoever fills a pipe decides how it is read (pipe(7), O_DIRECT: a packet that
    /// is read in part is lost), and pages take that with them to where the frames of others follow.
    pub(crate) owner: &'a Identity,
}

/// A subscriber that did not take all of a large frame at once. Dropped, it gets what it lacks of a frame that it has the
/// beginning of as a copy: the publisher's reader may end while it waits.
pub(crate) struct Laggard<'a> {
    target: &'a Target<Arc<Outbox>>,
    large: Large<'a>,
    direct: Option<Direct<'a>>,
    taken: usize,
    source: Source,
    /// Lent for this frame, and not before.
    lent: Option<&'a Arc<Loan>>,
}

/// Where what a laggard lacks is.
enum Source {
    /// The whole rest of the frame is in the publisher's pipe, for others too.
    Shared,
    /// What it lacks comes next in the publisher's pipe.
    Own,
    /// What it lacks is in here.
    Scratch(Scratch),
}

impl Large<'_> {
    fn bytes(&self) -> usize {
        self.beginning.len() + self.in_pipe
    }

    /// What comes behind the first `taken` bytes; the pipe keeps it.
    fn peek(&self, taken: usize) -> Bytes {
        let in_pipe = match Scratch::with_part_of(self.pipe, 0, self.in_pipe) {
            Some(scratch) => {
                let read = relay::read_rest(scratch.pipe(), self.in_pipe);
                scratch.give_back(0);
                read
            }
            None => vec![0; self.in_pipe],
        };
        Bytes::from([self.beginning, &in_pipe].concat()).slice(taken..)
    }
}

impl Laggard<'_> {
    /// Moves to it what it lacks, as it has room, until then.
    async fn move_until(&mut self, until: Instant) {
        let Some(direct) = &self.direct else { return };
        let (writer, bytes) = (direct.writer(), self.large.bytes());
        match &self.source {
            Source::Scratch(scratch) => {
                relay::move_until(scratch.pipe(), writer, bytes, &mut self.taken, until).await;
            }
            _ => relay::move_until(self.large.pipe, writer, bytes, &mut self.taken, until).await,
        }
    }

    /// What it lacks, of which it has taken something.
    fn take_rest(&mut self) -> Bytes {
        let bytes = self.large.bytes() - self.taken;
        match std::mem::replace(&mut self.source, Source::Shared) {
            Source::Shared => self.large.peek(self.taken),
            Source::Own => relay::read_rest(self.large.pipe, bytes).into(),
            Source::Scratch(scratch) => {
                let rest = relay::read_rest(scratch.pipe(), bytes);
                scratch.give_back(0);
                rest.into()
            }
        }
    }

    /// Lets others write to it, behind the rest of the frame if it has the beginning.
    fn end(&mut self, rest: Bytes) {
        let Some(direct) = self.direct.take() else { return };
        // What it has got is a copy.
        if let Some(loan) = self.lent.filter(|_| self.taken <= self.large.beginning.len()) {
            self.target.to.loans.take_back(loan);
        }
        direct.end(self.taken, rest);
    }
}

impl Drop for Laggard<'_> {
    fn drop(&mut self) {
        if self.direct.is_some() {
            let rest = if self.taken > 0 { self.take_rest() } else { Bytes::new() };
            self.end(rest);
        }
    }
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
        let Large { span, beginning, pipe, in_pipe, loan, owner } = *large;
        let bytes = large.bytes();
        let mut laggards = Vec::new();
        let mut left = in_pipe;
        for (index, target) in self.targets.iter().enumerate() {
            let may = target.to.owner == *owner;
            let direct = if may { target.to.begin_direct(span, bytes, target.overflow) } else { None };
            let mut laggard = Laggard { target, large: *large, direct, taken: 0, source: Source::Shared, lent: None };
            let Some(direct) = &laggard.direct else {
                laggards.push(laggard);
                continue;
            };
            match loan.map(|loan| target.to.loans.lend(loan)) {
                Some(Lent::Refused) => {
                    laggard.end(Bytes::new());
                    laggards.push(laggard);
                    continue;
                }
                Some(Lent::Now) => laggard.lent = loan,
                Some(Lent::Before) | None => {}
            }
            laggard.taken = direct.write(beginning);
            if laggard.taken == beginning.len() {
                if laggards.is_empty() && index + 1 == self.targets.len() {
                    let moved = relay::move_to(pipe, direct.writer(), in_pipe);
                    laggard.taken += moved;
                    laggard.source = Source::Own;
                    left -= moved;
                } else {
                    laggard.taken += relay::share_with(pipe, direct.writer(), in_pipe);
                }
            }
            if laggard.taken == bytes {
                laggard.end(Bytes::new());
            } else {
                laggards.push(laggard);
            }
        }
        if laggards.is_empty() {
            relay::discard(pipe, left);
        }
        laggards
    }

    /// Gives the laggards the rest: as pages to those who soon have room, as a copy in their queues to the others. Then the
    /// frame is out of the publisher's pipe.
    ///
    /// # Cancel safety
    /// Cancelled, it leaves out those who have got nothing of the frame.
    pub(crate) async fn catch_up(mut self, large: &Large<'a>, laggards: Vec<Laggard<'a>>) {
        let Large { span, beginning, pipe, in_pipe, .. } = *large;
        let deadline = Instant::now() + PATIENCE;
        let alone = laggards.len() == 1;
        let mut others = Vec::new();
        for mut laggard in laggards {
            let Some(direct) = laggard.direct.as_ref().filter(|_| laggard.taken >= beginning.len()) else {
                others.push(laggard);
                continue;
            };
            relay::grow(direct.writer());
            if let (true, Source::Shared) = (alone, &laggard.source) {
                relay::discard(pipe, laggard.taken - beginning.len());
                laggard.source = Source::Own;
            } else if !alone {
                let Some(scratch) = Scratch::with_part_of(pipe, laggard.taken - beginning.len(), in_pipe) else {
                    others.push(laggard);
                    continue;
                };
                laggard.source = Source::Scratch(scratch);
            }
            // Only who makes its publishers wait is waited for.
            let until = if laggard.target.overflow == Overflow::Block { deadline } else { Instant::now() };
            laggard.move_until(until).await;
            if alone {
                return;
            }
        }
        if others.is_empty() {
            return relay::discard(pipe, in_pipe);
        }
        let frame = Bytes::from([beginning, &relay::read_rest(pipe, in_pipe)].concat());
        for mut laggard in others {
            if laggard.taken > 0 {
                laggard.end(frame.slice(laggard.taken..));
            } else {
                laggard.end(Bytes::new());
                self.push(laggard.target, Span { bytes: frame.clone(), ..span.clone() });
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
