//! Incoming: where the broker's frames come in, are put together, and go to whoever waits for them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pipebus_proto::control::{Control, Failure, Farewell, Regarding};
use pipebus_proto::frame::{Call, Flags, Head, Kind, Malformed, Part};
use pipebus_proto::splitter::{Frame, Span};
use pipebus_proto::topic::{InstanceId, Topic, TopicId};
use pipebus_proto::wire::{decode_control, decode_metadata};

use crate::error::{Error, Result};
use crate::inbox::{Inbox, Item, message};
use crate::message::{Message, Sender};
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
}

/// A message of which fragments are missing.
struct Unfinished {
    head: Head,
    body: BytesMut,
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
            // This client lends nothing.
            Control::Released { .. } => {}
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
