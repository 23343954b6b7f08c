//! Events: what the broker tells of by itself, as messages on `$bus/events/**`.

use std::sync::Arc;

use bytes::Bytes;
use pipebus_proto::control::Overflow;
use pipebus_proto::frame::{Flags, Head, Kind};
use pipebus_proto::topic::{InstanceId, Topic, TopicId};
use serde::Serialize;

use crate::admin::spans;
use crate::broker::Broker;
use crate::core::bus::Bus;
use crate::core::queue::Introductions;
use crate::outbox::Outbox;

/// Publishes an event, as JSON. It waits for nobody: whoever has no room for it loses it, and is told of the gap.
pub(crate) fn publish(broker: &Broker, topic: &str, event: &impl Serialize) {
    let id = Topic::new(topic).ok().and_then(|topic| broker.bus().topic(&topic));
    publish_to(broker, id, event);
}

/// The same, for who has the bus.
pub(crate) fn publish_under(broker: &Broker, bus: &Bus<Arc<Outbox>>, topic: &str, event: &impl Serialize) {
    publish_to(broker, Topic::new(topic).ok().and_then(|topic| bus.topic(&topic)), event);
}

fn publish_to(broker: &Broker, id: Option<TopicId>, event: &impl Serialize) {
    let Some(id) = id else { return };
    let Some(route) = broker.routes().get(id).cloned() else { return };
    let Ok(json) = serde_json::to_vec(event) else { return };
    if route.targets.is_empty() {
        return;
    }
    // Held until all have it, so that they come in their order.
    let mut sequence = broker.last_event();
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
