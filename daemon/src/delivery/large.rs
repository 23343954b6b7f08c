//! Large frames: their payload goes from the publisher's pipe to the subscribers' as pages, without being read.
//!
//! First to all who take it at once; then, for a short while, to those who make their publishers wait and have a little
//! room at a time. Who has not got all of it then gets the rest as a copy, through its queue.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pipebus_proto::control::{Identity, Overflow};
use pipebus_proto::splitter::Span;
use tokio::time::Instant;

use super::Delivery;
use crate::core::routes::Target;
use crate::loans::{Lent, Loan};
use crate::outbox::{Direct, Outbox};
use crate::relay::{self, Scratch};
use crate::transport::Reader;

/// How long a publisher may be kept waiting, for each frame, so that its subscribers get pages instead of copies.
const PATIENCE: Duration = Duration::from_millis(5);

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
    /// Whose it is. Only the same user gets pages: whoever fills a pipe decides how it is read (pipe(7), O_DIRECT: a
    /// packet that is read in part is lost), and pages take that with them to where the frames of others follow.
    pub(crate) owner: &'a Identity,
}

impl<'a> Large<'a> {
    fn bytes(&self) -> usize {
        self.beginning.len() + self.in_pipe
    }

    /// The way of its pages past a subscriber's queue, if there is one now; and whether they have been lent with that.
    fn begin_direct(&self, target: &'a Target<Arc<Outbox>>) -> Option<(Direct<'a>, bool)> {
        if target.to.owner != *self.owner {
            return None;
        }
        let direct = target.to.begin_direct(self.span, self.bytes(), target.overflow)?;
        match self.loan.map(|loan| target.to.loans.lend(loan)) {
            Some(Lent::Refused) => {
                direct.end(0, Bytes::new());
                None
            }
            lent => Some((direct, lent == Some(Lent::Now))),
        }
    }
}

/// A subscriber that did not take all of a large frame at once.
struct Laggard<'a> {
    target: &'a Target<Arc<Outbox>>,
    direct: Option<Direct<'a>>,
    /// Lent for this frame, and not before.
    lent: bool,
    /// How many bytes of the frame it has taken.
    taken: usize,
}

/// Those who have not got all of a frame. Dropped, even in the middle of waiting, it ends what has been begun: nobody
/// is left with a part of a frame.
pub(crate) struct Laggards<'a> {
    large: Large<'a>,
    laggards: Vec<Laggard<'a>>,
    /// How many bytes are no longer in the publisher's pipe: a laggard that is alone has them.
    moved: usize,
}

impl<'a> Delivery<'a> {
    /// Delivers a large frame to all who take it at once. If that is all, it is then out of the publisher's pipe.
    pub(crate) fn deliver_large(&mut self, large: Large<'a>) -> Option<Laggards<'a>> {
        let Large { beginning, pipe, in_pipe, .. } = large;
        let mut all = Laggards { large, laggards: Vec::new(), moved: 0 };
        for (index, target) in self.targets.iter().enumerate() {
            let Some((direct, lent)) = large.begin_direct(target) else {
                all.laggards.push(Laggard { target, direct: None, lent: false, taken: 0 });
                continue;
            };
            let mut taken = direct.write(beginning);
            if taken == beginning.len() {
                let last = index + 1 == self.targets.len();
                taken += if last && all.laggards.is_empty() {
                    all.moved = relay::move_to(pipe, direct.writer(), in_pipe);
                    all.moved
                } else {
                    relay::share_with(pipe, direct.writer(), in_pipe)
                };
            }
            if taken == large.bytes() {
                direct.end(taken, Bytes::new());
            } else {
                all.laggards.push(Laggard { target, direct: Some(direct), lent, taken });
            }
        }
        if all.laggards.is_empty() {
            relay::discard(pipe, in_pipe - all.moved);
            return None;
        }
        Some(all)
    }

    /// Gives the laggards the rest. Then the frame is out of the publisher's pipe.
    pub(crate) async fn catch_up(mut self, mut laggards: Laggards<'a>) {
        let deadline = Instant::now() + PATIENCE;
        for index in 0..laggards.laggards.len() {
            laggards.follow(index, deadline).await;
        }
        if let Some((frame, without)) = laggards.end() {
            let span = laggards.large.span;
            for target in without {
                self.push(target, Span { bytes: frame.clone(), ..span.clone() });
            }
        }
        self.wait().await;
    }
}

impl<'a> Laggards<'a> {
    /// Moves pages to a laggard as it takes them.
    async fn follow(&mut self, index: usize, deadline: Instant) {
        let Laggards { large, laggards, moved } = self;
        let Large { span, beginning, pipe, in_pipe, .. } = *large;
        let alone = laggards.len() == 1;
        let Laggard { target, direct, lent, taken } = &mut laggards[index];
        // Only who makes its publishers wait is waited for.
        let until = if target.overflow == Overflow::Block { deadline } else { Instant::now() };
        if direct.is_none()
            && target.to.owner == *large.owner
            && target.to.is_idle_until(span, until).await
            && let Some((begun, lent_now)) = large.begin_direct(target)
        {
            *taken = begun.write(beginning);
            *lent = lent_now;
            *direct = Some(begun);
        }
        let Some(direct) = direct.as_ref().filter(|_| *taken >= beginning.len()) else { return };
        relay::grow(direct.writer());
        let had = *taken - beginning.len();
        if alone {
            relay::discard(pipe, had - *moved);
            *moved = had;
            let count = |bytes| {
                *taken += bytes;
                *moved += bytes;
            };
            relay::move_until(pipe, direct.writer(), in_pipe - had, until, count).await;
        } else if let Some(scratch) = Scratch::with_part_of(pipe, had, in_pipe) {
            let count = |bytes| *taken += bytes;
            relay::move_until(scratch.pipe(), direct.writer(), in_pipe - had, until, count).await;
            scratch.give_back(large.bytes() - *taken);
        }
    }

    /// Ends all that has been begun, with copies of what is missing, and takes the frame out of the publisher's pipe.
    /// Returns the frame and those who have got nothing of it.
    fn end(&mut self) -> Option<(Bytes, Vec<&'a Target<Arc<Outbox>>>)> {
        let Large { beginning, pipe, in_pipe, .. } = self.large;
        let bytes = self.large.bytes();
        if self.laggards.iter().all(|laggard| laggard.taken == bytes) {
            let left = if self.laggards.is_empty() { 0 } else { in_pipe - self.moved };
            relay::discard(pipe, left);
            self.laggards.drain(..).filter_map(|laggard| laggard.direct).for_each(|d| d.end(bytes, Bytes::new()));
            return None;
        }
        // Without what was moved, which nobody misses.
        let frame = Bytes::from(relay::read_rest(beginning, pipe, in_pipe - self.moved));
        let mut without = Vec::new();
        for Laggard { target, direct, lent, taken } in self.laggards.drain(..) {
            if let Some(loan) = self.large.loan.filter(|_| lent && taken <= beginning.len()) {
                // All that it gets is a copy.
                target.to.loans.take_back(loan);
            }
            let rest = if taken > 0 { frame.slice(taken - self.moved..) } else { Bytes::new() };
            if let Some(direct) = direct {
                direct.end(taken, rest);
            }
            if taken == 0 {
                without.push(target);
            }
        }
        Some((frame, without))
    }
}

impl Drop for Laggards<'_> {
    fn drop(&mut self) {
        // Whose way has not begun goes without: its publisher is no more.
        let _ = self.end();
    }
}
