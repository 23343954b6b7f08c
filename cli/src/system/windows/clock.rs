//! Clocks: the time that all processes share, and a pace.

use std::time::Duration;

pub(crate) use pipebus_windows::clock::now;
use tokio::sync::mpsc;

use crate::failure::Failure;

/// Goes off at a steady rate. A thread of its own sleeps for it: the system's sleep is finer than tokio's timer.
pub(crate) struct Timer(mpsc::UnboundedReceiver<()>);

impl Timer {
    /// Beginning now.
    pub(crate) fn start(interval: Duration) -> Result<Timer, Failure> {
        // What waits there is no more than what is late, and is taken all at once.
        let (sender, receiver) = mpsc::unbounded_channel();
        let started = std::thread::Builder::new().spawn(move || {
            let mut due = now() + interval;
            loop {
                std::thread::sleep(due.saturating_sub(now()));
                if sender.send(()).is_err() {
                    return;
                }
                due += interval;
            }
        });
        started.map(|_| Timer(receiver)).map_err(|error| Failure::system("make a timer", error))
    }

    /// Waits until it goes off, and tells how often it has since the last time.
    pub(crate) async fn count(&mut self) -> Result<u64, Failure> {
        let mut count = 0;
        if self.0.recv().await.is_some() {
            count += 1;
        }
        while self.0.try_recv().is_ok() {
            count += 1;
        }
        Ok(count)
    }
}
