//! Reading: what the broker says, from the connection's pipe.

use bytes::BytesMut;
use pipebus_proto::splitter::{missing, next_span};
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
pub(crate) async fn read_loop(incoming: &mut Incoming, mut reader: Reader, mut buffer: BytesMut) -> Result<()> {
    let mut read_bytes = READ_BYTES;
    let mut large = false;
    let mut loaned_bytes = 0;
    loop {
        while let Some(span) = next_span(&mut buffer).map_err(protocol)? {
            if span.loaned {
                loaned_bytes += span.bytes.len();
            }
            if !incoming.handle(span).await? {
                return Ok(());
            }
        }
        if loaned_bytes >= CONSUMED_BYTES_MAX {
            loaned_bytes = 0;
            tokio::task::yield_now().await;
        }
        let missing = missing(&buffer);
        if missing >= LARGE_BYTES_MIN && !large {
            large = true;
            read_bytes = READ_BYTES_OF_LARGE;
            grow(&reader, LARGE_PIPE_BYTES);
        }
        if buffer.capacity() - buffer.len() < missing.max(read_bytes / 2) {
            buffer.reserve(missing.max(read_bytes));
        }
        match reader.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(bytes) if bytes >= DEFAULT_PIPE_BYTES && read_bytes == READ_BYTES => {
                read_bytes = READ_BYTES_OF_LARGE;
                grow(&reader, FULL_PIPE_BYTES);
            }
            Ok(_) => {}
        }
    }
}
