//! How a bus becomes empty, who may come meanwhile, and what the policy has refused.

use super::*;
use crate::core::bus::decisions::Denied;
use crate::core::policy::Rule;

/// A bus with an administrator, who is instance 1 and has ordered the drain, and so many instances of one user.
fn draining(count: u32) -> World {
    let mut world = World::new();
    world.connect(OWNER).unwrap();
    (0..count).for_each(|_| assert!(world.connect(USER).is_ok()));
    world.bus.drain(InstanceId(1));
    world
}

/// What a user has been refused lately.
fn denied(world: &mut World) -> Denied {
    world.bus.take_denials().remove(&Identity::Unix { uid: USER }).unwrap_or_default()
}

#[test]
fn a_bus_that_drains_lets_nobody_new_in_and_waits_for_all_but_whoever_ordered_it() {
    let mut world = draining(2);
    assert_eq!(world.bus.awaited(), Some(2));
    assert_eq!(world.connect(USER), Err(Reason::Draining));
    assert_eq!(world.connect(OWNER), Err(Reason::Draining));
    assert!(world.declare(2, "a").contains("declared"), "who is there goes on");
    world.gone(2);
    world.gone(3);
    assert_eq!(world.bus.awaited(), Some(0));
    world.gone(1);
    assert_eq!(world.bus.awaited(), Some(0), "also after whoever ordered it has left");
}

#[test]
fn a_drain_that_is_called_off_lets_everybody_in_again() {
    let mut world = draining(1);
    world.bus.cancel_drain();
    assert_eq!(world.bus.awaited(), None);
    assert_eq!(world.connect(USER), Ok(3));
}

#[test]
fn visitors_who_may_call_a_drain_off_come_in_and_are_not_waited_for() {
    let mut world = draining(1);
    assert_eq!(world.visit(USER), Err(Reason::Draining), "it may not");
    assert_eq!(world.visit(OWNER), Ok(3));
    assert_eq!(world.bus.awaited(), Some(1));
    world.gone(3);
    assert_eq!(world.bus.awaited(), Some(1));
    // A visitor may order it, too.
    assert_eq!(world.visit(OWNER), Ok(4));
    world.bus.drain(InstanceId(4));
    assert_eq!(world.bus.awaited(), Some(2), "who has ordered it before counts now");
    world.gone(4);
    assert_eq!(world.bus.awaited(), Some(2));
}

#[test]
fn visitors_have_to_do_with_nobody_but_the_broker() {
    let mut world = World::new();
    world.visit(OWNER).unwrap();
    assert_eq!(world.declare_for(1, "$bus/status", Purpose::Request), "1:declared#1");
    assert_eq!(world.subscribe(1, 1, "$bus/**"), "routes 1:subscribed#1");
    assert_eq!(world.declare(1, "a"), "1:Forbidden");
    assert_eq!(world.subscribe(1, 2, "**"), "1:Forbidden");
    assert_eq!(world.serve(1, 2, "a"), "1:Forbidden");
}

#[test]
fn what_is_refused_is_noted_and_too_much_of_it_is_counted() {
    let rules = vec![Rule { topics: vec![Pattern::new("a").unwrap()], ..all() }];
    let mut world = World::on(Limits::none(), Policy { rules });
    world.connect(USER).unwrap();
    for _ in 0..50 {
        assert_eq!(world.declare(1, "b"), "1:Forbidden");
    }
    assert_eq!(world.subscribe(1, 1, "b/**"), "1:Forbidden");
    let Denied { entries, left_out } = denied(&mut world);
    assert_eq!((entries.len() as u64 + left_out, left_out > 0), (51, true));
    let first = &entries[0];
    assert_eq!(
        (first.instance, first.action, first.topic.as_deref()),
        (Some(InstanceId(1)), Action::Publish, Some("b"))
    );
    assert!(denied(&mut world).entries.is_empty(), "told once");
}

#[test]
fn a_topic_that_a_wider_pattern_leaves_out_is_no_refusal() {
    let rules = vec![
        Rule {
            topics: vec![Pattern::new("secrets/**").unwrap()],
            actions: vec![Action::Subscribe],
            allows: false,
            ..all()
        },
        all(),
    ];
    let mut world = World::on(Limits::none(), Policy { rules });
    world.connect(USER).unwrap();
    world.subscribe(1, 1, "**");
    let topic = world.topic(1, "secrets/a");
    assert_eq!(world.targets(topic), []);
    assert!(denied(&mut world).entries.is_empty());
}

fn all() -> Rule {
    Policy::allowing(vec![Who::Any]).rules.remove(0)
}
