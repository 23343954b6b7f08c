//! Live candidates: the topics, patterns and instances that are on the bus while somebody types.

use std::time::Duration;

use clap_complete::engine::CompletionCandidate;
use pipebus_client::{Client, Topic};
use pipebus_proto::admin::{self, InstanceStatus, SubscriptionListed, TopicStatus};
use pipebus_proto::place::Address;
use serde::de::DeserializeOwned;
use tokio::runtime::Builder;

use crate::format::escape;
use crate::system::account::user_name;

/// Whoever types does not wait longer than this.
const PATIENCE: Duration = Duration::from_millis(300);

/// What is to be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// A topic to send to.
    Topic,
    /// A topic or a pattern to subscribe to.
    Pattern,
    /// The number of an instance.
    Instance,
}

/// What there is on the bus that begins with `current`. Nothing, if the broker does not answer soon, or won't tell.
pub(super) fn ask(bus: &Address, sort: Sort, current: &str) -> Vec<CompletionCandidate> {
    let Ok(runtime) = Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    let look = async {
        let client = Client::builder().name("pipebus complete").visit(true).reconnect(false);
        let client = client.connect(&bus.to_string()).await.ok()?;
        let found = match sort {
            Sort::Topic | Sort::Pattern => names(&client, sort).await,
            Sort::Instance => instances(&client).await,
        };
        let _ = client.close().await;
        Some(found)
    };
    let found = runtime.block_on(async { tokio::time::timeout(PATIENCE, look).await });
    let mut found = found.ok().flatten().unwrap_or_default();
    found.retain(|(value, _)| value.starts_with(current));
    let candidate = |(value, help): (String, String)| CompletionCandidate::new(value).help(Some(help.into()));
    found.into_iter().map(candidate).collect()
}

/// What people publish to, and what they subscribe to or serve; each with what it is.
async fn names(client: &Client, sort: Sort) -> Vec<(String, String)> {
    let (topics, subscriptions) = tokio::join!(
        answer::<Vec<TopicStatus>>(client, admin::TOPICS),
        answer::<Vec<SubscriptionListed>>(client, admin::SUBSCRIPTIONS)
    );
    let topics = topics.unwrap_or_default().into_iter();
    let mut names: Vec<_> = topics.map(|topic| (topic.name, "topic".to_owned())).collect();
    for SubscriptionListed { name, subscription, .. } in subscriptions.unwrap_or_default() {
        if sort == Sort::Pattern || Topic::new(&subscription.pattern).is_ok() {
            let does = if subscription.serves { "served by" } else { "subscribed to by" };
            names.push((subscription.pattern, format!("{does} {}", escaped(&name))));
        }
    }
    names.sort_unstable();
    names.dedup_by(|later, earlier| later.0 == earlier.0);
    names
}

async fn instances(client: &Client) -> Vec<(String, String)> {
    let own = client.link().borrow().clone();
    let is_own = |id: u32| matches!(own, pipebus_client::Link::Up { client } if client.0 == id);
    let mut instances = answer::<Vec<InstanceStatus>>(client, admin::INSTANCES).await.unwrap_or_default();
    instances.retain(|instance| !is_own(instance.id));
    let describe = |instance: InstanceStatus| {
        (instance.id.to_string(), format!("{} of {}", escaped(&instance.name), user_name(&instance.identity)))
    };
    instances.into_iter().map(describe).collect()
}

async fn answer<T: DeserializeOwned>(client: &Client, topic: &str) -> Option<T> {
    client.request(topic, "", PATIENCE).await.ok()?.json().ok()
}

/// A client can call itself anything.
fn escaped(name: &str) -> String {
    let mut text = String::new();
    escape(&mut text, name);
    text
}
