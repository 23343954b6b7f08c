//! Bytes in, spans out: where a stream of frames is cut.
//!
//! Heads are checked here, and whether frames are whole; who may send them, and in which order, is the reader's to
//! judge.

use bytes::{Bytes, BytesMut};

use crate::frame::{BODY_BYTES_MAX, Flags, HEAD_BYTES, Head, Kind, Malformed, Part};
use crate::record::RECORD_HEAD_BYTES;
use crate::topic::{InstanceId, TopicId};
use crate::wire;

/// A run of whole frames that go the same way: same kind, topic and sender.
///
/// As [`next_span`] cuts it, either any number of unfragmented messages with rising sequence numbers, or of records of
/// such, or one frame of another kind, one fragment or one loaned frame. Forwarded as it is; cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The frames, one after another; empty where they are elsewhere, see [`begun_frame`].
    pub bytes: Bytes,
    /// What the frames are.
    pub kind: Kind,
    /// Which part of its message the frame is; [`Part::Whole`] where there are several.
    pub part: Part,
    /// Whether the sender wants to be told when the message has been read; see [`Flags::LOANED`].
    pub loaned: bool,
    /// Their topic.
    pub topic: TopicId,
    /// Their sender.
    pub sender: InstanceId,
    /// The sequence number of the first.
    pub first: u64,
    /// The sequence number of the last.
    pub last: u64,
    /// How many frames there are, at least 1.
    pub frames: u32,
}

impl Span {
    /// A span of one frame.
    fn of(head: &Head, bytes: Bytes) -> Span {
        Span {
            bytes,
            kind: head.kind,
            part: head.part(),
            loaned: head.flags.has(Flags::LOANED),
            topic: head.topic,
            sender: head.sender,
            first: head.sequence,
            last: head.sequence,
            frames: 1,
        }
    }

    /// The frames, one by one, without a copy.
    pub fn iter(&self) -> Frames {
        Frames { rest: self.bytes.clone() }
    }

    /// The head and the body of each frame, for a look.
    pub fn look(&self) -> impl Iterator<Item = (Head, &[u8])> + Clone {
        let mut at = 0;
        std::iter::from_fn(move || {
            let head = wire::decode_checked_head(self.bytes.get(at..)?)?;
            let body = self.bytes.get(at + HEAD_BYTES..at + head.frame_bytes())?;
            at += head.frame_bytes();
            Some((head, body))
        })
    }

    /// How many messages begin in it.
    pub fn messages(&self) -> u64 {
        if self.part.begins() { u64::from(self.frames) } else { 0 }
    }

    /// Cuts before the first frame that does not fit `bytes_max`: what fits, and the rest.
    pub fn cut(self, bytes_max: usize) -> (Option<Span>, Option<Span>) {
        if self.bytes.len() <= bytes_max {
            return (Some(self), None);
        }
        let cut = self.walk(|_, end, _| end <= bytes_max);
        self.cut_at(&cut)
    }

    /// Cuts after `frames` frames: what is before, and the rest.
    pub fn cut_after(self, frames: u32) -> (Option<Span>, Option<Span>) {
        let cut = self.walk(|_, _, before| before < frames);
        self.cut_at(&cut)
    }

    /// The last frames that fit `bytes_max`, and how many there are before them.
    pub fn newest(self, bytes_max: usize) -> (Option<Span>, u32) {
        let bytes = self.bytes.len();
        let cut = self.walk(|start, _, _| bytes - start > bytes_max);
        let skipped = cut.frames;
        (self.behind(&cut), skipped)
    }

    /// Cuts after the frame in which byte `at` is: what `at` leaves of that frame, and the frames behind it.
    pub fn rest_from(self, at: usize) -> (Bytes, Option<Span>) {
        let cut = self.walk(|start, _, _| start < at);
        (self.bytes.slice(at..cut.at.max(at)), self.behind(&cut))
    }

    /// Goes over the frames as long as `takes` says so of a frame: where it begins and ends, and how many are before
    /// it.
    fn walk(&self, takes: impl Fn(usize, usize, u32) -> bool) -> Cut {
        let mut cut = Cut { at: 0, frames: 0, last: 0 };
        // Of each frame only the length counts here, for there can be very many.
        while let Some(bytes) = self.bytes.get(cut.at..).and_then(wire::frame_bytes)
            && takes(cut.at, cut.at + bytes, cut.frames)
        {
            cut = Cut { at: cut.at + bytes, frames: cut.frames + 1, last: cut.at };
        }
        cut
    }

    fn cut_at(self, cut: &Cut) -> (Option<Span>, Option<Span>) {
        if cut.at == 0 {
            return (None, Some(self));
        }
        if cut.at >= self.bytes.len() {
            return (Some(self), None);
        }
        let mut before = self.clone();
        before.bytes.truncate(cut.at);
        before.frames = cut.frames;
        // The sequence numbers need not be consecutive: on its way a span may have lost some.
        before.last = sequence_at(&self.bytes, cut.last).unwrap_or(before.first);
        (Some(before), self.behind(cut))
    }

    fn behind(mut self, cut: &Cut) -> Option<Span> {
        if cut.at > 0 {
            self.first = sequence_at(&self.bytes, cut.at)?;
            self.bytes = self.bytes.slice(cut.at..);
            self.frames -= cut.frames;
        }
        Some(self)
    }
}

/// Where a span is cut.
struct Cut {
    at: usize,
    /// How many frames are before.
    frames: u32,
    /// Where the last of them begins.
    last: usize,
}

/// The frames of a [`Span`].
#[derive(Clone, Debug)]
pub struct Frames {
    rest: Bytes,
}

impl Iterator for Frames {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        Frame::split_from(&mut self.rest)
    }
}

/// One frame, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its head.
    pub head: Head,
    /// What follows the head: metadata and payload.
    pub body: Bytes,
}

impl Frame {
    fn split_from(rest: &mut Bytes) -> Option<Frame> {
        let head = head_at(rest, 0)?;
        if rest.len() < head.frame_bytes() {
            return None;
        }
        let body = rest.split_to(head.frame_bytes()).split_off(HEAD_BYTES);
        Some(Frame { head, body })
    }

    /// The metadata's bytes, none if the message has none.
    pub fn metadata(&self) -> &[u8] {
        &self.body[..usize::from(self.head.metadata)]
    }

    /// The payload, without a copy.
    pub fn payload(&self) -> Bytes {
        self.body.slice(usize::from(self.head.metadata)..)
    }
}

/// Takes the next span from the front of `buffer`; `None` until a whole frame is there.
///
/// # Errors
/// The bytes at the front are no frame. The stream can't be read on.
pub fn next_span(buffer: &mut BytesMut) -> Result<Option<Span>, Malformed> {
    let Some(first) = whole_frame(buffer, 0)? else { return Ok(None) };
    let run = match first.kind {
        Kind::Message if first.flags == Flags::NONE => Run::of(buffer, &first, |_| true),
        Kind::Record => Run::of(buffer, &first, |next| next.metadata == 0 && next.body as usize >= RECORD_HEAD_BYTES),
        _ => Run { end: first.frame_bytes(), frames: 1, last: first.sequence },
    };
    let Run { end, frames, last } = run;
    Ok(Some(Span { last, frames, ..Span::of(&first, buffer.split_to(end).freeze()) }))
}

/// Frames that go the same way.
struct Run {
    end: usize,
    frames: u32,
    last: u64,
}

impl Run {
    /// The longest at the front of `buffer`, where `first` is whole: of frames that are sound, as far as
    /// [`follower`] does not say so.
    fn of(buffer: &[u8], first: &Head, is_sound: impl Fn(&Head) -> bool) -> Run {
        let mut run = Run { end: first.frame_bytes(), frames: 1, last: first.sequence };
        while let Some(next) =
            follower(buffer, run.end, first).filter(|next| next.sequence > run.last && is_sound(next))
        {
            run = Run { end: run.end + next.frame_bytes(), frames: run.frames + 1, last: next.sequence };
        }
        run
    }
}

/// The frame at the front of `buffer`, of which only the beginning is there: what [`next_span`] would say of it but for
/// its bytes, and how many of them are missing. `None` if it is whole, malformed, or its head is not there.
pub fn begun_frame(buffer: &[u8]) -> Option<(Span, usize)> {
    let head = wire::decode_head(buffer).ok()??;
    let missing = head.frame_bytes().checked_sub(buffer.len()).filter(|missing| *missing > 0)?;
    Some((Span::of(&head, Bytes::new()), missing))
}

/// How many bytes the frame at the front of `buffer` still lacks; 0 if that can't be told yet.
pub fn missing(buffer: &[u8]) -> usize {
    match wire::decode_head(buffer) {
        Ok(Some(head)) => head.frame_bytes().saturating_sub(buffer.len()),
        _ => 0,
    }
}

/// The whole frame at `at`, if it goes the same way as `first`, unfragmented. As a message it is sound then;
/// it is checked no further, for this
/// is done for every message: what is malformed is met again, at the front, by the next call.
#[inline]
fn follower(buffer: &[u8], at: usize, first: &Head) -> Option<Head> {
    let bytes = &buffer[at..];
    let head = wire::decode_checked_head(bytes)?;
    let same_way = head.kind == first.kind
        && head.flags == first.flags
        && head.topic == first.topic
        && head.sender == first.sender
        && head.body as usize <= BODY_BYTES_MAX
        && u32::from(head.metadata) <= head.body
        && head.frame_bytes() <= bytes.len();
    same_way.then_some(head)
}

fn whole_frame(buffer: &[u8], at: usize) -> Result<Option<Head>, Malformed> {
    let head = wire::decode_head(&buffer[at..])?;
    Ok(head.filter(|head| buffer.len() - at >= head.frame_bytes()))
}

/// The head at `at` in bytes that have been checked before.
fn head_at(bytes: &[u8], at: usize) -> Option<Head> {
    wire::decode_head(bytes.get(at..)?).ok().flatten()
}

fn sequence_at(bytes: &[u8], at: usize) -> Option<u64> {
    head_at(bytes, at).map(|head| head.sequence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(topic: u32, sequence: u64, payload: usize) -> Vec<u8> {
        let head = Head {
            body: u32::try_from(payload).unwrap(),
            kind: Kind::Message,
            flags: Flags::NONE,
            metadata: 0,
            topic: TopicId(topic),
            sender: InstanceId(3),
            sequence,
        };
        let mut bytes = wire::encode_head(&head).to_vec();
        bytes.resize(HEAD_BYTES + payload, 7);
        bytes
    }

    fn split(bytes: &[u8]) -> Vec<Span> {
        let mut buffer = BytesMut::from(bytes);
        std::iter::from_fn(|| next_span(&mut buffer).unwrap()).collect()
    }

    #[test]
    fn frames_of_one_topic_are_one_span() {
        let stream = [message(1, 1, 5), message(1, 2, 0), message(2, 3, 9), message(2, 4, 1)].concat();
        let spans = split(&stream);
        let seen: Vec<_> = spans.iter().map(|s| (s.topic.0, s.frames, s.first, s.last)).collect();
        assert_eq!(seen, [(1, 2, 1, 2), (2, 2, 3, 4)]);
    }

    #[test]
    fn a_sequence_that_does_not_rise_ends_the_span() {
        assert_eq!(split(&[message(1, 2, 0), message(1, 2, 0)].concat()).len(), 2);
    }

    #[test]
    fn records_of_one_sender_on_one_topic_are_one_span_unless_one_is_malformed() {
        let record = |sequence, payload, metadata| {
            let mut bytes = message(1, sequence, payload);
            (bytes[4], bytes[6]) = (Kind::Record as u8, metadata);
            bytes
        };
        let spans = split(&[record(1, 32, 0), record(3, 40, 0), message(1, 4, 5), record(0, 32, 0)].concat());
        let seen: Vec<_> = spans.iter().map(|s| (s.kind, s.frames, s.look().count())).collect();
        assert_eq!(seen, [(Kind::Record, 2, 2), (Kind::Message, 1, 1), (Kind::Record, 1, 1)]);
        for malformed in [record(2, 31, 0), record(2, 32, 1)] {
            let mut buffer = BytesMut::from(&[record(1, 32, 0), malformed].concat()[..]);
            assert_eq!(next_span(&mut buffer).unwrap().unwrap().frames, 1);
            assert!(next_span(&mut buffer).is_err());
        }
    }

    #[test]
    fn half_a_frame_waits() {
        let bytes = message(1, 1, 100);
        let mut buffer = BytesMut::from(&bytes[..60]);
        assert_eq!(next_span(&mut buffer), Ok(None));
        assert_eq!(missing(&buffer), 64);
        let (begun, lacking) = begun_frame(&buffer).unwrap();
        assert_eq!((begun.first, begun.frames, lacking), (1, 1, 64));
        buffer.extend_from_slice(&bytes[60..]);
        assert_eq!(next_span(&mut buffer).unwrap().unwrap().bytes, bytes);
    }

    #[test]
    fn what_is_no_frame_is_an_error_after_what_is() {
        let mut stream = message(1, 1, 5);
        stream.extend_from_slice(&[0xff; 24]);
        let mut buffer = BytesMut::from(&stream[..]);
        assert_eq!(next_span(&mut buffer).unwrap().unwrap().frames, 1);
        assert!(next_span(&mut buffer).is_err());
    }

    proptest! {
        #[test]
        fn spans_are_the_stream_wherever_it_is_cut(
            frames in prop::collection::vec((1u32..3, 0usize..50), 1..40),
            step in 1usize..200,
        ) {
            let stream: Vec<u8> =
                (1..).zip(&frames).flat_map(|(n, (topic, size))| message(*topic, n, *size)).collect();
            let mut buffer = BytesMut::new();
            let mut out = Vec::new();
            let mut sequence = 0;
            for piece in stream.chunks(step) {
                buffer.extend_from_slice(piece);
                while let Some(span) = next_span(&mut buffer).unwrap() {
                    prop_assert_eq!(span.first, sequence + 1);
                    prop_assert_eq!(span.last - span.first + 1, u64::from(span.frames));
                    prop_assert_eq!(span.iter().count(), span.frames as usize);
                    let looked_at: Vec<(Head, Vec<u8>)> = span.look().map(|(head, body)| (head, body.to_vec())).collect();
                    let frames: Vec<_> = span.iter().map(|frame| (frame.head, frame.body.to_vec())).collect();
                    prop_assert_eq!(looked_at, frames);
                    sequence = span.last;
                    out.extend_from_slice(&span.bytes);
                }
            }
            prop_assert_eq!(out, stream);
        }

        #[test]
        fn cutting_loses_nothing(sizes in prop::collection::vec(0usize..50, 1..20), at in 0usize..800) {
            let stream: Vec<u8> = (1..).zip(&sizes).flat_map(|(n, size)| message(1, n, *size)).collect();
            let span = split(&stream).remove(0);
            let check = |(before, after): (Option<Span>, Option<Span>)| {
                let parts: Vec<Span> = before.into_iter().chain(after).collect();
                let joined: Vec<u8> = parts.iter().flat_map(|s| s.bytes.to_vec()).collect();
                assert_eq!(joined, stream);
                for part in &parts {
                    let again = split(&part.bytes).remove(0);
                    assert_eq!(&again, part);
                }
                parts
            };
            let (fits, _) = span.clone().cut(at);
            prop_assert!(fits.is_none_or(|s| s.bytes.len() <= at));
            check(span.clone().cut(at));
            check(span.clone().cut_after(u32::try_from(at).unwrap() % 21));
            let (of_frame, behind) = span.clone().rest_from(at.min(stream.len()));
            let behind = behind.map_or(Vec::new(), |span| {
                assert_eq!(&split(&span.bytes).remove(0), &span);
                span.bytes.to_vec()
            });
            prop_assert_eq!([&of_frame[..], &behind].concat(), &stream[at.min(stream.len())..]);
            prop_assert!(of_frame.len() < HEAD_BYTES + 50);
            let (newest, skipped) = span.clone().newest(at);
            let newest_bytes = newest.as_ref().map_or(0, |s| s.bytes.len());
            prop_assert!(newest_bytes <= at);
            prop_assert_eq!(skipped + newest.map_or(0, |s| s.frames), span.frames);
        }

        #[test]
        fn any_bytes_are_split_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = next_span(&mut buffer) {}
        }
    }
}
