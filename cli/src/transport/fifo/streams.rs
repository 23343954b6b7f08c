//! Streams: messages of one size over anything that can be read and written, without a bus.

use std::io::{self, Read, Write};

use crate::bench::latencies::Latencies;
use crate::bench::meter::{Meter, Schedule};
use crate::system::clock::now;

/// As much as the bus's programs read at once, or more.
pub(crate) const BUFFER_BYTES: usize = 256 * 1024;

/// Reads to the end and looks at nothing.
pub(crate) fn drain(mut reader: impl Read, message_bytes: usize, meter: &Meter) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut bytes_read = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(bytes) => bytes_read += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        meter.set((bytes_read / message_bytes) as u64);
    }
}

/// Measures how long it takes until what is written has come back, and closes both in the end.
pub(crate) fn take_trips(
    mut reader: impl Read,
    mut writer: impl Write,
    message_bytes: usize,
    schedule: Schedule,
    meter: &Meter,
) -> io::Result<Latencies> {
    let mut message = vec![0; message_bytes];
    let mut latencies = Latencies::new();
    let mut trips = 0;
    while !meter.is_stopped() {
        let sent = now();
        writer.write_all(&message)?;
        reader.read_exact(&mut message)?;
        if schedule.counts(sent) {
            latencies.record(now() - sent);
        }
        trips += 1;
        meter.set(trips);
    }
    Ok(latencies)
}

/// Writes what comes, until the end.
pub(crate) fn answer(
    mut reader: impl Read,
    mut writer: impl Write,
    message_bytes: usize,
    meter: &Meter,
) -> io::Result<()> {
    let mut message = vec![0; message_bytes];
    let mut answered = 0;
    loop {
        match reader.read_exact(&mut message) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        writer.write_all(&message)?;
        answered += 1;
        meter.set(answered);
    }
}
