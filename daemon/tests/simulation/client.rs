//! Client: one client as the model knows it: what it has sent, what the broker has made of it, and its way down.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use pipebus_proto::control::{Overflow, Purpose, Role};
use pipebus_proto::frame::{Call, Kind};
use pipebus_proto::pattern::Pattern;
use pipebus_proto::record::{CONTROL_TOPIC, Watch};
use pipebus_proto::splitter::Span;
use pipebus_proto::topic::{Topic, TopicId};
use pipebusd::core::account::Account;
use pipebusd::core::ingress::{Ingress, Standing};

use super::down::Down;

pub(super) struct Client {
    pub(super) user: u8,
    /// A SenderInfo frame about it.
    pub(super) introduction: Bytes,
    // What it sends:
    /// Written, and not yet read by the broker.
    pub(super) up: BytesMut,
    pub(super) sequence: u64,
    pub(super) outgoing: Option<Outgoing>,
    /// Declares and retractions that the broker has not heard of.
    pub(super) unheard: usize,
    pub(super) correlation: u64,
    /// It has sent what it may not, and may be refused.
    pub(super) is_hostile: bool,
    // What the broker knows:
    pub(super) ingress: Ingress<u32>,
    pub(super) inbox: BytesMut,
    pub(super) account: Arc<Account>,
    /// The last sequence number that has been let in.
    pub(super) sequence_in: u64,
    pub(super) arriving: Option<Arriving>,
    pub(super) declared: BTreeMap<TopicId, Declared>,
    pub(super) subscriptions: BTreeMap<u32, Wanted>,
    pub(super) last_subscription: u32,
    /// What did not fit somewhere.
    pub(super) waiting: Vec<Rest>,
    pub(super) paused_until: Instant,
    /// Messages and bytes that have not been charged.
    pub(super) uncharged: (u64, u64),
    pub(super) down: Down,
}

/// A message of which fragments are still to be sent.
pub(super) struct Outgoing {
    pub(super) kind: Kind,
    pub(super) topic: TopicId,
    pub(super) call: Option<Call>,
    pub(super) fragments: usize,
    pub(super) next: usize,
}

/// A message of which fragments are still to be let in.
pub(super) struct Arriving {
    pub(super) kind: Kind,
    pub(super) topic: TopicId,
    pub(super) sequence: u64,
    pub(super) bytes: u64,
}

/// What it has said of a topic: that it publishes there, that it asks there.
pub(super) struct Declared {
    pub(super) name: Topic,
    publish: Option<Standing>,
    request: Option<Standing>,
}

pub(super) struct Wanted {
    pub(super) pattern: Pattern,
    pub(super) role: Role,
    pub(super) overflow: Overflow,
}

/// What is still to be delivered of a span.
pub(super) struct Rest {
    pub(super) to: u32,
    pub(super) span: Span,
    pub(super) overflow: Overflow,
    pub(super) introduction: Bytes,
    /// It is being written past the queue.
    pub(super) direct: bool,
    /// It has waited for room.
    pub(super) waited: bool,
    /// Of a request or a reply: which.
    pub(super) call: Option<Call>,
}

impl Declared {
    pub(super) fn new(name: Topic) -> Declared {
        Declared { name, publish: None, request: None }
    }

    pub(super) fn of(&mut self, purpose: Purpose) -> &mut Option<Standing> {
        match purpose {
            Purpose::Publish => &mut self.publish,
            Purpose::Request => &mut self.request,
        }
    }

    pub(super) fn is(&self, purpose: Purpose, standing: Standing) -> bool {
        let own = match purpose {
            Purpose::Publish => self.publish,
            Purpose::Request => self.request,
        };
        own == Some(standing)
    }

    /// Whether it has said so, be it revoked.
    pub(super) fn has(&self, purpose: Purpose) -> bool {
        self.is(purpose, Standing::Declared) || self.is(purpose, Standing::Revoked)
    }

    pub(super) fn revoke(&mut self) {
        for own in [&mut self.publish, &mut self.request] {
            *own = own.map(|_| Standing::Revoked);
        }
    }
}

impl Client {
    pub(super) fn new(
        user: u8,
        introduction: Bytes,
        account: Arc<Account>,
        ingress: Ingress<u32>,
        down: Down,
        now: Instant,
    ) -> Client {
        Client {
            user,
            introduction,
            up: BytesMut::new(),
            sequence: 0,
            outgoing: None,
            unheard: 0,
            correlation: 0,
            is_hostile: false,
            account,
            ingress,
            inbox: BytesMut::new(),
            sequence_in: 0,
            arriving: None,
            declared: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            last_subscription: 0,
            waiting: Vec::new(),
            paused_until: now,
            uncharged: (0, 0),
            down,
        }
    }

    /// Whether it waits for nobody, and nothing waits for it.
    pub(super) fn is_settled(&self) -> bool {
        self.waiting.is_empty() && self.down.is_settled()
    }

    /// Whether something that it has sent waits for room there.
    pub(super) fn waits_for(&self, to: u32) -> bool {
        self.waiting.iter().any(|rest| rest.to == to && !rest.direct)
    }

    pub(super) fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// How it wants a topic's messages, and whether it wants its requests.
    pub(super) fn wants(&self, topic: &Topic) -> (Option<Overflow>, bool) {
        let matching = || self.subscriptions.values().filter(|wanted| wanted.pattern.matches(topic));
        let messages = matching().filter(|wanted| wanted.role == Role::Subscribe);
        (messages.map(|wanted| wanted.overflow).min(), matching().any(|wanted| wanted.role == Role::Serve))
    }

    /// What it wants to be told of a topic, and which records it loses when it is slow.
    pub(super) fn watches(&self, topic: &Topic) -> Option<(Watch, Overflow)> {
        if topic.is_reserved() && topic.as_str() != CONTROL_TOPIC {
            return None;
        }
        self.monitors().find(|(wanted, _)| wanted.pattern.matches(topic)).map(|(wanted, watch)| {
            let drops_oldest = wanted.overflow == Overflow::DropOldest;
            (watch, if drops_oldest { Overflow::DropOldest } else { Overflow::DropNewest })
        })
    }

    /// Its monitors, by their numbers.
    pub(super) fn monitors(&self) -> impl Iterator<Item = (&Wanted, Watch)> {
        self.subscriptions.values().filter_map(|wanted| match wanted.role {
            Role::Monitor(watch) => Some((wanted, watch)),
            Role::Subscribe | Role::Serve => None,
        })
    }
}
