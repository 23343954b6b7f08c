//! Subscriptions: who gets what is sent to which topic.

use std::sync::Arc;

use pipebus_proto::control::{Identity, Overflow, Reason, Role};
use pipebus_proto::pattern::Pattern;
use pipebus_proto::record::{CONTROL_TOPIC, Watch};
use pipebus_proto::topic::{InstanceId, Topic, TopicId};

use super::{Bus, Effect, Instance, Subscription, gone};
use crate::core::limits::Limit;
use crate::core::policy::{Action, Group, Subject};
use crate::core::refused::Refused;
use crate::core::routes::{Route, Target, Watcher};

impl<T: Clone> Bus<T> {
    pub(super) fn subscribe(
        &mut self,
        from: InstanceId,
        number: u32,
        pattern: &str,
        role: Role,
        overflow: Overflow,
    ) -> Result<(), Refused> {
        let pattern = Pattern::new(pattern).map_err(|error| Refused::new(Reason::Name, error.to_string()))?;
        let instance = self.instances.get(&from).ok_or_else(gone)?;
        if instance.subscriptions.contains_key(&number) {
            let text = format!("this client has a subscription {number} already");
            return Err(Refused::new(Reason::Protocol, text));
        }
        check_own(role, &pattern)?;
        if !matches!(role, Role::Monitor(_)) {
            instance.check_errand(pattern.as_str())?;
        }
        self.check_subscriptions(from)?;
        self.judge_pattern(from, role, &pattern)?;
        let instance = self.instances.get_mut(&from).ok_or_else(gone)?;
        instance.subscriptions.insert(number, Subscription { pattern: pattern.clone(), role, overflow });
        if let Some(user) = self.users.get_mut(&instance.peer.identity) {
            user.subscriptions += 1;
        }
        self.users.subscriptions += 1;
        self.reroute_matching(&pattern, from);
        self.tell_of_monitor(from, role);
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, from: InstanceId, number: u32) -> Result<(), Refused> {
        let instance = self.instances.get_mut(&from).ok_or_else(gone)?;
        let Some(subscription) = instance.subscriptions.remove(&number) else {
            return Err(Refused::new(Reason::Unknown, format!("this client has no subscription {number}")));
        };
        if let Some(user) = self.users.get_mut(&instance.peer.identity) {
            user.subscriptions -= 1;
        }
        self.users.subscriptions -= 1;
        self.reroute_matching(&subscription.pattern, from);
        self.tell_of_monitor(from, subscription.role);
        Ok(())
    }

    /// A subscription of this role has come or gone.
    fn tell_of_monitor(&mut self, from: InstanceId, role: Role) {
        if let Role::Monitor(_) = role
            && let Some(instance) = self.instances.get(&from)
        {
            let monitoring = instance.subscriptions.values().filter(|subscription| subscription.is_monitor());
            let patterns = monitoring.map(|subscription| subscription.pattern.clone()).collect();
            self.effects.push_back(instance.monitors(from, patterns));
        }
    }

    /// Whether there is room for one subscription more.
    fn check_subscriptions(&self, from: InstanceId) -> Result<(), Refused> {
        let instance = self.instances.get(&from).ok_or_else(gone)?;
        let (limits, of_instance) = (&self.limits, instance.subscriptions.len());
        let of_user = self.users.get(&instance.peer.identity).map_or(0, |user| user.subscriptions);
        let of_bus = self.users.subscriptions;
        let bounds = [
            ("this client has", of_instance, limits.subscriptions_per_instance_max, Limit::SubscriptionsPerInstance),
            ("your user's clients have", of_user, limits.subscriptions_per_user_max, Limit::SubscriptionsPerUser),
            ("the bus has", of_bus, limits.subscriptions_max, Limit::Subscriptions),
        ];
        self.check_bounds(from, &bounds, "subscriptions", "end some")
    }

    /// Whether each of some counts may be one more.
    pub(super) fn check_bounds(
        &self,
        from: InstanceId,
        bounds: &[(&str, usize, usize, Limit)],
        what: &str,
        advice: &str,
    ) -> Result<(), Refused> {
        let Some((whose, count, _, limit)) = bounds.iter().find(|(_, count, max, _)| count >= max) else {
            return Ok(());
        };
        self.count(from, *limit);
        let text = format!("{whose} {count} {what}, as many as it may have; {advice}, or raise {}", limit.key());
        Err(Refused::new(Reason::TooMany, text))
    }

    /// Whether the policy lets an instance get anything at all of what a pattern means.
    pub(super) fn judge_pattern(&mut self, from: InstanceId, role: Role, pattern: &Pattern) -> Result<(), Refused> {
        let instance = self.instances.get(&from).ok_or_else(gone)?;
        let (peer, groups, policy) = (instance.peer.clone(), self.groups(&instance.peer.identity), self.policy.clone());
        let action = action_of(role, pattern.as_str());
        let decision = policy.decide_pattern(Subject { identity: &peer.identity, groups: &groups }, action, pattern);
        if decision.allowed {
            // Each topic is decided for itself, and logged then.
            return Ok(());
        }
        self.audit(Some(from), &peer, action, Some(pattern.as_str()), &decision);
        Err(self.deny(Some(from), &peer, action, Some(pattern.as_str()), &decision))
    }

    pub(super) fn reroute_matching(&mut self, pattern: &Pattern, instance: InstanceId) {
        let matching: Vec<TopicId> =
            self.topics.iter().filter(|(_, topic)| pattern.matches(&topic.name)).map(|(id, _)| *id).collect();
        for topic in matching {
            self.reroute(topic, instance);
        }
    }

    /// Brings a topic's targets, servers and watchers up to date with what an instance wants now, and may get.
    pub(super) fn reroute(&mut self, topic: TopicId, instance: InstanceId) {
        let Some(name) = self.topics.get(&topic).map(|declared| declared.name.clone()) else { return };
        let wants = self.instances.get(&instance).map(|i| (i.wants(&name), i.to.clone()));
        let (wants, to) = wants.map_or((Wants::default(), None), |(wants, to)| (wants, Some(to)));
        let listens = wants.listens.filter(|_| self.may_get(instance, Role::Subscribe, &name));
        let listens = listens.map(|overflow| self.allowed_overflow(instance, overflow, &name));
        let serves = wants.serves && self.may_get(instance, Role::Serve, &name);
        let watches = wants.watches.filter(|(watch, _)| self.may_get(instance, Role::Monitor(*watch), &name));
        let Some(declared) = self.topics.get_mut(&topic) else { return };
        let served = declared.servers.contains(&instance);
        if serves && !served {
            declared.servers.push(instance);
        } else if !serves && served {
            declared.servers.retain(|server| *server != instance);
        }
        let Some(route) = self.routes.get(topic) else { return };
        let target = route.targets.iter().find(|target| target.instance == instance);
        let watcher = route.watchers.iter().find(|watcher| watcher.instance == instance);
        let listened = target.map(|target| target.overflow);
        let watched = watcher.map(|watcher| (watcher.watch, watcher.overflow));
        if (listened, watched) == (listens, watches) {
            return;
        }
        let mut route = Route::clone(route);
        if listened != listens {
            route.targets.retain(|target| target.instance != instance);
            let target = listens.zip(to.clone()).map(|(overflow, to)| Target { instance, overflow, to });
            route.targets.extend(target);
        }
        if watched != watches {
            route.watchers.retain(|watcher| watcher.instance != instance);
            let watcher = watches.zip(to).map(|((watch, overflow), to)| Watcher { instance, watch, overflow, to });
            route.watchers.extend(watcher);
        }
        self.routes.set(topic, Some(route));
        self.effects.push_back(Effect::RoutesChanged);
    }

    /// Whether an instance may get what is sent to a topic. Decided here, once for each topic, and not for each message.
    /// If not, nothing is refused: it gets what else its pattern means.
    fn may_get(&mut self, instance: InstanceId, role: Role, topic: &Topic) -> bool {
        let Some(peer) = self.instances.get(&instance).map(|instance| instance.peer.clone()) else { return false };
        let (groups, policy) = (self.groups(&peer.identity), self.policy.clone());
        let (subject, action) =
            (Subject { identity: &peer.identity, groups: &groups }, action_of(role, topic.as_str()));
        let decision = policy.decide(subject, action, Some(topic));
        self.audit(Some(instance), &peer, action, Some(topic.as_str()), &decision);
        decision.allowed
    }

    /// Whoever may not make publishers wait loses what they would wait for.
    fn allowed_overflow(&self, instance: InstanceId, overflow: Overflow, topic: &Topic) -> Overflow {
        if overflow != Overflow::Block {
            return overflow;
        }
        let Some(instance) = self.instances.get(&instance) else { return overflow };
        let (identity, groups) = (&instance.peer.identity, self.groups(&instance.peer.identity));
        // Not audited: nobody has done what it may not.
        let decision = self.policy.decide(Subject { identity, groups: &groups }, Action::Block, Some(topic));
        if decision.allowed { overflow } else { Overflow::DropNewest }
    }

    /// The groups of a user who is connected.
    pub(super) fn groups(&self, identity: &Identity) -> Arc<[Group]> {
        self.users.get(identity).map_or_else(|| Arc::new([]) as Arc<[Group]>, |user| user.groups.clone())
    }
}

/// Whether this can be had of the broker's own topics, if the pattern means them.
fn check_own(role: Role, pattern: &Pattern) -> Result<(), Refused> {
    let text = match role {
        _ if !pattern.as_str().starts_with('$') => return Ok(()),
        Role::Subscribe => return Ok(()),
        Role::Monitor(_) if Topic::new(CONTROL_TOPIC).is_ok_and(|topic| pattern.matches(&topic)) => return Ok(()),
        Role::Serve => format!("{pattern} is the broker's own; serve topics that do not start with $"),
        Role::Monitor(_) => format!("of the broker's own topics only {CONTROL_TOPIC} can be monitored, not {pattern}"),
    };
    Err(Refused::new(Reason::Forbidden, text))
}

/// What somebody does who gets what is sent to a topic.
fn action_of(role: Role, topic: &str) -> Action {
    match role {
        Role::Monitor(_) => Action::Monitor,
        _ if topic.starts_with('$') => Action::Admin,
        Role::Subscribe => Action::Subscribe,
        Role::Serve => Action::Serve,
    }
}

/// What an instance wants of a topic.
#[derive(Default)]
struct Wants {
    /// Its messages, with this overflow policy.
    listens: Option<Overflow>,
    /// Its requests.
    serves: bool,
    /// Records of what passes there, with this overflow policy.
    watches: Option<(Watch, Overflow)>,
}

impl<T> Instance<T> {
    /// What it wants of a topic.
    fn wants(&self, topic: &Topic) -> Wants {
        let mut wants = Wants::default();
        for Subscription { pattern, role, overflow } in self.subscriptions.values() {
            if !pattern.matches(topic) {
                continue;
            }
            match role {
                // The policy that loses least, which is the order of the variants.
                Role::Subscribe => wants.listens = Some(wants.listens.map_or(*overflow, |least| least.min(*overflow))),
                Role::Serve => wants.serves = true,
                Role::Monitor(_) if topic.is_reserved() && topic.as_str() != CONTROL_TOPIC => {}
                // The one with the lowest number, in whose order they are.
                Role::Monitor(watch) => {
                    let overflow = match overflow {
                        Overflow::DropOldest => Overflow::DropOldest,
                        _ => Overflow::DropNewest,
                    };
                    wants.watches = wants.watches.or(Some((*watch, overflow)));
                }
            }
        }
        wants
    }

    /// Whether it monitors anything.
    pub fn is_monitor(&self) -> bool {
        self.subscriptions.values().any(Subscription::is_monitor)
    }

    /// That it monitors these now.
    pub(super) fn monitors(&self, instance: InstanceId, patterns: Vec<Pattern>) -> Effect<T> {
        Effect::Monitors { instance, peer: self.peer.clone(), name: self.name.clone(), patterns }
    }
}

impl Subscription {
    /// Whether it gets records.
    pub fn is_monitor(&self) -> bool {
        matches!(self.role, Role::Monitor(_))
    }
}
