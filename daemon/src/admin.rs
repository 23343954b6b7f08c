//! `$bus/**`: the broker answering as a client would.
//!
//! Who may ask is the policy's to say, when the topic is declared.

mod policy_check;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pipebus_proto::admin::{
    INSTANCES, InstanceStatus, LIMIT_EVENT, POLICY_CHECK, STATUS, Status, SubscriptionStatus, TOPICS, TopicStatus,
    USERS, UserStatus,
};
use pipebus_proto::control::{Overflow, Role};
use pipebus_proto::frame::{Call, Flags, Head, Kind, Metadata};
use pipebus_proto::splitter::{Span, next_span};
use pipebus_proto::topic::{InstanceId, Topic, TopicId};
use pipebus_proto::wire::{encode_metadata, for_each_frame};
use serde::Serialize;
use tokio::time::Instant;

use crate::broker::Broker;
use crate::core::bus::Instance;
use crate::core::queue::Introductions;
use crate::outbox::Outbox;

/// More than the metadata of an answer.
const METADATA_BYTES: u64 = 64;

/// The topics on which the broker answers or tells of events.
pub(crate) fn topics() -> Vec<Topic> {
    [STATUS, INSTANCES, TOPICS, USERS, POLICY_CHECK, LIMIT_EVENT]
        .into_iter()
        .filter_map(|name| Topic::new(name).ok())
        .collect()
}

/// Answers a request to one of the broker's topics.
pub(crate) async fn answer(
    broker: &Broker,
    topic: &Topic,
    question: &[u8],
    id: TopicId,
    call: Call,
    requester: &Outbox,
) {
    let json = match topic.as_str() {
        STATUS => written(&status(broker)),
        INSTANCES => written(&instances(broker)),
        TOPICS => written(&topic_list(broker)),
        USERS => written(&users(broker)),
        POLICY_CHECK => policy_check::answer(broker, question).await.and_then(|checked| written(&checked)),
        _ => Err(format!("{topic} tells of events and answers nothing; subscribe to it")),
    };
    let max = broker.routes().message_bytes_max();
    let (payload, flags) = match json {
        // Metadata counts, too.
        Ok(json) if json.len() as u64 > max - METADATA_BYTES => {
            let text = format!("the answer has {} bytes, more than limits.message_bytes_max; raise that", json.len());
            (Bytes::from(text), Flags::FAILED)
        }
        Ok(json) => (Bytes::from(json), Flags::NONE),
        Err(text) => (Bytes::from(text), Flags::FAILED),
    };
    let names = Introductions { topic: &Bytes::new(), sender: &broker.introduction };
    for span in reply(broker, id, call, flags, &payload) {
        requester.push_waiting(span, Overflow::Block, names).await;
    }
}

fn reply(broker: &Broker, topic: TopicId, call: Call, flags: Flags, payload: &Bytes) -> Vec<Span> {
    let head = Head {
        body: 0,
        kind: Kind::Reply,
        flags,
        metadata: 0,
        topic,
        sender: InstanceId::BROKER,
        sequence: broker.sequence.next(),
    };
    let metadata = Metadata { call: Some(call), headers: Vec::new() };
    spans(head, &encode_metadata(&metadata).unwrap_or_default(), payload)
}

/// A message of the broker's own, in its frames.
pub(crate) fn spans(head: Head, metadata: &[u8], payload: &Bytes) -> Vec<Span> {
    let mut bytes = BytesMut::new();
    for_each_frame(head, metadata, payload, |head, metadata, piece| {
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(metadata);
        bytes.extend_from_slice(&piece);
    });
    std::iter::from_fn(|| next_span(&mut bytes).ok().flatten()).collect()
}

fn written(answer: &impl Serialize) -> Result<Vec<u8>, String> {
    serde_json::to_vec(answer).map_err(|error| error.to_string())
}

fn status(broker: &Broker) -> Status {
    let bus = broker.bus();
    let ended = &broker.ended;
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        bus: broker.place.directory().display().to_string(),
        uptime_ms: milliseconds_since(broker.started),
        instances_max: bus.limits().instances_max as u64,
        messages_in: ended.messages_in.read(),
        bytes_in: ended.bytes_in.read(),
        messages_out: ended.messages_out.read(),
        bytes_out: ended.bytes_out.read(),
        dropped: broker.ended_dropped.read(),
        memory_bytes: resident_bytes(),
        limits_reached: broker.reviewed.reached().map(|(limit, times)| (limit.key().to_owned(), times)).collect(),
        ..Status::default()
    };
    status.instances = bus.instances().len() as u64;
    status.topics = bus.topics().filter(|(_, declared)| !declared.name.is_reserved()).count() as u64;
    for (_, instance) in bus.instances() {
        let (counters, fill) = (&instance.to.counters, instance.to.fill());
        status.subscriptions += instance.subscriptions.len() as u64;
        status.messages_in += counters.messages_in.read();
        status.bytes_in += counters.bytes_in.read();
        status.messages_out += counters.messages_out.read();
        status.bytes_out += counters.bytes_out.read();
        status.dropped += fill.dropped;
        status.queued_bytes += fill.queued_bytes;
    }
    status
}

fn instances(broker: &Broker) -> Vec<InstanceStatus> {
    broker.bus().instances().map(|(id, instance)| instance_status(id, instance)).collect()
}

fn instance_status(id: InstanceId, instance: &Instance<Arc<Outbox>>) -> InstanceStatus {
    let (counters, fill) = (&instance.to.counters, instance.to.fill());
    let subscriptions = instance.subscriptions.values().map(|subscription| SubscriptionStatus {
        pattern: subscription.pattern.to_string(),
        overflow: subscription.overflow,
        serves: subscription.role == Role::Serve,
    });
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

fn users(broker: &Broker) -> Vec<UserStatus> {
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

fn topic_list(broker: &Broker) -> Vec<TopicStatus> {
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

fn milliseconds_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The second field of `/proc/self/statm`, in pages (proc_pid_statm(5)); `None` where there is no such file.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
