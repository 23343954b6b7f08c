//! World: the bus, its clients, and a clock held by hand.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pipebus_proto::control::{Control, Purpose, Reason, Regarding};
use pipebus_proto::frame::{Call, Kind};
use pipebus_proto::pattern::Pattern;
use pipebus_proto::record::CONTROL_TOPIC;
use pipebus_proto::topic::{InstanceId, Topic, TopicId};
use pipebus_proto::wire::encode_control;
use pipebusd::core::account::{Account, Total};
use pipebusd::core::bus::{Bus, Effect, Hello};
use pipebusd::core::ingress::{Exchange, Ingress, Server, Standing};
use pipebusd::core::limits::{Limit, Limits};
use pipebusd::core::policy::{Action, Group, Peer, Policy};
use pipebusd::core::queue::Queue;
use pipebusd::core::routes::Routes;

use super::checks::Paces;
use super::choices::Choices;
use super::client::{Client, Declared, Wanted};
use super::down::Down;
use super::rules::{USERS, groups, identity, limits, may, policy};
use super::step::Step;

pub(super) const OWN: &str = "$bus/status";

pub(super) struct World {
    pub(super) bus: Shared,
    pub(super) total: Arc<Total>,
    pub(super) routes: Routes<u32>,
    pub(super) now: Instant,
    pub(super) limits: Limits,
    pub(super) policy: Policy,
    pub(super) groups: BTreeMap<u8, Vec<Group>>,
    pub(super) clients: BTreeMap<u32, Client>,
    pub(super) last_client: u32,
    pub(super) topics_ever: BTreeMap<TopicId, Topic>,
    pub(super) calls: BTreeMap<Call, OpenCall>,
    pub(super) paces: Paces,
    /// What each monitors, as has been announced.
    pub(super) announced: BTreeMap<u32, Vec<String>>,
    /// The topic of control frames.
    pub(super) control: TopicId,
    /// What the bus is being told: its answers are to this.
    told: Option<(u32, Control)>,
}

/// A request that waits for its answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OpenCall {
    pub(super) topic: TopicId,
    pub(super) server: u32,
}

/// What the shell keeps under its lock.
pub(super) struct Shared(pub(super) RefCell<Bus<u32>>);

impl Exchange<u32> for Shared {
    fn standing(&self, from: InstanceId, topic: TopicId, purpose: Purpose) -> Standing {
        self.0.borrow().standing(from, topic, purpose)
    }

    fn server(&self, topic: TopicId, call: Call) -> Option<Server<u32>> {
        self.0.borrow_mut().handle_request(topic, call).ok()
    }

    fn requester(&self, call: Call, topic: TopicId, from: InstanceId) -> Option<u32> {
        self.0.borrow().requester(call, topic, from)
    }

    fn answered(&self, call: Call) {
        self.0.borrow_mut().handle_answered(call);
    }

    fn reached(&self, instance: InstanceId, limit: Limit) {
        self.0.borrow().count(instance, limit);
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}\n{:?}\n{:?}", self.limits, self.policy, self.groups)
    }
}

impl World {
    pub(super) fn new(first: &mut Choices, second: &mut Choices) -> World {
        let (limits, policy) = (limits(first), policy(second));
        let own = [OWN, CONTROL_TOPIC].map(|name| Topic::new(name).unwrap());
        let bus = Bus::new(limits.clone(), policy.clone(), &own);
        let mut world = World {
            control: bus.topic(&own[1]).unwrap(),
            announced: BTreeMap::new(),
            routes: bus.routes(),
            total: bus.users().total().clone(),
            bus: Shared(RefCell::new(bus)),
            now: start(),
            limits,
            policy,
            groups: (0..USERS).map(|user| (user, groups(second))).collect(),
            clients: BTreeMap::new(),
            last_client: 0,
            topics_ever: BTreeMap::new(),
            calls: BTreeMap::new(),
            paces: Paces::default(),
            told: None,
        };
        world.carry_out();
        for user in 0..3 {
            world.connect(user, second);
        }
        world
    }

    pub(super) fn take_step(&mut self, step: Step, choices: &mut Choices) {
        match step {
            Step::Connect { user } => self.connect(user, choices),
            Step::Die { client } => self.with(client, |world, id| world.disconnect(id, choices)),
            Step::TakeIn { client, bytes } => self.with(client, |world, id| world.take_in(id, bytes, choices)),
            Step::Retry { client } => self.with(client, |world, id| world.retry(id, choices)),
            Step::Write { client, take_max, bytes } => self.with(client, |world, id| {
                let now = world.now;
                world.client(id).down.write(take_max, bytes, now);
            }),
            Step::Read { client, bytes } => self.with(client, |world, id| world.client(id).down.read(bytes)),
            Step::Wait { time } => self.now += time,
            Step::Sleep { time } => {
                self.now += time;
                self.clients.values_mut().for_each(|client| client.down.forgive(self.now));
            }
            Step::SetPolicy => self.set_policy(policy(choices)),
            Step::SetGroups { user } => self.set_groups(user % USERS, groups(choices)),
            Step::SetLimits => self.set_limits(limits(choices)),
            Step::Review => drop(self.bus.0.borrow_mut().review(self.now)),
            Step::Bury => self.bury(choices),
            Step::Declare { client, .. }
            | Step::Retract { client, .. }
            | Step::Subscribe { client, .. }
            | Step::Unsubscribe { client, .. }
            | Step::Publish { client, .. }
            | Step::Begin { client, .. }
            | Step::Continue { client }
            | Step::Ask { client, .. }
            | Step::Reply { client, .. }
            | Step::Cancel { client, .. }
            | Step::Ping { client, .. }
            | Step::Attack { client } => self.with(client, |world, id| world.say(id, step, choices)),
        }
        self.check();
    }

    fn with(&mut self, client: u8, act: impl FnOnce(&mut World, u32)) {
        let ids: Vec<u32> = self.clients.keys().copied().collect();
        if let Some(id) = chosen(&ids, client) {
            act(self, id);
        }
    }

    pub(super) fn client(&mut self, id: u32) -> &mut Client {
        self.clients.get_mut(&id).unwrap()
    }

    fn connect(&mut self, user: u8, choices: &mut Choices) {
        let (user, identity) = (user % USERS, identity(user));
        let peer = Peer { identity: identity.clone(), pid: None };
        let to = self.last_client + 1;
        let mut account = None;
        let make = |_: &Limits, own: &Arc<Account>| {
            account = Some(own.clone());
            to
        };
        let groups = self.groups[&user].clone();
        let hello = Hello { name: "client".to_owned(), visits: false };
        let connected = self.bus.0.borrow_mut().connect(peer, &groups, hello, make, self.now);
        self.check_connected(user, connected.as_ref().map(|_| ()).map_err(|refused| refused.reason));
        let Ok(id) = connected else { return self.carry_out() };
        assert_eq!(id.0, to, "ids are never used again");
        self.last_client = to;
        let introduction = Control::SenderInfo { sender: id, identity, name: "client".to_owned() };
        let account = account.unwrap();
        let queue = Queue::new(self.limits.queue_bytes_max, account.clone(), self.limits.stall_timeout, self.now);
        let pipe_bytes = choices.one_of(&[1 << 16, 4096, 1000, 100, 1]);
        let down = Down::new(queue, account.clone(), pipe_bytes);
        let client = Client::new(user, encode_control(&introduction), account, Ingress::new(id), down, self.now);
        self.clients.insert(id.0, client);
        self.carry_out();
    }

    /// The client is no more.
    pub(super) fn disconnect(&mut self, id: u32, choices: &mut Choices) {
        let gone = self.clients.remove(&id).unwrap();
        for rest in gone.waiting {
            let Some(client) = self.clients.get_mut(&rest.to) else { continue };
            // Who has got the beginning of a frame gets the rest; nobody gets more.
            let unsaid =
                if rest.direct { client.down.end_direct(rest.span, choices, self.now) } else { Some(rest.span) };
            if let Some(span) = unsaid.filter(|span| span.part.begins()) {
                for frame in span.iter() {
                    client.down.due.remove(&(frame.head.sender, frame.head.sequence));
                }
            }
        }
        self.calls.retain(|call, open| call.requester.0 != id && open.server != id);
        self.bus.0.borrow_mut().handle_gone(InstanceId(id));
        self.carry_out();
    }

    /// The bus hears of what a client says.
    pub(super) fn tell(&mut self, id: u32, control: Control) {
        self.bus.0.borrow_mut().handle_control(InstanceId(id), control.clone());
        self.told = Some((id, control));
        self.carry_out();
        self.told = None;
    }

    fn set_policy(&mut self, policy: Policy) {
        self.policy = policy.clone();
        self.bus.0.borrow_mut().set_policy(policy, &HashMap::new());
        self.carry_out();
        self.check_revised();
    }

    fn set_groups(&mut self, user: u8, groups: Vec<Group>) {
        self.bus.0.borrow_mut().set_groups(&identity(user), &groups);
        self.groups.insert(user, groups);
        self.carry_out();
        self.check_revised();
    }

    fn set_limits(&mut self, limits: Limits) {
        self.limits = limits.clone();
        self.bus.0.borrow_mut().set_limits(limits);
        self.paces = Paces::default();
        self.carry_out();
    }

    /// Whoever has been sent away ends.
    pub(super) fn bury(&mut self, choices: &mut Choices) {
        let is_ready = |client: &Client| client.down.is_closed && client.down.can_end();
        let closed: Vec<u32> = self.clients.iter().filter(|(_, client)| is_ready(client)).map(|(id, _)| *id).collect();
        for id in closed {
            self.client(id).down.check_farewell();
            self.disconnect(id, choices);
        }
    }

    pub(super) fn user_may(&self, user: u8, action: Action, topic: Option<&Topic>) -> bool {
        may(&self.policy, &identity(user), &self.groups[&user], action, topic)
    }

    /// Does what the core says, as the broker does.
    pub(super) fn carry_out(&mut self) {
        loop {
            let effect = self.bus.0.borrow_mut().poll_effect();
            let Some(effect) = effect else { break };
            match effect {
                Effect::RoutesChanged => self.routes = self.bus.0.borrow().routes(),
                Effect::Send { to, control } => {
                    self.heed(to, &control);
                    self.tell_of_answer(to, &control);
                    self.client(to).down.answer(&control);
                }
                Effect::TopicGone(topic) => {
                    for client in self.clients.values_mut() {
                        client.down.queue.forget_topic(topic);
                        client.down.cut_short(|_, due| due.topic == topic && due.kind != Kind::Reply);
                    }
                }
                Effect::SenderGone(gone) => {
                    for client in self.clients.values_mut() {
                        client.down.queue.forget_sender(gone);
                        client.down.cut_short(|sender, _| sender == gone);
                    }
                }
                Effect::Expel { to, refused } => {
                    let client = self.client(to);
                    client.declared.values_mut().for_each(Declared::revoke);
                    client.subscriptions.clear();
                    let user = client.user;
                    let refused = refused.about(Regarding::Connection);
                    self.tell_of_answer(to, &refused);
                    let client = self.client(to);
                    client.down.answer(&refused);
                    client.down.is_closed = true;
                    assert!(!self.user_may(user, Action::Connect, None), "{to} may stay");
                }
                Effect::Monitors { instance, patterns, .. } if patterns.is_empty() => {
                    assert!(self.announced.remove(&instance.0).is_some(), "who did not monitor has not ceased to");
                }
                Effect::Monitors { instance, patterns, .. } => {
                    let patterns = patterns.iter().map(Pattern::to_string).collect();
                    self.announced.insert(instance.0, patterns);
                }
                Effect::Audit(_) => {}
            }
        }
    }

    /// What an answer means to the model.
    fn heed(&mut self, to: u32, control: &Control) {
        let told = self.told.clone().filter(|(teller, _)| *teller == to).map(|(_, told)| told);
        match (control, told) {
            (Control::Declared { topic, .. }, Some(Control::Declare { topic: name, purpose, .. })) => {
                self.heed_declared(to, *topic, &name, purpose);
            }
            (Control::Subscribed { .. }, Some(Control::Subscribe { subscription, pattern, role, overflow })) => {
                let wanted = Wanted { pattern: Pattern::new(&pattern).unwrap(), role, overflow };
                self.check_subscribed(to, &wanted);
                assert!(self.client(to).subscriptions.insert(subscription, wanted).is_none());
            }
            (Control::Unsubscribed { .. }, Some(Control::Unsubscribe { subscription })) => {
                assert!(self.client(to).subscriptions.remove(&subscription).is_some());
            }
            (Control::Refused { regarding, reason, .. }, Some(told)) => {
                self.check_refused(to, *regarding, *reason, &told);
            }
            (Control::Refused { regarding: Regarding::Subscription(number), reason, .. }, None) => {
                assert_eq!(*reason, Reason::Forbidden);
                let wanted = self.client(to).subscriptions.remove(number).unwrap();
                self.check_forbidden(to, &wanted);
            }
            (Control::Revoked { topic, purpose, .. }, None) => {
                let own = self.client(to).declared.get_mut(topic).unwrap().of(*purpose);
                assert_eq!(own.replace(Standing::Revoked), Some(Standing::Declared));
            }
            (Control::Pong { .. }, Some(Control::Ping { .. })) | (Control::RequestFailed { .. }, _) => {}
            (control, told) => panic!("{control:?} is no answer to {told:?}"),
        }
    }

    fn heed_declared(&mut self, to: u32, topic: TopicId, name: &str, purpose: Purpose) {
        let name = Topic::new(name).unwrap();
        self.check_declared(to, topic, &name, purpose);
        let known = self.topics_ever.insert(topic, name.clone());
        assert!(known.is_none_or(|known| known == name), "ids are never used again");
        let declared = self.client(to).declared.entry(topic).or_insert(Declared::new(name));
        *declared.of(purpose) = Some(Standing::Declared);
    }

    /// Everybody reads all there is, and leaves, one after another.
    pub(super) fn finish(&mut self) {
        let mut choices = Choices::none();
        self.settle(&mut choices);
        while let Some(id) = self.clients.keys().next().copied() {
            self.disconnect(id, &mut choices);
            self.settle(&mut choices);
        }
        self.now += Duration::from_secs(1_000_000_000);
        self.check_nothing_is_left();
    }

    /// Everybody reads until nothing waits, which must happen, and the accounts must be right then.
    fn settle(&mut self, choices: &mut Choices) {
        for _ in 0..10_000 {
            self.bury(choices);
            let ids: Vec<u32> = self.clients.keys().copied().collect();
            for id in ids {
                if self.clients.contains_key(&id) {
                    let now = self.now;
                    self.client(id).down.drain(now);
                    self.retry(id, choices);
                }
            }
            if self.clients.values().all(|client| client.is_settled() && !client.down.is_closed) {
                self.check();
                self.check_settled();
                return;
            }
        }
        panic!("somebody waits for room that never comes");
    }

    /// Topics that somebody is to know, and their names.
    pub(super) fn declared_names(&self) -> BTreeSet<&Topic> {
        self.clients.values().flat_map(|client| client.declared.values()).map(|declared| &declared.name).collect()
    }
}

pub(super) fn chosen<T: Copy>(among: &[T], number: u8) -> Option<T> {
    (!among.is_empty()).then(|| among[usize::from(number) % among.len()])
}

#[expect(clippy::disallowed_methods, reason = "an Instant can't be made otherwise; from here the test holds the clock")]
fn start() -> Instant {
    Instant::now()
}
