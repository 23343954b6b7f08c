//! Whether the door lets this user in.

use super::quoted_path;
use crate::doctor::finding::{Finding, quoted};
use crate::transport::fifo::doctor::facts::Facts;
use crate::transport::fifo::survey::Listening;

pub(super) fn permissions(facts: &Facts) -> Option<Finding> {
    let check = "permissions";
    let path = facts.survey.place.door();
    let door = facts.survey.door.facts()?;
    let name = &facts.me.name;
    let group = &facts.names.door_group;
    let is_for_group = door.mode & 0o022 == 0o020;
    if is_for_group && group.is_none() {
        let what = format!("is for group {}, which does not exist", door.gid);
        let mend = "set door.group in the configuration, or SocketGroup= in pipebusd.socket, to a group that does";
        return Some(Finding::problem(check, what).mend(mend).at_path(&path));
    }
    let finding = match facts.survey.may_connect? {
        true => Finding::ok(check, format!("let {name} in")),
        false if is_for_group => not_in_group(facts, door.gid, group.as_deref().unwrap_or_default()),
        false if door.mode & 0o002 != 0 => kept_from_door(facts),
        false => {
            let owner = &facts.names.door_owner;
            Finding::problem(check, format!("is for {owner} alone, and you are {name}"))
                .mend(format!("{owner} can set door.access in the broker's configuration"))
        }
    };
    Some(finding.at_path(&path))
}

fn not_in_group(facts: &Facts, gid: u32, group: &str) -> Finding {
    let check = "permissions";
    let name = &facts.me.name;
    if facts.me.groups.contains(&gid) {
        return kept_from_door(facts);
    }
    if facts.me.groups_on_file.contains(&gid) {
        let what = format!("{name} is in group {group}, but was not yet when this session began");
        return Finding::problem(check, what).mend(format!("log in again, or here: newgrp {}", quoted(group)));
    }
    let what = format!("is for group {group}, in which {name} is not");
    let mend = format!("as root: usermod -aG {} {}, then log in again", quoted(group), quoted(name));
    Finding::problem(check, what).mend(mend)
}

/// The door itself is not what keeps this user out.
fn kept_from_door(facts: &Facts) -> Finding {
    let place = &facts.survey.place;
    let (directory, instances) = (quoted_path(place.path()), quoted_path(&place.instances()));
    let what = "lets you in, but the directory or instances/ does not";
    Finding::problem("permissions", what).mend(format!("chmod 0755 {directory} && chmod 3733 {instances}"))
}

pub(super) fn listener(facts: &Facts) -> Option<Finding> {
    let check = "listener";
    let path = facts.survey.place.door();
    let finding = match (facts.survey.listening, facts.survey.holder) {
        (Listening::Unknown, _) => return None,
        (Listening::Somebody, _) if facts.is_served() => Finding::ok(check, "somebody listens"),
        (Listening::Somebody, _) => {
            let see = format!("{} status pipebusd.service", facts.manager.systemctl());
            Finding::problem(check, "somebody, as systemd, holds the door, but no broker comes").mend(see)
        }
        (Listening::Nobody, Some(pid)) => {
            let what = format!("nobody listens, though process {pid} holds the bus");
            Finding::problem(check, what).mend(facts.restart())
        }
        (Listening::Nobody, None) => {
            Finding::problem(check, "nobody listens: the broker was killed").mend(facts.start())
        }
    };
    Some(finding.at_path(&path))
}
