//! What the system lets brokers and clients have.

use crate::doctor::facts::Answer;
use crate::doctor::finding::Finding;
use crate::output::{bytes, grouped};
use crate::transport::fifo::doctor::facts::Facts;

/// Two for each instance, its pipes; and what the broker needs itself.
const DESCRIPTORS_PER_INSTANCE: u64 = 2;
const DESCRIPTORS_OF_BROKER: u64 = 64;

/// With fewer left, few more can connect.
const DESCRIPTORS_LEFT_MIN: u64 = 64;

/// What a client needs, with some to spare for what it does besides.
const DESCRIPTORS_OF_CLIENT: u64 = 32;

/// A pipe that carries large messages grows to this.
const PIPE_BYTES: u64 = 1024 * 1024;

/// Two pipes of 16 pages each are an instance's as long as it carries little. They are charged to the client's user.
const PAGES_PER_INSTANCE: u64 = 2 * 16;

/// The kernel's default.
const USER_PAGES: u64 = 16384;

pub(super) fn broker_files(facts: &Facts) -> Option<Finding> {
    let check = "broker-files";
    let process = facts.process.as_ref()?;
    let (pid, max) = (process.pid, process.descriptors_max);
    let status = if let Answer::Given(status) = &facts.status { Some(status) } else { None };
    let estimate = status.map(|status| status.instances * DESCRIPTORS_PER_INSTANCE + DESCRIPTORS_OF_BROKER / 2);
    let used = process.descriptors.or(estimate);
    let needed = status.map(|status| status.instances_max * DESCRIPTORS_PER_INSTANCE + DESCRIPTORS_OF_BROKER);
    let mend = |to: u64| {
        format!(
            "as root: prlimit --pid {pid} --nofile={to}:{to}; for good, LimitNOFILE={to} in pipebusd.service, or ulimit -n"
        )
    };
    let finding = match (used, needed) {
        (Some(used), _) if max.saturating_sub(used) < DESCRIPTORS_LEFT_MIN => {
            let what =
                format!("has {} of {} file descriptors, so that few more can connect", grouped(used), grouped(max));
            Finding::problem(check, what).mend(mend(needed.unwrap_or(0).max(65536)))
        }
        (_, Some(needed)) if max < needed => {
            let instances = status.map_or(0, |status| status.instances_max);
            let what = format!(
                "may have {} file descriptors, and limits.instances_max = {instances} needs {}",
                grouped(max),
                grouped(needed)
            );
            Finding::warning(check, what).mend(format!("{}; or lower limits.instances_max", mend(needed)))
        }
        (None, None) => Finding::unknown(check, "only administrators see how many file descriptors it needs"),
        _ => Finding::ok(check, format!("may have {} file descriptors", allowed(max))),
    };
    Some(finding.at(format!("process {pid}")))
}

pub(super) fn own_files(facts: &Facts) -> Option<Finding> {
    let check = "own-files";
    let max = facts.me.descriptors_max;
    if max < DESCRIPTORS_OF_CLIENT {
        let what = format!("programs that you start here may have only {max} file descriptors");
        return Some(Finding::warning(check, what).mend("ulimit -n 1024"));
    }
    Some(Finding::ok(check, format!("programs that you start here may have {} file descriptors", allowed(max))))
}

fn allowed(max: u64) -> String {
    if max == u64::MAX { "any number of".to_owned() } else { grouped(max) }
}

pub(super) fn pipe_size(facts: &Facts) -> Option<Finding> {
    let check = "pipe-size";
    let max = facts.pipes.size_max?;
    let finding = if max < PIPE_BYTES {
        let what = format!("is {}: large messages move slower than they could", bytes(max));
        Finding::warning(check, what).mend(format!("as root: sysctl -w fs.pipe-max-size={PIPE_BYTES}"))
    } else {
        Finding::ok(check, format!("is {}", bytes(max)))
    };
    Some(finding.at("fs.pipe-max-size"))
}

pub(super) fn pipe_pages(facts: &Facts) -> Option<Finding> {
    let check = "pipe-pages";
    let limit = |limit: Option<u64>| limit.filter(|pages| *pages > 0).unwrap_or(u64::MAX);
    let (soft, hard) = (limit(Some(facts.pipes.user_pages_soft?)), limit(facts.pipes.user_pages_hard));
    let crowd = if let Answer::Given(Some((name, instances))) = &facts.crowd { Some((name, *instances)) } else { None };
    let needed = crowd.map_or(0, |(_, instances)| instances * PAGES_PER_INSTANCE);
    let more = |key: &str| format!("as root: sysctl -w {key}={}", (needed * 2).max(USER_PAGES).next_power_of_two());
    let who = crowd.map(|(name, instances)| {
        format!("{name} has {} instances, for whose pipes {} pages are needed", grouped(instances), grouped(needed))
    });
    let who = who.unwrap_or_default();
    Some(match needed {
        _ if needed > hard => {
            let what = format!("is {hard}, and {who}: more can't be made");
            Finding::problem(check, what).at("fs.pipe-user-pages-hard").mend(more("fs.pipe-user-pages-hard"))
        }
        _ if needed > soft => {
            let what = format!("is {soft}, and {who}: what comes more has small pipes and is slow");
            Finding::warning(check, what).at("fs.pipe-user-pages-soft").mend(more("fs.pipe-user-pages-soft"))
        }
        _ if soft < USER_PAGES => {
            let what = format!("is {soft}, which is enough for {} instances of one user", soft / PAGES_PER_INSTANCE);
            Finding::warning(check, what).at("fs.pipe-user-pages-soft").mend(more("fs.pipe-user-pages-soft"))
        }
        _ => {
            let what = match soft {
                u64::MAX => "there is no limit".to_owned(),
                _ => format!("is enough for {} instances of one user", grouped(soft / PAGES_PER_INSTANCE)),
            };
            Finding::ok(check, what).at("fs.pipe-user-pages-soft")
        }
    })
}

pub(super) fn protected_fifos(facts: &Facts) -> Option<Finding> {
    let value = facts.pipes.protected_fifos?;
    let what = match value {
        0 => "is 0".to_owned(),
        _ => format!("is {value}, which does not hinder pipebus; a shell's > to a FIFO of another user's would fail"),
    };
    Some(Finding::ok("fifos", what).at("fs.protected_fifos"))
}
