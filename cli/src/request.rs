//! `pipebus request`: a question to whoever serves a topic.

use std::io::{self, IsTerminal};

use bytes::Bytes;
use pipebus_client::{Client, Error, Message};
use pipebus_proto::place::Address;

use crate::args::messages::{AnswerFormat, Request};
use crate::bus::{connect, visit};
use crate::failure::Failure;
use crate::format::push_json;
use crate::output;
use crate::publish::message_of;

pub(crate) async fn run(bus: &Address, arguments: &Request) -> Result<(), Failure> {
    let only_visits = arguments.topic.is_reserved();
    let client = if only_visits { visit(bus, "request").await? } else { connect(bus, "request").await? };
    let question = arguments.message.as_deref().map(message_of).transpose()?.unwrap_or_default();
    let answer = ask(&client, arguments, question).await?;
    show(&answer, arguments.format.unwrap_or_else(format_for_output))
}

async fn ask(client: &Client, arguments: &Request, question: Bytes) -> Result<Message, Failure> {
    let topic = arguments.topic.as_str();
    let answer = client.request(topic, question, arguments.timeout).await;
    answer.map_err(|error| match error {
        Error::TimedOut { after, .. } => Failure::NoAnswer { topic: topic.to_owned(), after },
        error => error.into(),
    })
}

/// On a terminal the prompt is to begin on a line of its own; elsewhere nothing is to be added.
fn format_for_output() -> AnswerFormat {
    if io::stdout().is_terminal() { AnswerFormat::Line } else { AnswerFormat::Raw }
}

fn show(answer: &Message, format: AnswerFormat) -> Result<(), Failure> {
    let mut json = Vec::new();
    match format {
        AnswerFormat::Raw => output::write(&answer.payload),
        AnswerFormat::Line => {
            output::write(&answer.payload)?;
            output::write(b"\n")
        }
        AnswerFormat::Json => {
            push_json(&mut json, answer);
            output::write(&json)
        }
    }
}
