//! Topics: what instances declare that they send to.

use pipebus_proto::control::{Control, Purpose, Reason};
use pipebus_proto::topic::{InstanceId, Topic, TopicId};
use pipebus_proto::wire::encode_control;

use super::{Bus, Declared, Effect, Purposes, gone};
use crate::core::ingress::Standing;
use crate::core::limits::Limit;
use crate::core::policy::Action;
use crate::core::refused::Refused;
use crate::core::routes::Route;

impl<T: Clone> Bus<T> {
    pub(super) fn declare(&mut self, from: InstanceId, name: &str, purpose: Purpose) -> Result<TopicId, Refused> {
        let topic = Topic::new(name).map_err(|error| Refused::new(Reason::Name, error.to_string()))?;
        self.instances.get(&from).ok_or_else(gone)?.check_errand(topic.as_str())?;
        self.judge_send(from, purpose, &topic)?;
        if topic.is_reserved() && !self.topic_ids.contains_key(&topic) {
            let text = format!("the broker has no topic {topic}; see the list in its documentation");
            return Err(Refused::new(Reason::Unknown, text));
        }
        self.check_topics(from, &topic)?;
        if self.last_topic == u32::MAX && !self.topic_ids.contains_key(&topic) {
            return Err(Refused::new(Reason::Exhausted, "the broker has used all topic ids; restart it"));
        }
        let id = self.topic_id(&topic);
        let instance = self.instances.get_mut(&from).ok_or_else(gone)?;
        let before = instance.declared.len();
        let standing = instance.declared.entry(id).or_default().of(purpose).replace(Standing::Declared);
        let declared_anew = instance.declared.len() - before;
        if let Some(user) = self.users.get_mut(&instance.peer.identity) {
            user.topics += declared_anew;
        }
        if let Some(declared) = self.topics.get_mut(&id) {
            declared.holders += declared_anew;
            *declared.senders(purpose) += usize::from(standing != Some(Standing::Declared));
        }
        Ok(id)
    }

    /// Whether the policy lets an instance send to a topic.
    pub(super) fn judge_send(&mut self, from: InstanceId, purpose: Purpose, topic: &Topic) -> Result<(), Refused> {
        let action = match purpose {
            Purpose::Publish if topic.is_reserved() => {
                let text = format!("{topic} is the broker's own; publish to a topic that does not start with $");
                return Err(Refused::new(Reason::Forbidden, text));
            }
            Purpose::Publish => Action::Publish,
            Purpose::Request if topic.is_reserved() => Action::Admin,
            Purpose::Request => Action::Request,
        };
        let instance = self.instances.get(&from).ok_or_else(gone)?;
        let (peer, groups) = (instance.peer.clone(), self.groups(&instance.peer.identity));
        self.judge(Some(from), &peer, &groups, action, Some(topic))
    }

    /// Whether there is room for one topic more.
    fn check_topics(&self, from: InstanceId, topic: &Topic) -> Result<(), Refused> {
        let instance = self.instances.get(&from).ok_or_else(gone)?;
        let id = self.topic_ids.get(topic);
        if id.is_some_and(|id| instance.declared.contains_key(id)) {
            return Ok(());
        }
        let limits = &self.limits;
        let of_user = self.users.get(&instance.peer.identity).map_or(0, |user| user.topics);
        let of_bus = if id.is_some() { 0 } else { self.topics.len() };
        let bounds = [
            ("this client has", instance.declared.len(), limits.topics_per_instance_max, Limit::TopicsPerInstance),
            ("your user's clients have", of_user, limits.topics_per_user_max, Limit::TopicsPerUser),
            ("the bus has", of_bus, limits.topics_max, Limit::Topics),
        ];
        self.check_bounds(from, &bounds, "topics", "retract some")
    }

    /// The topic's id; a new one if nobody has declared it.
    pub(super) fn topic_id(&mut self, topic: &Topic) -> TopicId {
        if let Some(id) = self.topic_ids.get(topic) {
            return *id;
        }
        self.last_topic += 1;
        let id = TopicId(self.last_topic);
        self.topic_ids.insert(topic.clone(), id);
        let declared = Declared { name: topic.clone(), publishers: 0, requesters: 0, servers: Vec::new(), holders: 0 };
        self.topics.insert(id, declared);
        let introduction = encode_control(&Control::TopicInfo { topic: id, name: topic.to_string() });
        self.routes
            .set(id, Some(Route { topic: topic.clone(), introduction, targets: Vec::new(), watchers: Vec::new() }));
        let subscribed: Vec<InstanceId> =
            self.instances.iter().filter(|(_, i)| !i.subscriptions.is_empty()).map(|(id, _)| *id).collect();
        for instance in subscribed {
            self.reroute(id, instance);
        }
        self.effects.push_back(Effect::RoutesChanged);
        id
    }

    pub(super) fn retract(&mut self, from: InstanceId, topic: TopicId) {
        let Some(instance) = self.instances.get_mut(&from) else { return };
        if let Some(purposes) = instance.declared.remove(&topic) {
            if let Some(user) = self.users.get_mut(&instance.peer.identity) {
                user.topics -= 1;
            }
            self.release(topic, purposes);
        }
    }

    /// One less that has declared the topic; without any, the topic goes.
    pub(super) fn release(&mut self, topic: TopicId, purposes: Purposes) {
        let Some(declared) = self.topics.get_mut(&topic) else { return };
        declared.publishers -= usize::from(purposes.publish == Some(Standing::Declared));
        declared.requesters -= usize::from(purposes.request == Some(Standing::Declared));
        declared.holders -= 1;
        if declared.holders > 0 {
            return;
        }
        if let Some(declared) = self.topics.remove(&topic) {
            self.topic_ids.remove(&declared.name);
        }
        self.routes.set(topic, None);
        self.effects.push_back(Effect::RoutesChanged);
        self.effects.push_back(Effect::TopicGone(topic));
    }
}

impl Declared {
    /// How many have declared that they send to it for this purpose.
    pub(super) fn senders(&mut self, purpose: Purpose) -> &mut usize {
        match purpose {
            Purpose::Publish => &mut self.publishers,
            Purpose::Request => &mut self.requesters,
        }
    }
}
