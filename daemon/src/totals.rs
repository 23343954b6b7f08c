//! Totals: what all instances have, and what they and those before them have had.

use std::sync::Arc;

use crate::broker::Broker;
use crate::core::bus::Bus;
use crate::counters::{Counter, Counters};
use crate::outbox::Outbox;

/// Summed over all instances.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) subscriptions: u64,
    /// Instances that monitor.
    pub(crate) monitors: u64,
    pub(crate) queued_bytes: u64,
    /// How full the fullest queue is, of 1.
    pub(crate) fullest: f64,
    /// Instances that have taken nothing for the stall time-out.
    pub(crate) stalled: u64,
    /// Publishers that wait for room somewhere.
    pub(crate) waiting: u64,
    /// What has passed, those before them included.
    pub(crate) passed: Counters,
    /// What was lost, those before them included.
    pub(crate) dropped: Counter,
}

impl Totals {
    /// Of the bus, which the caller has locked: so each instance is found, among the living or among those before.
    pub(crate) fn of(broker: &Broker, bus: &Bus<Arc<Outbox>>) -> Totals {
        let mut totals = Totals::default();
        totals.passed.absorb(&broker.ended);
        totals.dropped.add(broker.ended_dropped.read());
        for (_, instance) in bus.instances() {
            let fill = instance.to.fill();
            totals.passed.absorb(&instance.to.counters);
            totals.dropped.add(fill.dropped);
            totals.subscriptions += instance.subscriptions.len() as u64;
            totals.monitors += u64::from(instance.is_monitor());
            totals.queued_bytes += fill.queued_bytes;
            totals.fullest = totals.fullest.max(fill.queued_bytes as f64 / fill.queue_bytes_max as f64);
            totals.stalled += u64::from(fill.stalled);
            totals.waiting += fill.waiting;
        }
        totals
    }
}
