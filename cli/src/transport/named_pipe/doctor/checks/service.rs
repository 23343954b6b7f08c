//! The service, of the system's bus.

use crate::doctor::finding::Finding;
use crate::transport::named_pipe::doctor::facts::{Facts, Service, Start, State};

pub(super) fn service(facts: &Facts) -> Option<Finding> {
    let check = "service";
    let finding = match facts.service? {
        Service::Unknown => Finding::unknown(check, "the service control manager does not tell"),
        Service::NotInstalled if facts.is_served() => {
            Finding::ok(check, "is not installed; the broker was started without it")
        }
        Service::NotInstalled => Finding::problem(check, "is not installed, so nothing serves the system's bus")
            .mend("as an administrator: pipebusd service install, then: pipebusd service start"),
        Service::Installed { state: State::Running, start: Start::Automatic, .. } => Finding::ok(check, "runs"),
        Service::Installed { state: State::Running, .. } => {
            let what = "runs, and does not start with the system: after the next start there is no bus";
            Finding::warning(check, what).mend("as an administrator: sc.exe config pipebusd start= auto")
        }
        Service::Installed { state: State::Between, .. } => {
            Finding::warning(check, "is starting or stopping").mend("look again in a while")
        }
        Service::Installed { state: State::Stopped, .. } if facts.is_served() => {
            let what = "does not run; the broker was started without it, which keeps it from starting";
            Finding::warning(check, what).mend(format!("end the broker, then: {}", facts.start()))
        }
        Service::Installed { state: State::Stopped, exit_code: 0, .. } => {
            Finding::problem(check, "does not run").mend(facts.start())
        }
        Service::Installed { state: State::Stopped, exit_code, .. } => {
            let what = format!("does not run: it has ended with error {exit_code}");
            let mend = format!("see why in the Event Log, then: {}", facts.start());
            Finding::problem(check, what).mend(mend)
        }
    };
    Some(finding.at("pipebusd"))
}
