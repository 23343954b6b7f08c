//! Limits: the bound of everything that a client can make grow.

use std::time::Duration;

/// The bounds that a bus keeps. All are inclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Instances on the bus.
    pub instances_max: usize,
    /// Those of them that only administrators may use.
    pub instances_reserved: usize,
    /// Instances of one user.
    pub instances_per_user_max: usize,
    /// Living subscriptions on the bus.
    pub subscriptions_max: usize,
    /// Living subscriptions of one user.
    pub subscriptions_per_user_max: usize,
    /// Living subscriptions of one instance.
    pub subscriptions_per_instance_max: usize,
    /// Topics on the bus.
    pub topics_max: usize,
    /// Topics that the instances of one user have declared, each counted for itself.
    pub topics_per_user_max: usize,
    /// Topics that one instance has declared and not retracted.
    pub topics_per_instance_max: usize,
    /// Unanswered requests of one instance.
    pub requests_per_instance_max: usize,
    /// Metadata and payload of one message, in bytes; at least a fragment.
    pub message_bytes_max: u64,
    /// Bytes waiting for one instance, heads included.
    pub queue_bytes_max: usize,
    /// Bytes waiting for all instances of one user.
    pub queued_bytes_per_user_max: usize,
    /// Bytes waiting for all instances.
    pub queued_bytes_max: usize,
    /// What one user may send.
    pub rate_per_user_max: Rate,
    /// What all users together may send.
    pub rate_max: Rate,
    /// How long a `block` subscriber may take nothing before its messages are dropped.
    pub stall_timeout: Duration,
}

impl Limits {
    /// As if there were none, but for a stall time-out of 10 s. To be narrowed where that matters.
    pub fn none() -> Limits {
        let many = usize::MAX / 4;
        Limits {
            instances_max: many,
            instances_reserved: 0,
            instances_per_user_max: many,
            subscriptions_max: many,
            subscriptions_per_user_max: many,
            subscriptions_per_instance_max: many,
            topics_max: many,
            topics_per_user_max: many,
            topics_per_instance_max: many,
            requests_per_instance_max: many,
            message_bytes_max: many as u64,
            queue_bytes_max: many,
            queued_bytes_per_user_max: many,
            queued_bytes_max: many,
            rate_per_user_max: Rate::default(),
            rate_max: Rate::default(),
            stall_timeout: Duration::from_secs(10),
        }
    }
}

/// How much may be sent in a second; `None` is as much as goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Messages, and control frames.
    pub messages: Option<u64>,
    /// Bytes of all frames.
    pub bytes: Option<u64>,
}

/// One of the bounds, as something that can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// [`Limits::instances_max`], less the reserved ones for those who may not use them.
    Instances,
    /// [`Limits::instances_per_user_max`]
    InstancesPerUser,
    /// [`Limits::subscriptions_max`]
    Subscriptions,
    /// [`Limits::subscriptions_per_user_max`]
    SubscriptionsPerUser,
    /// [`Limits::subscriptions_per_instance_max`]
    SubscriptionsPerInstance,
    /// [`Limits::topics_max`]
    Topics,
    /// [`Limits::topics_per_user_max`]
    TopicsPerUser,
    /// [`Limits::topics_per_instance_max`]
    TopicsPerInstance,
    /// [`Limits::requests_per_instance_max`]
    RequestsPerInstance,
    /// [`Limits::message_bytes_max`]
    MessageBytes,
    /// [`Limits::queue_bytes_max`]
    QueueBytes,
    /// [`Limits::queued_bytes_per_user_max`], or the user's share of what there is for all.
    QueuedBytesPerUser,
    /// [`Limits::queued_bytes_max`]
    QueuedBytes,
    /// [`Limits::rate_per_user_max`]: messages.
    MessagesPerSecond,
    /// [`Limits::rate_per_user_max`]: bytes.
    BytesPerSecond,
    /// [`Limits::rate_max`]: the user's share of messages.
    MessagesPerSecondOfAll,
    /// [`Limits::rate_max`]: the user's share of bytes.
    BytesPerSecondOfAll,
}

impl Limit {
    /// All of them, in the order of their numbers.
    pub const ALL: [Limit; 17] = [
        Limit::Instances,
        Limit::InstancesPerUser,
        Limit::Subscriptions,
        Limit::SubscriptionsPerUser,
        Limit::SubscriptionsPerInstance,
        Limit::Topics,
        Limit::TopicsPerUser,
        Limit::TopicsPerInstance,
        Limit::RequestsPerInstance,
        Limit::MessageBytes,
        Limit::QueueBytes,
        Limit::QueuedBytesPerUser,
        Limit::QueuedBytes,
        Limit::MessagesPerSecond,
        Limit::BytesPerSecond,
        Limit::MessagesPerSecondOfAll,
        Limit::BytesPerSecondOfAll,
    ];

    /// The configuration's key for it.
    pub fn key(self) -> &'static str {
        match self {
            Limit::Instances => "limits.instances_max",
            Limit::InstancesPerUser => "limits.instances_per_user_max",
            Limit::Subscriptions => "limits.subscriptions_max",
            Limit::SubscriptionsPerUser => "limits.subscriptions_per_user_max",
            Limit::SubscriptionsPerInstance => "limits.subscriptions_per_instance_max",
            Limit::Topics => "limits.topics_max",
            Limit::TopicsPerUser => "limits.topics_per_user_max",
            Limit::TopicsPerInstance => "limits.topics_per_instance_max",
            Limit::RequestsPerInstance => "limits.requests_per_instance_max",
            Limit::MessageBytes => "limits.message_bytes_max",
            Limit::QueueBytes => "queue.bytes_max",
            Limit::QueuedBytesPerUser => "limits.queued_bytes_per_user_max",
            Limit::QueuedBytes => "limits.queued_bytes_max",
            Limit::MessagesPerSecond => "limits.messages_per_second_per_user_max",
            Limit::BytesPerSecond => "limits.bytes_per_second_per_user_max",
            Limit::MessagesPerSecondOfAll => "limits.messages_per_second_max",
            Limit::BytesPerSecondOfAll => "limits.bytes_per_second_max",
        }
    }
}
