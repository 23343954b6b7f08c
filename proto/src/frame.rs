//! Frames: the unit on the wire, a head of 24 bytes and a body.
//!
//! Not their bytes, which [`crate::wire`] makes, nor what control frames say, which is in [`crate::control`].

use serde::{Deserialize, Serialize};

use crate::topic::{InstanceId, TopicId};

/// The version of the protocol, in the knock and in Hello. Both sides must have the same.
pub const PROTOCOL_VERSION: u16 = 1;

/// The bytes of a head.
pub const HEAD_BYTES: usize = 24;

/// The longest body of a frame: the size of a fragment. Larger messages are cut into fragments.
pub const BODY_BYTES_MAX: usize = 256 * 1024;

/// The longest frame.
pub const FRAME_BYTES_MAX: usize = HEAD_BYTES + BODY_BYTES_MAX;

/// The longest body of a control frame.
pub const CONTROL_BYTES_MAX: usize = 4096;

/// The longest metadata: what the head's field can say.
pub const METADATA_BYTES_MAX: usize = u16::MAX as usize;

/// What every frame begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes after the head, at most [`BODY_BYTES_MAX`].
    pub body: u32,
    /// What the body is.
    pub kind: Kind,
    /// How the frame belongs to its message.
    pub flags: Flags,
    /// How many of the body's first bytes are metadata; 0 in a continued fragment.
    pub metadata: u16,
    /// What the message is about; of a reply, the topic of its request. 0 in control frames.
    pub topic: TopicId,
    /// Who sent it. The broker refuses any but the sender's own.
    pub sender: InstanceId,
    /// The sender's count of its messages, from 1, one more each; fragments of a message share it. 0 in control
    /// frames.
    pub sequence: u64,
}

impl Head {
    /// The bytes of the whole frame.
    pub fn frame_bytes(&self) -> usize {
        HEAD_BYTES + self.body as usize
    }

    /// Which part of its message the frame is.
    pub fn part(&self) -> Part {
        match (self.flags.has(Flags::CONTINUED), self.flags.has(Flags::MORE)) {
            (false, false) => Part::Whole,
            (false, true) => Part::First,
            (true, true) => Part::Middle,
            (true, false) => Part::Last,
        }
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Client and broker talking to each other: a [`crate::control::Control`].
    Control = 1,
    /// A message to all subscribers of its topic.
    Message = 2,
    /// A message to one server of its topic, which is to answer it.
    Request = 3,
    /// The answer to a request, to the client that made it.
    Reply = 4,
    /// Broker: what a monitor is told of a frame that has passed, whose topic, sender and sequence it bears: a
    /// [`crate::record::RecordHead`], and of the frame's body what was captured.
    Record = 5,
}

impl Kind {
    /// The kind with this number.
    pub fn from_number(number: u8) -> Option<Kind> {
        Some(match number {
            1 => Kind::Control,
            2 => Kind::Message,
            3 => Kind::Request,
            4 => Kind::Reply,
            5 => Kind::Record,
            _ => return None,
        })
    }
}

/// Bits of the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// None set.
    pub const NONE: Flags = Flags(0);
    /// Not the first fragment of its message.
    pub const CONTINUED: Flags = Flags(1);
    /// More fragments of the message follow.
    pub const MORE: Flags = Flags(2);
    /// A reply that says why the request failed, as UTF-8 text.
    pub const FAILED: Flags = Flags(4);
    /// A message whose pages are its sender's, who uses them for the next one when the broker says
    /// [`Released`](crate::control::Control::Released); whoever has read it says
    /// [`Consumed`](crate::control::Control::Consumed).
    pub const LOANED: Flags = Flags(8);

    /// Whether all of `other` are set.
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both together.
    #[must_use]
    pub fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// Which part of its message a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first of several fragments.
    First,
    /// Neither the first nor the last fragment.
    Middle,
    /// The last of several fragments.
    Last,
}

impl Part {
    /// Whether a message begins here.
    pub fn begins(self) -> bool {
        matches!(self, Part::Whole | Part::First)
    }

    /// Whether a message ends here.
    pub fn ends(self) -> bool {
        matches!(self, Part::Whole | Part::Last)
    }
}

/// What a message may carry beside topic and payload; in the body of its first frame, before the payload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Which request this is, or which it answers.
    pub call: Option<Call>,
    /// Names and values that the programs have agreed on; the broker never looks.
    pub headers: Vec<(String, String)>,
}

/// A request's name: unique together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Call {
    /// Who asked.
    pub requester: InstanceId,
    /// A number of the requester's choice.
    pub correlation: u64,
}

/// Why bytes are no frame. A stream with such bytes in it can't be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// No such kind.
    #[error("frame kind {0} is unknown")]
    Kind(u8),
    /// Flags that this version does not know, or that make no sense for the kind.
    #[error("frame flags {flags:#04x} do not fit kind {kind:?}")]
    Flags {
        /// The frame's kind.
        kind: Kind,
        /// Its flags.
        flags: u8,
    },
    /// The body is longer than its kind may be.
    #[error("frame body of {bytes} bytes is longer than the limit of {max}")]
    TooLong {
        /// Its length.
        bytes: u32,
        /// The limit.
        max: usize,
    },
    /// The metadata does not fit the body, is missing, or is where none may be.
    #[error("metadata of {metadata} bytes does not fit the frame")]
    Metadata {
        /// Its length.
        metadata: u16,
    },
    /// Topic, sender or sequence of a control frame is not 0.
    #[error("a control frame has a topic, a sender or a sequence number")]
    ControlFields,
    /// The body does not decode.
    #[error("the body of the frame does not decode")]
    Body,
    /// A sequence number that does not follow.
    #[error("sequence number {found} does not follow {before}")]
    Sequence {
        /// The number before.
        before: u64,
        /// The number found.
        found: u64,
    },
    /// Another's id as the sender or the requester.
    #[error("the frame claims to be from client {claimed}, but this is client {own}")]
    Sender {
        /// The id in the frame.
        claimed: InstanceId,
        /// The client's own.
        own: InstanceId,
    },
    /// A frame that is too short for its kind.
    #[error("frame body of {bytes} bytes is shorter than the {min} of its kind")]
    TooShort {
        /// Its length.
        bytes: u32,
        /// The limit.
        min: usize,
    },
    /// A kind of frame that only the broker sends.
    #[error("a client may not send frames of kind {0:?}")]
    BrokersOwn(Kind),
    /// A fragment without its beginning, or a beginning within another message.
    #[error("a fragment is out of place")]
    Fragment,
}
