//! Who may do what, who may have how much, and what becomes of those who are connected when that changes.

use super::*;
use crate::core::policy::{Audit, Rule};
use crate::core::users::Reached;

const USERS: Group = Group::Unix { gid: 20 };

fn rule(allows: bool, who: Who, actions: &[Action], topics: &[&str]) -> Rule {
    let topics = topics.iter().map(|text| Pattern::new(text).unwrap()).collect();
    Rule { name: String::new(), who: vec![who], allows, actions: actions.to_vec(), topics, audit: Audit::None }
}

pub(super) fn allow(actions: &[Action], topics: &[&str]) -> Rule {
    rule(true, Who::Any, actions, topics)
}

pub(super) fn connect() -> Rule {
    allow(&[Action::Connect], &[])
}

/// A bus on which only these rules hold, with so many instances of one user.
pub(super) fn world(rules: Vec<Rule>, count: u32) -> World {
    with_limits(Limits::none(), rules, count)
}

fn with_limits(limits: Limits, rules: Vec<Rule>, count: u32) -> World {
    let mut world = World::on(limits, Policy { rules });
    for id in 1..=count {
        assert_eq!(world.connect(USER), Ok(id));
    }
    world.effects();
    world
}

pub(super) fn set_policy(world: &mut World, rules: Vec<Rule>) -> String {
    world.bus.set_policy(Policy { rules }, &std::collections::HashMap::new());
    world.effects()
}

/// Which limits the user has reached, and how often.
fn reached(world: &mut World) -> Vec<(Limit, u64)> {
    let now = world.now;
    world.bus.review(now).into_iter().map(|Reached { limit, times, .. }| (limit, times)).collect()
}

#[test]
fn a_subscription_gets_of_its_pattern_what_is_allowed() {
    let subscribe = allow(&[Action::Subscribe, Action::Block], &["sensors/**"]);
    let mut world = world(vec![connect(), subscribe, allow(&[Action::Publish], &[])], 2);
    assert_eq!(world.subscribe(1, 1, "**"), "1:subscribed#1");
    world.declare(2, "secrets/a");
    world.declare(2, "sensors/a");
    assert_eq!(world.targets(TopicId(2)), []);
    assert_eq!(world.targets(TopicId(3)), [(1, Overflow::Block)]);
}

#[test]
fn who_may_not_make_publishers_wait_loses_messages_instead() {
    let subscribe = allow(&[Action::Subscribe, Action::Publish], &[]);
    let mut world = world(vec![connect(), subscribe, allow(&[Action::Block], &["jobs/**"])], 1);
    world.subscribe(1, 1, "**");
    world.declare(1, "jobs/a");
    world.declare(1, "sensors/a");
    assert_eq!(world.targets(TopicId(2)), [(1, Overflow::Block)]);
    assert_eq!(world.targets(TopicId(3)), [(1, Overflow::DropNewest)]);
}

#[test]
fn a_subscription_of_which_nothing_is_allowed_is_refused() {
    let mut world = world(vec![connect(), allow(&[Action::Subscribe], &["sensors/**"])], 1);
    assert_eq!(world.subscribe(1, 1, "secrets/**"), "1:Forbidden");
    assert_eq!(world.subscribe(1, 1, "$bus/**"), "1:Forbidden");
    assert_eq!(world.serve(1, 1, "sensors/a"), "1:Forbidden");
    assert_eq!(world.declare(1, "sensors/a"), "1:Forbidden");
}

#[test]
fn who_serves_and_asks_needs_to_be_allowed_to() {
    let serve = rule(true, Who::User(Identity::Unix { uid: OWNER }), &[Action::Serve], &[]);
    let mut world = world(vec![connect(), serve, allow(&[Action::Request], &["a"])], 1);
    assert_eq!(world.connect(OWNER), Ok(2));
    assert_eq!(world.serve(1, 1, "a"), "1:Forbidden");
    assert_eq!(world.serve(2, 1, "**"), "2:subscribed#1");
    assert_eq!(world.declare_for(1, "b", Purpose::Request), "1:Forbidden");
    assert_eq!(world.declare_for(1, "a", Purpose::Request), "routes 1:declared#2");
    assert_eq!(world.ask(1, TopicId(2), 1), Ok(2));
}

#[test]
fn a_new_policy_takes_what_is_not_allowed_any_more_and_says_so() {
    let all = || allow(&Action::ALL, &[]);
    let mut world = world(vec![all()], 2);
    let topic = world.topic(1, "a");
    world.subscribe(2, 1, "a");
    world.subscribe(2, 2, "**");
    assert_eq!(world.targets(topic), [(2, Overflow::Block)]);
    let ask_only = vec![connect(), allow(&[Action::Request], &[]), allow(&[Action::Subscribe], &["b"])];
    assert_eq!(set_policy(&mut world, ask_only), "1:revoked#2#Publish routes 2:Forbidden routes");
    assert_eq!(world.targets(topic), []);
    let standing = |world: &World, purpose| world.bus.standing(InstanceId(1), topic, purpose);
    assert_eq!(standing(&world, Purpose::Publish), Standing::Revoked);
    assert_eq!(standing(&world, Purpose::Request), Standing::Declared);
    assert_eq!(world.declare(1, "a"), "1:Forbidden");
    // What was revoked stays so until it is declared anew.
    assert_eq!(set_policy(&mut world, vec![all()]), "routes routes");
    assert_eq!(standing(&world, Purpose::Publish), Standing::Revoked);
    assert_eq!(world.declare(1, "a"), "1:declared#2");
    assert_eq!(standing(&world, Purpose::Publish), Standing::Declared);
    assert_eq!(world.targets(topic), [(2, Overflow::Block)]);
}

#[test]
fn a_topic_that_may_not_be_sent_to_any_more_stays_for_what_was_sent_before() {
    let mut world = world(vec![allow(&Action::ALL, &[])], 2);
    let topic = world.topic(1, "a");
    assert_eq!(set_policy(&mut world, vec![connect()]), "1:revoked#2#Publish 1:revoked#2#Request routes");
    assert_eq!(world.bus.topics().count(), 2);
    assert_eq!(world.retract(1, topic), "routes topic-gone#2");
    assert_eq!(world.bus.topics().count(), 1);
}

#[test]
fn a_request_that_may_not_be_asked_any_more_fails() {
    let mut world = world(vec![allow(&Action::ALL, &[])], 2);
    let topic = world.topic(1, "a");
    world.serve(2, 1, "a");
    set_policy(&mut world, vec![connect(), allow(&[Action::Publish, Action::Serve], &[])]);
    assert_eq!(world.ask(1, topic, 1), Err(Failure::Forbidden));
    assert_eq!(world.effects(), "1:Forbidden#1");
}

#[test]
fn who_may_not_be_here_any_more_is_sent_away_and_cut_off_at_once() {
    let mut world = world(vec![allow(&Action::ALL, &[])], 2);
    let topic = world.topic(1, "a");
    world.subscribe(1, 1, "**");
    world.declare(2, "a");
    let only_owner = rule(true, Who::User(Identity::Unix { uid: OWNER }), &Action::ALL, &[]);
    let effects = set_policy(&mut world, vec![only_owner]);
    assert!(effects.contains("1:expelled#Forbidden") && effects.contains("2:expelled#Forbidden"), "{effects}");
    assert!(!effects.contains("revoked"), "{effects}");
    assert_eq!(world.targets(topic), []);
    assert_eq!(world.connect(USER), Err(Reason::Forbidden));
    world.gone(1);
    world.gone(2);
    assert_eq!((world.bus.instances().len(), world.bus.topics().len()), (0, 1));
}

#[test]
fn a_user_that_joins_or_leaves_a_group_gets_and_loses_at_once() {
    let of_group = rule(true, Who::Group(USERS), &[Action::Publish, Action::Subscribe, Action::Block], &[]);
    let mut world = world(vec![connect(), of_group], 2);
    assert_eq!(world.declare(1, "a"), "1:Forbidden");
    let user = Identity::Unix { uid: USER };
    world.bus.set_groups(&user, &[USERS]);
    world.effects();
    assert_eq!(world.declare(1, "a"), "routes 1:declared#2");
    world.subscribe(2, 1, "**");
    assert_eq!(world.targets(TopicId(2)), [(2, Overflow::Block)]);
    world.bus.set_groups(&user, &[]);
    assert!(world.effects().contains("1:revoked#2#Publish"));
    assert_eq!(world.targets(TopicId(2)), []);
}

#[test]
fn a_policy_that_is_the_first_to_name_groups_comes_with_them() {
    let mut world = world(vec![allow(&Action::ALL, &[])], 2);
    let topic = world.topic(1, "a");
    let rules = vec![rule(true, Who::Group(USERS), &Action::ALL, &[])];
    let groups = [(Identity::Unix { uid: USER }, [USERS].into())].into();
    world.bus.set_policy(Policy { rules }, &groups);
    assert_eq!(world.effects(), "routes");
    assert_eq!(world.bus.standing(InstanceId(1), topic, Purpose::Publish), Standing::Declared);
}

#[test]
fn some_instances_are_kept_for_administrators() {
    let limits = Limits { instances_max: 3, instances_reserved: 1, ..Limits::none() };
    let admin = rule(true, Who::User(Identity::Unix { uid: OWNER }), &[Action::Admin], &[]);
    let mut world = with_limits(limits, vec![connect(), admin], 2);
    assert_eq!(world.connect(USER), Err(Reason::BrokerFull));
    assert_eq!(world.connect(OWNER), Ok(3));
    assert_eq!(world.connect(OWNER), Err(Reason::BrokerFull));
    assert_eq!(reached(&mut world), [(Limit::Instances, 2)]);
    assert_eq!(reached(&mut world), []);
}

#[test]
fn a_user_at_its_limit_is_told_which_and_leaves_room_for_others() {
    let limits = Limits { topics_per_user_max: 3, subscriptions_per_user_max: 3, ..Limits::none() };
    let mut world = with_limits(limits, vec![allow(&Action::ALL, &[])], 2);
    for number in 1..=3 {
        assert!(world.declare(1, &format!("a/{number}")).contains("declared"));
        assert!(world.subscribe(2, number, "a").contains("subscribed"));
    }
    assert_eq!(world.declare(2, "b"), "2:TooMany");
    assert_eq!(world.subscribe(1, 1, "b"), "1:TooMany");
    assert_eq!(reached(&mut world), [(Limit::SubscriptionsPerUser, 1), (Limit::TopicsPerUser, 1)]);
    assert_eq!(world.connect(OWNER), Ok(3));
    assert!(world.declare(3, "b").contains("declared") && world.subscribe(3, 1, "b").contains("subscribed"));
    world.gone(2);
    assert!(world.subscribe(1, 1, "b").contains("subscribed"));
    world.retract(1, TopicId(2));
    assert!(world.declare(1, "b").contains("declared"));
}

#[test]
fn the_bus_has_as_many_topics_and_subscriptions_as_it_may() {
    // The broker's own topic counts, too.
    let limits = Limits { topics_max: 2, subscriptions_max: 1, ..Limits::none() };
    let mut world = with_limits(limits, vec![allow(&Action::ALL, &[])], 2);
    assert_eq!(world.declare(1, "a"), "routes 1:declared#2");
    assert_eq!(world.declare(2, "a"), "2:declared#2");
    assert_eq!(world.declare(2, "b"), "2:TooMany");
    world.subscribe(1, 1, "a");
    assert_eq!(world.subscribe(2, 1, "a"), "2:TooMany");
    world.unsubscribe(1, 1);
    assert!(world.subscribe(2, 1, "a").contains("subscribed"));
    assert_eq!(reached(&mut world), [(Limit::Subscriptions, 1), (Limit::Topics, 1)]);
}

#[test]
fn a_user_is_forgotten_once_it_has_left_and_owes_nothing() {
    let rate_per_user_max = crate::core::limits::Rate { messages: Some(10), bytes: None };
    let limits = Limits { rate_per_user_max, ..Limits::none() };
    let mut world = with_limits(limits, vec![connect()], 1);
    let account = world.bus.users().get(&Identity::Unix { uid: USER }).unwrap().account.clone();
    assert!(account.charge_sent(100, 0, world.now) > std::time::Duration::from_secs(9));
    world.gone(1);
    assert_eq!(reached(&mut world), [(Limit::MessagesPerSecond, 1)]);
    assert!(world.bus.users().get(&Identity::Unix { uid: USER }).is_some());
    world.now += std::time::Duration::from_secs(11);
    reached(&mut world);
    assert!(world.bus.users().get(&Identity::Unix { uid: USER }).is_none());
}

#[test]
fn what_a_rule_wants_logged_is() {
    let audited =
        |allows, actions: &[Action], topics: &[&str], audit| Rule { audit, ..rule(allows, Who::Any, actions, topics) };
    let rules = vec![
        audited(true, &[Action::Connect], &[], Audit::Success),
        audited(false, &[Action::Publish], &["secrets/**"], Audit::Failure),
        audited(true, &[Action::Publish, Action::Subscribe], &[], Audit::None),
    ];
    let mut world = World::on(Limits::none(), Policy { rules });
    assert_eq!(world.connect(USER), Ok(1));
    assert_eq!(world.effects(), "audit#allowed#connect#");
    assert_eq!(world.declare(1, "secrets/a"), "audit#denied#publish#secrets/a 1:Forbidden");
    assert_eq!(world.declare(1, "a"), "routes 1:declared#2");
}
