//! Policy: who may do what. Ordered rules, the first that speaks of somebody, an action and a topic decides; what no
//! rule speaks of is denied. As a DACL of Windows, but for the order, which is the administrator's own.

use std::fmt;

use pipebus_proto::control::Identity;
use pipebus_proto::pattern::Pattern;
use pipebus_proto::topic::Topic;

/// Who somebody is, as the operating system says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The user or account.
    pub identity: Identity,
    /// The process, where the system can tell.
    pub pid: Option<u32>,
}

/// A group of users, as the operating system knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// A group of a Unix system.
    Unix {
        /// Its number.
        gid: u32,
    },
    /// A group of a Windows system.
    Windows {
        /// Its security identifier, as text.
        sid: String,
        /// Of somebody's: it counts only where something is denied. Never of a rule's.
        only_denied: bool,
    },
}

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Be let in. Of no topic.
    Connect,
    /// Send messages to a topic.
    Publish,
    /// Get a topic's messages.
    Subscribe,
    /// Ask on a topic.
    Request,
    /// Answer what is asked on a topic.
    Serve,
    /// Make publishers wait for a subscription with overflow `block`; without it, what it has no room for is dropped.
    Block,
    /// Watch the messages of others on a topic.
    Monitor,
    /// Ask the broker, or hear from it, on one of its own topics, those that start with `$`.
    Admin,
}

impl Action {
    /// All of them.
    pub const ALL: [Action; 8] = [
        Action::Connect,
        Action::Publish,
        Action::Subscribe,
        Action::Request,
        Action::Serve,
        Action::Block,
        Action::Monitor,
        Action::Admin,
    ];

    /// The action of this word.
    pub fn named(word: &str) -> Option<Action> {
        Action::ALL.into_iter().find(|action| action.word() == word)
    }

    /// Its word, in configurations and messages.
    pub fn word(self) -> &'static str {
        match self {
            Action::Connect => "connect",
            Action::Publish => "publish",
            Action::Subscribe => "subscribe",
            Action::Request => "request",
            Action::Serve => "serve",
            Action::Block => "block",
            Action::Monitor => "monitor",
            Action::Admin => "admin",
        }
    }
}

/// Whom a rule speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Everybody.
    Any,
    /// One user.
    User(Identity),
    /// All members of a group.
    Group(Group),
}

/// When a rule's decisions are logged, as a SACL of Windows says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Audit {
    /// Never.
    #[default]
    None,
    /// Whenever it allows.
    Success,
    /// Whenever it denies.
    Failure,
    /// Always.
    All,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it is called, for people.
    pub name: String,
    /// Whom it speaks of: any of these.
    pub who: Vec<Who>,
    /// Whether it allows, or denies.
    pub allows: bool,
    /// What it speaks of.
    pub actions: Vec<Action>,
    /// On which topics: any that one of these matches; empty, it does not matter which.
    pub topics: Vec<Pattern>,
    /// When it is logged.
    pub audit: Audit,
}

/// Who may do what on a bus: rules, the first that fits decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// In their order.
    pub rules: Vec<Rule>,
}

/// Who wants to do something.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The user.
    pub identity: &'a Identity,
    /// The groups that it is a member of.
    pub groups: &'a [Group],
}

/// What the policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Whether it may be done.
    pub allowed: bool,
    /// The rule that says so, and its place, counted from 1; `None` if no rule speaks of it.
    pub rule: Option<(usize, &'a Rule)>,
}

impl Policy {
    /// One that lets these do everything, and nobody else anything.
    pub fn allowing(who: Vec<Who>) -> Policy {
        let (name, actions) = (String::new(), Action::ALL.to_vec());
        Policy { rules: vec![Rule { name, who, allows: true, actions, topics: Vec::new(), audit: Audit::None }] }
    }

    /// Decides whether `subject` may do something; `topic` is `None` for [`Action::Connect`] alone.
    pub fn decide(&self, subject: Subject<'_>, action: Action, topic: Option<&Topic>) -> Decision<'_> {
        let mut rules = (1..).zip(&self.rules);
        let rule = rules.find(|(_, rule)| rule.speaks_of(subject, action) && rule.covers(topic));
        Decision { allowed: rule.is_some_and(|(_, rule)| rule.allows), rule }
    }

    /// Decides whether `subject` may do it on any topic at all of those that `pattern` means. It may seem so where it is
    /// not, if what a rule allows is denied by those before it piece by piece.
    pub fn decide_pattern(&self, subject: Subject<'_>, action: Action, pattern: &Pattern) -> Decision<'_> {
        let mut denied = None;
        for (number, rule) in (1..).zip(&self.rules) {
            if !rule.speaks_of(subject, action) || !rule.touches(pattern) {
                continue;
            }
            if rule.allows {
                return Decision { allowed: true, rule: Some((number, rule)) };
            }
            denied.get_or_insert((number, rule));
            if rule.topics.is_empty() || rule.topics.iter().any(|own| own.covers(pattern)) {
                break;
            }
        }
        Decision { allowed: false, rule: denied }
    }

    /// Whether it matters to any rule which groups somebody is a member of.
    pub fn knows_groups(&self) -> bool {
        self.rules.iter().flat_map(|rule| &rule.who).any(|who| matches!(who, Who::Group(_)))
    }
}

impl Rule {
    fn speaks_of(&self, subject: Subject<'_>, action: Action) -> bool {
        self.actions.contains(&action)
            && self.who.iter().any(|who| match who {
                Who::Any => true,
                Who::User(identity) => identity == subject.identity,
                Who::Group(group) => subject.groups.iter().any(|own| own == group || self.denies_alone(group, own)),
            })
    }

    /// Whether one of somebody's groups is the rule's, though only for what it denies.
    fn denies_alone(&self, group: &Group, own: &Group) -> bool {
        match (group, own) {
            (Group::Windows { sid, .. }, Group::Windows { sid: own, only_denied: true }) => !self.allows && sid == own,
            _ => false,
        }
    }

    fn covers(&self, topic: Option<&Topic>) -> bool {
        // Connecting is of no topic: who is denied some is not denied that.
        let of_none = self.allows;
        self.topics.is_empty() || topic.map_or(of_none, |topic| self.topics.iter().any(|own| own.matches(topic)))
    }

    fn touches(&self, pattern: &Pattern) -> bool {
        self.topics.is_empty() || self.topics.iter().any(|own| own.overlaps(pattern))
    }
}

impl Decision<'_> {
    /// Whether it is to be logged.
    pub fn is_audited(&self) -> bool {
        match self.rule.map_or(Audit::None, |(_, rule)| rule.audit) {
            Audit::None => false,
            Audit::Success => self.allowed,
            Audit::Failure => !self.allowed,
            Audit::All => true,
        }
    }
}

impl fmt::Display for Decision<'_> {
    /// Which rule, in words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rule {
            Some((number, rule)) if rule.name.is_empty() => write!(f, "rule {number}"),
            Some((number, rule)) => write!(f, "rule {number} ({})", rule.name),
            None => write!(f, "no rule"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: Identity = Identity::Unix { uid: 1000 };
    const BOB: Identity = Identity::Unix { uid: 1001 };

    fn rule(allows: bool, who: Who, actions: &[Action], topics: &[&str]) -> Rule {
        let topics = topics.iter().map(|text| Pattern::new(text).unwrap()).collect();
        Rule { name: String::new(), who: vec![who], allows, actions: actions.to_vec(), topics, audit: Audit::None }
    }

    fn policy() -> Policy {
        use Action::{Connect, Publish, Subscribe};
        let sensors = Who::Group(Group::Unix { gid: 20 });
        Policy {
            rules: vec![
                rule(false, Who::Any, &[Publish, Subscribe], &["sensors/secret/**"]),
                rule(true, sensors, &[Publish], &["sensors/**"]),
                rule(true, Who::User(ANN), &[Connect, Subscribe], &[]),
            ],
        }
    }

    #[test]
    fn a_group_that_only_denies_gives_nothing_and_takes_all_the_same() {
        let group = |only_denied| Group::Windows { sid: "S-1-5-21-1".to_owned(), only_denied };
        let who = Identity::Windows { sid: "S-1-5-21-2".to_owned() };
        let allowed = |allows: bool, only_denied| {
            let rules = vec![
                rule(allows, Who::Group(group(false)), &[Action::Connect], &[]),
                rule(!allows, Who::Any, &[Action::Connect], &[]),
            ];
            let subject = Subject { identity: &who, groups: &[group(only_denied)] };
            Policy { rules }.decide(subject, Action::Connect, None).allowed
        };
        assert_eq!([allowed(true, false), allowed(true, true)], [true, false]);
        assert_eq!([allowed(false, false), allowed(false, true)], [false, false]);
    }

    fn decide(who: &Identity, gids: &[u32], action: Action, topic: &str) -> (bool, Option<usize>) {
        let policy = policy();
        let groups: Vec<Group> = gids.iter().map(|gid| Group::Unix { gid: *gid }).collect();
        let topic = Topic::new(topic).ok();
        let decision = policy.decide(Subject { identity: who, groups: &groups }, action, topic.as_ref());
        (decision.allowed, decision.rule.map(|(number, _)| number))
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        assert_eq!(decide(&ANN, &[20], Action::Publish, "sensors/secret/a"), (false, Some(1)));
        assert_eq!(decide(&ANN, &[20], Action::Publish, "sensors/a"), (true, Some(2)));
        assert_eq!(decide(&ANN, &[], Action::Subscribe, "a"), (true, Some(3)));
    }

    #[test]
    fn what_no_rule_speaks_of_is_denied() {
        assert_eq!(decide(&ANN, &[], Action::Publish, "sensors/a"), (false, None));
        assert_eq!(decide(&BOB, &[], Action::Connect, ""), (false, None));
        assert_eq!(decide(&ANN, &[], Action::Admin, "$bus/status"), (false, None));
    }

    #[test]
    fn who_is_denied_some_topics_may_still_connect() {
        let mut policy = policy();
        policy.rules[0].actions.push(Action::Connect);
        assert!(policy.decide(Subject { identity: &ANN, groups: &[] }, Action::Connect, None).allowed);
    }

    #[test]
    fn a_pattern_of_which_nothing_is_allowed_is_found() {
        let policy = policy();
        let may = |who, action, pattern: &str| {
            let subject = Subject { identity: who, groups: &[Group::Unix { gid: 20 }] };
            policy.decide_pattern(subject, action, &Pattern::new(pattern).unwrap()).allowed
        };
        assert!(may(&ANN, Action::Subscribe, "**"));
        assert!(may(&BOB, Action::Publish, "*/a"));
        assert!(!may(&BOB, Action::Publish, "a/**"));
        assert!(!may(&ANN, Action::Subscribe, "sensors/secret/**"));
        assert!(!may(&ANN, Action::Subscribe, "sensors/secret/a/*"));
        assert!(may(&ANN, Action::Subscribe, "sensors/**"));
        assert!(!may(&BOB, Action::Subscribe, "**"));
    }
}
