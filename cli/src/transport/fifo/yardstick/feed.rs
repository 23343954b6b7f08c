//! Feed: how the yardstick's publisher fills its pipe.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::{Errno, retry_on_intr, write};
use rustix::pipe::{IoSliceRaw, SpliceFlags, vmsplice};
use serde::{Deserialize, Serialize};

use crate::bench::args::Feed;
use crate::bench::meter::{Account, Cues, Meter, Schedule, Tally, say};
use crate::failure::Failure;
use crate::transport::fifo::yardstick::pipes::open_writer;

/// Messages are written in batches of at most so many bytes, if not one is larger: as the bus's clients do.
const BATCH_BYTES: usize = 64 * 1024;

/// Buffers that are filled and lent to the kernel in turn.
const LENT_BUFFERS: usize = 8;

const PAGE_BYTES: usize = 4096;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(super) to: PathBuf,
    pub(super) message_bytes: usize,
    pub(super) feed: Feed,
}

pub(crate) fn run(plan: &Plan) -> Result<(), Failure> {
    let pipe = open_writer(&plan.to)?;
    let cues = Cues::ready()?;
    let schedule: Schedule = cues.next()?;
    let meter = Arc::new(Meter::default());
    let follower = schedule.follow(&meter);
    let written = match plan.feed {
        Feed::Write => write_batches(&pipe, plan.message_bytes, &meter),
        Feed::Vmsplice => lend_batches(&pipe, plan.message_bytes, &meter),
    };
    match written {
        // The relay has ended; what that means is for the bench to say.
        Ok(()) | Err(Errno::PIPE) => {}
        Err(error) => return Err(Failure::system("write to a pipe", error)),
    }
    // So that all behind it see the end.
    drop(pipe);
    let published = Tally { messages: meter.messages(), per_s: follower.rate() };
    say(&Account { published, ..Account::default() })
}

fn messages_a_batch(message_bytes: usize) -> usize {
    (BATCH_BYTES / message_bytes).max(1)
}

fn write_batches(pipe: &File, message_bytes: usize, meter: &Meter) -> rustix::io::Result<()> {
    let messages = messages_a_batch(message_bytes);
    let batch = vec![7; messages * message_bytes];
    let mut written = 0;
    while !meter.is_stopped() {
        let mut rest = &batch[..];
        while !rest.is_empty() {
            let bytes = retry_on_intr(|| write(pipe, rest))?;
            rest = &rest[bytes..];
        }
        written += messages as u64;
        meter.set(written);
    }
    Ok(())
}

fn lend_batches(pipe: &File, message_bytes: usize, meter: &Meter) -> rustix::io::Result<()> {
    let messages = messages_a_batch(message_bytes);
    let bytes = messages * message_bytes;
    // Each with a page more, so that there is one with whole pages in it.
    let mut buffers: [Vec<u8>; LENT_BUFFERS] = std::array::from_fn(|_| vec![0; bytes + PAGE_BYTES]);
    let mut written = 0;
    for turn in 0.. {
        if meter.is_stopped() {
            break;
        }
        let buffer = &mut buffers[turn % LENT_BUFFERS];
        let start = buffer.as_ptr().align_offset(PAGE_BYTES);
        let batch = &mut buffer[start..start + bytes];
        batch.fill(turn as u8);
        lend_all(pipe, batch)?;
        written += messages as u64;
        meter.set(written);
    }
    Ok(())
}

#[expect(unsafe_code, reason = "rustix has no safe way to put memory into a pipe without copying it")]
fn lend_all(pipe: &File, mut batch: &mut [u8]) -> rustix::io::Result<()> {
    while !batch.is_empty() {
        let slice = [IoSliceRaw::from_slice_mut(batch)];
        // SAFETY: `pipe` is opened to write by `open_writer`, so that the kernel only reads the memory. Without GIFT it
        // keeps the pages itself as long as they are in a pipe: what is done to the memory meanwhile changes at most
        // what the other end reads, which looks at no byte.
        let bytes = retry_on_intr(|| unsafe { vmsplice(pipe, &slice, SpliceFlags::empty()) })?;
        batch = &mut batch[bytes..];
    }
    Ok(())
}
