//! Instance: one client, from its Hello to its end; a read loop and a write loop.

use std::future::poll_fn;
use std::io::ErrorKind::{BrokenPipe, WouldBlock};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pipebus_proto::admin::Cause;
use pipebus_proto::control::{Control, Farewell, Reason, Regarding, Welcome};
use pipebus_proto::frame::{HEAD_BYTES, PROTOCOL_VERSION};
use pipebus_proto::splitter::missing;
use pipebus_proto::wire::encode_control;
use tokio::io::Interest;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::info;

use crate::broker::Broker;
use crate::core::account::Account;
use crate::core::bus::{Hello, describe};
use crate::core::limits::Limits;
use crate::core::refused::Refused;
use crate::episode::{Sort, may_tell_of};
use crate::events;
use crate::handshake::{Turn, read_hello, refuse};
use crate::inlet::Inlet;
use crate::outbox::{Next, Outbox};
use crate::read_buffer::ReadBuffer;
use crate::shutdown::{Phase, Shutdown};
use crate::transport::{self, Arrived, Reader, Writer, try_write};

/// Pieces in one vectored write; the kernel takes up to 1,024 (UIO_MAXIOV).
const PIECES_MAX: usize = 256;

/// How long a client is read, once the broker shuts down, that does not say goodbye at the last call.
const LAST_CALL_WAIT: Duration = Duration::from_secs(1);

/// How much is written to one client before others on its thread have their turn.
const TURN_BYTES_MAX: usize = 256 * 1024;

/// How long a client that is told to go may take to read why; and how long one that has closed the pipe to it is still
/// read.
const FAREWELL_WAIT: Duration = Duration::from_secs(1);

/// Serves one client: waits for its Hello, lets it in or says why not, and routes what it sends until it ends.
pub(crate) fn serve(broker: Arc<Broker>, arrived: Arrived, turn: Turn, shutdown: Shutdown) -> impl Future<Output = ()> {
    // In a box, like all that happens once or seldom: otherwise each instance would have room for it all its life.
    let entrance = Box::pin(let_in(broker, arrived, turn, shutdown));
    async {
        let parting = {
            let Some(mut instance) = entrance.await else { return };
            let departure = instance.live().await;
            let inlet = &instance.intake.inlet;
            if may_tell_of(&inlet.outbox.owner, Sort::ComesAndGoes) {
                info!(instance = inlet.id().0, cause = departure.text, "ended");
            }
            instance.end(departure);
            Box::pin(part(instance))
        };
        parting.await;
    }
}

/// It is no more, but for its pipe.
async fn part(mut instance: Instance) {
    transport::part(&mut instance.intake.reader).await;
}

/// Waits for the client's Hello. Returns the instance, welcomed, or tells the client why not.
async fn let_in(broker: Arc<Broker>, arrived: Arrived, turn: Turn, shutdown: Shutdown) -> Option<Instance> {
    let Arrived { reader, writer, peer } = arrived;
    let deadline = Instant::now() + broker.config.handshake_timeout();
    let mut read = BytesMut::new();
    let hello = tokio::select! {
        hello = timeout_at(deadline, read_hello(turn, &peer.identity, &reader, &mut read)) => hello,
        () = shutdown.reached(Phase::LastCall) => Ok(Err(Refused::new(Reason::Ending, "the broker shuts down"))),
    };
    let late = || Refused::new(Reason::Protocol, "no Hello came within the handshake time-out");
    let mut writer = Some(writer);
    let let_in = async {
        let hello = hello.unwrap_or_else(|_| Err(late()))?;
        let (id, outbox) = loop {
            let groups = timeout_at(deadline, broker.groups_of(&peer.identity)).await.map_err(|_| {
                let text = "who is in which group could not be looked up in time; try again later";
                Refused::new(Reason::Exhausted, text)
            })??;
            let make = |limits: &Limits, account: &Arc<Account>| {
                Outbox::new(limits, account, writer.take(), peer.identity.clone())
            };
            if let Some(connected) = broker.connect(peer.clone(), groups.as_deref(), hello.clone(), make)? {
                break connected;
            }
        };
        Ok::<_, Refused>((id, hello, outbox))
    };
    let (id, Hello { name, visits }, outbox) = match let_in.await {
        Ok(let_in) => let_in,
        Err(refused) => {
            broker.tally.turned_away.count(refused.reason);
            refuse(writer, &peer, refused);
            return None;
        }
    };
    outbox.name(id);
    let (version, said) = (PROTOCOL_VERSION, name.clone());
    let hello = if visits { Control::Visit { version, name: said } } else { Control::Hello { version, name: said } };
    let hello = encode_control(&hello);
    let welcome = Control::Welcome(Welcome {
        client: id,
        broker_version: env!("CARGO_PKG_VERSION").to_owned(),
        message_bytes_max: broker.routes().message_bytes_max(),
    });
    let mut inlet = Inlet::new(broker.clone(), id, outbox.clone());
    inlet.observe(&hello[HEAD_BYTES..]);
    broker.say(&outbox, &welcome);
    if may_tell_of(&peer.identity, Sort::ComesAndGoes) {
        info!(instance = id.0, who = describe(&peer.identity), name, pid = peer.pid, "connected");
    }
    events::connected(&broker, id, &peer, &name);
    let mut buffer = ReadBuffer::default();
    if !read.is_empty() {
        *buffer.bytes() = read;
    }
    Some(Instance { intake: Intake { inlet, buffer, reader }, shutdown })
}

/// A client that has been let in. Dropped, it ends, whatever the reason.
struct Instance {
    intake: Intake,
    shutdown: Shutdown,
}

/// What comes from the client.
struct Intake {
    inlet: Inlet,
    buffer: ReadBuffer,
    reader: Reader,
}

impl Drop for Instance {
    /// If it has not ended by itself, there was no more time for it.
    fn drop(&mut self) {
        self.end(Departure { cause: Cause::Shutdown, text: "the broker ended it" });
    }
}

/// Why an instance ends, for programs and for people.
#[derive(Clone, Copy)]
struct Departure {
    cause: Cause,
    text: &'static str,
}

impl Departure {
    const PIPE_CLOSED: Departure = Departure { cause: Cause::PipeClosed, text: "the client's pipe is closed" };

    /// It was told so.
    fn told(farewell: Farewell) -> Departure {
        let (cause, text) = match farewell {
            Farewell::Leaving => (Cause::Left, "the client left"),
            Farewell::Shutdown => (Cause::Shutdown, "the broker shuts down"),
            Farewell::Slow => (Cause::Slow, "the client was too slow"),
            Farewell::Protocol => (Cause::Protocol, "the client broke the protocol"),
            Farewell::Disconnected => (Cause::Policy, "it may not be here any more"),
        };
        Departure { cause, text }
    }

    /// It was to be told so, and did not read that.
    fn untold(farewell: Option<Farewell>, text: &'static str) -> Departure {
        Departure { text, ..Departure::told(farewell.unwrap_or(Farewell::Leaving)) }
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
    /// What came before the shutdown has been read.
    HeardOut,
    /// The client is to be disconnected.
    Kicked,
    /// The client has been disconnected, and told why.
    Told(Farewell),
}

impl Instance {
    /// It is no more, if it still was.
    fn end(&self, departure: Departure) {
        let Inlet { broker, outbox, .. } = &self.intake.inlet;
        // Whoever waits for room in it need not.
        outbox.end();
        let id = self.intake.inlet.id();
        let Some(gone) = broker.handle_gone(id, outbox) else { return };
        let expelled = outbox.expelled().filter(|_| departure.cause == Cause::Policy);
        let (cause, reason) = expelled.unwrap_or_else(|| (departure.cause, departure.text.to_owned()));
        events::disconnected(broker, id, &gone, cause, &reason);
    }

    /// Moves frames both ways until the client has gone. Returns why.
    async fn live(&mut self) -> Departure {
        let outbox = self.intake.inlet.outbox.clone();
        let mut write = pin!(write_loop(&outbox));
        let ended = {
            let mut read = pin!(self.intake.read_loop(&self.shutdown));
            let ended = poll_fn(|context| {
                // First, so that whatever happens from now on wakes this task: the shutdown, too, which is only looked at.
                if outbox.poll_kicked(context).is_ready() {
                    return Poll::Ready(Ok(Ended::Kicked));
                }
                if self.shutdown.has_reached(Phase::Closing) {
                    // It still waits for somebody's room; what it has read so far is all that there is time for.
                    return Poll::Ready(Ok(Ended::HeardOut));
                }
                match read.as_mut().poll(context) {
                    Poll::Ready(ended) => Poll::Ready(Ok(ended)),
                    Poll::Pending => write.as_mut().poll(context).map(Err),
                }
            });
            match ended.await {
                Ok(ended) => ended,
                // It was kicked meanwhile.
                Err(Some(farewell)) => Ended::Told(farewell),
                Err(None) => {
                    // Whatever the client has written before it closed its other pipe is still routed.
                    let _ = Box::pin(timeout(FAREWELL_WAIT, read)).await;
                    return Departure::PIPE_CLOSED;
                }
            }
        };
        self.shutdown.reader_done();
        Box::pin(take_leave(ended, write, &self.intake.inlet.broker, &outbox, &self.shutdown)).await
    }
}

/// Once nothing more is read: writes what waits, and goodbye, for as long as there is patience.
async fn take_leave(
    ended: Ended,
    mut write: Pin<&mut impl Future<Output = Option<Farewell>>>,
    broker: &Broker,
    outbox: &Outbox,
    shutdown: &Shutdown,
) -> Departure {
    let patience_max = broker.config.shutdown_timeout();
    let said_or = |farewell: Option<Farewell>, otherwise: Departure| {
        farewell.map_or(otherwise, |farewell| said(broker, outbox, farewell))
    };
    let (farewell, patience) = match ended {
        Ended::Gone => return Departure::PIPE_CLOSED,
        Ended::Told(farewell) => return said(broker, outbox, farewell),
        Ended::Left => (Farewell::Leaving, patience_max),
        Ended::Violation(refused) => {
            if may_tell_of(&outbox.owner, Sort::Fault) {
                info!(instance = outbox.instance().0, reason = %refused, "broke the protocol");
            }
            broker.say(outbox, &refused.about(Regarding::Connection));
            (Farewell::Protocol, FAREWELL_WAIT)
        }
        Ended::HeardOut => {
            tokio::select! {
                () = shutdown.reached(Phase::Closing) => {}
                farewell = &mut write => return said_or(farewell, Departure::PIPE_CLOSED),
            }
            (Farewell::Shutdown, patience_max)
        }
        Ended::Kicked => {
            // It may be too slow even for a farewell.
            let farewell = timeout(FAREWELL_WAIT, write).await.ok().flatten();
            let untold = Departure::untold(outbox.farewell(), "disconnected, and did not read why");
            return said_or(farewell, untold);
        }
    };
    outbox.close(farewell);
    match timeout(patience, write).await {
        Ok(goodbye) => said_or(goodbye, Departure::told(farewell)),
        Err(_) => Departure::untold(Some(farewell), "did not read what waited for it"),
    }
}

/// Goodbye has been said, and those who watch are told.
fn said(broker: &Broker, outbox: &Outbox, farewell: Farewell) -> Departure {
    broker.observe_said(outbox, &Control::Goodbye { cause: farewell });
    Departure::told(farewell)
}

/// Writes what waits, until goodbye is said; `None` if the client's pipe is closed before.
async fn write_loop(outbox: &Outbox) -> Option<Farewell> {
    loop {
        poll_fn(|context| outbox.poll_work(context)).await;
        // In a box that is gone when nothing waits any more: mostly nothing does.
        if let Some(cause) = Box::pin(write_out(outbox)).await.ok()? {
            return Some(cause);
        }
    }
}

/// Writes all that waits; why goodbye has been said, if it has.
async fn write_out(outbox: &Outbox) -> io::Result<Option<Farewell>> {
    let mut batch = Vec::new();
    let mut turn = 0;
    while let Some(next) = outbox.next(&mut batch) {
        match next {
            Next::Write(writer) => {
                let count = |bytes| {
                    turn += bytes;
                    outbox.written(bytes);
                };
                write_batch(&writer, &mut batch, count).await?;
                batch.clear();
                outbox.give_back(writer);
                // Whoever is flooded shares the broker's thread with others.
                if turn > TURN_BYTES_MAX {
                    turn = 0;
                    tokio::task::yield_now().await;
                }
            }
            Next::Goodbye(writer, cause) => {
                write_batch(&writer, &mut [encode_control(&Control::Goodbye { cause })], |_| {}).await?;
                return Ok(Some(cause));
            }
        }
    }
    Ok(None)
}

/// Writes all of the batch; `written` is told of every step.
async fn write_batch(writer: &Writer, batch: &mut [Bytes], mut written: impl FnMut(usize)) -> io::Result<()> {
    let mut done = 0;
    while done < batch.len() {
        // Not through tokio, which may have been told that the pipe is full though it was another that was empty; and
        // mostly there is room, so nobody has to be asked.
        let bytes = match write_some(writer, &batch[done..]) {
            Err(error) if error.kind() == WouldBlock => wait_to_write(writer, &batch[done..]).await?,
            written => written?,
        };
        written(bytes);
        done += advance(&mut batch[done..], bytes);
    }
    Ok(())
}

async fn wait_to_write(writer: &Writer, batch: &[Bytes]) -> io::Result<usize> {
    loop {
        let ready = writer.ready(Interest::WRITABLE).await?;
        match writer.try_io(|| write_some(writer, batch)) {
            // tokio says so for ever once nobody has read the pipe for a moment, though a client can open it anew: who
            // does that has left.
            Err(error) if error.kind() == WouldBlock && ready.is_write_closed() => return Err(BrokenPipe.into()),
            Err(error) if error.kind() == WouldBlock => {}
            written => return written,
        }
    }
}

/// Writes what the pipe takes at once. Not across a wait, where its pieces would be kept in every instance's memory.
fn write_some(writer: &Writer, batch: &[Bytes]) -> io::Result<usize> {
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

impl Intake {
    /// Reads what the client sends and sends it on its way, until that ends. To be polled when the shutdown begins.
    async fn read_loop(&mut self, shutdown: &Shutdown) -> Ended {
        // In boxes, which are gone while nothing comes. Whose user owes time for what it has sent before waits first.
        Box::pin(self.inlet.keep_rate_from_before()).await;
        // Then, frames that came with its Hello.
        if let Err(ended) = Box::pin(self.take_in(0)).await {
            return ended;
        }
        loop {
            let wanted = missing(self.buffer.bytes());
            let read = {
                let mut read = pin!(self.buffer.read(&mut self.reader, wanted));
                poll_fn(|context| match shutdown.has_reached(Phase::LastCall) {
                    true => Poll::Ready(None),
                    false => read.as_mut().poll(context).map(Some),
                })
                .await
            };
            let Some(read) = read else { return Box::pin(self.hear_last()).await };
            if let Err(ended) = Box::pin(self.route(read)).await {
                return ended;
            }
        }
    }

    /// Tells the client that the broker ends, and takes what comes before its goodbye: then nothing of it is in doubt. Who
    /// does not say goodbye is not read for ever.
    async fn hear_last(&mut self) -> Ended {
        self.inlet.broker.say(&self.inlet.outbox, &Control::LastCall);
        let until = Instant::now() + LAST_CALL_WAIT;
        while Instant::now() < until {
            let wanted = missing(self.buffer.bytes());
            let Ok(read) = timeout_at(until, self.buffer.read(&mut self.reader, wanted)).await else { break };
            match self.route(read).await {
                Ok(()) => {}
                // It still gets what others have sent.
                Err(Ended::Left) => break,
                Err(ended) => return ended,
            }
        }
        Ended::HeardOut
    }

    /// Takes in what has been read, if anything.
    async fn route(&mut self, read: io::Result<usize>) -> Result<(), Ended> {
        match read {
            Ok(bytes @ 1..) => self.take_in(bytes).await,
            _ => Err(Ended::Gone),
        }
    }

    async fn take_in(&mut self, bytes_read: usize) -> Result<(), Ended> {
        match self.inlet.take_in(bytes_read, &mut self.buffer, &self.reader).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Ended::Left),
            Err(refused) => Err(Ended::Violation(refused)),
        }
    }
}

#[cfg(test)]
mod tests;
