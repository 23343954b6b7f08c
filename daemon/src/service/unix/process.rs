//! What the system says of this process, where it says so.

use std::fs;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// The memory that it has in use.
pub(crate) fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    // In kB, which are 1,024 bytes (proc_pid_status(5)).
    line.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

/// How many files it has open.
pub(crate) fn open_files() -> Option<u64> {
    // Since Linux 6.2 the directory has as many bytes as there are; before, it has none.
    let directory = fs::metadata("/proc/self/fd").ok()?;
    match directory.len() {
        // But for the one through which it is looked at.
        0 => Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as u64),
        count => Some(count),
    }
}

/// How many it may have open; `None` if there is no bound.
pub(crate) fn open_files_max() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// How long its threads together have been on a processor.
pub(crate) fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_plausible() {
        let resident = resident_bytes().unwrap();
        assert!((1 << 20..1 << 40).contains(&resident), "{resident}");
        let before = open_files().unwrap();
        let more: Vec<_> = (0..500).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let after = open_files().unwrap();
        // Other tests in this process open and close some, too.
        assert!(after > before + 250, "{before}, then {after}");
        assert!(open_files_max().is_none_or(|max| max > after));
        drop(more);
        let before = processor_time();
        while processor_time() - before < Duration::from_millis(1) {}
    }
}
