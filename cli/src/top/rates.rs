//! Rates: how much a second, of what is counted, and how that was in the last minutes.

use std::collections::VecDeque;
use std::ops::AddAssign;
use std::time::Duration;

use pipebus_proto::admin::{InstanceStatus, Status};

/// The time that a history has one value for.
const STEP: Duration = Duration::from_secs(1);

/// How many values a history keeps: two minutes.
const STEPS_MAX: usize = 120;

/// What is counted of the bus and of each instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) messages_in: u64,
    pub(super) messages_out: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) lost: u64,
}

impl From<&Status> for Counts {
    fn from(status: &Status) -> Counts {
        Counts {
            messages_in: status.messages_in,
            messages_out: status.messages_out,
            bytes_in: status.bytes_in,
            bytes_out: status.bytes_out,
            lost: status.dropped,
        }
    }
}

impl From<&InstanceStatus> for Counts {
    fn from(status: &InstanceStatus) -> Counts {
        Counts {
            messages_in: status.messages_in,
            messages_out: status.messages_out,
            bytes_in: status.bytes_in,
            bytes_out: status.bytes_out,
            lost: status.dropped,
        }
    }
}

/// How much a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) messages_in: f64,
    pub(super) messages_out: f64,
    pub(super) bytes_in: f64,
    pub(super) bytes_out: f64,
    pub(super) lost: f64,
}

impl Rates {
    /// From two counts with so much time between them; none if there is no time between them.
    pub(super) fn between(before: Counts, now: Counts, time: Duration) -> Option<Rates> {
        let seconds = time.as_secs_f64();
        let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        (seconds > 0.0).then(|| Rates {
            messages_in: rate(before.messages_in, now.messages_in),
            messages_out: rate(before.messages_out, now.messages_out),
            bytes_in: rate(before.bytes_in, now.bytes_in),
            bytes_out: rate(before.bytes_out, now.bytes_out),
            lost: rate(before.lost, now.lost),
        })
    }

    /// In both directions.
    pub(super) fn bytes(&self) -> f64 {
        self.bytes_in + self.bytes_out
    }
}

impl AddAssign for Rates {
    fn add_assign(&mut self, other: Rates) {
        self.messages_in += other.messages_in;
        self.messages_out += other.messages_out;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.lost += other.lost;
    }
}

/// A rate over the last minutes, in steps of a second however often it is measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct History {
    /// The oldest first.
    steps: VecDeque<f32>,
    /// What was there in the step that has not ended yet, and how much of its time has passed.
    amount: f64,
    passed: Duration,
}

impl History {
    /// It was at this rate for this time.
    pub(super) fn add(&mut self, rate: f64, time: Duration) {
        let mut left = time.min(STEP * STEPS_MAX as u32);
        while !left.is_zero() {
            let part = left.min(STEP - self.passed);
            self.amount += rate * part.as_secs_f64();
            self.passed += part;
            left -= part;
            if self.passed == STEP {
                if self.steps.len() == STEPS_MAX {
                    self.steps.pop_front();
                }
                self.steps.push_back((self.amount / STEP.as_secs_f64()) as f32);
                (self.amount, self.passed) = (0.0, Duration::ZERO);
            }
        }
    }

    /// The newest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = f32> {
        self.steps.iter().rev().copied()
    }
}

/// The histories of what is drawn as lines.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Histories {
    pub(super) messages_in: History,
    pub(super) messages_out: History,
    pub(super) lost: History,
}

impl Histories {
    pub(super) fn add(&mut self, rates: &Rates, time: Duration) {
        self.messages_in.add(rates.messages_in, time);
        self.messages_out.add(rates.messages_out, time);
        self.lost.add(rates.lost, time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(added: &[(f64, u64)]) -> Vec<f32> {
        let mut history = History::default();
        for (rate, milliseconds) in added {
            history.add(*rate, Duration::from_millis(*milliseconds));
        }
        let mut steps: Vec<f32> = history.newest_first().collect();
        steps.reverse();
        steps
    }

    #[test]
    fn a_rate_is_what_was_counted_by_the_time_it_took() {
        let before = Counts { messages_in: 10, lost: 5, ..Counts::default() };
        let now = Counts { messages_in: 30, bytes_out: 4096, lost: 5, ..Counts::default() };
        let rates = Rates::between(before, now, Duration::from_millis(500)).unwrap();
        assert_eq!((rates.messages_in, rates.bytes_out, rates.lost), (40.0, 8192.0, 0.0));
        assert_eq!(rates.bytes(), 8192.0);
        assert_eq!(Rates::between(before, now, Duration::ZERO), None);
    }

    #[test]
    fn a_count_that_has_gone_back_is_no_rate() {
        let before = Counts { messages_in: 10, ..Counts::default() };
        assert_eq!(Rates::between(before, Counts::default(), STEP).unwrap(), Rates::default());
    }

    #[test]
    fn a_history_has_a_step_for_each_second_however_often_it_is_measured() {
        assert_eq!(steps(&[(2.0, 500), (4.0, 500)]), [3.0]);
        assert_eq!(steps(&[(2.0, 1000), (4.0, 2000)]), [2.0, 4.0, 4.0]);
        assert_eq!(steps(&[(2.0, 1500), (4.0, 500)]), [2.0, 3.0]);
        assert_eq!(steps(&[(2.0, 999)]), [] as [f32; 0]);
    }

    #[test]
    fn a_history_forgets_what_is_older_than_two_minutes() {
        let all: Vec<(f64, u64)> = (0..500).map(|second| (f64::from(second), 1000)).collect();
        let steps = steps(&all);
        assert_eq!((steps.len(), steps[0], steps[119]), (120, 380.0, 499.0));
        let mut history = History::default();
        history.add(1.0, Duration::MAX);
        assert_eq!(history.newest_first().count(), STEPS_MAX);
    }
}
