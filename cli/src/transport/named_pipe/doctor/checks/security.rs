//! Whose the pipe is, and who may do what with it.

use crate::doctor::finding::Finding;
use crate::transport::named_pipe::access::Access;
use crate::transport::named_pipe::doctor::facts::Facts;
use crate::transport::named_pipe::survey::is_trusted;

/// Where what is said here is changed.
const SEE: &str = "correct door.security in the broker's configuration, and start it again";

pub(super) fn trust(facts: &Facts) -> Option<Finding> {
    let check = "trust";
    let seen = facts.survey.seen()?;
    let finding = match (seen.trust(&facts.place), &seen.access) {
        (Some(Ok(())), Ok(Access { owner: Some(owner), .. })) => {
            Finding::ok(check, format!("belongs to {}, whom clients trust", owner.name))
        }
        (Some(Err(_)), Ok(Access { owner: Some(owner), .. })) => {
            let what =
                format!("belongs to {}, whom clients do not trust: the pipe may be there to deceive", owner.name);
            Finding::problem(check, what)
                .mend("let the broker run as the service (pipebusd service install), or as yourself")
        }
        (_, Err(why)) => Finding::problem(check, format!("whose it is can't be seen: {why}"))
            .mend("serve the bus on another pipe, with pipebusd --bus"),
        _ => Finding::problem(check, "nobody owns it, so that clients do not trust it").mend(SEE),
    };
    Some(finding.at_path(facts.path()))
}

pub(super) fn permissions(facts: &Facts) -> Option<Finding> {
    let check = "permissions";
    let access = facts.survey.access()?;
    let name = &facts.me.name;
    let finding = match access.lets_in(&facts.me.account) {
        true => Finding::ok(check, format!("let {name} in")),
        // It was opened all the same: groups that are not in the list may count, or nobody looks at it.
        false => Finding::warning(check, format!("are for {}, and {name} is let in all the same", access.admits()))
            .mend("see who may do what: pipebus scan --json"),
    };
    Some(finding.at_path(facts.path()))
}

pub(super) fn protection(facts: &Facts) -> Option<Finding> {
    let check = "protection";
    let access = facts.survey.access()?;
    let finding = match (&access.grants, access.is_protected) {
        (None, _) => {
            Finding::problem(check, "it has no list of who may do what, so everybody may do everything").mend(SEE)
        }
        (Some(_), true) => Finding::ok(check, "nothing is added to its list by inheritance"),
        (Some(_), false) => Finding::warning(check, "its list is not protected from what is inherited")
            .mend("let door.security in the broker's configuration begin with D:P"),
    };
    Some(finding.at_path(facts.path()))
}

pub(super) fn openness(facts: &Facts) -> Option<Finding> {
    let check = "openness";
    let access = facts.survey.access()?;
    access.grants.as_ref()?;
    let open_to = access.open_to();
    let finding = if open_to.is_empty() {
        Finding::ok(check, format!("is for {}", access.admits()))
    } else {
        let what = format!("lets {} in, who need not be anybody that you know", open_to.join(" and "));
        Finding::warning(check, what).mend("name who may, with door.access or door.security in the configuration")
    };
    Some(finding.at_path(facts.path()))
}

pub(super) fn servers(facts: &Facts) -> Option<Finding> {
    let check = "servers";
    let access = facts.survey.access()?;
    access.grants.as_ref()?;
    let others = access.servers(|sid| is_trusted(&facts.place, sid).is_ok() || is_owner(access, sid));
    let finding = if others.is_empty() {
        Finding::ok(check, "only those may make instances of it whom clients trust")
    } else {
        let what = format!("{} may make instances of it, and so pretend to be the broker", others.join(" and "));
        Finding::problem(check, what).mend("give clients 0x12019b in door.security, not GW or GA")
    };
    Some(finding.at_path(facts.path()))
}

fn is_owner(access: &Access, sid: &str) -> bool {
    access.owner.as_ref().is_some_and(|owner| owner.id == sid)
}

pub(super) fn remote(facts: &Facts) -> Option<Finding> {
    let check = "remote";
    let access = facts.survey.access()?;
    let finding = if access.denies_network() {
        Finding::ok(check, "denies those who come from other machines")
    } else {
        // The system does not tell of a pipe whether it rejects remote clients.
        let what = "whether clients on other machines are rejected can't be seen; they are, unless door.remote is set";
        Finding::unknown(check, what)
    };
    Some(finding.at_path(facts.path()))
}
