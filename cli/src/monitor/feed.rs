//! All that is monitored as one stream, in which each frame comes once.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use pipebus_client::{Client, Gap, Monitor, Observation, Topic};
use pipebus_proto::pattern::Pattern;

use crate::args::monitor::Wish;
use crate::failure::Failure;

/// Monitors of several patterns. What has passed first comes first, as far as it is there.
pub(crate) struct Feed {
    parts: Vec<Part>,
}

/// One of the monitors.
struct Part {
    monitor: Monitor,
    /// The patterns before it, whose monitors get the topics that they match as well.
    before: Vec<Pattern>,
    /// What it has to show next.
    next: Option<Observation>,
}

impl Feed {
    pub(crate) async fn start(client: &Client, wishes: Vec<Wish>) -> Result<Feed, Failure> {
        let mut parts: Vec<Part> = Vec::new();
        for wish in wishes {
            let before = parts.iter().map(|part| part.monitor.pattern().clone()).collect();
            let monitor = client.monitor(&wish.pattern, wish.watch).await?;
            parts.push(Part { monitor, before, next: None });
        }
        Ok(Feed { parts })
    }

    /// Cancel safe. `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Observation> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Observation>> {
        let mut ended = 0;
        for part in &mut self.parts {
            if part.poll_fill(context) == Poll::Ready(false) {
                // One that the broker ends is an error; with the others goes only what they have in common.
                if part.monitor.error().is_some() {
                    return Poll::Ready(None);
                }
                ended += 1;
            }
        }
        let all_ended = ended == self.parts.len();
        let waiting = self.parts.iter_mut().filter(|part| part.next.is_some());
        match waiting.min_by_key(|part| part.next.as_ref().map(time)) {
            Some(part) => Poll::Ready(part.next.take()),
            None if all_ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    /// Why the stream has ended.
    pub(crate) fn error(&self) -> Result<(), Failure> {
        match self.parts.iter().find_map(|part| part.monitor.error()) {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}

/// When it was; a gap comes before what is behind it.
fn time(observation: &Observation) -> SystemTime {
    match observation {
        Observation::Record(record) => record.time,
        Observation::Gap(_) => SystemTime::UNIX_EPOCH,
    }
}

impl Part {
    /// Whether there is something to show next; not at the end.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        while self.next.is_none() {
            let next = pin!(self.monitor.next()).poll(context);
            match next {
                Poll::Ready(Some(observation)) if self.is_shown_before(&observation) => {}
                Poll::Ready(Some(observation)) => self.next = Some(observation),
                Poll::Ready(None) => return Poll::Ready(false),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(true)
    }

    /// Whether a monitor before it gets the same, and shows it.
    fn is_shown_before(&self, observation: &Observation) -> bool {
        let matches = |topic: &Topic| self.before.iter().any(|pattern| pattern.matches(topic));
        match observation {
            Observation::Record(record) => matches(&record.topic),
            Observation::Gap(Gap { topic: Some(topic), .. }) => matches(topic),
            // All monitors are told.
            Observation::Gap(Gap { topic: None, .. }) => !self.before.is_empty(),
        }
    }
}
