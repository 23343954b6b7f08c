//! Review: what the broker looks at every second, limits that were reached and what the audit left out; and now and then,
//! whose groups have changed.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use pipebus_proto::admin::{LIMIT_EVENT, LimitEvent};
use pipebus_proto::control::Identity;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::warn;

use crate::broker::Broker;
use crate::core::bus::describe;
use crate::core::limits::Limit;
use crate::core::users::Reached;
use crate::counters::Counter;
use crate::events;

const INTERVAL: Duration = Duration::from_secs(1);

/// How often it is logged at most that somebody reaches a limit.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Which limits were reached, and of which of them the log has been told.
#[derive(Debug, Default)]
pub(crate) struct Reviewed {
    counts: [Counter; Limit::ALL.len()],
    said: Mutex<HashMap<(Option<Identity>, Limit), Instant>>,
}

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
    loop {
        seconds.tick().await;
        review(broker);
    }
}

/// Looks now and then whose groups have changed, for as long as it is polled. It may take any time.
pub(crate) async fn keep_refreshing(broker: &Broker) {
    loop {
        tokio::time::sleep(broker.membership.lifetime()).await;
        broker.refresh_groups().await;
    }
}

fn review(broker: &Broker) {
    let reached = broker.bus().review(Instant::now().into_std());
    for reached in reached {
        broker.reviewed.note(&reached);
        let Reached { user, limit, times } = reached;
        events::publish(broker, LIMIT_EVENT, &LimitEvent { limit: limit.key().to_owned(), identity: user, times });
    }
    broker.audit.next_second();
}
