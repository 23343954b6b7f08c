//! What the broker answers on its own topics, as JSON.
//!
//! A request to one of these topics needs no payload. The answers are read by `pipebus status` and the like, and by
//! any app. Fields may be added; none is ever renamed or removed.

use serde::{Deserialize, Serialize};

use crate::control::{Identity, Overflow};

/// Answered with [`Status`].
pub const STATUS: &str = "$bus/status";
/// Answered with a list of [`InstanceStatus`].
pub const INSTANCES: &str = "$bus/instances";
/// Answered with a list of [`TopicStatus`].
pub const TOPICS: &str = "$bus/topics";

/// The broker as a whole. Counts are since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The broker's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// The bus's directory.
    pub bus: String,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Instances now.
    pub instances: u64,
    /// Instances it may have.
    pub instances_max: u64,
    /// Subscriptions now.
    pub subscriptions: u64,
    /// Topics declared now, not counting the broker's own.
    pub topics: u64,
    /// Messages read from clients.
    pub messages_in: u64,
    /// Bytes read from clients: all frames, heads included.
    pub bytes_in: u64,
    /// Messages written to clients.
    pub messages_out: u64,
    /// Bytes written to clients: all frames, heads included.
    pub bytes_out: u64,
    /// Messages dropped by overflow policies.
    pub dropped: u64,
    /// Bytes waiting in queues now.
    pub queued_bytes: u64,
    /// Resident memory of the broker in bytes, if the system tells.
    pub memory_bytes: Option<u64>,
}

/// One instance. Counts are since it connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// The client id.
    pub id: u32,
    /// What the client calls itself.
    pub name: String,
    /// Whose it is, from the system.
    pub identity: Identity,
    /// Its process, from the system, if that can be told.
    pub pid: Option<u32>,
    /// Milliseconds since it connected.
    pub connected_ms: u64,
    /// Its subscriptions.
    pub subscriptions: Vec<SubscriptionStatus>,
    /// Messages read from it.
    pub messages_in: u64,
    /// Bytes read from it: all frames, heads included.
    pub bytes_in: u64,
    /// Messages written to it.
    pub messages_out: u64,
    /// Bytes written to it: all frames, heads included.
    pub bytes_out: u64,
    /// Messages it lost to overflow.
    pub dropped: u64,
    /// Bytes waiting for it now.
    pub queued_bytes: u64,
    /// Bytes that may wait for it.
    pub queue_bytes_max: u64,
    /// Whether it has taken nothing for the stall time-out, so that its messages are dropped.
    pub stalled: bool,
}

/// One subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionStatus {
    /// Which topics.
    pub pattern: String,
    /// What happens when the queue is full.
    pub overflow: Overflow,
    /// Whether it serves requests.
    pub serves: bool,
}

/// One declared topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicStatus {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Instances that have declared that they publish to it.
    pub publishers: u64,
    /// Instances that have declared that they ask on it.
    pub requesters: u64,
    /// Instances that get its messages.
    pub subscribers: u64,
    /// Instances that serve requests to it.
    pub servers: u64,
}
