//! Checks: what always holds, said in the slowest and plainest way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pipebus_proto::control::{Control, Overflow, Purpose, Reason, Regarding, Role};
use pipebus_proto::frame::{HEAD_BYTES, Kind};
use pipebus_proto::record::{CONTROL_TOPIC, Watch};
use pipebus_proto::splitter::Span;
use pipebus_proto::topic::{InstanceId, Topic, TopicId};
use pipebusd::core::account::Account;
use pipebusd::core::ingress::{Standing, Way};
use pipebusd::core::limits::Rate;
use pipebusd::core::policy::Action;
use pipebusd::core::refused::Refused;
use pipebusd::core::routes::Route;

use super::client::Wanted;
use super::routing::call_of;
use super::rules::{USERS, identity};
use super::world::{OWN, OpenCall, World};

/// How much of its rate a user may send at once.
const BURST: Duration = Duration::from_millis(100);

impl World {
    /// How many clients there are, of the user and in all.
    fn count<N: std::iter::Sum>(&self, user: u8, of: impl Fn(&super::client::Client) -> N) -> (N, N) {
        let own = self.clients.values().filter(|client| client.user == user).map(&of).sum();
        (own, self.clients.values().map(&of).sum())
    }

    pub(super) fn check_connected(&self, user: u8, connected: Result<(), Reason>) {
        let admin = Topic::new(pipebus_proto::admin::INSTANCES).unwrap();
        let reserved =
            if self.user_may(user, Action::Admin, Some(&admin)) { 0 } else { self.limits.instances_reserved };
        let (of_user, all) = self.count(user, |_| 1);
        let expected = if !self.user_may(user, Action::Connect, None) {
            Err(Reason::Forbidden)
        } else if all >= self.limits.instances_max - reserved {
            Err(Reason::BrokerFull)
        } else if of_user >= self.limits.instances_per_user_max {
            Err(Reason::UserFull)
        } else {
            Ok(())
        };
        assert_eq!(connected, expected, "user {user} connects");
    }

    pub(super) fn check_declared(&self, id: u32, topic: TopicId, name: &Topic, purpose: Purpose) {
        let client = &self.clients[&id];
        assert!(self.user_may(client.user, action(purpose, name), Some(name)), "{id} may not send to {name}");
        if !client.declared.contains_key(&topic) {
            assert!(!self.is_full_of_topics(id, name), "{id} has too many topics");
        }
    }

    fn is_full_of_topics(&self, id: u32, name: &Topic) -> bool {
        let client = &self.clients[&id];
        let (of_user, _) = self.count(client.user, |client| client.declared.len());
        let topics = self.living_topics();
        client.declared.len() >= self.limits.topics_per_instance_max
            || of_user >= self.limits.topics_per_user_max
            || (!topics.contains(name) && topics.len() >= self.limits.topics_max)
    }

    pub(super) fn check_subscribed(&self, id: u32, wanted: &Wanted) {
        assert!(!self.is_full_of_subscriptions(id), "{id} has too many subscriptions");
        let reserved = wanted.pattern.as_str().starts_with('$');
        let control = Topic::new(CONTROL_TOPIC).unwrap();
        let may_have = match wanted.role {
            Role::Subscribe => true,
            Role::Serve => false,
            Role::Monitor(_) => wanted.pattern.matches(&control),
        };
        assert!(
            !reserved || may_have,
            "nobody serves the broker's topics, nor monitors others than that of control frames"
        );
    }

    fn is_full_of_subscriptions(&self, id: u32) -> bool {
        let client = &self.clients[&id];
        let (of_user, all) = self.count(client.user, |client| client.subscriptions.len());
        client.subscriptions.len() >= self.limits.subscriptions_per_instance_max
            || of_user >= self.limits.subscriptions_per_user_max
            || all >= self.limits.subscriptions_max
    }

    /// Whoever is refused something is so for a reason.
    pub(super) fn check_refused(&self, id: u32, regarding: Regarding, reason: Reason, told: &Control) {
        let client = &self.clients[&id];
        match (told, reason) {
            (Control::Declare { topic, purpose, .. }, Reason::Forbidden) => {
                let topic = Topic::new(topic).unwrap();
                let own = topic.is_reserved() && *purpose == Purpose::Publish;
                assert!(own || !self.user_may(client.user, action(*purpose, &topic), Some(&topic)));
            }
            (Control::Declare { topic, .. }, Reason::TooMany) => {
                assert!(self.is_full_of_topics(id, &Topic::new(topic).unwrap()));
            }
            (Control::Subscribe { .. }, Reason::TooMany) => assert!(self.is_full_of_subscriptions(id)),
            (Control::Subscribe { pattern, role, .. }, Reason::Forbidden) => {
                let is_own = pattern.starts_with('$') && *role != Role::Subscribe;
                let pattern = pipebus_proto::pattern::Pattern::new(pattern).unwrap();
                let control = Topic::new(CONTROL_TOPIC).unwrap();
                if !is_own || (*role != Role::Serve && pattern.matches(&control)) {
                    self.check_forbidden(id, &Wanted { pattern, role: *role, overflow: Overflow::Block });
                }
            }
            (Control::Unsubscribe { subscription }, Reason::Unknown) => {
                assert!(!client.subscriptions.contains_key(subscription));
            }
            _ => assert!(client.is_hostile, "{id} was refused {regarding:?} for {reason:?}"),
        }
    }

    /// Nothing of what is wanted may be had.
    pub(super) fn check_forbidden(&self, id: u32, wanted: &Wanted) {
        for topic in self.topics_ever.values().filter(|topic| wanted.pattern.matches(topic)) {
            assert!(!self.may_get(id, wanted.role, topic), "{id} may get {topic}");
        }
    }

    fn may_get(&self, id: u32, role: Role, topic: &Topic) -> bool {
        let action = match role {
            Role::Monitor(_) => Action::Monitor,
            _ if topic.is_reserved() => Action::Admin,
            Role::Subscribe => Action::Subscribe,
            Role::Serve => Action::Serve,
        };
        self.user_may(self.clients[&id].user, action, Some(topic))
    }

    /// After a change of the policy: nobody is here who may not be, and nobody sends what it may not.
    pub(super) fn check_revised(&self) {
        for (id, client) in self.clients.iter().filter(|(_, client)| !client.down.is_closed) {
            assert!(self.user_may(client.user, Action::Connect, None), "{id} is still here");
            for declared in client.declared.values() {
                for purpose in [Purpose::Publish, Purpose::Request] {
                    let may = self.user_may(client.user, action(purpose, &declared.name), Some(&declared.name));
                    assert!(may || !declared.is(purpose, Standing::Declared), "{id} still sends to {}", declared.name);
                }
            }
        }
    }

    /// Who gets what is sent to a topic, and how.
    fn listeners(&self, topic: &Topic) -> BTreeMap<u32, Overflow> {
        let listeners = self.clients.iter().filter_map(|(id, client)| Some((*id, client.wants(topic).0?)));
        let allowed = listeners.filter(|(id, _)| self.may_get(*id, Role::Subscribe, topic));
        let may_block = |id: &u32| self.user_may(self.clients[id].user, Action::Block, Some(topic));
        let as_allowed = |(id, overflow)| match overflow {
            Overflow::Block if !may_block(&id) => (id, Overflow::DropNewest),
            _ => (id, overflow),
        };
        allowed.map(as_allowed).collect()
    }

    fn servers(&self, topic: &Topic) -> BTreeSet<u32> {
        let servers = self.clients.iter().filter(|(_, client)| client.wants(topic).1).map(|(id, _)| *id);
        servers.filter(|id| self.may_get(*id, Role::Serve, topic)).collect()
    }

    /// Who is told of what passes on a topic.
    fn watchers(&self, topic: &Topic) -> BTreeMap<u32, (Watch, Overflow)> {
        let watchers = self.clients.iter().filter_map(|(id, client)| Some((*id, client.watches(topic)?)));
        watchers.filter(|(id, (watch, _))| self.may_get(*id, Role::Monitor(*watch), topic)).collect()
    }

    fn check_route(&self, route: &Route<u32>) {
        let watchers: BTreeMap<u32, (Watch, Overflow)> =
            route.watchers.iter().map(|watcher| (watcher.to, (watcher.watch, watcher.overflow))).collect();
        assert_eq!(watchers, self.watchers(&route.topic), "on {}", route.topic);
        assert_eq!(route.watchers.len(), watchers.len(), "each is told once");
        let targets: BTreeMap<u32, Overflow> = route.targets.iter().map(|t| (t.to, t.overflow)).collect();
        assert_eq!(targets, self.listeners(&route.topic), "on {}", route.topic);
        assert_eq!(route.targets.len(), targets.len(), "each gets it once");
    }

    /// What a client sends was let in: it says the truth, and goes where it should.
    pub(super) fn check_way(&self, id: u32, span: &Span, way: &Way<u32>) {
        let client = &self.clients[&id];
        assert_eq!(span.sender, InstanceId(id));
        let Some(arriving) = &client.arriving else {
            assert!(span.part.begins());
            assert_eq!((span.first, span.last), (client.sequence_in + 1, client.sequence_in + u64::from(span.frames)));
            return match span.kind {
                Kind::Request => self.check_way_of_request(id, span, way),
                Kind::Reply => self.check_way_of_reply(id, span, way),
                Kind::Message => self.check_way_of_message(id, span, way),
                Kind::Control | Kind::Record => panic!("{:?} is let in", span.kind),
            };
        };
        let same = (arriving.kind, arriving.topic, arriving.sequence);
        assert_eq!((span.kind, span.topic, span.first), same);
        assert!(!span.part.begins() && arriving.bytes + body_bytes(span) <= self.limits.message_bytes_max);
    }

    fn check_way_of_message(&self, id: u32, span: &Span, way: &Way<u32>) {
        let client = &self.clients[&id];
        let declared = &client.declared[&span.topic];
        match way {
            Way::Subscribers(route) => {
                assert!(declared.is(Purpose::Publish, Standing::Declared) && route.topic == declared.name);
                assert!(self.user_may(client.user, Action::Publish, Some(&declared.name)));
                self.check_route(route);
            }
            Way::Nowhere => assert!(declared.is(Purpose::Publish, Standing::Revoked)),
            other => panic!("a message goes to {other:?}"),
        }
    }

    fn check_way_of_request(&self, id: u32, span: &Span, way: &Way<u32>) {
        let client = &self.clients[&id];
        let call = call_of(span).unwrap();
        assert_eq!(call.requester, InstanceId(id));
        let declared = &client.declared[&span.topic];
        let is_revoked = declared.is(Purpose::Request, Standing::Revoked);
        let action = action(Purpose::Request, &declared.name);
        assert!(is_revoked || self.user_may(client.user, action, Some(&declared.name)));
        let servers = self.servers(&declared.name);
        let open = self.calls.keys().filter(|call| call.requester.0 == id).count();
        let is_full = open >= self.limits.requests_per_instance_max;
        match way {
            Way::Server(to, own) => {
                assert!(!is_revoked && !is_full && *own == call && servers.contains(to));
            }
            Way::Broker(topic, own) => assert!(!is_revoked && topic.as_str() == OWN && *own == call),
            Way::Unserved => assert!(!is_revoked && (is_full || servers.is_empty() || self.calls.contains_key(&call))),
            Way::Nowhere => assert!(is_revoked),
            other => panic!("a request goes to {other:?}"),
        }
    }

    fn check_way_of_reply(&self, id: u32, span: &Span, way: &Way<u32>) {
        let call = call_of(span).unwrap();
        let is_asked = self.calls.get(&call) == Some(&OpenCall { topic: span.topic, server: id });
        match way {
            Way::Requester(to, own) => assert!(is_asked && *own == call && *to == call.requester.0),
            Way::Nowhere => assert!(!is_asked, "the answer to {call:?} went nowhere"),
            other => panic!("a reply goes to {other:?}"),
        }
    }

    /// A message may be too large by limits that its sender has not heard of.
    pub(super) fn check_too_large(&mut self, id: u32, span: &Span, refused: &Refused) {
        let max = self.limits.message_bytes_max;
        let client = self.client(id);
        if refused.reason == Reason::TooLarge {
            let before = client.arriving.as_ref().unwrap().bytes;
            assert!(before + body_bytes(span) > max, "{refused}");
            client.is_hostile = true;
        }
    }

    fn living_topics(&self) -> BTreeSet<Topic> {
        let own = [OWN, CONTROL_TOPIC].map(|name| Topic::new(name).unwrap());
        self.declared_names().into_iter().cloned().chain(own).collect()
    }

    /// What holds after every step: everything is counted as it is.
    pub(super) fn check(&self) {
        let bus = self.bus.0.borrow();
        assert_eq!(bus.instances().len(), self.clients.len());
        let mut queued = 0;
        for user in 0..USERS {
            let own: Vec<_> = self.clients.values().filter(|client| client.user == user).collect();
            let Some(one) = own.first() else { continue };
            let known = bus.users().get(&identity(user)).unwrap();
            let subscriptions = own.iter().map(|client| client.subscriptions.len()).sum::<usize>();
            let topics = own.iter().map(|client| client.declared.len()).sum::<usize>();
            assert_eq!((known.instances, known.subscriptions, known.topics), (own.len(), subscriptions, topics));
            assert!(own.iter().all(|client| Arc::ptr_eq(&client.account, &known.account)));
            let held: usize = own.iter().map(|client| client.down.queue.queued_bytes()).sum();
            let late: usize = own.iter().filter_map(|client| client.down.uncharged()).sum();
            check_charged(&one.account, held, late);
            queued += one.account.queued();
        }
        assert_eq!(self.total.queued(), queued);
        assert_eq!(bus.open_requests(), self.calls.len());
        for (id, client) in &self.clients {
            let monitored: Vec<String> = client.monitors().map(|(wanted, _)| wanted.pattern.to_string()).collect();
            assert_eq!(
                self.announced.get(id).cloned().unwrap_or_default(),
                monitored,
                "that {id} monitors is announced"
            );
        }
        assert!(self.announced.keys().all(|id| self.clients.contains_key(id)), "who has left monitors nothing");
    }

    /// Everybody has read all that there was.
    pub(super) fn check_settled(&self) {
        let bus = self.bus.0.borrow();
        for (_, topic) in bus.topics() {
            let id = bus.topic(&topic.name).unwrap();
            self.check_route(self.routes.get(id).unwrap());
            assert_eq!(topic.servers.iter().map(|server| server.0).collect::<BTreeSet<_>>(), self.servers(&topic.name));
        }
        let topics: BTreeSet<Topic> = bus.topics().map(|(_, topic)| topic.name.clone()).collect();
        assert_eq!(topics, self.living_topics());
        for (id, client) in &self.clients {
            client.down.check_losses(*id);
            let reader = &client.down.reader;
            for (topic, name) in &reader.topics {
                assert!(self.routes.get(*topic).is_some(), "{id} was not told that {topic:?}, {name}, is gone");
            }
            for sender in &reader.senders {
                let is_there = *sender == InstanceId::BROKER || self.clients.contains_key(&sender.0);
                assert!(is_there, "{id} was not told that {sender} is gone");
            }
            for (sender, message) in &reader.unfinished {
                let arriving = self.clients[&sender.0].arriving.as_ref();
                let is_sent = arriving.is_some_and(|arriving| arriving.sequence == message.sequence);
                assert!(is_sent, "{id} waits for the end of message {} of {sender}", message.sequence);
            }
            for (correlation, times) in &reader.answers {
                assert!(*times == 1 || client.is_hostile, "{id} got {times} answers to request {correlation}");
            }
        }
    }

    /// Everybody has left.
    pub(super) fn check_nothing_is_left(&self) {
        let mut bus = self.bus.0.borrow_mut();
        bus.review(self.now);
        assert_eq!((bus.instances().len(), bus.topics().len(), bus.open_requests()), (0, 2, 0));
        assert_eq!(self.total.queued(), 0);
        assert!((0..USERS).all(|user| bus.users().get(&identity(user)).is_none()), "a user is not forgotten");
        let gone = |topic: &TopicId| bus.routes().get(*topic).is_none();
        assert!(self.topics_ever.iter().all(|(topic, name)| name.as_str() == OWN || gone(topic)));
    }
}

fn check_charged(account: &Account, held: usize, late: usize) {
    let charged = account.queued();
    let range = held - late..=held;
    assert!(range.contains(&charged), "{charged} bytes are charged, and {held} are held, {late} of them since lately");
}

fn action(purpose: Purpose, topic: &Topic) -> Action {
    match purpose {
        Purpose::Publish => Action::Publish,
        Purpose::Request if topic.is_reserved() => Action::Admin,
        Purpose::Request => Action::Request,
    }
}

fn body_bytes(span: &Span) -> u64 {
    (span.bytes.len() - HEAD_BYTES) as u64
}

/// What users have sent, and when.
#[derive(Default)]
pub(super) struct Paces(BTreeMap<u8, Vec<Charge>>);

struct Charge {
    at: Instant,
    client: u32,
    messages: u64,
    bytes: u64,
}

impl Paces {
    /// Whatever the window: no more than the rate, the burst, and once more what each client sends at once.
    pub(super) fn check(&mut self, user: u8, client: u32, sent: (u64, u64), now: Instant, rate: Rate) {
        let (messages, bytes) = sent;
        let charges = self.0.entry(user).or_default();
        charges.push(Charge { at: now, client, messages, bytes });
        let (mut sum, mut most) = ([0, 0], BTreeMap::<u32, [u64; 2]>::new());
        for charge in charges.iter().rev().take(60) {
            let own = most.entry(charge.client).or_default();
            for (at, count) in [charge.messages, charge.bytes].into_iter().enumerate() {
                sum[at] += count;
                own[at] = own[at].max(count);
            }
            let window = (now - charge.at + BURST).as_secs_f64();
            for (at, rate) in [rate.messages, rate.bytes].into_iter().enumerate() {
                let Some(rate) = rate else { continue };
                let at_once: u64 = most.values().map(|own| own[at]).sum();
                let allowed = rate as f64 * window + at_once as f64 + 1.0;
                assert!(sum[at] as f64 <= allowed, "user {user} sent {} in {window} s, more than {allowed}", sum[at]);
            }
        }
    }
}
