//! The units, where systemd runs and has them.

use crate::doctor::finding::{Finding, Level};
use crate::transport::fifo::doctor::facts::{Facts, Unit};

pub(super) fn socket(facts: &Facts) -> Option<Finding> {
    unit(facts, "socket", "pipebusd.socket")
}

pub(super) fn service(facts: &Facts) -> Option<Finding> {
    unit(facts, "service", "pipebusd.service")
}

fn unit(facts: &Facts, check: &'static str, name: &str) -> Option<Finding> {
    let unit = facts.units.iter().find(|unit| unit.name == name && unit.is_loaded)?;
    let systemctl = facts.manager.systemctl();
    let states = format!("{}, {}", unit.active, unit.file);
    let is_socket = check == "socket";
    let finding = match unit.active.as_str() {
        "failed" => failed(facts, check, unit),
        "active" | "activating" | "reloading" => Finding::ok(check, states.as_str()),
        // It comes with the first knock.
        _ if !is_socket => Finding::ok(check, states.as_str()),
        _ if facts.is_served() => {
            let what = format!("{states}; the broker was started without it, which keeps it from starting");
            Finding::warning(check, what).mend(format!("end the broker, then: {systemctl} start {name}"))
        }
        _ => {
            Finding::problem(check, format!("{states}, so nobody can knock")).mend(format!("{systemctl} start {name}"))
        }
    };
    let finding = match (finding.level, unit.file.as_str()) {
        (Level::Ok, "disabled") if is_socket => {
            let what = format!("{states}: after the next start there is no bus");
            Finding::warning(check, what).mend(format!("{systemctl} enable {name}"))
        }
        _ => finding,
    };
    Some(finding.at(name))
}

fn failed(facts: &Facts, check: &'static str, unit: &Unit) -> Finding {
    let (systemctl, journalctl) = (facts.manager.systemctl(), facts.manager.journalctl());
    let mend = format!(
        "{systemctl} reset-failed {} && {systemctl} restart pipebusd.socket; see why: {journalctl} -e -u {}",
        unit.name, unit.name
    );
    Finding::problem(check, format!("has failed: {}", unit.result)).mend(mend)
}
