//! Events: what the broker tells of by itself, as messages on `$bus/events/**`.
//!
//! To be published under no lock but that of the bus: they go to pipes at once, where those have room. Nobody who listens costs
//! nobody anything.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use pipebus_proto::admin::{
    CONNECT_EVENT, Cause, ConnectEvent, DISCONNECT_EVENT, DisconnectEvent, LEFT_OUT_EVENT, LeftOutEvent,
};
use pipebus_proto::control::{Identity, Overflow};
use pipebus_proto::frame::{Flags, Head, Kind};
use pipebus_proto::topic::{InstanceId, Topic, TopicId};
use serde::Serialize;
use tokio::time::Instant;

use crate::admin::{milliseconds_since, spans};
use crate::broker::Broker;
use crate::core::bus::Instance;
use crate::core::policy::Peer;
use crate::core::queue::Introductions;
use crate::core::routes::Route;
use crate::outbox::Outbox;

/// How many events of one sort are told about one user in a second, where clients can make them happen: so nobody fills the
/// queue of whoever listens, nor hides there what else it does.
const TOLD_PER_SECOND_MAX: u64 = 100;

/// What is needed to tell of events.
#[derive(Debug)]
pub(crate) struct Events {
    /// The broker's topics, which never come and go.
    topics: BTreeMap<String, TopicId>,
    /// The number of the last event.
    last: Mutex<u64>,
    /// How many of which sort there have been about whom in this second.
    seen: Mutex<HashMap<(&'static str, Identity), u64>>,
}

impl Events {
    pub(crate) fn new(topics: impl Iterator<Item = (Topic, TopicId)>) -> Events {
        let topics = topics.map(|(topic, id)| (topic.to_string(), id)).collect();
        Events { topics, last: Mutex::default(), seen: Mutex::default() }
    }

    /// Counts an event about a user; whether it is to be told.
    fn may_tell(&self, topic: &'static str, user: &Identity) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let count = seen.entry((topic, user.clone())).or_default();
        *count += 1;
        *count <= TOLD_PER_SECOND_MAX
    }
}

/// Publishes an event, as JSON. It waits for nobody: whoever has no room for it loses it, and is told of the gap.
pub(crate) fn publish(broker: &Broker, topic: &str, event: &impl Serialize) {
    let Some((id, route)) = route(broker, topic) else { return };
    let Ok(json) = serde_json::to_vec(event) else { return };
    // Held until all have it, so that they come in their order.
    let mut sequence = broker.events.last.lock().unwrap_or_else(PoisonError::into_inner);
    *sequence += 1;
    let (kind, flags, sender) = (Kind::Message, Flags::NONE, InstanceId::BROKER);
    let head = Head { body: 0, kind, flags, metadata: 0, topic: id, sender, sequence: *sequence };
    let names = Introductions { topic: &route.introduction, sender: &broker.introduction };
    for span in spans(head, &[], &Bytes::from(json)) {
        for target in &route.targets {
            let overflow = if target.overflow == Overflow::Block { Overflow::DropNewest } else { target.overflow };
            let _ = target.to.push(span.clone(), overflow, names);
        }
    }
}

/// Publishes an event that a user's clients can make happen again and again. What is too much is counted, and told with the
/// second.
pub(crate) fn publish_about<E: Serialize>(
    broker: &Broker,
    topic: &'static str,
    user: &Identity,
    event: impl FnOnce() -> E,
) {
    if route(broker, topic).is_some() && broker.events.may_tell(topic, user) {
        publish(broker, topic, &event());
    }
}

/// A second has passed: tells how many were left out.
pub(crate) fn next_second(broker: &Broker) {
    let seen = std::mem::take(&mut *broker.events.seen.lock().unwrap_or_else(PoisonError::into_inner));
    for ((topic, identity), count) in seen {
        publish_left_out(broker, topic, identity, count.saturating_sub(TOLD_PER_SECOND_MAX));
    }
}

/// Tells that so many events about a user were not told, if any.
pub(crate) fn publish_left_out(broker: &Broker, topic: &str, identity: Identity, times: u64) {
    if times > 0 {
        publish(broker, LEFT_OUT_EVENT, &LeftOutEvent { event: topic.to_owned(), identity, times });
    }
}

/// A client has been let in.
pub(crate) fn connected(broker: &Broker, id: InstanceId, peer: &Peer, name: &str) {
    publish_about(broker, CONNECT_EVENT, &peer.identity, || ConnectEvent {
        instance: id.0,
        name: name.to_owned(),
        identity: peer.identity.clone(),
        pid: peer.pid,
    });
}

/// A client has gone.
pub(crate) fn disconnected(broker: &Broker, id: InstanceId, gone: &Instance<Arc<Outbox>>, cause: Cause, reason: &str) {
    publish_about(broker, DISCONNECT_EVENT, &gone.peer.identity, || DisconnectEvent {
        instance: id.0,
        name: gone.name.to_string(),
        identity: gone.peer.identity.clone(),
        pid: gone.peer.pid,
        cause,
        reason: reason.to_owned(),
        connected_ms: milliseconds_since(Instant::from_std(gone.since)),
        messages_in: gone.to.counters.messages_in.read(),
        messages_out: gone.to.counters.messages_out.read(),
        dropped: gone.to.fill().dropped,
    });
}

/// Where such events go, if anybody listens.
fn route(broker: &Broker, topic: &str) -> Option<(TopicId, Arc<Route<Arc<Outbox>>>)> {
    let id = *broker.events.topics.get(topic)?;
    let route = broker.routes().get(id)?.clone();
    if route.targets.is_empty() { None } else { Some((id, route)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::core::policy::{Policy, Who};
    use pipebus_proto::admin::POLICY_EVENT;
    use pipebus_proto::place::Place;

    const ANN: Identity = Identity::Unix { uid: 1000 };
    const BOB: Identity = Identity::Unix { uid: 1001 };

    /// An event that nobody may look at.
    struct Unseen;

    impl Serialize for Unseen {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            panic!("nobody has asked for it")
        }
    }

    fn broker() -> Broker {
        let policy = Policy::allowing(vec![Who::Any]);
        Broker::new(Config::default(), policy, Place::new("/nowhere"), ANN, &crate::admin::topics())
    }

    #[tokio::test]
    async fn an_event_to_which_nobody_listens_is_not_even_made() {
        let broker = broker();
        publish(&broker, POLICY_EVENT, &Unseen);
        publish_about(&broker, POLICY_EVENT, &ANN, || -> Unseen { panic!("nobody has asked for it") });
        assert!(broker.events.seen.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_user_of_whom_much_is_to_tell_leaves_others_their_events() {
        let broker = broker();
        let told = |user| (0..1000).filter(|_| broker.events.may_tell(CONNECT_EVENT, user)).count() as u64;
        assert_eq!((told(&ANN), told(&BOB)), (TOLD_PER_SECOND_MAX, TOLD_PER_SECOND_MAX));
        assert!(broker.events.may_tell(DISCONNECT_EVENT, &ANN), "events of another sort as well");
        next_second(&broker);
        assert_eq!(told(&ANN), TOLD_PER_SECOND_MAX);
    }
}
