//! Queue: what waits for one instance; its bound, and what happens when it is full.
//!
//! Not who waits for room: the queue hands back what does not fit, and the shell waits. Nothing is lost by
//! forgetting: what is dropped stands as a gap where it would have been.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pipebus_proto::control::{Control, Overflow};
use pipebus_proto::frame::{Kind, Part};
use pipebus_proto::splitter::Span;
use pipebus_proto::topic::{InstanceId, TopicId};
use pipebus_proto::wire::encode_control;

/// Bytes of control frames that may wait, beside the messages: answers to what the client asked.
pub const CONTROL_BYTES_MAX: usize = 256 * 1024;

/// Gaps on different topics that may stand side by side before they become one on several topics.
const GAPS_SIDE_BY_SIDE_MAX: usize = 16;

/// What waits for one instance, in the order in which it is written.
#[derive(Debug)]
pub struct Queue {
    entries: VecDeque<Entry>,
    /// Bytes of messages and introductions in `entries`.
    bytes: usize,
    bytes_max: usize,
    /// Bytes of control frames in `entries`.
    control_bytes: usize,
    /// Bytes taken by the writer and not yet written.
    in_flight: usize,
    /// Topics and senders that the client has been told the names of.
    topics_told: HashSet<TopicId>,
    senders_told: HashSet<InstanceId>,
    /// Of each sender whose message has begun and not ended: what becomes of its fragments.
    unfinished: HashMap<InstanceId, Unfinished>,
    progress: Progress,
    dropped: u64,
}

#[derive(Debug)]
enum Entry {
    Messages { span: Span, overflow: Overflow },
    Introduction(Bytes),
    Control(Bytes),
    Gap { topic: TopicId, messages: u64 },
}

#[derive(Clone, Copy, Debug)]
struct Unfinished {
    sequence: u64,
    /// Fragments pass, rather than being dropped with their message.
    passes: bool,
}

/// When the instance last took something.
#[derive(Debug)]
struct Progress {
    last: Instant,
    stall_timeout: Duration,
    stalled: bool,
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
    pub fn new(bytes_max: usize, stall_timeout: Duration, now: Instant) -> Queue {
        Queue {
            entries: VecDeque::new(),
            bytes: 0,
            bytes_max,
            control_bytes: 0,
            in_flight: 0,
            topics_told: HashSet::new(),
            senders_told: HashSet::new(),
            unfinished: HashMap::new(),
            progress: Progress { last: now, stall_timeout, stalled: false },
            dropped: 0,
        }
    }

    /// Takes a span, or as much of it as its overflow policy lets it.
    pub fn push(&mut self, span: Span, overflow: Overflow, names: Introductions<'_>, now: Instant) -> Pushed {
        if !span.part.begins() {
            return self.push_fragment(span, overflow, now);
        }
        if self.is_idle() {
            self.progress.last = now;
        }
        let (fits, rest) = self.cut_to_room(span);
        if let Some(span) = fits {
            self.append(span, overflow, names);
        }
        let Some(rest) = rest else { return Pushed::Queued };
        match overflow {
            Overflow::Block if !self.is_stalled(now) => Pushed::Full(rest),
            Overflow::Block | Overflow::DropNewest => self.drop_newest(&rest),
            Overflow::DropOldest => self.drop_oldest(rest, overflow, names),
            Overflow::Latest => self.keep_latest(rest, overflow, names),
            Overflow::Disconnect => Pushed::Disconnect,
        }
    }

    /// Takes a control frame for the client.
    ///
    /// # Errors
    /// [`CONTROL_BYTES_MAX`] bytes of them wait already: the client asks and never reads.
    pub fn push_control(&mut self, frame: Bytes) -> Result<(), ControlFull> {
        if self.control_bytes + frame.len() > CONTROL_BYTES_MAX {
            return Err(ControlFull);
        }
        self.control_bytes += frame.len();
        self.entries.push_back(Entry::Control(frame));
        Ok(())
    }

    /// Takes what is written next, at least one entry and about `bytes_max` bytes. Returns the messages in it.
    pub fn take(&mut self, bytes_max: usize, batch: &mut Vec<Bytes>) -> u64 {
        let mut messages = 0;
        let mut taken = 0;
        while taken < bytes_max {
            let Some(entry) = self.entries.pop_front() else { break };
            let bytes = match entry {
                Entry::Messages { span, .. } => {
                    self.bytes -= span.bytes.len();
                    messages += span.messages();
                    span.bytes
                }
                Entry::Introduction(frame) => {
                    self.bytes -= frame.len();
                    frame
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
        messages
    }

    /// The client's pipe has taken so many bytes of what was taken from the queue.
    pub fn written(&mut self, bytes: usize, now: Instant) {
        self.in_flight -= bytes.min(self.in_flight);
        self.progress.last = now;
        self.progress.stalled = false;
    }

    /// The topic will not be seen again: tells the client, if it was told of the topic.
    pub fn forget_topic(&mut self, topic: TopicId) {
        if self.topics_told.remove(&topic) {
            self.push_farewell(&Control::TopicGone { topic });
        }
    }

    /// The sender has left: tells the client, if it was told of the sender.
    pub fn forget_sender(&mut self, sender: InstanceId) {
        self.unfinished.remove(&sender);
        if self.senders_told.remove(&sender) {
            self.push_farewell(&Control::SenderGone { sender });
        }
    }

    /// When a `block` subscriber that takes nothing from now on counts as stalled.
    pub fn stall_deadline(&self) -> Instant {
        self.progress.last + self.progress.stall_timeout
    }

    /// Lets the stall time-out begin anew, for time in which the client could not have been served.
    pub fn forgive(&mut self, now: Instant) {
        self.progress.last = now;
    }

    /// Whether the instance has taken nothing for the stall time-out.
    pub fn stalled(&self) -> bool {
        self.progress.stalled
    }

    /// Throws away all that waits. What is in flight still counts.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
        self.control_bytes = 0;
    }

    /// Whether nothing waits to be taken.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
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

    fn room(&self) -> usize {
        self.bytes_max.saturating_sub(self.bytes + self.in_flight)
    }

    /// What of the span fits now, and the rest. An idle queue takes at least one frame, so nothing waits for ever.
    fn cut_to_room(&self, span: Span) -> (Option<Span>, Option<Span>) {
        match span.cut(self.room()) {
            (None, Some(whole)) if self.is_idle() => whole.cut_after(1),
            parts => parts,
        }
    }

    fn append(&mut self, span: Span, overflow: Overflow, names: Introductions<'_>) {
        // Who gets a reply has asked about its topic.
        if span.kind != Kind::Reply && self.topics_told.insert(span.topic) {
            self.introduce(names.topic);
        }
        if self.senders_told.insert(span.sender) {
            self.introduce(names.sender);
        }
        if span.part == Part::First {
            self.unfinished.insert(span.sender, Unfinished { sequence: span.first, passes: true });
        }
        self.append_known(span, overflow);
    }

    fn append_known(&mut self, span: Span, overflow: Overflow) {
        self.bytes += span.bytes.len();
        self.entries.push_back(Entry::Messages { span, overflow });
    }

    fn introduce(&mut self, frame: &Bytes) {
        self.bytes += frame.len();
        self.entries.push_back(Entry::Introduction(frame.clone()));
    }

    /// Not bounded by [`CONTROL_BYTES_MAX`]: there is at most one for each introduction, and those are.
    fn push_farewell(&mut self, control: &Control) {
        let frame = encode_control(control);
        self.control_bytes += frame.len();
        self.entries.push_back(Entry::Control(frame));
    }

    /// Notices a stall, besides answering.
    fn is_stalled(&mut self, now: Instant) -> bool {
        if now >= self.stall_deadline() {
            self.progress.stalled = true;
        }
        self.progress.stalled
    }

    /// A fragment goes the way of its message's first.
    fn push_fragment(&mut self, span: Span, overflow: Overflow, now: Instant) -> Pushed {
        let unfinished = self.unfinished.get(&span.sender).copied();
        // An instance that subscribed in the middle of a message never saw it begin: it loses nothing.
        let Some(message) = unfinished.filter(|message| message.sequence == span.first) else {
            return Pushed::Queued;
        };
        let fits = span.bytes.len() <= self.room() || self.is_idle();
        if message.passes && !fits {
            match overflow {
                Overflow::Block if !self.is_stalled(now) => return Pushed::Full(span),
                Overflow::Disconnect => return Pushed::Disconnect,
                _ => {}
            }
        }
        if span.part == Part::Last {
            self.unfinished.remove(&span.sender);
        }
        if !message.passes {
            return Pushed::Queued;
        }
        if fits {
            if self.is_idle() {
                self.progress.last = now;
            }
            self.append_known(span, overflow);
            return Pushed::Queued;
        }
        let at = self.entries.len();
        self.abandon(at, &span);
        Pushed::Dropped { messages: 1 }
    }

    /// Drops a message of which fragments wait or have been sent: what waits goes, what follows will, and the client
    /// is told to forget what it has. The gap stands before entry `at`.
    fn abandon(&mut self, at: usize, fragment: &Span) {
        let mut first_waits = false;
        let mut at = at;
        let mut index = 0;
        while index < self.entries.len() {
            match &self.entries[index] {
                Entry::Messages { span, .. }
                    if span.part != Part::Whole
                        && span.sender == fragment.sender
                        && span.first == fragment.first =>
                {
                    first_waits |= span.part == Part::First;
                    self.bytes -= span.bytes.len();
                    self.entries.remove(index);
                    at -= usize::from(index < at);
                }
                _ => index += 1,
            }
        }
        if let Some(message) = self.unfinished.get_mut(&fragment.sender)
            && message.sequence == fragment.first
        {
            message.passes = false;
        }
        if !first_waits {
            let frame = encode_control(&Control::Abort { sender: fragment.sender });
            self.control_bytes += frame.len();
            self.entries.insert(at, Entry::Control(frame));
            at += 1;
        }
        self.lose(at, fragment.topic, 1);
    }

    fn drop_newest(&mut self, rest: &Span) -> Pushed {
        if rest.part == Part::First {
            self.unfinished.insert(rest.sender, Unfinished { sequence: rest.first, passes: false });
        }
        let messages = rest.messages();
        self.lose(self.entries.len(), rest.topic, messages);
        Pushed::Dropped { messages }
    }

    fn drop_oldest(&mut self, rest: Span, overflow: Overflow, names: Introductions<'_>) -> Pushed {
        let before = self.dropped;
        let wanted = rest.bytes.len().min(self.bytes_max);
        self.evict(wanted);
        let topic = rest.topic;
        let fallback = rest.clone();
        let (newest, skipped) = rest.newest(self.room());
        if let Some(span) = newest {
            if skipped > 0 {
                self.lose(self.entries.len(), topic, u64::from(skipped));
            }
            self.append(span, overflow, names);
        } else {
            let _ = self.drop_newest(&fallback);
        }
        Pushed::Dropped { messages: self.dropped - before }
    }

    fn keep_latest(&mut self, rest: Span, overflow: Overflow, names: Introductions<'_>) -> Pushed {
        let before = self.dropped;
        let topic = rest.topic;
        let mut index = 0;
        while index < self.entries.len() {
            match &self.entries[index] {
                Entry::Messages { span, overflow: Overflow::Latest }
                    if span.topic == topic && span.part == Part::Whole =>
                {
                    let (bytes, messages) = (span.bytes.len(), span.messages());
                    self.bytes -= bytes;
                    self.entries.remove(index);
                    self.lose(index, topic, messages);
                    // The gap stands where the span was, or was added to one before.
                }
                _ => index += 1,
            }
        }
        let frames = rest.frames;
        let (older, newest) = rest.cut_after(frames - 1);
        if let Some(older) = older
            && newest.is_some()
        {
            self.lose(self.entries.len(), topic, older.messages());
        }
        if let Some(newest) = newest {
            let (fits, rest) = self.cut_to_room(newest);
            if let Some(span) = fits {
                self.append(span, overflow, names);
            }
            if let Some(rest) = rest {
                let _ = self.drop_oldest(rest, overflow, names);
            }
        }
        Pushed::Dropped { messages: self.dropped - before }
    }

    /// Drops the oldest messages that may be dropped, until there is room for `wanted` bytes or none are left.
    fn evict(&mut self, wanted: usize) {
        let mut index = 0;
        while self.room() < wanted && index < self.entries.len() {
            let lacking = wanted - self.room();
            let Entry::Messages { span, overflow: Overflow::DropOldest | Overflow::Latest } =
                &self.entries[index]
            else {
                index += 1;
                continue;
            };
            if span.part != Part::Whole {
                let fragment = span.clone();
                self.abandon(index, &fragment);
                continue;
            }
            let (topic, old_bytes) = (span.topic, span.bytes.len());
            let (kept, dropped) = span.clone().newest(old_bytes.saturating_sub(lacking));
            self.bytes -= old_bytes - kept.as_ref().map_or(0, |span| span.bytes.len());
            match (kept, &mut self.entries[index]) {
                (Some(kept), Entry::Messages { span, .. }) => *span = kept,
                _ => {
                    self.entries.remove(index);
                }
            }
            index = self.lose(index, topic, u64::from(dropped));
        }
    }

    /// Puts a gap before entry `at`, or adds to one that stands there. Returns where the entry after it is now.
    fn lose(&mut self, at: usize, topic: TopicId, messages: u64) -> usize {
        self.dropped += messages;
        let is_gap = |entry: Option<&Entry>| matches!(entry, Some(Entry::Gap { .. }));
        let mut start = at;
        while start > 0 && is_gap(self.entries.get(start - 1)) {
            start -= 1;
        }
        let mut end = at;
        while is_gap(self.entries.get(end)) {
            end += 1;
        }
        for entry in self.entries.range_mut(start..end) {
            if let Entry::Gap { topic: known, messages: count } = entry
                && (*known == topic || known.0 == 0)
            {
                *count += messages;
                return end;
            }
        }
        if end - start < GAPS_SIDE_BY_SIDE_MAX {
            self.entries.insert(end, Entry::Gap { topic, messages });
            return end + 1;
        }
        let removed = self.entries.drain(start..end);
        let sum = removed.map(|entry| if let Entry::Gap { messages, .. } = entry { messages } else { 0 }).sum::<u64>();
        self.entries.insert(start, Entry::Gap { topic: TopicId(0), messages: sum + messages });
        start + 1
    }
}

/// The client asks and never reads the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {CONTROL_BYTES_MAX} bytes of answers wait for the client")]
pub struct ControlFull;
