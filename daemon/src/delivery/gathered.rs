//! Gathered: large frames that were taken out of their publisher's pipe together, so that they go on together: whoever
//! gets them is woken once, not for each.
//!
//! Only frames that are like the first go together: whole messages, of the same topic, flags and length, one after
//! another. So one route and one loan do for all of them, and where each begins is known.

use bytes::{Bytes, BytesMut};
use pipebus_proto::frame::{HEAD_BYTES, Head, Part};
use pipebus_proto::splitter::{Span, begun_frame};
use pipebus_proto::wire::{decode_head, encode_head};

use crate::relay::{self, Pipe, Scratch, Source};
use crate::transport::{Reader, try_read};

/// No more is gathered, so that it fits a scratch pipe: that holds pages, and heads and the ends of frames do not fill
/// theirs.
const GATHERED_BYTES_MAX: usize = 768 * 1024;

/// Frames of one sender that go the same way and are of one length. Their heads are the broker's copies, behind each is
/// what the client wrote.
pub(crate) struct Gathered {
    /// Without its bytes.
    pub(crate) span: Span,
    scratch: Scratch,
    first: Head,
    /// How much of the next frame is behind them, for which there was no room.
    behind: usize,
    /// How many bytes have been taken out of the publisher's pipe.
    pub(crate) taken: usize,
}

impl Gathered {
    /// Takes the large frame that begins in `buffer`, which is known to be whole in the pipe behind it, and those like it
    /// that follow. What was read and is not like it is left in `buffer`.
    ///
    /// # Errors
    /// The frame has to be read. So many bytes have been, and are in `buffer`.
    pub(crate) fn gather(buffer: &mut BytesMut, reader: &Reader, source: &mut Source) -> Result<Gathered, usize> {
        let Some((span, in_pipe)) = begun_frame(buffer) else { return Err(0) };
        let Ok(Some(first)) = decode_head(buffer) else { return Err(0) };
        let Some(scratch) = Scratch::take().filter(|scratch| scratch.put(buffer)) else { return Err(0) };
        let taken = scratch.put_from(reader, in_pipe);
        source.taken(taken);
        let behind = if taken < in_pipe { buffer.len() + taken } else { 0 };
        buffer.clear();
        let mut gathered = Gathered { span, scratch, first, behind, taken };
        if behind > 0 {
            gathered.end(buffer);
            return Err(taken);
        }
        while gathered.span.part == Part::Whole && gathered.take_next(buffer, reader, source) {}
        Ok(gathered)
    }

    /// Takes the next frame if it is like the others and wholly there. Otherwise there are no more.
    fn take_next(&mut self, buffer: &mut BytesMut, reader: &Reader, source: &mut Source) -> bool {
        if self.bytes() + self.frame_bytes() > GATHERED_BYTES_MAX || !source.has(reader, self.frame_bytes()) {
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
        let body = self.frame_bytes() - HEAD_BYTES;
        let taken = self.scratch.put_from(reader, body);
        source.taken(taken);
        self.taken += taken;
        if taken < body {
            self.behind = HEAD_BYTES + taken;
            return false;
        }
        self.span.last = like_the_others.sequence;
        self.span.frames += 1;
        true
    }

    /// Where they are: a pipe that nobody else knows.
    pub(crate) fn pipe(&self) -> &Pipe {
        self.scratch.pipe()
    }

    /// How many bytes each has.
    pub(crate) fn frame_bytes(&self) -> usize {
        self.first.frame_bytes()
    }

    /// How many bytes they have together.
    pub(crate) fn bytes(&self) -> usize {
        self.span.frames as usize * self.frame_bytes()
    }

    /// How many messages begin in so many of the frames.
    pub(crate) fn messages_in(&self, frames: usize) -> u64 {
        if self.span.part.begins() { frames as u64 } else { 0 }
    }

    /// One of the frames, counted from 0, of which these are the bytes.
    pub(crate) fn frame(&self, number: usize, bytes: Bytes) -> Span {
        let sequence = self.span.first + number as u64;
        Span { bytes, first: sequence, last: sequence, frames: 1, ..self.span.clone() }
    }

    /// The head of one of the frames, counted from 0.
    pub(crate) fn head(&self, number: usize) -> Head {
        Head { sequence: self.span.first + number as u64, ..self.first }
    }

    /// The first bytes of each body, of each as many; nothing where they can't be had. They are left where they are.
    pub(crate) fn look(&self, bytes: usize) -> Vec<u8> {
        let shared = Some(self.bytes()).filter(|_| bytes > 0);
        let Some(copy) = shared.and_then(|all| Scratch::with_part_of(self.pipe(), 0, all)) else { return Vec::new() };
        let mut bodies = vec![0; self.span.frames as usize * bytes];
        for body in bodies.chunks_exact_mut(bytes) {
            relay::discard(copy.pipe(), HEAD_BYTES);
            relay::read_into(copy.pipe(), body);
            relay::discard(copy.pipe(), self.frame_bytes() - HEAD_BYTES - bytes);
        }
        copy.give_back(0);
        bodies
    }

    /// All that was gathered has gone on: what is behind it is to be read like anything else.
    pub(crate) fn end(self, buffer: &mut BytesMut) {
        buffer.extend_from_slice(&relay::read_rest(self.scratch.pipe(), self.behind));
        self.scratch.give_back(0);
    }
}

#[cfg(test)]
mod tests;
