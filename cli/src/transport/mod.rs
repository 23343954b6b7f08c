//! Transport: what looks at the pipes themselves, and so differs from one kind of pipe to another. One folder for each
//! kind, offering the same items; this file chooses.
//!
//! `scan` is the command of this name, `doctor` what the doctor knows of a bus besides what its broker says, `yardstick`
//! and `ipc` what `bench` measures without a bus, `files` what a bus has of these, `places` what completes an address, and
//! `TemporaryBus` where a bus of a command's own is.

#[cfg(unix)]
mod fifo;
#[cfg(unix)]
pub(crate) use fifo::{TemporaryBus, doctor, files, ipc, places, scan, words, yardstick};

#[cfg(windows)]
mod named_pipe;
#[cfg(windows)]
pub(crate) use named_pipe::{TemporaryBus, doctor, files, ipc, places, scan, words, yardstick};
