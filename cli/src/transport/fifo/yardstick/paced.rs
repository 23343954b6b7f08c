//! Paced over the yardstick: how long a message is on its way through the relay, at a rate that leaves it room.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use pipebus_proto::frame::HEAD_BYTES;
use serde::{Deserialize, Serialize};

use crate::bench::latencies::Latencies;
use crate::bench::meter::{Account, Cues, Meter, Schedule, Tally, say};
use crate::bench::pace::{due, interval, stamp, stamp_of};
use crate::failure::Failure;
use crate::system::clock::{BlockingTimer, now};
use crate::transport::fifo::streams::BUFFER_BYTES;
use crate::transport::fifo::yardstick::pipes::{open_reader, open_writer};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(super) pipe: PathBuf,
    pub(super) message_bytes: usize,
    /// Of messages a second.
    pub(super) rate: u32,
}

pub(crate) fn writer(plan: &Plan) -> Result<(), Failure> {
    let mut pipe = open_writer(&plan.pipe)?;
    let cues = Cues::ready()?;
    let schedule: Schedule = cues.next()?;
    let meter = Arc::new(Meter::default());
    let follower = schedule.follow(&meter);
    let mut timer = BlockingTimer::start(interval(plan.rate))?;
    let mut message = vec![0; plan.message_bytes];
    let mut written = 0;
    while !meter.is_stopped() {
        for time in due(timer.count()?, plan.rate) {
            stamp(&mut message[HEAD_BYTES..], time);
            pipe.write_all(&message).map_err(|error| Failure::system("write to a pipe", error))?;
            written += 1;
            meter.set(written);
        }
    }
    // So that all behind it see the end.
    drop(pipe);
    let published = Tally { messages: meter.messages(), per_s: follower.rate() };
    say(&Account { published, ..Account::default() })
}

pub(crate) fn reader(plan: &Plan) -> Result<(), Failure> {
    let pipe = open_reader(&plan.pipe)?;
    let cues = Cues::ready()?;
    let schedule: Schedule = cues.next()?;
    let meter = Arc::new(Meter::default());
    let follower = schedule.follow(&meter);
    let mut latencies = Latencies::new();
    let read = read(pipe, plan.message_bytes, &meter, |message| {
        if let Some(sent) = stamp_of(&message[HEAD_BYTES..]).filter(|sent| schedule.counts(*sent)) {
            latencies.record(now().saturating_sub(sent));
        }
    });
    read.map_err(|error| Failure::system("read from a pipe", error))?;
    let received = Tally { messages: meter.messages(), per_s: follower.rate() };
    say(&Account { received, latency: latencies.summary(), ..Account::default() })
}

/// Cuts what comes into messages, until the end.
fn read(mut pipe: File, message_bytes: usize, meter: &Meter, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES.max(message_bytes)];
    let (mut filled, mut count) = (0, 0);
    loop {
        match pipe.read(&mut buffer[filled..])? {
            0 => return Ok(()),
            bytes => filled += bytes,
        }
        let messages = buffer[..filled].chunks_exact(message_bytes);
        count += messages.len() as u64;
        let rest = messages.remainder().len();
        messages.for_each(&mut take);
        meter.set(count);
        buffer.copy_within(filled - rest..filled, 0);
        filled = rest;
    }
}
