//! Denials: what the policy has refused lately, to be told of now and then.

use std::collections::HashMap;

use pipebus_proto::control::{Identity, Reason};
use pipebus_proto::topic::InstanceId;

use super::{Bus, Entry, describe};
use crate::core::policy::{Action, Decision, Peer};
use crate::core::refused::Refused;

/// How many are kept of each user until they are taken: nobody is to hide among others what it tries.
const KEPT_MAX: usize = 20;

/// What one user was refused.
#[derive(Debug, Default)]
pub struct Denied {
    /// The first of it.
    pub entries: Vec<Entry>,
    /// How many more there were.
    pub left_out: u64,
}

impl<T> Bus<T> {
    /// What users were refused since the last call. To be called every second or so.
    pub fn take_denials(&mut self) -> HashMap<Identity, Denied> {
        std::mem::take(&mut self.denials)
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
