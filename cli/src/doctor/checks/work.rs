//! How the bus is used: what was lost, which limits were reached, and what this user may do.

use std::time::Duration;

use pipebus_proto::admin::InstanceStatus;

use crate::doctor::facts::{Answer, Right};
use crate::doctor::finding::{Finding, counted, quoted};
use crate::format::escaped;
use crate::output::{grouped, time};
use crate::transport::doctor::Facts;

/// So many are named.
const NAMED_MAX: usize = 3;

pub(crate) fn losses(facts: &Facts) -> Option<Finding> {
    let check = "losses";
    let Answer::Given(status) = &facts.status else { return None };
    if status.dropped == 0 {
        return Some(Finding::ok(check, "no messages were dropped"));
    }
    let since = time(Duration::from_millis(status.uptime_ms));
    let who = named(facts, |instance| instance.dropped > 0);
    let dropped = counted(status.dropped, "message");
    let what = format!("{dropped} dropped within {since}, for subscribers that were too slow{who}");
    let mend = "let them read faster, subscribe to less, or raise queue.bytes_max; see: pipebus instances";
    Some(Finding::warning(check, what).mend(mend))
}

pub(crate) fn stalls(facts: &Facts) -> Option<Finding> {
    let check = "stalls";
    let Answer::Given(instances) = &facts.instances else { return None };
    let stalled = instances.iter().filter(|instance| instance.stalled).count() as u64;
    if stalled == 0 {
        return Some(Finding::ok(check, "all subscribers take what they get"));
    }
    let who = named(facts, |instance| instance.stalled);
    let what = format!("not reading: {}{who}", counted(stalled, "subscriber"));
    Some(Finding::warning(check, what).mend("look at those programs, or end them; see: pipebus instances"))
}

/// The first of those whom it is about, as `: web (process 7), ...`.
fn named(facts: &Facts, which: impl Fn(&&InstanceStatus) -> bool) -> String {
    let Answer::Given(instances) = &facts.instances else { return String::new() };
    let mut names: Vec<String> = Vec::new();
    let mut more = 0;
    for instance in instances.iter().filter(which) {
        match instance.pid {
            _ if names.len() >= NAMED_MAX => more += 1,
            Some(pid) => names.push(format!("{} (process {pid})", escaped(&instance.name))),
            None => names.push(escaped(&instance.name)),
        }
    }
    if names.is_empty() {
        return String::new();
    }
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(": {}{rest}", names.join(", "))
}

pub(crate) fn limits(facts: &Facts) -> Option<Finding> {
    let check = "limits";
    let Answer::Given(status) = &facts.status else { return None };
    let reached: Vec<String> =
        status.limits_reached.iter().map(|(limit, times)| format!("{limit} ({} times)", grouped(*times))).collect();
    // A tenth left is not much.
    let is_nearly_full = status.instances * 10 >= status.instances_max * 9;
    let see = "see who holds what: pipebus users; then raise the limit in the configuration, or let them hold less";
    if !reached.is_empty() {
        return Some(Finding::warning(check, format!("were reached: {}", reached.join(", "))).mend(see));
    }
    let used = format!("{} of {} instances", grouped(status.instances), grouped(status.instances_max));
    if is_nearly_full {
        return Some(Finding::warning(check, format!("limits.instances_max is nearly reached: {used}")).mend(see));
    }
    Some(Finding::ok(check, format!("none was reached; {used}")))
}

pub(crate) fn rights(facts: &Facts) -> Option<Finding> {
    let check = "rights";
    let name = &facts.me.name;
    let rights = [("publish", &facts.publish), ("subscribe", &facts.subscribe)];
    let mut words = Vec::new();
    let mut may_nothing = true;
    for (verb, answer) in rights {
        match answer {
            Answer::NotAsked => return None,
            Answer::Given(Right { allowed, on }) => {
                may_nothing &= !allowed;
                words.push(format!("{} {verb} ({on})", if *allowed { "may" } else { "may not" }));
            }
            Answer::Forbidden => words.push(format!("may not {verb}")),
            Answer::Failed(why) => return Some(Finding::unknown(check, format!("whether {name} may {verb}: {why}"))),
        }
    }
    words.push(
        if matches!(facts.status, Answer::Given(_)) { "may administer" } else { "may not administer" }.to_owned(),
    );
    let what = format!("{name} {}", words.join(", "));
    if may_nothing {
        let name = quoted(name);
        let mend = format!("an administrator sees why: pipebus policy check --user {name} --action publish TOPIC");
        return Some(Finding::warning(check, what).mend(mend));
    }
    Some(Finding::ok(check, what))
}
