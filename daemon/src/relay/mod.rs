//! Relay: moving bytes from pipe to pipe without reading them, where the system can; this file chooses.

#[cfg(not(target_os = "linux"))]
mod copies;
#[cfg(target_os = "linux")]
mod pages;
#[cfg(target_os = "linux")]
mod scratch;

#[cfg(not(target_os = "linux"))]
pub(crate) use copies::*;
#[cfg(target_os = "linux")]
pub(crate) use pages::{PAGES_BYTES_MIN, Source, discard, grow, move_to, move_until, read_into, read_rest, share_with};
#[cfg(target_os = "linux")]
pub(crate) use scratch::{Pipe, Scratch};
