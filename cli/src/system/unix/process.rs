//! Processes: what the system says of them by their numbers.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::time::ClockId;
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit};

/// Whether it has not ended yet. One that can't be seen from here is taken for ended.
pub(crate) fn lives(pid: u32) -> bool {
    // Empty once it has ended, also if nobody has asked yet how (proc_pid_cmdline(5)).
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| !words.is_empty())
}

/// How long all its threads together have been on a processor; `None` if it can't be asked, as when it has ended.
pub(crate) fn processor_time(pid: u32) -> Option<Duration> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?);
    let time = ClockId::pid_cpu_clock_id(pid).and_then(ClockId::now).ok()?;
    Some(time.into())
}

/// How many files it has open, if this user may see.
pub(crate) fn open_files(pid: u32) -> Option<u64> {
    count(&Path::new("/proc").join(pid.to_string()).join("fd"))
}

/// How many threads it has, if this user may see.
pub(crate) fn threads(pid: u32) -> Option<u64> {
    count(&Path::new("/proc").join(pid.to_string()).join("task"))
}

fn count(directory: &Path) -> Option<u64> {
    u64::try_from(fs::read_dir(directory).ok()?.count()).ok()
}

/// Raises how many files this process may have open, as far as it may. If that does not suffice, opening says so.
pub(crate) fn raise_open_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);
}
