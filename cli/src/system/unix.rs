//! Unix: what commands ask of Linux and of systems like it.

pub(crate) mod account;
pub(crate) mod child;
pub(crate) mod clock;
pub(crate) mod file;
pub(crate) mod machine;
pub(crate) mod process;
pub(crate) mod signal;
pub(crate) mod terminal;
