//! What is known of a bus, and what checks make of it, where it is a named pipe.

mod checks;
mod facts;
mod gather;

pub(crate) use checks::all as check;
pub(crate) use facts::Facts;
pub(crate) use gather::facts;
