//! Bus: instances, declared topics, subscriptions and requests. Control frames in, effects out.
//!
//! Not the messages themselves: they follow [`Bus::routes`] without passing here. Only requests and replies do, since
//! each goes to one instance. `topics` is what is declared, `subscriptions` who gets it, `revision` what changes
//! when the policy does, `decisions` what that says, and `draining` how a bus becomes empty.

pub mod decisions;
mod draining;
mod revision;
mod subscriptions;
mod topics;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use pipebus_proto::control::{Control, Failure, Identity, Overflow, Purpose, Reason, Regarding, Role};
use pipebus_proto::frame::Call;
use pipebus_proto::pattern::Pattern;
use pipebus_proto::topic::{InstanceId, Topic, TopicId};

use self::decisions::{Denied, Entry};
use crate::core::account::Account;
use crate::core::ingress::{Server, Standing};
use crate::core::limits::{Limit, Limits};
use crate::core::policy::{Action, Group, Peer, Policy, Subject};
use crate::core::refused::Refused;
use crate::core::requests::Requests;
use crate::core::routes::Routes;
use crate::core::users::{Reached, Users};

/// The state of a bus. `T` is where an instance's frames go: the shell says so, and the core only hands it back.
#[derive(Debug)]
pub struct Bus<T> {
    limits: Limits,
    policy: Arc<Policy>,
    users: Users,
    /// In boxes: a map whose keys only grow leaves most of its nodes half empty.
    instances: BTreeMap<InstanceId, Box<Instance<T>>>,
    topics: BTreeMap<TopicId, Declared>,
    topic_ids: HashMap<Topic, TopicId>,
    routes: Routes<T>,
    requests: Requests,
    denials: HashMap<Identity, Denied>,
    /// Who has ordered that nobody new is let in, if anybody has.
    drained_by: Option<InstanceId>,
    /// How many of the instances only visit the broker.
    visitors: usize,
    last_instance: u32,
    last_topic: u32,
    effects: VecDeque<Effect<T>>,
}

/// What a client says of itself when it comes.
#[derive(Clone, Debug)]
pub struct Hello {
    /// What it calls itself.
    pub name: String,
    /// Whether it comes for the broker alone.
    pub visits: bool,
}

/// A client's connection, as the bus knows it.
#[derive(Debug)]
pub struct Instance<T> {
    /// Who it is, from the operating system.
    pub peer: Peer,
    /// What it calls itself.
    pub name: Box<str>,
    /// Whether it comes for the broker alone, and has nothing to do with others.
    pub visits: bool,
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
    /// Messages, requests or records.
    pub role: Role,
    /// What happens when the queue is full.
    pub overflow: Overflow,
}

/// What an instance sends to a topic.
#[derive(Clone, Copy, Debug, Default)]
struct Purposes {
    publish: Option<Standing>,
    request: Option<Standing>,
}

impl Purposes {
    fn of(&mut self, purpose: Purpose) -> &mut Option<Standing> {
        match purpose {
            Purpose::Publish => &mut self.publish,
            Purpose::Request => &mut self.request,
        }
    }
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
    /// How many instances have declared it and not retracted it. Those who may not send there any more count too: what
    /// they sent before may still wait somewhere, and a topic must not come again after it has gone.
    holders: usize,
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
    /// The instance may not be here any more: tell it why, and end it.
    Expel {
        /// Where it is.
        to: T,
        /// Why.
        refused: Refused,
    },
    /// Tell that an instance has begun to monitor, monitors something else now, or has ceased to.
    Monitors {
        /// The instance.
        instance: InstanceId,
        /// Whose it is.
        peer: Peer,
        /// What it calls itself.
        name: Box<str>,
        /// What it monitors now.
        patterns: Vec<Pattern>,
    },
    /// Log a decision of the policy, since its rule says so.
    Audit(Entry),
}

impl<T: Clone> Bus<T> {
    /// A bus without instances, whose broker answers on `own` topics.
    pub fn new(limits: Limits, policy: Policy, own: &[Topic]) -> Bus<T> {
        let mut bus = Bus {
            users: Users::new(&limits),
            routes: Routes::new(limits.message_bytes_max),
            limits,
            policy: Arc::new(policy),
            instances: BTreeMap::new(),
            topics: BTreeMap::new(),
            topic_ids: HashMap::new(),
            requests: Requests::default(),
            denials: HashMap::new(),
            drained_by: None,
            visitors: 0,
            last_instance: InstanceId::BROKER.0,
            last_topic: 0,
            effects: VecDeque::new(),
        };
        for topic in own {
            let id = bus.topic_id(topic);
            bus.topics.entry(id).and_modify(|declared| (declared.requesters, declared.holders) = (1, 1));
        }
        bus
    }

    /// Lets a client in: `make` says where its frames go, under these limits and in its user's account.
    ///
    /// # Errors
    /// The policy says no, the bus drains, or it or the user has as many instances as it may have.
    pub fn connect(
        &mut self,
        peer: Peer,
        groups: &[Group],
        hello: Hello,
        make: impl FnOnce(&Limits, &Arc<Account>) -> T,
        now: Instant,
    ) -> Result<InstanceId, Refused> {
        self.judge(None, &peer, groups, Action::Connect, None)?;
        let subject = Subject { identity: &peer.identity, groups };
        self.check_draining(subject, hello.visits)?;
        let administrator = self.is_administrator(subject);
        self.check_room(&peer.identity, administrator)?;
        let Some(id) = self.last_instance.checked_add(1) else {
            return Err(Refused::new(Reason::Exhausted, "the broker has used all client ids; restart it"));
        };
        self.last_instance = id;
        let id = InstanceId(id);
        let user = self.users.arrive(&peer.identity, &self.limits, now);
        if user.instances == 0 {
            user.groups = groups.into();
        }
        user.instances += 1;
        let to = make(&self.limits, &user.account);
        self.visitors += usize::from(hello.visits);
        let identity = peer.identity.clone();
        let instance = Instance {
            peer,
            name: hello.name.into(),
            visits: hello.visits,
            since: now,
            to,
            subscriptions: BTreeMap::new(),
            declared: BTreeMap::new(),
        };
        self.instances.insert(id, Box::new(instance));
        self.set_groups(&identity, groups);
        Ok(id)
    }

    /// Whether there is room for one instance more.
    fn check_room(&self, identity: &Identity, administrator: bool) -> Result<(), Refused> {
        let limits = &self.limits;
        let reserved = if administrator { 0 } else { limits.instances_reserved };
        let count = self.instances.len();
        if count >= limits.instances_max.saturating_sub(reserved) {
            let kept = if reserved > 0 {
                format!(", but for {reserved} that are kept for administrators")
            } else {
                String::new()
            };
            let text = format!(
                "the bus has {count} instances, as many as it may have{kept}; end some, or raise limits.instances_max"
            );
            self.users.total().count(Limit::Instances);
            return Err(Refused::new(Reason::BrokerFull, text));
        }
        let Some(user) = self.users.get(identity) else { return Ok(()) };
        if user.instances >= limits.instances_per_user_max {
            let text = format!(
                "your user has {} instances on this bus, as many as it may have; end some, or raise \
                 limits.instances_per_user_max",
                user.instances
            );
            user.account.count(Limit::InstancesPerUser);
            return Err(Refused::new(Reason::UserFull, text));
        }
        Ok(())
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

    /// Forgets an instance and all that was its. Returns what was known of it, unless it was gone already.
    pub fn handle_gone(&mut self, instance: InstanceId) -> Option<Box<Instance<T>>> {
        let mut gone = self.instances.remove(&instance)?;
        self.visitors -= usize::from(gone.visits);
        if let Some(user) = self.users.get_mut(&gone.peer.identity) {
            user.instances -= 1;
            user.subscriptions -= gone.subscriptions.len();
            user.topics -= gone.declared.len();
        }
        self.users.subscriptions -= gone.subscriptions.len();
        if gone.is_monitor() {
            self.effects.push_back(gone.monitors(instance, Vec::new()));
        }
        // Before its topics go: a message that it had not finished ends with it, rather than with them.
        self.effects.push_back(Effect::SenderGone(instance));
        if !gone.subscriptions.is_empty() {
            let topics: Vec<TopicId> = self.topics.keys().copied().collect();
            for topic in topics {
                self.reroute(topic, instance);
            }
        }
        for (topic, purposes) in std::mem::take(&mut gone.declared) {
            self.release(topic, purposes);
        }
        for orphan in self.requests.handle_gone(instance) {
            self.fail(orphan, Failure::ServerGone);
        }
        Some(gone)
    }

    /// Chooses who is to answer a request: the servers of a topic take turns.
    ///
    /// # Errors
    /// Why nobody will; the requester is told, besides.
    pub fn handle_request(&mut self, topic: TopicId, call: Call) -> Result<Server<T>, Failure> {
        let outcome = match self.standing(call.requester, topic, Purpose::Request) {
            Standing::Revoked => Err(Failure::Forbidden),
            _ => self.choose_server(topic, call),
        };
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

    /// What `from` has said of `topic`.
    pub fn standing(&self, from: InstanceId, topic: TopicId, purpose: Purpose) -> Standing {
        let purposes = self.instances.get(&from).and_then(|instance| instance.declared.get(&topic));
        let standing = purposes.and_then(|purposes| match purpose {
            Purpose::Publish => purposes.publish,
            Purpose::Request => purposes.request,
        });
        standing.unwrap_or(Standing::Undeclared)
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

    /// The id of a declared topic.
    pub fn topic(&self, name: &Topic) -> Option<TopicId> {
        self.topic_ids.get(name).copied()
    }

    /// All users who are connected.
    pub fn users(&self) -> &Users {
        &self.users
    }

    /// The policy as it is now.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// The limits as they are now.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Which limits were reached since the last call. To be called every second or so.
    pub fn review(&mut self, now: Instant) -> Vec<Reached> {
        self.users.review(now)
    }

    /// How many requests wait for their answer.
    pub fn open_requests(&self) -> usize {
        self.requests.len()
    }

    /// All declared topics.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = (TopicId, &Declared)> {
        self.topics.iter().map(|(id, topic)| (*id, topic))
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
            self.count(call.requester, Limit::RequestsPerInstance);
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

    /// Counts that an instance has reached a limit.
    pub fn count(&self, instance: InstanceId, limit: Limit) {
        let user = self.instances.get(&instance).and_then(|instance| self.users.get(&instance.peer.identity));
        if let Some(user) = user {
            user.account.count(limit);
        }
    }

    fn send(&mut self, to: InstanceId, control: Control) {
        if let Some(instance) = self.instances.get(&to) {
            self.effects.push_back(Effect::Send { to: instance.to.clone(), control });
        }
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
