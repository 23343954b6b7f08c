//! `$bus/policy/check`: which rule decides what somebody may do.

use std::io;

use pipebus_proto::admin::{PolicyChecked, PolicyQuestion};
use pipebus_proto::control::Identity;
use pipebus_proto::pattern::Pattern;
use pipebus_proto::topic::Topic;

use crate::broker::Broker;
use crate::core::policy::{Action, Subject};
use crate::transport;

/// Answers as the policy would if that user came now. Not logged as a decision: nobody does anything.
pub(super) async fn answer(broker: &Broker, question: &[u8]) -> Result<PolicyChecked, String> {
    let question: PolicyQuestion = serde_json::from_slice(question)
        .map_err(|error| format!("the question is no JSON with user, action and topic: {error}"))?;
    let action = Action::named(&question.action).ok_or_else(|| {
        let words = Action::ALL.map(Action::word).join(", ");
        format!("there is no action {:?}; say one of {words}", question.action)
    })?;
    let identity = identity(&question.user).await?;
    let groups = broker.membership.look_up(&identity).await.map_err(|error| error.to_string())?;
    let policy = broker.bus().policy().clone();
    let subject = Subject { identity: &identity, groups: &groups };
    let decision = match (action, question.topic.as_deref()) {
        (Action::Connect, _) => policy.decide(subject, action, None),
        (_, None) => return Err(format!("{} needs a topic", action.word())),
        (_, Some(text)) => match Topic::new(text) {
            Ok(topic) => policy.decide(subject, action, Some(&topic)),
            Err(error) => {
                let pattern = Pattern::new(text).map_err(|_| error.to_string())?;
                policy.decide_pattern(subject, action, &pattern)
            }
        },
    };
    let rules = broker.rules.load();
    let rule = decision.rule.and_then(|(number, _)| Some((number, toml::to_string(rules.get(number - 1)?).ok()?)));
    Ok(PolicyChecked {
        identity: identity.clone(),
        allowed: decision.allowed,
        rule: rule.as_ref().map(|(number, _)| *number as u64),
        says: rule
            .map_or_else(|| "no rule speaks of it, so it is denied".to_owned(), |(_, text)| text.trim_end().to_owned()),
    })
}

/// A user by name or number. The system is asked, which takes time.
async fn identity(user: &str) -> Result<Identity, String> {
    if let Ok(uid) = user.parse() {
        return Ok(Identity::Unix { uid });
    }
    let name = user.to_owned();
    let asked = tokio::task::spawn_blocking(move || transport::user_named(&name)).await.map_err(io::Error::other);
    let found = asked.flatten().map_err(|error| format!("the user {user:?} can't be looked up: {error}"))?;
    found.ok_or_else(|| format!("there is no user {user:?} on this machine; name another, or say a number"))
}
