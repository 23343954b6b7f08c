//! What is in the bus's directory.

use std::path::Path;

use pipebus_proto::trust::Distrust;
use rustix::fs::FileType;

use super::quoted_path;
use crate::doctor::finding::{Finding, counted};
use crate::transport::fifo::doctor::facts::Facts;
use crate::transport::fifo::entrance::keeps_out;
use crate::transport::fifo::survey::Entry;

/// What the owner needs to have of the door, and what others may have.
const DOOR_OWNER: u32 = 0o600;
const DOOR_OTHERS: u32 = 0o022;

/// Who can read the door can take knocks away.
const DOOR_READ: u32 = 0o044;

/// Everybody may make FIFOs, nobody see or touch another's, and their group is the broker's.
const INSTANCES_MODE: u32 = 0o3733;

pub(super) fn directory(facts: &Facts) -> Option<Finding> {
    let survey = &facts.survey;
    let path = survey.place.path();
    let check = "directory";
    let finding = match survey.directory {
        Entry::There(directory) if directory.kind != FileType::Directory => {
            Finding::problem(check, "is not a directory").mend(format!("rm {}", quoted_path(path)))
        }
        Entry::There(directory) => match survey.door.facts() {
            Some(door) if keeps_out(&directory, &door) => {
                let what = format!("has mode {:04o}, which keeps out who may use the door", directory.mode);
                Finding::warning(check, what).mend(format!("chmod 0755 {}", quoted_path(path)))
            }
            _ => {
                let owner = &facts.names.directory_owner;
                Finding::ok(check, format!("belongs to {owner}, mode {:04o}", directory.mode))
            }
        },
        entry => missing(facts, check, "there is no such directory, so no broker runs", entry, facts.start()),
    };
    Some(finding.at_path(path))
}

/// What is said of an entry that is not there to be judged. If it is absent, `make` makes it.
fn missing(facts: &Facts, check: &'static str, absent: &str, entry: Entry, make: String) -> Finding {
    match entry {
        Entry::Failed(errno) => Finding::problem(check, format!("the system can't tell: {errno}")),
        Entry::Hidden => {
            let owner = &facts.names.directory_owner;
            let whom = if owner.is_empty() { "root" } else { owner };
            let what = format!("{} may not see it, so the bus is not for you", facts.me.name);
            Finding::problem(check, what)
                .mend(format!("ask {whom} for a bus that is: see door.access in the configuration"))
        }
        Entry::Absent | Entry::There(_) => Finding::problem(check, absent).mend(make),
    }
}

pub(super) fn trust(facts: &Facts) -> Option<Finding> {
    let check = "trust";
    let path = facts.survey.place.path();
    let Err(distrust) = facts.trust.as_ref()? else {
        return Some(
            Finding::ok(check, "nobody but its owner and root can put something else in its place").at_path(path),
        );
    };
    let mend = match distrust {
        Distrust::Writable { path, .. } => format!("chmod go-w {}", quoted_path(path)),
        Distrust::Open { path, .. } => format!("chmod go= {}", quoted_path(path)),
        _ => "serve the bus in another place, with pipebusd --bus".to_owned(),
    };
    Some(Finding::problem(check, distrust.to_string()).mend(mend))
}

pub(super) fn door(facts: &Facts) -> Option<Finding> {
    let check = "door";
    let path = facts.survey.place.door();
    survey_directory(facts)?;
    let Entry::There(door) = facts.survey.door else {
        let absent = "there is no door, so nobody can connect";
        return Some(missing(facts, check, absent, facts.survey.door, remake(facts)).at_path(&path));
    };
    if door.kind != FileType::Fifo {
        let mend = format!("rm {}, then: {}", quoted_path(&path), remake(facts));
        return Some(Finding::problem(check, "is not a FIFO").mend(mend).at_path(&path));
    }
    let broker = facts.survey.lock.facts().filter(|lock| lock.uid != door.uid && door.uid != 0);
    if let Some(broker) = broker {
        let (owner, user) = (&facts.names.door_owner, &facts.names.lock_owner);
        let mend = format!("chown {} {}", broker.uid, quoted_path(&path));
        let what = format!("belongs to {owner}, who can take knocks away; the broker is {user}'s");
        return Some(Finding::problem(check, what).mend(mend).at_path(&path));
    }
    Some(door_mode(facts, door.mode).at_path(&path))
}

fn door_mode(facts: &Facts, mode: u32) -> Finding {
    let check = "door";
    // Where others may write, so may the group: what is for it alone counts first (path_resolution(7)).
    let others = if mode & 0o002 != 0 { DOOR_OTHERS } else { mode & DOOR_OTHERS };
    let fault = match mode {
        _ if mode & DOOR_READ != 0 => Some("others can read it, and so take knocks away"),
        _ if mode & DOOR_OWNER != DOOR_OWNER => Some("its owner can't read and write it"),
        _ if mode != DOOR_OWNER | others => Some("it is meant to be 0600, 0620 or 0622"),
        _ => None,
    };
    let Some(fault) = fault else {
        let group = facts.names.door_group.as_deref().unwrap_or("no group");
        return Finding::ok(check, format!("a FIFO of {} and {group}, mode {mode:04o}", facts.names.door_owner));
    };
    let mend = format!("chmod {:04o} {}", DOOR_OWNER | others, quoted_path(&facts.survey.place.door()));
    Finding::problem(check, format!("has mode {mode:04o}: {fault}")).mend(mend)
}

pub(super) fn instances(facts: &Facts) -> Option<Finding> {
    let check = "instances";
    let path = facts.survey.place.instances();
    survey_directory(facts)?;
    let Entry::There(instances) = facts.survey.instances else {
        // Of the door it has been said.
        if facts.survey.instances == Entry::Hidden {
            return None;
        }
        let absent = "there is no such directory, in which clients make their FIFOs";
        return Some(missing(facts, check, absent, facts.survey.instances, remake(facts)).at_path(&path));
    };
    let quoted = quoted_path(&path);
    let broker = facts.survey.lock.facts().filter(|lock| lock.uid != instances.uid && lock.uid != 0);
    let finding = if instances.kind != FileType::Directory {
        Finding::problem(check, "is not a directory").mend(format!("rm {quoted}, then: {}", remake(facts)))
    } else if instances.mode != INSTANCES_MODE {
        let what = format!(
            "has mode {:04o} and not {INSTANCES_MODE:04o}: clients can't make FIFOs there, or are not safe from each other",
            instances.mode
        );
        Finding::problem(check, what).mend(format!("chmod {INSTANCES_MODE:04o} {quoted}"))
    } else if let Some(broker) = broker {
        let (owner, user) = (&facts.names.instances_owner, &facts.names.lock_owner);
        let what = format!("belongs to {owner}; {user}, whose broker it is, can't take the names of FIFOs away");
        Finding::problem(check, what).mend(format!("chown {} {quoted}", broker.uid))
    } else {
        Finding::ok(check, format!("belongs to {}, mode {INSTANCES_MODE:04o}", facts.names.instances_owner))
    };
    Some(finding.at_path(&path))
}

/// What makes again what belongs into the directory: a broker that runs does so by itself, unless systemd has made it.
fn remake(facts: &Facts) -> String {
    match facts.survey.holder {
        Some(_) if facts.units.is_empty() => "wait two seconds for the broker to make it".to_owned(),
        Some(_) => format!("{} restart pipebusd.socket", facts.manager.systemctl()),
        None => facts.start(),
    }
}

/// The directory, if what is in it can be there.
fn survey_directory(facts: &Facts) -> Option<()> {
    (facts.survey.directory.kind() == Some(FileType::Directory)).then_some(())
}

pub(super) fn leftovers(facts: &Facts) -> Option<Finding> {
    let check = "leftovers";
    let path = facts.survey.place.instances();
    facts.survey.instances.facts()?;
    let Some(leftovers) = facts.leftovers else {
        let finding = Finding::unknown(check, "only its owner and root see what clients have left behind there");
        return Some(finding.at_path(&path));
    };
    let finding = match (facts.is_served(), leftovers.fifos, leftovers.old) {
        (true, _, 0) => Finding::ok(check, "nothing that clients have left behind"),
        (true, _, old) => {
            let what = format!(
                "{} of clients that are gone, which the broker sweeps within minutes, unless the clock was set",
                counted(old, "FIFO")
            );
            Finding::warning(check, what).mend(removal(&path))
        }
        (false, 0, _) => Finding::ok(check, "nothing that clients have left behind"),
        (false, all, _) => {
            let what = format!(
                "{} of clients that died, or that wait for a broker; the next one sweeps what is old",
                counted(all, "FIFO")
            );
            Finding::warning(check, what).mend(format!("{}, or: {}", facts.start(), removal(&path)))
        }
    };
    Some(finding.at_path(&path))
}

fn removal(instances: &Path) -> String {
    format!("find {} -type p -mmin +3 -delete", quoted_path(instances))
}
