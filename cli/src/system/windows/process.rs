//! Processes: what the system says of them by their numbers.

use std::time::Duration;

use pipebus_windows::process;
pub(crate) use pipebus_windows::process::lives;

/// How long all its threads together have been on a processor; `None` if it can't be asked, as when it has ended.
pub(crate) fn processor_time(pid: u32) -> Option<Duration> {
    process::processor_time_of(pid).ok()
}

/// How many handles it has open, if this user may see.
pub(crate) fn open_files(pid: u32) -> Option<u64> {
    process::open_handles_of(pid).ok()
}

/// How many threads it has: nobody is asked for that here.
pub(crate) fn threads(_: u32) -> Option<u64> {
    None
}

/// There is no limit that would have to be raised.
pub(crate) fn raise_open_files() {}
