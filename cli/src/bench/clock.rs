//! Clock: one time for all processes of a run, and how long each of them has been on a processor.

use std::time::Duration;

use nix::time::ClockId;
use nix::unistd::Pid;

/// The time since the machine started, the same in every process.
pub(super) fn now() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default())
}

/// Sleeps until then; not at all if that is past.
pub(super) async fn sleep_until(then: Duration) {
    tokio::time::sleep(then.saturating_sub(now())).await;
}

/// How long all threads of these processes together have been on a processor; `None` if one can't be asked, as when it
/// has ended.
pub(super) fn processor_time(processes: impl IntoIterator<Item = u32>) -> Option<Duration> {
    processes.into_iter().map(processor_time_of).sum()
}

fn processor_time_of(process: u32) -> Option<Duration> {
    let pid = Pid::from_raw(i32::try_from(process).ok()?);
    let time = ClockId::pid_cpu_clock_id(pid).and_then(ClockId::now).ok()?;
    Some(time.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_uses_its_processor() {
        let own = || processor_time([std::process::id()]).unwrap();
        let before = own();
        while own() - before < Duration::from_millis(1) {}
        assert_eq!(processor_time([std::process::id(), u32::MAX]), None);
    }
}
