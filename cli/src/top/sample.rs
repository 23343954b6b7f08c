//! Sample: what the broker says of itself at one time.

use std::collections::HashMap;

use pipebus_client::{Client, Identity};
use pipebus_proto::admin::{self, InstanceStatus, Status, TopicStatus, UserStatus};
use tokio::sync::oneshot;

use crate::failure::Failure;
use crate::look::ask;
use crate::system::account::user_name;
use crate::top::state::View;

/// The answers to one round of questions.
pub(super) struct Sample {
    pub(super) status: Status,
    pub(super) instances: Vec<InstanceStatus>,
    /// Asked for only where they are seen.
    pub(super) topics: Option<Vec<TopicStatus>>,
    pub(super) users: Option<Vec<UserStatus>>,
    pub(super) names: Names,
}

/// Asks for what a view shows. `names` are those of the sample before.
pub(super) async fn take(client: Client, view: View, names: Names) -> Result<Sample, Failure> {
    let client = &client;
    let status = async { Ok::<Status, Failure>(ask(client, admin::STATUS).await?.json()?) };
    let instances = async { Ok::<Vec<InstanceStatus>, Failure>(ask(client, admin::INSTANCES).await?.json()?) };
    let topics = async {
        Ok::<_, Failure>(match view {
            View::Topics => Some(ask(client, admin::TOPICS).await?.json()?),
            View::Instances | View::Users => None,
        })
    };
    let users = async {
        Ok::<_, Failure>(match view {
            View::Users => Some(ask(client, admin::USERS).await?.json::<Vec<UserStatus>>()?),
            View::Instances | View::Topics => None,
        })
    };
    let (status, instances, topics, users) = tokio::try_join!(status, instances, topics, users)?;
    let of_instances = instances.iter().map(|instance| &instance.identity);
    let of_users = users.iter().flatten().map(|user| &user.identity);
    let names = names.with(of_instances.chain(of_users)).await;
    Ok(Sample { status, instances, topics, users, names })
}

/// What the system calls users. Those of them who have left are forgotten.
#[derive(Clone, Debug, Default)]
pub(super) struct Names(HashMap<Identity, String>);

impl Names {
    pub(super) fn of(&self, identity: &Identity) -> String {
        self.0.get(identity).cloned().unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn known(names: HashMap<Identity, String>) -> Names {
        Names(names)
    }

    async fn with(mut self, identities: impl Iterator<Item = &Identity>) -> Names {
        let mut names = HashMap::new();
        let mut unknown = Vec::new();
        for identity in identities {
            if let Some((identity, name)) = self.0.remove_entry(identity) {
                names.insert(identity, name);
            } else if !names.contains_key(identity) {
                names.insert(identity.clone(), String::new());
                unknown.push(identity.clone());
            }
        }
        if !unknown.is_empty() {
            names.extend(look_up(unknown).await);
        }
        Names(names)
    }
}

/// The system may ask others, and wait for them. Not on a thread of the runtime, which would wait for it at the end.
async fn look_up(identities: Vec<Identity>) -> Vec<(Identity, String)> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let named = identities.into_iter().map(|identity| {
            let name = user_name(&identity);
            (identity, name)
        });
        let _ = sender.send(named.collect());
    });
    receiver.await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_looked_up_once_and_kept_while_their_users_are_there() {
        let unix = |uid| Identity::Unix { uid };
        let (root, nobody_has) = (unix(0), unix(u32::MAX - 7));
        let names = Names::default().with([&root, &nobody_has, &root].into_iter()).await;
        assert_eq!((names.of(&root), names.of(&nobody_has)), (user_name(&root), "4294967288".into()));
        let names = names.with([&nobody_has].into_iter()).await;
        assert_eq!((names.of(&root), names.of(&nobody_has)), (String::new(), "4294967288".into()));
    }
}
