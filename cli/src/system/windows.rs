//! Windows: what commands ask of it.

pub(crate) mod account;
pub(crate) mod child;
pub(crate) mod clock;
pub(crate) mod file;
pub(crate) mod machine;
pub(crate) mod process;
pub(crate) mod signal;
pub(crate) mod terminal;
