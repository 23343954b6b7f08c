//! `pipebus policy check`: which rule of the broker's policy decides.

use std::time::Duration;

use clap::ValueEnum;
use pipebus_proto::admin::{POLICY_CHECK, PolicyChecked, PolicyQuestion};
use pipebus_proto::place::Address;

use crate::args::policy::Check;
use crate::bus::visit;
use crate::failure::Failure;
use crate::output;
use crate::system::account::user_name;

/// How long the broker may take: it may have to ask a directory service.
const TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) async fn check(bus: &Address, arguments: &Check) -> Result<(), Failure> {
    let action = arguments.action.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let topic = arguments.topic.as_ref().map(ToString::to_string);
    let question = PolicyQuestion { user: arguments.user.clone(), action, topic };
    let client = visit(bus, "policy").await?;
    let payload = serde_json::to_vec(&question).map_err(|error| Failure::system("ask", error))?;
    let answer = client.request(POLICY_CHECK, payload, TIMEOUT).await?;
    let checked: PolicyChecked = answer.json()?;
    let mut text = if arguments.json { answer.payload.to_vec() } else { in_words(&question, &checked).into_bytes() };
    text.push(b'\n');
    output::write(&text)?;
    if checked.allowed { Ok(()) } else { Err(Failure::Denied) }
}

fn in_words(question: &PolicyQuestion, checked: &PolicyChecked) -> String {
    let verdict = if checked.allowed { "may" } else { "may not" };
    let topic = question.topic.as_ref().map(|topic| format!(" {topic}")).unwrap_or_default();
    let verdict = format!("{} {verdict} {}{topic}", user_name(&checked.identity), question.action);
    match checked.rule {
        Some(rule) => format!("{verdict}, says rule {rule}:\n\n{}", checked.says),
        None => format!("{verdict}: {}", checked.says),
    }
}
