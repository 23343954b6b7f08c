//! Whether this user gets in, and who answers.

use std::time::Duration;

use pipebus_client::Error;

use crate::doctor::facts::{Answer, Contact};
use crate::doctor::finding::{Finding, quoted};
use crate::transport::doctor::Facts;

/// A client is let in within a millisecond or so, if the broker has time.
const SLOW: Duration = Duration::from_millis(250);

pub(crate) fn connection(facts: &Facts) -> Option<Finding> {
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

pub(crate) fn versions(facts: &Facts) -> Option<Finding> {
    let check = "versions";
    let own = env!("CARGO_PKG_VERSION");
    match &facts.status {
        Answer::Given(status) if status.version == own => {
            Some(Finding::ok(check, format!("pipebus and pipebusd are {own}")))
        }
        Answer::Given(status) => {
            let what = format!("pipebus is {own}, and the broker {}", status.version);
            Some(Finding::warning(check, what).mend(facts.restart()))
        }
        Answer::Forbidden => Some(Finding::unknown(check, "only administrators may ask the broker")),
        Answer::Failed(why) => {
            Some(Finding::problem(check, format!("the broker does not say how it is: {why}")).mend(facts.restart()))
        }
        Answer::NotAsked => None,
    }
}
