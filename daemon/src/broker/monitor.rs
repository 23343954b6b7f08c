//! Monitor: those who watch a topic are told of what passes there. Whoever sends waits for none of them.
//!
//! What they are told is made in [`crate::core::records`]; here it is put into their queues.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use pipebus_proto::admin::{Cause, MONITOR_EVENT, MonitorEvent};
use pipebus_proto::control::{Control, Regarding};
use pipebus_proto::frame::{Flags, HEAD_BYTES, Head, Kind};
use pipebus_proto::pattern::Pattern;
use pipebus_proto::record::Watch;
use pipebus_proto::splitter::Span;
use pipebus_proto::topic::{InstanceId, TopicId};
use pipebus_proto::wire::encode_control;
use tracing::info;

use super::Broker;
use crate::core::bus::describe;
use crate::core::policy::Peer;
use crate::core::queue::Introductions;
use crate::core::records::{Made, Passage};
use crate::core::refused::Refused;
use crate::core::routes::{Route, Watcher};
use crate::episode::{Sort, may_tell_of};
use crate::events;
use crate::outbox::Outbox;

/// How many patterns of a monitor the log names.
const LOGGED_PATTERNS_MAX: usize = 8;

impl Passage {
    /// That of something that the broker has now and nobody else has yet.
    pub(crate) fn begin(subscribers: usize, to: InstanceId) -> Passage {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX);
        let (waiting, dropped) = (Vec::new(), Vec::new());
        Passage { time, subscribers, to, looked_at: usize::MAX, waiting, dropped }
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

    /// The route of control frames, if somebody watches them.
    pub(crate) fn watched_control(&self) -> Option<Arc<Route<Arc<Outbox>>>> {
        self.control.and_then(|control| self.watched(control))
    }

    /// Tells those who watch control frames what a client says in one.
    pub(crate) fn observe_heard(
        &self,
        route: &Route<Arc<Outbox>>,
        from: InstanceId,
        introduction: &Bytes,
        body: &[u8],
    ) {
        self.observe_control(route, from, introduction, body, &Passage::begin(0, InstanceId::BROKER));
    }

    /// Sends a control frame to a client. Those who watch are told before, so that what follows from it comes later.
    pub(crate) fn say(&self, to: &Outbox, control: &Control) {
        self.count_no(control);
        self.observe_said(to, control);
        to.send(control);
    }

    /// Sends an instance away. Those who watch are told before.
    pub(crate) fn expel(&self, to: &Outbox, refused: Refused, cause: Cause) {
        let said = refused.clone().about(Regarding::Connection);
        self.count_no(&said);
        self.observe_said(to, &said);
        to.expel(refused, cause);
    }

    /// Tells those who watch what the broker says to a client.
    pub(crate) fn observe_said(&self, to: &Outbox, control: &Control) {
        if let Some(route) = self.watched_control() {
            let body = &encode_control(control)[HEAD_BYTES..];
            let passage = Passage::begin(1, to.instance());
            self.observe_control(&route, InstanceId::BROKER, &self.introduction, body, &passage);
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
        introduction: &Bytes,
        body: &[u8],
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
pub(super) fn announce(broker: &Broker, instance: InstanceId, peer: &Peer, name: &str, patterns: &[Pattern]) {
    let texts = |count: usize| patterns.iter().take(count).map(Pattern::to_string).collect::<Vec<_>>();
    if may_tell_of(&peer.identity, Sort::Monitors) {
        let (who, first) = (describe(&peer.identity), texts(LOGGED_PATTERNS_MAX));
        info!(instance = instance.0, who, name, patterns = patterns.len(), ?first, "monitors");
    }
    let (identity, name) = (peer.identity.clone(), name.to_owned());
    let event = || MonitorEvent { instance: instance.0, name, identity, patterns: texts(patterns.len()) };
    events::publish_about(broker, MONITOR_EVENT, &peer.identity, event);
}
