//! Transport: how a client reaches its broker. One file for each kind of pipe; this one chooses.

#[cfg(unix)]
mod fifo;
#[cfg(unix)]
pub(crate) use fifo::{Attempt, Reader, Writer, grow, surroundings};
