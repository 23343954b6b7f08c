//! Who monitors what, who may, and who is told of it.

use pipebus_proto::record::{CONTROL_TOPIC, Watch};

use super::trust::{allow, connect, set_policy, world};
use super::*;

impl World {
    fn monitor(&mut self, from: u32, number: u32, pattern: &str, capture_bytes: u32) -> String {
        let watch = Watch { capture_bytes, ..Watch::default() };
        self.subscribe_as(from, number, pattern, Role::Monitor(watch), Overflow::Block)
    }

    /// Who watches the topic, and how much of each body.
    fn watchers(&self, topic: TopicId) -> Vec<(u32, u32)> {
        let routes = self.bus.routes();
        let watchers = routes.get(topic).map_or(&[][..], |route| &route.watchers);
        watchers.iter().map(|watcher| (watcher.to, watcher.watch.capture_bytes)).collect()
    }
}

#[test]
fn a_monitor_watches_the_topics_that_match_also_those_to_come_and_is_announced() {
    let mut world = World::with_instances(2);
    let topic = world.topic(1, "a");
    assert_eq!(world.monitor(2, 1, "a/**", 5), "routes 2:monitors[a/**] 2:subscribed#1");
    let other = world.topic(1, "a/b");
    assert_eq!((world.watchers(topic), world.watchers(other)), (vec![(2, 5)], vec![(2, 5)]));
    assert_eq!(world.targets(topic), [], "it gets no messages");
    assert_eq!(world.ask(1, topic, 1), Err(Failure::NoServer), "nor requests");
    world.effects();
    assert_eq!(world.monitor(2, 2, "x", 5), "2:monitors[a/** x] 2:subscribed#2");
    assert_eq!(world.unsubscribe(2, 1), "routes routes 2:monitors[x] 2:unsubscribed#1");
    assert_eq!(world.watchers(topic), []);
    assert_eq!(world.gone(2), "2:monitors[] sender-gone#2");
}

#[test]
fn an_instance_watches_a_topic_once_by_the_monitor_with_the_lowest_number() {
    let mut world = World::with_instances(2);
    let topic = world.topic(1, "a");
    world.monitor(2, 3, "*", 30);
    assert_eq!(world.watchers(topic), [(2, 30)]);
    world.monitor(2, 2, "**", 20);
    assert_eq!(world.watchers(topic), [(2, 20)]);
    world.monitor(2, 4, "a", 40);
    assert_eq!(world.watchers(topic), [(2, 20)]);
    world.unsubscribe(2, 2);
    assert_eq!(world.watchers(topic), [(2, 30)]);
    assert_eq!(world.monitor(2, 5, "a", 50), "2:monitors[* a a] 2:subscribed#5");
    assert_eq!(world.monitor(2, 6, "b", 60), "2:TooMany", "they are subscriptions");
}

#[test]
fn an_instance_subscribes_and_monitors_and_one_does_not_end_the_other() {
    let mut world = World::with_instances(2);
    let topic = world.topic(1, "a");
    world.monitor(2, 1, "a", 5);
    world.subscribe(2, 2, "a");
    assert_eq!((world.watchers(topic), world.targets(topic)), (vec![(2, 5)], vec![(2, Overflow::Block)]));
    world.unsubscribe(2, 1);
    assert_eq!((world.watchers(topic), world.targets(topic)), (vec![], vec![(2, Overflow::Block)]));
    world.monitor(2, 1, "a", 5);
    world.unsubscribe(2, 2);
    assert_eq!((world.watchers(topic), world.targets(topic)), (vec![(2, 5)], vec![]));
}

#[test]
fn nobody_waits_for_a_monitor_whatever_it_asks_for() {
    let mut world = World::with_instances(2);
    let topic = world.topic(1, "a");
    for (asked, expected) in [
        (Overflow::Block, Overflow::DropNewest),
        (Overflow::Disconnect, Overflow::DropNewest),
        (Overflow::Latest, Overflow::DropNewest),
        (Overflow::DropNewest, Overflow::DropNewest),
        (Overflow::DropOldest, Overflow::DropOldest),
    ] {
        world.subscribe_as(2, 1, "a", Role::Monitor(Watch::default()), asked);
        assert_eq!(world.bus.routes().get(topic).unwrap().watchers[0].overflow, expected);
        world.unsubscribe(2, 1);
    }
}

#[test]
fn to_monitor_takes_a_right_of_its_own_on_each_topic() {
    let all_but = [Action::Subscribe, Action::Publish, Action::Admin, Action::Block];
    let mut world = world(vec![connect(), allow(&all_but, &[]), allow(&[Action::Monitor], &["a/**"])], 2);
    world.declare(1, "a/b");
    world.declare(1, "c");
    assert_eq!(world.monitor(2, 1, "c", 5), "2:Forbidden");
    assert_eq!(world.monitor(2, 1, "**", 5), "routes 2:monitors[**] 2:subscribed#1");
    assert_eq!((world.watchers(TopicId(2)), world.watchers(TopicId(3))), (vec![(2, 5)], vec![]));
    // Nor does it take another.
    let narrow = vec![connect(), allow(&[Action::Publish], &[]), allow(&[Action::Monitor], &["c"])];
    assert_eq!(set_policy(&mut world, narrow), "routes routes routes");
    assert_eq!((world.watchers(TopicId(2)), world.watchers(TopicId(3))), (vec![], vec![(2, 5)]));
    let none = vec![connect(), allow(&[Action::Publish], &[])];
    assert_eq!(set_policy(&mut world, none), "routes 2:monitors[] 2:Forbidden routes");
    assert_eq!(world.watchers(TopicId(3)), []);
}

#[test]
fn of_the_brokers_own_topics_only_that_of_control_frames_is_watched() {
    let own = [pipebus_proto::admin::STATUS, CONTROL_TOPIC].map(|name| Topic::new(name).unwrap());
    let rules = vec![connect(), allow(&[Action::Monitor], &[])];
    let mut bus = Bus::new(Limits::none(), Policy { rules }, &own);
    while bus.poll_effect().is_some() {}
    let mut world = World { bus, now: start() };
    assert_eq!(world.connect(USER), Ok(1));
    assert_eq!(world.monitor(1, 1, "**", 5), "1:monitors[**] 1:subscribed#1");
    assert_eq!((world.watchers(TopicId(1)), world.watchers(TopicId(2))), (vec![], vec![]));
    assert_eq!(world.monitor(1, 2, "$bus/status", 5), "1:Forbidden");
    assert_eq!(world.monitor(1, 2, "$bus/**", 5), "routes 1:monitors[** $bus/**] 1:subscribed#2");
    assert_eq!((world.watchers(TopicId(1)), world.watchers(TopicId(2))), (vec![], vec![(1, 5)]));
    set_policy(&mut world, vec![connect(), allow(&[Action::Admin], &[])]);
    assert_eq!(world.watchers(TopicId(2)), [], "to ask the broker is not to monitor");
}
