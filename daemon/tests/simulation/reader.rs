//! Reader: what a client knows from what it has read, and what it may not read.

use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;
use pipebus_proto::control::Control;
use pipebus_proto::frame::{Call, Head, Kind, Part};
use pipebus_proto::splitter::{Frame, next_span};
use pipebus_proto::topic::{InstanceId, TopicId};
use pipebus_proto::wire::{decode_control, decode_metadata, encode_control};

use super::down::{DueMap, State};
use super::monitors::Told;

#[derive(Default)]
pub(super) struct Reader {
    pub(super) buffer: BytesMut,
    pub(super) topics: BTreeMap<TopicId, String>,
    pub(super) senders: BTreeSet<InstanceId>,
    /// Of each sender: the last sequence number.
    last: BTreeMap<InstanceId, u64>,
    pub(super) unfinished: BTreeMap<InstanceId, Unfinished>,
    pub(super) gaps: BTreeMap<TopicId, u64>,
    /// Bytes of answers that have come.
    pub(super) answer_bytes: usize,
    /// Requests that have come and are to be answered.
    pub(super) requests: Vec<(Call, TopicId)>,
    /// What it is to be told as a monitor.
    pub(super) told: Told,
    /// How often each request has been answered, by somebody or by the broker.
    pub(super) answers: BTreeMap<u64, u32>,
}

/// A message of which the end is still to come.
pub(super) struct Unfinished {
    pub(super) kind: Kind,
    pub(super) topic: TopicId,
    pub(super) sequence: u64,
    /// How many fragments have come.
    fragments: usize,
    call: Option<Call>,
}

impl Reader {
    /// Reads all whole frames; each message has to be one that is due.
    pub(super) fn read(&mut self, due: &mut DueMap) {
        while let Some(span) = next_span(&mut self.buffer).unwrap() {
            for frame in span.iter() {
                self.handle(&frame, due);
            }
        }
    }

    fn handle(&mut self, frame: &Frame, due: &mut DueMap) {
        if frame.head.kind == Kind::Control {
            return self.handle_control(frame);
        }
        if frame.head.kind == Kind::Record {
            let Head { topic, sender, .. } = frame.head;
            assert!(self.topics.contains_key(&topic) && self.senders.contains(&sender), "not announced");
            return self.told.take(frame);
        }
        let message = (frame.head.sender, frame.head.sequence);
        let expected = due.get(&message).expect("nobody gets what it should not");
        if frame.head.kind != Kind::Reply {
            assert_eq!(self.topics.get(&frame.head.topic).map(String::as_str), Some(expected.name.as_str()));
        }
        let index = self.index(frame);
        assert_eq!(expected.frames.get(index), Some(frame), "a message comes as it was sent");
        if self.end(frame) {
            let got = due.remove(&message).unwrap();
            assert_eq!(got.state, State::Complete);
        }
    }

    fn handle_control(&mut self, frame: &Frame) {
        match decode_control(&frame.body).unwrap() {
            Control::RequestFailed { correlation, .. } => {
                self.answer_bytes += frame.head.frame_bytes();
                *self.answers.entry(correlation).or_default() += 1;
            }
            Control::Declared { .. }
            | Control::Subscribed { .. }
            | Control::Unsubscribed { .. }
            | Control::Refused { .. }
            | Control::Revoked { .. }
            | Control::Pong { .. } => self.answer_bytes += frame.head.frame_bytes(),
            remark => self.handle_remark(remark),
        }
    }

    fn handle_remark(&mut self, remark: Control) {
        match remark {
            Control::TopicInfo { topic, name } => assert_eq!(self.topics.insert(topic, name), None),
            Control::TopicGone { topic } => {
                assert!(self.topics.remove(&topic).is_some());
                let hangs = |message: &Unfinished| message.topic == topic && message.kind != Kind::Reply;
                assert!(!self.unfinished.values().any(hangs));
            }
            Control::SenderInfo { sender, .. } => assert!(self.senders.insert(sender)),
            Control::SenderGone { sender } => {
                assert!(self.senders.remove(&sender));
                self.unfinished.remove(&sender);
            }
            Control::Gap { topic, messages } => {
                assert!(messages > 0 && (topic.0 == 0 || self.topics.contains_key(&topic)));
                *self.gaps.entry(topic).or_default() += messages;
            }
            Control::Abort { sender } => {
                assert!(self.unfinished.remove(&sender).is_some(), "nothing to abort");
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Checks order. Returns which fragment of its message the frame is.
    fn index(&mut self, frame: &Frame) -> usize {
        let Head { kind, sender, topic, sequence, .. } = frame.head;
        assert!(self.senders.contains(&sender), "not announced");
        let part = frame.head.part();
        if !part.begins() {
            let message = self.unfinished.get_mut(&sender).expect("a fragment has a beginning");
            assert_eq!((message.kind, message.topic, message.sequence), (kind, topic, sequence));
            message.fragments += 1;
            return message.fragments - 1;
        }
        assert!(!self.unfinished.contains_key(&sender), "the message before has no end");
        let last = self.last.insert(sender, sequence).unwrap_or(0);
        assert!(sequence > last, "message {sequence} of {sender} came after {last}");
        let call = (kind != Kind::Message).then(|| decode_metadata(frame.metadata()).unwrap().call.unwrap());
        self.unfinished.insert(sender, Unfinished { kind, topic, sequence, fragments: 1, call });
        0
    }

    /// Whether a message ends here.
    fn end(&mut self, frame: &Frame) -> bool {
        if matches!(frame.head.part(), Part::First | Part::Middle) {
            return false;
        }
        let message = self.unfinished.remove(&frame.head.sender).unwrap();
        match (message.kind, message.call) {
            (Kind::Request, Some(call)) => self.requests.push((call, message.topic)),
            (Kind::Reply, Some(call)) => *self.answers.entry(call.correlation).or_default() += 1,
            _ => {}
        }
        true
    }
}

/// How many bytes an Abort takes.
pub(super) fn abort_bytes() -> usize {
    encode_control(&Control::Abort { sender: InstanceId(1) }).len()
}
