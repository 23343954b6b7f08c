//! What the system says of this process.

use std::time::Duration;

use pipebus_windows::process;

/// The memory that it has in use.
pub(crate) fn resident_bytes() -> Option<u64> {
    process::resident_bytes().ok()
}

/// How many handles it has open: of pipes, and of all else that Windows counts as such.
pub(crate) fn open_files() -> Option<u64> {
    process::open_handles().ok()
}

/// How many it may have open: Windows has no bound that could be asked for.
pub(crate) fn open_files_max() -> Option<u64> {
    None
}

/// How long its threads together have been on a processor.
pub(crate) fn processor_time() -> Duration {
    process::processor_time().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_plausible() {
        let resident = resident_bytes().unwrap();
        assert!((1 << 20..1 << 40).contains(&resident), "{resident}");
        open_files().unwrap();
        let before = processor_time();
        while processor_time() == before {}
    }
}
