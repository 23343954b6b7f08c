//! What differs between systems: where a bus is, how to come to it by hand, who one is, and where programs are. This file
//! chooses.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub use unix::{Reader, Writer, fresh_address, open, own_identity, program};
#[cfg(windows)]
pub use windows::{Reader, Writer, fresh_address, open, own_identity, program};
