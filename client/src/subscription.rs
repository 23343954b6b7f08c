//! Subscriptions: messages as a stream, with gaps where some were lost.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use pipebus_proto::pattern::Pattern;
use pipebus_proto::splitter::Frames;
use pipebus_proto::topic::Topic;

use crate::client::Handle;
use crate::error::Error;
use crate::inbox::{self, Inbox, Item};
use crate::message::{Message, Sender};

/// What a subscription gets.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// A message.
    Message(Message),
    /// Messages were lost here.
    Gap(Gap),
}

/// A loss, where in the stream it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// How many messages were lost, if that is known.
    pub messages: Option<u64>,
    /// On which topic, if on one.
    pub topic: Option<Topic>,
    /// Why.
    pub cause: GapCause,
}

/// Why messages were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapCause {
    /// This client was too slow, and its overflow policy dropped them. Counted for the client as a whole: where several
    /// of its subscriptions match the topic, each is told.
    Overflow,
    /// The connection to the broker was lost and made again: whatever was published in between is missing.
    Reconnected,
    /// Messages too large or too many at once to be put together here.
    Reassembly,
}

impl Gap {
    /// Whether `other`, right after this one, says the same again.
    pub(crate) fn absorbs(&self, other: &Gap) -> bool {
        self.cause == other.cause && self.topic == other.topic
    }

    pub(crate) fn absorb(&mut self, other: &Gap) {
        self.messages = self.messages.zip(other.messages).map(|(a, b)| a + b);
    }
}

/// The messages that match a pattern, as they come.
///
/// A [`Stream`] of [`Delivery`]; [`Subscription::next`] serves where streams are not wanted. Ends when the client is
/// closed, or the broker no longer lets it subscribe after a reconnection; see [`Subscription::error`]. Dropped, it is
/// unsubscribed.
///
/// One that is not read holds up all else that comes to its client once 256 KiB wait for it, whatever its overflow: read
/// it, or give it a client of its own.
#[derive(Debug)]
pub struct Subscription {
    pub(crate) handle: Arc<Handle>,
    pub(crate) number: u32,
    pub(crate) pattern: Pattern,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) current: Option<Current>,
}

/// The run of messages that is being taken.
#[derive(Debug)]
pub(crate) struct Current {
    frames: Frames,
    topic: Topic,
    sender: Arc<Sender>,
}

impl Subscription {
    /// The next message or gap; `None` at the end.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Delivery> {
        std::future::poll_fn(|context| self.poll_delivery(context)).await
    }

    /// The pattern.
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// Why the stream ended, if not because the client was closed.
    pub fn error(&self) -> Option<Error> {
        self.inbox.error()
    }

    /// Ends the subscription and waits until the broker has confirmed it.
    ///
    /// # Errors
    /// The connection is lost, in which case the subscription has ended as well.
    pub async fn unsubscribe(self) -> crate::Result<()> {
        self.handle.shared.unsubscribe(self.number).await
    }

    fn poll_delivery(&mut self, context: &mut Context<'_>) -> Poll<Option<Delivery>> {
        loop {
            if let Some(current) = &mut self.current {
                if let Some(frame) = current.frames.next() {
                    let message = inbox::message(&frame.head, &frame.body, &current.topic, &current.sender);
                    return Poll::Ready(Some(Delivery::Message(message)));
                }
                self.current = None;
            }
            match std::task::ready!(self.inbox.poll_pop(context)) {
                Some(Item::Frames { frames, topic, sender, .. }) => {
                    self.current = Some(Current { frames, topic, sender });
                }
                Some(Item::Whole { message, .. }) => return Poll::Ready(Some(Delivery::Message(message))),
                Some(Item::Gap(gap)) => return Poll::Ready(Some(Delivery::Gap(gap))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl Stream for Subscription {
    type Item = Delivery;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.poll_delivery(context)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.handle.shared.forget_subscription(self.number);
    }
}
