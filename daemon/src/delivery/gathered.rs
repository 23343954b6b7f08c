//! Gathered: large frames that were taken out of their publisher's pipe together, so that they go on together: whoever
//! gets them is woken once, not for each.

use bytes::{Bytes, BytesMut};
use pipebus_proto::frame::{HEAD_BYTES, Head, Part};
use pipebus_proto::splitter::{Span, begun_frame};
use pipebus_proto::wire::{decode_head, encode_head};

use crate::relay::{self, Scratch, Source};
use crate::transport::{Reader, try_read};

/// No more is gathered than fits a scratch pipe, of which each frame takes a page more than it fills, or two.
const GATHERED_BYTES_MAX: usize = 768 * 1024;

/// Frames of one sender that go the same way and are of one length. Their heads are the broker's copies, behind each is
/// what the client wrote.
pub(crate) struct Gathered {
    /// Without its bytes.
    pub(crate) span: Span,
    pub(crate) frame_bytes: usize,
    scratch: Scratch,
    first: Head,
    /// How much of the next frame is behind them, for which there was no room.
    behind: usize,
    /// How many bytes have been taken out of the publisher's pipe.
    pub(crate) taken: usize,
}

impl Gathered {
    /// Takes the large frame that begins in `buffer`, which is known to be whole in the pipe behind it, and those like it
    /// that follow. What was read and is not like it is left in `buffer`. `None` if the frame has to be read.
    pub(crate) fn gather(buffer: &mut BytesMut, reader: &Reader, source: &mut Source) -> Option<Gathered> {
        let (span, in_pipe) = begun_frame(buffer)?;
        let first = decode_head(buffer).ok()??;
        let scratch = Scratch::take().filter(|scratch| scratch.put(buffer))?;
        let taken = scratch.put_from(reader, in_pipe);
        source.taken(taken);
        let frame_bytes = first.frame_bytes();
        let behind = if taken < in_pipe { buffer.len() + taken } else { 0 };
        buffer.clear();
        let mut gathered = Gathered { span, frame_bytes, scratch, first, behind, taken };
        if behind > 0 {
            gathered.end(buffer);
            return None;
        }
        while gathered.span.part == Part::Whole && gathered.take_next(buffer, reader, source) {}
        Some(gathered)
    }

    /// Takes the next frame if it is like the others and wholly there. Otherwise there are no more.
    fn take_next(&mut self, buffer: &mut BytesMut, reader: &Reader, source: &mut Source) -> bool {
        if self.bytes() + self.frame_bytes > GATHERED_BYTES_MAX || !source.has(reader, self.frame_bytes) {
            return false;
        }
        let mut head = [0; HEAD_BYTES];
        let read = try_read(reader, &mut head).unwrap_or(0);
        source.taken(read);
        self.taken += read;
        let like_the_others = Head { sequence: self.span.last.wrapping_add(1), ..self.first };
        if head[..read] != encode_head(&like_the_others) || !self.scratch.put(&head) {
            buffer.extend_from_slice(&head[..read]);
            return false;
        }
        let body = self.frame_bytes - HEAD_BYTES;
        let taken = self.scratch.put_from(reader, body);
        source.taken(taken);
        self.taken += taken;
        if taken < body {
            self.behind = HEAD_BYTES + taken;
            return false;
        }
        self.span.last += 1;
        self.span.frames += 1;
        true
    }

    /// Where they are: a pipe that nobody else knows.
    pub(crate) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// How many bytes they have together.
    pub(crate) fn bytes(&self) -> usize {
        self.span.frames as usize * self.frame_bytes
    }

    /// How many messages begin in its first bytes, which are whole frames.
    pub(crate) fn messages_in(&self, bytes: usize) -> u64 {
        if self.span.part.begins() { (bytes / self.frame_bytes) as u64 } else { 0 }
    }

    /// The frames that begin at `at` and behind it, of which these are the bytes; `None` if there are none.
    pub(crate) fn span_from(&self, at: usize, bytes: Bytes) -> Option<Span> {
        let before = u32::try_from(at.div_ceil(self.frame_bytes)).unwrap_or(u32::MAX);
        let frames = self.span.frames.checked_sub(before).filter(|frames| *frames > 0)?;
        Some(Span { bytes, first: self.span.first + u64::from(before), frames, ..self.span.clone() })
    }

    /// All that was gathered has gone on: what is behind it is to be read like anything else.
    pub(crate) fn end(self, buffer: &mut BytesMut) {
        buffer.extend_from_slice(&relay::read_rest(self.scratch.pipe(), self.behind));
        self.scratch.give_back(0);
    }
}

#[cfg(test)]
mod tests {
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

    /// What is gathered of these bytes: which sequence numbers, and the frames; what is left to be read as others are, and
    /// what is left in the pipe. `None` where pages can't be moved.
    fn gather(
        write: impl FnOnce(&pipe::Sender),
        read: usize,
    ) -> Option<(Option<(u64, u64, Vec<u8>)>, Vec<u8>, Vec<u8>)> {
        drop(Scratch::take()?);
        let (writer, reader) = pipe::pipe().unwrap();
        let mut source = Source::of(&reader);
        write(&writer);
        let mut buffer = BytesMut::zeroed(read);
        assert_eq!(try_read(&reader, &mut buffer).unwrap(), read);
        let missing = pipebus_proto::splitter::missing(&buffer);
        assert!(source.has(&reader, missing));
        let gathered = Gathered::gather(&mut buffer, &reader, &mut source).map(|gathered| {
            let frames = relay::read_rest(gathered.scratch().pipe(), gathered.bytes());
            let (first, last) = (gathered.span.first, gathered.span.last);
            gathered.end(&mut buffer);
            (first, last, frames)
        });
        let mut left = vec![0; 1 << 20];
        let count = try_read(&reader, &mut left).unwrap_or(0);
        left.truncate(count);
        Some((gathered, buffer.to_vec(), left))
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
            let Some((gathered, buffer, left)) = gather(write, 100) else { return };
            assert_eq!(gathered, Some((1, 3, three.clone())));
            assert_eq!([buffer, left].concat(), behind);
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
        let Some((gathered, buffer, left)) = gather(write, HEAD_BYTES) else { return };
        let (first, last, frames) = gathered.unwrap();
        assert_eq!((first, last), (1, 3));
        let mut all = BytesMut::from(&[frames, buffer, left].concat()[..]);
        assert_eq!(all, bytes);
        while next_span(&mut all).unwrap().is_some() {}
        assert!(all.is_empty());
    }
}
