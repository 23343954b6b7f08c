//! What of the broker is fuzzed.

#[path = "../src/core/mod.rs"]
pub mod core;
