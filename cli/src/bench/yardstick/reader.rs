//! Reader: the yardstick's subscriber, which reads and looks at nothing.

use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::{read, retry_on_intr};
use serde::{Deserialize, Serialize};

use crate::bench::meter::{Account, Cues, Meter, Schedule, Tally, say};
use crate::bench::yardstick::pipes::{BUFFER_BYTES, open_reader};
use crate::failure::Failure;

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
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut bytes_read = 0;
    loop {
        let bytes = retry_on_intr(|| read(&pipe, &mut buffer));
        match bytes.map_err(|error| Failure::system("read from a pipe", error))? {
            0 => break,
            bytes => bytes_read += bytes,
        }
        meter.set((bytes_read / plan.message_bytes) as u64);
    }
    let received = Tally { messages: meter.messages(), per_s: follower.rate() };
    say(&Account { received, ..Account::default() })
}
