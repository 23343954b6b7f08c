//! Scratch: a pipe of the broker's own, for bytes that are to go to many or that wait for one.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags};

use super::pages::{PIPE_BYTES, discard, move_to, moved};

/// Pipes that wait in each thread's pool: one to gather in, and one for who comes after.
const POOL_MAX: usize = 2;

/// A pipe that nobody waits for.
pub(crate) type Pipe = OwnedFd;

/// A pipe of this thread's own, empty when it is taken: for bytes that are to go to many, or that wait for one.
pub(crate) struct Scratch {
    reader: Pipe,
    writer: Pipe,
}

thread_local! {
    static POOL: RefCell<Vec<Scratch>> = const { RefCell::new(Vec::new()) };
}

impl Scratch {
    /// An empty one; `None` if there is none to be had.
    pub(crate) fn take() -> Option<Scratch> {
        POOL.with_borrow_mut(Vec::pop).or_else(Scratch::make)
    }

    fn make() -> Option<Scratch> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        rustix::pipe::fcntl_setpipe_size(&writer, PIPE_BYTES).ok()?;
        Some(Scratch { reader, writer })
    }

    /// A scratch pipe with these bytes in it.
    pub(crate) fn of(bytes: &[u8]) -> Option<Scratch> {
        let scratch = Scratch::take()?;
        scratch.put(bytes).then_some(scratch)
    }

    /// Puts a copy of these bytes behind what is in it. If there is no room for all of them, it can't be used any more.
    pub(crate) fn put(&self, bytes: &[u8]) -> bool {
        rustix::io::write(&self.writer, bytes) == Ok(bytes.len())
    }

    /// Moves the first bytes of another pipe behind what is in it: returns how many, fewer if there is no room.
    pub(crate) fn put_from(&self, pipe: &impl AsFd, bytes: usize) -> usize {
        move_to(pipe, &self.writer, bytes)
    }

    /// A scratch pipe with what comes in `pipe` behind `from`, up to `to`; `pipe` keeps all.
    pub(crate) fn with_part_of(pipe: &impl AsFd, from: usize, to: usize) -> Option<Scratch> {
        let scratch = Scratch::take()?;
        let shared = moved(rustix::pipe::tee(pipe, &scratch.writer, to, SpliceFlags::NONBLOCK)).ok()?;
        if shared < to {
            return None;
        }
        discard(&scratch.reader, from);
        Some(scratch)
    }

    /// Where its bytes are.
    pub(crate) fn pipe(&self) -> &Pipe {
        &self.reader
    }

    /// Empties it and gives it back. Without this it is not used again.
    pub(crate) fn give_back(self, bytes_left: usize) {
        discard(&self.reader, bytes_left);
        // What has nothing to do with the next client must not get to it, whatever has gone wrong.
        let is_empty = rustix::io::ioctl_fionread(&self.reader) == Ok(0);
        POOL.with_borrow_mut(|pool| {
            if is_empty && pool.len() < POOL_MAX {
                pool.push(self);
            }
        });
    }
}
