//! Shared: what the app's handles and the connection's task have in common, under one lock that is never held across a
//! wait.
//!
//! Here is the state and what subscriptions, requests and closing do to it; [`sending`] is how messages get into it,
//! [`link`] what the connection's task does with it.

pub(crate) mod link;
pub(crate) mod sending;

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pipebus_proto::control::{Control, Farewell, Overflow, Purpose, Regarding, Role};
use pipebus_proto::pattern::Pattern;
use pipebus_proto::topic::{InstanceId, Topic};
use tokio::sync::{Notify, oneshot, watch};

use crate::error::{Error, Result};
use crate::inbox::Inbox;
use crate::message::Message;
use crate::outgoing::Outgoing;
use crate::pages::Pool;
use crate::shared::link::Link;
use crate::shared::sending::Slot;

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
    /// What is lent to the connection.
    pub(crate) pool: Arc<Pool>,
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
    flushes: Vec<(u64, oneshot::Sender<()>)>,
    subscriptions: BTreeMap<u32, Wanted>,
    /// Messages in doubt that no flush has reported yet.
    in_doubt: u64,
    /// Likewise, that messages may have been discarded since they may not be sent any more.
    revoked: Option<Error>,
}

#[derive(Clone, Debug)]
enum Phase {
    /// Not connected, and trying.
    Down,
    /// Connected.
    Up { client: InstanceId, message_bytes_max: u64 },
    /// The broker is about to end, and goodbye is said, or on its way: nothing more is sent until there is another.
    Leaving,
    /// The same, for good.
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
            revoked: None,
        };
        Shared {
            state: Mutex::new(state),
            work: Notify::new(),
            room: Notify::new(),
            stop: Notify::new(),
            subscriptions_version: AtomicU64::new(0),
            awaiting_answer: AtomicU32::new(0),
            link: watch::Sender::new(Link::Down { in_doubt: 0 }),
            pool: Arc::default(),
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

    /// Ends a subscription and waits for the broker's word, if there is a broker that knows of it.
    pub(crate) async fn unsubscribe(&self, number: u32) -> Result<()> {
        let answered = {
            let mut state = self.lock();
            let known = matches!(state.phase, Phase::Up { .. }) && state.subscriptions.contains_key(&number);
            known.then(|| {
                let (answer, answered) = oneshot::channel();
                state.questions.insert(Regarding::Subscription(number), Question { answer, slot: None });
                answered
            })
        };
        self.forget_subscription(number);
        let Some(answered) = answered else { return Ok(()) };
        let _awaiting = self.awaiting_answer();
        answered.await.unwrap_or(Err(Error::Disconnected))
    }

    /// Waits until the broker has routed all that was sent before. What is in doubt, or was discarded since the policy has
    /// changed, is reported here, once.
    pub(crate) async fn flush(&self) -> Result<()> {
        loop {
            let mut room = pin!(self.room.notified());
            room.as_mut().enable();
            let asked = {
                let mut state = self.lock();
                let in_doubt = std::mem::take(&mut state.in_doubt);
                match &state.phase {
                    _ if in_doubt > 0 => return Err(Error::Unconfirmed { messages: in_doubt }),
                    Phase::Up { .. } => {
                        let (answer, answered) = oneshot::channel();
                        let token = state.outgoing.ask_to_confirm();
                        state.flushes.push((token, answer));
                        Some(answered)
                    }
                    Phase::Closed(error) => return Err(error.clone()),
                    Phase::Down | Phase::Leaving | Phase::Closing => None,
                }
            };
            let Some(answered) = asked else {
                room.await;
                continue;
            };
            self.work.notify_one();
            let _awaiting = self.awaiting_answer();
            // If the connection is lost, what is now in doubt is found above.
            if answered.await.is_ok() {
                // Told before the answer, if at all.
                return self.lock().revoked.take().map_or(Ok(()), Err);
            }
        }
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
                state.say_goodbye();
                state.phase = Phase::Closing;
            }
            Phase::Down | Phase::Leaving => state.phase = Phase::Closing,
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

    fn subscriptions_changed(&self) {
        self.subscriptions_version.fetch_add(1, Ordering::AcqRel);
        self.work.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The last that is sent. All before it will have been confirmed when the broker says goodbye in turn.
    fn say_goodbye(&mut self) {
        self.outgoing.ask_to_confirm();
        self.outgoing.push_control(&Control::Goodbye { cause: Farewell::Leaving });
    }

    fn number(&mut self) -> u32 {
        self.last_number = self.last_number.wrapping_add(1);
        self.last_number
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
