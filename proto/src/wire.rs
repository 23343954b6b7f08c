//! Values to bytes and back; the one module that names bincode.
//!
//! bincode is in its fixed-int little-endian configuration, so that every number has its own size and `PROTOCOL.md`
//! can say where each byte is. Decoding is limited, since bincode otherwise believes any length it reads, and what is
//! left over is an error, since bincode otherwise ignores it.

use std::ops::Range;

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::control::Control;
use crate::frame::{
    BODY_BYTES_MAX, CONTROL_BYTES_MAX, Flags, HEAD_BYTES, Head, Kind, METADATA_BYTES_MAX, Malformed, Metadata,
};
use crate::record::RECORD_HEAD_BYTES;
use crate::topic::{InstanceId, TopicId};

/// Nothing that is read with it may be longer than metadata: a text whose length lies is refused before there is room
/// made for it.
const CONFIG: Configuration<LittleEndian, Fixint, Limit<METADATA_BYTES_MAX>> =
    bincode::config::standard().with_fixed_int_encoding().with_little_endian().with_limit::<METADATA_BYTES_MAX>();

/// The bytes of a head: the numbers of [`Head`] in its order, as bincode would write them. By hand, since bincode takes
/// several times as long and this is done for every message.
#[inline]
pub fn encode_head(head: &Head) -> [u8; HEAD_BYTES] {
    let mut bytes = [0; HEAD_BYTES];
    bytes[0..4].copy_from_slice(&head.body.to_le_bytes());
    bytes[4] = head.kind as u8;
    bytes[5] = head.flags.0;
    bytes[6..8].copy_from_slice(&head.metadata.to_le_bytes());
    bytes[8..12].copy_from_slice(&head.topic.0.to_le_bytes());
    bytes[12..16].copy_from_slice(&head.sender.0.to_le_bytes());
    bytes[16..24].copy_from_slice(&head.sequence.to_le_bytes());
    bytes
}

/// Reads and checks the head at the start of `bytes`; `None` if it has not all arrived.
///
/// # Errors
/// What no version of this protocol would send.
#[inline]
pub fn decode_head(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    let Some(bytes) = bytes.first_chunk() else { return Ok(None) };
    let head = read_head(bytes)?;
    check_head(&head)?;
    Ok(Some(head))
}

/// How many bytes the frame at the start of `bytes` has, whose head has been checked before; `None` if the head has not
/// all arrived.
#[inline]
pub fn frame_bytes(bytes: &[u8]) -> Option<usize> {
    let head = bytes.first_chunk::<HEAD_BYTES>()?;
    let [b0, b1, b2, b3, ..] = *head;
    Some(HEAD_BYTES + u32::from_le_bytes([b0, b1, b2, b3]) as usize)
}

/// Reads a head that has been checked before; `None` if it has not all arrived.
#[inline]
pub fn decode_checked_head(bytes: &[u8]) -> Option<Head> {
    read_head(bytes.first_chunk()?).ok()
}

#[inline]
fn read_head(bytes: &[u8; HEAD_BYTES]) -> Result<Head, Malformed> {
    let [b0, b1, b2, b3, kind, flags, m0, m1, t0, t1, t2, t3, s0, s1, s2, s3, sequence @ ..] = *bytes;
    Ok(Head {
        body: u32::from_le_bytes([b0, b1, b2, b3]),
        kind: Kind::from_number(kind).ok_or(Malformed::Kind(kind))?,
        flags: Flags(flags),
        metadata: u16::from_le_bytes([m0, m1]),
        topic: TopicId(u32::from_le_bytes([t0, t1, t2, t3])),
        sender: InstanceId(u32::from_le_bytes([s0, s1, s2, s3])),
        sequence: u64::from_le_bytes(sequence),
    })
}

#[inline]
fn check_head(head: &Head) -> Result<(), Malformed> {
    let max = if head.kind == Kind::Control { CONTROL_BYTES_MAX } else { BODY_BYTES_MAX };
    if head.body as usize > max {
        return Err(Malformed::TooLong { bytes: head.body, max });
    }
    let allowed = match head.kind {
        Kind::Control => Flags::NONE,
        Kind::Message => Flags::CONTINUED.with(Flags::MORE).with(Flags::LOANED),
        Kind::Request => Flags::CONTINUED.with(Flags::MORE),
        Kind::Reply => Flags::CONTINUED.with(Flags::MORE).with(Flags::FAILED),
        Kind::Record => Flags::NONE,
    };
    if !allowed.has(head.flags) {
        return Err(Malformed::Flags { kind: head.kind, flags: head.flags.0 });
    }
    let begins = !head.flags.has(Flags::CONTINUED);
    let metadata_fits = match head.kind {
        Kind::Control | Kind::Record => head.metadata == 0,
        Kind::Message => begins || head.metadata == 0,
        Kind::Request | Kind::Reply => begins == (head.metadata > 0),
    };
    if !metadata_fits || u32::from(head.metadata) > head.body {
        return Err(Malformed::Metadata { metadata: head.metadata });
    }
    let numbered = head.topic.0 != 0 || head.sender.0 != 0 || head.sequence != 0;
    if head.kind == Kind::Control && numbered {
        return Err(Malformed::ControlFields);
    }
    if head.kind == Kind::Record && (head.body as usize) < RECORD_HEAD_BYTES {
        return Err(Malformed::TooShort { bytes: head.body, min: RECORD_HEAD_BYTES });
    }
    Ok(())
}

/// A whole control frame.
///
/// # Panics
/// If a text in it is longer than its limit: every text that goes in is checked or cut before.
pub fn encode_control(control: &Control) -> Bytes {
    let body = encode(control).expect("every control value can be encoded");
    assert!(body.len() <= CONTROL_BYTES_MAX, "texts in control frames are cut to their limits");
    let head = Head {
        body: u32::try_from(body.len()).expect("checked above"),
        kind: Kind::Control,
        flags: Flags::NONE,
        metadata: 0,
        topic: TopicId(0),
        sender: InstanceId(0),
        sequence: 0,
    };
    let mut bytes = BytesMut::with_capacity(head.frame_bytes());
    bytes.put_slice(&encode_head(&head));
    bytes.put_slice(&body);
    bytes.freeze()
}

/// Reads the body of a control frame.
///
/// # Errors
/// The body is not exactly one control value.
pub fn decode_control(body: &[u8]) -> Result<Control, Malformed> {
    decode(body)
}

/// The bytes of metadata; `None` where there are more than [`METADATA_BYTES_MAX`].
pub fn encode_metadata(metadata: &Metadata) -> Option<Vec<u8>> {
    encode(metadata).ok().filter(|bytes| bytes.len() <= METADATA_BYTES_MAX)
}

/// Reads metadata.
///
/// # Errors
/// The bytes are not exactly one metadata value.
pub fn decode_metadata(bytes: &[u8]) -> Result<Metadata, Malformed> {
    decode(bytes)
}

/// Cuts one message into its frames, and gives them in order to `emit` as head, metadata and payload piece.
///
/// A message that fits one frame is one; others are fragments of [`BODY_BYTES_MAX`] bytes.
pub fn for_each_frame(
    head: Head,
    metadata: &[u8],
    payload: &Bytes,
    mut emit: impl FnMut([u8; HEAD_BYTES], &[u8], Bytes),
) {
    let mut metadata = metadata;
    for_each_head(head, metadata.len(), payload.len(), |head, piece| {
        emit(head, std::mem::take(&mut metadata), payload.slice(piece));
    });
}

/// As [`for_each_frame`] for a message with so many bytes of metadata and payload: gives the heads, and where in the
/// payload each piece is.
pub fn for_each_head(
    mut head: Head,
    metadata: usize,
    payload: usize,
    mut emit: impl FnMut([u8; HEAD_BYTES], Range<usize>),
) {
    let base = head.flags;
    let mut metadata = metadata;
    let mut at = 0;
    loop {
        let end = payload.min(at + BODY_BYTES_MAX - metadata);
        let flags = match (at > 0, end < payload) {
            (false, false) => Flags::NONE,
            (false, true) => Flags::MORE,
            (true, true) => Flags::MORE.with(Flags::CONTINUED),
            (true, false) => Flags::CONTINUED,
        };
        head.flags = base.with(flags);
        head.metadata = u16::try_from(metadata).unwrap_or(u16::MAX);
        head.body = u32::try_from(metadata + end - at).unwrap_or(u32::MAX);
        emit(encode_head(&head), at..end);
        if end == payload {
            return;
        }
        metadata = 0;
        at = end;
    }
}

/// A value of the app's, for [`decode_value`] at the other end: bincode, fixed-int little-endian.
///
/// # Errors
/// The value's `Serialize` says no.
pub fn encode_value<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, ValueError> {
    bincode::serde::encode_to_vec(value, VALUES).map_err(|error| ValueError(error.to_string()))
}

/// Reads what [`encode_value`] wrote. A text whose length lies makes it allocate at most 64 MiB, and fail.
///
/// Not for bytes of strangers where `T` has lists of elements without bytes, such as `Vec<()>`: 8 bytes can claim 2^64
/// of them, and all are counted.
///
/// # Errors
/// The bytes are no such value, or there are some left over.
pub fn decode_value<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ValueError> {
    let (value, used) =
        bincode::serde::decode_from_slice(bytes, VALUES).map_err(|error| ValueError(error.to_string()))?;
    match bytes.len() - used {
        0 => Ok(value),
        left => Err(ValueError(format!("{left} bytes are left over after the value"))),
    }
}

/// For values of apps: the same, up to 64 MiB.
const VALUES: Configuration<LittleEndian, Fixint, Limit<{ 64 << 20 }>> =
    bincode::config::standard().with_fixed_int_encoding().with_little_endian().with_limit::<{ 64 << 20 }>();

/// Why an app's value does not encode or decode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the payload is no such value: {0}")]
pub struct ValueError(String);

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Malformed> {
    bincode::serde::encode_to_vec(value, CONFIG).map_err(|_| Malformed::Body)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    let (value, used) = bincode::serde::decode_from_slice(bytes, CONFIG).map_err(|_| Malformed::Body)?;
    if used == bytes.len() { Ok(value) } else { Err(Malformed::Body) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head() -> Head {
        Head {
            body: 5,
            kind: Kind::Message,
            flags: Flags::NONE,
            metadata: 0,
            topic: TopicId(0x0102_0304),
            sender: InstanceId(7),
            sequence: 0x1122,
        }
    }

    #[test]
    fn a_head_is_24_bytes_little_endian() {
        let bytes = encode_head(&head());
        assert_eq!(bytes, [5, 0, 0, 0, 2, 0, 0, 0, 4, 3, 2, 1, 7, 0, 0, 0, 0x22, 0x11, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decode_head(&bytes), Ok(Some(head())));
        assert_eq!(decode_head(&bytes[..23]), Ok(None));
        let by_bincode = encode(&(5u32, 2u8, 0u8, 0u16, 0x0102_0304u32, 7u32, 0x1122u64)).unwrap();
        assert_eq!(bytes[..], by_bincode);
    }

    #[test]
    fn heads_that_nobody_may_send_are_refused() {
        let check = |change: fn(&mut Head), expected: Malformed| {
            let mut head = head();
            change(&mut head);
            assert_eq!(decode_head(&encode_head(&head)), Err(expected), "{head:?}");
        };
        check(|h| h.body = 262_145, Malformed::TooLong { bytes: 262_145, max: BODY_BYTES_MAX });
        check(|h| h.flags = Flags(16), Malformed::Flags { kind: Kind::Message, flags: 16 });
        check(|h| h.flags = Flags::FAILED, Malformed::Flags { kind: Kind::Message, flags: 4 });
        check(|h| h.metadata = 6, Malformed::Metadata { metadata: 6 });
        check(|h| h.kind = Kind::Request, Malformed::Metadata { metadata: 0 });
        check(|h| h.kind = Kind::Control, Malformed::ControlFields);
        check(|h| h.kind = Kind::Record, Malformed::TooShort { bytes: 5, min: 32 });
        let more = |h: &mut Head| (h.kind, h.body, h.flags) = (Kind::Record, 40, Flags::MORE);
        check(more, Malformed::Flags { kind: Kind::Record, flags: 2 });
        let metadata = |h: &mut Head| (h.kind, h.body, h.metadata) = (Kind::Record, 40, 1);
        check(metadata, Malformed::Metadata { metadata: 1 });
        let mut bytes = encode_head(&head());
        bytes[4] = 9;
        assert_eq!(decode_head(&bytes), Err(Malformed::Kind(9)));
    }

    #[test]
    fn what_is_left_over_is_an_error() {
        let mut body = encode(&Control::Ping { token: 1 }).unwrap();
        assert!(decode_control(&body).is_ok());
        body.push(0);
        assert_eq!(decode_control(&body), Err(Malformed::Body));
    }

    #[test]
    fn a_length_that_lies_allocates_nothing() {
        let mut body = encode(&Control::Hello { version: 1, name: String::new() }).unwrap();
        let length = body.len() - 8;
        body[length..].copy_from_slice(&(1u64 << 40).to_le_bytes());
        assert_eq!(decode_control(&body), Err(Malformed::Body));
        let lie = (1u64 << 40).to_le_bytes();
        assert!(decode_value::<Vec<u64>>(&lie).is_err());
        assert!(decode_value::<String>(&lie).is_err());
    }

    #[test]
    fn metadata_may_have_65535_bytes() {
        let empty = (String::new(), String::new());
        let mut metadata = Metadata { call: None, headers: vec![empty; 4_095] };
        assert_eq!(decode_metadata(&encode_metadata(&metadata).unwrap()), Ok(metadata.clone()));
        metadata.headers[0].0 = "x".repeat(METADATA_BYTES_MAX - 9 - 16 * 4_095);
        let bytes = encode_metadata(&metadata).unwrap();
        assert_eq!(bytes.len(), METADATA_BYTES_MAX);
        assert_eq!(decode_metadata(&bytes), Ok(metadata.clone()));
        metadata.headers[0].1 = "x".to_owned();
        assert_eq!(encode_metadata(&metadata), None);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic_and_what_decodes_encodes_back(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            tag in 0u8..26,
        ) {
            if let Ok(Some(head)) = decode_head(&bytes) {
                prop_assert_eq!(&encode_head(&head)[..], &bytes[..HEAD_BYTES]);
            }
            let mut bytes = bytes;
            if bytes.len() > 4 {
                bytes[..4].copy_from_slice(&[tag, 0, 0, 0]);
            }
            if let Ok(control) = decode_control(&bytes) {
                prop_assert_eq!(&encode_control(&control)[HEAD_BYTES..], &bytes[..]);
            }
            if let Ok(metadata) = decode_metadata(&bytes) {
                prop_assert_eq!(encode_metadata(&metadata).unwrap(), bytes);
            }
        }

        #[test]
        fn a_message_is_cut_into_frames_and_is_their_sum(length in 0usize..600_000, metadata in 0usize..70) {
            let payload = Bytes::from(vec![7u8; length]);
            let metadata = vec![1u8; metadata];
            let (mut heads, mut sum) = (Vec::new(), 0);
            for_each_frame(head(), &metadata, &payload, |bytes, metadata, piece| {
                let head = decode_head(&bytes).unwrap().unwrap();
                assert_eq!(head.body as usize, metadata.len() + piece.len());
                sum += piece.len();
                heads.push(head);
            });
            prop_assert_eq!(sum, length);
            prop_assert!(heads[0].part().begins() && heads[heads.len() - 1].part().ends());
            for pair in heads.windows(2) {
                prop_assert!(!pair[0].part().ends() && !pair[1].part().begins());
            }
        }
    }
}
