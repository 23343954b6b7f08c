//! What pipebus asks of Windows that no library has a safe call for: named pipes with security descriptors, who is at
//! their other end, accounts, files, and what the system says of processes and of the machine. On other systems there is
//! nothing here.
//!
//! All that is unsafe on Windows is in this crate: each function asks the system one thing and returns plain values.

#![cfg(windows)]
#![expect(unsafe_code, reason = "the calls that no library makes safe are here, so that they are nowhere else")]

pub mod account;
pub mod clock;
pub mod descriptor;
pub mod directory;
pub mod event_log;
pub mod file;
pub mod job;
pub mod lock;
pub mod machine;
pub mod pipe;
pub mod process;
mod system;
