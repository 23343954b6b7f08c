//! Routes: for each topic, who gets its messages. Computed when a subscription or a topic comes or goes, and only
//! looked up when messages pass.
//!
//! A value that is cheap to clone: the table is made of pages that clones share, and a change copies one page. So
//! readers work on a snapshot that nobody changes, and need no lock. Topic ids are never used again; pages whose
//! topics are all gone are freed.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use pipebus_proto::control::Overflow;
use pipebus_proto::record::Watch;
use pipebus_proto::topic::{InstanceId, Topic, TopicId};

const PAGE: u32 = 256;

/// A snapshot of all routes. `T` is where an instance's messages go.
#[derive(Clone, Debug)]
pub struct Routes<T> {
    pages: BTreeMap<u32, Arc<Page<T>>>,
    message_bytes_max: u64,
    version: u32,
}

type Page<T> = Vec<Option<Arc<Route<T>>>>;

/// The way of one topic's messages.
#[derive(Clone, Debug)]
pub struct Route<T> {
    /// The topic's name.
    pub topic: Topic,
    /// A TopicInfo frame, which an instance is sent before the first message.
    pub introduction: Bytes,
    /// Who gets the messages, each instance once.
    pub targets: Vec<Target<T>>,
    /// Who gets a record of all that passes, each instance once; mostly nobody.
    pub watchers: Vec<Watcher<T>>,
}

/// One instance that gets a topic's messages.
#[derive(Clone, Debug)]
pub struct Target<T> {
    /// The instance.
    pub instance: InstanceId,
    /// What happens when its queue is full.
    pub overflow: Overflow,
    /// Where its messages go.
    pub to: T,
}

/// One instance that monitors a topic.
#[derive(Clone, Debug)]
pub struct Watcher<T> {
    /// The instance.
    pub instance: InstanceId,
    /// What it wants to be told.
    pub watch: Watch,
    /// What happens when its queue is full: the oldest or the newest is dropped.
    pub overflow: Overflow,
    /// Where its records go.
    pub to: T,
}

impl<T> Routes<T> {
    /// None, for messages of at most so many bytes.
    pub fn new(message_bytes_max: u64) -> Routes<T> {
        Routes { pages: BTreeMap::new(), message_bytes_max, version: 0 }
    }

    /// The largest message, in bytes of metadata and payload.
    pub fn message_bytes_max(&self) -> u64 {
        self.message_bytes_max
    }

    /// Lets larger or only smaller messages pass from now on.
    pub fn set_message_bytes_max(&mut self, bytes: u64) {
        self.message_bytes_max = bytes;
    }

    /// Changes whenever what somebody may send is to be looked up anew.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Lets everybody look up anew what it may send.
    pub fn revise(&mut self) {
        self.version = self.version.wrapping_add(1);
    }

    /// The way of a topic's messages, if the topic is declared.
    pub fn get(&self, topic: TopicId) -> Option<&Arc<Route<T>>> {
        self.pages.get(&(topic.0 / PAGE))?.get((topic.0 % PAGE) as usize)?.as_ref()
    }
}

impl<T: Clone> Routes<T> {
    /// Puts a route in, or takes it out.
    pub fn set(&mut self, topic: TopicId, route: Option<Route<T>>) {
        let page = self.pages.entry(topic.0 / PAGE).or_insert_with(|| Arc::new(vec![None; PAGE as usize]));
        let routes = Arc::make_mut(page);
        routes[(topic.0 % PAGE) as usize] = route.map(Arc::new);
        if routes.iter().all(Option::is_none) {
            self.pages.remove(&(topic.0 / PAGE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str) -> Route<u32> {
        Route {
            topic: Topic::new(name).unwrap(),
            introduction: Bytes::new(),
            targets: Vec::new(),
            watchers: Vec::new(),
        }
    }

    #[test]
    fn a_snapshot_does_not_see_later_changes() {
        let mut routes = Routes::new(0);
        routes.set(TopicId(1), Some(route("a")));
        let snapshot = routes.clone();
        routes.set(TopicId(1), None);
        routes.set(TopicId(700), Some(route("b")));
        assert!(snapshot.get(TopicId(1)).is_some() && snapshot.get(TopicId(700)).is_none());
        assert!(routes.get(TopicId(1)).is_none() && routes.get(TopicId(700)).is_some());
    }

    #[test]
    fn pages_of_topics_that_are_gone_are_freed() {
        let mut routes = Routes::new(0);
        routes.set(TopicId(1000), Some(route("a")));
        routes.set(TopicId(1000), None);
        assert!(routes.pages.is_empty());
    }
}
