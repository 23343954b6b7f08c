//! Reassembly: messages that come in fragments, each put together in the memory in which the app gets it.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use pipebus_proto::frame::{HEAD_BYTES, Head, Part};
use pipebus_proto::topic::InstanceId;
use pipebus_proto::wire::encode_head;

/// Bytes of messages that are being put together, over all senders.
const REASSEMBLY_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Messages of which fragments are missing, at most one of each sender.
pub(crate) struct Reassembly {
    message_bytes_max: usize,
    unfinished: HashMap<InstanceId, Unfinished>,
    /// Of all of them.
    bytes: usize,
}

/// A message of which fragments are missing.
pub(crate) struct Unfinished {
    /// The first fragment's.
    pub(crate) head: Head,
    /// The one frame that the message would be if frames had no limit; its head is written last.
    pub(crate) frame: BytesMut,
}

/// Whether a fragment can be put to its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It can.
    Fits,
    /// Of its message nothing is here.
    Stray,
    /// With it, there would be too much.
    TooLarge,
}

impl Reassembly {
    /// Of messages of at most so many bytes.
    pub(crate) fn new(message_bytes_max: usize) -> Reassembly {
        Reassembly { message_bytes_max, unfinished: HashMap::new(), bytes: 0 }
    }

    /// Makes room for a fragment, of which only the head need be here. If it fits, all of its body is to be put into
    /// [`Reassembly::frame`] next.
    pub(crate) fn admit(&mut self, fragment: &Head) -> Fit {
        let bytes = fragment.body as usize;
        if fragment.part() == Part::First {
            self.begin(fragment);
        }
        let Some(unfinished) = self.unfinished.get_mut(&fragment.sender).filter(|begun| begun.has(fragment)) else {
            return Fit::Stray;
        };
        let room = REASSEMBLY_BYTES_MAX.saturating_sub(self.bytes);
        if bytes > room || unfinished.frame.len() - HEAD_BYTES + bytes > self.message_bytes_max {
            return Fit::TooLarge;
        }
        self.bytes += bytes;
        // How long the message is shows only at its end, so there is memory for one fragment, and then for twice what
        // has come. Mostly the allocator makes it longer where it is: glibc copied nothing at 1 MiB.
        unfinished.frame.reserve(bytes);
        Fit::Fits
    }

    /// What has come of a sender's message, to be continued.
    pub(crate) fn frame(&mut self, sender: InstanceId) -> Option<&mut BytesMut> {
        self.unfinished.get_mut(&sender).map(|unfinished| &mut unfinished.frame)
    }

    /// A sender's message, of which the last fragment has come: its head and its one frame.
    pub(crate) fn finish(&mut self, sender: InstanceId) -> Option<(Head, Bytes)> {
        let Unfinished { mut head, mut frame } = self.forget(sender)?;
        // The flags that are not about fragments are in all of them, the metadata is in the first.
        head.body = u32::try_from(frame.len() - HEAD_BYTES).ok()?;
        frame[..HEAD_BYTES].copy_from_slice(&encode_head(&head));
        Some((head, frame.freeze()))
    }

    /// The rest of a sender's message will not come. Returns what has.
    pub(crate) fn forget(&mut self, sender: InstanceId) -> Option<Unfinished> {
        // Asked for every span, and mostly there is none: that needs no hash.
        if self.unfinished.is_empty() {
            return None;
        }
        let unfinished = self.unfinished.remove(&sender)?;
        self.bytes -= unfinished.frame.len();
        Some(unfinished)
    }

    fn begin(&mut self, first: &Head) {
        let mut frame = BytesMut::with_capacity(first.frame_bytes());
        frame.put_bytes(0, HEAD_BYTES);
        self.bytes += HEAD_BYTES;
        self.unfinished.insert(first.sender, Unfinished { head: *first, frame });
    }
}

impl Unfinished {
    fn has(&self, fragment: &Head) -> bool {
        let message = |head: &Head| (head.kind, head.topic, head.sequence);
        message(&self.head) == message(fragment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pipebus_proto::frame::{BODY_BYTES_MAX, Flags, Kind};
    use pipebus_proto::topic::TopicId;

    fn fragment(sender: u32, flags: Flags) -> Head {
        Head {
            body: BODY_BYTES_MAX as u32,
            kind: Kind::Message,
            flags,
            metadata: 0,
            topic: TopicId(1),
            sender: InstanceId(sender),
            sequence: 1,
        }
    }

    fn put(reassembly: &mut Reassembly, sender: u32, flags: Flags) -> Fit {
        let fit = reassembly.admit(&fragment(sender, flags));
        if fit == Fit::Fits {
            reassembly.frame(InstanceId(sender)).unwrap().put_bytes(7, BODY_BYTES_MAX);
        }
        fit
    }

    #[test]
    fn all_unfinished_messages_together_have_a_bound() {
        let mut reassembly = Reassembly::new(usize::MAX);
        let fits = REASSEMBLY_BYTES_MAX / BODY_BYTES_MAX - 1;
        let senders: Vec<_> = (1..=fits as u32).collect();
        // Announced, not come: of these pages none is touched.
        assert!(senders.iter().all(|sender| reassembly.admit(&fragment(*sender, Flags::MORE)) == Fit::Fits));
        assert_eq!(put(&mut reassembly, 5000, Flags::MORE), Fit::TooLarge);
    }

    #[test]
    fn what_is_finished_or_forgotten_makes_room() {
        let mut reassembly = Reassembly::new(2 * BODY_BYTES_MAX);
        let more = Flags::MORE.with(Flags::CONTINUED);
        for sender in [2, 3] {
            assert_eq!(put(&mut reassembly, sender, Flags::MORE), Fit::Fits);
            assert_eq!(put(&mut reassembly, sender, more), Fit::Fits);
            assert_eq!(put(&mut reassembly, sender, Flags::CONTINUED), Fit::TooLarge);
        }
        let (head, frame) = reassembly.finish(InstanceId(2)).unwrap();
        assert_eq!((head.body as usize, frame.len()), (2 * BODY_BYTES_MAX, head.frame_bytes()));
        assert_eq!(put(&mut reassembly, 2, Flags::CONTINUED), Fit::Stray);
        reassembly.forget(InstanceId(3)).unwrap();
        assert_eq!((reassembly.bytes, reassembly.unfinished.len()), (0, 0));
    }
}
