//! Connection: one, from the knock to its end, and the task that makes one after another.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pipebus_proto::control::{Control, Welcome};
use pipebus_proto::frame::PROTOCOL_VERSION;
use pipebus_proto::place::Place;
use pipebus_proto::splitter::{missing, next_span};
use pipebus_proto::wire::encode_control;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::incoming::{Incoming, control_of, protocol};
use crate::reconnect::Backoff;
use crate::shared::Shared;
use crate::transport::{Attempt, Reader, Writer, grow};

/// How much is read at once.
const READ_BYTES: usize = 128 * 1024;

/// What a pipe holds unless it was made larger (pipe(7)).
const DEFAULT_PIPE_BYTES: usize = 64 * 1024;

/// Pieces in one vectored write.
const PIECES_MAX: usize = 64;

/// How long after a message, if not so many follow that it is asked anyway, the broker is asked to confirm it: without
/// that, all that was published slowly would be in doubt when the connection is lost.
const CONFIRM_WAIT: Duration = Duration::from_millis(100);

/// How long the broker may take to say goodbye.
const GOODBYE_WAIT: Duration = Duration::from_secs(5);

/// How to reach a broker, again and again.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) place: Place,
    pub(crate) name: String,
    pub(crate) timeout: Duration,
    pub(crate) reconnects: bool,
}

/// A connection that the broker has let in.
pub(crate) struct Established {
    reader: Reader,
    writer: Writer,
    buffer: BytesMut,
    pub(crate) welcome: Welcome,
}

impl Endpoint {
    /// Connects once.
    pub(crate) async fn establish(&self) -> Result<Established> {
        let handshake = async {
            let hello = Control::Hello { version: PROTOCOL_VERSION, name: self.name.clone() };
            let attempt = Attempt::prepare(&self.place, &encode_control(&hello))?;
            attempt.knock(&self.place).await?;
            let Attempt { mut reader, writer, .. } = attempt;
            let mut buffer = BytesMut::new();
            let welcome = read_welcome(&mut reader, &mut buffer).await?;
            Ok(Established { reader, writer, buffer, welcome })
        };
        let timed_out = Error::TimedOut { doing: "waiting for the broker to answer a knock", after: self.timeout };
        tokio::time::timeout(self.timeout, handshake).await.unwrap_or(Err(timed_out))
    }
}

async fn read_welcome(reader: &mut Reader, buffer: &mut BytesMut) -> Result<Welcome> {
    loop {
        if let Some(span) = next_span(buffer).map_err(protocol)? {
            return match control_of(&span)? {
                Control::Welcome(welcome) => Ok(welcome),
                Control::Refused { reason, text, .. } => Err(Error::refused(reason, text)),
                other => Err(Error::Protocol(format!("{other:?} instead of Welcome"))),
            };
        }
        if reader.read_buf(buffer).await.unwrap_or(0) == 0 {
            return Err(Error::Disconnected);
        }
    }
}

/// Keeps the client connected until it is closed.
pub(crate) async fn keep_connected(shared: Arc<Shared>, endpoint: Endpoint, first: Established) {
    let _unless_told = Lost(shared.clone());
    let mut next = Some(first);
    let mut backoff = Backoff::default();
    let error = loop {
        if let Some(established) = next.take() {
            let fatal = run(&shared, established).await;
            let again = shared.disconnected();
            if let Some(error) = fatal {
                break error;
            }
            if !again {
                break Error::Closed;
            }
            if !endpoint.reconnects {
                break Error::Disconnected;
            }
            backoff = Backoff::default();
        }
        if shared.is_closing() {
            break Error::Closed;
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_delay(jitter())) => {}
            () = shared.stop.notified() => break Error::Closed,
        }
        let established = tokio::select! {
            established = endpoint.establish() => established,
            () = shared.stop.notified() => break Error::Closed,
        };
        match established {
            Ok(established) => next = Some(established),
            Err(error) if error.is_passing() => {}
            Err(error) => break error,
        }
    };
    shared.closed(&error);
}

/// Ends the client with its task: if the runtime goes, nobody is to wait for ever.
struct Lost(Arc<Shared>);

impl Drop for Lost {
    fn drop(&mut self) {
        self.0.disconnected();
        self.0.closed(&Error::Closed);
    }
}

fn jitter() -> u64 {
    let mut bytes = [0; 8];
    // Without random bytes clients merely come back at the same time.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// Uses a connection until it ends. Returns an error that makes another one pointless.
async fn run(shared: &Arc<Shared>, established: Established) -> Option<Error> {
    let Established { reader, writer, buffer, welcome } = established;
    if !shared.connected(&welcome) {
        return None;
    }
    let message_bytes_max = usize::try_from(welcome.message_bytes_max).unwrap_or(usize::MAX);
    let mut incoming = Incoming::new(shared.clone(), message_bytes_max);
    let stopped = async {
        shared.stop.notified().await;
        tokio::time::sleep(GOODBYE_WAIT).await;
    };
    tokio::select! {
        ended = read_loop(&mut incoming, reader, buffer) => ended.err(),
        // The broker's end is gone; what it wrote before is read first.
        () = write_loop(shared, writer) => None,
        () = stopped => None,
    }
}

async fn write_loop(shared: &Shared, mut writer: Writer) {
    let mut batch = VecDeque::new();
    let mut grown = false;
    // When to ask the broker to confirm what it has not been asked to confirm yet.
    let mut confirm_at = None;
    loop {
        let unasked = shared.take_outgoing(&mut batch);
        confirm_at = if unasked { confirm_at.or_else(|| Some(Instant::now() + CONFIRM_WAIT)) } else { None };
        if batch.is_empty() {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(confirm_at.unwrap_or_else(Instant::now)), if unasked => {
                    shared.ask_to_confirm();
                }
                () = shared.work.notified() => {}
            }
            continue;
        }
        while !batch.is_empty() {
            let written = write_some(&mut writer, &mut batch).await;
            if !batch.is_empty() && !grown {
                grown = true;
                grow(&writer);
            }
            if written.is_err() {
                // The reader learns the same, after it has read what is left: even if nobody takes that.
                let _reading_on = shared.awaiting_answer();
                return std::future::pending().await;
            }
        }
    }
}

async fn write_some(writer: &mut Writer, batch: &mut VecDeque<Bytes>) -> std::io::Result<()> {
    let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
    let count = batch.len().min(PIECES_MAX);
    for (piece, bytes) in pieces.iter_mut().zip(batch.iter()) {
        *piece = IoSlice::new(bytes);
    }
    let mut written = writer.write_vectored(&pieces[..count]).await?;
    while let Some(first) = batch.front_mut() {
        if written < first.len() {
            first.advance(written);
            return Ok(());
        }
        written -= first.len();
        batch.pop_front();
    }
    Ok(())
}

async fn read_loop(incoming: &mut Incoming, mut reader: Reader, mut buffer: BytesMut) -> Result<()> {
    let mut grown = false;
    loop {
        while let Some(span) = next_span(&mut buffer).map_err(protocol)? {
            if !incoming.handle(span).await? {
                return Ok(());
            }
        }
        let room = missing(&buffer).max(READ_BYTES);
        if buffer.capacity() - buffer.len() < room.min(READ_BYTES / 2).max(missing(&buffer)) {
            buffer.reserve(room);
        }
        match reader.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(bytes) if bytes >= DEFAULT_PIPE_BYTES && !grown => {
                grown = true;
                grow(&reader);
            }
            Ok(_) => {}
        }
    }
}
