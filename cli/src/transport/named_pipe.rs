//! Named pipes: what commands do on Windows, where a bus is one.

mod access;
pub(crate) mod doctor;
pub(crate) mod ipc;
mod pipes;
pub(crate) mod scan;
mod survey;
mod temporary;
pub(crate) mod words;
pub(crate) mod yardstick;

pub(crate) use pipes::{files, places};
pub(crate) use temporary::TemporaryBus;

use std::io;

use crate::failure::Failure;

/// What can't be done on this system, and why.
fn not_here(doing: &str, why: &str) -> Failure {
    Failure::system(doing, io::Error::new(io::ErrorKind::Unsupported, why))
}
