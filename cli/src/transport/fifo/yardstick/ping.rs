//! Ping and pong over the yardstick: a message there and back, twice through the relay.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bench::meter::{Account, Cues, Meter, Schedule, Tally, say};
use crate::failure::Failure;
use crate::transport::fifo::streams::{answer, take_trips};
use crate::transport::fifo::yardstick::pipes::{open_reader, open_writer};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(super) to: PathBuf,
    pub(super) from: PathBuf,
    pub(super) message_bytes: usize,
}

/// Measures how long it takes until what it writes has come back.
pub(crate) fn ping(plan: &Plan) -> Result<(), Failure> {
    let writer = open_writer(&plan.to)?;
    let reader = open_reader(&plan.from)?;
    let cues = Cues::ready()?;
    let schedule: Schedule = cues.next()?;
    let meter = Arc::new(Meter::default());
    let follower = schedule.follow(&meter);
    let latencies = take_trips(reader, writer, plan.message_bytes, schedule, &meter).map_err(failed)?;
    let tally = Tally { messages: meter.messages(), per_s: follower.rate() };
    say(&Account { published: tally, received: tally, latency: latencies.summary(), ..Account::default() })
}

/// Writes what comes.
pub(crate) fn pong(plan: &Plan) -> Result<(), Failure> {
    let reader = open_reader(&plan.from)?;
    let writer = open_writer(&plan.to)?;
    let cues = Cues::ready()?;
    let schedule: Schedule = cues.next()?;
    let meter = Arc::new(Meter::default());
    let follower = schedule.follow(&meter);
    answer(reader, writer, plan.message_bytes, &meter).map_err(failed)?;
    let tally = Tally { messages: meter.messages(), per_s: follower.rate() };
    say(&Account { published: tally, received: tally, ..Account::default() })
}

fn failed(error: io::Error) -> Failure {
    Failure::system("use a pipe", error)
}
