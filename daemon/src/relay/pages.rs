//! Pages: a pipe's pages go to other pipes as they are, by splice(2) and tee(2).

use std::fs::File;
use std::io::ErrorKind::{UnexpectedEof, WouldBlock};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::io::Errno;
use rustix::pipe::SpliceFlags;
use tokio::io::Interest;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::transport::{Reader, Writer};

/// What of a frame is still in its publisher's pipe stays there if it has at least so many bytes: from a payload of 32
/// KiB on, of which the first bytes may have been read with the head. `pipebus bench throughput --size 32768`.
pub(crate) const PAGES_BYTES_MIN: usize = 32 * 1024 - 256;

/// What the pipe of an instance that carries large messages grows to: the most that the kernel allows users who are not
/// root (pipe(7), fs.pipe-max-size).
pub(super) const PIPE_BYTES: usize = 1024 * 1024;

/// What a pipe has to hold besides a frame: it holds pages, and a frame seldom begins and ends with one.
const SLACK_BYTES: usize = 2 * 4096;

/// How long a frame may take to arrive whole in the pipe. Then it is read into memory, whatever the reason.
const PATIENCE: Duration = Duration::from_millis(20);

/// Makes an instance's pipe hold several large frames. The kernel may refuse (pipe(7), pipe-user-pages-soft); then it
/// stays as it is. Returns what it holds, in bytes.
pub(crate) fn grow(pipe: impl AsFd) -> usize {
    let held = rustix::pipe::fcntl_getpipe_size(&pipe).unwrap_or(0);
    if held >= PIPE_BYTES {
        return held;
    }
    rustix::pipe::fcntl_setpipe_size(&pipe, PIPE_BYTES).unwrap_or(held)
}

/// What is known of a pipe from which large frames come.
#[derive(Debug)]
pub(crate) struct Source {
    /// What it holds when it is full.
    bytes_max: usize,
    /// What it held when it was last asked, less what has been taken since: it holds at least that, and most frames
    /// need not ask.
    bytes: usize,
}

impl Source {
    pub(crate) fn of(reader: &Reader) -> Source {
        Source { bytes_max: grow(reader), bytes: 0 }
    }

    /// Waits until so many bytes are in the pipe; not for long, and not at all if they can't be.
    pub(crate) async fn has_soon(&mut self, reader: &Reader, bytes: usize) -> bool {
        if !self.has(reader, bytes) && bytes + SLACK_BYTES <= self.bytes_max {
            // In a box, since it is seldom: each instance would have room for it otherwise.
            self.bytes = Box::pin(wait_for(reader, bytes)).await;
        }
        self.bytes >= bytes
    }

    /// Whether so many bytes are in the pipe now.
    pub(crate) fn has(&mut self, reader: &Reader, bytes: usize) -> bool {
        if self.bytes < bytes {
            self.bytes = held(reader);
        }
        self.bytes >= bytes
    }

    /// So many bytes are no longer in the pipe.
    pub(crate) fn taken(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// Returns how many bytes are in the pipe, once there are enough or it has taken too long.
async fn wait_for(reader: &Reader, bytes: usize) -> usize {
    let enough = async {
        loop {
            match reader.ready(Interest::READABLE).await {
                Ok(ready) if !ready.is_read_closed() => {}
                // No more will come.
                _ => return held(reader),
            }
            // Told that it would block, tokio waits for the next write.
            let enough = || Some(held(reader)).filter(|held| *held >= bytes).ok_or(WouldBlock.into());
            if let Ok(held) = reader.try_io(enough) {
                return held;
            }
        }
    };
    tokio::time::timeout(PATIENCE, enough).await.unwrap_or(0)
}

fn held(reader: &Reader) -> usize {
    rustix::io::ioctl_fionread(reader).map_or(0, |held| usize::try_from(held).unwrap_or(0))
}

/// Gives the first bytes of one pipe to another, which keeps them: returns how many, fewer if the other is full.
pub(crate) fn share_with(pipe: &impl AsFd, writer: &Writer, bytes: usize) -> usize {
    moved(rustix::pipe::tee(pipe, writer, bytes, SpliceFlags::NONBLOCK)).unwrap_or(0)
}

/// Moves the first bytes of one pipe to another: returns how many, fewer if the other is full.
pub(crate) fn move_to(pipe: &impl AsFd, to: &impl AsFd, bytes: usize) -> usize {
    moved(rustix::pipe::splice(pipe, None, to, None, bytes, SpliceFlags::NONBLOCK)).unwrap_or(0)
}

/// The same, as the other has room, until then; `count` is told of every step.
///
/// # Cancel safety
/// All that was moved has been counted.
pub(crate) async fn move_until(
    pipe: &impl AsFd,
    writer: &Writer,
    bytes: usize,
    until: Instant,
    mut count: impl FnMut(usize),
) {
    let mut left = bytes;
    while left > 0 {
        // Told that it would block, tokio waits until there is room: so only if there is none.
        let more = || moved(rustix::pipe::splice(pipe, None, writer, None, left, SpliceFlags::NONBLOCK));
        match writer.try_io(more) {
            Ok(step) => {
                left -= step;
                count(step);
            }
            Err(error) if error.kind() == WouldBlock => {
                let ready = timeout_at(until, writer.ready(Interest::WRITABLE)).await;
                if !ready.is_ok_and(|ready| ready.is_ok_and(|ready| !ready.is_write_closed())) {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// What was moved. What is not goes through memory: nothing is lost if the kernel does not know how.
pub(super) fn moved(result: rustix::io::Result<usize>) -> std::io::Result<usize> {
    static SAID: OnceLock<()> = OnceLock::new();
    match result {
        // Nothing is where something was: it is not room that lacks.
        Ok(0) => return Err(UnexpectedEof.into()),
        Ok(_) | Err(Errno::AGAIN | Errno::INTR | Errno::PIPE | Errno::NOMEM) => {}
        Err(errno) => {
            SAID.get_or_init(|| warn!(error = %errno, "pages can't be moved from pipe to pipe, so bytes are copied"));
        }
    }
    Ok(result?)
}

/// Takes the first bytes out of a pipe, and nobody gets them.
pub(crate) fn discard(pipe: &impl AsFd, bytes: usize) {
    static NOWHERE: OnceLock<Option<File>> = OnceLock::new();
    let nowhere = NOWHERE.get_or_init(|| File::options().write(true).open("/dev/null").ok());
    let mut left = bytes;
    while left > 0
        && let Some(nowhere) = nowhere
        && let Ok(moved @ 1..) = rustix::pipe::splice(pipe, None, nowhere, None, left, SpliceFlags::NONBLOCK)
    {
        left -= moved;
    }
    drop(read_rest(pipe, left));
}

/// Reads bytes that are there. Should they not be, against all that is known, zeros stand in their place: who has got the
/// beginning of a frame must get as much as was announced.
pub(crate) fn read_rest(pipe: &impl AsFd, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    read_into(pipe, &mut read);
    read
}

/// The same, to where they are to be: there are zeros.
pub(crate) fn read_into(pipe: &impl AsFd, bytes: &mut [u8]) {
    let mut at = 0;
    while at < bytes.len() {
        match rustix::io::read(pipe, &mut bytes[at..]) {
            Ok(count @ 1..) => at += count,
            Err(Errno::INTR) => {}
            _ => break,
        }
    }
}
