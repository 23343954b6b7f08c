//! Files that are nobody's but the user's.

pub(crate) use pipebus_windows::file::create_private;
