//! Subscriptions: who gets what is sent to which topic.

use std::sync::Arc;

use pipebus_proto::control::{Identity, Overflow, Reason, Role};
use pipebus_proto::pattern::Pattern;
use pipebus_proto::topic::{InstanceId, Topic, TopicId};

use super::{Bus, Effect, Instance, Subscription, gone};
use crate::core::limits::Limit;
use crate::core::policy::{Action, Group, Subject};
use crate::core::refused::Refused;
use crate::core::routes::{Route, Target};

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
        if role == Role::Serve && pattern.as_str().starts_with('$') {
            let text = format!("{pattern} is the broker's own; serve topics that do not start with $");
            return Err(Refused::new(Reason::Forbidden, text));
        }
        instance.check_errand(pattern.as_str())?;
        self.check_subscriptions(from)?;
        self.judge_pattern(from, role, &pattern)?;
        let instance = self.instances.get_mut(&from).ok_or_else(gone)?;
        instance.subscriptions.insert(number, Subscription { pattern: pattern.clone(), role, overflow });
        if let Some(user) = self.users.get_mut(&instance.peer.identity) {
            user.subscriptions += 1;
        }
        self.users.subscriptions += 1;
        self.reroute_matching(&pattern, from);
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
        Ok(())
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

    /// Brings a topic's targets and servers up to date with what an instance wants now, and may get.
    pub(super) fn reroute(&mut self, topic: TopicId, instance: InstanceId) {
        let Some(name) = self.topics.get(&topic).map(|declared| declared.name.clone()) else { return };
        let wants = self.instances.get(&instance).map(|i| (i.wants(&name), i.to.clone()));
        let (listens, serves, to) = match wants {
            Some(((listens, serves), to)) => (listens, serves, Some(to)),
            None => (None, false, None),
        };
        let listens = listens.filter(|_| self.may_get(instance, Role::Subscribe, &name));
        let listens = listens.map(|overflow| self.allowed_overflow(instance, overflow, &name));
        let serves = serves && self.may_get(instance, Role::Serve, &name);
        let Some(declared) = self.topics.get_mut(&topic) else { return };
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

/// What somebody does who gets what is sent to a topic.
fn action_of(role: Role, topic: &str) -> Action {
    match role {
        _ if topic.starts_with('$') => Action::Admin,
        Role::Subscribe => Action::Subscribe,
        Role::Serve => Action::Serve,
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
