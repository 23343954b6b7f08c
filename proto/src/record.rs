//! Records: what a monitor is told of each frame that the broker has passed, and of which frames it wants to be told.
//!
//! Not who may monitor, which is the policy's to say.

use serde::{Deserialize, Serialize};

use crate::frame::{BODY_BYTES_MAX, Flags, Head, Kind, Malformed};
use crate::topic::{InstanceId, TopicId};

/// Where control frames are recorded: those that clients send to the broker, and those that it sends to them.
pub const CONTROL_TOPIC: &str = "$bus/control";

/// What the body of a record begins with.
pub const RECORD_HEAD_BYTES: usize = 32;

/// The most that a record can have of the observed body, so that it fits a frame.
pub const CAPTURE_BYTES_MAX: usize = BODY_BYTES_MAX - RECORD_HEAD_BYTES;

/// What is told of one observed frame; the first bytes of its body follow. Topic, sender and sequence of the observed
/// frame are in the head of the frame that the record comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// When the broker had all of the frame, before anybody got it: in nanoseconds since 1970.
    pub time: u64,
    /// Bytes of the observed body.
    pub body: u32,
    /// What the observed frame is; never a record.
    pub kind: Kind,
    /// Its flags.
    pub flags: Flags,
    /// How many of its body's first bytes are metadata.
    pub metadata: u16,
    /// How many instances it was given to.
    pub subscribers: u32,
    /// How many of them had no room for it at once, so that its sender waits.
    pub waiting: u32,
    /// Messages that overflow policies dropped for this delivery: this one for some, or older ones.
    pub dropped: u32,
    /// Which instance a request, a reply or a control frame of the broker went to; 0 for all else.
    pub to: InstanceId,
}

impl RecordHead {
    /// The numbers in their order, little-endian.
    #[inline]
    pub fn encode(&self) -> [u8; RECORD_HEAD_BYTES] {
        let mut bytes = [0; RECORD_HEAD_BYTES];
        bytes[0..8].copy_from_slice(&self.time.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.body.to_le_bytes());
        bytes[12] = self.kind as u8;
        bytes[13] = self.flags.0;
        bytes[14..16].copy_from_slice(&self.metadata.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.subscribers.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.waiting.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.dropped.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.to.0.to_le_bytes());
        bytes
    }

    /// Reads what the body of a record begins with. Returns what was captured of the observed body, too.
    ///
    /// # Errors
    /// It is none: too short, of no kind that is observed, or with more behind it than the observed body had.
    pub fn decode(body: &[u8]) -> Result<(RecordHead, &[u8]), Malformed> {
        let (head, captured) = body.split_first_chunk::<RECORD_HEAD_BYTES>().ok_or(Malformed::Body)?;
        let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let [t0, t1, t2, t3, t4, t5, t6, t7, ..] = *head;
        let kind = Kind::from_number(head[12]).filter(|kind| *kind != Kind::Record);
        let record = RecordHead {
            time: u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]),
            body: u32_at(8),
            kind: kind.ok_or(Malformed::Kind(head[12]))?,
            flags: Flags(head[13]),
            metadata: u16::from_le_bytes([head[14], head[15]]),
            subscribers: u32_at(16),
            waiting: u32_at(20),
            dropped: u32_at(24),
            to: InstanceId(u32_at(28)),
        };
        if captured.len() > record.body as usize || u32::from(record.metadata) > record.body {
            return Err(Malformed::Body);
        }
        Ok((record, captured))
    }

    /// The head of the observed frame, as it was, of a record with this head.
    pub fn observed(&self, record: &Head) -> Head {
        let RecordHead { body, kind, flags, metadata, .. } = *self;
        let observed = Head { body, kind, flags, metadata, ..*record };
        match kind {
            // The topic is where it is told of, and the sender whose pipe it came from: its head has neither.
            Kind::Control => Head { topic: TopicId(0), sender: InstanceId::BROKER, ..observed },
            _ => observed,
        }
    }
}

/// Of which frames a monitor wants to be told, and how much of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// How much of each body: as many first bytes, [`CAPTURE_BYTES_MAX`] at most.
    pub capture_bytes: u32,
    /// Only what this instance has sent; 0 is the broker, which sends control frames.
    pub sender: Option<InstanceId>,
    /// Only frames whose body has at least so many bytes.
    pub bytes_min: u32,
    /// And at most so many.
    pub bytes_max: u32,
    /// Only frames of these kinds.
    pub kinds: Kinds,
}

impl Default for Watch {
    /// Every frame, and as much of it as can be.
    fn default() -> Watch {
        Watch {
            capture_bytes: u32::try_from(CAPTURE_BYTES_MAX).unwrap_or(u32::MAX),
            sender: None,
            bytes_min: 0,
            bytes_max: u32::MAX,
            kinds: Kinds::ALL,
        }
    }
}

impl Watch {
    /// Whether it wants to be told of a frame with this head; of a control frame with its sender's id in it.
    #[inline]
    pub fn wants(&self, head: &Head) -> bool {
        self.kinds.has(head.kind)
            && self.sender.is_none_or(|sender| sender == head.sender)
            && (self.bytes_min..=self.bytes_max).contains(&head.body)
    }

    /// How much of a body of so many bytes is captured.
    #[inline]
    pub fn captured(&self, body: usize) -> usize {
        body.min(self.capture_bytes as usize).min(CAPTURE_BYTES_MAX)
    }
}

/// A set of kinds of frames: bit 1 stands for kind 1, and so on. Other bits mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kinds(pub u8);

impl Kinds {
    /// None.
    pub const NONE: Kinds = Kinds(0);
    /// All that can be observed.
    pub const ALL: Kinds = Kinds::NONE.with(Kind::Control).with(Kind::Message).with(Kind::Request).with(Kind::Reply);

    /// One more.
    #[must_use]
    pub const fn with(self, kind: Kind) -> Kinds {
        Kinds(self.0 | 1 << kind as u8)
    }

    /// Whether it is one of them.
    #[inline]
    pub fn has(self, kind: Kind) -> bool {
        self.0 >> kind as u8 & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{decode_value, encode_value};
    use proptest::prelude::*;

    fn record() -> RecordHead {
        RecordHead {
            time: 0x1122_3344_5566_7788,
            body: 5,
            kind: Kind::Reply,
            flags: Flags::FAILED,
            metadata: 3,
            subscribers: 1,
            waiting: 2,
            dropped: 0x0304_0506,
            to: InstanceId(7),
        }
    }

    fn head(kind: Kind, sender: u32, body: u32) -> Head {
        let (topic, sender) = (TopicId(9), InstanceId(sender));
        Head { body, kind, flags: Flags::NONE, metadata: 0, topic, sender, sequence: 8 }
    }

    #[test]
    fn a_record_is_32_bytes_little_endian_and_what_was_captured() {
        let bytes = [&record().encode()[..], b"abc"].concat();
        assert_eq!(bytes[..16], [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 5, 0, 0, 0, 4, 4, 3, 0]);
        assert_eq!(bytes[16..32], [1, 0, 0, 0, 2, 0, 0, 0, 6, 5, 4, 3, 7, 0, 0, 0]);
        assert_eq!(RecordHead::decode(&bytes), Ok((record(), &b"abc"[..])));
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let check = |change: fn(&mut Vec<u8>), expected| {
            let mut bytes = record().encode().to_vec();
            change(&mut bytes);
            assert_eq!(RecordHead::decode(&bytes).map(drop), expected);
        };
        check(|bytes| bytes.extend_from_slice(b"12345"), Ok(()));
        check(|bytes| bytes.extend_from_slice(b"123456"), Err(Malformed::Body));
        check(|bytes| bytes.truncate(31), Err(Malformed::Body));
        check(|bytes| bytes[14] = 6, Err(Malformed::Body));
        check(|bytes| bytes[12] = 5, Err(Malformed::Kind(5)));
        check(|bytes| bytes[12] = 0, Err(Malformed::Kind(0)));
    }

    #[test]
    fn the_observed_head_is_as_it_was() {
        let outer = head(Kind::Record, 3, 37);
        let reply = Head { flags: Flags::FAILED, metadata: 3, ..head(Kind::Reply, 3, 5) };
        assert_eq!(record().observed(&outer), reply);
        let control = RecordHead { kind: Kind::Control, flags: Flags::NONE, metadata: 0, ..record() };
        let observed = control.observed(&Head { sequence: 0, ..outer });
        assert_eq!(observed, Head { topic: TopicId(0), sequence: 0, ..head(Kind::Control, 0, 5) });
    }

    #[test]
    fn a_watch_wants_what_it_says() {
        let every = Watch::default();
        for kind in [Kind::Control, Kind::Message, Kind::Request, Kind::Reply] {
            assert!(every.wants(&head(kind, 0, 0)) && every.wants(&head(kind, 9, u32::MAX)));
        }
        assert!(!every.wants(&head(Kind::Record, 1, 0)));
        let kinds = Watch { kinds: Kinds::NONE.with(Kind::Request), ..every };
        assert!(kinds.wants(&head(Kind::Request, 1, 1)) && !kinds.wants(&head(Kind::Message, 1, 1)));
        let sender = Watch { sender: Some(InstanceId(3)), ..every };
        assert!(sender.wants(&head(Kind::Message, 3, 1)) && !sender.wants(&head(Kind::Message, 4, 1)));
        let sizes = Watch { bytes_min: 2, bytes_max: 4, ..every };
        let wanted: Vec<u32> = (0..7).filter(|bytes| sizes.wants(&head(Kind::Message, 1, *bytes))).collect();
        assert_eq!(wanted, [2, 3, 4]);
    }

    #[test]
    fn no_more_is_captured_than_fits_a_frame() {
        let watch = |capture_bytes| Watch { capture_bytes, ..Watch::default() };
        assert_eq!((watch(10).captured(9), watch(10).captured(11), watch(0).captured(11)), (9, 10, 0));
        assert_eq!(watch(u32::MAX).captured(BODY_BYTES_MAX) + RECORD_HEAD_BYTES, BODY_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic_and_what_decodes_encodes_back(
            bytes in prop::collection::vec(any::<u8>(), 0..80),
            kind in 0u8..6,
        ) {
            let mut bytes = bytes;
            if bytes.len() > 14 {
                bytes[9..13].copy_from_slice(&[1, 0, 0, kind]);
            }
            if let Ok((record, captured)) = RecordHead::decode(&bytes) {
                prop_assert_eq!([&record.encode()[..], captured].concat(), bytes);
            }
        }

        #[test]
        fn a_watch_is_the_same_at_the_other_end(
            capture_bytes: u32, sender: Option<u32>, bytes_min: u32, bytes_max: u32, kinds: u8,
        ) {
            let sender = sender.map(InstanceId);
            let watch = Watch { capture_bytes, sender, bytes_min, bytes_max, kinds: Kinds(kinds) };
            prop_assert_eq!(decode_value(&encode_value(&watch).unwrap()), Ok(watch));
        }
    }
}
