//! Runs: messages of one sender on one topic that arrived together.

use std::sync::Arc;

use bytes::Bytes;
use pipebus_proto::frame::{HEAD_BYTES, Head};
use pipebus_proto::splitter::Span;
use pipebus_proto::topic::Topic;
use pipebus_proto::wire::decode_checked_head;

use crate::error::Result;
use crate::message::{self, Message, Origin, Sender};

/// Messages of one sender on one topic that arrived together, in their order; from
/// [`Subscription::next_run`](crate::Subscription::next_run).
///
/// [`Run::iter`] lends each for a look, which costs next to nothing. As an iterator itself it gives messages that can
/// be kept.
#[derive(Clone, Debug)]
pub struct Run {
    origin: Arc<Origin>,
    /// Whole frames.
    frames: Bytes,
    /// Where the first frame begins that has not been taken.
    at: usize,
    /// How many have not been taken.
    messages: usize,
}

/// A message of a [`Run`], lent for a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageRef<'a> {
    /// The sender's count of its messages, on all topics together; it rises, with gaps where messages went elsewhere.
    pub sequence: u64,
    /// What was published.
    pub payload: &'a [u8],
    metadata: &'a [u8],
}

impl MessageRef<'_> {
    /// The headers that the sender added, in its order.
    ///
    /// # Errors
    /// The sender put something else there; the broker does not look.
    pub fn headers(&self) -> Result<Vec<(String, String)>> {
        Ok(message::metadata_of(self.metadata)?.headers)
    }
}

impl Run {
    pub(crate) fn new(origin: Arc<Origin>, span: &Span) -> Run {
        Run { origin, frames: span.bytes.clone(), at: 0, messages: span.frames as usize }
    }

    /// A message that was put together, as the frame that it would be if frames had no limit.
    pub(crate) fn whole(origin: Arc<Origin>, frame: Bytes) -> Run {
        Run { origin, frames: frame, at: 0, messages: 1 }
    }

    /// What the messages were published under.
    pub fn topic(&self) -> &Topic {
        &self.origin.topic
    }

    /// Who published them.
    pub fn sender(&self) -> &Arc<Sender> {
        &self.origin.sender
    }

    /// The messages that have not been taken, for a look.
    pub fn iter(&self) -> impl Iterator<Item = MessageRef<'_>> {
        let mut at = self.at;
        std::iter::from_fn(move || {
            let (head, end) = self.frame_at(at)?;
            let (metadata, payload) = self.frames[at + HEAD_BYTES..end].split_at(usize::from(head.metadata));
            at = end;
            Some(MessageRef { sequence: head.sequence, payload, metadata })
        })
    }

    /// Takes the next frame: its head and its body.
    pub(crate) fn next_frame(&mut self) -> Option<(Head, Bytes)> {
        let (head, end) = self.frame_at(self.at)?;
        let body = self.frames.slice(self.at + HEAD_BYTES..end);
        self.at = end;
        self.messages = self.messages.saturating_sub(1);
        Some((head, body))
    }

    /// The bytes that it keeps in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.frames.len()
    }

    /// The same in memory of its own, not shared with what was read together with it.
    pub(crate) fn detached(&self) -> Run {
        Run { frames: Bytes::copy_from_slice(&self.frames), ..self.clone() }
    }

    /// A frame's head and where the frame ends.
    #[inline]
    fn frame_at(&self, at: usize) -> Option<(Head, usize)> {
        let head = decode_checked_head(self.frames.get(at..)?)?;
        let end = at + head.frame_bytes();
        // So that nothing below can panic.
        (end <= self.frames.len() && u32::from(head.metadata) <= head.body).then_some((head, end))
    }
}

impl Iterator for Run {
    type Item = Message;

    #[inline]
    fn next(&mut self) -> Option<Message> {
        let (head, end) = self.frame_at(self.at)?;
        let body = self.at + HEAD_BYTES;
        let payload = body + usize::from(head.metadata);
        self.at = end;
        self.messages = self.messages.saturating_sub(1);
        Some(Message {
            origin: self.origin.clone(),
            sequence: head.sequence,
            payload: self.frames.slice(payload..end),
            metadata: (payload > body).then(|| Box::new(self.frames.slice(body..payload))),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.messages, Some(self.messages))
    }
}

impl ExactSizeIterator for Run {}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use pipebus_proto::control::Identity;
    use pipebus_proto::frame::{Flags, Kind, Metadata};
    use pipebus_proto::splitter::next_span;
    use pipebus_proto::topic::{InstanceId, TopicId};
    use pipebus_proto::wire::{encode_head, encode_metadata};

    fn run(messages: &[(&[u8], &[u8])]) -> Run {
        let mut bytes = BytesMut::new();
        for (sequence, (metadata, payload)) in (1..).zip(messages) {
            let head = Head {
                body: u32::try_from(metadata.len() + payload.len()).unwrap(),
                kind: Kind::Message,
                flags: Flags::NONE,
                metadata: u16::try_from(metadata.len()).unwrap(),
                topic: TopicId(1),
                sender: InstanceId(2),
                sequence,
            };
            bytes.extend_from_slice(&encode_head(&head));
            bytes.extend_from_slice(metadata);
            bytes.extend_from_slice(payload);
        }
        let sender = Sender { id: InstanceId(2), identity: Identity::Unix { uid: 0 }, name: String::new() };
        let origin = Origin { topic: Topic::new("a").unwrap(), sender: Arc::new(sender) };
        Run::new(Arc::new(origin), &next_span(&mut bytes).unwrap().unwrap())
    }

    #[test]
    fn what_is_lent_and_what_is_taken_is_the_same() {
        let headers = vec![("unit".to_owned(), "C".to_owned())];
        let metadata = encode_metadata(&Metadata { call: None, headers: headers.clone() }).unwrap();
        let mut run = run(&[(b"", b"one"), (&metadata, b"two"), (b"", b"")]);
        assert_eq!(run.len(), 3);
        let seen: Vec<_> = run.iter().map(|m| (m.sequence, m.payload.to_vec(), m.headers().unwrap())).collect();
        let taken: Vec<_> = run.clone().map(|m| (m.sequence, m.payload.to_vec(), m.headers().unwrap())).collect();
        assert_eq!(seen, taken);
        assert_eq!(seen[1], (2, b"two".to_vec(), headers));
        run.next();
        assert_eq!((run.len(), run.iter().count(), run.detached().count()), (2, 2, 2));
    }

    #[test]
    fn a_message_that_was_put_together_may_be_longer_than_a_frame() {
        let payload = vec![7; 300_000];
        let head = Head {
            body: 300_000,
            kind: Kind::Message,
            flags: Flags::MORE,
            metadata: 0,
            topic: TopicId(1),
            sender: InstanceId(2),
            sequence: 9,
        };
        let frame = Bytes::from([&encode_head(&head)[..], &payload].concat());
        let mut run = Run::whole(run(&[(b"", b"")]).origin, frame);
        assert_eq!(run.iter().next().unwrap().payload, payload);
        assert_eq!(run.next().unwrap().payload, payload);
        assert_eq!(run.next().map(|message| message.sequence), None);
    }
}
