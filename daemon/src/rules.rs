//! Rules: the policy as it is written, and what becomes of it where the system says who the named users and groups are.

use std::io;

use pipebus_proto::control::Identity;
use pipebus_proto::pattern::Pattern;
use serde::{Deserialize, Serialize};

use crate::core::policy::{Action, Audit, Group, Policy, Rule, Who};
use crate::transport;

/// The word for all actions.
const ALL: &str = "all";

/// One of `policy.rules`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSection {
    /// What it is called, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Whom it speaks of.
    pub who: Vec<String>,
    /// What it allows: words of [`Action`]s, or `all`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// What it denies, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// On which topics; empty, on all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<String>,
    /// When it is logged.
    #[serde(default)]
    pub audit: AuditWord,
}

/// When a decision is logged, as a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "they are those of `Audit`")]
pub enum AuditWord {
    #[default]
    None,
    Success,
    Failure,
    All,
}

/// What a word of a rule speaks of.
fn actions(word: &str) -> Result<Vec<Action>, String> {
    if word == ALL {
        return Ok(Action::ALL.to_vec());
    }
    Action::named(word).map(|action| vec![action]).ok_or_else(|| {
        let words = Action::ALL.map(Action::word).join(", ");
        format!("there is no action {word:?}; say {words} or {ALL}")
    })
}

/// Somebody, as a rule names them.
enum Named<'a> {
    Any,
    Owner,
    Root,
    Number(u32),
    Name(&'a str),
    GroupNumber(u32),
    GroupName(&'a str),
}

impl Named<'_> {
    fn parse(text: &str) -> Result<Named<'_>, String> {
        let number = |text: &str| text.parse().map_err(|_| format!("who: {text:?} is no number"));
        Ok(match text.split_once(':') {
            None if text == "any" => Named::Any,
            None if text == "owner" => Named::Owner,
            None if text == "root" => Named::Root,
            Some(("uid", text)) => Named::Number(number(text)?),
            Some(("gid", text)) => Named::GroupNumber(number(text)?),
            Some(("user", name)) if !name.is_empty() => Named::Name(name),
            Some(("group", name)) if !name.is_empty() => Named::GroupName(name),
            _ => {
                let known = "any, owner, root, user:NAME, uid:NUMBER, group:NAME or gid:NUMBER";
                return Err(format!("who: {text:?} is nobody; say {known}"));
            }
        })
    }

    /// Who that is on this machine.
    fn resolve(&self, owner: &Identity) -> Result<Who, String> {
        let unknown = |what: &str, name: &str| {
            format!("who: there is no {what} {name:?} on this machine; create it, or change the rule")
        };
        let unasked = |what: &str, name: &str, error: &io::Error| {
            format!("who: the {what} {name:?} can't be looked up: {error}; try again when the system can tell")
        };
        Ok(match self {
            Named::Any => Who::Any,
            Named::Owner => Who::User(owner.clone()),
            Named::Root => Who::User(transport::root()),
            Named::Number(uid) => Who::User(Identity::Unix { uid: *uid }),
            Named::GroupNumber(gid) => Who::Group(Group::Unix { gid: *gid }),
            Named::Name(name) => {
                let user = transport::user_named(name).map_err(|error| unasked("user", name, &error))?;
                Who::User(user.ok_or_else(|| unknown("user", name))?)
            }
            Named::GroupName(name) => {
                let group = transport::group_named(name).map_err(|error| unasked("group", name, &error))?;
                Who::Group(group.ok_or_else(|| unknown("group", name))?)
            }
        })
    }
}

impl RuleSection {
    /// What can be told without asking the system who somebody is.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.who.is_empty() {
            return Err("it speaks of nobody; say who".to_owned());
        }
        for who in &self.who {
            Named::parse(who)?;
        }
        if self.allow.is_empty() == self.deny.is_empty() {
            return Err("it must have allow or deny, and not both".to_owned());
        }
        for word in self.allow.iter().chain(&self.deny) {
            actions(word)?;
        }
        for topic in &self.topics {
            Pattern::new(topic).map_err(|error| format!("topics: {error}"))?;
        }
        if self.deny.iter().any(|word| word == Action::Connect.word()) && !self.topics.is_empty() {
            return Err("deny: connect is of no topic; leave the topics out, or connect".to_owned());
        }
        match self.audit {
            AuditWord::Failure if !self.allow.is_empty() => {
                Err("audit: a rule that allows never fails; say success".to_owned())
            }
            AuditWord::Success if !self.deny.is_empty() => {
                Err("audit: a rule that denies never succeeds; say failure".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn resolve(&self, owner: &Identity) -> Result<Rule, String> {
        let words = self.allow.iter().chain(&self.deny).map(|word| actions(word));
        let actions: Vec<Vec<Action>> = words.collect::<Result<_, _>>()?;
        Ok(Rule {
            name: self.name.clone(),
            who: self.who.iter().map(|who| Named::parse(who)?.resolve(owner)).collect::<Result<_, _>>()?,
            allows: !self.allow.is_empty(),
            actions: actions.concat(),
            topics: self.topics.iter().filter_map(|text| Pattern::new(text).ok()).collect(),
            audit: match self.audit {
                AuditWord::None => Audit::None,
                AuditWord::Success => Audit::Success,
                AuditWord::Failure => Audit::Failure,
                AuditWord::All => Audit::All,
            },
        })
    }
}

/// Whether all whom the rules name exist on this machine.
///
/// # Errors
/// Which rule names somebody who does not.
pub fn check(rules: &[RuleSection]) -> Result<(), String> {
    resolve(rules, &transport::own_identity()).map(drop)
}

/// Makes a policy of checked rules. Asks the system who somebody is, which may take time.
///
/// # Errors
/// Which rule names somebody who does not exist.
pub(crate) fn resolve(rules: &[RuleSection], owner: &Identity) -> Result<Policy, String> {
    let resolved = (1..)
        .zip(rules)
        .map(|(number, rule)| rule.resolve(owner).map_err(|text| format!("policy.rules, rule {number}: {text}")));
    Ok(Policy { rules: resolved.collect::<Result<_, _>>()? })
}
