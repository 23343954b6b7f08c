//! Serving: requests as a stream, each to be answered once.

use std::sync::Arc;

use bytes::Bytes;
use pipebus_proto::frame::{Call, Flags, Kind};
use pipebus_proto::topic::TopicId;
use serde::Serialize;

use crate::client::Handle;
use crate::error::{Error, Result};
use crate::inbox::{Inbox, Item};
use crate::message::Message;
use crate::shared::sending::{Destination, Outbound};

/// The requests to the topics that match a pattern.
///
/// Where several clients serve a topic, they take turns. Dropped, it serves no more; who waits for an answer is told.
#[derive(Debug)]
pub struct Server {
    pub(crate) handle: Arc<Handle>,
    pub(crate) number: u32,
    pub(crate) inbox: Arc<Inbox>,
}

/// A request that waits for its answer.
///
/// Dropped without one, it is answered with a failure, so that nobody waits in vain.
#[derive(Debug)]
pub struct Request {
    /// What was asked, by whom.
    pub message: Message,
    handle: Arc<Handle>,
    topic: TopicId,
    call: Call,
    connection: u64,
    answered: bool,
}

impl Server {
    /// The next request; `None` once the client is closed.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Request> {
        loop {
            let item = std::future::poll_fn(|context| self.inbox.poll_pop(context)).await?;
            if let Some(request) = self.request(item) {
                return Some(request);
            }
        }
    }

    /// Why it ended, if not because the client was closed.
    pub fn error(&self) -> Option<Error> {
        self.inbox.error()
    }
}

impl Server {
    fn request(&self, item: Item) -> Option<Request> {
        let Item::Request { head, message, connection } = item else { return None };
        let call = message.metadata().ok()?.call?;
        let (handle, topic) = (self.handle.clone(), head.topic);
        Some(Request { message, handle, topic, call, connection, answered: false })
    }
}

impl Drop for Server {
    /// Whoever has asked and not been heard is told, by dropping the request.
    fn drop(&mut self) {
        self.handle.shared.forget_subscription(self.number);
        for item in self.inbox.drain() {
            drop(self.request(item));
        }
    }
}

impl Request {
    /// Answers.
    ///
    /// # Errors
    /// The connection was lost since the request came, or the answer is too large.
    pub async fn reply(self, payload: impl Into<Bytes>) -> Result<()> {
        self.answer(Flags::NONE, payload.into()).await
    }

    /// Answers with a value, for [`Message::decode`] at the other end.
    ///
    /// # Errors
    /// As [`Request::reply`]; or the value does not encode.
    pub async fn reply_as<T: Serialize + ?Sized>(self, value: &T) -> Result<()> {
        let payload = pipebus_proto::wire::encode_value(value)?;
        self.reply(payload).await
    }

    /// Answers that it failed, and why; the requester gets [`Error::Failed`].
    ///
    /// # Errors
    /// As [`Request::reply`].
    pub async fn fail(self, why: impl Into<String>) -> Result<()> {
        self.answer(Flags::FAILED, Bytes::from(why.into())).await
    }

    async fn answer(mut self, flags: Flags, payload: Bytes) -> Result<()> {
        let destination = Destination::Reply { topic: self.topic, connection: self.connection };
        let sent = self.handle.shared.send(destination, self.outbound(flags, &payload)).await;
        self.answered = true;
        if let Err(error @ Error::TooLarge { .. }) = &sent {
            // Who asked is not to wait in vain.
            let text = Bytes::from(error.to_string());
            self.handle.shared.reply_now(self.topic, self.connection, self.outbound(Flags::FAILED, &text));
        }
        sent
    }

    fn outbound<'a>(&self, flags: Flags, payload: &'a Bytes) -> Outbound<'a> {
        Outbound { kind: Kind::Reply, flags, headers: &[], call: Some(self.call), payload }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.answered {
            let text = Bytes::from_static(b"the server gave no answer");
            self.handle.shared.reply_now(self.topic, self.connection, self.outbound(Flags::FAILED, &text));
        }
    }
}
