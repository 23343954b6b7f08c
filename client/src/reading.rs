//! Reading: what the broker says, from the connection's pipe to the memory in which the app gets it.
//!
//! Frames are read as they come, many at once, into a buffer of which messages are slices. Fragments can't be: their
//! bodies are read to where their message is put together, and only what comes together with their heads is copied.

use bytes::{Buf, BufMut, BytesMut};
use pipebus_proto::frame::{Flags, HEAD_BYTES, Head, Part};
use pipebus_proto::splitter::{Span, missing, next_span};
use pipebus_proto::wire::decode_head;
use tokio::io::AsyncReadExt;

use crate::connection::{FULL_PIPE_BYTES, LARGE_BYTES_MIN, LARGE_PIPE_BYTES};
use crate::error::Result;
use crate::incoming::{Incoming, protocol};
use crate::transport::{Reader, grow};

/// How much is read at once.
const READ_BYTES: usize = 128 * 1024;

/// How much is read at once from a pipe that was made larger.
const READ_BYTES_OF_LARGE: usize = 256 * 1024;

/// The writer gets its turn at the latest when so many bytes of loaned messages have been read: others wait to use that
/// memory again.
const CONSUMED_BYTES_MAX: usize = 512 * 1024;

/// What a pipe holds unless it was made larger (pipe(7)).
const DEFAULT_PIPE_BYTES: usize = 64 * 1024;

/// Reads until the broker has said goodbye or has gone. `buffer` is what has been read before.
pub(crate) async fn read_loop(incoming: &mut Incoming, reader: Reader, buffer: BytesMut) -> Result<()> {
    let mut inlet =
        Inlet { reader, buffer, read_bytes: READ_BYTES, large: false, fragments_follow: false, loaned_bytes: 0 };
    loop {
        let goes_on = if let Some(fragment) = inlet.next_fragment()? {
            inlet.read_fragment(&fragment, incoming).await
        } else if let Some(span) = inlet.next_span()? {
            incoming.handle(span).await?
        } else {
            inlet.read().await
        };
        if !goes_on {
            return Ok(());
        }
    }
}

/// The pipe from the broker.
struct Inlet {
    reader: Reader,
    /// What has been read and not been taken.
    buffer: BytesMut,
    /// How much is read at once.
    read_bytes: usize,
    /// The pipe was made large.
    large: bool,
    /// The last frame was of a message in large fragments, so the next may be.
    fragments_follow: bool,
    /// Of loaned messages, since the writer had its turn.
    loaned_bytes: usize,
}

impl Inlet {
    /// Takes the head of a fragment from the front of the buffer, whether or not its body is there.
    fn next_fragment(&mut self) -> Result<Option<Head>> {
        let head = decode_head(&self.buffer).map_err(protocol)?.filter(|head| head.part() != Part::Whole);
        if head.is_some() {
            self.buffer.advance(HEAD_BYTES);
        }
        Ok(head)
    }

    /// Takes whole frames that are no fragments from the front of the buffer.
    fn next_span(&mut self) -> Result<Option<Span>> {
        let span = next_span(&mut self.buffer).map_err(protocol)?;
        if let Some(span) = &span {
            self.fragments_follow = false;
            self.count_loaned(span.loaned, span.bytes.len());
        }
        Ok(span)
    }

    /// Reads what there is; `false` at the end.
    async fn read(&mut self) -> bool {
        if self.loaned_bytes >= CONSUMED_BYTES_MAX {
            self.loaned_bytes = 0;
            tokio::task::yield_now().await;
        }
        let missing = missing(&self.buffer);
        self.expect(missing);
        if self.buffer.capacity() - self.buffer.len() < missing.max(self.read_bytes / 2) {
            self.buffer.reserve(missing.max(self.read_bytes));
        }
        // What came of a fragment's body with its head would have to be copied, which costs more than a system call.
        let of_head = HEAD_BYTES.saturating_sub(self.buffer.len());
        let max = if self.fragments_follow && of_head > 0 { of_head } else { usize::MAX };
        match self.reader.read_buf(&mut (&mut self.buffer).limit(max)).await {
            Ok(0) | Err(_) => return false,
            Ok(bytes) if bytes >= DEFAULT_PIPE_BYTES && self.read_bytes == READ_BYTES => {
                self.read_bytes = READ_BYTES_OF_LARGE;
                grow(&self.reader, FULL_PIPE_BYTES);
            }
            Ok(_) => {}
        }
        true
    }

    /// Reads a fragment's body to where it is to be; `false` if the stream ends in it.
    async fn read_fragment(&mut self, head: &Head, incoming: &mut Incoming) -> bool {
        let mut nowhere = BytesMut::new();
        let frame = incoming.begin_fragment(head).unwrap_or(&mut nowhere);
        if !self.read_body(head.body as usize, frame).await {
            return false;
        }
        self.count_loaned(head.flags.has(Flags::LOANED), head.frame_bytes());
        // The last one is as long as it happens to be, and says nothing of what follows.
        if head.part() != Part::Last {
            self.fragments_follow = head.body as usize >= LARGE_BYTES_MIN;
        }
        incoming.end_fragment(head).await;
        true
    }

    /// Puts the next `bytes` bytes of the stream behind `frame`, and not one more.
    async fn read_body(&mut self, bytes: usize, frame: &mut BytesMut) -> bool {
        frame.reserve(bytes);
        let here = bytes.min(self.buffer.len());
        frame.put_slice(&self.buffer[..here]);
        self.buffer.advance(here);
        let mut missing = bytes - here;
        self.expect(missing);
        while missing > 0 {
            match self.reader.read_buf(&mut (&mut *frame).limit(missing)).await {
                Ok(0) | Err(_) => return false,
                Ok(bytes) => missing -= bytes,
            }
        }
        true
    }

    /// A frame lacks so many bytes: many, and it is large.
    fn expect(&mut self, missing: usize) {
        if missing >= LARGE_BYTES_MIN && !self.large {
            self.large = true;
            self.read_bytes = READ_BYTES_OF_LARGE;
            grow(&self.reader, LARGE_PIPE_BYTES);
        }
    }

    fn count_loaned(&mut self, loaned: bool, bytes: usize) {
        if loaned {
            self.loaned_bytes += bytes;
        }
    }
}

#[cfg(test)]
mod tests;
