//! Broker: the lock around the bus, for control, and the snapshot of its routes, for messages.

mod monitor;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use pipebus_proto::admin::Cause;
use pipebus_proto::control::{Control, Identity, Purpose, Reason};
use pipebus_proto::frame::Call;
use pipebus_proto::place::Place;
use pipebus_proto::record::CONTROL_TOPIC;
use pipebus_proto::topic::{InstanceId, Topic, TopicId};
use pipebus_proto::wire::encode_control;
use tokio::time::Instant;
use tracing::warn;

use crate::audit::Audit;
use crate::config::Config;
use crate::core::account::Account;
use crate::core::bus::{Bus, Effect, Hello, Instance, describe};
use crate::core::ingress::{Exchange, Server, Standing};
use crate::core::latency::Latency;
use crate::core::limits::{Limit, Limits};
use crate::core::policy::{Group, Peer, Policy};
use crate::core::refused::Refused;
use crate::core::routes::Routes;
use crate::counters::{Counter, Counters, Tally};
use crate::drain::Drain;
use crate::events::Events;
use crate::host::{Host, Nobody};
use crate::membership::Membership;
use crate::outbox::Outbox;
use crate::review::Reviewed;
use crate::rules::RuleSection;

/// How long the system may take to tell the groups of one user, where nobody waits at the door for it.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// What all instances share.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) config: Config,
    pub(crate) place: Place,
    pub(crate) started: Instant,
    /// The same by the machine's clock, for others.
    pub(crate) started_at: SystemTime,
    /// Who owns the bus: the user that the broker runs as.
    pub(crate) owner: Identity,
    bus: Mutex<Bus<Arc<Outbox>>>,
    routes: ArcSwap<Routes<Arc<Outbox>>>,
    /// What has passed the instances that have ended.
    pub(crate) ended: Counters,
    /// Messages that they lost.
    pub(crate) ended_dropped: Counter,
    /// What has happened to clients.
    pub(crate) tally: Arc<Tally>,
    /// How long messages are here, of those that are timed.
    pub(crate) latency: Arc<Latency>,
    /// The broker's own answers.
    pub(crate) sequence: Counter,
    pub(crate) events: Events,
    pub(crate) drain: Drain,
    /// Held while the configuration is read anew: once at a time.
    pub(crate) reloading: tokio::sync::Mutex<()>,
    /// The program that this broker runs in, once it has said so.
    pub(crate) host: OnceLock<Box<dyn Host>>,
    /// The policy as it is written.
    pub(crate) rules: ArcSwap<Vec<RuleSection>>,
    pub(crate) membership: Arc<Membership>,
    pub(crate) audit: Audit,
    pub(crate) reviewed: Reviewed,
    /// A SenderInfo frame of the broker itself.
    pub(crate) introduction: Bytes,
    /// The topic of what it and its clients say to each other.
    pub(crate) control: Option<TopicId>,
}

impl Broker {
    /// `policy` is what the configuration's rules are on this machine.
    pub(crate) fn new(config: Config, policy: Policy, place: Place, owner: Identity, own: &[Topic]) -> Broker {
        let bus = Bus::new(config.limits(), policy, own);
        Broker {
            place,
            started: Instant::now(),
            control: Topic::new(CONTROL_TOPIC).ok().and_then(|topic| bus.topic(&topic)),
            started_at: SystemTime::now(),
            routes: ArcSwap::from_pointee(bus.routes()),
            events: Events::new(own.iter().filter_map(|topic| Some((topic.clone(), bus.topic(topic)?)))),
            bus: Mutex::new(bus),
            drain: Drain::default(),
            reloading: tokio::sync::Mutex::default(),
            host: OnceLock::new(),
            ended: Counters::default(),
            ended_dropped: Counter::default(),
            tally: Arc::default(),
            latency: Arc::default(),
            sequence: Counter::default(),
            rules: ArcSwap::from_pointee(config.policy.rules.clone()),
            membership: Arc::new(Membership::new(config.groups_lifetime())),
            audit: Audit::default(),
            reviewed: Reviewed::default(),
            introduction: encode_control(&Control::SenderInfo {
                sender: InstanceId::BROKER,
                identity: owner.clone(),
                name: "pipebusd".to_owned(),
            }),
            owner,
            config,
        }
    }

    /// The routes as they are now. For one look-up after another, not to be kept.
    pub(crate) fn routes(&self) -> arc_swap::Guard<Arc<Routes<Arc<Outbox>>>> {
        self.routes.load()
    }

    /// Lets a client in; `make` makes its outbox. `None` if its groups have to be looked up first: the policy has changed
    /// since they were not.
    pub(crate) fn connect(
        &self,
        peer: Peer,
        groups: Option<&[Group]>,
        hello: Hello,
        make: impl FnOnce(&Limits, &Arc<Account>) -> Outbox,
    ) -> Result<Option<(InstanceId, Arc<Outbox>)>, Refused> {
        let mut bus = self.bus();
        if groups.is_none() && bus.policy().knows_groups() {
            return Ok(None);
        }
        let mut made = None;
        let make = |limits: &Limits, account: &Arc<Account>| made.insert(Arc::new(make(limits, account))).clone();
        let now = Instant::now().into_std();
        let connected = bus.connect(peer, groups.unwrap_or_default(), hello, make, now);
        self.carry_out(&mut bus);
        let id = connected?;
        self.tally.connected.add(1);
        let outbox = made.ok_or_else(|| Refused::new(Reason::Exhausted, "nothing was made for the client"))?;
        Ok(Some((id, outbox)))
    }

    /// The groups of a user; `None` if they don't matter to the policy.
    ///
    /// # Errors
    /// The system can't tell.
    pub(crate) async fn groups_of(&self, identity: &Identity) -> Result<Option<Arc<[Group]>>, Refused> {
        if !self.bus().policy().knows_groups() {
            return Ok(None);
        }
        let groups = self.membership.groups_of(identity).await;
        groups.map(Some).map_err(|error| Refused::new(Reason::Exhausted, cannot_look_up(identity, &error)))
    }

    /// Asks the system anew which groups those who are connected are in, if that matters.
    pub(crate) async fn refresh_groups(&self) {
        if !self.bus().policy().knows_groups() {
            return;
        }
        for identity in self.users_but(&HashMap::new()) {
            match self.look_up(&identity).await {
                Ok(groups) => {
                    let mut bus = self.bus();
                    bus.set_groups(&identity, &groups);
                    self.carry_out(&mut bus);
                }
                Err(error) => warn!("{}; they stay as they were", cannot_look_up(&identity, &error)),
            }
        }
    }

    /// Obeys another policy and other limits from now on.
    ///
    /// # Errors
    /// It matters in which groups those are who are connected, and the system can't tell; then all stays as it was.
    pub(crate) async fn revise(&self, rules: Vec<RuleSection>, policy: Policy, limits: Limits) -> Result<(), String> {
        let mut groups = HashMap::new();
        loop {
            let unknown = if policy.knows_groups() { self.users_but(&groups) } else { Vec::new() };
            for identity in unknown {
                let of_user = self.look_up(&identity).await.map_err(|error| cannot_look_up(&identity, &error))?;
                groups.insert(identity, of_user);
            }
            let mut bus = self.bus();
            // Somebody may have come meanwhile.
            if policy.knows_groups() && bus.users().iter().any(|(identity, _)| !groups.contains_key(identity)) {
                continue;
            }
            bus.set_limits(limits);
            bus.set_policy(policy, &groups);
            self.rules.store(Arc::new(rules));
            self.carry_out(&mut bus);
            return Ok(());
        }
    }

    /// All users who are connected, but for these.
    fn users_but(&self, known: &HashMap<Identity, Arc<[Group]>>) -> Vec<Identity> {
        let bus = self.bus();
        let users = bus.users().iter().map(|(identity, _)| identity);
        users.filter(|identity| !known.contains_key(identity)).cloned().collect()
    }

    async fn look_up(&self, identity: &Identity) -> io::Result<Arc<[Group]>> {
        tokio::time::timeout(LOOKUP_TIMEOUT, self.membership.look_up(identity)).await?
    }

    pub(crate) fn handle_control(&self, from: InstanceId, control: Control) {
        let mut bus = self.bus();
        bus.handle_control(from, control);
        self.carry_out(&mut bus);
    }

    /// Forgets an instance. Returns what was known of it, unless it was gone already.
    pub(crate) fn handle_gone(&self, instance: InstanceId, outbox: &Outbox) -> Option<Box<Instance<Arc<Outbox>>>> {
        let mut bus = self.bus();
        let gone = bus.handle_gone(instance)?;
        self.carry_out(&mut bus);
        // Under the lock, so that whoever counts finds each instance here or there.
        self.ended.absorb(&outbox.counters);
        self.ended_dropped.add(outbox.fill().dropped);
        outbox.farewell().into_iter().for_each(|farewell| self.tally.ended.count(farewell));
        if bus.awaited() == Some(0) {
            self.drain.ring();
        }
        Some(gone)
    }

    pub(crate) fn handle_unheard(&self, call: Call) {
        let mut bus = self.bus();
        bus.handle_unheard(call);
        self.carry_out(&mut bus);
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

    /// The program that this broker runs in.
    pub(crate) fn host(&self) -> &dyn Host {
        self.host.get().map_or(&Nobody, |host| &**host)
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
                Effect::Send { to, control } => self.say(&to, &control),
                Effect::TopicGone(topic) => bus.instances().for_each(|(_, i)| i.to.forget_topic(topic)),
                Effect::SenderGone(sender) => bus.instances().for_each(|(_, i)| i.to.forget_sender(sender)),
                Effect::Expel { to, refused } => self.expel(&to, refused, Cause::Policy),
                Effect::Monitors { instance, peer, name, patterns } => {
                    monitor::announce(self, instance, &peer, &name, &patterns);
                }
                Effect::Audit(entry) => self.audit.log(&entry),
            }
        }
        if routes_changed {
            self.routes.store(Arc::new(bus.routes()));
        }
    }

    fn count_no(&self, control: &Control) {
        match control {
            Control::Refused { reason, .. } => self.tally.refused.count(*reason),
            Control::RequestFailed { failure, .. } => self.tally.unanswered.count(*failure),
            _ => {}
        }
    }
}

/// Requests and the first message on a topic take the lock, other messages do not.
impl Exchange<Arc<Outbox>> for Broker {
    fn standing(&self, from: InstanceId, topic: TopicId, purpose: Purpose) -> Standing {
        self.bus().standing(from, topic, purpose)
    }

    fn server(&self, topic: TopicId, call: Call) -> Option<Server<Arc<Outbox>>> {
        let mut bus = self.bus();
        let server = bus.handle_request(topic, call);
        self.carry_out(&mut bus);
        self.tally.requests.add(u64::from(server.is_ok()));
        server.ok()
    }

    fn requester(&self, call: Call, topic: TopicId, from: InstanceId) -> Option<Arc<Outbox>> {
        self.bus().requester(call, topic, from)
    }

    fn answered(&self, call: Call) {
        self.bus().handle_answered(call);
    }

    fn reached(&self, instance: InstanceId, limit: Limit) {
        self.bus().count(instance, limit);
    }
}

fn cannot_look_up(identity: &Identity, error: &io::Error) -> String {
    format!("the groups of {} can't be looked up: {error}; try again later", describe(identity))
}
