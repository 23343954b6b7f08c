//! Control frames: all that client and broker say to each other besides messages.
//!
//! The order of the variants is the protocol: each one's number is its place. Add new ones at the end.

mod words;

use serde::{Deserialize, Serialize};

use crate::record::Watch;
use crate::topic::{InstanceId, TopicId};

/// The body of a frame of kind [`crate::frame::Kind::Control`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// Client: the first frame on an instance's pipe.
    Hello {
        /// [`crate::frame::PROTOCOL_VERSION`] of the client.
        version: u16,
        /// What the client calls itself, for people; at most [`NAME_BYTES_MAX`] bytes.
        name: String,
    },
    /// Broker: the answer to Hello. The instance now exists.
    Welcome(Welcome),
    /// Broker: no, and why. The connection goes on unless Goodbye or, instead of Welcome, its end follows.
    Refused {
        /// What is refused.
        regarding: Regarding,
        /// Why, for programs.
        reason: Reason,
        /// Why, for people: what, where, and what to do.
        text: String,
    },
    /// Client: I have said all. Broker: likewise, after all that was waiting for the client. Nothing follows.
    Goodbye {
        /// Why.
        cause: Farewell,
    },
    /// Client: I want to send to this topic. Answered by Declared or Refused.
    Declare {
        /// The client's number for this question.
        token: u32,
        /// The topic's name.
        topic: String,
        /// What is to be sent.
        purpose: Purpose,
    },
    /// Broker: the topic's id.
    Declared {
        /// The token of the question.
        token: u32,
        /// The id to send with.
        topic: TopicId,
    },
    /// Client: I will send to this topic no more. Not answered.
    Retract {
        /// The id.
        topic: TopicId,
    },
    /// Client: I want what matches this pattern. Answered by Subscribed or Refused.
    Subscribe {
        /// The client's number for the subscription, unique among its living ones.
        subscription: u32,
        /// Which topics.
        pattern: String,
        /// Messages, requests or records.
        role: Role,
        /// What happens when the instance's queue is full.
        overflow: Overflow,
    },
    /// Broker: whatever is published from now on will come.
    Subscribed {
        /// The client's number for it.
        subscription: u32,
    },
    /// Client: I want no more of it. Answered by Unsubscribed or Refused.
    Unsubscribe {
        /// The client's number for it.
        subscription: u32,
    },
    /// Broker: no message that is published from now on will come for it; what was on its way still may.
    Unsubscribed {
        /// The client's number for it.
        subscription: u32,
    },
    /// Broker: the name of a topic id, before the first message that bears it.
    TopicInfo {
        /// The id.
        topic: TopicId,
        /// The name.
        name: String,
    },
    /// Broker: the topic id will not be seen again.
    TopicGone {
        /// The id.
        topic: TopicId,
    },
    /// Broker: who a sender is, before its first message.
    SenderInfo {
        /// Its id.
        sender: InstanceId,
        /// Who the operating system says it is.
        identity: Identity,
        /// What it calls itself.
        name: String,
    },
    /// Broker: the sender has left, and what it had not finished will not come.
    SenderGone {
        /// Its id.
        sender: InstanceId,
    },
    /// Broker: messages were lost here, since the client was slow.
    Gap {
        /// On which topic; 0 if on several, or on one that the client has not been told of.
        topic: TopicId,
        /// How many.
        messages: u64,
    },
    /// Broker: the rest of the sender's unfinished message will not come. A Gap counts it, unless the sender has
    /// retracted its topic.
    Abort {
        /// The sender.
        sender: InstanceId,
    },
    /// Client: answer when all before this has been routed.
    Ping {
        /// Returned in the Pong.
        token: u64,
    },
    /// Broker: all before the Ping has been routed.
    Pong {
        /// The Ping's.
        token: u64,
    },
    /// Broker: nobody will answer the request.
    RequestFailed {
        /// The request's.
        correlation: u64,
        /// Why.
        failure: Failure,
    },
    /// Client: I no longer wait for the answer. Not answered.
    Cancel {
        /// The request's.
        correlation: u64,
    },
    /// Client: I have read all loaned messages of the sender up to this one. Not answered.
    Consumed {
        /// The sender.
        sender: InstanceId,
        /// The number of the last.
        sequence: u64,
    },
    /// Broker: nobody reads the pages of these loaned messages any more. At most [`RELEASED_MAX`].
    Released {
        /// Their numbers.
        sequences: Vec<u64>,
    },
    /// Broker: the policy has changed, and you may not send to this topic any more. What you still send there goes
    /// nowhere; retract it, or declare it again when that may be allowed.
    Revoked {
        /// The id.
        topic: TopicId,
        /// What may not be sent.
        purpose: Purpose,
        /// Why, for people.
        text: String,
    },
    /// Client: the first frame, instead of Hello, of one that comes for the broker alone, to ask it, to order it or to hear
    /// its events. Answered as Hello. It is let in though the broker drains, if the policy lets it order that.
    Visit {
        /// [`crate::frame::PROTOCOL_VERSION`] of the client.
        version: u16,
        /// What the client calls itself, for people; at most [`NAME_BYTES_MAX`] bytes.
        name: String,
    },
    /// Broker: I am about to end. Say goodbye: what you have sent before is still routed, if that comes soon.
    LastCall,
}

/// How many messages one Released can name.
pub const RELEASED_MAX: usize = 500;

/// The longest name of a client, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// What a client is told when it is let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The client's id, the sender in all its messages.
    pub client: InstanceId,
    /// The broker's version, for people.
    pub broker_version: String,
    /// The largest message, metadata and payload, in bytes.
    pub message_bytes_max: u64,
}

/// What a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Regarding {
    /// The connection as a whole.
    Connection,
    /// The Declare with this token.
    Declare(u32),
    /// The Subscribe or Unsubscribe with this number.
    Subscription(u32),
}

/// Why the broker refuses, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Reason {
    /// The other side speaks another version of the protocol.
    Version,
    /// The client may not do that.
    Forbidden,
    /// The broker has as many instances as it may have.
    BrokerFull,
    /// The user has as many instances as it may have.
    UserFull,
    /// The client has as many topics or subscriptions as it may have.
    TooMany,
    /// A topic or pattern is malformed.
    Name,
    /// A message is larger than [`Welcome::message_bytes_max`].
    TooLarge,
    /// The client broke the protocol.
    Protocol,
    /// The broker lacks something, such as file descriptors.
    Exhausted,
    /// The broker knows no such topic, subscription or service.
    Unknown,
    /// The broker lets nobody new in, and ends once all have left.
    Draining,
    /// The broker is about to end. Who knocks again reaches the next one, if there will be one.
    Ending,
}

/// Why somebody says goodbye.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Farewell {
    /// The client wants to leave.
    Leaving,
    /// The broker shuts down.
    Shutdown,
    /// The instance was too slow, and its subscription says `disconnect`; or it never read the answers it asked for.
    Slow,
    /// The client broke the protocol; a Refused before this says how.
    Protocol,
    /// The policy has changed, and the client may not be here any more; a Refused before this says why. Or an
    /// administrator disconnected it. Clients stay away when told.
    Disconnected,
}

/// What a topic is declared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Purpose {
    /// Messages.
    Publish,
    /// Requests.
    Request,
}

/// What a subscription gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Every message.
    Subscribe,
    /// Requests; each goes to one server.
    Serve,
    /// Records of the frames that pass, of messages, requests and replies; of control frames on
    /// [`CONTROL_TOPIC`](crate::record::CONTROL_TOPIC). With overflow `drop-oldest` the oldest that wait are dropped,
    /// with any other the new ones: nobody ever waits for a monitor.
    Monitor(Watch),
}

/// What happens to messages for a subscription when the instance's queue is full.
///
/// Where several subscriptions of an instance match a topic, the first in this order counts: the one that loses
/// least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overflow {
    /// The publisher waits. If the subscriber takes nothing for the stall time-out, its new messages are dropped
    /// until it moves again.
    #[default]
    Block,
    /// The oldest waiting messages are dropped.
    DropOldest,
    /// The new message is dropped.
    DropNewest,
    /// Of each topic the newest message is kept.
    Latest,
    /// The instance is disconnected.
    Disconnect,
}

/// Who somebody is, from the operating system.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// A user of a Unix system.
    Unix {
        /// The user's number.
        uid: u32,
    },
    /// An account of a Windows system.
    Windows {
        /// The account's security identifier, as text.
        sid: String,
    },
}

/// Why nobody will answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// Nobody serves the topic.
    NoServer,
    /// The server took nothing for so long that the request was not kept for it.
    Busy,
    /// The server left before it answered.
    ServerGone,
    /// The requester has too many requests unanswered.
    TooMany,
    /// The policy has changed, and the requester may not ask there any more.
    Forbidden,
}
