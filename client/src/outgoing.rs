//! Outgoing: what waits to be written to the broker, and how far the broker has confirmed it.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use pipebus_proto::control::Control;
use pipebus_proto::frame::{Flags, Head, Kind};
use pipebus_proto::topic::{InstanceId, TopicId};
use pipebus_proto::wire::{encode_control, encode_head, for_each_frame};
use tokio::time::Instant;

use crate::pages::{Lent, Pages, Pool};

/// Payloads from this size on are written from where they are, others copied together. Copying 16 KiB takes about as
/// long as one more piece in a vectored write.
pub(crate) const SHARED_BYTES_MIN: usize = 16 * 1024;

/// Publishers wait while more than this waits to be written.
const WAITING_BYTES_MAX: usize = 256 * 1024;

/// And while more than this waits to be lent: half of what a pipe for large messages holds, so that many go together.
const LENT_BYTES_MAX: usize = 512 * 1024;

/// What is copied together is kept in pieces of so many bytes, or more for a larger message.
const TAIL_BYTES: usize = 64 * 1024;

/// How often the broker is asked to confirm, in bytes: so much at most is in doubt, besides what the pipe holds. Large
/// messages go together as far as nothing else comes between them.
const CONFIRM_BYTES: usize = 1024 * 1024;

/// What is to be written next.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Bytes, to be copied into the pipe.
    Bytes(Bytes),
    /// A message whose pages are lent to the pipe.
    Lent(Lent),
}

impl Piece {
    /// How many bytes are not in the pipe yet.
    pub(crate) fn len(&self) -> usize {
        match self {
            Piece::Bytes(bytes) => bytes.len(),
            Piece::Lent(lent) => lent.len(),
        }
    }

    /// So many more are.
    pub(crate) fn advance(&mut self, bytes: usize) {
        match self {
            Piece::Bytes(rest) => rest.advance(bytes),
            Piece::Lent(lent) => lent.advance(bytes),
        }
    }
}

/// Frames on their way to the broker. Begins anew with every connection.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pieces: VecDeque<Piece>,
    tail: BytesMut,
    /// Bytes to be written, and bytes to be lent.
    bytes: usize,
    lent_bytes: usize,
    /// Up to which message of each sender the loaned ones have been read. To be said with the next write: so there is
    /// one for each sender, however long the broker takes nothing.
    consumed: BTreeMap<InstanceId, u64>,
    /// Of the last message.
    sequence: u64,
    /// All messages up to this one have been routed.
    confirmed: u64,
    unasked_bytes: usize,
}

/// A message to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) kind: Kind,
    pub(crate) flags: Flags,
    pub(crate) topic: TopicId,
    pub(crate) sender: InstanceId,
    pub(crate) metadata: &'a [u8],
    pub(crate) payload: &'a Bytes,
}

impl Outgoing {
    /// Whether one more message may be added now.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.bytes < WAITING_BYTES_MAX && self.lent_bytes < LENT_BYTES_MAX
    }

    /// Adds a small message without metadata: the way of most.
    #[inline]
    pub(crate) fn push_small(&mut self, topic: TopicId, sender: InstanceId, payload: &[u8]) {
        debug_assert!(payload.len() < SHARED_BYTES_MIN, "it is copied, and fits a frame");
        self.sequence += 1;
        let head = Head {
            body: payload.len() as u32,
            kind: Kind::Message,
            flags: Flags::NONE,
            metadata: 0,
            topic,
            sender,
            sequence: self.sequence,
        };
        if self.tail.capacity() - self.tail.len() < head.frame_bytes() {
            self.begin_tail(head.frame_bytes());
        }
        self.tail.put_slice(&encode_head(&head));
        self.tail.put_slice(payload);
        self.count(head.frame_bytes());
    }

    /// Adds a message, all of it.
    pub(crate) fn push(&mut self, draft: &Draft<'_>) {
        self.sequence += 1;
        let head = Head {
            body: 0,
            kind: draft.kind,
            flags: draft.flags,
            metadata: 0,
            topic: draft.topic,
            sender: draft.sender,
            sequence: self.sequence,
        };
        let mut bytes = 0;
        for_each_frame(head, draft.metadata, draft.payload, |head, metadata, piece| {
            self.tail.put_slice(&head);
            self.tail.put_slice(metadata);
            bytes += head.len() + metadata.len() + piece.len();
            if piece.len() < SHARED_BYTES_MIN {
                self.tail.put_slice(&piece);
            } else {
                self.end_tail();
                self.pieces.push_back(Piece::Bytes(piece));
            }
        });
        self.count(bytes);
    }

    /// Adds a message that is to be lent: the first `payload` bytes of `pages`, which come back to `pool`.
    pub(crate) fn push_loan(&mut self, topic: TopicId, sender: InstanceId, pages: Pages, payload: usize, pool: &Pool) {
        self.sequence += 1;
        let head = Head {
            body: 0,
            kind: Kind::Message,
            flags: Flags::LOANED,
            metadata: 0,
            topic,
            sender,
            sequence: self.sequence,
        };
        let lent = pages.seal(head, payload);
        let bytes = lent.len();
        pool.lend(self.sequence, &lent, Instant::now());
        self.end_tail();
        self.pieces.push_back(Piece::Lent(lent));
        self.lent_bytes += bytes;
        self.doubt(bytes);
    }

    /// Counts what has been added for a message.
    #[inline]
    fn count(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.doubt(bytes);
    }

    /// So much more is to be confirmed.
    #[inline]
    fn doubt(&mut self, bytes: usize) {
        self.unasked_bytes += bytes;
        if self.unasked_bytes >= CONFIRM_BYTES {
            self.ask_to_confirm();
        }
    }

    /// Begins a new piece, rather than moving what is in a full one.
    #[cold]
    fn begin_tail(&mut self, bytes: usize) {
        self.end_tail();
        self.tail.reserve(bytes.max(TAIL_BYTES));
    }

    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(Piece::Bytes(self.tail.split().freeze()));
        }
    }

    /// Adds a control frame.
    pub(crate) fn push_control(&mut self, control: &Control) {
        let frame = encode_control(control);
        self.bytes += frame.len();
        self.tail.put_slice(&frame);
    }

    /// All loaned messages of the sender up to this one have been read.
    pub(crate) fn consume(&mut self, sender: InstanceId, sequence: u64) {
        self.consumed.insert(sender, sequence);
    }

    /// Asks the broker to confirm all so far. Returns the token that it will answer with.
    pub(crate) fn ask_to_confirm(&mut self) -> u64 {
        self.unasked_bytes = 0;
        self.push_control(&Control::Ping { token: self.sequence });
        self.sequence
    }

    /// Whether there are messages that the broker has not been asked to confirm.
    pub(crate) fn is_unasked(&self) -> bool {
        self.unasked_bytes > 0
    }

    /// The broker has routed all messages up to `sequence`.
    pub(crate) fn confirm(&mut self, sequence: u64) {
        self.confirmed = self.confirmed.max(sequence.min(self.sequence));
    }

    /// How many messages the broker has not confirmed.
    pub(crate) fn unconfirmed(&self) -> u64 {
        self.sequence - self.confirmed
    }

    /// Takes all that waits.
    pub(crate) fn take(&mut self, batch: &mut VecDeque<Piece>) {
        for (sender, sequence) in std::mem::take(&mut self.consumed) {
            self.push_control(&Control::Consumed { sender, sequence });
        }
        self.end_tail();
        batch.append(&mut self.pieces);
        self.bytes = 0;
        self.lent_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(outgoing: &mut Outgoing, bytes: usize) {
        let payload = Bytes::from(vec![1; bytes]);
        outgoing.push(&Draft {
            kind: Kind::Message,
            flags: Flags::NONE,
            topic: TopicId(1),
            sender: InstanceId(2),
            metadata: &[],
            payload: &payload,
        });
    }

    fn pieces(outgoing: &mut Outgoing) -> Vec<usize> {
        let mut batch = VecDeque::new();
        outgoing.take(&mut batch);
        let bytes = |piece: &Piece| match piece {
            Piece::Bytes(bytes) => bytes.len(),
            Piece::Lent(lent) => lent.len(),
        };
        batch.iter().map(bytes).collect()
    }

    #[test]
    fn small_messages_are_copied_together_and_large_ones_are_not_copied() {
        let mut outgoing = Outgoing::default();
        push(&mut outgoing, 10);
        push(&mut outgoing, 20);
        assert_eq!(pieces(&mut outgoing), [24 + 10 + 24 + 20]);
        push(&mut outgoing, 10);
        push(&mut outgoing, 20_000);
        push(&mut outgoing, 5);
        assert_eq!(pieces(&mut outgoing), [24 + 10 + 24, 20_000, 24 + 5]);
        assert!(pieces(&mut outgoing).is_empty());
    }

    #[test]
    fn what_is_not_confirmed_is_counted() {
        let mut outgoing = Outgoing::default();
        push(&mut outgoing, 1);
        push(&mut outgoing, 1);
        assert!(outgoing.is_unasked());
        assert_eq!(outgoing.ask_to_confirm(), 2);
        assert!(!outgoing.is_unasked());
        push(&mut outgoing, 1);
        assert_eq!(outgoing.unconfirmed(), 3);
        outgoing.confirm(2);
        assert_eq!(outgoing.unconfirmed(), 1);
        outgoing.confirm(1);
        assert_eq!(outgoing.unconfirmed(), 1);
    }

    #[test]
    fn what_is_consumed_is_said_once_a_sender_with_the_next_write() {
        let mut outgoing = Outgoing::default();
        for (sender, sequence) in [(2, 5), (3, 1), (2, 9)] {
            outgoing.consume(InstanceId(sender), sequence);
        }
        let mut batch = VecDeque::new();
        outgoing.take(&mut batch);
        let [Piece::Bytes(bytes)] = &batch.make_contiguous() else { panic!("{batch:?}") };
        let consumed = [(2, 9), (3, 1)].map(|(sender, sequence)| {
            encode_control(&Control::Consumed { sender: InstanceId(sender), sequence }).to_vec()
        });
        assert_eq!(bytes, &consumed.concat());
        assert!(pieces(&mut outgoing).is_empty());
    }

    #[test]
    fn what_is_lent_keeps_its_place() {
        let (mut outgoing, pool) = (Outgoing::default(), Pool::default());
        push(&mut outgoing, 10);
        let pages = pool.take(1_100_000, Instant::now()).unwrap();
        outgoing.push_loan(TopicId(1), InstanceId(2), pages, 1_100_000, &pool);
        assert!(!outgoing.has_room());
        push(&mut outgoing, 20);
        let ping = encode_control(&Control::Ping { token: 2 }).len();
        assert_eq!(pieces(&mut outgoing), [24 + 10, 24 * 5 + 1_100_000, ping + 24 + 20]);
        assert!(outgoing.has_room());
    }
}
