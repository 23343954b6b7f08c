//! Connection: one, from the knock to its end, and the task that makes one after another.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pipebus_proto::control::{Control, Failure, Farewell, Regarding, Welcome};
use pipebus_proto::frame::{Call, Flags, Head, Kind, PROTOCOL_VERSION, Part};
use pipebus_proto::place::Place;
use pipebus_proto::splitter::{Frame, Span, missing, next_span};
use pipebus_proto::topic::{InstanceId, Topic, TopicId};
use pipebus_proto::wire::{decode_control, decode_metadata, encode_control};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::inbox::{Inbox, Item, message};
use crate::message::{Message, Sender};
use crate::reconnect::Backoff;
use crate::shared::Shared;
use crate::shared::sending::Outbound;
use crate::subscription::{Gap, GapCause};
use crate::transport::{Attempt, Reader, Writer};

/// How much is read at once.
const READ_BYTES: usize = 128 * 1024;

/// Pieces in one vectored write.
const PIECES_MAX: usize = 64;

/// Bytes of messages that are being put together from fragments, over all senders.
const REASSEMBLY_BYTES_MAX: usize = 256 * 1024 * 1024;

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
    let mut incoming = Incoming {
        shared: shared.clone(),
        message_bytes_max: usize::try_from(welcome.message_bytes_max).unwrap_or(usize::MAX),
        topics: HashMap::new(),
        senders: HashMap::new(),
        unfinished: HashMap::new(),
        unfinished_bytes: 0,
        version: 0,
        refusal: None,
    };
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
            if write_some(&mut writer, &mut batch).await.is_err() {
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
            Ok(1..) => {}
            _ => return Ok(()),
        }
    }
}

/// Where the broker's frames come in.
struct Incoming {
    shared: Arc<Shared>,
    message_bytes_max: usize,
    topics: HashMap<TopicId, Known>,
    senders: HashMap<InstanceId, Arc<Sender>>,
    unfinished: HashMap<InstanceId, Unfinished>,
    unfinished_bytes: usize,
    /// Of the subscriptions, when the inboxes in `topics` were looked up.
    version: u64,
    /// Why the broker is about to say goodbye.
    refusal: Option<Error>,
}

/// Those that get a topic's messages, and those that get its requests.
type Inboxes = (Vec<Arc<Inbox>>, Vec<Arc<Inbox>>);

/// A topic, and the inboxes that get what comes on it.
struct Known {
    name: Topic,
    inboxes: Option<Inboxes>,
}

/// A message of which fragments are missing.
struct Unfinished {
    head: Head,
    body: BytesMut,
}

impl Incoming {
    /// Takes what the broker sent; `false` once it has said goodbye.
    async fn handle(&mut self, span: Span) -> Result<bool> {
        match span.kind {
            Kind::Control => match control_of(&span) {
                Ok(control) => return self.handle_control(control),
                // Something that a later broker says: whoever needs to understand it speaks its version.
                Err(_) => return Ok(true),
            },
            Kind::Message if span.part == Part::Whole => self.handle_messages(&span).await,
            _ => {
                if let Some((head, body)) = self.put_together(&span) {
                    self.handle_whole(head, body).await;
                }
            }
        }
        Ok(true)
    }

    fn handle_control(&mut self, control: Control) -> Result<bool> {
        match control {
            Control::Declared { token, topic } => self.shared.handle_declared(token, topic),
            Control::Subscribed { subscription } => {
                self.shared.handle_subscribed(subscription);
                self.shared.raise_subscriptions_version();
            }
            Control::Unsubscribed { subscription } => self.shared.handle_unsubscribed(subscription),
            Control::Refused { regarding: Regarding::Connection, reason, text } => {
                self.refusal = Some(Error::refused(reason, text));
            }
            Control::Refused { regarding, reason, text } => {
                self.shared.handle_refused(regarding, Error::refused(reason, text));
            }
            Control::Pong { token } => self.shared.handle_pong(token),
            Control::TopicInfo { topic, name } => {
                let name = Topic::new(&name).map_err(|error| Error::Protocol(error.to_string()))?;
                self.topics.insert(topic, Known { name, inboxes: None });
            }
            Control::TopicGone { topic } => drop(self.topics.remove(&topic)),
            Control::SenderInfo { sender, identity, name } => {
                self.senders.insert(sender, Arc::new(Sender { id: sender, identity, name }));
            }
            Control::SenderGone { sender } => {
                self.senders.remove(&sender);
                self.forget_unfinished(sender);
            }
            Control::Abort { sender } => self.forget_unfinished(sender),
            Control::Gap { topic, messages } => self.handle_gap(topic, messages, GapCause::Overflow),
            Control::RequestFailed { correlation, failure } => {
                let error = Error::Unanswered { topic: String::new(), failure };
                self.shared.handle_answer(correlation, Err(error));
            }
            Control::Goodbye { cause } => return self.handle_goodbye(cause),
            // What only clients say.
            Control::Hello { .. }
            | Control::Welcome(_)
            | Control::Declare { .. }
            | Control::Retract { .. }
            | Control::Subscribe { .. }
            | Control::Unsubscribe { .. }
            | Control::Ping { .. }
            | Control::Cancel { .. } => return Err(Error::Protocol("a client's frame from the broker".to_owned())),
        }
        Ok(true)
    }

    /// After some farewells it would be wrong or useless to come back.
    fn handle_goodbye(&mut self, cause: Farewell) -> Result<bool> {
        match (cause, self.refusal.take()) {
            (Farewell::Protocol, Some(refusal)) => Err(refusal),
            (Farewell::Disconnected, _) => {
                Err(Error::Forbidden("an administrator has disconnected this client".to_owned()))
            }
            _ => Ok(false),
        }
    }

    fn handle_gap(&mut self, topic: TopicId, messages: u64, cause: GapCause) {
        let messages = Some(messages);
        let inboxes = match self.known(topic) {
            Some((name, (inboxes, _))) => {
                let gap = Gap { messages, topic: Some(name.clone()), cause };
                for inbox in inboxes {
                    inbox.push(Item::Gap(gap.clone()));
                }
                return;
            }
            None => self.shared.all_inboxes(),
        };
        let gap = Gap { messages, topic: None, cause };
        for inbox in inboxes {
            inbox.push(Item::Gap(gap.clone()));
        }
    }

    async fn handle_messages(&mut self, span: &Span) {
        if !self.unfinished.is_empty() {
            self.forget_unfinished(span.sender);
        }
        let Some(sender) = self.senders.get(&span.sender).cloned() else { return };
        let Some((topic, (inboxes, _))) = self.known(span.topic) else { return };
        let (topic, inboxes) = (topic.clone(), inboxes.clone());
        for inbox in &inboxes {
            inbox.push(Item::Frames {
                frames: span.iter(),
                bytes: span.bytes.len(),
                topic: topic.clone(),
                sender: sender.clone(),
            });
        }
        self.wait_for_room(&inboxes).await;
    }

    async fn handle_whole(&mut self, head: Head, body: Bytes) {
        let Some(sender) = self.senders.get(&head.sender).cloned() else { return };
        if head.kind == Kind::Reply {
            return self.handle_reply(&head, &body, &sender);
        }
        let connection = self.shared.connection();
        let Some((topic, (listening, serving))) = self.known(head.topic) else { return };
        let message = message(&head, &body, topic, &sender);
        if head.kind == Kind::Request {
            let taken = serving
                .first()
                .cloned()
                .filter(|inbox| inbox.push(Item::Whole { head, message: message.clone(), connection }));
            return match taken {
                Some(inbox) => self.wait_for_room(&[inbox]).await,
                None => self.decline(&head, &message),
            };
        }
        let inboxes = listening.clone();
        for inbox in &inboxes {
            inbox.push(Item::Whole { head, message: message.clone(), connection });
        }
        self.wait_for_room(&inboxes).await;
    }

    fn handle_reply(&mut self, head: &Head, body: &Bytes, sender: &Arc<Sender>) {
        // Replies are about the topic of the request, whose name the caller knows and fills in.
        let Ok(unknown) = Topic::new("$reply") else { return };
        let message = message(head, body, &unknown, sender);
        let Some(call) = message.metadata().ok().and_then(|metadata| metadata.call) else { return };
        let answer = if head.flags.has(Flags::FAILED) {
            Err(Error::Failed(String::from_utf8_lossy(&message.payload).into_owned()))
        } else {
            Ok(message)
        };
        self.shared.handle_answer(call.correlation, answer);
    }

    /// A request to a topic that this client has just ceased to serve.
    fn decline(&self, head: &Head, message: &Message) {
        let Some(call) = message.metadata().ok().and_then(|metadata| metadata.call) else { return };
        let payload = Bytes::from_static(b"the server has just left");
        let outbound =
            Outbound { kind: Kind::Reply, flags: Flags::FAILED, headers: &[], call: Some(call), payload: &payload };
        self.shared.reply_now(head.topic, self.shared.connection(), outbound);
    }

    /// Puts a message together from its fragments, if this is the last.
    fn put_together(&mut self, span: &Span) -> Option<(Head, Bytes)> {
        let Frame { head, body } = span.iter().next()?;
        if span.part.begins() {
            self.forget_unfinished(span.sender);
        }
        if span.part == Part::Whole {
            return Some((head, body));
        }
        if span.part == Part::First {
            self.unfinished.insert(span.sender, Unfinished { head, body: BytesMut::new() });
        }
        let unfinished = self.unfinished.get_mut(&span.sender)?;
        let same = |head: &Head| (head.kind, head.topic, head.sequence);
        if same(&unfinished.head) != same(&head) {
            self.forget_unfinished(span.sender);
            return None;
        }
        let room = REASSEMBLY_BYTES_MAX - self.unfinished_bytes;
        if body.len() > room || unfinished.body.len() + body.len() > self.message_bytes_max {
            let topic = unfinished.head.topic;
            self.forget_unfinished(span.sender);
            self.handle_gap(topic, 1, GapCause::Reassembly);
            return None;
        }
        unfinished.body.extend_from_slice(&body);
        self.unfinished_bytes += body.len();
        if span.part != Part::Last {
            return None;
        }
        let Unfinished { head: first, body } = self.unfinished.remove(&span.sender)?;
        self.unfinished_bytes -= body.len();
        // A reply's flags are on all its fragments; its call is in the metadata of the first.
        Some((first, body.freeze()))
    }

    /// The rest of the sender's message will not come. If it is an answer, whoever waits for it is told.
    fn forget_unfinished(&mut self, sender: InstanceId) {
        let Some(Unfinished { head, body }) = self.unfinished.remove(&sender) else { return };
        self.unfinished_bytes -= body.len();
        if head.kind == Kind::Reply
            && let Some(metadata) = body.get(..usize::from(head.metadata))
            && let Some(call) = decode_metadata(metadata).ok().and_then(|metadata| metadata.call)
        {
            let error = Error::Unanswered { topic: String::new(), failure: Failure::ServerGone };
            self.shared.handle_answer(call.correlation, Err(error));
        }
    }

    /// A topic's name and inboxes, looked up anew after subscriptions have changed.
    fn known(&mut self, topic: TopicId) -> Option<(&Topic, &Inboxes)> {
        let version = self.shared.subscriptions_version();
        if version != self.version {
            self.version = version;
            self.topics.values_mut().for_each(|known| known.inboxes = None);
        }
        let known = self.topics.get_mut(&topic)?;
        let inboxes = known.inboxes.get_or_insert_with(|| self.shared.inboxes(&known.name));
        Some((&known.name, inboxes))
    }

    async fn wait_for_room(&self, inboxes: &[Arc<Inbox>]) {
        for inbox in inboxes {
            inbox.wait_for_room(|| self.shared.is_awaiting_answer()).await;
        }
    }
}

fn control_of(span: &Span) -> Result<Control> {
    let body = span.iter().next().map(|frame| frame.body).unwrap_or_default();
    decode_control(&body).map_err(protocol)
}

fn protocol(malformed: pipebus_proto::frame::Malformed) -> Error {
    Error::Protocol(malformed.to_string())
}

/// A call of this client's.
pub(crate) fn call(correlation: u64) -> Call {
    Call { requester: InstanceId::BROKER, correlation }
}
