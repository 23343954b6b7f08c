//! The log: what `[log]` in the configuration says, set up once at the start; what is logged may change later.

mod file;

use std::io::IsTerminal;
use std::sync::Arc;

use anyhow::Context;
use pipebusd::config::{LogFormat, LogSection};
use pipebusd::service;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

use self::file::LogFile;

/// The longest filter.
const FILTER_BYTES_MAX: usize = 1024;

/// Finds out what is wrong with it that only this system can tell.
pub(crate) fn check(section: &LogSection) -> anyhow::Result<()> {
    filter(section)?;
    service::check_log_format(section.format).context("log.format")
}

/// What is logged.
fn filter(section: &LogSection) -> anyhow::Result<EnvFilter> {
    parse(&section.filter).map_err(|error| anyhow::anyhow!("log.filter {error}"))
}

fn parse(text: &str) -> Result<EnvFilter, String> {
    let wrong = |why: &str| format!("{text:?}: {why}; say info, or info,pipebusd=debug");
    if text.len() > FILTER_BYTES_MAX {
        return Err(format!("has {} bytes; give it at most {FILTER_BYTES_MAX}", text.len()));
    }
    // Otherwise a word with a typing error would be a part of the program that there is not, and nothing else be logged.
    let mut words = text.split(',').filter(|word| !word.contains(['=', '[', ']', '{', '}']));
    if let Some(word) = words.find(|word| word.is_empty() || word.parse::<LevelFilter>().is_err()) {
        return Err(wrong(&format!("{word:?} is none of off, error, warn, info, debug and trace")));
    }
    EnvFilter::try_new(text).map_err(|error| wrong(&error.to_string()))
}

/// What is logged, which can be changed.
#[derive(Debug)]
pub(crate) struct Filter(Handle<EnvFilter, Registry>);

impl Filter {
    /// What is logged now.
    pub(crate) fn show(&self) -> Result<String, String> {
        self.0.with_current(ToString::to_string).map_err(|error| error.to_string())
    }

    /// Logs what this filter says from now on.
    pub(crate) fn change(&self, filter: &str) -> Result<(), String> {
        let parsed = parse(filter).map_err(|error| format!("the filter {error}"))?;
        self.0.reload(parsed).map_err(|error| error.to_string())
    }
}

/// Begins to log.
pub(crate) fn start(section: &LogSection) -> anyhow::Result<Filter> {
    let (filter, handle) = reload::Layer::new(filter(section)?);
    let registry = tracing_subscriber::registry().with(filter);
    let is_for_people = section.file().is_none() && std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(writer(section)?);
    match section.format {
        LogFormat::Text => registry.with(lines.with_ansi(is_for_people)).try_init()?,
        LogFormat::Json => registry.with(lines.json()).try_init()?,
        LogFormat::EventLog if section.file().is_some() => {
            registry.with(lines.with_ansi(false)).with(service::system_log()?).try_init()?;
        }
        LogFormat::Journald | LogFormat::EventLog => registry.with(service::system_log()?).try_init()?,
    }
    Ok(Filter(handle))
}

/// Where lines go.
fn writer(section: &LogSection) -> anyhow::Result<BoxMakeWriter> {
    let Some(path) = section.file() else { return Ok(BoxMakeWriter::new(std::io::stderr)) };
    let file = LogFile::open(path, section.file_bytes_max, section.files_max)
        .with_context(|| format!("cannot open log.file, {}; make its directory, or name another", path.display()))?;
    Ok(BoxMakeWriter::new(Arc::new(file)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pipebusd::config::Config;

    fn check(filter: &str, valid: bool) {
        let parsed = parse(filter);
        assert_eq!(parsed.is_ok(), valid, "{filter:?}: {parsed:?}");
    }

    /// The only test that may begin to log: a process does so once.
    #[test]
    fn what_is_logged_can_change_and_what_is_not_costs_a_comparison() {
        let filter = start(&Config::default().log).unwrap();
        assert_eq!((filter.show(), LevelFilter::current()), (Ok("info".to_owned()), LevelFilter::INFO));
        filter.change("debug").unwrap();
        assert_eq!((filter.show(), LevelFilter::current()), (Ok("debug".to_owned()), LevelFilter::DEBUG));
        filter.change("debg").unwrap_err();
        assert_eq!(filter.show(), Ok("debug".to_owned()));
        filter.change("off").unwrap();
        assert_eq!(LevelFilter::current(), LevelFilter::OFF);
    }

    #[test]
    fn a_word_that_is_no_level_is_no_filter() {
        for filter in ["info", "DEBUG", "off", "info,pipebusd::transport=debug", "warn,audit=info", "pipebusd=trace"] {
            check(filter, true);
        }
        for filter in ["debg", "info,pipebusd", "", "pipebusd=loud", "info,,debug", "warn, audit=info"] {
            check(filter, false);
        }
        check(&"info,".repeat(FILTER_BYTES_MAX), false);
    }
}
