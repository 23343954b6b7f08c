//! Transport: how a client reaches its broker. One file for each kind of pipe; this one chooses.

#[cfg(unix)]
mod fifo;
#[cfg(windows)]
mod named_pipe;
#[cfg(unix)]
mod splice;

#[cfg(unix)]
pub use fifo::surroundings;
#[cfg(unix)]
pub(crate) use fifo::{Attempt, Door, Reader, Writer, grow};
#[cfg(windows)]
pub use named_pipe::surroundings;
#[cfg(windows)]
pub(crate) use named_pipe::{Attempt, Door, Reader, Writer, grow, lend};
#[cfg(unix)]
pub(crate) use splice::lend;
#[cfg(test)]
pub(crate) mod fake;
