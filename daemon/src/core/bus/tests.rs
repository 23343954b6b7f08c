mod draining;
mod monitors;
mod trust;

use super::*;
use crate::core::policy::Who;

const OWNER: u32 = 100;
const USER: u32 = 200;

/// A bus with limits that are soon reached, on which each instance's way is its own number.
struct World {
    bus: Bus<u32>,
    now: Instant,
}

impl World {
    fn new() -> World {
        let limits = Limits {
            instances_max: 5,
            instances_per_user_max: 4,
            subscriptions_per_instance_max: 3,
            topics_per_instance_max: 3,
            requests_per_instance_max: 2,
            message_bytes_max: 1 << 20,
            ..Limits::none()
        };
        let mut policy = Policy::allowing([0, OWNER].map(|uid| Who::User(Identity::Unix { uid })).to_vec());
        policy.rules.extend(Policy::allowing(vec![Who::Any]).rules);
        policy.rules[1].actions.retain(|action| *action != Action::Admin);
        World::on(limits, policy)
    }

    fn on(limits: Limits, policy: Policy) -> World {
        let mut bus = Bus::new(limits, policy, &[Topic::new("$bus/status").unwrap()]);
        while bus.poll_effect().is_some() {}
        World { bus, now: start() }
    }

    /// A bus with so many instances of one user, numbered from 1.
    fn with_instances(count: u32) -> World {
        let mut world = World::new();
        for id in 1..=count {
            assert_eq!(world.connect(USER), Ok(id));
        }
        world
    }

    fn connect(&mut self, uid: u32) -> Result<u32, Reason> {
        self.connect_for(uid, false)
    }

    /// One that comes for the broker alone.
    fn visit(&mut self, uid: u32) -> Result<u32, Reason> {
        self.connect_for(uid, true)
    }

    fn connect_for(&mut self, uid: u32, visits: bool) -> Result<u32, Reason> {
        let peer = Peer { identity: Identity::Unix { uid }, pid: None };
        let to = self.bus.last_instance + 1;
        let hello = Hello { name: "a client".to_owned(), visits };
        let id = self.bus.connect(peer, &[], hello, |_, _| to, self.now);
        id.map(|id| id.0).map_err(|refused| refused.reason)
    }

    /// What follows from a control frame, as words.
    fn tell(&mut self, from: u32, control: Control) -> String {
        self.bus.handle_control(InstanceId(from), control);
        self.effects()
    }

    fn gone(&mut self, instance: u32) -> String {
        self.bus.handle_gone(InstanceId(instance));
        self.effects()
    }

    fn effects(&mut self) -> String {
        let effects: Vec<String> = std::iter::from_fn(|| self.bus.poll_effect()).map(word).collect();
        effects.join(" ")
    }

    fn declare_for(&mut self, from: u32, topic: &str, purpose: Purpose) -> String {
        self.tell(from, Control::Declare { token: 7, topic: topic.to_owned(), purpose })
    }

    fn declare(&mut self, from: u32, topic: &str) -> String {
        self.declare_for(from, topic, Purpose::Publish)
    }

    /// Declares for requests, too. Returns the id.
    fn topic(&mut self, from: u32, topic: &str) -> TopicId {
        self.declare_for(from, topic, Purpose::Publish);
        self.declare_for(from, topic, Purpose::Request);
        self.bus.topic_ids[&Topic::new(topic).unwrap()]
    }

    fn retract(&mut self, from: u32, topic: TopicId) -> String {
        self.tell(from, Control::Retract { topic })
    }

    fn subscribe_as(&mut self, from: u32, number: u32, pattern: &str, role: Role, overflow: Overflow) -> String {
        self.tell(from, Control::Subscribe { subscription: number, pattern: pattern.to_owned(), role, overflow })
    }

    fn subscribe(&mut self, from: u32, number: u32, pattern: &str) -> String {
        self.subscribe_as(from, number, pattern, Role::Subscribe, Overflow::Block)
    }

    fn serve(&mut self, from: u32, number: u32, pattern: &str) -> String {
        self.subscribe_as(from, number, pattern, Role::Serve, Overflow::Block)
    }

    fn unsubscribe(&mut self, from: u32, number: u32) -> String {
        self.tell(from, Control::Unsubscribe { subscription: number })
    }

    /// Who gets the topic's messages, and how.
    fn targets(&self, topic: TopicId) -> Vec<(u32, Overflow)> {
        let routes = self.bus.routes();
        let targets = routes.get(topic).map_or(&[][..], |route| &route.targets);
        targets.iter().map(|target| (target.to, target.overflow)).collect()
    }

    /// Which server gets the request; the effects are left where they are.
    fn ask(&mut self, requester: u32, topic: TopicId, correlation: u64) -> Result<u32, Failure> {
        match self.bus.handle_request(topic, call(requester, correlation))? {
            Server::Broker(_) => Ok(0),
            Server::Instance(id, to) => {
                assert_eq!(id.0, to);
                Ok(to)
            }
        }
    }

    fn requester(&self, requester: u32, topic: TopicId, correlation: u64, server: u32) -> Option<u32> {
        self.bus.requester(call(requester, correlation), topic, InstanceId(server))
    }
}

#[expect(clippy::disallowed_methods, reason = "an Instant can't be made otherwise; from here the tests hold the clock")]
fn start() -> Instant {
    Instant::now()
}

fn call(requester: u32, correlation: u64) -> Call {
    Call { requester: InstanceId(requester), correlation }
}

/// An effect as a word: `2:declared#5` is what instance 2 is told.
fn word(effect: Effect<u32>) -> String {
    let (to, control) = match effect {
        Effect::RoutesChanged => return "routes".to_owned(),
        Effect::TopicGone(topic) => return format!("topic-gone#{}", topic.0),
        Effect::SenderGone(sender) => return format!("sender-gone#{sender}"),
        Effect::Expel { to, refused } => return format!("{to}:expelled#{:?}", refused.reason),
        Effect::Monitors { instance, patterns, .. } => {
            let patterns: Vec<&str> = patterns.iter().map(Pattern::as_str).collect();
            return format!("{instance}:monitors[{}]", patterns.join(" "));
        }
        Effect::Audit(entry) => {
            let (allowed, action) = (if entry.allowed { "allowed" } else { "denied" }, entry.action.word());
            return format!("audit#{allowed}#{action}#{}", entry.topic.unwrap_or_default());
        }
        Effect::Send { to, control } => (to, control),
    };
    let text = match control {
        Control::Declared { token: 7, topic } => format!("declared#{}", topic.0),
        Control::Subscribed { subscription } => format!("subscribed#{subscription}"),
        Control::Unsubscribed { subscription } => format!("unsubscribed#{subscription}"),
        Control::Refused { reason, .. } => format!("{reason:?}"),
        Control::RequestFailed { correlation, failure } => format!("{failure:?}#{correlation}"),
        Control::Pong { token } => format!("pong#{token}"),
        Control::Revoked { topic, purpose, .. } => format!("revoked#{}#{purpose:?}", topic.0),
        other => format!("{other:?}"),
    };
    format!("{to}:{text}")
}

#[test]
fn topic_has_one_id_for_all_who_declare_it() {
    let mut world = World::with_instances(2);
    assert_eq!(world.declare(1, "a"), "routes 1:declared#2");
    assert_eq!(world.declare(1, "a"), "1:declared#2");
    assert_eq!(world.declare(2, "a"), "2:declared#2");
    assert_eq!(world.declare(2, "b"), "routes 2:declared#3");
}

#[test]
fn topic_goes_with_the_last_who_declared_it_and_its_id_is_not_used_again() {
    let mut world = World::with_instances(2);
    let topic = world.topic(1, "a");
    world.declare(2, "a");
    assert_eq!(world.retract(1, topic), "");
    assert_eq!(world.retract(1, topic), "");
    assert_eq!(world.retract(2, topic), "routes topic-gone#2");
    assert!(world.bus.routes().get(topic).is_none());
    assert_eq!(world.declare(1, "a"), "routes 1:declared#3");
}

#[test]
fn who_has_not_declared_for_it_may_not_send() {
    let mut world = World::with_instances(2);
    world.declare(1, "a");
    let topic = TopicId(2);
    let may = |world: &World, from, purpose| world.bus.standing(InstanceId(from), topic, purpose) == Standing::Declared;
    assert!(may(&world, 1, Purpose::Publish));
    assert!(!may(&world, 1, Purpose::Request));
    assert!(!may(&world, 2, Purpose::Publish));
    world.declare_for(1, "a", Purpose::Request);
    assert!(may(&world, 1, Purpose::Publish) && may(&world, 1, Purpose::Request));
    world.retract(1, topic);
    assert!(!may(&world, 1, Purpose::Publish) && !may(&world, 1, Purpose::Request));
}

#[test]
fn subscriber_gets_its_answer_after_the_routes() {
    let mut world = World::with_instances(2);
    let topic = world.topic(1, "a/b");
    assert_eq!(world.subscribe(2, 9, "a/*"), "routes 2:subscribed#9");
    assert_eq!(world.targets(topic), [(2, Overflow::Block)]);
    assert_eq!(world.unsubscribe(2, 9), "routes 2:unsubscribed#9");
    assert_eq!(world.targets(topic), []);
    assert_eq!(world.unsubscribe(2, 9), "2:Unknown");
}

#[test]
fn subscription_waits_for_topics_to_come() {
    let mut world = World::with_instances(2);
    assert_eq!(world.subscribe(2, 1, "**"), "2:subscribed#1");
    let topic = world.topic(1, "a");
    assert_eq!(world.targets(topic), [(2, Overflow::Block)]);
    world.retract(1, topic);
    let topic = world.topic(1, "a");
    assert_eq!(world.targets(topic), [(2, Overflow::Block)]);
}

#[test]
fn of_several_subscriptions_the_one_that_loses_least_counts() {
    let mut world = World::with_instances(2);
    let topic = world.topic(1, "a");
    let overflows = [Overflow::Disconnect, Overflow::Latest, Overflow::DropNewest];
    for (number, overflow) in (1..).zip(overflows) {
        world.subscribe_as(2, number, "**", Role::Subscribe, overflow);
        assert_eq!(world.targets(topic), [(2, overflow)]);
    }
    assert_eq!(world.unsubscribe(2, 2), "2:unsubscribed#2");
    assert_eq!(world.targets(topic), [(2, Overflow::DropNewest)]);
    world.unsubscribe(2, 3);
    assert_eq!(world.targets(topic), [(2, Overflow::Disconnect)]);
    world.subscribe_as(2, 2, "a", Role::Subscribe, Overflow::DropOldest);
    assert_eq!(world.targets(topic), [(2, Overflow::DropOldest)]);
    world.unsubscribe(2, 1);
    world.unsubscribe(2, 2);
    assert_eq!(world.targets(topic), []);
}

#[test]
fn bad_subscriptions_change_nothing() {
    let mut world = World::with_instances(1);
    let topic = world.topic(1, "a");
    world.subscribe(1, 1, "b");
    assert_eq!(world.subscribe(1, 1, "a"), "1:Protocol");
    assert_eq!(world.subscribe(1, 2, "a//b"), "1:Name");
    assert_eq!(world.subscribe(1, 2, "a*"), "1:Name");
    assert_eq!(world.declare(1, "*"), "1:Name");
    assert_eq!(world.targets(topic), []);
}

#[test]
fn bus_and_user_have_as_many_instances_as_they_may() {
    let mut world = World::with_instances(4);
    assert_eq!(world.connect(USER), Err(Reason::UserFull));
    assert_eq!(world.connect(OWNER), Ok(5));
    assert_eq!(world.connect(OWNER), Err(Reason::BrokerFull));
    world.gone(2);
    assert_eq!(world.connect(USER), Ok(6));
    assert_eq!(world.connect(USER), Err(Reason::BrokerFull));
}

#[test]
fn client_has_as_many_subscriptions_and_topics_as_it_may() {
    let mut world = World::with_instances(2);
    for number in 1..=3 {
        assert!(world.subscribe(1, number, "a").contains("subscribed"));
        assert!(world.declare(1, &format!("b/{number}")).contains("declared"));
    }
    assert_eq!(world.subscribe(1, 4, "a"), "1:TooMany");
    assert_eq!(world.declare(1, "b/4"), "1:TooMany");
    assert_eq!(world.declare(1, "b/3"), "1:declared#4");
    world.unsubscribe(1, 2);
    world.retract(1, TopicId(3));
    assert!(world.subscribe(1, 4, "a").contains("subscribed"));
    assert!(world.declare(1, "b/4").contains("declared"));
}

#[test]
fn known_topics_can_be_declared_when_no_new_ones_can() {
    let mut world = World::with_instances(2);
    world.declare(1, "a");
    world.bus.last_topic = u32::MAX;
    assert_eq!(world.declare(2, "b"), "2:Exhausted");
    assert_eq!(world.declare(2, "a"), "2:declared#2");
}

#[test]
fn only_the_owner_and_root_may_ask_the_broker() {
    let mut world = World::with_instances(1);
    assert_eq!(world.connect(OWNER), Ok(2));
    assert_eq!(world.connect(0), Ok(3));
    assert_eq!(world.declare_for(1, "$bus/status", Purpose::Request), "1:Forbidden");
    assert_eq!(world.declare_for(2, "$bus/status", Purpose::Request), "2:declared#1");
    assert_eq!(world.declare_for(3, "$bus/status", Purpose::Request), "3:declared#1");
    assert_eq!(world.declare_for(2, "$bus/unheard-of", Purpose::Request), "2:Unknown");
    assert_eq!(world.declare(2, "$bus/status"), "2:Forbidden");
    assert_eq!(world.ask(2, TopicId(1), 1), Ok(0));
    assert_eq!(world.retract(2, TopicId(1)), "");
    world.gone(3);
    assert_eq!(world.bus.topics().count(), 1);
}

#[test]
fn nobody_serves_the_brokers_own_topics() {
    let mut world = World::with_instances(1);
    assert_eq!(world.serve(1, 1, "$bus/status"), "1:Forbidden");
    assert_eq!(world.serve(1, 1, "**"), "1:subscribed#1");
    assert_eq!(world.ask(1, TopicId(1), 1), Ok(0));
}

#[test]
fn servers_take_turns() {
    let mut world = World::with_instances(4);
    let topic = world.topic(1, "a");
    for server in 2..=4 {
        world.serve(server, 1, "a");
    }
    let mut correlation = 0;
    let mut turn = |world: &mut World| {
        correlation += 1;
        let server = world.ask(1, topic, correlation).unwrap();
        world.bus.handle_answered(call(1, correlation));
        server
    };
    let turns: Vec<u32> = (0..6).map(|_| turn(&mut world)).collect();
    assert_eq!(turns, [2, 3, 4, 2, 3, 4]);
    // Who has just served leaves; those who wait for their turn keep it.
    assert_eq!(turn(&mut world), 2);
    world.gone(2);
    assert_eq!([turn(&mut world), turn(&mut world), turn(&mut world)], [3, 4, 3]);
    world.unsubscribe(4, 1);
    assert_eq!([turn(&mut world), turn(&mut world)], [3, 3]);
}

#[test]
fn server_with_two_subscriptions_has_one_turn_and_serves_until_both_end() {
    let mut world = World::with_instances(3);
    let topic = world.topic(1, "a");
    world.serve(2, 1, "a");
    world.serve(2, 2, "*");
    world.serve(3, 1, "a");
    assert_eq!([world.ask(1, topic, 1), world.ask(1, topic, 2)], [Ok(2), Ok(3)]);
    world.unsubscribe(2, 1);
    world.gone(3);
    world.bus.handle_answered(call(1, 1));
    assert_eq!(world.ask(1, topic, 3), Ok(2));
    assert_eq!(world.targets(topic), []);
}

#[test]
fn requester_is_told_that_nobody_serves() {
    let mut world = World::with_instances(2);
    let topic = world.topic(1, "a");
    world.subscribe(2, 1, "a");
    assert_eq!(world.ask(1, topic, 5), Err(Failure::NoServer));
    assert_eq!(world.effects(), "1:NoServer#5");
    assert_eq!(world.ask(1, TopicId(99), 6), Err(Failure::NoServer));
    assert_eq!(world.effects(), "1:NoServer#6");
}

#[test]
fn client_has_as_many_open_requests_as_it_may() {
    let mut world = World::with_instances(2);
    let topic = world.topic(1, "a");
    world.serve(2, 1, "a");
    assert_eq!([world.ask(1, topic, 1), world.ask(1, topic, 2)], [Ok(2), Ok(2)]);
    assert_eq!(world.ask(1, topic, 3), Err(Failure::TooMany));
    assert_eq!(world.effects(), "1:TooMany#3");
    world.tell(1, Control::Cancel { correlation: 2 });
    assert_eq!(world.ask(1, topic, 3), Ok(2));
}

#[test]
fn request_is_answered_once_and_by_the_server_it_went_to() {
    let mut world = World::with_instances(3);
    let topic = world.topic(1, "a");
    world.serve(2, 1, "a");
    world.serve(3, 1, "a");
    assert_eq!(world.ask(1, topic, 1), Ok(2));
    assert_eq!(world.requester(1, topic, 1, 3), None);
    assert_eq!(world.requester(1, TopicId(1), 1, 2), None);
    assert_eq!(world.requester(1, topic, 2, 2), None);
    // Neither who asks nor who answers needs the topic or the subscription any more.
    world.unsubscribe(2, 1);
    world.retract(1, topic);
    assert_eq!(world.requester(1, topic, 1, 2), Some(1));
    world.bus.handle_answered(call(1, 1));
    assert_eq!(world.requester(1, topic, 1, 2), None);
}

#[test]
fn requester_is_told_that_its_server_left() {
    let mut world = World::with_instances(3);
    let topic = world.topic(1, "a");
    world.serve(2, 1, "a");
    world.ask(1, topic, 1).unwrap();
    world.ask(1, topic, 2).unwrap();
    world.bus.handle_answered(call(1, 1));
    assert_eq!(world.gone(2), "sender-gone#2 1:ServerGone#2");
    assert_eq!(world.ask(1, topic, 3), Err(Failure::NoServer));
}

#[test]
fn request_that_did_not_reach_its_server_fails_once() {
    let mut world = World::with_instances(2);
    let topic = world.topic(1, "a");
    world.serve(2, 1, "a");
    world.ask(1, topic, 1).unwrap();
    world.ask(1, topic, 2).unwrap();
    world.bus.handle_unheard(call(1, 1));
    assert_eq!(world.effects(), "1:Busy#1");
    assert_eq!(world.requester(1, topic, 1, 2), None);
    assert_eq!(world.gone(2), "sender-gone#2 1:ServerGone#2");
    world.bus.handle_unheard(call(1, 2));
    assert_eq!(world.effects(), "");
}

#[test]
fn who_leaves_leaves_nothing_behind() {
    let mut world = World::with_instances(2);
    let topic = world.topic(1, "a");
    world.serve(1, 1, "b");
    world.subscribe(1, 2, "**");
    let other = world.topic(2, "b");
    world.serve(2, 1, "a");
    world.subscribe(2, 2, "**");
    world.ask(1, topic, 1).unwrap();
    world.ask(2, other, 1).unwrap();
    assert_eq!(world.gone(1), "sender-gone#1 routes routes routes topic-gone#2 2:ServerGone#1");
    assert_eq!(world.targets(other), [(2, Overflow::Block)]);
    assert_eq!(world.gone(1), "");
    assert_eq!(world.tell(1, Control::Ping { token: 1 }), "");
    world.gone(2);
    assert_eq!((world.bus.instances().count(), world.bus.topics().count()), (0, 1));
    assert!(world.bus.topic_ids.len() == 1 && world.bus.routes().get(other).is_none());
    assert_eq!(world.bus.requests.count(InstanceId(1)) + world.bus.requests.count(InstanceId(2)), 0);
}

#[test]
fn client_is_told_what_it_may_not_say() {
    let mut world = World::with_instances(1);
    assert_eq!(world.tell(1, Control::Pong { token: 1 }), "1:Protocol");
    let name = "\u{10ffff}".repeat(1000);
    assert_eq!(world.tell(1, Control::Hello { version: 1, name }), "1:Protocol");
    assert_eq!(world.tell(1, Control::Ping { token: 4 }), "1:pong#4");
}
