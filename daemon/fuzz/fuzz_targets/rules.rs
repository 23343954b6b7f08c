//! Any text as the rules of a policy: no panic, written as they were read, and what is checked can be obeyed.
#![no_main]
#![allow(unfulfilled_lint_expectations, reason = "they are those of the broker, which has more lints")]

use libfuzzer_sys::fuzz_target;
use serde::{Deserialize, Serialize};

// The rules say `use crate::core` and `use crate::transport`: here those are these.
#[allow(unused_imports, reason = "where the inputs are only replayed, it is imported there")]
use pipebusd::core;

#[path = "../../src/rules.rs"]
#[allow(dead_code, unreachable_pub, reason = "the broker uses all of it")]
mod rules;

/// The system on which every user and group exists whose name has an even number of bytes.
pub(crate) mod transport {
    use crate::core::policy::Group;
    use pipebus_proto::control::Identity;
    use std::io;

    pub(crate) fn user_named(name: &str) -> io::Result<Option<Identity>> {
        Ok(exists(name).then_some(Identity::Unix { uid: 1 }))
    }

    pub(crate) fn group_named(name: &str) -> io::Result<Option<Group>> {
        Ok(exists(name).then_some(Group::Unix { gid: 1 }))
    }

    pub(crate) fn own_identity() -> Identity {
        Identity::Unix { uid: 0 }
    }

    pub(crate) fn root() -> Identity {
        Identity::Unix { uid: 0 }
    }

    pub(crate) fn exists(name: &str) -> bool {
        name.len().is_multiple_of(2)
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Section {
    #[serde(default)]
    rules: Vec<rules::RuleSection>,
}

fuzz_target!(|text: &str| {
    let Ok(section) = toml::from_str::<Section>(text) else { return };
    let written = toml::to_string(&section).expect("what is read can be written");
    assert_eq!(toml::from_str::<Section>(&written).as_ref(), Ok(&section));
    if section.rules.iter().any(|rule| rule.check().is_err()) {
        return;
    }
    let names = section.rules.iter().flat_map(|rule| &rule.who).filter_map(|who| {
        let (kind, name) = who.split_once(':')?;
        ["user", "group"].contains(&kind).then_some(name)
    });
    let all_exist = names.into_iter().all(transport::exists);
    let resolved = rules::resolve(&section.rules, &transport::own_identity());
    assert_eq!(resolved.is_ok(), all_exist, "{resolved:?}");
    if let Ok(policy) = resolved {
        assert_eq!(policy.rules.len(), section.rules.len());
    }
});
