//! Ends: the parts of two processes that are connected, one message a write.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bench::meter::{Account, Cues, Meter, Schedule, Tally, say};
use crate::failure::Failure;
use crate::transport::fifo::ipc::means::{FarEnd, Means};
use crate::transport::fifo::streams::{answer, drain, take_trips};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(super) means: Means,
    /// Where both find each other.
    pub(super) directory: PathBuf,
    pub(super) message_bytes: usize,
    /// Whether each message is waited for to come back.
    pub(super) trips: bool,
}

impl Plan {
    fn failed(&self, error: io::Error) -> Failure {
        Failure::system(format!("use a {}", self.means.name()), error)
    }
}

pub(crate) fn near(plan: &Plan) -> Result<(), Failure> {
    let failed = |error| plan.failed(error);
    let cues = Cues::ready()?;
    let schedule: Schedule = cues.next()?;
    let meter = Arc::new(Meter::default());
    let follower = schedule.follow(&meter);
    let (reader, writer) = plan.means.connect(&plan.directory).map_err(failed)?;
    let latency = if plan.trips {
        take_trips(reader, writer, plan.message_bytes, schedule, &meter).map_err(failed)?.summary()
    } else {
        drop(reader);
        send(writer, plan.message_bytes, &meter).map_err(failed)?;
        None
    };
    let published = Tally { messages: meter.messages(), per_s: follower.rate() };
    let received = if plan.trips { published } else { Tally::default() };
    say(&Account { published, received, latency, ..Account::default() })
}

pub(crate) fn far(plan: &Plan) -> Result<(), Failure> {
    let failed = |error| plan.failed(error);
    let end = FarEnd::make(plan.means, &plan.directory).map_err(failed)?;
    let cues = Cues::ready()?;
    let schedule: Schedule = cues.next()?;
    let meter = Arc::new(Meter::default());
    let follower = schedule.follow(&meter);
    let (reader, writer) = end.accept().map_err(failed)?;
    if plan.trips {
        answer(reader, writer, plan.message_bytes, &meter).map_err(failed)?;
    } else {
        drain(reader, plan.message_bytes, &meter).map_err(failed)?;
    }
    let received = Tally { messages: meter.messages(), per_s: follower.rate() };
    let published = if plan.trips { received } else { Tally::default() };
    say(&Account { published, received, ..Account::default() })
}

fn send(mut writer: impl Write, message_bytes: usize, meter: &Meter) -> io::Result<()> {
    let message = vec![7; message_bytes];
    let mut sent = 0;
    while !meter.is_stopped() {
        writer.write_all(&message)?;
        sent += 1;
        meter.set(sent);
    }
    Ok(())
}
