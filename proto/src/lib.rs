//! The values that pipebus programs exchange, and their bytes.
//!
//! Nothing here does I/O, reads a clock or knows a runtime. `PROTOCOL.md` in this crate documents every byte, well
//! enough to write a client in another language.

pub mod admin;
pub mod control;
pub mod frame;
pub mod knock;
pub mod pattern;
pub mod place;
pub mod record;
pub mod splitter;
pub mod topic;
pub mod trust;
pub mod wire;
