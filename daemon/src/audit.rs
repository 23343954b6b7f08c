//! Audit: decisions of the policy that its rules want logged, with the target `audit`.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use pipebus_proto::control::Identity;
use tracing::{info, warn};

use crate::core::bus::decisions::Entry;
use crate::core::bus::describe;

/// How many are logged of each user in a second: nobody is to fill the log, nor to hide among others what it does.
const ENTRIES_PER_SECOND_MAX: u64 = 20;

/// How many decisions about whom have been seen in this second.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    seen: Mutex<HashMap<Identity, u64>>,
}

impl Audit {
    /// Logs a decision, unless there have been too many about this user.
    pub(crate) fn log(&self, entry: &Entry) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let count = seen.entry(entry.peer.identity.clone()).or_default();
        *count += 1;
        if *count <= ENTRIES_PER_SECOND_MAX {
            write(entry);
        }
    }

    /// A second has passed: tells how many were left out.
    pub(crate) fn next_second(&self) {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        for (identity, count) in seen.iter().filter(|(_, count)| **count > ENTRIES_PER_SECOND_MAX) {
            let left_out = count - ENTRIES_PER_SECOND_MAX;
            warn!(target: "audit", who = describe(identity), left_out, "more decisions than are logged");
        }
    }
}

fn write(entry: &Entry) {
    let Entry { peer, instance, action, topic, rule, allowed } = entry;
    info!(
        target: "audit",
        who = describe(&peer.identity),
        pid = peer.pid,
        instance = instance.map(|instance| instance.0),
        action = action.word(),
        topic,
        rule,
        allowed,
        "{}", if *allowed { "allowed" } else { "denied" }
    );
}
