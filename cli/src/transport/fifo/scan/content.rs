//! Content: how much waits in a FIFO, without disturbing it.
//!
//! Whoever opens a FIFO becomes a reader or a writer of it: who waits for one in open(2) goes on, and a writer that should
//! be told that nobody reads is not. So none is ever opened. Instead the descriptor of a process that has it open is
//! borrowed (pidfd_getfd(2)): one reference more to what is open already, which makes no reader and no writer, and is
//! given back within microseconds. Should the process close it just then, its end is closed that much later.
//!
//! The system permits that to whoever may trace the process (ptrace(2)): root, and mostly the process's own user, but not
//! where kernel.yama.ptrace_scope says otherwise.

use rustix::io::{Errno, ioctl_fionread};
use rustix::pipe::fcntl_getpipe_size;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde::Serialize;

use crate::transport::fifo::processes::is_denial;

/// How much is in a pipe, and fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) waiting_bytes: u64,
    pub(crate) buffer_bytes: u64,
}

/// Why that can't be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Unknown {
    /// Not to this user.
    Forbidden,
    /// Whoever had it open has closed it, or has ended.
    Gone,
    /// The system can't.
    Unable,
}

/// Looks through a process's descriptor at the pipe with this inode.
pub(crate) fn look_into(pid: u32, descriptor: i32, inode: u64) -> Result<Content, Unknown> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Unknown::Gone)?;
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(why)?;
    let pipe = pidfd_getfd(&process, descriptor, PidfdGetfdFlags::empty()).map_err(why)?;
    // The number may be another's by now, and so may the descriptor.
    if rustix::fs::fstat(&pipe).map_err(why)?.st_ino != inode {
        return Err(Unknown::Gone);
    }
    let buffer_bytes = fcntl_getpipe_size(&pipe).map_err(why)? as u64;
    Ok(Content { waiting_bytes: ioctl_fionread(&pipe).map_err(why)?, buffer_bytes })
}

fn why(errno: Errno) -> Unknown {
    match errno {
        errno if is_denial(errno) => Unknown::Forbidden,
        Errno::SRCH | Errno::BADF => Unknown::Gone,
        _ => Unknown::Unable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn what_waits_is_counted_and_stays() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let (me, inode) = (std::process::id(), rustix::fs::fstat(&reader).unwrap().st_ino);
        let size = fcntl_getpipe_size(&reader).unwrap() as u64;
        for waiting_bytes in [0, 5] {
            for end in [reader.as_raw_fd(), writer.as_raw_fd()] {
                let content = look_into(me, end, inode);
                assert_eq!(content, Ok(Content { waiting_bytes, buffer_bytes: size }));
            }
            rustix::io::write(&writer, b"hello").unwrap();
        }
        drop(reader);
        assert_eq!(rustix::io::write(&writer, b"x"), Err(Errno::PIPE), "nobody has become its reader");
    }

    #[test]
    fn a_descriptor_that_is_another_now_is_not_looked_into() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let inode = rustix::fs::fstat(&reader).unwrap().st_ino;
        assert_eq!(look_into(std::process::id(), reader.as_raw_fd(), inode + 1), Err(Unknown::Gone));
        assert_eq!(look_into(std::process::id(), i32::MAX, inode), Err(Unknown::Gone));
    }
}
