//! Subscriptions: messages as a stream, with gaps where some were lost.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use pipebus_proto::pattern::Pattern;
use pipebus_proto::topic::Topic;

use crate::client::Handle;
use crate::error::Error;
use crate::inbox::{Inbox, Item};
use crate::message::Message;
use crate::run::Run;

/// What a subscription gets.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// A message.
    Message(Message),
    /// Messages were lost here.
    Gap(Gap),
}

/// What a subscription gets, with messages that arrived together still together.
#[derive(Clone, Debug)]
pub enum Arrival {
    /// Messages of one sender on one topic.
    Run(Run),
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
/// One that is not read holds up all else that comes to its client once 256 KiB wait for it, whatever its overflow:
/// read it, or give it a client of its own.
#[derive(Debug)]
pub struct Subscription {
    pub(crate) handle: Arc<Handle>,
    pub(crate) number: u32,
    pub(crate) pattern: Pattern,
    pub(crate) inbox: Arc<Inbox>,
    /// Messages that [`Subscription::next`] has begun to take.
    pub(crate) current: Option<Run>,
}

impl Subscription {
    /// The next message or gap; `None` at the end.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Delivery> {
        // Mostly there is one, and getting ready to wait costs as much as taking it.
        if let Some(message) = self.current.as_mut().and_then(Run::next) {
            return Some(Delivery::Message(message));
        }
        std::future::poll_fn(|context| self.poll_delivery(context)).await
    }

    /// The next messages that arrived together, or the next gap; `None` at the end. Sparing the work that
    /// [`Subscription::next`] does for each message, this is the way to take very many small ones.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (_bus, address) = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/example_bus.rs"));
    /// # use pipebus_client::{Arrival, Client};
    /// # let client = Client::connect(&address).await?;
    /// let mut subscription = client.subscribe("ticks").await?;
    /// for tick in 0..1000u32 {
    ///     client.publish("ticks", tick.to_le_bytes().to_vec()).await?;
    /// }
    /// let mut bytes = 0;
    /// while bytes < 4000 {
    ///     match subscription.next_run().await {
    ///         Some(Arrival::Run(run)) => bytes += run.iter().map(|message| message.payload.len()).sum::<usize>(),
    ///         Some(Arrival::Gap(gap)) => panic!("lost some: {gap:?}"),
    ///         None => break,
    ///     }
    /// }
    /// assert_eq!(bytes, 4000);
    /// # Ok(()) }
    /// ```
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn next_run(&mut self) -> Option<Arrival> {
        std::future::poll_fn(|context| self.poll_arrival(context)).await
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
            if let Some(message) = self.current.as_mut().and_then(Run::next) {
                return Poll::Ready(Some(Delivery::Message(message)));
            }
            self.current = None;
            match std::task::ready!(self.poll_arrival(context)) {
                Some(Arrival::Run(run)) => self.current = Some(run),
                Some(Arrival::Gap(gap)) => return Poll::Ready(Some(Delivery::Gap(gap))),
                None => return Poll::Ready(None),
            }
        }
    }

    fn poll_arrival(&mut self, context: &mut Context<'_>) -> Poll<Option<Arrival>> {
        if let Some(rest) = self.current.take()
            && rest.len() > 0
        {
            return Poll::Ready(Some(Arrival::Run(rest)));
        }
        loop {
            match std::task::ready!(self.inbox.poll_pop(context)) {
                Some(Item::Run(run)) => return Poll::Ready(Some(Arrival::Run(run))),
                Some(Item::Gap(gap)) => return Poll::Ready(Some(Arrival::Gap(gap))),
                // Requests go to servers.
                Some(Item::Request { .. }) => {}
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
