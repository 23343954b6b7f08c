//! Ping and pong over the yardstick: a message there and back, twice through the relay.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bench::clock::now;
use crate::bench::latencies::Latencies;
use crate::bench::meter::{Account, Cues, Meter, Schedule, Tally, say};
use crate::bench::yardstick::pipes::{open_reader, open_writer};
use crate::failure::Failure;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(super) to: PathBuf,
    pub(super) from: PathBuf,
    pub(super) message_bytes: usize,
}

/// Measures how long it takes until what it writes has come back.
pub(crate) fn ping(plan: &Plan) -> Result<(), Failure> {
    let mut writer = open_writer(&plan.to)?;
    let mut reader = open_reader(&plan.from)?;
    let cues = Cues::ready()?;
    let schedule: Schedule = cues.next()?;
    let meter = Arc::new(Meter::default());
    let follower = schedule.follow(&meter);
    let mut message = vec![0; plan.message_bytes];
    let mut latencies = Latencies::new();
    let mut trips = 0;
    while !meter.is_stopped() {
        let sent = now();
        writer.write_all(&message).and_then(|()| reader.read_exact(&mut message)).map_err(failed)?;
        if schedule.counts(sent) {
            latencies.record(now() - sent);
        }
        trips += 1;
        meter.set(trips);
    }
    // So that all behind it see the end.
    drop(writer);
    let tally = Tally { messages: trips, per_s: follower.rate() };
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

fn answer(mut reader: File, mut writer: File, message_bytes: usize, meter: &Meter) -> io::Result<()> {
    let mut message = vec![0; message_bytes];
    for answered in 1.. {
        match reader.read_exact(&mut message) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            read => read?,
        }
        writer.write_all(&message)?;
        meter.set(answered);
    }
    Ok(())
}

fn failed(error: io::Error) -> Failure {
    Failure::system("use a pipe", error)
}
