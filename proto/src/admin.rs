//! What the broker answers on its own topics, as JSON.
//!
//! A request to one of these topics needs no payload. The answers are read by `pipebus status` and the like, and by
//! any app. Fields may be added; none is ever renamed or removed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::control::{Identity, Overflow};

/// Answered with [`Status`].
pub const STATUS: &str = "$bus/status";
/// Answered with a list of [`InstanceStatus`].
pub const INSTANCES: &str = "$bus/instances";
/// Answered with a list of [`SubscriptionListed`].
pub const SUBSCRIPTIONS: &str = "$bus/subscriptions";
/// Answered with a list of [`TopicStatus`].
pub const TOPICS: &str = "$bus/topics";
/// Answered with a list of [`UserStatus`].
pub const USERS: &str = "$bus/users";
/// Asked with nothing or a [`MetricsQuestion`], answered with text, not JSON.
pub const METRICS: &str = "$bus/metrics";
/// Asked with a [`PolicyQuestion`], answered with [`PolicyChecked`].
pub const POLICY_CHECK: &str = "$bus/policy/check";
/// Ordered with a [`DisconnectOrder`], answered with the [`InstanceStatus`] of who is disconnected.
pub const DISCONNECT: &str = "$bus/disconnect";
/// Ordered without a payload, answered with [`Reloaded`].
pub const RELOAD: &str = "$bus/reload";
/// Ordered with a [`LogOrder`], answered with [`LogFilter`].
pub const LOG: &str = "$bus/log";
/// Ordered with a [`DrainOrder`], answered with [`Draining`].
pub const DRAIN: &str = "$bus/drain";

/// Published: a [`ConnectEvent`].
pub const CONNECT_EVENT: &str = "$bus/events/connect";
/// Published: a [`DisconnectEvent`].
pub const DISCONNECT_EVENT: &str = "$bus/events/disconnect";
/// Published: a [`GapEvent`], at most one a second for each instance.
pub const GAP_EVENT: &str = "$bus/events/gap";
/// Published: a [`LimitEvent`], at most one a second for each user and limit.
pub const LIMIT_EVENT: &str = "$bus/events/limit";
/// Published: a [`PolicyEvent`].
pub const POLICY_EVENT: &str = "$bus/events/policy";
/// Published: a [`ReloadEvent`].
pub const RELOAD_EVENT: &str = "$bus/events/reload";
/// Published: a [`MonitorEvent`].
pub const MONITOR_EVENT: &str = "$bus/events/monitor";
/// Published: a [`Draining`], when that begins or is called off.
pub const DRAIN_EVENT: &str = "$bus/events/drain";
/// Published: a [`LeftOutEvent`], once a second at most for each user and sort of event.
pub const LEFT_OUT_EVENT: &str = "$bus/events/left-out";

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
    /// Instances that monitor now.
    #[serde(default)]
    pub monitors: u64,
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
    /// How often clients have reached which limit, by its key in the configuration; those never reached are left out.
    #[serde(default)]
    pub limits_reached: BTreeMap<String, u64>,
    /// Whether it lets nobody new in, and ends once all have left; none, it does not.
    #[serde(default)]
    pub draining: Option<Draining>,
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
    /// Whether it monitors: gets records of what passes.
    #[serde(default)]
    pub monitors: bool,
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

/// What one user has on the bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserStatus {
    /// Who it is, from the system.
    pub identity: Identity,
    /// Its instances.
    pub instances: u64,
    /// Their subscriptions.
    pub subscriptions: u64,
    /// The topics that they have declared to send to, each counted for each instance.
    pub topics: u64,
    /// Bytes waiting for them now.
    pub queued_bytes: u64,
    /// Bytes that may wait for them.
    pub queued_bytes_max: u64,
}

/// May somebody do something?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyQuestion {
    /// A user's name or number.
    pub user: String,
    /// `connect`, `publish`, `subscribe`, `request`, `serve`, `block`, `monitor` or `admin`.
    pub action: String,
    /// A topic, or a pattern: then, whether on any topic that it means. Not needed for `connect`.
    pub topic: Option<String>,
}

/// What the policy says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyChecked {
    /// Who that user is.
    pub identity: Identity,
    /// Whether it may.
    pub allowed: bool,
    /// The place of the rule that decides, counted from 1; none if no rule speaks of it.
    pub rule: Option<u64>,
    /// The rule as it is written, or that there is none.
    pub says: String,
}

/// How are the metrics to be written?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricsQuestion {
    /// The format.
    #[serde(default)]
    pub format: MetricsFormat,
}

/// Formats of metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MetricsFormat {
    /// OpenMetrics 1.0.
    #[default]
    OpenMetrics,
    /// The text format of Prometheus, 0.0.4, which is what node_exporter reads from files.
    Prometheus,
}

/// A limit was reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitEvent {
    /// Its key in the configuration.
    pub limit: String,
    /// Who reached it; nobody, if it was somebody who was not let in.
    pub identity: Option<Identity>,
    /// How often in the last second.
    pub times: u64,
}

/// One subscription, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionListed {
    /// The client id.
    pub instance: u32,
    /// What the client calls itself.
    pub name: String,
    /// Whose it is, from the system.
    pub identity: Identity,
    /// Its pattern, its overflow policy, and whether it serves or monitors.
    #[serde(flatten)]
    pub subscription: SubscriptionStatus,
    /// How many of the topics that are declared now it matches; none if there are too many of both to count.
    pub topics: Option<u64>,
}

/// Disconnect somebody. Its client stays away, and is told why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisconnectOrder {
    /// The client id.
    pub instance: u32,
    /// Why, for people.
    #[serde(default)]
    pub reason: Option<String>,
}

/// The policy and the limits have been read anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Sections of the configuration that differ, and for which the broker has to be started anew.
    pub restart_for: Vec<String>,
}

/// Show what is logged, or change it until the broker ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOrder {
    /// The new filter, as `log.filter` in the configuration; none leaves it as it is.
    #[serde(default)]
    pub filter: Option<String>,
}

/// What is logged now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFilter {
    /// The filter.
    pub filter: String,
    /// What the configuration says, which holds again when the broker is started anew.
    pub configured: String,
}

/// Let nobody new in, and end once all have left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainOrder {
    /// Milliseconds after which the broker ends though some are still there; none, it waits for ever.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Call it off instead.
    #[serde(default)]
    pub cancel: bool,
}

/// Whether the broker lets nobody new in, and ends once all have left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// Whether it does.
    pub draining: bool,
    /// Instances that it still waits for: all but who has ordered it, and those that only visit the broker.
    pub instances: u64,
    /// Milliseconds until it ends in any case.
    pub timeout_ms: Option<u64>,
}

/// A client has been let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectEvent {
    /// The client id.
    pub instance: u32,
    /// What it calls itself.
    pub name: String,
    /// Whose it is, from the system.
    pub identity: Identity,
    /// Its process, from the system, if that can be told.
    pub pid: Option<u32>,
}

/// A client has left, or was sent away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DisconnectEvent {
    /// The client id.
    pub instance: u32,
    /// What it called itself.
    pub name: String,
    /// Whose it was, from the system.
    pub identity: Identity,
    /// Its process, from the system, if that could be told.
    pub pid: Option<u32>,
    /// Why, for programs.
    pub cause: Cause,
    /// Why, for people.
    pub reason: String,
    /// Milliseconds for which it was connected.
    pub connected_ms: u64,
    /// Messages read from it.
    pub messages_in: u64,
    /// Messages written to it.
    pub messages_out: u64,
    /// Messages it lost to overflow.
    pub dropped: u64,
}

/// Why a client is not connected any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Cause {
    /// It said goodbye.
    Left,
    /// It closed its pipes without a word, or died.
    PipeClosed,
    /// It was too slow, and its subscription says `disconnect`; or it never read what it asked for.
    Slow,
    /// It broke the protocol.
    Protocol,
    /// The policy has changed, and it may not be here any more.
    Policy,
    /// An administrator disconnected it.
    Administrator,
    /// The broker ends.
    Shutdown,
}

/// A client was too slow, and has lost messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapEvent {
    /// The client id.
    pub instance: u32,
    /// What it calls itself.
    pub name: String,
    /// Whose it is, from the system.
    pub identity: Identity,
    /// How many messages since the last such event about it.
    pub messages: u64,
}

/// The policy has refused something. A topic that a wider pattern leaves out is no refusal: its subscriber gets the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyEvent {
    /// Who wanted it, from the system.
    pub identity: Identity,
    /// Its process, from the system, if that can be told.
    pub pid: Option<u32>,
    /// The client id; none if it was not let in.
    pub instance: Option<u32>,
    /// What it wanted to do: `connect`, `publish` and so on.
    pub action: String,
    /// On which topic or pattern.
    pub topic: Option<String>,
    /// Which rule says no.
    pub rule: String,
}

/// The configuration was read anew, or was to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadEvent {
    /// What is wrong with it; then all stays as it was.
    pub error: Option<String>,
    /// Sections that differ, and for which the broker has to be started anew.
    pub restart_for: Vec<String>,
}

/// One user has made more happen within a second than is told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutEvent {
    /// The topic of the events that were not told.
    pub event: String,
    /// Who made it happen, from the system.
    pub identity: Identity,
    /// How many were not told.
    pub times: u64,
}

/// Somebody begins to monitor the bus, monitors something else now, or ceases to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorEvent {
    /// The client id.
    pub instance: u32,
    /// What it calls itself.
    pub name: String,
    /// Whose it is, from the system.
    pub identity: Identity,
    /// What it monitors now; nothing, it has ceased.
    pub patterns: Vec<String>,
}
