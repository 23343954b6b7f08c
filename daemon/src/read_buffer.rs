//! ReadBuffer: where an instance's bytes arrive. One that waits holds no memory.
//!
//! The buffer is taken from a pool of its thread when there is something to read, not before: a thousand idle
//! instances share a few.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, ErrorKind::WouldBlock};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, Interest};
use tokio::time::Instant;

use crate::transport::{Reader, try_read};

/// How much is read at once: more than a pipe of the kernel's default size holds.
const READ_BYTES: usize = 128 * 1024;

/// How much is read at once between large frames, most of which are to stay in the pipe: a head, and a short control
/// frame before it.
const LOOK_AHEAD_BYTES: usize = 128;

/// Once in so many times that messages arrive, those that do are timed.
const TIMED_ONCE_IN: u8 = 64;

/// Buffers that wait in each thread's pool.
const POOL_MAX: usize = 4;

thread_local! {
    #[allow(clippy::missing_const_for_thread_local, reason = "it is const; where threads have no memory of their own, clippy can't tell")]
    static POOL: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that have arrived and are not yet cut into spans.
#[derive(Debug, Default)]
pub(crate) struct ReadBuffer {
    bytes: BytesMut,
    /// The last message was large, so the next may be: little more is read than its head.
    one_by_one: bool,
    /// Somebody has waited for more than came, and tokio now believes that the pipe is empty.
    look_first: bool,
    /// How often messages have arrived since some were timed.
    arrivals: u8,
}

impl ReadBuffer {
    /// What has arrived; the splitter takes from its front.
    pub(crate) fn bytes(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// The time, if what has just arrived is to be timed; the first that arrives is.
    pub(crate) fn arrival(&self) -> Option<std::time::Instant> {
        (self.arrivals == 0).then(|| Instant::now().into_std())
    }

    /// What has just arrived are messages.
    pub(crate) fn count_arrival(&mut self) {
        self.arrivals = (self.arrivals + 1) % TIMED_ONCE_IN;
    }

    /// Whether what comes next is to be read frame by frame, so that the rest of a large one stays in the pipe.
    pub(crate) fn read_one_by_one(&mut self, one_by_one: bool) {
        self.one_by_one = one_by_one;
    }

    /// There may be something to read though tokio has not heard of it.
    pub(crate) fn look_first(&mut self) {
        self.look_first = true;
    }

    /// Reads what there is, at least one byte unless the stream has ended; room is made for `wanted` bytes.
    ///
    /// # Cancel safety
    /// Nothing is read unless it returns.
    pub(crate) async fn read(&mut self, reader: &mut Reader, wanted: usize) -> io::Result<usize> {
        if self.look_first {
            match self.look(reader, wanted) {
                Err(error) if error.kind() == WouldBlock => self.look_first = false,
                read => return read,
            }
        }
        std::future::poll_fn(|context| self.poll_read(context, reader, wanted)).await
    }

    /// Reads what there is, whatever tokio has heard.
    fn look(&mut self, reader: &Reader, wanted: usize) -> io::Result<usize> {
        let mut bytes = vec![0; self.bytes_max(wanted).min(wanted.max(READ_BYTES))];
        let read = try_read(reader, &mut bytes)?;
        self.bytes.extend_from_slice(&bytes[..read]);
        Ok(read)
    }

    /// How much may be read at once, when a frame lacks `wanted` bytes.
    fn bytes_max(&self, wanted: usize) -> usize {
        if self.one_by_one { wanted.max(LOOK_AHEAD_BYTES) } else { usize::MAX }
    }

    fn poll_read(&mut self, context: &mut Context<'_>, reader: &mut Reader, wanted: usize) -> Poll<io::Result<usize>> {
        if self.bytes.capacity() == 0 {
            self.bytes = POOL.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        let room = wanted.max(READ_BYTES);
        if self.bytes.capacity() - self.bytes.len() < room.min(READ_BYTES / 2).max(wanted) {
            self.bytes.reserve(room);
        }
        let before = self.bytes.len();
        let max = self.bytes_max(wanted);
        // Reading never waits between taking bytes and returning, so a future made for each poll is as good as one.
        let polled = pin!(reader.read_buf(&mut (&mut self.bytes).limit(max))).poll(context);
        if polled.is_pending() && is_closed(reader) {
            // Who has closed its pipe for a moment and opened it anew has left.
            let read = self.look(reader, wanted);
            return Poll::Ready(read.or_else(|error| if error.kind() == WouldBlock { Ok(0) } else { Err(error) }));
        }
        if polled.is_pending() && before == 0 {
            let idle = std::mem::take(&mut self.bytes);
            POOL.with_borrow_mut(|pool| {
                if pool.len() < POOL_MAX {
                    pool.push(idle);
                }
            });
        }
        polled
    }
}

/// Whether nobody has been writing to the pipe for a moment. tokio does not forget that, even if somebody does again, and
/// would try to read it without a pause.
fn is_closed(reader: &Reader) -> bool {
    let ready = pin!(reader.ready(Interest::READABLE)).poll(&mut Context::from_waker(Waker::noop()));
    matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
}
