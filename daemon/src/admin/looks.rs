//! Looks: what the broker tells of itself and of who is there.

use std::sync::Arc;

use pipebus_proto::admin::{InstanceStatus, Status, SubscriptionListed, SubscriptionStatus, TopicStatus, UserStatus};
use pipebus_proto::control::Role;
use pipebus_proto::pattern::Pattern;
use pipebus_proto::topic::{InstanceId, Topic};
use tokio::time::Instant;

use crate::broker::Broker;
use crate::core::bus::{Instance, Subscription};
use crate::drain;
use crate::outbox::Outbox;
use crate::service;
use crate::totals::Totals;

/// How many topics are held against patterns for one answer: some tens of milliseconds.
const MATCHES_MAX: usize = 1 << 20;

pub(super) fn status(broker: &Broker) -> Status {
    let bus = broker.bus();
    let Totals { subscriptions, monitors, passed, dropped, queued_bytes, .. } = Totals::of(broker, &bus);
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        bus: broker.place.path().display().to_string(),
        uptime_ms: milliseconds_since(broker.started),
        instances: bus.instances().len() as u64,
        instances_max: bus.limits().instances_max as u64,
        subscriptions,
        topics: bus.topics().filter(|(_, declared)| !declared.name.is_reserved()).count() as u64,
        messages_in: passed.messages_in.read(),
        bytes_in: passed.bytes_in.read(),
        messages_out: passed.messages_out.read(),
        bytes_out: passed.bytes_out.read(),
        dropped: dropped.read(),
        queued_bytes,
        memory_bytes: service::resident_bytes(),
        limits_reached: broker.reviewed.reached().map(|(limit, times)| (limit.key().to_owned(), times)).collect(),
        monitors,
        draining: drain::state(broker, &bus),
    }
}

pub(super) fn instances(broker: &Broker) -> Vec<InstanceStatus> {
    broker.bus().instances().map(|(id, instance)| instance_status(id, instance)).collect()
}

pub(super) fn instance_status(id: InstanceId, instance: &Instance<Arc<Outbox>>) -> InstanceStatus {
    let (counters, fill) = (&instance.to.counters, instance.to.fill());
    let subscriptions = instance.subscriptions.values().map(subscription_status);
    InstanceStatus {
        id: id.0,
        name: instance.name.to_string(),
        identity: instance.peer.identity.clone(),
        pid: instance.peer.pid,
        connected_ms: milliseconds_since(Instant::from_std(instance.since)),
        subscriptions: subscriptions.collect(),
        messages_in: counters.messages_in.read(),
        bytes_in: counters.bytes_in.read(),
        messages_out: counters.messages_out.read(),
        bytes_out: counters.bytes_out.read(),
        dropped: fill.dropped,
        queued_bytes: fill.queued_bytes,
        queue_bytes_max: fill.queue_bytes_max,
        stalled: fill.stalled,
    }
}

fn subscription_status(subscription: &Subscription) -> SubscriptionStatus {
    SubscriptionStatus {
        pattern: subscription.pattern.to_string(),
        overflow: subscription.overflow,
        serves: subscription.role == Role::Serve,
        monitors: subscription.is_monitor(),
    }
}

pub(super) fn subscriptions(broker: &Broker) -> Vec<SubscriptionListed> {
    let mut listed = Vec::new();
    let topics: Vec<Topic> = {
        let bus = broker.bus();
        for (id, instance) in bus.instances() {
            for subscription in instance.subscriptions.values() {
                let one = SubscriptionListed {
                    instance: id.0,
                    name: instance.name.to_string(),
                    identity: instance.peer.identity.clone(),
                    subscription: subscription_status(subscription),
                    topics: None,
                };
                listed.push((subscription.pattern.clone(), one));
            }
        }
        bus.topics().map(|(_, declared)| declared.name.clone()).collect()
    };
    // Not under the lock, and not for so long that others on this thread would wait.
    let countable = listed.len().saturating_mul(topics.len()) <= MATCHES_MAX;
    let count = |pattern: Pattern, one| {
        let matching = || topics.iter().filter(|topic| pattern.matches(topic)).count() as u64;
        SubscriptionListed { topics: countable.then(matching), ..one }
    };
    listed.into_iter().map(|(pattern, one)| count(pattern, one)).collect()
}

pub(super) fn users(broker: &Broker) -> Vec<UserStatus> {
    let bus = broker.bus();
    let users = bus.users().iter().map(|(identity, user)| UserStatus {
        identity: identity.clone(),
        instances: user.instances as u64,
        subscriptions: user.subscriptions as u64,
        topics: user.topics as u64,
        queued_bytes: user.account.queued() as u64,
        queued_bytes_max: bus.limits().queued_bytes_per_user_max as u64,
    });
    let mut users: Vec<UserStatus> = users.collect();
    users.sort_by_key(|user| std::cmp::Reverse(user.instances));
    users
}

pub(super) fn topics(broker: &Broker) -> Vec<TopicStatus> {
    let routes = broker.routes();
    let bus = broker.bus();
    let topics = bus.topics().filter(|(_, declared)| !declared.name.is_reserved());
    topics
        .map(|(id, declared)| TopicStatus {
            id: id.0,
            name: declared.name.to_string(),
            publishers: declared.publishers as u64,
            requesters: declared.requesters as u64,
            subscribers: routes.get(id).map_or(0, |route| route.targets.len() as u64),
            servers: declared.servers.len() as u64,
        })
        .collect()
}

pub(crate) fn milliseconds_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}
