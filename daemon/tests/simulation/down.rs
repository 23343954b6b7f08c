//! Down: the way to one client, its queue and its pipe, and what the model says should come out of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use pipebus_proto::control::{Control, Overflow};
use pipebus_proto::frame::{Kind, Part};
use pipebus_proto::splitter::{Frame, Span, next_span};
use pipebus_proto::topic::{InstanceId, Topic, TopicId};
use pipebus_proto::wire::encode_control;
use pipebusd::core::account::Account;
use pipebusd::core::queue::{Introductions, Pushed, Queue};

use super::choices::Choices;
use super::reader::{Reader, abort_bytes};
use super::rules::STALL_TIMEOUT;
use super::timing::Timing;

/// Answers up to so many bytes are always taken.
const ANSWER_BYTES_KEPT: usize = 16 * 1024;

/// By sender and sequence number.
pub(super) type DueMap = BTreeMap<(InstanceId, u64), Due>;

pub(super) struct Down {
    pub(super) queue: Queue,
    bytes_max: usize,
    account: Arc<Account>,
    /// What the client has still to read, and how much there may be of it.
    pipe: BytesMut,
    pipe_bytes: usize,
    /// Taken by the writer, not yet written.
    flight: BytesMut,
    /// Somebody writes so much past the queue, so nobody else writes.
    direct: Option<usize>,
    /// Nothing more is taken.
    pub(super) is_closed: bool,
    /// It was thrown away what waited.
    is_cleared: bool,
    /// Since when nothing has been written although there was something.
    waits_since: Option<Instant>,
    pub(super) has_stalled: bool,
    /// Bytes of answers that were queued, ever.
    answer_bytes: usize,
    pub(super) due: DueMap,
    pub(super) reader: Reader,
    timing: Timing,
}

/// A message that should come and has not come, or not all of it.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) kind: Kind,
    pub(super) topic: TopicId,
    pub(super) name: Topic,
    pub(super) overflow: Overflow,
    pub(super) state: State,
    /// As far as they have been sent.
    pub(super) frames: Vec<Frame>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Begun,
    Complete,
    /// Its sender left, or its topic went, before it was complete.
    CutShort,
}

/// What became of a span.
#[derive(Debug)]
pub(super) enum Outcome {
    Done,
    /// So many messages were dropped, some of it or older ones.
    Dropped(u64),
    /// This has to wait.
    Waits(Span),
}

impl Down {
    pub(super) fn new(queue: Queue, account: Arc<Account>, pipe_bytes: usize) -> Down {
        Down {
            bytes_max: queue.bytes_max(),
            queue,
            account,
            pipe: BytesMut::new(),
            pipe_bytes,
            flight: BytesMut::new(),
            direct: None,
            is_closed: false,
            is_cleared: false,
            waits_since: None,
            has_stalled: false,
            answer_bytes: 0,
            due: BTreeMap::new(),
            reader: Reader::default(),
            timing: Timing::default(),
        }
    }

    /// Whether nothing waits for the client.
    pub(super) fn is_settled(&self) -> bool {
        self.queue.is_empty() && self.pipe.is_empty() && self.flight.is_empty()
    }

    /// What the account does not know of yet.
    pub(super) fn uncharged(&self) -> Option<usize> {
        self.direct
    }

    pub(super) fn answer(&mut self, control: &Control) {
        if self.is_closed {
            return;
        }
        let frame = encode_control(control);
        let bytes = frame.len();
        let waiting = self.answer_bytes - self.reader.answer_bytes;
        match self.queue.push_control(frame) {
            Ok(()) => self.answer_bytes += bytes,
            Err(_) => {
                assert!(waiting + bytes > ANSWER_BYTES_KEPT, "there is room kept for answers");
                self.kick();
            }
        }
    }

    /// It is sent away at once.
    fn kick(&mut self) {
        self.queue.clear();
        self.is_cleared = true;
        self.is_closed = true;
    }

    /// What waited is gone: nothing is known of what comes, but that it is whole frames. Returns whether that is so.
    pub(super) fn can_end(&self) -> bool {
        self.direct.is_none()
    }

    pub(super) fn cut_short(&mut self, ends: impl Fn(InstanceId, &Due) -> bool) {
        for ((sender, _), due) in &mut self.due {
            if due.state == State::Begun && ends(*sender, due) {
                due.state = State::CutShort;
            }
        }
    }

    /// A span is about to come, by one way or another.
    pub(super) fn time(&mut self, span: &Span, now: Instant) {
        self.timing.begin(&mut self.queue, span, now);
    }

    /// Whether a publisher may write past the queue, which is then being done.
    pub(super) fn begin_direct(&mut self, span: &Span) -> bool {
        let bytes = span.bytes.len();
        let may = self.direct.is_none() && self.flight.is_empty() && self.queue.begin_direct(span, bytes);
        if may {
            self.direct = Some(bytes);
        }
        may
    }

    /// Whether nothing waits, and nobody writes.
    pub(super) fn is_free(&self) -> bool {
        self.direct.is_none() && self.flight.is_empty() && self.queue.is_empty()
    }

    /// Writes a span at once, past the queue, or pushes it, or both.
    pub(super) fn push_past(
        &mut self,
        span: Span,
        overflow: Overflow,
        names: Introductions<'_>,
        choices: &mut Choices,
        now: Instant,
    ) {
        let direct = choices.happens(200) && self.begin_direct(&span);
        let rest = if direct { self.end_direct(span, choices, now) } else { Some(span) };
        if let Some(span) = rest {
            let outcome = self.push(span, overflow, names, false, now);
            assert!(!matches!(outcome, Outcome::Waits(_)), "nobody waits for a monitor");
        }
    }

    /// The pipe takes what it can, or less. Returns what is to be pushed.
    pub(super) fn end_direct(&mut self, span: Span, choices: &mut Choices, now: Instant) -> Option<Span> {
        let bytes = self.direct.take().unwrap();
        assert_eq!(bytes, span.bytes.len());
        let room = self.pipe_bytes.saturating_sub(self.pipe.len()).min(bytes);
        let written = if choices.happens(128) { room } else { choices.at_the_edge(room + 1) };
        self.pipe.extend_from_slice(&span.bytes[..written]);
        if written == 0 {
            self.queue.end_direct(&span, bytes, 0, Bytes::new(), now);
            return Some(span);
        }
        let (of_frame, behind) = span.clone().rest_from(written);
        self.queue.end_direct(&span, bytes, written, of_frame, now);
        self.timing.check_written(&self.queue, &span.bytes[..written], now);
        self.complete(&span);
        self.waits_since = (!self.queue.is_empty()).then_some(now);
        behind
    }

    /// Whatever ends with this span will come.
    fn complete(&mut self, span: &Span) {
        let due = self.due.get_mut(&(span.sender, span.first));
        if let Some(due) = due.filter(|due| due.state == State::Begun && span.part == Part::Last) {
            due.state = State::Complete;
        }
    }

    /// Pushes a span; `others_wait` if some of it has waited, or somebody else waits.
    pub(super) fn push(
        &mut self,
        span: Span,
        overflow: Overflow,
        names: Introductions<'_>,
        others_wait: bool,
        now: Instant,
    ) -> Outcome {
        // Once it has stalled, it is so until something is written to it.
        let was_stalled = self.queue.stalled();
        let anew = self.queue.queued_bytes() == 0 && !others_wait && !was_stalled;
        if self.waits_since.is_none() || anew {
            self.waits_since = Some(now);
        }
        let waits_since = self.waits_since.unwrap();
        let end = span.clone();
        let before = (self.queue.queued_bytes(), self.account.queued(), self.account.room());
        let pushed = self.queue.push(span, overflow, names, now);
        self.check_bounds(&end, names, before);
        if self.queue.stalled() {
            self.has_stalled = true;
            assert!(was_stalled || now >= waits_since + STALL_TIMEOUT, "called stalled too early");
        }
        match pushed {
            Pushed::Full(rest) => {
                assert_eq!(overflow, Overflow::Block);
                return Outcome::Waits(rest);
            }
            Pushed::Disconnect => {
                assert_eq!(overflow, Overflow::Disconnect);
                self.kick();
            }
            Pushed::Dropped { messages } => {
                assert!(messages > 0);
                self.complete(&end);
                return Outcome::Dropped(messages);
            }
            Pushed::Queued => {}
        }
        self.complete(&end);
        Outcome::Done
    }

    /// What is pushed fits, but for the names it bears; and a message that is dropped costs an Abort at most.
    fn check_bounds(&self, span: &Span, names: Introductions<'_>, before: (usize, usize, usize)) {
        let (queued, of_user, room) = before;
        let largest = span.iter().map(|frame| frame.head.frame_bytes()).max().unwrap();
        let names = names.topic.len() + names.sender.len();
        let after = self.queue.queued_bytes();
        let answers = self.answer_bytes - self.reader.answer_bytes;
        let bound = self.bytes_max.max(largest) + names + answers;
        let most = bound.max(queued + abort_bytes());
        assert!(after <= most, "{after} bytes are queued, more than {bound}, after {queued}");
        let after = self.account.queued();
        // What is written past the queue is charged late.
        let late = self.direct.unwrap_or(0);
        let most = (of_user + abort_bytes()).max(of_user + room + largest + names) + late;
        assert!(after <= most, "{after} bytes are queued for a user, after {of_user} with room for {room}");
        let grows_without_room = room == 0 && after > of_user + abort_bytes() + late;
        assert!(!grows_without_room || queued > 0, "it grows from {of_user} to {after}, without room");
    }

    /// As the writer does: what was taken is written before more is taken.
    pub(super) fn write(&mut self, take_max: usize, bytes: usize, now: Instant) {
        if self.direct.is_some() {
            return;
        }
        if self.flight.is_empty() {
            let mut batch = Vec::new();
            self.queue.take(take_max, &mut batch);
            self.flight.extend_from_slice(&batch.concat());
        }
        let room = self.pipe_bytes.saturating_sub(self.pipe.len());
        let written = self.flight.split_to(bytes.min(room).min(self.flight.len()));
        if written.is_empty() {
            return;
        }
        self.pipe.extend_from_slice(&written);
        self.queue.written(written.len(), now);
        self.timing.check_written(&self.queue, &written, now);
        self.waits_since = self.waits_since.map(|_| now);
        if self.queue.is_empty() && self.flight.is_empty() {
            assert_eq!(self.queue.queued_bytes(), 0);
            self.waits_since = None;
        }
    }

    /// Everything is written and read, as if the pipe had room for all.
    pub(super) fn drain(&mut self, now: Instant) {
        self.pipe_bytes = usize::MAX;
        self.write(usize::MAX, usize::MAX, now);
        self.read(usize::MAX);
    }

    pub(super) fn forgive(&mut self, now: Instant) {
        self.queue.forgive(now);
        self.waits_since = self.waits_since.map(|_| now);
    }

    pub(super) fn read(&mut self, bytes: usize) {
        let read = self.pipe.split_to(bytes.min(self.pipe.len()));
        self.reader.buffer.extend_from_slice(&read);
        if !self.is_cleared {
            self.reader.read(&mut self.due);
        }
    }

    /// A farewell comes next, so what comes before must end with a frame; the names in it may have been thrown away.
    pub(super) fn check_farewell(&mut self) {
        let mut batch = Vec::new();
        self.queue.take(usize::MAX, &mut batch);
        let mut stream = std::mem::take(&mut self.reader.buffer);
        for bytes in [&self.pipe[..], &self.flight[..], &batch.concat()[..]] {
            stream.extend_from_slice(bytes);
        }
        while next_span(&mut stream).unwrap().is_some() {}
        assert!(stream.is_empty(), "it is left in the middle of a frame");
    }

    /// What was sent was delivered or is in a gap, and who loses nothing has lost nothing.
    pub(super) fn check_losses(&self, id: u32) {
        self.timing.check_settled(&self.queue);
        let all = || self.due.values();
        let count = |topic: Option<TopicId>, states: &[State]| {
            all().filter(|due| states.contains(&due.state) && topic.is_none_or(|topic| topic == due.topic)).count()
                as u64
        };
        let gaps: u64 = self.reader.gaps.values().sum();
        assert_eq!(gaps, self.queue.dropped(), "client {id}");
        let records = self.reader.told.lost(None);
        let lost = records + count(None, &[State::Complete]);
        // Of a message that its sender never ended, a gap may have told before.
        let any = [State::Complete, State::CutShort, State::Begun];
        let most = records + count(None, &any);
        assert!((lost..=most).contains(&gaps), "client {id} lost {lost} and was told of {gaps}: {:?}", self.due);
        for (topic, gap) in self.reader.gaps.iter().filter(|(topic, _)| topic.0 != 0) {
            let most = self.reader.told.lost(Some(*topic)) + count(Some(*topic), &any);
            assert!(*gap <= most, "client {id} was told of {gap} lost on {topic:?}");
        }
        for due in all().filter(|due| due.state == State::Complete) {
            match due.overflow {
                Overflow::DropOldest | Overflow::DropNewest | Overflow::Latest => {}
                Overflow::Block => {
                    assert!(self.has_stalled, "client {id} blocks, did not stall, and lost {due:?}");
                }
                Overflow::Disconnect => panic!("client {id} lost {due:?} and is still connected"),
            }
        }
    }
}
