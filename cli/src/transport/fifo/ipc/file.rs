//! File: two processes that use a regular file, one after the other.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bench::meter::{Account, Cues, Meter, Schedule, Tally, say};
use crate::failure::Failure;
use crate::system::clock::now;
use crate::transport::fifo::streams::drain;

/// Where temporary files are, there may be little room, and it may be memory.
const FILE_BYTES_MAX: u64 = 256 << 20;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(super) path: PathBuf,
    pub(super) message_bytes: usize,
}

/// Appends messages, one a write, until the schedule or the room ends.
pub(crate) fn writer(plan: &Plan) -> Result<(), Failure> {
    let failed = |error| Failure::system(format!("write {}", plan.path.display()), error);
    let file = File::options().append(true).create(true).open(&plan.path).map_err(failed)?;
    let cues = Cues::ready()?;
    let schedule: Schedule = cues.next()?;
    let meter = Arc::new(Meter::default());
    let _follower = schedule.follow(&meter);
    let begun = now();
    let messages = append(file, plan.message_bytes, &meter).map_err(failed)?;
    let per_s = messages as f64 / (now() - begun).as_secs_f64();
    say(&Account { published: Tally { messages, per_s }, ..Account::default() })
}

fn append(mut file: File, message_bytes: usize, meter: &Meter) -> io::Result<u64> {
    let message = vec![7; message_bytes];
    let mut written = 0;
    while !meter.is_stopped() && written * (message_bytes as u64) < FILE_BYTES_MAX {
        file.write_all(&message)?;
        written += 1;
    }
    Ok(written)
}

/// Reads the file when it is told to.
pub(crate) fn reader(plan: &Plan) -> Result<(), Failure> {
    let failed = |error| Failure::system(format!("read {}", plan.path.display()), error);
    let cues = Cues::ready()?;
    cues.next::<()>()?;
    let meter = Meter::default();
    let begun = now();
    drain(File::open(&plan.path).map_err(failed)?, plan.message_bytes, &meter).map_err(failed)?;
    let messages = meter.messages();
    let per_s = messages as f64 / (now() - begun).as_secs_f64();
    say(&Account { received: Tally { messages, per_s }, ..Account::default() })
}
