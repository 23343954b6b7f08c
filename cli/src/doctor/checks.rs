//! Checks of what a client of the bus learns, of whatever kind its pipe is. Each judges one thing by the facts, and says
//! nothing where it does not apply. The transport has those of its pipes, and the order of all.

pub(crate) mod contact;
pub(crate) mod work;
