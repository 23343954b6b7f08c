//! Pipes for tests.

#![cfg(unix)]

use std::os::unix::net::UnixStream;

use super::{Reader, Writer};

/// A pipe that holds `bytes`.
pub(crate) fn pipe(bytes: usize) -> (Writer, Reader) {
    let (writer, reader) = tokio::net::unix::pipe::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, bytes).unwrap();
    (writer, reader)
}

/// What is no pipe, so that nothing can be lent to it.
pub(crate) fn no_pipe() -> (Writer, Reader) {
    let (one, other) = UnixStream::pair().unwrap();
    one.set_nonblocking(true).unwrap();
    other.set_nonblocking(true).unwrap();
    let writer = Writer::from_owned_fd_unchecked(one.into()).unwrap();
    (writer, Reader::from_owned_fd_unchecked(other.into()).unwrap())
}

/// How many bytes wait in a pipe.
pub(crate) fn waiting(pipe: &Writer) -> u64 {
    rustix::io::ioctl_fionread(pipe).unwrap()
}
