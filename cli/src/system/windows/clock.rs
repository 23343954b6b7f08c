//! Clocks: the time that all processes share, and a pace.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

pub(crate) use pipebus_windows::clock::now;
use tokio::sync::Notify;

use crate::failure::Failure;

/// Goes off at a steady rate. A thread of its own sleeps for it: the system's sleep is finer than tokio's timer.
pub(crate) struct Timer(Arc<Late>);

/// How often it has gone off since somebody asked.
#[derive(Default)]
struct Late {
    count: AtomicU64,
    bell: Notify,
}

impl Timer {
    /// Beginning now.
    pub(crate) fn start(interval: Duration) -> Result<Timer, Failure> {
        let late = Arc::new(Late::default());
        let (weak, begun) = (Arc::downgrade(&late), now());
        let started = thread::Builder::new().spawn(move || go_off(&weak, begun, interval.max(SHORTEST)));
        started.map(|_| Timer(late)).map_err(|error| Failure::system("make a timer", error))
    }

    /// Waits until it goes off, and tells how often it has since the last time.
    pub(crate) async fn count(&mut self) -> Result<u64, Failure> {
        loop {
            match self.0.count.swap(0, Ordering::Relaxed) {
                0 => self.0.bell.notified().await,
                count => return Ok(count),
            }
        }
    }
}

/// So that nothing is divided by 0.
const SHORTEST: Duration = Duration::from_nanos(1);

/// Until nobody wants to know any more.
fn go_off(late: &Weak<Late>, begun: Duration, interval: Duration) {
    let mut told = 0;
    loop {
        let times = (now().saturating_sub(begun).as_nanos() / interval.as_nanos()) as u64;
        let Some(late) = late.upgrade() else { return };
        if times > told {
            late.count.fetch_add(times - told, Ordering::Relaxed);
            late.bell.notify_one();
            told = times;
        }
        drop(late);
        let next = interval.saturating_mul(u32::try_from(told + 1).unwrap_or(u32::MAX));
        thread::sleep((begun + next).saturating_sub(now()));
    }
}
