//! Limits: the bound of everything that a client can make grow.

use std::time::Duration;

/// The bounds that a bus keeps. All are inclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Instances on the bus.
    pub instances_max: usize,
    /// Instances of one user.
    pub instances_per_user_max: usize,
    /// Living subscriptions of one instance.
    pub subscriptions_per_instance_max: usize,
    /// Topics that one instance has declared and not retracted.
    pub topics_per_instance_max: usize,
    /// Unanswered requests of one instance.
    pub requests_per_instance_max: usize,
    /// Metadata and payload of one message, in bytes; at least a fragment.
    pub message_bytes_max: u64,
    /// Bytes waiting for one instance, heads included.
    pub queue_bytes_max: usize,
    /// How long a `block` subscriber may take nothing before its messages are dropped.
    pub stall_timeout: Duration,
}
