//! Outbox: one instance's queue and pipe, and what wakes its task and those who wait for room in it.
//!
//! What is queued, dropped or refused is the queue's decision; here is only the lock, the waiting and the counting.
//! Whoever has the pipe is the only one who writes: the instance's own writer, or, when nothing waits, a publisher's
//! reader itself, which spares two switches of tasks.

mod direct;

use std::ops::RangeInclusive;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use pipebus_proto::admin::Cause;
use pipebus_proto::control::{Control, Farewell, Identity, Overflow, RELEASED_MAX, Regarding};
use pipebus_proto::splitter::Span;
use pipebus_proto::topic::{InstanceId, TopicId};
use pipebus_proto::wire::encode_control;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::core::account::Account;
use crate::core::latency::Latency;
use crate::core::limits::Limits;
use crate::core::queue::{ControlFull, Introductions, Pushed, Queue};
use crate::core::refused::Refused;
use crate::counters::Counters;
use crate::episode::{Sort, may_tell_of};
use crate::loans::Loans;
use crate::transport::Writer;

pub(crate) use self::direct::Direct;

/// How long a waiting publisher sleeps at most.
const WAIT_STEP: Duration = Duration::from_millis(250);

/// If for so long nobody, not even one who waits, has looked whether there is room, the broker itself may have been
/// stopped meanwhile, and that is not held against the subscriber.
const UNOBSERVED: Duration = WAIT_STEP.saturating_mul(4);

/// How much is written at once, at most; less where queues are small, since what is being written can't be dropped.
const BATCH_BYTES_MAX: usize = 256 * 1024;

/// How many released messages may wait until their sender is told of them: more than some receivers may have at once.
const RELEASED_WAITING_MAX: usize = 16 * 1024;

/// The way to one instance.
#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    /// Rung for publishers that wait for room.
    room: Notify,
    /// Held by the one publisher that has its turn to wait for room.
    turn: tokio::sync::Mutex<()>,
    /// Whose instance it is.
    pub(crate) owner: Identity,
    /// What that user holds.
    pub(crate) account: Arc<Account>,
    /// What others have lent to this instance.
    pub(crate) loans: Loans,
    /// What has passed.
    pub(crate) counters: Counters,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    /// The client's pipe, unless somebody writes to it now.
    writer: Option<Writer>,
    /// The instance's task, while it waits. It takes less room than a bell for each thing to wait for.
    task: Option<Waker>,
    /// The instance is no more: whoever has the pipe closes it.
    ended: bool,
    /// Set once nothing more is taken.
    farewell: Option<Farewell>,
    /// Why the client was sent away, if it was.
    expelled: Option<Box<(Cause, String)>>,
    /// The instance's own loaned messages that nobody reads any more, to be told of.
    released: Vec<u64>,
    /// How many publishers wait for their turn or for room.
    waiting: usize,
    /// When somebody last looked whether there was room.
    looked: Instant,
    /// In an episode of losing messages; each is logged once.
    losing: bool,
    /// Known once the instance is.
    instance: InstanceId,
}

impl State {
    /// Whether there is something for the instance's writer to do, and the pipe to do it with.
    fn has_work(&self) -> bool {
        self.writer.is_some() && (!self.queue.is_empty() || !self.released.is_empty() || self.farewell.is_some())
    }

    /// Lets the task be woken.
    fn wait(&mut self, context: &Context<'_>) {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(context.waker())) {
            self.task = Some(context.waker().clone());
        }
    }

    /// Somebody looks whether there is room. The client counts as stalled only for time of which somebody can say that
    /// the broker ran.
    fn look(&mut self, now: Instant) {
        let looked = std::mem::replace(&mut self.looked, now);
        if now.duration_since(looked) > UNOBSERVED && now.into_std() >= self.queue.stall_deadline() {
            self.queue.forgive(now.into_std());
        }
    }

    /// Puts what is released into the queue.
    fn tell_released(&mut self) -> Result<(), ControlFull> {
        while !self.released.is_empty() {
            let rest = self.released.split_off(self.released.len().min(RELEASED_MAX));
            let sequences = std::mem::replace(&mut self.released, rest);
            self.queue.push_control(encode_control(&Control::Released { sequences }))?;
        }
        Ok(())
    }
}

/// What the instance's writer is to do next, with its pipe.
#[derive(Debug)]
pub(crate) enum Next {
    /// Write the batch, and give the pipe back.
    Write(Writer),
    /// Say goodbye: all else has been written.
    Goodbye(Writer, Farewell),
}

impl Outbox {
    /// Without a pipe nothing is ever written.
    pub(crate) fn new(limits: &Limits, account: &Arc<Account>, writer: Option<Writer>, owner: Identity) -> Outbox {
        let now = Instant::now().into_std();
        let state = State {
            queue: Queue::new(limits.queue_bytes_max, account.clone(), limits.stall_timeout, now),
            writer,
            task: None,
            ended: false,
            farewell: None,
            expelled: None,
            released: Vec::new(),
            waiting: 0,
            looked: Instant::now(),
            losing: false,
            instance: InstanceId::BROKER,
        };
        Outbox {
            state: Mutex::new(state),
            room: Notify::new(),
            turn: tokio::sync::Mutex::new(()),
            owner,
            account: account.clone(),
            loans: Loans::default(),
            counters: Counters::default(),
        }
    }

    /// Names the instance.
    pub(crate) fn name(&self, instance: InstanceId) {
        self.lock().instance = instance;
    }

    /// Which instance's it is.
    pub(crate) fn instance(&self) -> InstanceId {
        self.lock().instance
    }

    /// Tells of the last message of a span that is about to come how long it takes from `since`; see [`Queue::time`].
    pub(crate) fn time(&self, span: &Span, since: std::time::Instant, latency: &Arc<Latency>) {
        self.lock().queue.time(span, since, latency);
    }

    /// Takes a span, or as much of it as its policy lets it; see [`Queue::push`]. Whoever may wait does so, behind
    /// those who wait already: otherwise small messages would always slip in before a large one.
    pub(crate) fn push(&self, span: Span, overflow: Overflow, names: Introductions<'_>) -> Pushed {
        let state = self.lock();
        if overflow == Overflow::Block && state.waiting > 0 && state.farewell.is_none() {
            return Pushed::Full(span);
        }
        self.push_now(state, span, overflow, names)
    }

    fn push_now<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        mut span: Span,
        overflow: Overflow,
        names: Introductions<'_>,
    ) -> Pushed {
        if state.farewell.is_some() {
            return Pushed::Queued;
        }
        if let Some(direct) = self.begin(&mut state, &span, span.bytes.len()) {
            drop(state);
            let written = direct.write(&span.bytes);
            match direct.end_within(written) {
                Some(behind) => span = behind,
                None => return Pushed::Queued,
            }
            state = self.lock();
        }
        let now = Instant::now();
        state.look(now);
        let pushed = state.queue.push(span, overflow, names, now.into_std());
        match &pushed {
            Pushed::Dropped { .. } => self.tell_of_loss(&mut state, overflow),
            Pushed::Disconnect => {
                if may_tell_of(&self.owner, Sort::Fault) {
                    warn!(instance = state.instance.0, "too slow, so it is disconnected");
                }
                self.kick(&mut state);
            }
            _ => {}
        }
        ring(state);
        pushed
    }

    /// It loses messages: the log is told, once in an episode.
    fn tell_of_loss(&self, state: &mut State, overflow: Overflow) {
        if !std::mem::replace(&mut state.losing, true) && may_tell_of(&self.owner, Sort::Fault) {
            warn!(instance = state.instance.0, overflow = ?overflow, "too slow, so messages are dropped");
        }
    }

    /// How many bytes of records it may take now. Those who wait for room come first. If nothing waits, its pipe may take
    /// more than its queue; and where the oldest are dropped, there is always room for the newest.
    pub(crate) fn room_for_records(&self, overflow: Overflow) -> usize {
        let state = self.lock();
        if state.farewell.is_some() || state.waiting > 0 {
            0
        } else if overflow == Overflow::DropOldest || (state.writer.is_some() && state.queue.is_empty()) {
            usize::MAX
        } else {
            state.queue.room()
        }
    }

    /// Drops messages that were not made, since there is no room for them.
    pub(crate) fn drop_unmade(&self, topic: TopicId, messages: u64, overflow: Overflow) {
        let mut state = self.lock();
        if state.farewell.is_some() {
            return;
        }
        state.queue.drop_unmade(topic, messages);
        self.tell_of_loss(&mut state, overflow);
        ring(state);
    }

    /// Pushes what did not fit, waiting for its turn and for room as long as the policy says. Returns the messages
    /// dropped.
    ///
    /// # Cancel safety
    /// Cancelled, it leaves out what has not been pushed.
    pub(crate) async fn push_waiting(&self, rest: Span, overflow: Overflow, names: Introductions<'_>) -> u64 {
        let _waiting = Waiting::begin(self);
        // Fair: in the order of their coming.
        let _turn = self.turn.lock().await;
        let mut rest = rest;
        loop {
            let mut room = pin!(self.room.notified());
            room.as_mut().enable();
            match self.push_now(self.lock(), rest, overflow, names) {
                Pushed::Full(still) => rest = still,
                Pushed::Dropped { messages } => return messages,
                Pushed::Queued | Pushed::Disconnect => return 0,
            }
            let step = Instant::now() + WAIT_STEP;
            let deadline = Instant::from_std(self.lock().queue.stall_deadline());
            let _ = tokio::time::timeout_at(step.min(deadline), room).await;
        }
    }

    /// Sends a control frame. A client that asks and never reads the answers is disconnected.
    pub(crate) fn send(&self, control: &Control) {
        let mut state = self.lock();
        if state.farewell.is_some() {
            return;
        }
        if state.queue.push_control(encode_control(control)).is_err() {
            if may_tell_of(&self.owner, Sort::Fault) {
                warn!(instance = state.instance.0, "reads no answers, so it is disconnected");
            }
            self.kick(&mut state);
        }
        ring(state);
    }

    /// Takes nothing more; once what waits is written, the writer says goodbye.
    pub(crate) fn close(&self, farewell: Farewell) {
        let mut state = self.lock();
        state.farewell.get_or_insert(farewell);
        ring(state);
        self.room.notify_waiters();
    }

    /// The instance may not be here any more: its client is told why, and disconnected.
    pub(crate) fn expel(&self, refused: Refused, cause: Cause) {
        let instance = {
            let mut state = self.lock();
            state.expelled.get_or_insert_with(|| Box::new((cause, refused.text.clone())));
            state.instance.0
        };
        info!(instance, reason = %refused, "disconnected, since it may not be here any more");
        self.send(&refused.about(Regarding::Connection));
        self.close(Farewell::Disconnected);
        self.wake();
    }

    /// Why the client was sent away, if it was.
    pub(crate) fn expelled(&self) -> Option<(Cause, String)> {
        self.lock().expelled.as_deref().cloned()
    }

    /// What it is told at its end, once that is known.
    pub(crate) fn farewell(&self) -> Option<Farewell> {
        self.lock().farewell
    }

    /// Whether the instance is to be disconnected; if not yet, its task is woken then.
    pub(crate) fn poll_kicked(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.farewell.is_some() {
            return Poll::Ready(());
        }
        state.wait(context);
        Poll::Pending
    }

    /// Wakes the instance's task, to look at something else.
    pub(crate) fn wake(&self) {
        let task = self.lock().task.take();
        wake(task);
    }

    pub(crate) fn forget_topic(&self, topic: TopicId) {
        let mut state = self.lock();
        if state.queue.forget_topic(topic) {
            ring(state);
        }
    }

    pub(crate) fn forget_sender(&self, sender: InstanceId) {
        let mut state = self.lock();
        if state.queue.forget_sender(sender) {
            ring(state);
        }
    }

    /// Nobody reads these loaned messages of the instance any more.
    pub(crate) fn release(&self, sequences: RangeInclusive<u64>) {
        let mut state = self.lock();
        if state.farewell.is_some() {
            return;
        }
        state.released.extend(sequences);
        if state.released.len() > RELEASED_WAITING_MAX {
            if may_tell_of(&self.owner, Sort::Fault) {
                warn!(instance = state.instance.0, "lends on and reads no answers, so it is disconnected");
            }
            self.kick(&mut state);
        }
        ring(state);
    }

    /// Whether [`Outbox::next`] has something for the instance's writer; if not yet, its task is woken then.
    pub(crate) fn poll_work(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.has_work() {
            return Poll::Ready(());
        }
        state.queue.shrink();
        state.wait(context);
        Poll::Pending
    }

    /// What the instance's writer is to do next, if anything; what is to be written is put into `batch`.
    pub(crate) fn next(&self, batch: &mut Vec<Bytes>) -> Option<Next> {
        let mut state = self.lock();
        if !state.has_work() {
            return None;
        }
        let writer = state.writer.take()?;
        if state.tell_released().is_err() {
            self.kick(&mut state);
        }
        if state.queue.is_empty()
            && let Some(farewell) = state.farewell
        {
            return Some(Next::Goodbye(writer, farewell));
        }
        let batch_bytes = BATCH_BYTES_MAX.min(state.queue.bytes_max() / 4).max(1);
        let messages = state.queue.take(batch_bytes, batch);
        self.counters.messages_out.add(messages);
        if state.losing && state.queue.is_empty() {
            state.losing = false;
            let dropped = state.queue.dropped();
            if may_tell_of(&self.owner, Sort::Fault) {
                info!(instance = state.instance.0, dropped, "has caught up");
            }
        }
        Some(Next::Write(writer))
    }

    /// The writer has written its batch.
    pub(crate) fn give_back(&self, writer: Writer) {
        let mut state = self.lock();
        if !state.ended {
            state.writer = Some(writer);
        }
        drop(state);
        self.room.notify_waiters();
    }

    /// The instance is no more: its pipe is closed, and nobody needs to lend it anything.
    pub(crate) fn end(&self) {
        self.close(Farewell::Leaving);
        let mut state = self.lock();
        state.ended = true;
        // Others may still have the way here; what waited is not to be held for it, nor by its user's account.
        state.queue.end();
        let writer = state.writer.take();
        drop(state);
        drop(writer);
        self.loans.clear();
    }

    /// The client's pipe has taken so many bytes.
    pub(crate) fn written(&self, bytes: usize) {
        self.lock().queue.written(bytes, Instant::now().into_std());
        self.counters.bytes_out.add(bytes as u64);
        self.room.notify_waiters();
    }

    /// Bytes queued, messages dropped, whether the instance is stalled, and who waits for it.
    pub(crate) fn fill(&self) -> Fill {
        let state = self.lock();
        Fill {
            queued_bytes: state.queue.queued_bytes() as u64,
            dropped: state.queue.dropped(),
            stalled: state.queue.stalled(),
            queue_bytes_max: state.queue.bytes_max() as u64,
            waiting: state.waiting as u64,
        }
    }

    fn kick(&self, state: &mut State) {
        state.queue.clear();
        state.released.clear();
        state.farewell = Some(Farewell::Slow);
        wake(state.task.take());
        self.room.notify_waiters();
    }

    /// A panic elsewhere leaves a queue that is still whole: each change to it ends before anything can panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the instance's task if it waits and its writer has something to do now. While somebody has the pipe that is
/// not so: whoever gives it back looks for work again.
fn ring(mut state: MutexGuard<'_, State>) {
    let task = if state.has_work() { state.task.take() } else { None };
    drop(state);
    wake(task);
}

fn wake(task: Option<Waker>) {
    if let Some(task) = task {
        task.wake();
    }
}

/// A publisher that waits.
struct Waiting<'a>(&'a Outbox);

impl Waiting<'_> {
    fn begin(outbox: &Outbox) -> Waiting<'_> {
        outbox.lock().waiting += 1;
        Waiting(outbox)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

/// How full an outbox is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    pub(crate) queued_bytes: u64,
    pub(crate) dropped: u64,
    pub(crate) stalled: bool,
    pub(crate) queue_bytes_max: u64,
    /// Publishers that wait for room.
    pub(crate) waiting: u64,
}
