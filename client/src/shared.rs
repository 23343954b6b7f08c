//! Shared: what the app's handles and the connection's task have in common, under one lock that is never held across a
//! wait.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pipebus_proto::control::{Control, Farewell, Overflow, Purpose, Regarding, Role, Welcome};
use pipebus_proto::frame::{Call, Flags, Kind, Metadata};
use pipebus_proto::pattern::Pattern;
use pipebus_proto::topic::{InstanceId, Topic, TopicId};
use tokio::sync::{Notify, oneshot, watch};

use crate::error::{Error, Result};
use crate::inbox::{Inbox, Item};
use crate::message::Message;
use crate::outgoing::{Draft, Outgoing};
use crate::subscription::{Gap, GapCause};

/// Topics that stay declared though nobody holds a publisher for them.
const IDLE_TOPICS_MAX: usize = 1024;

/// How a client stands to its broker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Link {
    /// Connected.
    Up {
        /// The client's number on the bus.
        client: InstanceId,
    },
    /// The connection was lost, and a new one is tried for.
    Down {
        /// Messages that were on their way when connections were lost, since the last flush: the broker may or may
        /// not have routed them.
        in_doubt: u64,
    },
    /// Closed for good.
    Closed,
}

/// The state of a client.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Rung for the connection's writer.
    pub(crate) work: Notify,
    /// Rung for everybody who waits to send: there is room, or the link has changed.
    room: Notify,
    /// Rung when the client is to be closed.
    pub(crate) stop: Notify,
    /// Raised when subscriptions change, so that the reader looks again.
    subscriptions_version: AtomicU64,
    /// How many parts of the app wait for an answer.
    awaiting_answer: AtomicU32,
    pub(crate) link: watch::Sender<Link>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Counts the connections.
    connection: u64,
    outgoing: Outgoing,
    /// The writer sleeps until it is rung.
    writer_idle: bool,
    slots: HashMap<Topic, Arc<Slot>>,
    /// What the broker was asked, by what it will say its answer is about.
    questions: HashMap<Regarding, Question>,
    last_number: u32,
    /// Requests under way, by correlation.
    calls: HashMap<u64, oneshot::Sender<Result<Message>>>,
    last_correlation: u64,
    /// Who waits for the broker to confirm all messages up to a number.
    flushes: Vec<(u64, oneshot::Sender<Result<()>>)>,
    subscriptions: BTreeMap<u32, Wanted>,
    /// Messages in doubt that no flush has reported yet.
    in_doubt: u64,
}

#[derive(Clone, Debug)]
enum Phase {
    /// Not connected, and trying.
    Down,
    /// Connected.
    Up { client: InstanceId, message_bytes_max: u64 },
    /// Goodbye is said, or on its way: nothing more is sent.
    Closing,
    /// For good, and what anybody is told who still tries.
    Closed(Error),
}

/// Something that the broker will answer.
#[derive(Debug)]
struct Question {
    answer: oneshot::Sender<Result<()>>,
    /// Of a declaration: where the id goes.
    slot: Option<(Arc<Slot>, Purpose)>,
}

/// A subscription that is kept up over connections.
#[derive(Debug)]
struct Wanted {
    pattern: Pattern,
    role: Role,
    overflow: Overflow,
    inbox: Arc<Inbox>,
    /// Who waits for it to be in force for the first time.
    waiter: Option<oneshot::Sender<Result<()>>>,
}

impl Wanted {
    fn control(&self, subscription: u32) -> Control {
        Control::Subscribe { subscription, pattern: self.pattern.to_string(), role: self.role, overflow: self.overflow }
    }
}

/// A topic to send to, and its ids in this connection, by purpose; 0 while not declared.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) topic: Topic,
    /// Read and changed under the lock only.
    ids: [AtomicU32; 2],
}

impl Slot {
    fn id(&self, purpose: Purpose) -> Option<TopicId> {
        Some(self.ids[purpose as usize].load(Ordering::Relaxed)).filter(|id| *id != 0).map(TopicId)
    }

    fn forget(&self) {
        self.ids.iter().for_each(|id| id.store(0, Ordering::Relaxed));
    }
}

/// Where a message is to go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Destination<'a> {
    /// To a topic.
    Topic(&'a Arc<Slot>),
    /// Back to who asked, as long as the connection is the one it asked on.
    Reply { topic: TopicId, connection: u64 },
}

/// What has to be there before a message can be sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lacking {
    Connection,
    Declaration,
    Room,
}

/// A message of the app's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outbound<'a> {
    pub(crate) kind: Kind,
    pub(crate) flags: Flags,
    pub(crate) headers: &'a [(String, String)],
    /// Of a reply: which request. Of a request: its correlation; the requester is filled in.
    pub(crate) call: Option<Call>,
    pub(crate) payload: &'a Bytes,
}

impl Outbound<'_> {
    fn purpose(&self) -> Purpose {
        if self.kind == Kind::Request { Purpose::Request } else { Purpose::Publish }
    }

    fn metadata(&self, client: InstanceId) -> Result<Vec<u8>> {
        if self.headers.is_empty() && self.call.is_none() {
            return Ok(Vec::new());
        }
        let mut call = self.call;
        if self.kind == Kind::Request
            && let Some(call) = &mut call
        {
            call.requester = client;
        }
        let metadata = Metadata { call, headers: self.headers.to_vec() };
        pipebus_proto::wire::encode_metadata(&metadata).ok_or(Error::Headers)
    }
}

/// For the app's handles.
impl Shared {
    pub(crate) fn new() -> Shared {
        let state = State {
            phase: Phase::Down,
            connection: 0,
            outgoing: Outgoing::default(),
            writer_idle: false,
            slots: HashMap::new(),
            questions: HashMap::new(),
            last_number: 0,
            calls: HashMap::new(),
            last_correlation: 0,
            flushes: Vec::new(),
            subscriptions: BTreeMap::new(),
            in_doubt: 0,
        };
        Shared {
            state: Mutex::new(state),
            work: Notify::new(),
            room: Notify::new(),
            stop: Notify::new(),
            subscriptions_version: AtomicU64::new(0),
            awaiting_answer: AtomicU32::new(0),
            link: watch::Sender::new(Link::Down { in_doubt: 0 }),
        }
    }

    /// The slot of a topic.
    pub(crate) fn slot(&self, topic: &str) -> Result<Arc<Slot>> {
        let mut state = self.lock();
        if let Some(slot) = state.slots.get(topic) {
            return Ok(slot.clone());
        }
        let topic = Topic::new(topic)?;
        if state.slots.len() >= IDLE_TOPICS_MAX {
            state.retract_idle();
        }
        let slot = Arc::new(Slot { topic: topic.clone(), ids: Default::default() });
        state.slots.insert(topic, slot.clone());
        Ok(slot)
    }

    /// Sends a message, once there is a connection, an id for its topic, and room.
    ///
    /// # Cancel safety
    /// Nothing is sent unless it returns.
    pub(crate) async fn send(&self, destination: Destination<'_>, outbound: Outbound<'_>) -> Result<()> {
        loop {
            // Mostly nothing is lacking, and getting ready to wait costs more than sending.
            let Err(lacking) = self.try_send(destination, outbound)? else { return Ok(()) };
            if let (Lacking::Declaration, Destination::Topic(slot)) = (lacking, destination) {
                self.declare(slot, outbound.purpose()).await?;
                continue;
            }
            let mut room = pin!(self.room.notified());
            room.as_mut().enable();
            // What was lacking may have come before anybody could be told.
            match self.try_send(destination, outbound)? {
                Ok(()) => return Ok(()),
                Err(Lacking::Declaration) => {}
                Err(Lacking::Connection | Lacking::Room) => room.await,
            }
        }
    }

    /// Sends a message if nothing has to be waited for; otherwise says what is lacking.
    pub(crate) fn try_send(
        &self,
        destination: Destination<'_>,
        outbound: Outbound<'_>,
    ) -> Result<std::result::Result<(), Lacking>> {
        let tried = self.lock().try_send(destination, outbound)?;
        Ok(tried.map(|ring| self.ring(ring)))
    }

    /// Answers a request however much waits already: a short answer that must not be forgotten.
    pub(crate) fn reply_now(&self, topic: TopicId, connection: u64, outbound: Outbound<'_>) {
        let mut state = self.lock();
        let Phase::Up { client, .. } = state.phase else { return };
        if state.connection != connection {
            return;
        }
        if let Ok(metadata) = outbound.metadata(client) {
            state.append(topic, client, &metadata, outbound);
            drop(state);
            self.work.notify_one();
        }
    }

    /// Asks the broker for a topic's id. If the connection is lost meanwhile, the caller meets that next.
    async fn declare(&self, slot: &Arc<Slot>, purpose: Purpose) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.lock();
            let token = state.number();
            let question = Question { answer, slot: Some((slot.clone(), purpose)) };
            state.questions.insert(Regarding::Declare(token), question);
            state.outgoing.push_control(&Control::Declare { token, topic: slot.topic.to_string(), purpose });
        }
        self.work.notify_one();
        let _awaiting = self.awaiting_answer();
        match answered.await {
            Ok(Err(Error::Disconnected)) | Err(_) => Ok(()),
            Ok(answer) => answer,
        }
    }

    /// Makes a subscription and waits until it is in force. What it then gets is in the inbox.
    pub(crate) async fn subscribe(
        &self,
        pattern: Pattern,
        role: Role,
        overflow: Overflow,
    ) -> Result<(u32, Arc<Inbox>)> {
        let (waiter, in_force) = oneshot::channel();
        let inbox = Arc::new(Inbox::default());
        let wanted = Wanted { pattern, role, overflow, inbox: inbox.clone(), waiter: Some(waiter) };
        let number = {
            let mut state = self.lock();
            if let Phase::Closed(error) = &state.phase {
                return Err(error.clone());
            }
            let number = state.number();
            if let Phase::Up { .. } = state.phase {
                state.outgoing.push_control(&wanted.control(number));
            }
            state.subscriptions.insert(number, wanted);
            number
        };
        self.subscriptions_changed();
        let mut unless_kept = ForgetSubscription { shared: self, number: Some(number) };
        let _awaiting = self.awaiting_answer();
        in_force.await.unwrap_or(Err(Error::Closed))?;
        unless_kept.number = None;
        Ok((number, inbox))
    }

    /// Ends a subscription without waiting.
    pub(crate) fn forget_subscription(&self, number: u32) {
        let mut state = self.lock();
        let Some(wanted) = state.subscriptions.remove(&number) else { return };
        wanted.inbox.end(None);
        if let Phase::Up { .. } = state.phase {
            state.outgoing.push_control(&Control::Unsubscribe { subscription: number });
        }
        drop(state);
        self.subscriptions_changed();
    }

    /// Ends a subscription and waits for the broker's word.
    pub(crate) async fn unsubscribe(&self, number: u32) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.lock().questions.insert(Regarding::Subscription(number), Question { answer, slot: None });
        self.forget_subscription(number);
        let _awaiting = self.awaiting_answer();
        answered.await.unwrap_or(Err(Error::Disconnected))
    }

    /// Waits until the broker has routed all that was sent before.
    pub(crate) async fn flush(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        loop {
            let mut room = pin!(self.room.notified());
            room.as_mut().enable();
            {
                let mut state = self.lock();
                let in_doubt = std::mem::take(&mut state.in_doubt);
                match &state.phase {
                    _ if in_doubt > 0 => return Err(Error::Unconfirmed { messages: in_doubt }),
                    Phase::Up { .. } => {
                        let token = state.outgoing.ask_to_confirm();
                        state.flushes.push((token, answer));
                        break;
                    }
                    Phase::Closed(error) => return Err(error.clone()),
                    Phase::Down | Phase::Closing => {}
                }
            }
            room.await;
        }
        self.work.notify_one();
        let _awaiting = self.awaiting_answer();
        answered.await.unwrap_or(Err(Error::Disconnected))
    }

    /// Begins a request: its correlation, and where the answer will come.
    pub(crate) fn open_call(&self) -> (u64, oneshot::Receiver<Result<Message>>) {
        let (answer, answered) = oneshot::channel();
        let mut state = self.lock();
        state.last_correlation += 1;
        let correlation = state.last_correlation;
        state.calls.insert(correlation, answer);
        (correlation, answered)
    }

    /// Nobody waits for the answer any more.
    pub(crate) fn cancel_call(&self, correlation: u64) {
        let mut state = self.lock();
        if state.calls.remove(&correlation).is_some()
            && let Phase::Up { .. } = state.phase
        {
            state.outgoing.push_control(&Control::Cancel { correlation });
            drop(state);
            self.work.notify_one();
        }
    }

    /// Says goodbye once all that waits has been sent.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        match state.phase {
            Phase::Up { .. } => {
                state.outgoing.ask_to_confirm();
                state.outgoing.push_control(&Control::Goodbye { cause: Farewell::Leaving });
                state.phase = Phase::Closing;
            }
            Phase::Down => state.phase = Phase::Closing,
            Phase::Closing | Phase::Closed(_) => {}
        }
        // Whoever waits for room in an inbox need not wait: nobody will read it.
        state.subscriptions.values().for_each(|wanted| wanted.inbox.end(None));
        drop(state);
        self.work.notify_one();
        self.room.notify_waiters();
        self.stop.notify_one();
    }

    /// Messages in doubt, which are thereby reported.
    pub(crate) fn take_in_doubt(&self) -> u64 {
        std::mem::take(&mut self.lock().in_doubt)
    }

    /// Which connection this is, counted from 1.
    pub(crate) fn connection(&self) -> u64 {
        self.lock().connection
    }

    /// The app waits for an answer as long as this is held, so that full inboxes do not keep it from coming.
    pub(crate) fn awaiting_answer(&self) -> AwaitingAnswer<'_> {
        self.awaiting_answer.fetch_add(1, Ordering::AcqRel);
        self.lock().subscriptions.values().for_each(|wanted| wanted.inbox.reconsider());
        AwaitingAnswer(self)
    }

    fn ring(&self, ring: bool) {
        if ring {
            self.work.notify_one();
        }
    }

    fn subscriptions_changed(&self) {
        self.subscriptions_version.fetch_add(1, Ordering::AcqRel);
        self.work.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For the connection's task.
impl Shared {
    /// A connection stands: asks anew for all that the app wants.
    pub(crate) fn connected(&self, welcome: &Welcome) -> bool {
        let mut state = self.lock();
        if !matches!(state.phase, Phase::Down) {
            return false;
        }
        let (client, message_bytes_max) = (welcome.client, welcome.message_bytes_max);
        state.phase = Phase::Up { client, message_bytes_max };
        state.connection += 1;
        let wanted: Vec<Control> = state.subscriptions.iter().map(|(number, wanted)| wanted.control(*number)).collect();
        wanted.iter().for_each(|control| state.outgoing.push_control(control));
        drop(state);
        self.subscriptions_changed();
        self.link.send_replace(Link::Up { client });
        self.room.notify_waiters();
        true
    }

    /// The connection is lost. Whoever waited for an answer on it is told. Returns whether to make another.
    pub(crate) fn disconnected(&self) -> bool {
        let mut state = self.lock();
        state.in_doubt += state.outgoing.unconfirmed();
        state.outgoing = Outgoing::default();
        state.slots.values().for_each(|slot| slot.forget());
        state.questions.drain().for_each(|(_, question)| drop(question.answer.send(Err(Error::Disconnected))));
        state.calls.drain().for_each(|(_, call)| drop(call.send(Err(Error::Disconnected))));
        if !state.flushes.is_empty() {
            let messages = std::mem::take(&mut state.in_doubt);
            for (_, flush) in state.flushes.drain(..) {
                let answer = if messages > 0 { Err(Error::Unconfirmed { messages }) } else { Err(Error::Disconnected) };
                let _ = flush.send(answer);
            }
        }
        let again = matches!(state.phase, Phase::Up { .. } | Phase::Down);
        if again {
            state.phase = Phase::Down;
            let in_doubt = state.in_doubt;
            drop(state);
            self.link.send_replace(Link::Down { in_doubt });
        }
        self.room.notify_waiters();
        again
    }

    /// The end, for this reason: all that waits is told.
    pub(crate) fn closed(&self, error: &Error) {
        let mut state = self.lock();
        state.phase = Phase::Closed(error.clone());
        let reason = Some(error).filter(|error| !matches!(error, Error::Closed));
        for wanted in std::mem::take(&mut state.subscriptions).into_values() {
            wanted.inbox.end(reason.cloned());
            if let Some(waiter) = wanted.waiter {
                let _ = waiter.send(Err(error.clone()));
            }
        }
        drop(state);
        self.link.send_replace(Link::Closed);
        self.room.notify_waiters();
    }

    /// Whether the app has asked to close.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(self.lock().phase, Phase::Closing)
    }

    /// What waits to be written; if nothing does, the writer is to be rung. Returns whether there are messages that the
    /// broker has not been asked to confirm.
    pub(crate) fn take_outgoing(&self, batch: &mut std::collections::VecDeque<Bytes>) -> bool {
        let mut state = self.lock();
        state.outgoing.take(batch);
        state.writer_idle = batch.is_empty();
        let unasked = state.outgoing.is_unasked();
        drop(state);
        self.room.notify_waiters();
        unasked
    }

    /// Asks the broker to confirm all so far, unless somebody has just done so.
    pub(crate) fn ask_to_confirm(&self) {
        let mut state = self.lock();
        if state.outgoing.is_unasked() {
            state.outgoing.ask_to_confirm();
        }
    }

    /// The broker's answer to a Declare.
    pub(crate) fn handle_declared(&self, token: u32, topic: TopicId) {
        let question = self.lock().questions.remove(&Regarding::Declare(token));
        if let Some(Question { answer, slot: Some((slot, purpose)) }) = question {
            slot.ids[purpose as usize].store(topic.0, Ordering::Relaxed);
            let _ = answer.send(Ok(()));
        }
    }

    /// The broker's answer to a Subscribe.
    pub(crate) fn handle_subscribed(&self, number: u32) {
        let mut state = self.lock();
        let Some(wanted) = state.subscriptions.get_mut(&number) else { return };
        wanted.inbox.activate();
        match wanted.waiter.take() {
            Some(waiter) => drop(waiter.send(Ok(()))),
            None if wanted.role == Role::Subscribe => {
                let gap = Gap { messages: None, topic: None, cause: GapCause::Reconnected };
                wanted.inbox.push(Item::Gap(gap));
            }
            None => {}
        }
    }

    /// The broker's answer to an Unsubscribe.
    pub(crate) fn handle_unsubscribed(&self, number: u32) {
        if let Some(question) = self.lock().questions.remove(&Regarding::Subscription(number)) {
            let _ = question.answer.send(Ok(()));
        }
    }

    /// The broker says no to something.
    pub(crate) fn handle_refused(&self, regarding: Regarding, error: Error) {
        let mut state = self.lock();
        if let Some(question) = state.questions.remove(&regarding) {
            let _ = question.answer.send(Err(error));
        } else if let Regarding::Subscription(number) = regarding
            && let Some(wanted) = state.subscriptions.remove(&number)
        {
            wanted.inbox.end(Some(error.clone()));
            if let Some(waiter) = wanted.waiter {
                let _ = waiter.send(Err(error));
            }
        }
    }

    /// The broker has routed all messages up to this one.
    pub(crate) fn handle_pong(&self, sequence: u64) {
        let mut state = self.lock();
        state.outgoing.confirm(sequence);
        let flushes = std::mem::take(&mut state.flushes);
        for (wanted, flush) in flushes {
            if wanted <= sequence {
                let _ = flush.send(Ok(()));
            } else {
                state.flushes.push((wanted, flush));
            }
        }
    }

    /// The answer to a request, or that there will be none. Ignored if nobody waits for it any more.
    pub(crate) fn handle_answer(&self, correlation: u64, answer: Result<Message>) {
        if let Some(call) = self.lock().calls.remove(&correlation) {
            let _ = call.send(answer);
        }
    }

    /// The inboxes that get a topic's messages, and those that get its requests.
    pub(crate) fn inboxes(&self, topic: &Topic) -> (Vec<Arc<Inbox>>, Vec<Arc<Inbox>>) {
        let state = self.lock();
        let matching = state.subscriptions.values().filter(|wanted| wanted.pattern.matches(topic));
        let active = matching.filter(|wanted| wanted.inbox.is_active());
        let (listening, serving): (Vec<_>, Vec<_>) = active.partition(|wanted| wanted.role == Role::Subscribe);
        let inboxes = |wanted: Vec<&Wanted>| wanted.into_iter().map(|wanted| wanted.inbox.clone()).collect();
        (inboxes(listening), inboxes(serving))
    }

    /// Every inbox that gets messages.
    pub(crate) fn all_inboxes(&self) -> Vec<Arc<Inbox>> {
        let state = self.lock();
        let listening = state.subscriptions.values().filter(|wanted| wanted.role == Role::Subscribe);
        listening.map(|wanted| wanted.inbox.clone()).collect()
    }

    /// Changes whenever [`Shared::inboxes`] may say something else.
    pub(crate) fn subscriptions_version(&self) -> u64 {
        self.subscriptions_version.load(Ordering::Acquire)
    }

    /// A subscription has come into force or has ended.
    pub(crate) fn raise_subscriptions_version(&self) {
        self.subscriptions_version.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether the app waits for an answer.
    pub(crate) fn is_awaiting_answer(&self) -> bool {
        self.awaiting_answer.load(Ordering::Acquire) > 0
    }
}

impl State {
    /// Appends a message if it can go now; then says whether the writer is to be rung.
    fn try_send(
        &mut self,
        destination: Destination<'_>,
        outbound: Outbound<'_>,
    ) -> Result<std::result::Result<bool, Lacking>> {
        let (client, max) = match &self.phase {
            Phase::Up { client, message_bytes_max } => (*client, *message_bytes_max),
            Phase::Down => match destination {
                Destination::Topic(_) => return Ok(Err(Lacking::Connection)),
                Destination::Reply { .. } => return Err(Error::Disconnected),
            },
            Phase::Closing => return Err(Error::Closed),
            Phase::Closed(error) => return Err(error.clone()),
        };
        let topic = match destination {
            Destination::Topic(slot) => match slot.id(outbound.purpose()) {
                Some(id) => id,
                None => return Ok(Err(Lacking::Declaration)),
            },
            Destination::Reply { topic, connection } if connection == self.connection => topic,
            Destination::Reply { .. } => return Err(Error::Disconnected),
        };
        if !self.outgoing.has_room() {
            return Ok(Err(Lacking::Room));
        }
        let metadata = outbound.metadata(client)?;
        let bytes = (metadata.len() + outbound.payload.len()) as u64;
        if bytes > max {
            return Err(Error::TooLarge { bytes, max });
        }
        self.append(topic, client, &metadata, outbound);
        Ok(Ok(std::mem::take(&mut self.writer_idle)))
    }

    fn append(&mut self, topic: TopicId, sender: InstanceId, metadata: &[u8], outbound: Outbound<'_>) {
        let Outbound { kind, flags, payload, .. } = outbound;
        self.outgoing.push(&Draft { kind, flags, topic, sender, metadata, payload });
    }

    fn number(&mut self) -> u32 {
        self.last_number = self.last_number.wrapping_add(1);
        self.last_number
    }

    /// Retracts the topics that nobody holds a handle of.
    fn retract_idle(&mut self) {
        let outgoing = &mut self.outgoing;
        self.slots.retain(|_, slot| {
            let held = Arc::strong_count(slot) > 1;
            if !held && let Some(topic) = slot.id(Purpose::Publish).or(slot.id(Purpose::Request)) {
                outgoing.push_control(&Control::Retract { topic });
            }
            held
        });
    }
}

/// See [`Shared::awaiting_answer`].
pub(crate) struct AwaitingAnswer<'a>(&'a Shared);

impl Drop for AwaitingAnswer<'_> {
    fn drop(&mut self) {
        self.0.awaiting_answer.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Ends a subscription that nobody came to hold.
struct ForgetSubscription<'a> {
    shared: &'a Shared,
    number: Option<u32>,
}

impl Drop for ForgetSubscription<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.shared.forget_subscription(number);
        }
    }
}
