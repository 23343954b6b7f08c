//! Watched: large frames on their way that somebody monitors.
//!
//! They are looked at before they go on, since they can't be later; those who watch are told of them afterwards.

use std::sync::Arc;

use bytes::Bytes;
use pipebus_proto::frame::HEAD_BYTES;
use pipebus_proto::record::RECORD_HEAD_BYTES;
use pipebus_proto::topic::InstanceId;

use super::Delivery;
use super::gathered::Gathered;
use crate::broker::Broker;
use crate::core::records::Passage;
use crate::core::routes::{Route, Watcher};
use crate::outbox::Outbox;

/// Large frames that pass as pages. Dropped, those who watch are told of them, whatever has become of their publisher.
pub(crate) struct Watched<'a> {
    broker: &'a Broker,
    route: &'a Route<Arc<Outbox>>,
    sender: &'a Bytes,
    gathered: &'a Gathered,
    /// The first bytes of each body, of each as many.
    bodies: Vec<u8>,
    pub(crate) passage: Passage,
}

impl<'a> Watched<'a> {
    /// Looks at them before they go on, if somebody watches: at as much as those want who have room for it.
    pub(crate) fn begin(delivery: &Delivery<'a>, gathered: &'a Gathered) -> Option<Watched<'a>> {
        let Delivery { broker, route, names, .. } = *delivery;
        let body = gathered.frame_bytes() - HEAD_BYTES;
        if route.watchers.is_empty() {
            return None;
        }
        let mut passage = Passage::begin(route.targets.len(), InstanceId::BROKER);
        let wanted = |Watcher { watch, overflow, to, .. }: &Watcher<Arc<Outbox>>| {
            let captured = watch.captured(body);
            let has_room = || HEAD_BYTES + RECORD_HEAD_BYTES + captured <= to.room_for_records(*overflow);
            // They are all alike.
            Some(captured).filter(|_| watch.wants(&gathered.head(0)) && has_room())
        };
        passage.looked_at = route.watchers.iter().filter_map(wanted).max().unwrap_or(0);
        let bodies = gathered.look(passage.looked_at);
        Some(Watched { broker, route, sender: names.sender, gathered, bodies, passage })
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let frames = self.gathered.span.frames as usize;
        let bytes = self.bodies.len() / frames;
        let body = |number: usize| &self.bodies[number * bytes..][..bytes];
        let each = (0..frames).map(|number| (self.gathered.head(number), body(number)));
        self.broker.tell(self.route, self.sender, each, &self.passage);
    }
}
