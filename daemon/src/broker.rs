//! Broker: the lock around the bus, for control, and the snapshot of its routes, for messages.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;
use pipebus_proto::control::{Control, Identity, Purpose};
use pipebus_proto::frame::Call;
use pipebus_proto::place::Place;
use pipebus_proto::topic::{InstanceId, Topic, TopicId};
use pipebus_proto::wire::encode_control;
use tokio::time::Instant;

use crate::config::Config;
use crate::core::bus::{Bus, Effect, Refused, Server};
use crate::core::policy::{Peer, Policy};
use crate::core::routes::Routes;
use crate::counters::{Counter, Counters};
use crate::outbox::Outbox;

/// What all instances share.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) config: Config,
    pub(crate) place: Place,
    pub(crate) started: Instant,
    bus: Mutex<Bus<Arc<Outbox>>>,
    routes: ArcSwap<Routes<Arc<Outbox>>>,
    /// What has passed the instances that have ended.
    pub(crate) ended: Counters,
    /// Messages that they lost.
    pub(crate) ended_dropped: Counter,
    /// The broker's own messages.
    pub(crate) sequence: Counter,
    /// A SenderInfo frame of the broker itself.
    pub(crate) introduction: Bytes,
}

impl Broker {
    pub(crate) fn new(config: Config, place: Place, owner: Identity, own: &[Topic]) -> Broker {
        let policy = Policy { owner: owner.clone() };
        let bus = Bus::new(config.limits(), policy, own);
        Broker {
            place,
            started: Instant::now(),
            routes: ArcSwap::from_pointee(bus.routes()),
            bus: Mutex::new(bus),
            ended: Counters::default(),
            ended_dropped: Counter::default(),
            sequence: Counter::default(),
            introduction: encode_control(&Control::SenderInfo {
                sender: InstanceId::BROKER,
                identity: owner,
                name: "pipebusd".to_owned(),
            }),
            config,
        }
    }

    /// The routes as they are now. For one look-up after another, not to be kept.
    pub(crate) fn routes(&self) -> arc_swap::Guard<Arc<Routes<Arc<Outbox>>>> {
        self.routes.load()
    }

    pub(crate) fn connect(&self, peer: Peer, name: String, to: Arc<Outbox>) -> Result<InstanceId, Refused> {
        self.bus().connect(peer, name, to, Instant::now().into_std())
    }

    pub(crate) fn handle_control(&self, from: InstanceId, control: Control) {
        let mut bus = self.bus();
        bus.handle_control(from, control);
        self.carry_out(&mut bus);
    }

    pub(crate) fn handle_gone(&self, instance: InstanceId, outbox: &Outbox) {
        let mut bus = self.bus();
        bus.handle_gone(instance);
        self.carry_out(&mut bus);
        // Under the lock, so that whoever counts finds each instance here or there.
        self.ended.absorb(&outbox.counters);
        self.ended_dropped.add(outbox.fill().dropped);
    }

    pub(crate) fn handle_request(&self, topic: TopicId, call: Call) -> Option<Server<Arc<Outbox>>> {
        let mut bus = self.bus();
        let server = bus.handle_request(topic, call);
        self.carry_out(&mut bus);
        server.ok()
    }

    pub(crate) fn handle_unheard(&self, call: Call) {
        let mut bus = self.bus();
        bus.handle_unheard(call);
        self.carry_out(&mut bus);
    }

    pub(crate) fn handle_answered(&self, call: Call) {
        self.bus().handle_answered(call);
    }

    pub(crate) fn requester(&self, call: Call, topic: TopicId, from: InstanceId) -> Option<Arc<Outbox>> {
        self.bus().requester(call, topic, from)
    }

    pub(crate) fn may_send(&self, from: InstanceId, topic: TopicId, purpose: Purpose) -> bool {
        self.bus().may_send(from, topic, purpose)
    }

    /// A SenderInfo frame about an instance.
    pub(crate) fn introduce(&self, sender: InstanceId) -> Bytes {
        let bus = self.bus();
        let Some(instance) = bus.instance(sender) else { return Bytes::new() };
        let (identity, name) = (instance.peer.identity.clone(), instance.name.to_string());
        encode_control(&Control::SenderInfo { sender, identity, name })
    }

    /// Wakes the task of every instance.
    pub(crate) fn wake_all(&self) {
        self.bus().instances().for_each(|(_, instance)| instance.to.wake());
    }

    /// The bus, for a look at it. Whoever holds it keeps all control frames waiting.
    pub(crate) fn bus(&self) -> MutexGuard<'_, Bus<Arc<Outbox>>> {
        self.bus.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what the core says, in its order and under its lock, so that an answer never overtakes the routes.
    fn carry_out(&self, bus: &mut Bus<Arc<Outbox>>) {
        let mut routes_changed = false;
        while let Some(effect) = bus.poll_effect() {
            // Many changes in a row make one snapshot, in place before anybody is told of them.
            if let Effect::RoutesChanged = effect {
                routes_changed = true;
                continue;
            }
            if std::mem::take(&mut routes_changed) {
                self.routes.store(Arc::new(bus.routes()));
            }
            match effect {
                Effect::RoutesChanged => {}
                Effect::Send { to, control } => to.send(&control),
                Effect::TopicGone(topic) => bus.instances().for_each(|(_, i)| i.to.forget_topic(topic)),
                Effect::SenderGone(sender) => bus.instances().for_each(|(_, i)| i.to.forget_sender(sender)),
            }
        }
        if routes_changed {
            self.routes.store(Arc::new(bus.routes()));
        }
    }
}
