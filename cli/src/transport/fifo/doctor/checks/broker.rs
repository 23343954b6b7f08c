//! The broker: whether it runs, and what it was told.

use std::path::Path;

use super::quoted_path;
use crate::doctor::facts::Contact;
use crate::doctor::finding::Finding;
use crate::transport::fifo::doctor::facts::{Configuration, Facts};
use crate::transport::fifo::survey::Entry;

pub(super) fn lock(facts: &Facts) -> Option<Finding> {
    let check = "lock";
    let path = facts.survey.place.lock();
    let finding = match (facts.survey.holder, facts.survey.lock) {
        (Some(pid), _) => Finding::ok(check, format!("held by process {pid}")),
        (None, Entry::There(_)) if facts.is_served() => {
            Finding::unknown(check, "who holds it can't be seen from here; is the broker in another container?")
        }
        (None, Entry::There(_)) => {
            let what = "left behind by a broker that was killed; the next one takes it over";
            Finding::warning(check, what).mend(facts.start())
        }
        (None, _) => return None,
    };
    Some(finding.at_path(&path))
}

pub(super) fn process(facts: &Facts) -> Option<Finding> {
    let check = "process";
    let process = facts.process.as_ref()?;
    let pid = process.pid;
    let finding = match process.state {
        'T' | 't' => Finding::problem(check, "is stopped, so that nothing moves").mend(format!("kill -CONT {pid}")),
        'Z' | 'X' => Finding::problem(check, "has ended").mend(facts.start()),
        'D' => Finding::warning(check, "waits for a disk or a file system")
            .mend(format!("see for what: cat /proc/{pid}/stack")),
        _ => Finding::ok(check, format!("runs as {}", process.user)),
    };
    Some(finding.at(format!("process {pid}")))
}

pub(super) fn configuration(facts: &Facts) -> Option<Finding> {
    let check = "configuration";
    let at = |finding: Finding, file: &Option<std::path::PathBuf>| match file {
        Some(file) => finding.at_path(file),
        None => finding,
    };
    Some(match &facts.configuration {
        Configuration::Valid { file } => at(Finding::ok(check, "is valid"), file),
        Configuration::Invalid { file, says } => {
            let name = file.as_deref().unwrap_or(Path::new("/etc/pipebus/pipebus.toml"));
            let recheck = file.as_ref().map_or(String::new(), |file| format!(" --config {}", quoted_path(file)));
            let serves = matches!(facts.contact, Contact::Connected { .. });
            let still = if serves { " (the broker still has what it read before)" } else { "" };
            let finding = Finding::problem(check, format!("{says}{still}"));
            at(finding.mend(format!("correct {}, and see: pipebusd{recheck} --check-config", quoted_path(name))), file)
        }
        Configuration::Unchecked(why) => Finding::unknown(check, why.clone()),
    })
}
