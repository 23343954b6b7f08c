//! The pipe: whether it is there, who serves it, and whether it has room.

use crate::doctor::facts::Answer;
use crate::doctor::finding::{Finding, counted};
use crate::output::bytes;
use crate::transport::named_pipe::doctor::facts::Facts;
use crate::transport::named_pipe::survey::Survey;

pub(super) fn pipe(facts: &Facts) -> Option<Finding> {
    let check = "pipe";
    let finding = match &facts.survey {
        Survey::Open(seen) => match &seen.pipe {
            Ok(pipe) => {
                let buffers = (bytes(u64::from(pipe.in_bytes)), bytes(u64::from(pipe.out_bytes)));
                let what = format!("is there, with {} to the server and {} to the client", buffers.0, buffers.1);
                Finding::ok(check, what)
            }
            Err(why) => Finding::unknown(check, format!("is there, and does not tell how large it is: {why}")),
        },
        Survey::Absent => Finding::problem(check, "there is no such pipe, so no broker runs").mend(facts.start()),
        Survey::Busy => {
            let what = "each of its instances has a client, and none comes free: the broker does not take anybody";
            Finding::problem(check, what).mend(facts.restart())
        }
        Survey::Denied => Finding::problem(check, format!("does not let {} in", facts.me.name))
            .mend("ask its owner for a bus that does: see door.access and door.security in the configuration"),
        Survey::Failed(why) => Finding::problem(check, format!("the system can't tell: {why}"))
            .mend(r"name a pipe of this machine, such as \\.\pipe\NAME"),
        Survey::Unopened => return None,
    };
    Some(finding.at_path(facts.path()))
}

pub(super) fn server(facts: &Facts) -> Option<Finding> {
    let check = "process";
    let seen = facts.survey.seen()?;
    let pid = seen.server?;
    let finding = match seen.program_name() {
        None => Finding::unknown(check, "serves the pipe; you may not see which program it is"),
        Some(name) if seen.is_broker() => Finding::ok(check, format!("is {name}")),
        Some(name) if facts.is_served() => Finding::ok(check, format!("is {name}, which has a broker in it")),
        Some(name) => Finding::problem(check, format!("is {name}, which is no broker"))
            .mend("end that program, or name another bus"),
    };
    Some(finding.at(format!("process {pid}")))
}

pub(super) fn instances(facts: &Facts) -> Option<Finding> {
    let check = "instances";
    let pipe = facts.survey.seen()?.pipe.as_ref().ok()?;
    let now = counted(u64::from(pipe.instances), "instance");
    let finding = match pipe.instances_max {
        // A tenth left is not much.
        Some(max) if u64::from(pipe.instances) * 10 >= u64::from(max) * 9 => {
            let who = match &facts.crowd {
                Answer::Given(Some((name, instances))) => format!("; {name} has {instances} of them"),
                _ => String::new(),
            };
            let what = format!("has {now} of {max} that it may have{who}: few more can connect");
            Finding::warning(check, what).mend("see who has them: pipebus users")
        }
        Some(max) => Finding::ok(check, format!("has {now} of {max} that it may have")),
        None => Finding::ok(check, format!("has {now}, and may have any number")),
    };
    Some(finding.at_path(facts.path()))
}
