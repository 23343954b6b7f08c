//! Whether this user gets in.

use std::time::Duration;

use pipebus_client::Error;

use crate::doctor::facts::{Contact, Facts};
use crate::doctor::finding::{Finding, quoted, quoted_path};
use crate::survey::Listening;

/// A client is let in within a millisecond or so, if the broker has time.
const SLOW: Duration = Duration::from_millis(250);

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

pub(super) fn connection(facts: &Facts) -> Option<Finding> {
    let check = "connection";
    let error = match &facts.contact {
        Contact::Connected { after } if *after > SLOW => {
            let what = format!("took {} ms; the broker or the machine is very busy", after.as_millis());
            return Some(Finding::warning(check, what).mend("see who has how much to do: pipebus instances"));
        }
        Contact::Connected { after } => {
            let milliseconds = after.as_secs_f64() * 1000.0;
            return Some(Finding::ok(check, format!("took {milliseconds:.1} ms")));
        }
        Contact::Failed(error) => error,
    };
    let finding = Finding::problem(check, error.to_string());
    let me = quoted(&facts.me.name);
    Some(match error {
        Error::NoBroker { .. } => Finding::problem(check, "no broker answers").mend(facts.start()),
        Error::TimedOut { .. } => finding.mend(facts.restart()),
        Error::Forbidden(_) => {
            finding.mend(format!("an administrator sees why: pipebus policy check --user {me} --action connect"))
        }
        Error::Full(_) => finding.mend("an administrator sees who has them: pipebus users"),
        Error::Version(_) => {
            finding.mend("install the same version of pipebus and pipebusd, and start the broker again")
        }
        _ => finding,
    })
}
