//! What a client of the bus is told.

use std::time::Duration;

use pipebus_client::{Client, Error, Identity, Overflow};
use pipebus_proto::admin::{
    INSTANCES, InstanceStatus, POLICY_CHECK, PolicyChecked, PolicyQuestion, STATUS, Status, USERS, UserStatus,
};
use pipebus_proto::place::Address;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use crate::doctor::facts::{Answer, Contact, Right};
use crate::system::account::user_name;

/// How long the broker may take, each time.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// What the broker says.
pub(crate) struct Asked {
    pub(crate) contact: Contact,
    pub(crate) status: Answer<Status>,
    pub(crate) instances: Answer<Vec<InstanceStatus>>,
    pub(crate) crowd: Answer<Option<(String, u64)>>,
    pub(crate) publish: Answer<Right>,
    pub(crate) subscribe: Answer<Right>,
}

impl Asked {
    /// What it says to `me`, a user as policies name one.
    pub(crate) async fn of(bus: &Address, me: &str) -> Asked {
        let mut asked = Asked {
            contact: Contact::Failed(Error::Closed),
            status: Answer::NotAsked,
            instances: Answer::NotAsked,
            crowd: Answer::NotAsked,
            publish: Answer::NotAsked,
            subscribe: Answer::NotAsked,
        };
        let begun = Instant::now();
        let client = Client::builder().name("pipebus doctor").timeout(ANSWER_WAIT).reconnect(false);
        let client = match client.connect(&bus.to_string()).await {
            Ok(client) => client,
            Err(error) => return Asked { contact: Contact::Failed(error), ..asked },
        };
        asked.contact = Contact::Connected { after: begun.elapsed() };
        asked.status = answer(client.request(STATUS, "", ANSWER_WAIT).await);
        match asked.status {
            Answer::Given(_) => asked.ask_more(&client, me).await,
            // Who may not ask that may not ask more, and policies may log each attempt.
            Answer::Forbidden => {
                (asked.instances, asked.crowd) = (Answer::Forbidden, Answer::Forbidden);
                (asked.publish, asked.subscribe) =
                    (attempt(&client, "publish").await, attempt(&client, "subscribe").await);
            }
            // A broker that does not answer is not waited for again and again.
            Answer::NotAsked | Answer::Failed(_) => {}
        }
        asked
    }

    async fn ask_more(&mut self, client: &Client, me: &str) {
        self.instances = answer(client.request(INSTANCES, "", ANSWER_WAIT).await);
        self.crowd = match answer::<Vec<UserStatus>>(client.request(USERS, "", ANSWER_WAIT).await) {
            Answer::Given(users) => Answer::Given(crowd(&users)),
            Answer::Forbidden => Answer::Forbidden,
            Answer::NotAsked => Answer::NotAsked,
            Answer::Failed(why) => Answer::Failed(why),
        };
        (self.publish, self.subscribe) = (may(client, me, "publish").await, may(client, me, "subscribe").await);
    }
}

fn answer<T: DeserializeOwned>(answered: pipebus_client::Result<pipebus_client::Message>) -> Answer<T> {
    match answered.and_then(|message| message.json()) {
        Ok(value) => Answer::Given(value),
        Err(Error::Forbidden(_)) => Answer::Forbidden,
        Err(error) => Answer::Failed(error.to_string()),
    }
}

/// The user with the most instances. The kernel sets no limit to root's pipes.
fn crowd(users: &[UserStatus]) -> Option<(String, u64)> {
    let others = users.iter().filter(|user| user.identity != Identity::Unix { uid: 0 });
    others.max_by_key(|user| user.instances).map(|user| (user_name(&user.identity), user.instances))
}

/// What the policy says that this user may do.
async fn may(client: &Client, me: &str, action: &str) -> Answer<Right> {
    let question = PolicyQuestion { user: me.to_owned(), action: action.to_owned(), topic: Some("**".to_owned()) };
    let payload = serde_json::to_vec(&question).unwrap_or_default();
    match answer::<PolicyChecked>(client.request(POLICY_CHECK, payload, ANSWER_WAIT).await) {
        Answer::Given(PolicyChecked { allowed: true, .. }) => {
            Answer::Given(Right { allowed: true, on: "some topics or all" })
        }
        Answer::Given(_) => Answer::Given(Right { allowed: false, on: "any topic" }),
        Answer::Failed(why) => Answer::Failed(why),
        Answer::Forbidden | Answer::NotAsked => attempt(client, action).await,
    }
}

/// Tries it with a topic of its own, to which nothing is published.
async fn attempt(client: &Client, action: &str) -> Answer<Right> {
    let topic = format!("pipebus/doctor/{}", std::process::id());
    let tried = timeout(ANSWER_WAIT, async {
        match action {
            "publish" => client.publisher(&topic)?.declare().await,
            _ => client.subscribe_with(&topic, Overflow::DropNewest).await.map(drop),
        }
    });
    let on = "topics that no rule names";
    match tried.await {
        Ok(Ok(())) => Answer::Given(Right { allowed: true, on }),
        Ok(Err(Error::Forbidden(_))) => Answer::Given(Right { allowed: false, on }),
        Ok(Err(error)) => Answer::Failed(error.to_string()),
        Err(_) => Answer::Failed(format!("the broker did not say within {} s", ANSWER_WAIT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_no_crowd() {
        let user = |uid, instances| UserStatus {
            identity: Identity::Unix { uid },
            instances,
            subscriptions: 0,
            topics: 0,
            queued_bytes: 0,
            queued_bytes_max: 0,
        };
        let nobody = u32::MAX - 7;
        assert_eq!(crowd(&[user(0, 9), user(nobody, 3), user(nobody - 1, 2)]), Some((nobody.to_string(), 3)));
        assert_eq!(crowd(&[user(0, 9)]), None);
    }
}
