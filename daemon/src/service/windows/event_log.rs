//! The Event Log as a place for entries of the log: what fails, what somebody should know, and the broker's start and end.

use std::io::{self, Write};

use pipebus_windows::event_log::{self, Source};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::OptionalWriter;
use tracing_subscriber::registry::LookupSpan;

use super::NAME;

/// Of which part of the program all that is told matters: it begins and ends the broker, and nobody's actions make it say
/// anything else.
const LIFE: &str = "pipebusd";

pub(super) fn layer<S>() -> io::Result<impl Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let log = EventLog(Source::new(NAME)?);
    // The Event Log notes the time by itself.
    Ok(tracing_subscriber::fmt::layer().without_time().with_level(false).with_ansi(false).with_writer(log))
}

/// Tells of a failure when there is no other log yet. What can't be told there can't be told at all.
pub(super) fn report_failure(text: &str) {
    if let Ok(source) = Source::new(NAME) {
        let _ = source.report(event_log::Level::Error, text);
    }
}

struct EventLog(Source);

impl<'log> MakeWriter<'log> for EventLog {
    type Writer = OptionalWriter<Entry<'log>>;

    /// Of something that nothing is known of.
    fn make_writer(&'log self) -> Self::Writer {
        OptionalWriter::some(Entry { source: &self.0, level: event_log::Level::Information })
    }

    fn make_writer_for(&'log self, metadata: &Metadata<'_>) -> Self::Writer {
        match level(*metadata.level(), metadata.target()) {
            Some(level) => OptionalWriter::some(Entry { source: &self.0, level }),
            None => OptionalWriter::none(),
        }
    }
}

/// How bad it is; `None`, if it does not matter there.
fn level(level: Level, target: &str) -> Option<event_log::Level> {
    match level {
        Level::ERROR => Some(event_log::Level::Error),
        Level::WARN => Some(event_log::Level::Warning),
        Level::INFO if target == LIFE => Some(event_log::Level::Information),
        _ => None,
    }
}

struct Entry<'log> {
    source: &'log Source,
    level: event_log::Level,
}

impl Write for Entry<'_> {
    /// Each is a whole entry.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.source.report(self.level, String::from_utf8_lossy(text).trim_end())?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn only_what_matters_goes_there() {
        assert_eq!(level(Level::ERROR, "pipebusd::instance"), Some(event_log::Level::Error));
        assert_eq!(level(Level::WARN, "audit"), Some(event_log::Level::Warning));
        assert_eq!(level(Level::INFO, "pipebusd"), Some(event_log::Level::Information));
        assert_eq!(level(Level::INFO, "pipebusd::instance"), None);
        assert_eq!(level(Level::DEBUG, "pipebusd"), None);
    }

    #[test]
    fn entries_are_taken() {
        let subscriber = tracing_subscriber::registry().with(layer().unwrap());
        tracing::subscriber::with_default(subscriber, || tracing::info!(target: "pipebusd", "a test of pipebusd"));
    }
}
