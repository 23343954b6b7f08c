//! Incoming: where the broker's frames come in, are put together, and go to whoever waits for them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use pipebus_proto::control::{Control, Failure, Farewell, Regarding};
use pipebus_proto::frame::{Call, Flags, HEAD_BYTES, Head, Kind, Malformed, Part};
use pipebus_proto::splitter::{Frame, Span};
use pipebus_proto::topic::{InstanceId, Topic, TopicId};
use pipebus_proto::wire::{decode_control, decode_metadata, encode_head};

use crate::error::{Error, Result};
use crate::inbox::{Inbox, Item};
use crate::message::{Message, Origin, Sender};
use crate::run::Run;
use crate::shared::Shared;
use crate::shared::sending::Outbound;
use crate::subscription::{Gap, GapCause};

/// Bytes of messages that are being put together from fragments, over all senders.
const REASSEMBLY_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Where the broker's frames come in.
pub(crate) struct Incoming {
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
    /// Of the last message: mostly that of the next one as well.
    origin: Option<Arc<Origin>>,
}

/// A message of which fragments are missing.
struct Unfinished {
    head: Head,
    /// The one frame that the message would be if frames had no limit.
    frame: BytesMut,
}

impl Incoming {
    /// For a new connection, on which messages have at most so many bytes.
    pub(crate) fn new(shared: Arc<Shared>, message_bytes_max: usize) -> Incoming {
        Incoming {
            shared,
            message_bytes_max,
            topics: HashMap::new(),
            senders: HashMap::new(),
            unfinished: HashMap::new(),
            unfinished_bytes: 0,
            version: 0,
            refusal: None,
        }
    }

    /// Takes what the broker sent; `false` once it has said goodbye.
    pub(crate) async fn handle(&mut self, span: Span) -> Result<bool> {
        if span.loaned && span.part.ends() {
            // It has been read, whether anybody here wants it or not.
            self.shared.consume(span.sender, span.last);
        }
        match span.kind {
            Kind::Control => match control_of(&span) {
                Ok(control) => return self.handle_control(control),
                // Something that a later broker says: whoever needs to understand it speaks its version.
                Err(_) => return Ok(true),
            },
            Kind::Message if span.part == Part::Whole => self.handle_messages(&span).await,
            Kind::Message => {
                if let Some((head, frame)) = self.put_together(&span) {
                    self.handle_run(head.topic, head.sender, |origin| Run::whole(origin, frame)).await;
                }
            }
            Kind::Request | Kind::Reply => {
                if let Some((head, frame)) = self.put_together(&span) {
                    self.handle_call(head, frame).await;
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
                self.topics.insert(topic, Known { name, inboxes: None, origin: None });
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
            Control::Released { sequences } => self.shared.pool.release(&sequences),
            // What only clients say.
            Control::Hello { .. }
            | Control::Welcome(_)
            | Control::Declare { .. }
            | Control::Retract { .. }
            | Control::Subscribe { .. }
            | Control::Unsubscribe { .. }
            | Control::Ping { .. }
            | Control::Cancel { .. }
            | Control::Consumed { .. } => return Err(Error::Protocol("a client's frame from the broker".to_owned())),
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
        self.handle_run(span.topic, span.sender, |origin| Run::new(origin, span)).await;
    }

    /// Messages for all who subscribe to their topic.
    async fn handle_run(&mut self, topic: TopicId, sender: InstanceId, run: impl FnOnce(Arc<Origin>) -> Run) {
        let Some(origin) = self.origin(topic, sender) else { return };
        let Some((_, (listening, _))) = self.known(topic) else { return };
        let inboxes = listening.clone();
        let run = run(origin);
        for inbox in &inboxes {
            inbox.push(Item::Run(run.clone()));
        }
        self.wait_for_room(&inboxes).await;
    }

    async fn handle_call(&mut self, head: Head, frame: Bytes) {
        if head.kind == Kind::Reply {
            return self.handle_reply(&head, frame);
        }
        let connection = self.shared.connection();
        let Some(origin) = self.origin(head.topic, head.sender) else { return };
        let Some(message) = Run::whole(origin, frame).next() else { return };
        let Some((_, (_, serving))) = self.known(head.topic) else { return };
        let taken = serving
            .first()
            .cloned()
            .filter(|inbox| inbox.push(Item::Request { head, message: message.clone(), connection }));
        match taken {
            Some(inbox) => self.wait_for_room(&[inbox]).await,
            None => self.decline(&head, &message),
        }
    }

    fn handle_reply(&mut self, head: &Head, frame: Bytes) {
        let Some(sender) = self.senders.get(&head.sender).cloned() else { return };
        // Replies are about the topic of the request, whose name the caller knows and fills in.
        let Ok(topic) = Topic::new("$reply") else { return };
        let Some(message) = Run::whole(Arc::new(Origin { topic, sender }), frame).next() else { return };
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

    /// Puts a message together from its fragments, if this is the last. Returns the head of the first, and the one
    /// frame that the message would be if frames had no limit.
    fn put_together(&mut self, span: &Span) -> Option<(Head, Bytes)> {
        let Frame { head, body } = span.iter().next()?;
        if span.part.begins() {
            self.forget_unfinished(span.sender);
        }
        if span.part == Part::Whole {
            return Some((head, span.bytes.clone()));
        }
        if span.part == Part::First {
            let frame = BytesMut::zeroed(HEAD_BYTES);
            self.unfinished_bytes += frame.len();
            self.unfinished.insert(span.sender, Unfinished { head, frame });
        }
        let unfinished = self.unfinished.get_mut(&span.sender)?;
        let same = |head: &Head| (head.kind, head.topic, head.sequence);
        if same(&unfinished.head) != same(&head) {
            self.forget_unfinished(span.sender);
            return None;
        }
        let room = REASSEMBLY_BYTES_MAX.saturating_sub(self.unfinished_bytes);
        if body.len() > room || unfinished.frame.len() - HEAD_BYTES + body.len() > self.message_bytes_max {
            let topic = unfinished.head.topic;
            self.forget_unfinished(span.sender);
            self.handle_gap(topic, 1, GapCause::Reassembly);
            return None;
        }
        unfinished.frame.put_slice(&body);
        self.unfinished_bytes += body.len();
        if span.part != Part::Last {
            return None;
        }
        let Unfinished { mut head, mut frame } = self.unfinished.remove(&span.sender)?;
        self.unfinished_bytes -= frame.len();
        // The flags that are not about fragments are in all of them, the metadata is in the first.
        head.body = u32::try_from(frame.len() - HEAD_BYTES).ok()?;
        frame[..HEAD_BYTES].copy_from_slice(&encode_head(&head));
        Some((head, frame.freeze()))
    }

    /// The rest of the sender's message will not come. If it is an answer, whoever waits for it is told.
    fn forget_unfinished(&mut self, sender: InstanceId) {
        let Some(Unfinished { head, frame }) = self.unfinished.remove(&sender) else { return };
        self.unfinished_bytes -= frame.len();
        if head.kind == Kind::Reply
            && let Some(metadata) = frame[HEAD_BYTES..].get(..usize::from(head.metadata))
            && let Some(call) = decode_metadata(metadata).ok().and_then(|metadata| metadata.call)
        {
            let error = Error::Unanswered { topic: String::new(), failure: Failure::ServerGone };
            self.shared.handle_answer(call.correlation, Err(error));
        }
    }

    /// What the sender's messages on the topic have in common, if the broker has told who and what they are.
    fn origin(&mut self, topic: TopicId, sender: InstanceId) -> Option<Arc<Origin>> {
        let known = self.topics.get_mut(&topic)?;
        if let Some(origin) = known.origin.as_ref().filter(|origin| origin.sender.id == sender) {
            return Some(origin.clone());
        }
        let sender = self.senders.get(&sender)?.clone();
        let origin = Arc::new(Origin { topic: known.name.clone(), sender });
        Some(known.origin.insert(origin).clone())
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

/// What a control frame says.
pub(crate) fn control_of(span: &Span) -> Result<Control> {
    let body = span.iter().next().map(|frame| frame.body).unwrap_or_default();
    decode_control(&body).map_err(protocol)
}

/// The broker broke the protocol.
pub(crate) fn protocol(malformed: Malformed) -> Error {
    Error::Protocol(malformed.to_string())
}

/// A call of this client's.
pub(crate) fn call(correlation: u64) -> Call {
    Call { requester: InstanceId::BROKER, correlation }
}
