//! What is gathered, and what is left.

#![cfg(target_os = "linux")]

use super::*;
use pipebus_proto::frame::{Flags, Kind};
use pipebus_proto::splitter::next_span;
use pipebus_proto::topic::{InstanceId, TopicId};
use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, tee};
use tokio::net::unix::pipe;

const BODY_BYTES: usize = 64 * 1024;

fn frame(sequence: u64, topic: u32, body: usize) -> Vec<u8> {
    let head = Head {
        body: body as u32,
        kind: Kind::Message,
        flags: Flags::LOANED,
        metadata: 0,
        topic: TopicId(topic),
        sender: InstanceId(7),
        sequence,
    };
    [&encode_head(&head)[..], &vec![sequence as u8; body]].concat()
}

/// What came of some bytes.
struct Outcome {
    /// The first and the last sequence number that were gathered, and the frames.
    gathered: (u64, u64, Vec<u8>),
    /// What is left, in the buffer and in the pipe.
    left: Vec<u8>,
}

/// Gathers what `write` writes, of which so many bytes have been read. `None` where pages can't be moved.
fn gather(write: impl FnOnce(&pipe::Sender), read: usize) -> Option<Outcome> {
    drop(Scratch::take()?);
    let (writer, reader) = pipe::pipe().unwrap();
    let mut source = Source::of(&reader);
    write(&writer);
    let mut buffer = BytesMut::zeroed(read);
    assert_eq!(try_read(&reader, &mut buffer).unwrap(), read);
    let missing = pipebus_proto::splitter::missing(&buffer);
    assert!(source.has(&reader, missing));
    let Ok(gathered) = Gathered::gather(&mut buffer, &reader, &mut source) else { panic!("nothing is gathered") };
    check_looks(&gathered);
    let frames = relay::read_rest(gathered.pipe(), gathered.bytes());
    let (first, last) = (gathered.span.first, gathered.span.last);
    gathered.end(&mut buffer);
    let mut in_pipe = vec![0; 1 << 20];
    let count = try_read(&reader, &mut in_pipe).unwrap_or(0);
    Some(Outcome { gathered: (first, last, frames), left: [&buffer, &in_pipe[..count]].concat() })
}

/// What is seen of each body is what it begins with, however much, and all of it is still there.
fn check_looks(gathered: &Gathered) {
    let body = gathered.frame_bytes() - HEAD_BYTES;
    for bytes in [0, 1, body / 2, body] {
        let heads = (0..gathered.span.frames as usize).map(|number| gathered.head(number));
        let expected: Vec<u8> = heads.flat_map(|head| vec![head.sequence as u8; bytes]).collect();
        assert!(gathered.look(bytes) == expected, "{bytes} bytes");
    }
}

fn write_all(writer: &pipe::Sender, bytes: &[u8]) {
    fcntl_setpipe_size(writer, 1 << 20).unwrap();
    assert_eq!(rustix::io::write(writer, bytes), Ok(bytes.len()));
}

#[tokio::test]
async fn frames_that_are_like_the_first_go_together_and_what_comes_behind_is_left() {
    let three = [frame(1, 1, BODY_BYTES), frame(2, 1, BODY_BYTES), frame(3, 1, BODY_BYTES)].concat();
    for behind in [
        Vec::new(),
        frame(4, 2, BODY_BYTES),
        frame(4, 1, BODY_BYTES + 1),
        frame(5, 1, BODY_BYTES),
        frame(4, 1, 10),
        frame(4, 1, BODY_BYTES)[..BODY_BYTES].to_vec(),
        vec![1; 7],
    ] {
        let write = |writer: &pipe::Sender| write_all(writer, &[&three[..], &behind].concat());
        let Some(Outcome { gathered, left }) = gather(write, 100) else { return };
        assert_eq!(gathered, (1, 3, three.clone()));
        assert_eq!(left, behind);
    }
}

#[tokio::test]
async fn what_does_not_fit_is_read() {
    // In pieces that take a place each, of which a scratch pipe has as many as the publisher's pipe.
    let bytes = [1, 2, 3, 4].map(|sequence| frame(sequence, 1, 64 * 512 - HEAD_BYTES)).concat();
    let write = |writer: &pipe::Sender| {
        fcntl_setpipe_size(writer, 1 << 20).unwrap();
        for piece in bytes.chunks(512) {
            let (from, to) = rustix::pipe::pipe().unwrap();
            assert_eq!(rustix::io::write(&to, piece), Ok(512));
            assert_eq!(tee(&from, writer, 512, SpliceFlags::NONBLOCK), Ok(512));
        }
    };
    let Some(Outcome { gathered: (first, last, frames), left }) = gather(write, HEAD_BYTES) else { return };
    assert_eq!((first, last), (1, 3));
    let mut all = BytesMut::from(&[frames, left].concat()[..]);
    assert_eq!(all, bytes);
    while next_span(&mut all).unwrap().is_some() {}
    assert!(all.is_empty());
}
