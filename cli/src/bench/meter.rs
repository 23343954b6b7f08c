//! Meter: what a part of a measurement counts, while another thread reads along and keeps to the schedule.
//!
//! The loops that are measured look at no clock: that would cost a good part of what a small message takes.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bench::latencies::Summary;
use crate::failure::Failure;
use crate::output;
use crate::system::clock::now;

/// How long publishers go on after the end of what is counted, so that all see it end at full speed.
const AFTERWARDS: Duration = Duration::from_millis(50);

/// How often a part that waits for messages looks whether they have come.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Messages so far, and whether it is enough.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    messages: AtomicU64,
    stopped: AtomicBool,
}

impl Meter {
    /// There have been so many messages.
    pub(crate) fn set(&self, messages: u64) {
        self.messages.store(messages, Ordering::Relaxed);
    }

    pub(crate) fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Blocks until so many messages have come, or none for so long.
    pub(crate) fn wait_for(&self, messages: u64, patience: Duration) {
        let (mut before, mut since) = (self.messages(), now());
        while before < messages && now() - since < patience {
            thread::sleep(LOOK_INTERVAL);
            let after = self.messages();
            if after != before {
                (before, since) = (after, now());
            }
        }
    }
}

/// From when until when messages count.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Schedule {
    pub(crate) from: Duration,
    pub(crate) until: Duration,
}

impl Schedule {
    /// Begins now; in the first tenth pipes and caches are cold, so it is not counted.
    pub(crate) fn begin(length: Duration) -> Schedule {
        let begun = now();
        Schedule { from: begun + length / 10, until: begun + length }
    }

    pub(crate) fn counts(&self, time: Duration) -> bool {
        (self.from..self.until).contains(&time)
    }

    /// Reads the meter when it is time to, and stops it in the end.
    pub(crate) fn follow(self, meter: &Arc<Meter>) -> Follower {
        let meter = meter.clone();
        let read_at = |meter: &Meter, time: Duration| {
            thread::sleep(time.saturating_sub(now()));
            (meter.messages(), now())
        };
        Follower(thread::spawn(move || {
            let (before, begun) = read_at(&meter, self.from);
            let (after, ended) = read_at(&meter, self.until);
            thread::sleep(AFTERWARDS);
            meter.stopped.store(true, Ordering::Relaxed);
            (after - before) as f64 / (ended - begun).as_secs_f64()
        }))
    }
}

/// Who reads a meter.
pub(crate) struct Follower(JoinHandle<f64>);

impl Follower {
    /// Blocks until the end of the schedule, and tells the messages a second.
    pub(crate) fn rate(self) -> f64 {
        self.0.join().expect("it only sleeps and reads")
    }
}

/// What a part says in the end.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) published: Tally,
    pub(crate) received: Tally,
    /// Messages that came again, or after one that was published later.
    pub(crate) disordered: u64,
    pub(crate) latency: Option<Summary>,
}

/// Messages in all, and messages a second while they counted.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) messages: u64,
    pub(crate) per_s: f64,
}

/// What the bench tells a part, a line each on its standard input. When that ends, so does the part's process: nobody
/// wants to know any more.
pub(crate) struct Cues(mpsc::Receiver<String>);

impl Cues {
    /// Tells the bench that this part is ready.
    pub(crate) fn ready() -> Result<Cues, Failure> {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            for line in io::stdin().lines().map_while(Result::ok) {
                // Whoever does not listen has heard enough.
                let _ = sender.send(line);
            }
            std::process::exit(0);
        });
        say(&())?;
        Ok(Cues(receiver))
    }

    /// Blocks until the bench says something.
    pub(crate) fn next<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let cannot = |error: io::Error| Failure::system("understand what the bench says", error);
        let line = self.0.recv().map_err(|_| cannot(io::ErrorKind::UnexpectedEof.into()))?;
        serde_json::from_str(&line).map_err(|error| cannot(error.into()))
    }
}

/// Tells the bench something.
pub(crate) fn say(something: &impl Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(something).map_err(|error| Failure::system("say something", error))?;
    output::write(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_come_is_given_up() {
        let meter = Meter::default();
        meter.set(2);
        meter.wait_for(2, Duration::MAX);
        let (begun, patience) = (now(), Duration::from_millis(20));
        meter.wait_for(3, patience);
        assert!(now() - begun >= patience);
    }

    #[test]
    fn a_meter_is_read_within_its_schedule_and_then_stopped() {
        let meter = Arc::new(Meter::default());
        let follower = Schedule::begin(Duration::from_millis(20)).follow(&meter);
        assert!(!meter.is_stopped());
        while !meter.is_stopped() {
            meter.set(meter.messages() + 1);
        }
        assert!(follower.rate() > 0.0);
    }
}
