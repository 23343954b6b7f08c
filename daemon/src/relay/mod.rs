//! Relay: moving bytes from pipe to pipe without reading them, where the system can; this file chooses.

#[cfg(not(target_os = "linux"))]
mod copies;
#[cfg(target_os = "linux")]
mod pages;

#[cfg(not(target_os = "linux"))]
pub(crate) use copies::*;
#[cfg(target_os = "linux")]
pub(crate) use pages::{PAGES_BYTES_MIN, Pipe, Source, discard, grow, move_to, read_rest, share_with, with_pipe_of};
