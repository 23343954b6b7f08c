//! Review: what the broker looks at every second, limits that were reached, what was lost and refused, and what was left
//! out of the audit and the events; and now and then, whose groups have changed.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;

use pipebus_proto::admin::{GAP_EVENT, GapEvent, LIMIT_EVENT, LimitEvent, POLICY_EVENT, PolicyEvent};
use pipebus_proto::control::Identity;
use pipebus_proto::topic::InstanceId;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::warn;

use crate::broker::Broker;
use crate::core::bus::decisions::Entry;
use crate::core::bus::describe;
use crate::core::limits::Limit;
use crate::core::users::Reached;
use crate::counters::Counter;
use crate::{episode, events};

const INTERVAL: Duration = Duration::from_secs(1);

/// How often it is logged at most that somebody reaches a limit.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Which limits were reached, and of which of them the log has been told.
#[derive(Debug, Default)]
pub(crate) struct Reviewed {
    counts: [Counter; Limit::ALL.len()],
    said: Mutex<HashMap<(Option<Identity>, Limit), Instant>>,
}

/// How many messages instances that live have lost, when that was last told.
type Lost = HashMap<InstanceId, u64>;

impl Reviewed {
    /// How often each limit has been reached, of those that have.
    pub(crate) fn reached(&self) -> impl Iterator<Item = (Limit, u64)> {
        Limit::ALL.into_iter().map(|limit| (limit, self.times(limit))).filter(|(_, times)| *times > 0)
    }

    /// How often one has been.
    pub(crate) fn times(&self, limit: Limit) -> u64 {
        self.counts[limit as usize].read()
    }

    fn note(&self, reached: &Reached) {
        let Reached { user, limit, times } = reached;
        self.counts[*limit as usize].add(*times);
        let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        said.retain(|_, time| time.elapsed() < WARNING_INTERVAL);
        if said.contains_key(&(user.clone(), *limit)) {
            return;
        }
        said.insert((user.clone(), *limit), Instant::now());
        let who = user.as_ref().map_or_else(|| "somebody new".to_owned(), describe);
        warn!(who, limit = limit.key(), times, "a limit is reached");
    }
}

/// Reviews the bus for as long as it is polled.
pub(crate) async fn keep_reviewing(broker: &Broker) {
    let mut seconds = interval(INTERVAL);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut lost = Lost::new();
    loop {
        seconds.tick().await;
        review(broker, &mut lost);
        episode::tell_rest();
    }
}

/// Looks now and then whose groups have changed, for as long as it is polled. It may take any time.
pub(crate) async fn keep_refreshing(broker: &Broker) {
    loop {
        tokio::time::sleep(broker.membership.lifetime()).await;
        broker.refresh_groups().await;
    }
}

fn review(broker: &Broker, lost: &mut Lost) {
    let reached = broker.bus().review(Instant::now().into_std());
    // Whoever loses messages has reached one of these.
    let is_lossy = |limit| matches!(limit, Limit::QueueBytes | Limit::QueuedBytesPerUser | Limit::QueuedBytes);
    let lossy = reached.iter().filter(|reached| is_lossy(reached.limit)).filter_map(|reached| reached.user.clone());
    tell_losses(broker, lost, &lossy.collect());
    for reached in reached {
        broker.reviewed.note(&reached);
        let Reached { user, limit, times } = reached;
        events::publish(broker, LIMIT_EVENT, &LimitEvent { limit: limit.key().to_owned(), identity: user, times });
    }
    tell_denials(broker);
    broker.audit.next_second();
    events::next_second(broker);
}

/// Tells what instances of these users have lost since that was last told.
fn tell_losses(broker: &Broker, lost: &mut Lost, lossy: &HashSet<Identity>) {
    if lossy.is_empty() {
        return;
    }
    let mut gaps = Vec::new();
    {
        let bus = broker.bus();
        lost.retain(|instance, _| bus.instance(*instance).is_some());
        for (id, instance) in bus.instances().filter(|(_, instance)| lossy.contains(&instance.peer.identity)) {
            let dropped = instance.to.fill().dropped;
            let told = lost.get(&id).copied().unwrap_or(0);
            if dropped > told {
                lost.insert(id, dropped);
                let (name, identity) = (instance.name.to_string(), instance.peer.identity.clone());
                gaps.push(GapEvent { instance: id.0, name, identity, messages: dropped - told });
            }
        }
    }
    for gap in gaps {
        let identity = gap.identity.clone();
        events::publish_about(broker, GAP_EVENT, &identity, || gap);
    }
}

/// Tells what the policy has refused.
fn tell_denials(broker: &Broker) {
    let denials = broker.bus().take_denials();
    for (identity, denied) in denials {
        for Entry { peer, instance, action, topic, rule, .. } in denied.entries {
            let event = PolicyEvent {
                identity: peer.identity,
                pid: peer.pid,
                instance: instance.map(|instance| instance.0),
                action: action.word().to_owned(),
                topic,
                rule,
            };
            events::publish(broker, POLICY_EVENT, &event);
        }
        events::publish_left_out(broker, POLICY_EVENT, identity, denied.left_out);
    }
}
