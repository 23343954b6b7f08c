//! Rules: policies and limits by chance, and what a policy means, word for word.

use std::time::Duration;

use pipebus_proto::control::Identity;
use pipebus_proto::pattern::Pattern;
use pipebus_proto::topic::Topic;
use pipebusd::core::limits::{Limits, Rate};
use pipebusd::core::policy::{Action, Audit, Group, Policy, Rule, Who};

use super::choices::Choices;

pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(5);
pub(super) const USERS: u8 = 3;
const GROUPS: [u32; 2] = [10, 20];
const RULE_TOPICS: [&str; 6] = ["a/**", "a", "b", "*/c", "b/**", "$bus/**"];

pub(super) fn identity(user: u8) -> Identity {
    Identity::Unix { uid: u32::from(user % USERS) }
}

pub(super) fn groups(choices: &mut Choices) -> Vec<Group> {
    let chosen = choices.byte();
    let members = (0..).zip(GROUPS).filter(|(bit, _)| chosen >> bit & 1 == 1);
    members.map(|(_, gid)| Group::Unix { gid }).collect()
}

/// Mostly a few rules, and then everybody may do everything.
pub(super) fn policy(choices: &mut Choices) -> Policy {
    let count = choices.below(4);
    let mut policy = Policy { rules: (0..count).map(|_| rule(choices)).collect() };
    if choices.happens(40) {
        policy.rules.extend(Policy::allowing(vec![Who::Group(Group::Unix { gid: GROUPS[0] })]).rules);
        policy.rules.push(Rule { actions: vec![Action::Connect, Action::Publish], ..all() });
    } else {
        policy.rules.push(all());
    }
    policy
}

fn all() -> Rule {
    Policy::allowing(vec![Who::Any]).rules.remove(0)
}

fn rule(choices: &mut Choices) -> Rule {
    use Action::{Admin, Block, Connect, Monitor, Publish, Request, Serve, Subscribe};
    let group = choices.one_of(&GROUPS);
    let user = choices.byte();
    let who = match choices.byte() % 6 {
        0 => vec![Who::Any],
        1 | 2 => vec![Who::Group(Group::Unix { gid: group })],
        3 => vec![Who::User(identity(user)), Who::Group(Group::Unix { gid: group })],
        _ => vec![Who::User(identity(user))],
    };
    let several: [&[Action]; 10] = [
        &[Publish],
        &[Subscribe],
        &[Request],
        &[Serve],
        &[Publish, Subscribe],
        &[Request, Serve],
        &[Admin],
        &[Block],
        &[Monitor],
        &[Publish, Subscribe, Request, Serve],
    ];
    let actions = if choices.happens(16) { &[Connect] } else { choices.one_of(&several) };
    let count = choices.below(3);
    let topics = (0..count).map(|_| Pattern::new(choices.one_of(&RULE_TOPICS)).unwrap()).collect();
    let audit = choices.one_of(&[Audit::None, Audit::All]);
    let allows = choices.happens(90);
    Rule { name: String::new(), who, allows, actions: actions.to_vec(), topics, audit }
}

/// The definition, to hold the real one against: the first rule that fits decides.
pub(super) fn may(policy: &Policy, who: &Identity, groups: &[Group], action: Action, topic: Option<&Topic>) -> bool {
    for rule in &policy.rules {
        let is_meant = rule.who.iter().any(|one| match one {
            Who::Any => true,
            Who::User(user) => user == who,
            Who::Group(group) => groups.contains(group),
        });
        let on_topic = match topic {
            _ if rule.topics.is_empty() => true,
            Some(topic) => rule.topics.iter().any(|pattern| pattern.matches(topic)),
            None => rule.allows,
        };
        if is_meant && on_topic && rule.actions.contains(&action) {
            return rule.allows;
        }
    }
    false
}

/// Those of the bus; narrow ones, for they are to be reached.
pub(super) fn limits(choices: &mut Choices) -> Limits {
    const MANY: usize = usize::MAX / 4;
    Limits {
        instances_max: 8 - choices.below(5),
        instances_reserved: choices.below(2),
        instances_per_user_max: choices.one_of(&[8, 4, 2]),
        subscriptions_max: choices.one_of(&[MANY, 12, 6]),
        subscriptions_per_user_max: choices.one_of(&[MANY, 8, 3]),
        subscriptions_per_instance_max: choices.one_of(&[4, 2]),
        topics_max: choices.one_of(&[MANY, 5, 3]),
        topics_per_user_max: choices.one_of(&[MANY, 6, 3]),
        topics_per_instance_max: choices.one_of(&[4, 2]),
        requests_per_instance_max: choices.one_of(&[4, 1, 2]),
        message_bytes_max: choices.one_of(&[1 << 20, 1500, 400]),
        queue_bytes_max: choices.one_of(&[2000, 600, 200, 1]),
        queued_bytes_per_user_max: choices.one_of(&[MANY, MANY, 2500, 600, 1]),
        queued_bytes_max: choices.one_of(&[MANY, MANY, 5000, 1200, 2]),
        rate_per_user_max: Rate {
            messages: choices.one_of(&[None, None, None, None, Some(20)]),
            bytes: choices.one_of(&[None, None, None, None, Some(3000)]),
        },
        rate_max: Rate {
            messages: choices.one_of(&[None, None, None, None, Some(40)]),
            bytes: choices.one_of(&[None, None, None, None, Some(6000)]),
        },
        stall_timeout: STALL_TIMEOUT,
    }
}
