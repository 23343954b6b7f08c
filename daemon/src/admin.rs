//! `$bus/**`: the broker answering as a client would.
//!
//! Who may ask is the policy's to say, when the topic is declared.

mod looks;
mod orders;
mod policy_check;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use pipebus_proto::admin::{
    CONNECT_EVENT, DISCONNECT, DISCONNECT_EVENT, DRAIN, DRAIN_EVENT, GAP_EVENT, INSTANCES, LEFT_OUT_EVENT, LIMIT_EVENT,
    LOG, METRICS, MONITOR_EVENT, POLICY_CHECK, POLICY_EVENT, RELOAD, RELOAD_EVENT, STATUS, SUBSCRIPTIONS, TOPICS,
    USERS,
};
use pipebus_proto::control::Overflow;
use pipebus_proto::frame::{Call, Flags, Head, Kind, Metadata};
use pipebus_proto::record::CONTROL_TOPIC;
use pipebus_proto::splitter::{Span, next_span};
use pipebus_proto::topic::{InstanceId, Topic, TopicId};
use pipebus_proto::wire::{encode_metadata, for_each_frame};
use serde::Serialize;
use tracing::info;

use crate::broker::Broker;
use crate::core::bus::describe;
use crate::core::queue::Introductions;
use crate::metrics;
use crate::outbox::Outbox;
use crate::reload::reload;

pub(crate) use self::looks::milliseconds_since;

/// More than the metadata of an answer.
const METADATA_BYTES: u64 = 64;

/// Where it answers.
const QUESTIONS: [&str; 7] = [STATUS, INSTANCES, SUBSCRIPTIONS, TOPICS, USERS, METRICS, POLICY_CHECK];

/// Where it obeys.
const ORDERS: [&str; 4] = [DISCONNECT, RELOAD, LOG, DRAIN];

/// Where it tells of events.
const EVENTS: [&str; 9] = [
    CONNECT_EVENT,
    DISCONNECT_EVENT,
    GAP_EVENT,
    LIMIT_EVENT,
    POLICY_EVENT,
    RELOAD_EVENT,
    DRAIN_EVENT,
    MONITOR_EVENT,
    LEFT_OUT_EVENT,
];

/// The topics on which the broker answers, obeys, or tells of events, and that of what it and its clients say to each other.
pub(crate) fn topics() -> Vec<Topic> {
    let all = [&QUESTIONS[..], &ORDERS, &EVENTS, &[CONTROL_TOPIC]].concat();
    all.into_iter().filter_map(|name| Topic::new(name).ok()).collect()
}

/// Answers a request to one of the broker's topics.
pub(crate) async fn answer(
    broker: &Arc<Broker>,
    topic: &Topic,
    question: &[u8],
    id: TopicId,
    call: Call,
    requester: &Outbox,
) {
    let by = call.requester;
    if ORDERS.contains(&topic.as_str()) {
        info!(order = topic.as_str(), by = by.0, who = describe(&requester.owner), "ordered by an administrator");
    }
    let json = match topic.as_str() {
        STATUS => written(&looks::status(broker)),
        INSTANCES => written(&looks::instances(broker)),
        SUBSCRIPTIONS => written(&looks::subscriptions(broker)),
        TOPICS => written(&looks::topics(broker)),
        USERS => written(&looks::users(broker)),
        METRICS => metrics::answer(broker, question),
        POLICY_CHECK => policy_check::answer(broker, question).await.and_then(|checked| written(&checked)),
        DISCONNECT => orders::disconnect(broker, question, by, &requester.owner).and_then(|status| written(&status)),
        RELOAD => reload(broker).await.and_then(|reloaded| written(&reloaded)),
        LOG => orders::log(broker, question).and_then(|filter| written(&filter)),
        DRAIN => orders::drain(broker, question, by).and_then(|draining| written(&draining)),
        CONTROL_TOPIC => Err(format!("{topic} is only to be monitored, and answers nothing")),
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
