//! Incoming: where the broker's frames come in, and go to whoever waits for them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pipebus_proto::control::{Control, Failure, Farewell, Regarding};
use pipebus_proto::frame::{Call, Flags, HEAD_BYTES, Head, Kind, Malformed, Part};
use pipebus_proto::splitter::{Frame, Span};
use pipebus_proto::topic::{InstanceId, Topic, TopicId};
use pipebus_proto::wire::{decode_control, decode_metadata};

use crate::error::{Error, Result};
use crate::inbox::{Inbox, Item};
use crate::message::{Message, Origin, Sender};
use crate::reassembly::{Fit, Reassembly, Unfinished};
use crate::run::Run;
use crate::shared::Shared;
use crate::shared::link::Inboxes;
use crate::shared::sending::Outbound;
use crate::subscription::{Gap, GapCause};

/// Where the broker's frames come in.
pub(crate) struct Incoming {
    shared: Arc<Shared>,
    topics: HashMap<TopicId, Known>,
    senders: HashMap<InstanceId, Arc<Sender>>,
    reassembly: Reassembly,
    /// Of the subscriptions, when the inboxes in `topics` were looked up.
    version: u64,
    /// Why the broker is about to say goodbye.
    refusal: Option<Error>,
}

/// A topic, and the inboxes that get what comes on it.
struct Known {
    name: Topic,
    inboxes: Option<Inboxes>,
    /// Of the last message: mostly that of the next one as well.
    origin: Option<Arc<Origin>>,
}

impl Incoming {
    /// For a new connection, on which messages have at most so many bytes.
    pub(crate) fn new(shared: Arc<Shared>, message_bytes_max: usize) -> Incoming {
        Incoming {
            shared,
            topics: HashMap::new(),
            senders: HashMap::new(),
            reassembly: Reassembly::new(message_bytes_max),
            version: 0,
            refusal: None,
        }
    }

    /// Takes whole frames that the broker sent; `false` once it has said goodbye. Fragments go another way, see
    /// [`Incoming::begin_fragment`].
    pub(crate) async fn handle(&mut self, span: Span) -> Result<bool> {
        if span.kind == Kind::Control {
            return match control_of(&span) {
                Ok(control) => self.handle_control(control),
                // Something that a later broker says: whoever needs to understand it speaks its version.
                Err(_) => Ok(true),
            };
        }
        if span.kind == Kind::Record {
            // Of what its sender has sent to others, so it says nothing of what that has not finished here.
            let run = |origin| Run::new(origin, &span);
            self.handle_run(span.topic, span.sender, run, |inboxes| &inboxes.watching).await;
            return Ok(true);
        }
        if span.loaned {
            // It has been read, whether anybody here wants it or not.
            self.shared.consume(span.sender, span.last);
        }
        self.forget_unfinished(span.sender);
        if span.kind == Kind::Message {
            let run = |origin| Run::new(origin, &span);
            self.handle_run(span.topic, span.sender, run, |inboxes| &inboxes.listening).await;
        } else if let Some(Frame { head, .. }) = span.iter().next() {
            self.handle_call(head, span.bytes).await;
        }
        Ok(true)
    }

    /// Where the body of a fragment is to be put, whose head is all that need have come; nowhere if its message can't
    /// be put together.
    pub(crate) fn begin_fragment(&mut self, fragment: &Head) -> Option<&mut BytesMut> {
        if fragment.part().begins() {
            self.forget_unfinished(fragment.sender);
        }
        let fit = self.reassembly.admit(fragment);
        if fit == Fit::Fits {
            return self.reassembly.frame(fragment.sender);
        }
        self.forget_unfinished(fragment.sender);
        if fit == Fit::TooLarge {
            self.handle_gap(fragment.topic, 1, GapCause::Reassembly);
        }
        None
    }

    /// All of the fragment's body is where it is to be. If it is the last, the message is whole.
    pub(crate) async fn end_fragment(&mut self, fragment: &Head) {
        if fragment.part() != Part::Last {
            return;
        }
        if fragment.flags.has(Flags::LOANED) {
            // As with a whole one, whether anybody here wants it or not.
            self.shared.consume(fragment.sender, fragment.sequence);
        }
        match self.reassembly.finish(fragment.sender) {
            Some((head, frame)) if head.kind == Kind::Message => {
                let run = |origin| Run::whole(origin, frame);
                self.handle_run(head.topic, head.sender, run, |inboxes| &inboxes.listening).await;
            }
            Some((head, frame)) => self.handle_call(head, frame).await,
            None => {}
        }
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
            Control::LastCall => self.shared.handle_last_call(),
            Control::Released { sequences } => self.shared.pool.release(&sequences),
            Control::Revoked { topic, purpose, text } => self.shared.handle_revoked(topic, purpose, &text),
            // What only clients say.
            Control::Hello { .. }
            | Control::Visit { .. }
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
            (Farewell::Protocol | Farewell::Disconnected, Some(refusal)) => Err(refusal),
            (Farewell::Disconnected, None) => {
                Err(Error::Forbidden("an administrator has disconnected this client".to_owned()))
            }
            _ => Ok(false),
        }
    }

    fn handle_gap(&mut self, topic: TopicId, messages: u64, cause: GapCause) {
        let messages = Some(messages);
        let inboxes = match self.known(topic) {
            Some((name, Inboxes { listening, watching, .. })) => {
                let gap = Gap { messages, topic: Some(name.clone()), cause };
                for inbox in listening.iter().chain(watching) {
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

    /// Messages or records for all who want them.
    async fn handle_run(
        &mut self,
        topic: TopicId,
        sender: InstanceId,
        run: impl FnOnce(Arc<Origin>) -> Run,
        wanting: impl FnOnce(&Inboxes) -> &Vec<Arc<Inbox>>,
    ) {
        let Some(origin) = self.origin(topic, sender) else { return };
        let Some((_, inboxes)) = self.known(topic) else { return };
        let inboxes = wanting(inboxes).clone();
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
        let Some((_, inboxes)) = self.known(head.topic) else { return };
        let taken = inboxes
            .serving
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

    /// The rest of the sender's message will not come. If it is an answer, whoever waits for it is told.
    fn forget_unfinished(&mut self, sender: InstanceId) {
        let Some(Unfinished { head, frame }) = self.reassembly.forget(sender) else { return };
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
