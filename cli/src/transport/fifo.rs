//! FIFOs: what commands do on systems where a bus is a directory with FIFOs in it.

pub(crate) mod doctor;
mod entrance;
mod files;
pub(crate) mod ipc;
mod processes;
pub(crate) mod scan;
mod streams;
mod survey;
mod temporary;
pub(crate) mod words;
pub(crate) mod yardstick;

pub(crate) use files::{files, places};
pub(crate) use temporary::TemporaryBus;
