//! Decisions: what the policy says of those who are here or want to be, and what is to be told of that.

use std::collections::HashMap;

use pipebus_proto::control::{Identity, Reason};
use pipebus_proto::topic::{InstanceId, Topic};

use super::{Bus, Effect, describe};
use crate::core::policy::{Action, Decision, Group, Peer, Subject};
use crate::core::refused::Refused;

/// How many are kept of each user until they are taken: nobody is to hide among others what it tries.
const KEPT_MAX: usize = 20;

/// A decision of the policy, for the log and for events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who wanted to do something.
    pub peer: Peer,
    /// As which instance, unless it was to become one.
    pub instance: Option<InstanceId>,
    /// What.
    pub action: Action,
    /// On which topics: a topic or a pattern.
    pub topic: Option<String>,
    /// Which rule decided.
    pub rule: String,
    /// Whether it may.
    pub allowed: bool,
}

impl Entry {
    fn new(
        instance: Option<InstanceId>,
        peer: &Peer,
        action: Action,
        topic: Option<&str>,
        decision: &Decision<'_>,
    ) -> Entry {
        let (peer, topic) = (peer.clone(), topic.map(str::to_owned));
        Entry { peer, instance, action, topic, rule: decision.to_string(), allowed: decision.allowed }
    }
}

/// What one user was refused.
#[derive(Debug, Default)]
pub struct Denied {
    /// The first of it.
    pub entries: Vec<Entry>,
    /// How many more there were.
    pub left_out: u64,
}

impl<T: Clone> Bus<T> {
    /// What users were refused since the last call. To be called every second or so.
    pub fn take_denials(&mut self) -> HashMap<Identity, Denied> {
        std::mem::take(&mut self.denials)
    }

    /// Who may look at the bus's instances may also use those that are reserved for administrators.
    pub(super) fn is_administrator(&self, subject: Subject<'_>) -> bool {
        let topic = Topic::new(pipebus_proto::admin::INSTANCES).ok();
        self.policy.decide(subject, Action::Admin, topic.as_ref()).allowed
    }

    /// What the policy says, which is logged if it is to be.
    ///
    /// # Errors
    /// It says no.
    pub(super) fn judge(
        &mut self,
        instance: Option<InstanceId>,
        peer: &Peer,
        groups: &[Group],
        action: Action,
        topic: Option<&Topic>,
    ) -> Result<(), Refused> {
        let policy = self.policy.clone();
        let decision = policy.decide(Subject { identity: &peer.identity, groups }, action, topic);
        let topic = topic.map(Topic::as_str);
        self.audit(instance, peer, action, topic, &decision);
        if decision.allowed { Ok(()) } else { Err(self.deny(instance, peer, action, topic, &decision)) }
    }

    pub(super) fn audit(
        &mut self,
        instance: Option<InstanceId>,
        peer: &Peer,
        action: Action,
        topic: Option<&str>,
        decision: &Decision<'_>,
    ) {
        if decision.is_audited() {
            self.effects.push_back(Effect::Audit(Entry::new(instance, peer, action, topic, decision)));
        }
    }

    /// Notes that the policy refuses something. Returns what the client is told.
    pub(super) fn deny(
        &mut self,
        instance: Option<InstanceId>,
        peer: &Peer,
        action: Action,
        topic: Option<&str>,
        decision: &Decision<'_>,
    ) -> Refused {
        let denied = self.denials.entry(peer.identity.clone()).or_default();
        if denied.entries.len() < KEPT_MAX {
            denied.entries.push(Entry::new(instance, peer, action, topic, decision));
        } else {
            denied.left_out += 1;
        }
        forbidden(decision, peer, action, topic)
    }
}

fn forbidden(decision: &Decision<'_>, peer: &Peer, action: Action, topic: Option<&str>) -> Refused {
    let who = describe(&peer.identity);
    let what = topic.map(|topic| format!(" {topic}")).unwrap_or_default();
    let action = action.word();
    let text = match decision.rule {
        Some(_) => format!("{decision} of the bus's policy denies {who} to {action}{what}"),
        None => format!("no rule of the bus's policy lets {who} {action}{what}"),
    };
    Refused::new(Reason::Forbidden, format!("{text}; who owns the bus can change policy.rules"))
}
