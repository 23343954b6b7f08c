//! Delivery: a span to all who get it, at once to those whose pipe takes it, past their queues; to the others as they
//! have room.
//!
//! Large frames that are still in their publisher's pipe have a way of their own: [`gathered`], then [`large`];
//! and [`watched`], if somebody monitors them.

pub(crate) mod gathered;
pub(crate) mod large;
pub(crate) mod watched;

use std::sync::Arc;

use pipebus_proto::control::Overflow;
use pipebus_proto::splitter::Span;
use pipebus_proto::topic::InstanceId;

use crate::broker::Broker;
use crate::core::queue::{Introductions, Pushed};
use crate::core::records::Passage;
use crate::core::routes::{Route, Target};
use crate::outbox::Outbox;
use crate::relay::{self, Scratch};

/// From so many subscribers on, a span is copied into a pipe once and its pages are shared.
const SHARED_TARGETS_MIN: usize = 3;

/// A span that is shared so has at least so many bytes.
const SHARED_BYTES_MIN: usize = 8 * 1024;

/// Who gets something, and what they have to know about it.
pub(crate) struct Delivery<'a> {
    pub(crate) broker: &'a Broker,
    pub(crate) route: &'a Route<Arc<Outbox>>,
    pub(crate) names: Introductions<'a>,
    /// What did not fit somewhere: empty before and after, kept for its memory.
    pub(crate) waiting: &'a mut Vec<(Arc<Outbox>, Span, Overflow)>,
    /// How many messages were dropped for each who lost some; known only if somebody watches.
    pub(crate) dropped: Vec<u64>,
}

impl Delivery<'_> {
    /// Delivers a span. What does not fit somewhere stays in `waiting`, for [`Delivery::wait`].
    pub(crate) fn deliver(&mut self, span: &Span) {
        if self.route.watchers.is_empty() {
            return self.give(span);
        }
        let mut passage = Passage::begin(self.route.targets.len(), InstanceId::BROKER);
        self.give(span);
        self.end(&mut passage);
        self.broker.tell(self.route, self.names.sender, span.look(), &passage);
    }

    /// Notes what has become of a passage, before those wait who have to.
    pub(crate) fn end(&mut self, passage: &mut Passage) {
        passage.waiting = self.waiting.iter().map(|(_, rest, _)| rest.first).collect();
        passage.dropped = std::mem::take(&mut self.dropped);
    }

    fn give(&mut self, span: &Span) {
        let targets = &self.route.targets;
        let shares = targets.len() >= SHARED_TARGETS_MIN && span.bytes.len() >= SHARED_BYTES_MIN;
        match Some(&span.bytes).filter(|_| shares).and_then(|bytes| Scratch::of(bytes)) {
            Some(scratch) => self.share(span, scratch),
            None => targets.iter().for_each(|target| self.push(target, span.clone())),
        }
    }

    fn share(&mut self, span: &Span, scratch: Scratch) {
        for target in &self.route.targets {
            let Some(direct) = target.to.begin_direct(span, span.bytes.len(), target.overflow) else {
                self.push(target, span.clone());
                continue;
            };
            let taken = relay::share_with(scratch.pipe(), direct.writer(), span.bytes.len());
            if let Some(behind) = direct.end_within(taken) {
                self.push(target, behind);
            }
        }
        scratch.give_back(span.bytes.len());
    }

    /// Waits until all that is waiting has been taken.
    pub(crate) async fn wait(self) {
        for (outbox, rest, overflow) in self.waiting.drain(..) {
            outbox.push_waiting(rest, overflow, self.names).await;
        }
    }

    fn push(&mut self, target: &Target<Arc<Outbox>>, span: Span) {
        match target.to.push(span, target.overflow, self.names) {
            Pushed::Full(rest) => self.waiting.push((target.to.clone(), rest, target.overflow)),
            Pushed::Dropped { messages } if !self.route.watchers.is_empty() => self.dropped.push(messages),
            Pushed::Dropped { .. } | Pushed::Queued | Pushed::Disconnect => {}
        }
    }
}
