//! Requests: who waits for whose answer.
//!
//! Every request is known here until it is answered, so that only the server it went to can answer it, once, and so
//! that the requester hears at once when that server leaves.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use pipebus_proto::frame::Call;
use pipebus_proto::topic::{InstanceId, TopicId};

/// The requests under way.
#[derive(Debug, Default)]
pub struct Requests {
    open: BTreeMap<Call, Open>,
}

#[derive(Debug, PartialEq, Eq)]
struct Open {
    topic: TopicId,
    server: InstanceId,
}

impl Requests {
    /// Notes that `call` about `topic` goes to `server`; `false` if that number is under way already.
    pub fn open(&mut self, call: Call, topic: TopicId, server: InstanceId) -> bool {
        match self.open.entry(call) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(Open { topic, server });
                true
            }
        }
    }

    /// How many of the requester's are under way.
    pub fn count(&self, requester: InstanceId) -> usize {
        self.open.range(all_of(requester)).count()
    }

    /// How many are under way in all.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether `server` is the one to answer `call`, and `topic` what it is about.
    pub fn is_open(&self, call: Call, topic: TopicId, server: InstanceId) -> bool {
        self.open.get(&call) == Some(&Open { topic, server })
    }

    /// Ends a request: answered, given up, or failed. `false` if it was not under way.
    pub fn close(&mut self, call: Call) -> bool {
        self.open.remove(&call).is_some()
    }

    /// Ends all that `instance` asked, and all that it was to answer; the latter are returned, for their requesters.
    pub fn handle_gone(&mut self, instance: InstanceId) -> Vec<Call> {
        let mut orphans = Vec::new();
        self.open.retain(|call, Open { server, .. }| {
            if *server == instance && call.requester != instance {
                orphans.push(*call);
            }
            *server != instance && call.requester != instance
        });
        orphans
    }
}

fn all_of(requester: InstanceId) -> std::ops::RangeInclusive<Call> {
    Call { requester, correlation: 0 }..=Call { requester, correlation: u64::MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(requester: u32, correlation: u64) -> Call {
        Call { requester: InstanceId(requester), correlation }
    }

    const TOPIC: TopicId = TopicId(4);

    #[test]
    fn only_the_server_it_went_to_can_answer_and_only_once() {
        let mut requests = Requests::default();
        assert!(requests.open(call(1, 5), TOPIC, InstanceId(2)));
        assert!(!requests.open(call(1, 5), TOPIC, InstanceId(3)));
        assert!(requests.is_open(call(1, 5), TOPIC, InstanceId(2)));
        assert!(!requests.is_open(call(1, 5), TOPIC, InstanceId(3)));
        assert!(!requests.is_open(call(1, 5), TopicId(5), InstanceId(2)));
        requests.close(call(1, 5));
        assert!(!requests.is_open(call(1, 5), TOPIC, InstanceId(2)));
    }

    #[test]
    fn who_waits_for_a_server_that_left_is_named() {
        let mut requests = Requests::default();
        requests.open(call(1, 1), TOPIC, InstanceId(9));
        requests.open(call(2, 1), TOPIC, InstanceId(9));
        requests.open(call(2, 2), TOPIC, InstanceId(8));
        requests.open(call(9, 1), TOPIC, InstanceId(8));
        assert_eq!(requests.handle_gone(InstanceId(9)), [call(1, 1), call(2, 1)]);
        assert_eq!(requests.count(InstanceId(9)), 0);
        assert_eq!(requests.count(InstanceId(2)), 1);
    }
}
