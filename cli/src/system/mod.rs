//! System: what commands ask of the system that they run on, besides its pipes. One folder for each system, offering the
//! same items; this file chooses.

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(crate) use unix::{account, child, clock, file, machine, process, signal, terminal};

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(crate) use windows::{account, child, clock, file, machine, process, signal, terminal};
