//! Any stream, arriving in pieces: the spans are the stream, the same wherever it is cut, and can be cut again.
//!
//! The first byte is the size of the pieces; the second is where spans are cut.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use pipebus_proto::frame::{HEAD_BYTES, Head, Kind, Malformed, Part};
use pipebus_proto::splitter::{Frame, Span, next_span};
use pipebus_proto::wire::{encode_head, for_each_frame};

fuzz_target!(|input: &[u8]| {
    let [piece, at, stream @ ..] = input else { return };
    let (whole, whole_end) = split(stream, stream.len().max(1));
    let (pieces, pieces_end) = split(stream, usize::from(*piece).max(1));
    assert_eq!(whole_end, pieces_end);
    assert_eq!(joined(&whole), joined(&pieces));
    assert!(stream.starts_with(&joined(&whole)));
    assert_eq!(frames(&whole), frames(&pieces));
    for span in whole {
        check(&span);
        cut(&span, usize::from(*at));
    }
    rebuild(stream);
});

fn split(stream: &[u8], piece: usize) -> (Vec<Span>, Option<Malformed>) {
    let (mut buffer, mut spans) = (BytesMut::new(), Vec::new());
    for piece in stream.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match next_span(&mut buffer) {
                Ok(Some(span)) => spans.push(span),
                Ok(None) => break,
                Err(malformed) => return (spans, Some(malformed)),
            }
        }
    }
    (spans, None)
}

fn joined(spans: &[Span]) -> Vec<u8> {
    spans.iter().flat_map(|span| span.bytes.to_vec()).collect()
}

fn frames(spans: &[Span]) -> Vec<Frame> {
    spans.iter().flat_map(Span::iter).collect()
}

fn check(span: &Span) {
    let frames: Vec<Frame> = span.iter().collect();
    assert_eq!(frames.len(), span.frames as usize);
    let is_run = matches!(span.kind, Kind::Message | Kind::Record) && span.part == Part::Whole;
    assert!(span.frames == 1 || is_run);
    assert_eq!(span.look().count(), frames.len());
    assert_eq!((frames[0].head.sequence, frames[frames.len() - 1].head.sequence), (span.first, span.last));
    assert!(frames.windows(2).all(|pair| pair[0].head.sequence < pair[1].head.sequence));
    let mut bytes = Vec::new();
    for frame in &frames {
        let head = frame.head;
        assert_eq!((head.kind, head.topic, head.sender, head.part()), (span.kind, span.topic, span.sender, span.part));
        assert_eq!(frame.metadata().len() + frame.payload().len(), frame.body.len());
        bytes.extend_from_slice(&encode_head(&head));
        bytes.extend_from_slice(&frame.body);
    }
    assert_eq!(bytes, span.bytes);
}

fn cut(span: &Span, at: usize) {
    let both = |(before, after): (Option<Span>, Option<Span>)| {
        let parts: Vec<Span> = before.into_iter().chain(after).collect();
        parts.iter().for_each(check);
        assert_eq!(joined(&parts), span.bytes);
        assert_eq!(parts.iter().map(|part| part.frames).sum::<u32>(), span.frames);
        parts
    };
    let parts = both(span.clone().cut(at));
    assert!(parts[0].bytes.len() <= at || parts.len() == 1);
    both(span.clone().cut_after(u32::try_from(at % 8).expect("below 8")));
    let (newest, skipped) = span.clone().newest(at);
    assert_eq!(newest.as_ref().map_or(0, |newest| newest.frames) + skipped, span.frames);
    if let Some(newest) = newest {
        check(&newest);
        assert!(newest.bytes.len() <= at && span.bytes.ends_with(&newest.bytes));
    }
}

/// What `for_each_frame` makes of the stream as a payload is a stream of frames whose sum it is.
fn rebuild(payload: &[u8]) {
    let Ok(Some(head)) = pipebus_proto::wire::decode_head(payload) else { return };
    if head.kind != Kind::Message {
        return;
    }
    let head = Head { flags: Default::default(), metadata: 0, ..head };
    let mut stream = Vec::new();
    for_each_frame(head, &[], &Bytes::copy_from_slice(&payload[HEAD_BYTES..]), |head, metadata, piece| {
        stream.extend_from_slice(&head);
        stream.extend_from_slice(metadata);
        stream.extend_from_slice(&piece);
    });
    let (spans, end) = split(&stream, stream.len());
    assert_eq!((end, joined(&spans)), (None, stream));
    let sum: Vec<u8> = frames(&spans).iter().flat_map(|frame| frame.payload().to_vec()).collect();
    assert_eq!(sum, payload[HEAD_BYTES..]);
}
