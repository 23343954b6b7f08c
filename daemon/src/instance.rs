//! Instance: one client, from its Hello to its end; a read loop and a write loop.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use pipebus_proto::control::{Control, Farewell, Reason, Regarding, Welcome};
use pipebus_proto::splitter::missing;
use pipebus_proto::topic::InstanceId;
use pipebus_proto::wire::encode_control;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{Instrument, info, info_span};

use crate::broker::Broker;
use crate::core::bus::{Refused, describe};
use crate::handshake::{read_hello, refuse};
use crate::inlet::Inlet;
use crate::outbox::{Next, Outbox};
use crate::read_buffer::ReadBuffer;
use crate::shutdown::{Phase, Shutdown};
use crate::transport::{Arrived, Reader, Writer, try_write};

/// Pieces in one vectored write; the kernel takes up to 1,024 (UIO_MAXIOV).
const PIECES_MAX: usize = 256;

/// How long a reader waits, once the broker shuts down or the client's other pipe is gone, for what is already there.
const DRAIN_WAIT: Duration = Duration::from_millis(50);

/// How much is taken then: what a client's pipe may hold, of any size that its user can give it.
const DRAIN_BYTES_MAX: u64 = 1024 * 1024;

/// How much is taken from one client before others on its thread have their turn.
const TURN_BYTES_MAX: u64 = 256 * 1024;

/// How long a client that is told to go may take to read why.
pub(crate) const FAREWELL_WAIT: Duration = Duration::from_secs(1);

/// Serves one client: waits for its Hello, lets it in or says why not, and routes what it sends until it ends.
/// `handshake` is dropped once that is decided.
pub(crate) async fn serve<H>(broker: Arc<Broker>, arrived: Arrived, handshake: H, mut shutdown: Shutdown) {
    let Arrived { mut reader, writer, peer } = arrived;
    let deadline = Instant::now() + broker.config.handshake_timeout();
    let mut buffer = ReadBuffer::default();
    // In a box, like all that happens once or seldom: otherwise each instance would have room for it all its life.
    let hello = Box::pin(async {
        tokio::select! {
            hello = timeout_at(deadline, read_hello(&mut reader, &mut buffer)) => hello,
            () = shutdown.reached(Phase::Draining) => Ok(Err(Refused::new(Reason::Exhausted, "the broker shuts down"))),
        }
    })
    .await;
    let late = Refused::new(Reason::Protocol, "no Hello came within the handshake time-out");
    let outbox = Arc::new(Outbox::new(&broker.config.limits(), writer, peer.identity.clone()));
    let let_in = hello.unwrap_or(Err(late)).and_then(|name| {
        let id = broker.connect(peer.clone(), name.clone(), outbox.clone())?;
        Ok((id, name))
    });
    let (id, name) = match let_in {
        Ok(let_in) => let_in,
        Err(refused) => return Box::pin(refuse(outbox.take_writer(), &peer, refused)).await,
    };
    drop(handshake);
    outbox.name(id);
    outbox.send(&Control::Welcome(Welcome {
        client: id,
        broker_version: env!("CARGO_PKG_VERSION").to_owned(),
        message_bytes_max: broker.config.limits().message_bytes_max,
    }));
    let mut inlet = Inlet::new(broker.clone(), id, outbox.clone(), &peer, &name);
    let span = info_span!("instance", id = id.0, who = describe(&peer.identity));
    let _gone = Gone { broker: &broker, id, outbox: &outbox };
    async {
        info!(name, pid = peer.pid, "connected");
        let cause = relay(&mut inlet, &mut buffer, &mut reader, &outbox, &mut shutdown).await;
        info!(cause, "ended");
    }
    .instrument(span)
    .await;
}

/// Ends the instance, however its task ends.
struct Gone<'a> {
    broker: &'a Broker,
    id: InstanceId,
    outbox: &'a Outbox,
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        // Whoever waits for room in it need not.
        self.outbox.end();
        self.broker.handle_gone(self.id, self.outbox);
    }
}

/// Why the read loop ended.
enum Ended {
    /// The client said goodbye.
    Left,
    /// The client's pipe has no writer any more.
    Gone,
    /// The client broke the protocol.
    Violation(Refused),
    /// All that was there when the shutdown began has been read.
    Drained,
    /// The client is to be disconnected.
    Kicked,
}

/// Moves frames both ways until the client has gone. Returns why, for the log.
async fn relay(
    inlet: &mut Inlet,
    buffer: &mut ReadBuffer,
    reader: &mut Reader,
    outbox: &Outbox,
    shutdown: &mut Shutdown,
) -> &'static str {
    let patience_max = inlet.broker().config.shutdown_timeout();
    let mut drain = shutdown.clone();
    drain.reader_done();
    let mut write = std::pin::pin!(write_loop(outbox));
    let ended = {
        let mut read = std::pin::pin!(read_loop(inlet, buffer, reader, &mut drain));
        tokio::select! {
            biased;
            ended = &mut read => ended,
            // It still waits for somebody's room; what it has read so far is all that there is time for.
            () = shutdown.reached(Phase::Closing) => Ended::Drained,
            () = outbox.kicked() => Ended::Kicked,
            farewell = &mut write => {
                // Whatever the client has written before it closed its other pipe is still routed.
                let _ = Box::pin(timeout(FAREWELL_WAIT, read)).await;
                return farewell.map_or("the client's pipe is closed", cause);
            }
        }
    };
    shutdown.reader_done();
    Box::pin(take_leave(ended, write, outbox, shutdown, patience_max)).await
}

/// Once nothing more is read: writes what waits, and goodbye, for as long as there is patience.
async fn take_leave(
    ended: Ended,
    mut write: Pin<&mut impl Future<Output = Option<Farewell>>>,
    outbox: &Outbox,
    shutdown: &mut Shutdown,
    patience_max: Duration,
) -> &'static str {
    let (farewell, patience) = match ended {
        Ended::Gone => return "the client's pipe is closed",
        Ended::Left => (Farewell::Leaving, patience_max),
        Ended::Violation(refused) => {
            info!(reason = %refused, "broke the protocol");
            outbox.send(&refused.about(Regarding::Connection));
            (Farewell::Protocol, FAREWELL_WAIT)
        }
        Ended::Drained => {
            tokio::select! {
                () = shutdown.reached(Phase::Closing) => {}
                farewell = &mut write => return farewell.map_or("the client's pipe is closed", cause),
            }
            (Farewell::Shutdown, patience_max)
        }
        Ended::Kicked => {
            // It may be too slow even for a farewell.
            let farewell = timeout(FAREWELL_WAIT, write).await.ok().flatten();
            return farewell.map_or("disconnected, and did not read why", cause);
        }
    };
    outbox.close(farewell);
    match timeout(patience, write).await {
        Ok(_) => cause(farewell),
        Err(_) => "did not read what waited for it",
    }
}

fn cause(farewell: Farewell) -> &'static str {
    match farewell {
        Farewell::Leaving => "the client left",
        Farewell::Shutdown => "the broker shuts down",
        Farewell::Slow => "the client was too slow",
        Farewell::Protocol => "the client broke the protocol",
        Farewell::Disconnected => "disconnected by an administrator",
    }
}

/// Writes what waits, until goodbye is said; `None` if the client's pipe is closed before.
async fn write_loop(outbox: &Outbox) -> Option<Farewell> {
    let mut batch = Vec::new();
    loop {
        match outbox.next(&mut batch).await {
            Next::Write(writer) => {
                write_batch(&writer, outbox, &mut batch).await.ok()?;
                outbox.give_back(writer);
            }
            Next::Goodbye(mut writer, cause) => {
                writer.write_all(&encode_control(&Control::Goodbye { cause })).await.ok()?;
                return Some(cause);
            }
        }
    }
}

async fn write_batch(writer: &Writer, outbox: &Outbox, batch: &mut Vec<Bytes>) -> std::io::Result<()> {
    let mut done = 0;
    // Mostly there is room, and nobody has to be asked.
    let mut written = write_some(writer, &batch[done..]);
    loop {
        match written {
            Ok(bytes) => {
                outbox.written(bytes);
                done += advance(&mut batch[done..], bytes);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                writer.writable().await?;
                written = writer.try_io(|| write_some(writer, &batch[done..]));
                continue;
            }
            Err(error) => return Err(error),
        }
        if done == batch.len() {
            break;
        }
        // Not through tokio, which may have been told that the pipe is full though it was another that was empty.
        written = write_some(writer, &batch[done..]);
    }
    batch.clear();
    Ok(())
}

/// Writes what the pipe takes at once. Not across a wait, where its pieces would be kept in every instance's memory.
fn write_some(writer: &Writer, batch: &[Bytes]) -> std::io::Result<usize> {
    let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
    for (piece, bytes) in pieces.iter_mut().zip(batch) {
        *piece = IoSlice::new(bytes);
    }
    try_write(writer, &pieces[..batch.len().min(PIECES_MAX)])
}

/// Takes so many bytes off the front. Returns how many pieces are wholly gone.
fn advance(batch: &mut [Bytes], mut bytes: usize) -> usize {
    for (gone, piece) in batch.iter_mut().enumerate() {
        if bytes < piece.len() {
            piece.advance(bytes);
            return gone;
        }
        bytes -= piece.len();
    }
    batch.len()
}

async fn read_loop(inlet: &mut Inlet, buffer: &mut ReadBuffer, reader: &mut Reader, shutdown: &mut Shutdown) -> Ended {
    // Once the shutdown has begun: until when more is waited for, and how much had been read by then. What is there is
    // taken, up to what a pipe can hold: a client that never stops is not read for ever.
    let mut drain: Option<(Instant, u64)> = None;
    let mut turn = inlet.bytes_in();
    let mut draining = std::pin::pin!(shutdown.reached(Phase::Draining));
    loop {
        match inlet.take_in(buffer, reader).await {
            Ok(true) => {}
            Ok(false) => return Ended::Left,
            Err(refused) => return Ended::Violation(refused),
        }
        let wanted = missing(buffer.bytes());
        let read = match drain {
            None => tokio::select! {
                biased;
                read = buffer.read(reader, wanted) => read,
                () = &mut draining => {
                    drain = Some((Instant::now() + DRAIN_WAIT, inlet.bytes_in()));
                    continue;
                }
            },
            Some((_, before)) if inlet.bytes_in() - before > DRAIN_BYTES_MAX => return Ended::Drained,
            Some((until, _)) => match Box::pin(timeout_at(until, buffer.read(reader, wanted))).await {
                Ok(read) => read,
                Err(_) => return Ended::Drained,
            },
        };
        match read {
            Ok(bytes @ 1..) => inlet.count_read(bytes),
            _ => return Ended::Gone,
        }
        // Whoever floods the broker shares its thread with others.
        if inlet.bytes_in() - turn > TURN_BYTES_MAX {
            turn = inlet.bytes_in();
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests;
