//! `pipebus doctor`: what is wrong with a bus, and what mends it.
//!
//! First all facts are gathered, then each check judges by them. What they are depends on the kind of pipe, so that most
//! of it is the transport's.

pub(crate) mod asked;
pub(crate) mod checks;
pub(crate) mod facts;
pub(crate) mod finding;

use pipebus_proto::place::Address;
use serde::Serialize;

use self::finding::{Finding, Level};
use crate::args::inspect::Doctor;
use crate::failure::Failure;
use crate::format::push_object;
use crate::output;
use crate::transport::doctor;

/// In the form of its JSON.
#[derive(Serialize)]
struct Report<'a> {
    bus: String,
    path: String,
    problems: usize,
    warnings: usize,
    checks: &'a [Finding],
}

pub(crate) async fn run(bus: &Address, arguments: &Doctor) -> Result<(), Failure> {
    let facts = doctor::facts(bus).await?;
    let findings = doctor::check(&facts);
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
    let mut text = Vec::new();
    if arguments.json {
        let path = facts.path().display().to_string();
        let report = Report { bus: bus.to_string(), path, problems, warnings, checks: &findings };
        push_object(&mut text, &report);
    } else {
        let coloured = output::is_coloured();
        let lines: Vec<String> = findings.iter().map(|finding| finding.line(coloured)).collect();
        text.extend_from_slice(lines.join("\n").as_bytes());
        text.push(b'\n');
    }
    output::write(&text)?;
    if problems > 0 { Err(Failure::Unwell { problems }) } else { Ok(()) }
}
