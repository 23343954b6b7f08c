//! Link: how the client stands to its broker, and what the connection's task does to the shared state.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pipebus_proto::control::{Control, Purpose, Regarding, Role, Welcome};
use pipebus_proto::topic::{InstanceId, Topic, TopicId};

use super::{Phase, Question, Shared};
use crate::error::{Error, Result};
use crate::inbox::{Inbox, Item};
use crate::message::Message;
use crate::outgoing::{Outgoing, Piece};
use crate::subscription::{Gap, GapCause};

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

/// Those that get what comes on a topic.
#[derive(Debug, Default)]
pub(crate) struct Inboxes {
    /// The messages.
    pub(crate) listening: Vec<Arc<Inbox>>,
    /// The requests.
    pub(crate) serving: Vec<Arc<Inbox>>,
    /// The records.
    pub(crate) watching: Vec<Arc<Inbox>>,
}

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
        self.pool.forget_lent();
        state.slots.values().for_each(|slot| slot.forget());
        state.subscriptions.values().for_each(|wanted| wanted.inbox.deactivate());
        state.questions.drain().for_each(|(_, question)| drop(question.answer.send(Err(Error::Disconnected))));
        state.calls.drain().for_each(|(_, call)| drop(call.send(Err(Error::Disconnected))));
        state.flushes.clear();
        let again = matches!(state.phase, Phase::Up { .. } | Phase::Down | Phase::Leaving);
        if again {
            state.phase = Phase::Down;
            let in_doubt = state.in_doubt;
            drop(state);
            self.link.send_replace(Link::Down { in_doubt });
        }
        self.room.notify_waiters();
        again
    }

    /// The broker is about to end: what has been sent is to be confirmed, and whoever sends next waits for the next broker.
    pub(crate) fn handle_last_call(&self) {
        let mut state = self.lock();
        if let Phase::Up { .. } = state.phase {
            state.say_goodbye();
            state.phase = Phase::Leaving;
            drop(state);
            self.work.notify_one();
        }
    }

    /// The end, for this reason: all that waits is told.
    pub(crate) fn closed(&self, error: &Error) {
        let mut state = self.lock();
        if let Phase::Closed(_) = state.phase {
            return;
        }
        state.phase = Phase::Closed(error.clone());
        state.flushes.clear();
        state.questions.drain().for_each(|(_, question)| drop(question.answer.send(Err(error.clone()))));
        state.calls.drain().for_each(|(_, call)| drop(call.send(Err(error.clone()))));
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
    pub(crate) fn take_outgoing(&self, batch: &mut VecDeque<Piece>) -> bool {
        let mut state = self.lock();
        state.outgoing.take(batch);
        state.writer_idle = batch.is_empty();
        let unasked = state.outgoing.is_unasked();
        drop(state);
        self.room.notify_waiters();
        unasked
    }

    /// All loaned messages of the sender up to this one have been read: the broker is told with the next write.
    pub(crate) fn consume(&self, sender: InstanceId, sequence: u64) {
        let mut state = self.lock();
        if let Phase::Up { .. } = state.phase {
            state.outgoing.consume(sender, sequence);
            let ring = std::mem::take(&mut state.writer_idle);
            drop(state);
            self.ring(ring);
        }
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
        let mut state = self.lock();
        let question = state.questions.remove(&Regarding::Declare(token));
        if let Some(Question { answer, slot: Some((slot, purpose)) }) = question {
            slot.remember(purpose, topic);
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
            None if wanted.role != Role::Serve => {
                let gap = Gap { messages: None, topic: None, cause: GapCause::Reconnected };
                let _ = wanted.inbox.push(Item::Gap(gap));
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

    /// The broker passes nothing on any more that is sent to a topic. Whoever sends there next asks anew, and hears why
    /// not; what is on its way may be lost, which the next flush tells.
    pub(crate) fn handle_revoked(&self, topic: TopicId, purpose: Purpose, text: &str) {
        let mut state = self.lock();
        let slot = state.slots.values().find(|slot| slot.revoke(purpose, topic));
        let Some((name, is_unused)) = slot.map(|slot| (slot.topic.clone(), slot.is_unused())) else { return };
        if is_unused {
            state.outgoing.push_control(&Control::Retract { topic });
        }
        if purpose == Purpose::Publish && state.outgoing.unconfirmed() > 0 {
            state.revoked = Some(Error::Forbidden(format!("messages to {name} may not have been passed on: {text}")));
        }
    }

    /// The broker has routed all messages up to this one.
    pub(crate) fn handle_pong(&self, sequence: u64) {
        let mut state = self.lock();
        state.outgoing.confirm(sequence);
        let flushes = std::mem::take(&mut state.flushes);
        for (wanted, flush) in flushes {
            if wanted <= sequence {
                let _ = flush.send(());
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

    /// The inboxes that get what comes on a topic.
    pub(crate) fn inboxes(&self, topic: &Topic) -> Inboxes {
        let state = self.lock();
        let matching = state.subscriptions.values().filter(|wanted| wanted.pattern.matches(topic));
        let mut inboxes = Inboxes::default();
        for wanted in matching.filter(|wanted| wanted.inbox.is_active()) {
            let of_role = match wanted.role {
                Role::Subscribe => &mut inboxes.listening,
                Role::Serve => &mut inboxes.serving,
                Role::Monitor(_) => &mut inboxes.watching,
            };
            of_role.push(wanted.inbox.clone());
        }
        inboxes
    }

    /// Every inbox that gets messages or records.
    pub(crate) fn all_inboxes(&self) -> Vec<Arc<Inbox>> {
        let state = self.lock();
        let hearing = state.subscriptions.values().filter(|wanted| wanted.role != Role::Serve);
        hearing.map(|wanted| wanted.inbox.clone()).collect()
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
