//! Instance: one client, from its Hello to its end; a read loop and a write loop, generic over what they read and write.

use std::collections::HashSet;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use pipebus_proto::control::{Control, Farewell, NAME_BYTES_MAX, Overflow, Purpose, Reason, Regarding, Welcome};
use pipebus_proto::frame::{Call, FRAME_BYTES_MAX, HEAD_BYTES, Kind, Malformed, PROTOCOL_VERSION, Part};
use pipebus_proto::splitter::{Span, missing, next_span};
use pipebus_proto::topic::{InstanceId, TopicId};
use pipebus_proto::wire::{decode_control, decode_metadata, encode_control};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{Instrument, debug, info, info_span, trace};

use crate::admin;
use crate::broker::Broker;
use crate::core::bus::{Refused, Server, describe};
use crate::core::policy::Peer;
use crate::core::queue::{Introductions, Pushed};
use crate::core::routes::Route;
use crate::outbox::{Next, Outbox};
use crate::read_buffer::ReadBuffer;
use crate::shutdown::{Phase, Shutdown};

/// Pieces in one vectored write; the kernel takes up to 1,024 (UIO_MAXIOV).
const PIECES_MAX: usize = 256;

/// What may come before Welcome: one Hello is far smaller.
const HELLO_BYTES_MAX: usize = 512;

/// How long a reader waits, once the broker shuts down or the client's other pipe is gone, for what is already there.
const DRAIN_WAIT: Duration = Duration::from_millis(50);

/// How long a client that is told to go may take to read why.
const FAREWELL_WAIT: Duration = Duration::from_secs(1);

/// Serves one client: waits for its Hello, lets it in or says why not, and routes what it sends until it ends.
pub(crate) async fn serve<R, W>(broker: Arc<Broker>, peer: Peer, mut reader: R, mut writer: W, shutdown: Shutdown)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let deadline = Instant::now() + broker.config.handshake_timeout();
    let mut buffer = ReadBuffer::default();
    let name = match timeout_at(deadline, read_hello(&mut reader, &mut buffer)).await {
        Ok(Ok(name)) => name,
        Ok(Err(refused)) => return refuse(&mut writer, &peer, refused).await,
        Err(_) => {
            let text = "no Hello came within the handshake time-out";
            return refuse(&mut writer, &peer, Refused::new(Reason::Protocol, text)).await;
        }
    };
    let outbox = Arc::new(Outbox::new(&broker.config.limits()));
    let id = match broker.connect(peer.clone(), name.clone(), outbox.clone()) {
        Ok(id) => id,
        Err(refused) => return refuse(&mut writer, &peer, refused).await,
    };
    outbox.name(id);
    outbox.send(&Control::Welcome(Welcome {
        client: id,
        broker_version: env!("CARGO_PKG_VERSION").to_owned(),
        message_bytes_max: broker.config.limits().message_bytes_max,
    }));
    let introduction = Control::SenderInfo { sender: id, identity: peer.identity.clone(), name: name.clone() };
    let inlet = Inlet {
        broker: broker.clone(),
        id,
        outbox: outbox.clone(),
        introduction: encode_control(&introduction),
        sequence: 0,
        unfinished: None,
        declared: HashSet::new(),
        waiting: Vec::new(),
    };
    let span = info_span!("instance", id = id.0, who = describe(&peer.identity));
    async {
        info!(name, pid = peer.pid, "connected");
        let cause = relay(inlet, buffer, reader, writer, &outbox, shutdown).await;
        // Whoever waits for room in it need not.
        outbox.close(Farewell::Leaving);
        broker.handle_gone(id, &outbox);
        info!(cause, "ended");
    }
    .instrument(span)
    .await;
}

async fn read_hello<R: AsyncRead + Unpin>(reader: &mut R, buffer: &mut ReadBuffer) -> Result<String, Refused> {
    let span = loop {
        if let Some(span) = next_span(buffer.bytes()).map_err(protocol)? {
            break span;
        }
        if buffer.bytes().len() >= HELLO_BYTES_MAX {
            return Err(Refused::new(Reason::Protocol, "the first frame is no Hello"));
        }
        match reader.take(HELLO_BYTES_MAX as u64).read_buf(buffer.bytes()).await {
            Ok(1..) => {}
            _ => return Err(Refused::new(Reason::Protocol, "the client left before its Hello")),
        }
    };
    let frame = span.iter().next().filter(|frame| frame.head.kind == Kind::Control);
    let body = frame.map(|frame| frame.body).unwrap_or_default();
    match decode_control(&body) {
        Ok(Control::Hello { version, .. }) if version != PROTOCOL_VERSION => Err(wrong_version(version)),
        Ok(Control::Hello { name, .. }) => Ok(presentable(&name)),
        _ => Err(Refused::new(Reason::Protocol, "the first frame is no Hello")),
    }
}

/// Client and broker speak different versions.
pub(crate) fn wrong_version(version: u16) -> Refused {
    let text = format!(
        "the client speaks version {version} of the protocol, the broker version {PROTOCOL_VERSION}; update the older"
    );
    Refused::new(Reason::Version, text)
}

/// A name that can be shown on any terminal and put into any frame.
fn presentable(name: &str) -> String {
    let mut short: String = name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    short.truncate(short.floor_char_boundary(NAME_BYTES_MAX));
    short
}

async fn refuse<W: AsyncWrite + Unpin>(writer: &mut W, peer: &Peer, refused: Refused) {
    info!(who = describe(&peer.identity), pid = peer.pid, reason = %refused, "refused a client");
    let refusal = Control::Refused { regarding: Regarding::Connection, reason: refused.reason, text: refused.text };
    let _ = timeout(FAREWELL_WAIT, writer.write_all(&encode_control(&refusal))).await;
}

fn protocol(malformed: Malformed) -> Refused {
    Refused::new(Reason::Protocol, malformed.to_string())
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
}

/// Moves frames both ways until the client has gone. Returns why, for the log.
async fn relay<R, W>(
    mut inlet: Inlet,
    buffer: ReadBuffer,
    reader: R,
    writer: W,
    outbox: &Outbox,
    mut shutdown: Shutdown,
) -> &'static str
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let timeout_at_shutdown = inlet.broker.config.shutdown_timeout();
    let mut drain = shutdown.clone();
    drain.reader_done();
    let mut write = std::pin::pin!(write_loop(writer, outbox));
    let ended = {
        let mut read = std::pin::pin!(read_loop(&mut inlet, buffer, reader, drain));
        tokio::select! {
            ended = &mut read => ended,
            () = outbox.kicked() => {
                // It may be too slow even for a farewell.
                let farewell = timeout(FAREWELL_WAIT, write).await.ok().flatten();
                return farewell.map_or("disconnected, and did not read why", cause);
            }
            farewell = &mut write => {
                // Whatever the client has written before it closed its other pipe is still routed.
                let _ = timeout(FAREWELL_WAIT, read).await;
                return farewell.map_or("the client's pipe is closed", cause);
            }
        }
    };
    shutdown.reader_done();
    let (farewell, patience) = match ended {
        Ended::Gone => return "the client's pipe is closed",
        Ended::Left => (Farewell::Leaving, timeout_at_shutdown),
        Ended::Violation(refused) => {
            info!(reason = %refused, "broke the protocol");
            let (reason, text) = (refused.reason, refused.text);
            outbox.send(&Control::Refused { regarding: Regarding::Connection, reason, text });
            (Farewell::Protocol, FAREWELL_WAIT)
        }
        Ended::Drained => {
            tokio::select! {
                () = shutdown.reached(Phase::Closing) => {}
                farewell = &mut write => return farewell.map_or("the client's pipe is closed", cause),
            }
            (Farewell::Shutdown, timeout_at_shutdown)
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
async fn write_loop<W: AsyncWrite + Unpin>(mut writer: W, outbox: &Outbox) -> Option<Farewell> {
    let mut batch = Vec::new();
    loop {
        match outbox.next(&mut batch).await {
            Next::Write => write_batch(&mut writer, outbox, &mut batch).await.ok()?,
            Next::Goodbye(cause) => {
                writer.write_all(&encode_control(&Control::Goodbye { cause })).await.ok()?;
                return Some(cause);
            }
        }
    }
}

async fn write_batch<W: AsyncWrite + Unpin>(
    writer: &mut W,
    outbox: &Outbox,
    batch: &mut Vec<Bytes>,
) -> std::io::Result<()> {
    let mut done = 0;
    while done < batch.len() {
        let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
        let count = (batch.len() - done).min(PIECES_MAX);
        for (piece, bytes) in pieces.iter_mut().zip(&batch[done..]) {
            *piece = IoSlice::new(bytes);
        }
        let mut written = writer.write_vectored(&pieces[..count]).await?;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        outbox.written(written);
        while done < batch.len() && written >= batch[done].len() {
            written -= batch[done].len();
            done += 1;
        }
        if written > 0 {
            batch[done].advance(written);
        }
    }
    batch.clear();
    Ok(())
}

async fn read_loop<R: AsyncRead + Unpin>(
    inlet: &mut Inlet,
    mut buffer: ReadBuffer,
    mut reader: R,
    mut shutdown: Shutdown,
) -> Ended {
    // After the shutdown began: as much as a pipe can hold, so that a client that never stops is not read for ever.
    let mut drain_bytes: Option<usize> = None;
    loop {
        loop {
            match next_span(buffer.bytes()) {
                Ok(Some(span)) => match inlet.handle(span).await {
                    Ok(true) => {}
                    Ok(false) => return Ended::Left,
                    Err(refused) => return Ended::Violation(refused),
                },
                Ok(None) => break,
                Err(malformed) => return Ended::Violation(protocol(malformed)),
            }
        }
        let wanted = missing(buffer.bytes());
        let read = match drain_bytes {
            None => tokio::select! {
                read = buffer.read(&mut reader, wanted) => read,
                () = shutdown.reached(Phase::Draining) => {
                    drain_bytes = Some(0);
                    continue;
                }
            },
            Some(bytes) if bytes > 4 * FRAME_BYTES_MAX => return Ended::Drained,
            Some(_) => match timeout(DRAIN_WAIT, buffer.read(&mut reader, wanted)).await {
                Ok(read) => read,
                Err(_) => return Ended::Drained,
            },
        };
        match read {
            Ok(bytes @ 1..) => {
                inlet.outbox.counters.bytes_in.add(bytes as u64);
                drain_bytes = drain_bytes.map(|sum| sum + bytes);
            }
            _ => return Ended::Gone,
        }
    }
}

/// Where one client's frames come in.
struct Inlet {
    broker: Arc<Broker>,
    id: InstanceId,
    /// The way back to the client.
    outbox: Arc<Outbox>,
    /// A SenderInfo frame about the client.
    introduction: Bytes,
    /// The last sequence number.
    sequence: u64,
    unfinished: Option<Unfinished>,
    /// What the client has declared, as far as it has been looked up.
    declared: HashSet<(TopicId, Purpose)>,
    /// Rests of a span that did not fit somewhere; empty between spans.
    waiting: Vec<(Arc<Outbox>, Span, Overflow)>,
}

/// A message of which fragments are still to come.
struct Unfinished {
    kind: Kind,
    topic: TopicId,
    sequence: u64,
    bytes: u64,
    way: Way,
}

/// Where a message goes.
#[derive(Clone)]
enum Way {
    /// To all who subscribed when it began: who comes in the middle gets none of it, who goes still gets its end.
    Subscribers(Arc<Route<Arc<Outbox>>>),
    /// To this server, which is to answer it.
    Server(Arc<Outbox>, Call),
    /// Back to the requester.
    Requester(Arc<Outbox>, Call),
    /// To nobody.
    Nowhere,
}

impl Inlet {
    /// Obeys a control frame or sends messages on their way; `false` once the client has said goodbye.
    async fn handle(&mut self, span: Span) -> Result<bool, Refused> {
        if span.kind == Kind::Control {
            return Ok(self.handle_control(&span));
        }
        self.verify(&span).map_err(protocol)?;
        let way = self.way(&span).await?;
        self.outbox.counters.messages_in.add(span.messages());
        trace!(topic = span.topic.0, frames = span.frames, bytes = span.bytes.len(), "routing");
        match way {
            Way::Subscribers(route) => self.publish(span, &route).await,
            Way::Server(server, call) => self.ask(span, &server, call).await,
            Way::Requester(requester, call) => self.reply(span, &requester, call).await,
            Way::Nowhere => {}
        }
        Ok(true)
    }

    fn handle_control(&mut self, span: &Span) -> bool {
        let body = span.iter().next().map(|frame| frame.body).unwrap_or_default();
        let control = match decode_control(&body) {
            Ok(control) => control,
            Err(malformed) => {
                // The frame is whole, so the stream goes on: only this one is refused.
                let (reason, text) = (Reason::Protocol, malformed.to_string());
                self.outbox.send(&Control::Refused { regarding: Regarding::Connection, reason, text });
                return true;
            }
        };
        debug!(?control, "control");
        match control {
            Control::Goodbye { .. } => return false,
            Control::Retract { topic } => {
                self.declared.retain(|(declared, _)| *declared != topic);
            }
            _ => {}
        }
        self.broker.handle_control(self.id, control);
        true
    }

    /// Checks what the client says of itself: its id, its count, and the order of its fragments.
    fn verify(&mut self, span: &Span) -> Result<(), Malformed> {
        if span.sender != self.id {
            return Err(Malformed::Sender { claimed: span.sender, own: self.id });
        }
        match &mut self.unfinished {
            None if span.part.begins() => {
                let sequence = self.sequence;
                if span.first != sequence + 1 || span.last - span.first + 1 != u64::from(span.frames) {
                    return Err(Malformed::Sequence { before: sequence, found: span.first });
                }
                self.sequence = span.last;
                Ok(())
            }
            Some(message) if !span.part.begins() => {
                let same = (message.kind, message.topic, message.sequence);
                if same == (span.kind, span.topic, span.first) { Ok(()) } else { Err(Malformed::Fragment) }
            }
            _ => Err(Malformed::Fragment),
        }
    }

    /// Where the span's message goes: decided at its beginning, kept for its fragments.
    async fn way(&mut self, span: &Span) -> Result<Way, Refused> {
        let max = self.broker.config.limits().message_bytes_max;
        if let Some(message) = &mut self.unfinished {
            message.bytes += (span.bytes.len() - HEAD_BYTES) as u64;
            if message.bytes > max {
                let text = format!("a message is larger than the limit of {max} bytes");
                return Err(Refused::new(Reason::TooLarge, text));
            }
            let way = message.way.clone();
            if span.part == Part::Last {
                self.unfinished = None;
            }
            return Ok(way);
        }
        let way = match span.kind {
            Kind::Request => self.way_of_request(span).await?,
            Kind::Reply => self.way_of_reply(span)?,
            Kind::Message | Kind::Control => {
                self.check_declared(span.topic, Purpose::Publish)?;
                self.broker.routes().get(span.topic).cloned().map_or(Way::Nowhere, Way::Subscribers)
            }
        };
        if span.part == Part::First {
            let (kind, topic, sequence) = (span.kind, span.topic, span.first);
            let bytes = (span.bytes.len() - HEAD_BYTES) as u64;
            self.unfinished = Some(Unfinished { kind, topic, sequence, bytes, way: way.clone() });
        }
        Ok(way)
    }

    async fn way_of_request(&mut self, span: &Span) -> Result<Way, Refused> {
        self.check_declared(span.topic, Purpose::Request)?;
        let call = call_of(span)?;
        if call.requester != self.id {
            return Err(protocol(Malformed::Sender { claimed: call.requester, own: self.id }));
        }
        match self.broker.handle_request(span.topic, call) {
            Some(Server::Instance(_, server)) => Ok(Way::Server(server, call)),
            Some(Server::Broker(topic)) => {
                admin::answer(&self.broker, &topic, span.topic, call, &self.outbox).await;
                Ok(Way::Nowhere)
            }
            None => Ok(Way::Nowhere),
        }
    }

    fn way_of_reply(&self, span: &Span) -> Result<Way, Refused> {
        let call = call_of(span)?;
        // Nobody waits for it any more, or never has: both are the same from here, and neither harms anybody.
        let Some(requester) = self.broker.requester(call, span.topic, self.id) else { return Ok(Way::Nowhere) };
        if span.part == Part::First {
            self.broker.handle_answered(call);
        }
        Ok(Way::Requester(requester, call))
    }

    fn check_declared(&mut self, topic: TopicId, purpose: Purpose) -> Result<(), Refused> {
        if self.declared.contains(&(topic, purpose)) {
            return Ok(());
        }
        if !self.broker.may_send(self.id, topic, purpose) {
            let text = format!("topic id {} was not declared for that by this client", topic.0);
            return Err(Refused::new(Reason::Protocol, text));
        }
        self.declared.insert((topic, purpose));
        Ok(())
    }

    /// To every subscriber that has room at once, then to the others as they have room.
    async fn publish(&mut self, span: Span, route: &Route<Arc<Outbox>>) {
        let names = Introductions { topic: &route.introduction, sender: &self.introduction };
        for target in &route.targets {
            if let Pushed::Full(rest) = target.to.push(span.clone(), target.overflow, names) {
                self.waiting.push((target.to.clone(), rest, target.overflow));
            }
        }
        drop(span);
        for (outbox, rest, overflow) in self.waiting.drain(..) {
            outbox.push_waiting(rest, overflow, names).await;
        }
    }

    async fn ask(&mut self, span: Span, server: &Outbox, call: Call) {
        let introduction = self.broker.routes().get(span.topic).map(|route| route.introduction.clone());
        let topic = introduction.unwrap_or_default();
        let names = Introductions { topic: &topic, sender: &self.introduction };
        if server.push_waiting(span, Overflow::Block, names).await > 0 {
            self.broker.handle_unheard(call);
        }
    }

    async fn reply(&mut self, span: Span, requester: &Outbox, call: Call) {
        let ends = span.part == Part::Whole;
        let names = Introductions { topic: &Bytes::new(), sender: &self.introduction };
        requester.push_waiting(span, Overflow::Block, names).await;
        if ends {
            self.broker.handle_answered(call);
        }
    }
}

fn call_of(span: &Span) -> Result<Call, Refused> {
    let frame = span.iter().next();
    let metadata = frame.and_then(|frame| decode_metadata(frame.metadata()).ok());
    metadata.and_then(|metadata| metadata.call).ok_or_else(|| protocol(Malformed::Body))
}
