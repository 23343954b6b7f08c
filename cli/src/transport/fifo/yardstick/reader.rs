//! Reader: the yardstick's subscriber, which reads and looks at nothing.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bench::meter::{Account, Cues, Meter, Schedule, Tally, say};
use crate::failure::Failure;
use crate::transport::fifo::streams::drain;
use crate::transport::fifo::yardstick::pipes::open_reader;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(super) from: PathBuf,
    pub(super) message_bytes: usize,
}

pub(crate) fn run(plan: &Plan) -> Result<(), Failure> {
    let pipe = open_reader(&plan.from)?;
    let cues = Cues::ready()?;
    let schedule: Schedule = cues.next()?;
    let meter = Arc::new(Meter::default());
    let follower = schedule.follow(&meter);
    drain(pipe, plan.message_bytes, &meter).map_err(|error| Failure::system("read from a pipe", error))?;
    let received = Tally { messages: meter.messages(), per_s: follower.rate() };
    say(&Account { received, ..Account::default() })
}
