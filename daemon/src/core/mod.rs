//! The core: routing as a value. Takes frames and the time, gives back routes, spans and effects.
//!
//! It does no I/O, has no clock, no runtime and no log; the shell around it (`broker`, `outbox`, `instance`) moves the
//! bytes. Start reading at [`queue`].

pub mod account;
pub mod bus;
pub mod ingress;
pub mod latency;
pub mod limits;
pub mod policy;
pub mod queue;
pub mod records;
pub mod refused;
pub mod requests;
pub mod routes;
mod stall;
pub mod users;
