//! Large frames: what was gathered goes to the subscribers' pipes as pages, without being read.
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
use super::gathered::Gathered;
use crate::core::routes::Target;
use crate::loans::{Lent, Loan};
use crate::outbox::{Direct, Outbox};
use crate::relay::{self, Scratch};

/// How long a publisher may be kept waiting, each time, so that its subscribers get pages instead of copies.
const PATIENCE: Duration = Duration::from_millis(5);

/// What was gathered, on its way.
#[derive(Clone, Copy)]
pub(crate) struct Large<'a> {
    pub(crate) gathered: &'a Gathered,
    pub(crate) loan: Option<&'a Arc<Loan>>,
    /// Whose it is. Only the same user gets pages: whoever fills a pipe decides how it is read (pipe(7), O_DIRECT: a
    /// packet that is read in part is lost), and pages take that with them to where the frames of others follow.
    pub(crate) owner: &'a Identity,
}

impl<'a> Large<'a> {
    /// The way of its pages past a subscriber's queue, if there is one now; and whether they have been lent with that.
    fn begin_direct(&self, target: &'a Target<Arc<Outbox>>) -> Option<(Direct<'a>, bool)> {
        if target.to.owner != *self.owner {
            return None;
        }
        let direct = target.to.begin_direct(&self.gathered.span, self.gathered.bytes(), target.overflow)?;
        match self.loan.map(|loan| target.to.loans.lend(loan)) {
            Some(Lent::Refused) => {
                direct.end(0, 0, Bytes::new());
                None
            }
            lent => Some((direct, lent == Some(Lent::Now))),
        }
    }
}

/// A subscriber that did not take all of it at once.
struct Laggard<'a> {
    target: &'a Target<Arc<Outbox>>,
    direct: Option<Direct<'a>>,
    /// Lent now, and not before.
    lent: bool,
    /// How many bytes it has taken.
    taken: usize,
}

/// Those who have not got all of it. Dropped, even in the middle of waiting, it ends what has been begun: nobody is left
/// with a part of a frame.
pub(crate) struct Laggards<'a> {
    large: Large<'a>,
    laggards: Vec<Laggard<'a>>,
    /// How many bytes are no longer in the scratch pipe: a laggard that is alone has them.
    moved: usize,
}

impl<'a> Delivery<'a> {
    /// Delivers large frames to all who take them at once. If that is all, their scratch pipe is then empty of them.
    pub(crate) fn deliver_large<'b>(&mut self, large: Large<'b>) -> Option<Laggards<'b>>
    where
        'a: 'b,
    {
        let (pipe, bytes) = (large.gathered.pipe(), large.gathered.bytes());
        let mut all = Laggards { large, laggards: Vec::new(), moved: 0 };
        for (index, target) in self.route.targets.iter().enumerate() {
            let Some((direct, lent)) = large.begin_direct(target) else {
                all.laggards.push(Laggard { target, direct: None, lent: false, taken: 0 });
                continue;
            };
            let last = index + 1 == self.route.targets.len();
            let taken = if last && all.laggards.is_empty() {
                all.moved = relay::move_to(pipe, direct.writer(), bytes);
                all.moved
            } else {
                relay::share_with(pipe, direct.writer(), bytes)
            };
            if taken == bytes {
                direct.end(large.gathered.span.messages(), bytes, Bytes::new());
            } else {
                all.laggards.push(Laggard { target, direct: Some(direct), lent, taken });
            }
        }
        if all.laggards.is_empty() {
            relay::discard(pipe, bytes - all.moved);
            return None;
        }
        Some(all)
    }

    /// Gives the laggards the rest: what does not fit somewhere stays in `waiting`, for [`Delivery::wait`]. The scratch
    /// pipe is empty of it then.
    pub(crate) async fn catch_up(&mut self, mut laggards: Laggards<'_>) {
        let deadline = Instant::now() + PATIENCE;
        for index in 0..laggards.laggards.len() {
            laggards.follow(index, deadline).await;
        }
        for (target, span) in laggards.end() {
            self.push(target, span);
        }
    }
}

impl<'a> Laggards<'a> {
    /// Moves pages to a laggard as it takes them.
    async fn follow(&mut self, index: usize, deadline: Instant) {
        let Laggards { large, laggards, moved } = self;
        let Gathered { span, .. } = large.gathered;
        let (pipe, bytes) = (large.gathered.pipe(), large.gathered.bytes());
        let alone = laggards.len() == 1;
        let Laggard { target, direct, lent, taken } = &mut laggards[index];
        // Only who makes its publishers wait is waited for.
        let until = if target.overflow == Overflow::Block { deadline } else { Instant::now() };
        if direct.is_none()
            && target.to.owner == *large.owner
            && target.to.is_idle_until(span, until).await
            && let Some((begun, lent_now)) = large.begin_direct(target)
        {
            *lent = lent_now;
            *direct = Some(begun);
        }
        let Some(direct) = direct else { return };
        relay::grow(direct.writer());
        let had = *taken;
        if alone {
            relay::discard(pipe, had - *moved);
            *moved = had;
            let count = |bytes| {
                *taken += bytes;
                *moved += bytes;
            };
            relay::move_until(pipe, direct.writer(), bytes - had, until, count).await;
        } else if let Some(scratch) = Scratch::with_part_of(pipe, had, bytes) {
            let count = |bytes| *taken += bytes;
            relay::move_until(scratch.pipe(), direct.writer(), bytes - had, until, count).await;
            scratch.give_back(bytes - *taken);
        }
    }

    /// Ends all that has been begun, with copies of what is missing, and empties the scratch pipe of it. Returns who is to
    /// get which frames behind.
    fn end(&mut self) -> Vec<(&'a Target<Arc<Outbox>>, Span)> {
        let Large { gathered, loan, .. } = self.large;
        let (frame_bytes, frames) = (gathered.frame_bytes(), gathered.span.frames as usize);
        let copies = self.copies();
        let copied = self.moved / frame_bytes;
        let mut behind = Vec::new();
        for Laggard { target, direct, lent, taken } in self.laggards.drain(..) {
            if let Some(loan) = loan.filter(|_| lent && taken == 0) {
                // All that it gets is a copy.
                target.to.loans.take_back(loan);
            }
            let (whole, begun) = (taken / frame_bytes, taken.div_ceil(frame_bytes));
            if let Some(direct) = direct {
                let rest = if whole < begun {
                    copies[whole - copied].slice(taken - self.moved.max(whole * frame_bytes)..)
                } else {
                    Bytes::new()
                };
                direct.end(gathered.messages_in(begun), taken, rest);
            }
            behind.extend(
                (begun..frames).map(|number| (target, gathered.frame(number, copies[number - copied].clone()))),
            );
        }
        behind
    }

    /// What is left in the scratch pipe, if somebody misses it: each frame in memory of its own, or one that waits for
    /// long would keep all of them. The first may have lost its beginning, which was moved and nobody misses.
    fn copies(&self) -> Vec<Bytes> {
        let gathered = self.large.gathered;
        let (pipe, bytes) = (gathered.pipe(), gathered.bytes());
        if self.laggards.iter().all(|laggard| laggard.taken == bytes) {
            relay::discard(pipe, if self.laggards.is_empty() { 0 } else { bytes - self.moved });
            return Vec::new();
        }
        let mut copies = Vec::new();
        let mut at = self.moved;
        while at < bytes {
            let end = (at + 1).next_multiple_of(gathered.frame_bytes());
            copies.push(Bytes::from(relay::read_rest(pipe, end - at)));
            at = end;
        }
        copies
    }
}

impl Drop for Laggards<'_> {
    fn drop(&mut self) {
        // Whose way has not begun goes without: its publisher is no more.
        let _ = self.end();
    }
}
