//! Inbox: what has arrived for one subscription and waits for the app to take it.
//!
//! One inbox that is full keeps the whole client from reading, so that its broker, and in the end the publisher, waits.
//! The exception: while the app waits for an answer, it could wait for ever behind messages that it does not take.
//! Then reading goes on, up to a higher bound.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use pipebus_proto::frame::{HEAD_BYTES, Head};
use tokio::sync::Notify;

use crate::error::Error;
use crate::message::Message;
use crate::run::Run;
use crate::subscription::Gap;

/// Reading stops when more than this waits in one inbox.
const WAITING_BYTES_MAX: usize = 256 * 1024;

/// Reading stops at this even if the app waits for an answer.
const WAITING_BYTES_MAX_FOR_ANSWERS: usize = 64 * 1024 * 1024;

/// What is smaller than this is copied when it has to wait, rather than keeping 256 KiB of what was read in memory.
const COMPACT_BYTES_MAX: usize = 16 * 1024;

/// What waits.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    room: Notify,
    /// Set once the broker has confirmed the subscription.
    active: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    bytes: usize,
    ended: Option<Option<Error>>,
    waker: Option<Waker>,
}

/// One thing that arrived.
#[derive(Debug)]
pub(crate) enum Item {
    /// Messages.
    Run(Run),
    /// A request, and the connection it came on.
    Request { head: Head, message: Message, connection: u64 },
    /// A loss.
    Gap(Gap),
}

impl Item {
    /// The same in memory of its own, if it is small.
    fn compact(self) -> Item {
        match self {
            Item::Run(run) if run.bytes() < COMPACT_BYTES_MAX => Item::Run(run.detached()),
            Item::Request { head, message, connection } if message.payload.len() < COMPACT_BYTES_MAX => {
                Item::Request { head, message: message.detached(), connection }
            }
            item => item,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Item::Run(run) => run.bytes(),
            Item::Request { head, message, .. } => HEAD_BYTES + usize::from(head.metadata) + message.payload.len(),
            Item::Gap(_) => 0,
        }
    }
}

impl Inbox {
    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// Messages are for this inbox from now on.
    pub(crate) fn activate(&self) {
        self.active.store(true, Ordering::Release);
    }

    /// Not until the broker confirms the subscription anew: the gap comes before what is published after it.
    pub(crate) fn deactivate(&self) {
        self.active.store(false, Ordering::Release);
    }

    /// Adds what arrived, whatever waits already: it has been read. See [`Inbox::wait_for_room`]. Returns whether it
    /// was taken: after the end nothing is.
    pub(crate) fn push(&self, item: Item) -> bool {
        let mut state = self.lock();
        if state.ended.is_some() {
            return false;
        }
        // What waits behind others would keep all that was read together with it in memory.
        let item = if state.items.is_empty() { item } else { item.compact() };
        state.bytes += item.bytes();
        match (state.items.back_mut(), item) {
            (Some(Item::Gap(before)), Item::Gap(gap)) if before.absorbs(&gap) => before.absorb(&gap),
            (_, item) => state.items.push_back(item),
        }
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// What waits, once nobody will take it.
    pub(crate) fn drain(&self) -> VecDeque<Item> {
        let mut state = self.lock();
        state.bytes = 0;
        std::mem::take(&mut state.items)
    }

    /// Waits until reading may go on. `awaiting_answer` tells whether the app waits for something behind.
    pub(crate) async fn wait_for_room(&self, awaiting_answer: impl Fn() -> bool) {
        while !self.has_room(awaiting_answer()) {
            let mut room = pin!(self.room.notified());
            room.as_mut().enable();
            // It may have come before anybody could be told.
            if self.has_room(awaiting_answer()) {
                return;
            }
            room.await;
        }
    }

    /// The app has begun to wait for an answer: whoever waits for room looks again.
    pub(crate) fn reconsider(&self) {
        self.room.notify_waiters();
    }

    /// The next item; `None` once the inbox has ended and is empty.
    pub(crate) fn poll_pop(&self, context: &mut Context<'_>) -> Poll<Option<Item>> {
        let mut state = self.lock();
        let Some(item) = state.items.pop_front() else {
            if state.ended.is_some() {
                return Poll::Ready(None);
            }
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        state.bytes -= item.bytes();
        drop(state);
        self.room.notify_waiters();
        Poll::Ready(Some(item))
    }

    /// Takes nothing more, for this reason if it is an error.
    pub(crate) fn end(&self, error: Option<Error>) {
        let mut state = self.lock();
        state.ended.get_or_insert(error);
        let waker = state.waker.take();
        drop(state);
        self.room.notify_waiters();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Why it ended, if by an error.
    pub(crate) fn error(&self) -> Option<Error> {
        self.lock().ended.clone().flatten()
    }

    /// Whether reading may go on; `awaiting_answer` if the app waits for something behind.
    pub(crate) fn has_room(&self, awaiting_answer: bool) -> bool {
        let max = if awaiting_answer { WAITING_BYTES_MAX_FOR_ANSWERS } else { WAITING_BYTES_MAX };
        let state = self.lock();
        state.bytes <= max || state.ended.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
