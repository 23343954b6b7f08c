//! Drain: the broker lets nobody new in, and ends once all have left, or when its time is over.
//!
//! Who is let in and who is waited for, the core decides; here is the order, the time and the end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pipebus_proto::admin::{DRAIN_EVENT, Draining};
use pipebus_proto::topic::InstanceId;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::broker::Broker;
use crate::core::bus::Bus;
use crate::events;
use crate::outbox::Outbox;

/// What the core is not told of a drain.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    /// When the broker ends in any case. Changed under the bus's lock, with all else.
    deadline: Mutex<Option<Instant>>,
    /// Rung when it may be time to end, or when that is.
    bell: Notify,
}

impl Drain {
    fn deadline(&self) -> Option<Instant> {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_deadline(&self, deadline: Option<Instant>) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }

    /// Somebody has left, and nobody is waited for any more.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }
}

/// Begins to drain, or goes on with another time-out.
pub(crate) fn begin(broker: &Broker, by: InstanceId, timeout: Option<Duration>) -> Draining {
    // Longer than time can be told is for ever.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let state = {
        let mut bus = broker.bus();
        bus.drain(by);
        broker.drain.set_deadline(deadline);
        state(broker, &bus).unwrap_or_default()
    };
    info!(by = by.0, instances = state.instances, timeout_ms = state.timeout_ms, "draining: nobody new is let in");
    events::publish(broker, DRAIN_EVENT, &state);
    broker.drain.ring();
    state
}

/// Calls it off, if it has begun.
pub(crate) fn cancel(broker: &Broker, by: InstanceId) -> Draining {
    let was_draining = {
        let mut bus = broker.bus();
        let was_draining = bus.awaited().is_some();
        bus.cancel_drain();
        broker.drain.set_deadline(None);
        was_draining
    };
    let state = Draining::default();
    if was_draining {
        info!(by = by.0, "the drain is called off");
        events::publish(broker, DRAIN_EVENT, &state);
        broker.drain.ring();
    }
    state
}

/// How far it has come, if it has begun.
pub(crate) fn state(broker: &Broker, bus: &Bus<Arc<Outbox>>) -> Option<Draining> {
    let instances = bus.awaited()? as u64;
    let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now()).as_millis();
    let timeout_ms = broker.drain.deadline().map(|deadline| u64::try_from(left(deadline)).unwrap_or(u64::MAX));
    Some(Draining { draining: true, instances, timeout_ms })
}

/// Waits until the broker has been drained, or the time for that is over. For one who waits.
pub(crate) async fn drained(broker: &Broker) {
    loop {
        let (awaited, deadline) = {
            let bus = broker.bus();
            (bus.awaited(), broker.drain.deadline())
        };
        match (awaited, deadline) {
            (Some(0), _) => return info!("drained: all have left"),
            (Some(instances), Some(deadline)) if deadline <= Instant::now() => {
                return warn!(instances, "the time to drain is over, though some have not left");
            }
            (Some(_), Some(deadline)) => {
                let _ = tokio::time::timeout_at(deadline, broker.drain.bell.notified()).await;
            }
            // Rung at any time before, it is heard now.
            (Some(_), None) | (None, _) => broker.drain.bell.notified().await,
        }
    }
}
