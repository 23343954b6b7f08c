//! Monitor: those who watch a topic are told of what passes there. Whoever sends waits for none of them.
//!
//! What they are told is made in [`crate::core::records`]; here it is put into their queues.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use pipebus_proto::admin::{MONITOR_EVENT, MonitorEvent};
use pipebus_proto::control::Control;
use pipebus_proto::frame::{Flags, HEAD_BYTES, Head, Kind};
use pipebus_proto::pattern::Pattern;
use pipebus_proto::record::Watch;
use pipebus_proto::splitter::Span;
use pipebus_proto::topic::{InstanceId, TopicId};
use pipebus_proto::wire::encode_control;
use tracing::info;

use crate::broker::Broker;
use crate::core::bus::{Bus, describe};
use crate::core::policy::Peer;
use crate::core::queue::Introductions;
use crate::core::records::{Made, Passage};
use crate::core::routes::{Route, Watcher};
use crate::delivery::Delivery;
use crate::delivery::gathered::Gathered;
use crate::episode::{Sort, may_tell_of};
use crate::events;
use crate::outbox::Outbox;

impl Passage {
    /// That of something that the broker has now and nobody else has yet.
    pub(crate) fn begin(subscribers: usize, to: InstanceId) -> Passage {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX);
        Passage { time, subscribers, to, waiting: Vec::new(), dropped: Vec::new() }
    }
}

/// Large frames that pass as pages. Dropped, those who watch are told of them, whatever has become of their publisher.
pub(crate) struct Watched<'a> {
    broker: &'a Broker,
    route: &'a Route<Arc<Outbox>>,
    sender: &'a Bytes,
    gathered: &'a Gathered,
    /// The first bytes of each body, of each as many.
    bodies: Vec<u8>,
    pub(crate) passage: Passage,
}

impl<'a> Watched<'a> {
    /// Looks at them before they go on, if somebody watches.
    pub(crate) fn begin(delivery: &Delivery<'a>, gathered: &'a Gathered) -> Option<Watched<'a>> {
        let Delivery { broker, route, names, .. } = *delivery;
        let body = gathered.frame_bytes() - HEAD_BYTES;
        let bytes = route.watchers.iter().map(|watcher| watcher.watch.captured(body)).max()?;
        let passage = Passage::begin(route.targets.len(), InstanceId::BROKER);
        Some(Watched { broker, route, sender: names.sender, gathered, bodies: gathered.look(bytes), passage })
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let frames = self.gathered.span.frames as usize;
        let bytes = self.bodies.len() / frames;
        let body = |number: usize| &self.bodies[number * bytes..][..bytes];
        let each = (0..frames).map(|number| (self.gathered.head(number), body(number)));
        self.broker.tell(self.route, self.sender, each, &self.passage);
    }
}

impl Broker {
    /// Tells those who watch a route of frames that have passed. Each gets what it has room for, and a gap for the rest.
    pub(crate) fn tell<'a>(
        &self,
        route: &Route<Arc<Outbox>>,
        sender: &Bytes,
        frames: impl Iterator<Item = (Head, &'a [u8])> + Clone,
        passage: &Passage,
    ) {
        let Some((Head { topic, .. }, _)) = frames.clone().next() else { return };
        let names = Introductions { topic: &route.introduction, sender };
        let mut made_before: Option<(Watch, Span)> = None;
        for Watcher { watch, overflow, to, .. } in &route.watchers {
            let room = to.room_for_records(*overflow);
            let same = made_before.as_ref().filter(|(before, span)| before == watch && span.bytes.len() <= room);
            let made = match same {
                Some((_, span)) => Made { span: Some(span.clone()), lost: 0 },
                None => passage.records(watch, frames.clone(), room),
            };
            if let Some(span) = made.span {
                if made.lost == 0 {
                    made_before = Some((*watch, span.clone()));
                }
                let _ = to.push(span, *overflow, names);
            }
            if made.lost > 0 {
                to.drop_unmade(topic, made.lost, *overflow);
            }
        }
        // Of a reply, or of a message that goes on after its sender has retracted it, the topic may have gone; and all who
        // knew of it have been told.
        if self.routes().get(topic).is_none() {
            route.watchers.iter().for_each(|watcher| watcher.to.forget_topic(topic));
        }
    }

    /// Tells those who watch what a client says in a control frame. `introduce` makes a SenderInfo frame about it.
    pub(crate) fn observe_heard(&self, from: InstanceId, body: &[u8], introduce: impl FnOnce() -> Bytes) {
        if let Some(route) = self.control.and_then(|control| self.watched(control)) {
            self.observe_control(&route, from, body, &introduce(), &Passage::begin(0, InstanceId::BROKER));
        }
    }

    /// Sends a control frame to a client. Those who watch are told before, so that what follows from it comes later.
    pub(crate) fn say(&self, to: &Outbox, control: &Control) {
        self.observe_said(to, control);
        to.send(control);
    }

    /// Tells those who watch what the broker says to a client.
    pub(crate) fn observe_said(&self, to: &Outbox, control: &Control) {
        if let Some(route) = self.control.and_then(|control| self.watched(control)) {
            let body = &encode_control(control)[HEAD_BYTES..];
            let passage = Passage::begin(1, to.instance());
            self.observe_control(&route, InstanceId::BROKER, body, &self.introduction, &passage);
        }
    }

    /// The route of a topic, if somebody watches it.
    pub(crate) fn watched(&self, topic: TopicId) -> Option<Arc<Route<Arc<Outbox>>>> {
        self.routes().get(topic).filter(|route| !route.watchers.is_empty()).cloned()
    }

    fn observe_control(
        &self,
        route: &Route<Arc<Outbox>>,
        sender: InstanceId,
        body: &[u8],
        introduction: &Bytes,
        passage: &Passage,
    ) {
        let Some(topic) = self.control else { return };
        let (kind, flags) = (Kind::Control, Flags::NONE);
        let bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let head = Head { body: bytes, kind, flags, metadata: 0, topic, sender, sequence: 0 };
        self.tell(route, introduction, std::iter::once((head, body)), passage);
    }
}

/// Says to all who want to know that somebody monitors these now; nothing, it has ceased.
pub(crate) fn announce(
    broker: &Broker,
    bus: &Bus<Arc<Outbox>>,
    instance: InstanceId,
    peer: Peer,
    name: &str,
    patterns: &[Pattern],
) {
    let patterns: Vec<String> = patterns.iter().map(Pattern::to_string).collect();
    if may_tell_of(&peer.identity, Sort::Monitors) {
        info!(instance = instance.0, who = describe(&peer.identity), name, ?patterns, "monitors");
    }
    let event = MonitorEvent { instance: instance.0, name: name.to_owned(), identity: peer.identity, patterns };
    events::publish_under(broker, bus, MONITOR_EVENT, &event);
}
