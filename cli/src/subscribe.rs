//! `pipebus sub`: what is published to the topics that match, on the standard output.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Style};
use pipebus_client::{Arrival, Client, Gap, Run, Subscription, Topic};
use pipebus_proto::pattern::Pattern;
use pipebus_proto::place::Address;

use crate::args::messages::{Format, Subscribe};
use crate::bus::{connect, report_losses, visit};
use crate::failure::Failure;
use crate::format::{gap_text, push_gap_json, push_json, push_text};
use crate::interrupt::{Interrupt, LastResort};
use crate::output::{self, Output, is_coloured, note};
use crate::system::terminal::output_closed;

/// After so many messages the clock and the signals are looked at. More are shown where they arrived together.
const BATCH: u64 = 1024;

/// From this size on a payload is written from where it is.
const UNCOPIED_BYTES_MIN: usize = 64 * 1024;

/// How long leaving the bus may take.
pub(crate) const CLOSE_WAIT: Duration = Duration::from_secs(2);

pub(crate) async fn run(bus: &Address, arguments: &Subscribe) -> Result<(), Failure> {
    // Whoever watches the broker's events may do so also while it drains, and does not hold that up.
    let only_visits = arguments.patterns.iter().all(|pattern| pattern.as_str().starts_with('$'));
    let client = if only_visits { visit(bus, "sub").await? } else { connect(bus, "sub").await? };
    let mut interrupt = Interrupt::listen()?;
    let last_resort = LastResort::arm()?;
    let losses = tokio::spawn(report_losses(client.link()));
    let shown = tokio::select! {
        biased;
        () = interrupt.received() => return Ok(()),
        feed = Feed::subscribe(&client, arguments) => show(feed?, arguments, &mut interrupt).await,
    };
    drop(last_resort);
    losses.abort();
    // All that can be wrong now is that the broker does not say goodbye in time.
    let _ = tokio::time::timeout(CLOSE_WAIT, client.close()).await;
    shown
}

async fn show(mut feed: Feed, arguments: &Subscribe, interrupt: &mut Interrupt) -> Result<(), Failure> {
    let mut screen = Screen::new(arguments);
    let mut deadline = pin!(deadline(arguments.timeout));
    let mut output_closed = pin!(output_closed());
    let ended = loop {
        let more = screen.show_waiting(&mut feed)?;
        match more {
            More::Enough => break Ok(()),
            More::Perhaps => {}
            More::Later => screen.output.flush()?,
        }
        tokio::select! {
            biased;
            () = interrupt.received() => break Ok(()),
            after = &mut deadline => break screen.judge(arguments.count, after),
            // So that `pipebus sub a | head -1` ends without a second message.
            () = &mut output_closed => return Err(Failure::OutputClosed),
            // Nothing is to be waited for before what is collected has been written.
            () = std::future::ready(()), if matches!(more, More::Perhaps) => {}
            arrival = feed.next() => match arrival {
                Some(arrival) => screen.show(arrival)?,
                None => break feed.error(),
            },
        }
    };
    screen.output.flush()?;
    ended
}

pub(crate) async fn deadline(timeout: Option<Duration>) -> Duration {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
    timeout.unwrap_or_default()
}

/// The subscriptions to all patterns as one stream, in which each message comes once.
struct Feed {
    parts: Vec<Part>,
    /// Which part is asked first: the one that had something last.
    current: usize,
}

/// One of the subscriptions.
struct Part {
    subscription: Subscription,
    /// The patterns named before it, which show the topics that they match as well.
    before: Vec<Pattern>,
    /// The last topic, and whether a pattern before shows it: what comes in runs is looked up once.
    last: Option<(Topic, bool)>,
}

impl Feed {
    async fn subscribe(client: &Client, arguments: &Subscribe) -> Result<Feed, Failure> {
        let mut parts: Vec<Part> = Vec::new();
        let mut before: Vec<Pattern> = Vec::new();
        for pattern in &arguments.patterns {
            let subscription = client.subscribe_with(pattern.as_str(), arguments.overflow.into()).await?;
            parts.push(Part { subscription, before: before.clone(), last: None });
            before.push(pattern.clone());
        }
        Ok(Feed { parts, current: 0 })
    }

    /// Cancel safe.
    async fn next(&mut self) -> Option<Arrival> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Arrival>> {
        let mut ended = 0;
        for turn in 0..self.parts.len() {
            let index = (self.current + turn) % self.parts.len();
            match self.parts[index].poll_next(context) {
                Poll::Ready(Some(arrival)) => {
                    self.current = index;
                    return Poll::Ready(Some(arrival));
                }
                // One that the broker ends is an error; with the others goes only what they have in common.
                Poll::Ready(None) if self.parts[index].subscription.error().is_some() => return Poll::Ready(None),
                Poll::Ready(None) => ended += 1,
                Poll::Pending => {}
            }
        }
        if ended == self.parts.len() { Poll::Ready(None) } else { Poll::Pending }
    }

    /// Another part's turn, so that none starves another.
    fn rotate(&mut self) {
        self.current = (self.current + 1) % self.parts.len();
    }

    /// Why the stream has ended.
    fn error(&self) -> Result<(), Failure> {
        match self.parts.iter().find_map(|part| part.subscription.error()) {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}

impl Part {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Arrival>> {
        loop {
            let next = pin!(self.subscription.next_run()).poll(context);
            match &next {
                Poll::Ready(Some(arrival)) if self.is_shown_before(arrival) => {}
                _ => return next,
            }
        }
    }

    /// Whether a pattern named before gets the same, and shows it.
    fn is_shown_before(&mut self, arrival: &Arrival) -> bool {
        if self.before.is_empty() {
            return false;
        }
        let topic = match arrival {
            Arrival::Run(run) => run.topic(),
            Arrival::Gap(Gap { topic: Some(topic), .. }) => topic,
            // All subscriptions are told.
            Arrival::Gap(Gap { topic: None, .. }) => return true,
        };
        match &self.last {
            Some((last, before)) if last == topic => *before,
            _ => {
                let before = self.before.iter().any(|pattern| pattern.matches(topic));
                self.last = Some((topic.clone(), before));
                before
            }
        }
    }
}

/// Shows messages as they were asked for, and counts them.
struct Screen {
    output: Output,
    format: Format,
    style: Style,
    count: u64,
    seen: u64,
}

/// Whether more messages are to be shown.
enum More {
    /// Nobody has looked whether there are.
    Perhaps,
    /// There are none now.
    Later,
    /// None at all.
    Enough,
}

impl Screen {
    fn new(arguments: &Subscribe) -> Screen {
        Screen {
            output: Output::new(),
            format: arguments.format,
            style: output::style(is_coloured(), AnsiColor::Cyan),
            count: arguments.count.unwrap_or(u64::MAX),
            seen: 0,
        }
    }

    /// Shows what is there, up to a bound.
    fn show_waiting(&mut self, feed: &mut Feed) -> Result<More, Failure> {
        let mut context = Context::from_waker(Waker::noop());
        let before = self.seen;
        while self.seen - before < BATCH {
            if self.seen == self.count {
                return Ok(More::Enough);
            }
            match feed.poll_next(&mut context) {
                Poll::Ready(Some(arrival)) => self.show(arrival)?,
                // At the end, the next call says why.
                Poll::Ready(None) | Poll::Pending => return Ok(More::Later),
            }
        }
        feed.rotate();
        Ok(More::Perhaps)
    }

    fn show(&mut self, arrival: Arrival) -> Result<(), Failure> {
        match arrival {
            Arrival::Run(run) => self.show_run(run)?,
            Arrival::Gap(gap) if self.format == Format::Json => push_gap_json(&mut self.output.buffer, &gap),
            Arrival::Gap(gap) => {
                // What came before is to be seen before, where both go to one terminal.
                self.output.flush()?;
                note(&gap_text(&gap));
            }
        }
        self.output.flush_if_full()
    }

    /// Shows the messages, as far as they are asked for.
    fn show_run(&mut self, run: Run) -> Result<(), Failure> {
        let asked = usize::try_from(self.count - self.seen).unwrap_or(usize::MAX);
        self.seen += run.len().min(asked) as u64;
        if self.format == Format::Json {
            for message in run.take(asked) {
                push_json(&mut self.output.buffer, &message);
                self.output.flush_if_full()?;
            }
            return Ok(());
        }
        for message in run.iter().take(asked) {
            self.show_payload(run.topic(), message.payload)?;
            self.output.flush_if_full()?;
        }
        Ok(())
    }

    fn show_payload(&mut self, topic: &Topic, payload: &[u8]) -> Result<(), Failure> {
        let buffer = &mut self.output.buffer;
        if self.format == Format::Text {
            push_text(buffer, topic.as_str(), payload, self.style);
            return Ok(());
        }
        if payload.len() < UNCOPIED_BYTES_MIN {
            buffer.extend_from_slice(payload);
        } else {
            self.output.flush()?;
            output::write(payload)?;
        }
        if self.format == Format::Line {
            self.output.buffer.push(b'\n');
        }
        Ok(())
    }

    /// What it means that the time is over.
    fn judge(&self, count: Option<u64>, after: Duration) -> Result<(), Failure> {
        match count {
            Some(wanted) if self.seen < wanted => Err(Failure::TooFew { seen: self.seen, wanted, after }),
            _ => Ok(()),
        }
    }
}
