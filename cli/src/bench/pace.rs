//! Pace: messages that are due at a steady rate, and the time in each.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::bench::clock::now;
use crate::failure::Failure;

/// So many bytes at the start of a payload are the time.
pub(super) const STAMP_BYTES: usize = 8;

/// What a timer says when it is read: how often it has gone off since it was last read.
pub(super) type Count = [u8; 8];

/// A timer that goes off so many times a second, beginning now. It is the kernel's: that neither keeps a processor busy
/// nor is as coarse as tokio's.
pub(super) fn timer(rate: u32, flags: TimerfdFlags) -> Result<OwnedFd, Failure> {
    let cannot = |error| Failure::system("make a timer", error);
    let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags | TimerfdFlags::CLOEXEC);
    let timer = timer.map_err(cannot)?;
    let interval = Timespec::try_from(interval(rate)).map_err(|_| cannot(Errno::INVAL))?;
    let spec = Itimerspec { it_interval: interval, it_value: interval };
    rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spec).map_err(cannot)?;
    Ok(timer)
}

/// The times of the messages that have become due. What could not be sent when it was due is late since then, not since
/// it is sent.
pub(super) fn due(count: Count, rate: u32) -> impl Iterator<Item = Duration> {
    stamps(now(), u64::from_ne_bytes(count), interval(rate))
}

fn interval(rate: u32) -> Duration {
    Duration::from_secs(1) / rate
}

fn stamps(now: Duration, count: u64, interval: Duration) -> impl Iterator<Item = Duration> {
    (0..count).rev().map(move |late| {
        let late = u32::try_from(late).unwrap_or(u32::MAX);
        now.saturating_sub(interval.saturating_mul(late))
    })
}

/// Puts a time where [`stamp_of`] finds it.
pub(super) fn stamp(payload: &mut [u8], time: Duration) {
    let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    payload[..STAMP_BYTES].copy_from_slice(&nanoseconds.to_le_bytes());
}

/// The time in a payload; `None` if that is too short.
pub(super) fn stamp_of(payload: &[u8]) -> Option<Duration> {
    payload.first_chunk().map(|stamp| Duration::from_nanos(u64::from_le_bytes(*stamp)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_is_so_since_it_was_due() {
        let seconds = Duration::from_secs;
        let all: Vec<_> = stamps(seconds(10), 3, seconds(2)).collect();
        assert_eq!(all, [6, 8, 10].map(seconds));
    }

    #[test]
    fn a_time_is_found_again() {
        let mut payload = [0; STAMP_BYTES + 1];
        stamp(&mut payload, Duration::from_nanos(123_456_789_012));
        assert_eq!(stamp_of(&payload), Some(Duration::from_nanos(123_456_789_012)));
        assert_eq!(stamp_of(&payload[..STAMP_BYTES - 1]), None);
    }

    #[test]
    fn a_pace_is_kept() {
        let begun = now();
        let timer = timer(1000, TimerfdFlags::empty()).unwrap();
        let mut so_far = 0;
        while so_far < 10 {
            let mut count = Count::default();
            rustix::io::read(&timer, &mut count).unwrap();
            so_far += due(count, 1000).count();
        }
        assert!(now() - begun >= Duration::from_millis(10));
    }
}
