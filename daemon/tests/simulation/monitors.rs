//! Monitors: what each is to be told of what passes, frame by frame, and telling it as the broker does.

use std::collections::VecDeque;

use bytes::Bytes;
use pipebus_proto::control::{Control, Identity, Overflow};
use pipebus_proto::frame::{Flags, HEAD_BYTES, Head, Kind};
use pipebus_proto::record::{CAPTURE_BYTES_MAX, Kinds, RecordHead, Watch};
use pipebus_proto::splitter::{Frame, Span};
use pipebus_proto::topic::{InstanceId, TopicId};
use pipebus_proto::wire::encode_control;
use pipebusd::core::queue::Introductions;
use pipebusd::core::records::Passage;
use pipebusd::core::routes::{Route, Watcher};

use super::choices::Choices;
use super::world::World;

/// Records that should come, in this order, unless they are lost.
#[derive(Default)]
pub(super) struct Told {
    due: VecDeque<Frame>,
    /// On which topics some were lost.
    lost: Vec<TopicId>,
}

impl Told {
    /// A record has come: those before it will not.
    pub(super) fn take(&mut self, record: &Frame) {
        let at =
            self.due.iter().position(|due| due == record).expect("nobody is told what has not passed, or of it twice");
        self.lost.extend(self.due.drain(..at).map(|lost| lost.head.topic));
        self.due.pop_front();
    }

    /// How many were lost, on one topic or on all, if none are on their way.
    pub(super) fn lost(&self, topic: Option<TopicId>) -> u64 {
        let lost = self.lost.iter().copied().chain(self.due.iter().map(|due| due.head.topic));
        lost.filter(|lost| topic.is_none_or(|topic| topic == *lost)).count() as u64
    }
}

/// Mostly all is wanted.
pub(super) fn watch(choices: &mut Choices) -> Watch {
    let messages = Kinds::NONE.with(Kind::Message);
    Watch {
        capture_bytes: choices.one_of(&[u32::MAX, 0, 3, 40]),
        sender: choices.one_of(&[None, None, None, Some(InstanceId(1)), Some(InstanceId(0))]),
        bytes_min: choices.one_of(&[0, 0, 0, 20]),
        bytes_max: choices.one_of(&[u32::MAX, u32::MAX, u32::MAX, 100]),
        kinds: choices.one_of(&[Kinds::ALL, Kinds::ALL, messages, messages.with(Kind::Reply)]),
    }
}

/// The definition, to hold the real one against.
fn wants(watch: &Watch, head: &Head) -> bool {
    let kinds = [Kind::Control, Kind::Message, Kind::Request, Kind::Reply];
    let is_wanted = kinds.iter().any(|kind| *kind == head.kind && watch.kinds.0 & 1 << (*kind as u8) != 0);
    is_wanted
        && (watch.sender.is_none() || watch.sender == Some(head.sender))
        && head.body >= watch.bytes_min
        && head.body <= watch.bytes_max
}

/// Of each frame: how many wait for room for it, and how many messages were dropped with it.
fn counts(frames: &[Frame], passage: &Passage) -> Vec<(u32, u32)> {
    let mut counts = vec![(0, 0); frames.len()];
    for first in &passage.waiting {
        let waits = |frame: &Frame| frame.head.sequence >= *first;
        counts.iter_mut().zip(frames).filter(|(_, frame)| waits(frame)).for_each(|(count, _)| count.0 += 1);
    }
    for dropped in &passage.dropped {
        for number in 0..*dropped as usize {
            let last = frames.len() - 1;
            counts[if number < frames.len() { last - number } else { last }].1 += 1;
        }
    }
    counts
}

/// What is to be told of a frame.
fn record(watch: &Watch, frame: &Frame, passage: &Passage, (waiting, dropped): (u32, u32)) -> Frame {
    let Head { body, kind, flags, metadata, topic, sender, sequence } = frame.head;
    let captured = (watch.capture_bytes as usize).min(CAPTURE_BYTES_MAX).min(frame.body.len());
    let subscribers = passage.subscribers as u32;
    let record =
        RecordHead { time: passage.time, body, kind, flags, metadata, subscribers, waiting, dropped, to: passage.to };
    let bytes = Bytes::from([&record.encode()[..], &frame.body[..captured]].concat());
    let body = bytes.len() as u32;
    let head = Head { body, kind: Kind::Record, flags: Flags::NONE, metadata: 0, topic, sender, sequence };
    Frame { head, body: bytes }
}

impl World {
    /// A passage that begins now.
    pub(super) fn passage(&self, subscribers: usize, to: u32) -> Passage {
        let time = self.clients.len() as u64;
        let (waiting, dropped) = (Vec::new(), Vec::new());
        Passage { time, subscribers, to: InstanceId(to), looked_at: usize::MAX, waiting, dropped }
    }

    /// Tells those who watch the topic of a request or a reply, if it is still there.
    pub(super) fn tell_of_call(&mut self, id: u32, span: &Span, passage: &Passage, choices: &mut Choices) {
        if let Some(route) = self.routes.get(span.topic).cloned() {
            self.tell_of(id, &route, span, passage, choices);
        }
    }

    /// Tells those who watch of what a client has sent.
    pub(super) fn tell_of(
        &mut self,
        id: u32,
        route: &Route<u32>,
        span: &Span,
        passage: &Passage,
        choices: &mut Choices,
    ) {
        let Some(introduction) = self.clients.get(&id).map(|client| client.introduction.clone()) else { return };
        let frames: Vec<Frame> = span.iter().collect();
        self.tell_watchers(route, &introduction, &frames, passage, choices);
    }

    /// Tells those who watch control frames what a client says, or the broker to a client.
    pub(super) fn tell_of_control(&mut self, from: u32, to: u32, body: &[u8]) {
        let Some(route) = self.routes.get(self.control).cloned() else { return };
        let sender = InstanceId(from);
        let of_broker = Control::SenderInfo { sender, identity: Identity::Unix { uid: 0 }, name: "broker".to_owned() };
        let of_client = self.clients.get(&from).map(|client| client.introduction.clone());
        let introduction = of_client.unwrap_or_else(|| encode_control(&of_broker));
        let (kind, flags, topic) = (Kind::Control, Flags::NONE, self.control);
        let head = Head { body: body.len() as u32, kind, flags, metadata: 0, topic, sender, sequence: 0 };
        let frame = Frame { head, body: Bytes::copy_from_slice(body) };
        let passage = self.passage(usize::from(from == 0), to);
        self.tell_watchers(&route, &introduction, &[frame], &passage, &mut Choices::none());
    }

    /// The same for what the broker says.
    pub(super) fn tell_of_answer(&mut self, to: u32, control: &Control) {
        self.tell_of_control(0, to, &encode_control(control)[HEAD_BYTES..]);
    }

    fn tell_watchers(
        &mut self,
        route: &Route<u32>,
        sender: &Bytes,
        frames: &[Frame],
        passage: &Passage,
        choices: &mut Choices,
    ) {
        let counts = counts(frames, passage);
        let topic = frames[0].head.topic;
        for Watcher { to, watch, overflow, .. } in &route.watchers {
            let room = self.room_for_records(*to, *overflow);
            let now = self.now;
            let Some(client) = self.clients.get_mut(to).filter(|client| !client.down.is_closed) else { continue };
            let wanted = frames.iter().zip(&counts).filter(|(frame, _)| wants(watch, &frame.head));
            let records: Vec<Frame> = wanted.map(|(frame, counts)| record(watch, frame, passage, *counts)).collect();
            let made = passage.records(watch, frames.iter().map(|frame| (frame.head, &frame.body[..])), room);
            let frames_made = made.span.iter().flat_map(Span::iter).collect::<Vec<_>>();
            assert_eq!(
                (&frames_made[..], made.lost),
                (&records[..frames_made.len()], (records.len() - frames_made.len()) as u64)
            );
            client.down.reader.told.due.extend(records);
            let names = Introductions { topic: &route.introduction, sender };
            if let Some(span) = made.span {
                client.down.push_past(span, *overflow, names, choices, now);
            }
            if made.lost > 0 {
                client.down.queue.drop_unmade(topic, made.lost);
            }
            if self.routes.get(topic).is_none() {
                self.client(*to).down.queue.forget_topic(topic);
            }
        }
    }

    fn room_for_records(&self, to: u32, overflow: Overflow) -> usize {
        if self.clients.values().any(|client| client.waits_for(to)) {
            return 0;
        }
        match self.clients.get(&to) {
            Some(client) if overflow == Overflow::DropNewest && !client.down.is_free() => client.down.queue.room(),
            _ => usize::MAX,
        }
    }
}
