//! Queue: what waits for one instance; its bound, and what happens when it is full.
//!
//! Not who waits for room: the queue hands back what does not fit, and the shell waits. Nothing is lost by
//! forgetting: what is dropped stands as a gap where it would have been.

mod direct;
mod dropping;
mod timed;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pipebus_proto::control::{Control, Overflow};
use pipebus_proto::frame::{Kind, Part};
use pipebus_proto::splitter::Span;
use pipebus_proto::topic::{InstanceId, TopicId};
use pipebus_proto::wire::encode_control;

use self::timed::Timed;
use crate::core::account::Account;
use crate::core::limits::Limit;
use crate::core::stall::StallClock;

/// Bytes of control frames that may wait, beside the messages: answers to what the client asked.
pub const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Of them, those for which there is room whatever else the client's user has.
const ANSWER_BYTES_KEPT: usize = 16 * 1024;

/// A span that is smaller than this is copied when it has to wait, rather than keeping in memory all that was read
/// together with it: so what a queue holds in memory is a few times its bound at most.
const COMPACT_BYTES_MAX: usize = 16 * 1024;

/// Gaps on different topics that may stand side by side before they become one on several topics.
const GAPS_SIDE_BY_SIDE_MAX: usize = 16;

/// What waits for one instance, in the order in which it is written.
#[derive(Debug)]
pub struct Queue {
    entries: VecDeque<Entry>,
    /// Bytes of messages and notes in `entries`.
    bytes: usize,
    /// Those of them that may be dropped to make room.
    droppable_bytes: usize,
    bytes_max: usize,
    /// Bytes of answers in `entries`.
    control_bytes: usize,
    /// Bytes taken by the writer and not yet written.
    in_flight: usize,
    /// Whose span was handed back, if what was pushed last was: it waits as long as it is there.
    refusing: Option<InstanceId>,
    /// What all queues of the user hold, and how much of that is this one's.
    account: Arc<Account>,
    charged: usize,
    /// Topics and senders that the client has been told the names of.
    topics_told: BTreeSet<TopicId>,
    senders_told: BTreeSet<InstanceId>,
    /// Of each sender: the message whose beginning was taken and whose other fragments are to follow.
    unfinished: BTreeMap<InstanceId, Unfinished>,
    stall: StallClock,
    dropped: u64,
    /// A message of which is told how long it takes.
    timed: Option<Box<Timed>>,
}

#[derive(Debug)]
enum Entry {
    Messages {
        span: Span,
        overflow: Overflow,
    },
    /// What the client has to get, whatever happens: about the messages before or behind, who and what they are about
    /// and that no more will come.
    Note(Bytes),
    /// The rest of a frame of which the client has the beginning: nothing comes before it.
    Rest(Bytes),
    Control(Bytes),
    Gap {
        topic: TopicId,
        messages: u64,
    },
}

impl Entry {
    fn bytes(&self) -> usize {
        match self {
            Entry::Messages { span, .. } => span.bytes.len(),
            Entry::Note(bytes) | Entry::Rest(bytes) | Entry::Control(bytes) => bytes.len(),
            Entry::Gap { .. } => 0,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Unfinished {
    kind: Kind,
    topic: TopicId,
    sequence: u64,
}

/// What became of a span that was pushed.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Pushed {
    /// All of it waits.
    Queued,
    /// So many messages were dropped, of this span or of those before.
    Dropped {
        /// How many.
        messages: u64,
    },
    /// This rest does not fit: push it again when there is room, or after [`Queue::stall_deadline`].
    Full(Span),
    /// It does not fit, and the subscription wants to be disconnected then.
    Disconnect,
}

/// The frames that tell a client what a topic id and a sender id mean.
#[derive(Clone, Copy, Debug)]
pub struct Introductions<'a> {
    /// A TopicInfo frame.
    pub topic: &'a Bytes,
    /// A SenderInfo frame.
    pub sender: &'a Bytes,
}

impl Queue {
    /// An empty queue for at most `bytes_max` bytes. An empty queue takes a whole frame whatever its bound.
    /// It takes no more than its user's account has room for, either.
    pub fn new(bytes_max: usize, account: Arc<Account>, stall_timeout: Duration, now: Instant) -> Queue {
        Queue {
            entries: VecDeque::new(),
            bytes: 0,
            droppable_bytes: 0,
            bytes_max,
            control_bytes: 0,
            in_flight: 0,
            refusing: None,
            account,
            charged: 0,
            topics_told: BTreeSet::new(),
            senders_told: BTreeSet::new(),
            unfinished: BTreeMap::new(),
            stall: StallClock::new(stall_timeout, now),
            dropped: 0,
            timed: None,
        }
    }

    /// Takes a span, or as much of it as its overflow policy lets it.
    pub fn push(&mut self, span: Span, overflow: Overflow, names: Introductions<'_>, now: Instant) -> Pushed {
        self.stall.run(self.is_idle() && self.refusing.is_none(), now);
        let (sender, last, is_record) = (span.sender, span.last, span.kind == Kind::Record);
        let pushed = self.push_span(span, overflow, names, now);
        self.refusing = matches!(pushed, Pushed::Full(_)).then_some(sender);
        if !is_record {
            self.timed_is_pushed(sender, last, self.refusing.is_some());
        }
        match pushed {
            Pushed::Queued => {}
            // The client is slow, and its publishers wait: that is what they have chosen.
            Pushed::Full(_) if self.limit() >= self.bytes_max => {}
            _ => self.count_full(),
        }
        self.settle();
        pushed
    }

    /// Counts which limit leaves no more room.
    fn count_full(&self) {
        let is_scarce = self.limit() < self.bytes_max;
        self.account.count(if is_scarce { self.account.scarce() } else { Limit::QueueBytes });
    }

    fn push_span(&mut self, span: Span, overflow: Overflow, names: Introductions<'_>, now: Instant) -> Pushed {
        if !span.part.begins() {
            return self.push_fragment(span, overflow, now);
        }
        let (fits, rest) = self.cut_to_room(span);
        if let Some(span) = fits {
            self.append(span, overflow, names);
        }
        let Some(rest) = rest else { return Pushed::Queued };
        match overflow {
            Overflow::Block if !self.stall.notice(now) => Pushed::Full(rest),
            Overflow::Block | Overflow::DropNewest => self.drop_newest(&rest),
            Overflow::DropOldest | Overflow::Latest if !self.can_make_room(newest_frame_bytes(&rest)) => {
                self.drop_newest(&rest)
            }
            Overflow::DropOldest => self.drop_oldest(rest, overflow, names),
            Overflow::Latest => self.keep_latest(rest, overflow, names),
            Overflow::Disconnect => Pushed::Disconnect,
        }
    }

    /// Takes a control frame for the client.
    ///
    /// # Errors
    /// [`ANSWER_BYTES_MAX`] bytes of them wait already, or its user's account has no room: the client asks and never
    /// reads.
    pub fn push_control(&mut self, frame: Bytes) -> Result<(), ControlFull> {
        let bytes = self.control_bytes + frame.len();
        if bytes > ANSWER_BYTES_MAX {
            return Err(ControlFull);
        }
        if bytes > ANSWER_BYTES_KEPT && self.account.room() < frame.len() {
            self.account.count(self.account.scarce());
            return Err(ControlFull);
        }
        self.control_bytes = bytes;
        self.entries.push_back(Entry::Control(frame));
        self.settle();
        Ok(())
    }

    /// Takes what is written next: at least one frame, otherwise at most `bytes_max` bytes and the gaps between them.
    /// Returns the messages in it.
    ///
    /// What is taken still counts, and can no longer be dropped for something newer: `bytes_max` should be a small part
    /// of the queue's bound.
    pub fn take(&mut self, bytes_max: usize, batch: &mut Vec<Bytes>) -> u64 {
        let mut messages = 0;
        let mut taken = 0;
        while taken < bytes_max {
            let Some(entry) = self.entries.pop_front() else { break };
            if taken > 0 && taken + entry.bytes() > bytes_max {
                self.entries.push_front(entry);
                break;
            }
            let bytes = match entry {
                Entry::Messages { span, overflow } => {
                    let span = self.take_frames(span, overflow, bytes_max);
                    self.discount(span.bytes.len(), overflow);
                    self.timed_is_taken(&span, taken);
                    messages += span.messages();
                    span.bytes
                }
                Entry::Note(bytes) | Entry::Rest(bytes) => {
                    self.bytes -= bytes.len();
                    bytes
                }
                Entry::Control(frame) => {
                    self.control_bytes -= frame.len();
                    frame
                }
                Entry::Gap { topic, messages } => encode_control(&Control::Gap { topic, messages }),
            };
            taken += bytes.len();
            batch.push(bytes);
        }
        self.in_flight += taken;
        self.settle();
        messages
    }

    /// Of a span at the front, what fits; the rest goes back.
    fn take_frames(&mut self, span: Span, overflow: Overflow, bytes_max: usize) -> Span {
        let (fits, rest) = match span.cut(bytes_max) {
            (None, Some(whole)) => whole.cut_after(1),
            parts => parts,
        };
        match (fits, rest) {
            (Some(span), Some(rest)) => {
                self.entries.push_front(Entry::Messages { span: rest, overflow });
                span
            }
            (Some(span), None) | (None, Some(span)) => span,
            (None, None) => unreachable!("a span is never empty"),
        }
    }

    /// The client's pipe has taken so many bytes of what was taken from the queue.
    pub fn written(&mut self, bytes: usize, now: Instant) {
        self.in_flight -= bytes.min(self.in_flight);
        self.timed_is_written(bytes, now);
        self.refusing = None;
        self.stall.progress(self.is_idle(), now);
        self.settle();
    }

    /// The topic will not be seen again: tells the client, if it was told of the topic; returns whether it was.
    ///
    /// A message whose sender retracts its topic in the middle ends there. Replies go on: they are for a requester that
    /// need not keep the topic of its request.
    pub fn forget_topic(&mut self, topic: TopicId) -> bool {
        let ends = |message: &Unfinished| message.topic == topic && message.kind != Kind::Reply;
        let cut_short = self.unfinished.extract_if(.., |_, message| ends(message)).collect::<Vec<_>>();
        for (sender, message) in cut_short {
            self.withdraw(self.entries.len(), 0, sender, message.sequence);
        }
        let told = self.topics_told.remove(&topic);
        if told {
            self.push_note(encode_control(&Control::TopicGone { topic }));
        }
        self.settle();
        told
    }

    /// The sender has left: tells the client, if it was told of the sender; returns whether it was.
    pub fn forget_sender(&mut self, sender: InstanceId) -> bool {
        self.unfinished.remove(&sender);
        self.refusing.take_if(|waiting| *waiting == sender);
        self.timed_does_not_come(sender);
        let told = self.senders_told.remove(&sender);
        if told {
            self.push_note(encode_control(&Control::SenderGone { sender }));
        }
        self.settle();
        told
    }

    /// When a `block` subscriber that takes nothing from now on counts as stalled.
    pub fn stall_deadline(&self) -> Instant {
        self.stall.deadline()
    }

    /// Lets the stall time-out begin anew, for time in which the client could not have been served.
    pub fn forgive(&mut self, now: Instant) {
        self.stall.forgive(now);
    }

    /// Whether the instance has taken nothing for the stall time-out.
    pub fn stalled(&self) -> bool {
        self.stall.is_stalled()
    }

    /// Throws away all that waits, but for the rest of a frame that has begun. What is in flight still counts.
    pub fn clear(&mut self) {
        let begun = self.entries.pop_front().filter(|entry| matches!(entry, Entry::Rest(_)));
        self.entries.clear();
        self.bytes = begun.as_ref().map_or(0, Entry::bytes);
        self.entries.extend(begun);
        self.droppable_bytes = 0;
        self.control_bytes = 0;
        self.timed_is_cleared();
        self.settle();
    }

    /// The client is no more: nothing waits for it, and nothing is on its way.
    pub fn end(&mut self) {
        self.entries = VecDeque::new();
        (self.bytes, self.droppable_bytes, self.control_bytes, self.in_flight) = (0, 0, 0, 0);
        self.timed = None;
        self.settle();
    }

    /// Whether nothing waits to be taken.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Gives back the memory for what waited, if nothing does.
    pub fn shrink(&mut self) {
        if self.entries.is_empty() && self.entries.capacity() > 0 {
            self.entries = VecDeque::new();
        }
    }

    /// Its bound.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes that wait or are in flight.
    pub fn queued_bytes(&self) -> usize {
        self.bytes + self.control_bytes + self.in_flight
    }

    /// Messages dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn is_idle(&self) -> bool {
        self.bytes + self.in_flight == 0
    }

    /// The bound as it is now: its own, or what it has and what its user may have more.
    fn limit(&self) -> usize {
        // What has changed since the account was told counts as if it had been.
        let may_hold = (self.account.room() + self.charged).saturating_sub(self.control_bytes);
        self.bytes_max.min(may_hold)
    }

    /// Bytes that it has room for now. If nothing waits and nothing is in flight, it takes a whole frame whatever its size.
    pub fn room(&self) -> usize {
        self.limit().saturating_sub(self.bytes + self.in_flight)
    }

    /// Whether it takes a frame of any size: otherwise one that is larger than its bound would wait for ever.
    fn takes_any(&self) -> bool {
        self.is_idle() && self.limit() > 0
    }

    fn fits(&self, span: &Span) -> bool {
        span.bytes.len() <= self.room() || self.takes_any()
    }

    /// Tells the account what is held now.
    fn settle(&mut self) {
        let held = self.queued_bytes();
        if held != self.charged {
            self.account.charge_queued(self.charged, held);
            self.charged = held;
        }
    }

    /// What of the span fits now, and the rest. An idle queue takes at least one frame, so nothing waits for ever.
    fn cut_to_room(&self, span: Span) -> (Option<Span>, Option<Span>) {
        match span.cut(self.room()) {
            (None, Some(whole)) if self.takes_any() => whole.cut_after(1),
            parts => parts,
        }
    }

    fn append(&mut self, span: Span, overflow: Overflow, names: Introductions<'_>) {
        // Who gets a reply has asked about its topic.
        if span.kind != Kind::Reply && self.topics_told.insert(span.topic) {
            self.push_note(names.topic.clone());
        }
        if self.senders_told.insert(span.sender) {
            self.push_note(names.sender.clone());
        }
        if span.part == Part::First {
            let message = Unfinished { kind: span.kind, topic: span.topic, sequence: span.first };
            self.unfinished.insert(span.sender, message);
        }
        self.append_known(span, overflow);
    }

    fn append_known(&mut self, mut span: Span, overflow: Overflow) {
        // What waits behind others would keep all that was read together with it in memory.
        if span.bytes.len() < COMPACT_BYTES_MAX && !self.entries.is_empty() {
            span.bytes = Bytes::copy_from_slice(&span.bytes);
        }
        self.bytes += span.bytes.len();
        if may_be_dropped(overflow) {
            self.droppable_bytes += span.bytes.len();
        }
        self.entries.push_back(Entry::Messages { span, overflow });
    }

    /// So many bytes of messages wait no more.
    fn discount(&mut self, bytes: usize, overflow: Overflow) {
        self.bytes -= bytes;
        if may_be_dropped(overflow) {
            self.droppable_bytes -= bytes;
        }
    }

    fn push_note(&mut self, frame: Bytes) {
        self.insert_note(self.entries.len(), frame);
    }

    /// Takes room from messages and not from answers. Where no room is left, notes still come: each introduction comes
    /// with a message that fits, and for each there is at most one farewell.
    fn insert_note(&mut self, at: usize, frame: Bytes) {
        self.bytes += frame.len();
        self.entries.insert(at, Entry::Note(frame));
    }

    /// A fragment goes the way of its message's first.
    fn push_fragment(&mut self, span: Span, overflow: Overflow, now: Instant) -> Pushed {
        let before = self.dropped;
        if self.passes(&span) && !self.fits(&span) {
            match overflow {
                Overflow::Block if !self.stall.notice(now) => return Pushed::Full(span),
                Overflow::Disconnect => return Pushed::Disconnect,
                // What is oldest may be this very message.
                Overflow::DropOldest | Overflow::Latest if self.can_make_room(span.bytes.len()) => {
                    self.evict(span.bytes.len());
                }
                _ => {}
            }
        }
        if self.passes(&span) {
            if !self.fits(&span) {
                self.abandon(self.entries.len(), 0, &span);
            } else {
                if span.part == Part::Last {
                    self.unfinished.remove(&span.sender);
                }
                self.append_known(span, overflow);
            }
        }
        match self.dropped - before {
            0 => Pushed::Queued,
            messages => Pushed::Dropped { messages },
        }
    }

    /// Not if its message was dropped, nor if the instance subscribed in the middle of it: then nothing is lost.
    fn passes(&self, fragment: &Span) -> bool {
        self.unfinished.get(&fragment.sender).is_some_and(|message| message.sequence == fragment.first)
    }

    /// Drops a message of which fragments wait, none before entry `from`, or have been sent. The gap stands before
    /// entry `at`. Returns where that entry is now.
    fn abandon(&mut self, at: usize, from: usize, fragment: &Span) -> usize {
        let at = self.withdraw(at, from, fragment.sender, fragment.first);
        self.lose(at, fragment.topic, 1)
    }

    /// Takes out what waits of a message, from entry `from` to its end, lets nothing follow, and tells the client,
    /// before entry `at`, to forget what it got. Returns where that entry is now.
    fn withdraw(&mut self, at: usize, from: usize, sender: InstanceId, sequence: u64) -> usize {
        let mut first_waits = false;
        let mut last_waits = false;
        let mut at = at;
        let mut index = from;
        while index < self.entries.len() && !last_waits {
            match &self.entries[index] {
                Entry::Messages { span, overflow }
                    if span.part != Part::Whole && span.sender == sender && span.first == sequence =>
                {
                    first_waits |= span.part == Part::First;
                    last_waits = span.part == Part::Last;
                    let (bytes, overflow) = (span.bytes.len(), *overflow);
                    self.discount(bytes, overflow);
                    self.entries.remove(index);
                    at -= usize::from(index < at);
                }
                _ => index += 1,
            }
        }
        if self.unfinished.get(&sender).is_some_and(|message| message.sequence == sequence) {
            self.unfinished.remove(&sender);
        }
        self.timed_is_withdrawn(sender, sequence);
        if first_waits {
            return at;
        }
        self.insert_note(at, encode_control(&Control::Abort { sender }));
        at + 1
    }
}

impl Drop for Queue {
    /// What it held is held no more.
    fn drop(&mut self) {
        self.account.charge_queued(self.charged, 0);
    }
}

fn may_be_dropped(overflow: Overflow) -> bool {
    matches!(overflow, Overflow::DropOldest | Overflow::Latest)
}

fn newest_frame_bytes(span: &Span) -> usize {
    span.iter().last().map_or(0, |frame| frame.head.frame_bytes())
}

/// The client asks and never reads the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {ANSWER_BYTES_MAX} bytes of answers wait for the client")]
pub struct ControlFull;

#[cfg(test)]
mod tests;
