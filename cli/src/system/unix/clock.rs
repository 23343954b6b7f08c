//! Clocks: the time that all processes share, and a pace.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::{Errno, retry_on_intr};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::failure::Failure;

/// The time since the machine started, the same in every process.
pub(crate) fn now() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default())
}

/// Goes off at a steady rate. It is the kernel's: that neither keeps a processor busy nor is as coarse as tokio's.
pub(crate) struct Timer(pipe::Receiver);

impl Timer {
    /// Beginning now.
    pub(crate) fn start(interval: Duration) -> Result<Timer, Failure> {
        let timer = timer(interval, TimerfdFlags::NONBLOCK)?;
        // A timer is no pipe, but is watched and read like one.
        pipe::Receiver::from_owned_fd_unchecked(timer).map(Timer).map_err(cannot_read)
    }

    /// Waits until it goes off, and tells how often it has since the last time.
    pub(crate) async fn count(&mut self) -> Result<u64, Failure> {
        let mut count = [0; 8];
        self.0.read_exact(&mut count).await.map_err(cannot_read)?;
        Ok(u64::from_ne_bytes(count))
    }
}

/// The same for who blocks.
pub(crate) struct BlockingTimer(OwnedFd);

impl BlockingTimer {
    pub(crate) fn start(interval: Duration) -> Result<BlockingTimer, Failure> {
        timer(interval, TimerfdFlags::empty()).map(BlockingTimer)
    }

    pub(crate) fn count(&mut self) -> Result<u64, Failure> {
        let mut count = [0; 8];
        retry_on_intr(|| rustix::io::read(&self.0, &mut count)).map_err(cannot_read)?;
        Ok(u64::from_ne_bytes(count))
    }
}

fn timer(interval: Duration, flags: TimerfdFlags) -> Result<OwnedFd, Failure> {
    let cannot = |error| Failure::system("make a timer", error);
    let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags | TimerfdFlags::CLOEXEC);
    let timer = timer.map_err(cannot)?;
    let interval = Timespec::try_from(interval).map_err(|_| cannot(Errno::INVAL))?;
    let spec = Itimerspec { it_interval: interval, it_value: interval };
    rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec).map_err(cannot)?;
    Ok(timer)
}

fn cannot_read(error: impl Into<std::io::Error>) -> Failure {
    Failure::system("read a timer", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_blocks_keeps_the_pace_too() {
        let begun = now();
        let mut timer = BlockingTimer::start(Duration::from_millis(1)).unwrap();
        let mut so_far = 0;
        while so_far < 10 {
            so_far += timer.count().unwrap();
        }
        assert!(now() - begun >= Duration::from_millis(10));
    }
}
