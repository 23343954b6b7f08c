//! Connection: one, from the knock to its end, and the task that makes one after another.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use pipebus_proto::control::{Control, Reason, Welcome};
use pipebus_proto::frame::PROTOCOL_VERSION;
use pipebus_proto::place::Place;
use pipebus_proto::splitter::next_span;
use pipebus_proto::wire::encode_control;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::incoming::{Incoming, control_of, protocol};
use crate::reading::read_loop;
use crate::reconnect::Backoff;
use crate::shared::Shared;
use crate::transport::{Attempt, Door, Reader, Writer};
use crate::writing::write_loop;

/// What a pipe that was full grows to, once: each time it is full costs a switch between processes. All pipes of a user
/// together get 64 MiB by default, and new ones only 8 KiB once that is used up (pipe(7), pipe-user-pages-soft): so
/// much leaves room for 256 busy pipes. 1 MiB makes no difference to messages of 128 bytes, measured on two cores.
pub(crate) const FULL_PIPE_BYTES: usize = 256 * 1024;

/// What a pipe that carries large messages grows to, once.
pub(crate) const LARGE_PIPE_BYTES: usize = 1024 * 1024;

/// What is large.
pub(crate) const LARGE_BYTES_MIN: usize = 32 * 1024;

/// After so long without an answer, the client knocks again: a broker that was killed has taken the knock with it.
const KNOCK_AGAIN: Duration = Duration::from_secs(1);

/// How long the broker may take to say goodbye.
const GOODBYE_WAIT: Duration = Duration::from_secs(5);

/// How to reach a broker, again and again.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) place: Place,
    pub(crate) name: String,
    pub(crate) timeout: Duration,
    pub(crate) reconnects: bool,
    pub(crate) visits: bool,
}

/// A connection that the broker has let in.
pub(crate) struct Established {
    reader: Reader,
    writer: Writer,
    buffer: BytesMut,
    pub(crate) welcome: Welcome,
}

impl Endpoint {
    /// Connects once. While a broker ends and the next one starts, tries again: whoever comes then is only let in later.
    pub(crate) async fn establish(&self) -> Result<Established> {
        let deadline = Instant::now() + self.timeout;
        let mut backoff = Backoff::default();
        loop {
            let error = match tokio::time::timeout_at(deadline, self.attempt()).await {
                Ok(Err(error)) if is_about_a_restart(&error) => error,
                Ok(established) => return established,
                Err(_) => {
                    return Err(Error::TimedOut {
                        doing: "waiting for the broker to let this client in",
                        after: self.timeout,
                    });
                }
            };
            let again = Instant::now() + backoff.next_delay(jitter());
            if again >= deadline {
                return Err(error);
            }
            tokio::time::sleep_until(again).await;
        }
    }

    async fn attempt(&self) -> Result<Established> {
        let (version, name) = (PROTOCOL_VERSION, self.name.clone());
        let hello = if self.visits { Control::Visit { version, name } } else { Control::Hello { version, name } };
        let mut attempt = Attempt::prepare(&self.place, &encode_control(&hello)).await?;
        let mut buffer = BytesMut::new();
        let Attempt { reader, door, .. } = &mut attempt;
        let welcome = tokio::select! {
            welcome = read_welcome(reader, &mut buffer) => welcome?,
            error = self.keep_knocking(door) => return Err(error),
        };
        let (reader, writer) = attempt.open()?;
        Ok(Established { reader, writer, buffer, welcome })
    }

    /// Knocks until the broker answers. Ends only if it can't.
    async fn keep_knocking(&self, door: &Door) -> Error {
        loop {
            if let Err(error) = door.knock(&self.place).await {
                return error;
            }
            tokio::time::sleep(KNOCK_AGAIN).await;
        }
    }
}

/// Whether a broker ended while it let this client in. (Or the pipes did not please it, which looks the same.)
fn is_about_a_restart(error: &Error) -> bool {
    matches!(error, Error::Disconnected | Error::Refused { reason: Reason::Ending, .. })
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
            Err(error) if error.is_passing() || is_about_the_place(&error) => {}
            Err(error) => break error,
        }
    };
    shared.closed(&error);
}

/// Whether something else is now where the bus was, or others could put it there. Nothing is said to it; but there was a
/// bus that could be trusted, and whoever removed that may put it back.
fn is_about_the_place(error: &Error) -> bool {
    matches!(error, Error::NotFifo { .. } | Error::Distrust(_))
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
