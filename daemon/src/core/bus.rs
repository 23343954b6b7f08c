//! Bus: instances, declared topics, subscriptions and requests. Control frames in, effects out.
//!
//! Not the messages themselves: they follow [`Bus::routes`] without passing here. Only requests and replies do, since
//! each goes to one instance.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use pipebus_proto::control::{Control, Failure, Identity, Overflow, Purpose, Reason, Regarding, Role};
use pipebus_proto::frame::{Call, PROTOCOL_VERSION};
use pipebus_proto::pattern::Pattern;
use pipebus_proto::topic::{InstanceId, Topic, TopicId};
use pipebus_proto::wire::encode_control;

use crate::core::limits::Limits;
use crate::core::policy::{Peer, Policy};
use crate::core::requests::Requests;
use crate::core::routes::{Route, Routes, Target};

/// The state of a bus. `T` is where an instance's frames go: the shell says so, and the core only hands it back.
#[derive(Debug)]
pub struct Bus<T> {
    limits: Limits,
    policy: Policy,
    /// In boxes: a map whose keys only grow leaves most of its nodes half empty.
    instances: BTreeMap<InstanceId, Box<Instance<T>>>,
    topics: BTreeMap<TopicId, Declared>,
    topic_ids: HashMap<Topic, TopicId>,
    routes: Routes<T>,
    requests: Requests,
    last_instance: u32,
    last_topic: u32,
    effects: VecDeque<Effect<T>>,
}

/// A client's connection, as the bus knows it.
#[derive(Debug)]
pub struct Instance<T> {
    /// Who it is, from the operating system.
    pub peer: Peer,
    /// What it calls itself.
    pub name: Box<str>,
    /// When it connected.
    pub since: Instant,
    /// Where its frames go.
    pub to: T,
    /// Its subscriptions, by its own numbers.
    pub subscriptions: BTreeMap<u32, Subscription>,
    declared: BTreeMap<TopicId, Purposes>,
}

/// What an instance wants to get.
#[derive(Debug)]
pub struct Subscription {
    /// Which topics.
    pub pattern: Pattern,
    /// Messages or requests.
    pub role: Role,
    /// What happens when the queue is full.
    pub overflow: Overflow,
}

#[derive(Clone, Copy, Debug, Default)]
struct Purposes {
    publish: bool,
    request: bool,
}

/// A topic that somebody has declared.
#[derive(Debug)]
pub struct Declared {
    /// Its name.
    pub name: Topic,
    /// How many instances have declared that they publish to it.
    pub publishers: usize,
    /// How many have declared that they ask on it; the broker counts as one on its own.
    pub requesters: usize,
    /// Who serves its requests, in the order of their turns.
    pub servers: Vec<InstanceId>,
}

/// What the shell is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect<T> {
    /// Send a control frame.
    Send {
        /// Where.
        to: T,
        /// What.
        control: Control,
    },
    /// Publish a new snapshot of the routes, before any later effect.
    RoutesChanged,
    /// Tell all instances to forget the topic.
    TopicGone(TopicId),
    /// Tell all instances to forget the sender.
    SenderGone(InstanceId),
}

/// Who is to answer a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Server<T> {
    /// The broker itself.
    Broker(Topic),
    /// This instance.
    Instance(InstanceId, T),
}

/// No, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refused {
    /// For programs.
    pub reason: Reason,
    /// For people.
    pub text: String,
}

impl Refused {
    /// No, for this reason.
    pub fn new(reason: Reason, text: impl Into<String>) -> Refused {
        Refused { reason, text: text.into() }
    }

    /// No, since client and broker speak different versions.
    pub fn wrong_version(version: u16) -> Refused {
        let text = format!(
            "the client speaks version {version} of the protocol, the broker version {PROTOCOL_VERSION}; update the older"
        );
        Refused::new(Reason::Version, text)
    }

    /// The frame that says so.
    pub fn about(self, regarding: Regarding) -> Control {
        Control::Refused { regarding, reason: self.reason, text: self.text }
    }
}

impl<T: Clone> Bus<T> {
    /// A bus without instances, whose broker answers on `own` topics.
    pub fn new(limits: Limits, policy: Policy, own: &[Topic]) -> Bus<T> {
        let mut bus = Bus {
            limits,
            policy,
            instances: BTreeMap::new(),
            topics: BTreeMap::new(),
            topic_ids: HashMap::new(),
            routes: Routes::default(),
            requests: Requests::default(),
            last_instance: InstanceId::BROKER.0,
            last_topic: 0,
            effects: VecDeque::new(),
        };
        for topic in own {
            let id = bus.topic_id(topic);
            bus.topics.entry(id).and_modify(|declared| declared.requesters += 1);
        }
        bus
    }

    /// Lets a client in.
    ///
    /// # Errors
    /// The bus or the user has as many instances as it may have.
    pub fn connect(&mut self, peer: Peer, name: String, to: T, now: Instant) -> Result<InstanceId, Refused> {
        let limits = &self.limits;
        if self.instances.len() >= limits.instances_max {
            let count = self.instances.len();
            let text = format!(
                "the bus has {count} instances, as many as it may have; end some, or raise limits.instances_max"
            );
            return Err(Refused::new(Reason::BrokerFull, text));
        }
        let of_user = self.instances.values().filter(|other| other.peer.identity == peer.identity).count();
        if of_user >= limits.instances_per_user_max {
            let text = format!(
                "your user has {of_user} instances on this bus, as many as it may have; end some, or raise \
                 limits.instances_per_user_max"
            );
            return Err(Refused::new(Reason::UserFull, text));
        }
        let Some(id) = self.last_instance.checked_add(1) else {
            return Err(Refused::new(Reason::Exhausted, "the broker has used all client ids; restart it"));
        };
        self.last_instance = id;
        let id = InstanceId(id);
        let name = name.into();
        let instance =
            Instance { peer, name, since: now, to, subscriptions: BTreeMap::new(), declared: BTreeMap::new() };
        self.instances.insert(id, Box::new(instance));
        Ok(id)
    }

    /// Obeys or refuses what a client says in a control frame.
    pub fn handle_control(&mut self, from: InstanceId, control: Control) {
        match control {
            Control::Declare { token, topic, purpose } => {
                let answer = match self.declare(from, &topic, purpose) {
                    Ok(topic) => Control::Declared { token, topic },
                    Err(refused) => refused.about(Regarding::Declare(token)),
                };
                self.send(from, answer);
            }
            Control::Retract { topic } => self.retract(from, topic),
            Control::Subscribe { subscription, pattern, role, overflow } => {
                let answer = match self.subscribe(from, subscription, &pattern, role, overflow) {
                    Ok(()) => Control::Subscribed { subscription },
                    Err(refused) => refused.about(Regarding::Subscription(subscription)),
                };
                self.send(from, answer);
            }
            Control::Unsubscribe { subscription } => {
                let answer = match self.unsubscribe(from, subscription) {
                    Ok(()) => Control::Unsubscribed { subscription },
                    Err(refused) => refused.about(Regarding::Subscription(subscription)),
                };
                self.send(from, answer);
            }
            Control::Ping { token } => self.send(from, Control::Pong { token }),
            Control::Cancel { correlation } => self.handle_answered(Call { requester: from, correlation }),
            other => {
                let text = format!("a client may not say {other:?}");
                let text = text.chars().take(200).collect::<String>();
                self.send(from, Refused::new(Reason::Protocol, text).about(Regarding::Connection));
            }
        }
    }

    /// Forgets an instance and all that was its.
    pub fn handle_gone(&mut self, instance: InstanceId) {
        let Some(gone) = self.instances.remove(&instance) else { return };
        // Before its topics go: a message that it had not finished ends with it, rather than with them.
        self.effects.push_back(Effect::SenderGone(instance));
        if !gone.subscriptions.is_empty() {
            let topics: Vec<TopicId> = self.topics.keys().copied().collect();
            for topic in topics {
                self.reroute(topic, instance);
            }
        }
        for (topic, purposes) in gone.declared {
            self.release(topic, purposes);
        }
        for orphan in self.requests.handle_gone(instance) {
            self.fail(orphan, Failure::ServerGone);
        }
    }

    /// Chooses who is to answer a request: the servers of a topic take turns.
    ///
    /// # Errors
    /// Why nobody will; the requester is told, besides.
    pub fn handle_request(&mut self, topic: TopicId, call: Call) -> Result<Server<T>, Failure> {
        let outcome = self.choose_server(topic, call);
        if let Err(failure) = outcome {
            self.fail(call, failure);
        }
        outcome
    }

    /// Whether `from` is the one to answer `call` about `topic`; if so, where the requester is.
    pub fn requester(&self, call: Call, topic: TopicId, from: InstanceId) -> Option<T> {
        let requester = self.instances.get(&call.requester)?;
        self.requests.is_open(call, topic, from).then(|| requester.to.clone())
    }

    /// The request has been answered, or no answer is wanted any more.
    pub fn handle_answered(&mut self, call: Call) {
        self.requests.close(call);
    }

    /// The request never reached its server: the requester is told.
    pub fn handle_unheard(&mut self, call: Call) {
        // Otherwise the requester has had its answer, or has been told that the server left.
        if self.requests.close(call) {
            self.fail(call, Failure::Busy);
        }
    }

    /// Whether `from` has declared `topic` for `purpose`.
    pub fn may_send(&self, from: InstanceId, topic: TopicId, purpose: Purpose) -> bool {
        let declared = self.instances.get(&from).and_then(|instance| instance.declared.get(&topic));
        declared.is_some_and(|purposes| match purpose {
            Purpose::Publish => purposes.publish,
            Purpose::Request => purposes.request,
        })
    }

    /// What to do next, until `None`.
    pub fn poll_effect(&mut self) -> Option<Effect<T>> {
        self.effects.pop_front()
    }

    /// The routes as they are now.
    pub fn routes(&self) -> Routes<T> {
        self.routes.clone()
    }

    /// All instances.
    pub fn instances(&self) -> impl ExactSizeIterator<Item = (InstanceId, &Instance<T>)> {
        self.instances.iter().map(|(id, instance)| (*id, &**instance))
    }

    /// One instance.
    pub fn instance(&self, id: InstanceId) -> Option<&Instance<T>> {
        self.instances.get(&id).map(|instance| &**instance)
    }

    /// All declared topics.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = (TopicId, &Declared)> {
        self.topics.iter().map(|(id, topic)| (*id, topic))
    }

    fn declare(&mut self, from: InstanceId, name: &str, purpose: Purpose) -> Result<TopicId, Refused> {
        let topic = Topic::new(name).map_err(|error| Refused::new(Reason::Name, error.to_string()))?;
        let instance = self.instances.get(&from).ok_or_else(gone)?;
        self.policy
            .check_send(&instance.peer, purpose, &topic)
            .map_err(|text| Refused::new(Reason::Forbidden, text))?;
        if topic.is_reserved() && !self.topic_ids.contains_key(&topic) {
            let text = format!("the broker has no topic {topic}; see the list in its documentation");
            return Err(Refused::new(Reason::Unknown, text));
        }
        let known = self.topic_ids.get(&topic).is_some_and(|id| instance.declared.contains_key(id));
        if !known && instance.declared.len() >= self.limits.topics_per_instance_max {
            let count = instance.declared.len();
            let text = format!("this client has declared {count} topics, as many as it may; retract some");
            return Err(Refused::new(Reason::TooMany, text));
        }
        if self.last_topic == u32::MAX && !self.topic_ids.contains_key(&topic) {
            return Err(Refused::new(Reason::Exhausted, "the broker has used all topic ids; restart it"));
        }
        let id = self.topic_id(&topic);
        let instance = self.instances.get_mut(&from).ok_or_else(gone)?;
        let purposes = instance.declared.entry(id).or_default();
        if let Some(declared) = self.topics.get_mut(&id) {
            let (flag, count) = match purpose {
                Purpose::Publish => (&mut purposes.publish, &mut declared.publishers),
                Purpose::Request => (&mut purposes.request, &mut declared.requesters),
            };
            *count += usize::from(!std::mem::replace(flag, true));
        }
        Ok(id)
    }

    /// The topic's id; a new one if nobody has declared it.
    fn topic_id(&mut self, topic: &Topic) -> TopicId {
        if let Some(id) = self.topic_ids.get(topic) {
            return *id;
        }
        self.last_topic += 1;
        let id = TopicId(self.last_topic);
        self.topic_ids.insert(topic.clone(), id);
        let declared = Declared { name: topic.clone(), publishers: 0, requesters: 0, servers: Vec::new() };
        self.topics.insert(id, declared);
        let introduction = encode_control(&Control::TopicInfo { topic: id, name: topic.to_string() });
        self.routes.set(id, Some(Route { topic: topic.clone(), introduction, targets: Vec::new() }));
        let subscribed: Vec<InstanceId> =
            self.instances.iter().filter(|(_, i)| !i.subscriptions.is_empty()).map(|(id, _)| *id).collect();
        for instance in subscribed {
            self.reroute(id, instance);
        }
        self.effects.push_back(Effect::RoutesChanged);
        id
    }

    fn retract(&mut self, from: InstanceId, topic: TopicId) {
        let Some(instance) = self.instances.get_mut(&from) else { return };
        if let Some(purposes) = instance.declared.remove(&topic) {
            self.release(topic, purposes);
        }
    }

    /// One less that sends to the topic; without any, the topic goes.
    fn release(&mut self, topic: TopicId, purposes: Purposes) {
        let Some(declared) = self.topics.get_mut(&topic) else { return };
        declared.publishers -= usize::from(purposes.publish);
        declared.requesters -= usize::from(purposes.request);
        if declared.publishers + declared.requesters > 0 {
            return;
        }
        if let Some(declared) = self.topics.remove(&topic) {
            self.topic_ids.remove(&declared.name);
        }
        self.routes.set(topic, None);
        self.effects.push_back(Effect::RoutesChanged);
        self.effects.push_back(Effect::TopicGone(topic));
    }

    fn subscribe(
        &mut self,
        from: InstanceId,
        number: u32,
        pattern: &str,
        role: Role,
        overflow: Overflow,
    ) -> Result<(), Refused> {
        let pattern = Pattern::new(pattern).map_err(|error| Refused::new(Reason::Name, error.to_string()))?;
        let max = self.limits.subscriptions_per_instance_max;
        let instance = self.instances.get_mut(&from).ok_or_else(gone)?;
        if instance.subscriptions.contains_key(&number) {
            let text = format!("this client has a subscription {number} already");
            return Err(Refused::new(Reason::Protocol, text));
        }
        if instance.subscriptions.len() >= max {
            let text = format!("this client has {max} subscriptions, as many as it may have; end some");
            return Err(Refused::new(Reason::TooMany, text));
        }
        if role == Role::Serve && pattern.as_str().starts_with('$') {
            let text = format!("{pattern} is the broker's own; serve topics that do not start with $");
            return Err(Refused::new(Reason::Forbidden, text));
        }
        instance.subscriptions.insert(number, Subscription { pattern: pattern.clone(), role, overflow });
        self.reroute_matching(&pattern, from);
        Ok(())
    }

    fn unsubscribe(&mut self, from: InstanceId, number: u32) -> Result<(), Refused> {
        let instance = self.instances.get_mut(&from).ok_or_else(gone)?;
        let Some(subscription) = instance.subscriptions.remove(&number) else {
            return Err(Refused::new(Reason::Unknown, format!("this client has no subscription {number}")));
        };
        self.reroute_matching(&subscription.pattern, from);
        Ok(())
    }

    fn reroute_matching(&mut self, pattern: &Pattern, instance: InstanceId) {
        let matching: Vec<TopicId> =
            self.topics.iter().filter(|(_, topic)| pattern.matches(&topic.name)).map(|(id, _)| *id).collect();
        for topic in matching {
            self.reroute(topic, instance);
        }
    }

    /// Brings a topic's targets and servers up to date with what an instance wants now.
    fn reroute(&mut self, topic: TopicId, instance: InstanceId) {
        let Some(declared) = self.topics.get_mut(&topic) else { return };
        let wants = self.instances.get(&instance).map(|i| (i.wants(&declared.name), i.to.clone()));
        let (listens, serves, to) = match wants {
            Some(((listens, serves), to)) => (listens, serves, Some(to)),
            None => (None, false, None),
        };
        let served = declared.servers.contains(&instance);
        if serves && !served {
            declared.servers.push(instance);
        } else if !serves && served {
            declared.servers.retain(|server| *server != instance);
        }
        let Some(route) = self.routes.get(topic) else { return };
        let target = route.targets.iter().find(|target| target.instance == instance);
        if target.map(|target| target.overflow) == listens {
            return;
        }
        let mut route = Route::clone(route);
        route.targets.retain(|target| target.instance != instance);
        if let (Some(overflow), Some(to)) = (listens, to) {
            route.targets.push(Target { instance, overflow, to });
        }
        self.routes.set(topic, Some(route));
        self.effects.push_back(Effect::RoutesChanged);
    }

    fn choose_server(&mut self, topic: TopicId, call: Call) -> Result<Server<T>, Failure> {
        let declared = self.topics.get_mut(&topic).ok_or(Failure::NoServer)?;
        if declared.name.is_reserved() {
            return Ok(Server::Broker(declared.name.clone()));
        }
        if declared.servers.is_empty() {
            return Err(Failure::NoServer);
        }
        if self.requests.count(call.requester) >= self.limits.requests_per_instance_max {
            return Err(Failure::TooMany);
        }
        let server = declared.servers[0];
        let to = self.instances.get(&server).ok_or(Failure::NoServer)?.to.clone();
        if !self.requests.open(call, topic, server) {
            return Err(Failure::TooMany);
        }
        declared.servers.rotate_left(1);
        Ok(Server::Instance(server, to))
    }

    fn fail(&mut self, call: Call, failure: Failure) {
        self.send(call.requester, Control::RequestFailed { correlation: call.correlation, failure });
    }

    fn send(&mut self, to: InstanceId, control: Control) {
        if let Some(instance) = self.instances.get(&to) {
            self.effects.push_back(Effect::Send { to: instance.to.clone(), control });
        }
    }
}

impl<T> Instance<T> {
    /// Whether it gets the topic's messages, with which overflow policy, and whether it serves its requests.
    fn wants(&self, topic: &Topic) -> (Option<Overflow>, bool) {
        let matching = self.subscriptions.values().filter(|subscription| subscription.pattern.matches(topic));
        let (serving, listening): (Vec<_>, Vec<_>) = matching.partition(|s| s.role == Role::Serve);
        // The policy that loses least, which is the order of the variants.
        (listening.iter().map(|s| s.overflow).min(), !serving.is_empty())
    }
}

/// The user's number or account, for messages to people.
pub fn describe(identity: &Identity) -> String {
    match identity {
        Identity::Unix { uid } => format!("uid {uid}"),
        Identity::Windows { sid } => format!("account {sid}"),
    }
}

/// Only a frame that raced with the end of its instance can meet this.
fn gone() -> Refused {
    Refused::new(Reason::Unknown, "the instance has ended")
}

#[cfg(test)]
mod tests;
