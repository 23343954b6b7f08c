//! The log: what `[log]` in the configuration says, set up once at the start.

use anyhow::Context;
use pipebusd::config::{LogFormat, LogSection};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What is logged.
pub(crate) fn filter(section: &LogSection) -> anyhow::Result<EnvFilter> {
    let (filter, advice) = (&section.filter, "say info, or pipebusd=debug");
    EnvFilter::try_new(filter).map_err(|error| anyhow::anyhow!("log.filter {filter:?}: {error}; {advice}"))
}

/// Begins to log.
pub(crate) fn start(section: &LogSection) -> anyhow::Result<()> {
    let registry = tracing_subscriber::registry().with(filter(section)?);
    let on_stderr = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match section.format {
        LogFormat::Text => {
            use std::io::IsTerminal;
            registry.with(on_stderr.with_ansi(std::io::stderr().is_terminal())).try_init()?;
        }
        LogFormat::Json => registry.with(on_stderr.json()).try_init()?,
        LogFormat::Journald => {
            let journal = tracing_journald::layer().context("the journal can't be reached; set log.format to text")?;
            registry.with(journal).try_init()?;
        }
    }
    Ok(())
}
