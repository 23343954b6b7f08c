//! Revision: a new policy, other limits or other groups, applied to instances that live.

use std::collections::HashMap;
use std::sync::Arc;

use pipebus_proto::control::{Control, Identity, Purpose, Regarding};
use pipebus_proto::topic::{InstanceId, TopicId};

use super::{Bus, Effect};
use crate::core::ingress::Standing;
use crate::core::limits::Limits;
use crate::core::policy::{Action, Group, Policy};
use crate::core::refused::Refused;

impl<T: Clone> Bus<T> {
    /// Obeys another policy from now on, with what is known of users' groups now. Whoever may not be here any more is sent away; whoever may not send or get
    /// something any more does not, and is told so.
    pub fn set_policy(&mut self, policy: Policy, groups: &HashMap<Identity, Arc<[Group]>>) {
        self.policy = Arc::new(policy);
        for (identity, groups) in groups {
            if let Some(user) = self.users.get_mut(identity) {
                user.groups = groups.clone();
            }
        }
        let instances: Vec<InstanceId> = self.instances.keys().copied().collect();
        instances.into_iter().for_each(|instance| self.revise(instance));
        self.routes.revise();
        self.effects.push_back(Effect::RoutesChanged);
    }

    /// Keeps other limits from now on. What is there already stays; the size of its queue each instance keeps.
    pub fn set_limits(&mut self, limits: Limits) {
        self.users.set_limits(&limits);
        self.routes.set_message_bytes_max(limits.message_bytes_max);
        self.limits = limits;
        self.effects.push_back(Effect::RoutesChanged);
    }

    /// The user is a member of these groups, as far as is known now.
    pub fn set_groups(&mut self, identity: &Identity, groups: &[Group]) {
        let Some(user) = self.users.get_mut(identity).filter(|user| *user.groups != *groups) else { return };
        user.groups = groups.into();
        let own = self.instances.iter().filter(|(_, instance)| instance.peer.identity == *identity);
        let instances: Vec<InstanceId> = own.map(|(id, _)| *id).collect();
        instances.into_iter().for_each(|instance| self.revise(instance));
        self.routes.revise();
        self.effects.push_back(Effect::RoutesChanged);
    }

    /// Takes from an instance what it may not have any more, and gives it what it may have now.
    fn revise(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get(&id) else { return };
        let (peer, groups) = (instance.peer.clone(), self.groups(&instance.peer.identity));
        let (to, declared) = (instance.to.clone(), instance.declared.keys().copied().collect::<Vec<_>>());
        let wanted: Vec<_> = instance.subscriptions.iter().map(|(n, s)| (*n, s.role, s.pattern.clone())).collect();
        let expelled = self.judge(Some(id), &peer, &groups, Action::Connect, None).err();
        for topic in declared {
            for purpose in [Purpose::Publish, Purpose::Request] {
                self.revise_declared(id, topic, purpose, expelled.as_ref());
            }
        }
        for (number, role, pattern) in wanted {
            let refused = expelled.clone().map_or_else(|| self.judge_pattern(id, role, &pattern), Err);
            if let Err(refused) = refused {
                let _ = self.unsubscribe(id, number);
                if expelled.is_none() {
                    self.send(id, refused.about(Regarding::Subscription(number)));
                }
            }
        }
        let topics: Vec<TopicId> = self.topics.keys().copied().collect();
        topics.into_iter().for_each(|topic| self.reroute(topic, id));
        if let Some(refused) = expelled {
            self.effects.push_back(Effect::Expel { to, refused });
        }
    }

    /// Whether an instance may still send to a topic; if not, it is told.
    fn revise_declared(&mut self, id: InstanceId, topic: TopicId, purpose: Purpose, expelled: Option<&Refused>) {
        if self.standing(id, topic, purpose) != Standing::Declared {
            return;
        }
        let Some(name) = self.topics.get(&topic).map(|declared| declared.name.clone()) else { return };
        let judged = expelled.cloned().map_or_else(|| self.judge_send(id, purpose, &name), Err);
        let Err(refused) = judged else { return };
        let Some(instance) = self.instances.get_mut(&id) else { return };
        if let Some(purposes) = instance.declared.get_mut(&topic) {
            *purposes.of(purpose) = Some(Standing::Revoked);
        }
        // Not released: it may have sent what still waits somewhere.
        if let Some(declared) = self.topics.get_mut(&topic) {
            *declared.senders(purpose) -= 1;
        }
        if expelled.is_none() {
            self.send(id, Control::Revoked { topic, purpose, text: refused.text });
        }
    }
}
