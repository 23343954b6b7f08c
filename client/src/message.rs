//! Messages as they arrive, and who sent them.

use std::sync::Arc;

use bytes::Bytes;
use pipebus_proto::control::Identity;
use pipebus_proto::frame::Metadata;
use pipebus_proto::topic::{InstanceId, Topic};
use pipebus_proto::wire::{decode_metadata, decode_value};
use serde::de::DeserializeOwned;

use crate::error::Result;

/// A message.
///
/// The payload is a slice of what was read from the pipe, without a copy: as long as one message of a batch is kept,
/// the batch's memory is, up to 256 KiB. To keep a small message for long, keep [`Message::detached`].
#[derive(Clone, Debug)]
pub struct Message {
    pub(crate) origin: Arc<Origin>,
    /// The sender's count of its messages, on all topics together; it rises, with gaps where messages went elsewhere.
    pub sequence: u64,
    /// What was published.
    pub payload: Bytes,
    /// In a box, so that messages without are small.
    pub(crate) metadata: Option<Box<Bytes>>,
}

/// What the messages of one sender on one topic have in common, kept once for all of them.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) topic: Topic,
    pub(crate) sender: Arc<Sender>,
}

/// A client that sends, or the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Its number on this bus, never used again while the broker runs.
    pub id: InstanceId,
    /// Who the operating system says it is; a client can't lie about it.
    pub identity: Identity,
    /// What it calls itself; a client can say anything here.
    pub name: String,
}

impl Sender {
    /// The user's number, on systems that have them.
    pub fn uid(&self) -> Option<u32> {
        match self.identity {
            Identity::Unix { uid } => Some(uid),
            Identity::Windows { .. } => None,
        }
    }
}

impl Message {
    /// What it was published under.
    pub fn topic(&self) -> &Topic {
        &self.origin.topic
    }

    /// Who published it.
    pub fn sender(&self) -> &Arc<Sender> {
        &self.origin.sender
    }

    /// The headers that the sender added, in its order.
    ///
    /// # Errors
    /// The sender put something else there; the broker does not look.
    pub fn headers(&self) -> Result<Vec<(String, String)>> {
        Ok(self.metadata()?.headers)
    }

    /// The value that was published with [`Client::publish_as`](crate::Client::publish_as).
    ///
    /// # Errors
    /// The payload is no such value.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(decode_value(&self.payload)?)
    }

    /// The value that was published as JSON.
    ///
    /// # Errors
    /// The payload is no JSON, or not of that type.
    #[cfg(feature = "json")]
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.payload).map_err(|error| crate::Error::Json(error.to_string()))
    }

    /// A copy that shares no memory with other messages.
    #[must_use]
    pub fn detached(&self) -> Message {
        Message {
            payload: Bytes::copy_from_slice(&self.payload),
            metadata: self.metadata.as_ref().map(|metadata| Box::new(Bytes::copy_from_slice(metadata))),
            ..self.clone()
        }
    }

    /// The same, about another topic.
    pub(crate) fn about(self, topic: Topic) -> Message {
        let sender = self.origin.sender.clone();
        Message { origin: Arc::new(Origin { topic, sender }), ..self }
    }

    pub(crate) fn metadata(&self) -> Result<Metadata> {
        metadata_of(self.metadata.as_ref().map_or(&[], |metadata| metadata))
    }
}

pub(crate) fn metadata_of(bytes: &[u8]) -> Result<Metadata> {
    if bytes.is_empty() {
        return Ok(Metadata::default());
    }
    decode_metadata(bytes).map_err(|error| crate::Error::Protocol(error.to_string()))
}
