//! `pipebus monitor`: every frame that passes on the bus, as text, JSON or a capture.

mod capture;
mod feed;
mod json;
mod pcapng;
mod text;
mod words;

use std::io::{self, IsTerminal};
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pipebus_client::{Gap, Observation, Record};
use pipebus_proto::place::Address;

use self::capture::Capture;
use self::feed::Feed;
use self::text::Text;
use crate::args::monitor::Monitor;
use crate::bus::{report_losses, visit};
use crate::failure::Failure;
use crate::format::push_gap_json;
use crate::interrupt::{Interrupt, LastResort};
use crate::output::{Output, grouped, is_coloured, note};
use crate::subscribe::{CLOSE_WAIT, deadline};
use crate::system::file::create_private;
use crate::system::terminal::output_closed;

/// After so many frames the clock and the signals are looked at.
const BATCH: u64 = 1024;

pub(crate) async fn run(bus: &Address, arguments: &Monitor) -> Result<(), Failure> {
    if is_standard_output(arguments.pcapng.as_deref()) && io::stdout().is_terminal() {
        return Err(Failure::BinaryOnTerminal);
    }
    let client = visit(bus, "monitor").await?;
    let mut interrupt = Interrupt::listen()?;
    let last_resort = LastResort::arm()?;
    let losses = tokio::spawn(report_losses(client.link()));
    let shown = tokio::select! {
        biased;
        () = interrupt.received() => return Ok(()),
        feed = Feed::start(&client, arguments.wishes()) => show(feed?, bus, arguments, &mut interrupt).await,
    };
    drop(last_resort);
    losses.abort();
    // All that can be wrong now is that the broker does not say goodbye in time.
    let _ = tokio::time::timeout(CLOSE_WAIT, client.close()).await;
    shown
}

fn is_standard_output(file: Option<&Path>) -> bool {
    file == Some(Path::new("-"))
}

async fn show(mut feed: Feed, bus: &Address, arguments: &Monitor, interrupt: &mut Interrupt) -> Result<(), Failure> {
    let mut screen = Screen::open(bus, arguments)?;
    let ended = screen.show_all(&mut feed, arguments, interrupt).await;
    let finished = screen.finish();
    note(&screen.summary());
    ended.and(finished)
}

/// Shows frames as they were asked for, and counts them.
struct Screen {
    output: Output,
    form: Form,
    to_stdout: bool,
    count: u64,
    seen: u64,
    lost: u64,
    /// Whether more may have been lost than was counted.
    lost_more: bool,
}

enum Form {
    Text(Text),
    Json,
    Capture(Capture),
}

/// Whether more frames are to be shown.
enum More {
    /// Nobody has looked whether there are.
    Perhaps,
    /// There are none now.
    Later,
    /// None at all.
    Enough,
}

impl Screen {
    fn open(bus: &Address, arguments: &Monitor) -> Result<Screen, Failure> {
        let file = arguments.pcapng.as_deref().filter(|path| *path != Path::new("-"));
        let mut output = match file {
            Some(path) => Output::to_file(create(path)?),
            None => Output::new(),
        };
        let form = match &arguments.pcapng {
            Some(_) => Form::Capture(Capture::begin(&mut output.buffer, bus)),
            None if arguments.json => Form::Json,
            None => Form::Text(Text::new(arguments.payload, is_coloured())),
        };
        let count = arguments.count.unwrap_or(u64::MAX);
        Ok(Screen { output, form, to_stdout: file.is_none(), count, seen: 0, lost: 0, lost_more: false })
    }

    async fn show_all(
        &mut self,
        feed: &mut Feed,
        arguments: &Monitor,
        interrupt: &mut Interrupt,
    ) -> Result<(), Failure> {
        let mut deadline = pin!(deadline(arguments.timeout));
        let mut output_closed = pin!(output_closed());
        loop {
            let more = self.show_waiting(feed)?;
            match more {
                More::Enough => return Ok(()),
                More::Perhaps => {}
                More::Later => self.output.flush()?,
            }
            tokio::select! {
                biased;
                () = interrupt.received() => return Ok(()),
                after = &mut deadline => return self.judge(arguments.count, after),
                () = &mut output_closed, if self.to_stdout => return Err(Failure::OutputClosed),
                // Nothing is to be waited for before what is collected has been written.
                () = std::future::ready(()), if matches!(more, More::Perhaps) => {}
                observation = feed.next() => match observation {
                    Some(observation) => self.show(observation)?,
                    None => return feed.error(),
                },
            }
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
                Poll::Ready(Some(observation)) => self.show(observation)?,
                // At the end, the next call says why.
                Poll::Ready(None) | Poll::Pending => return Ok(More::Later),
            }
        }
        Ok(More::Perhaps)
    }

    fn show(&mut self, observation: Observation) -> Result<(), Failure> {
        match observation {
            Observation::Record(record) => self.show_record(&record),
            Observation::Gap(gap) => self.show_gap(&gap),
        }
        self.output.flush_if_full()
    }

    fn show_record(&mut self, record: &Record) {
        self.seen += 1;
        let buffer = &mut self.output.buffer;
        match &mut self.form {
            Form::Text(text) => text.push_record(buffer, record),
            Form::Json => json::push_record(buffer, record),
            Form::Capture(capture) => capture.push_record(buffer, record),
        }
    }

    fn show_gap(&mut self, gap: &Gap) {
        match gap.messages {
            Some(frames) => self.lost = self.lost.saturating_add(frames),
            None => self.lost_more = true,
        }
        let buffer = &mut self.output.buffer;
        match &mut self.form {
            Form::Text(text) => text.push_gap(buffer, gap),
            Form::Json => push_gap_json(buffer, gap),
            Form::Capture(capture) => capture.note_gap(gap),
        }
    }

    /// What it means that the time is over.
    fn judge(&self, count: Option<u64>, after: Duration) -> Result<(), Failure> {
        match count {
            Some(wanted) if self.seen < wanted => Err(Failure::TooFew { seen: self.seen, wanted, after }),
            _ => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), Failure> {
        if let Form::Capture(capture) = &self.form {
            capture.end(&mut self.output.buffer, self.seen, self.lost);
        }
        self.output.flush()
    }

    fn summary(&self) -> String {
        let lost = match (self.lost, self.lost_more) {
            (0, false) => "none".to_owned(),
            (0, true) => "perhaps some".to_owned(),
            (lost, false) => grouped(lost),
            (lost, true) => format!("{} or more", grouped(lost)),
        };
        let frames = if self.seen == 1 { "frame" } else { "frames" };
        format!("-- {} {frames} seen, {lost} lost", grouped(self.seen))
    }
}

/// What passes on a bus is nobody's but the user's.
fn create(path: &Path) -> Result<std::fs::File, Failure> {
    create_private(path).map_err(|error| Failure::system(format!("write {}", path.display()), error))
}

#[cfg(test)]
mod tests {
    //! Records as tests of the outputs need them.

    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use bytes::Bytes;
    use pipebus_client::{Control, Flags, Head, Identity, InstanceId, Kind, Metadata, Record, Sender, Topic};
    use pipebus_proto::frame::HEAD_BYTES;
    use pipebus_proto::topic::TopicId;
    use pipebus_proto::wire::{encode_control, encode_metadata};

    /// 1970-01-02T03:04:05.006007100Z.
    pub(super) const NANOSECONDS: u64 = 97_445_006_007_100;

    /// Of a message that 12 has sent to three subscribers.
    pub(super) fn message(payload: &[u8]) -> Record {
        record(Kind::Message, "sensors/kitchen/temp", payload, 0)
    }

    /// Of one with metadata.
    pub(super) fn with_metadata(kind: Kind, metadata: &Metadata, payload: &[u8]) -> Record {
        let metadata = encode_metadata(metadata).unwrap();
        record(kind, "lamp/on", &[&metadata[..], payload].concat(), metadata.len())
    }

    /// Of what 12 says to the broker, or the broker to somebody.
    pub(super) fn control(control: &Control, to: Option<u32>) -> Record {
        let mut record = record(Kind::Control, "$bus/control", &encode_control(control)[HEAD_BYTES..], 0);
        record.head = Head { topic: TopicId(0), sender: InstanceId::BROKER, sequence: 0, ..record.head };
        record.subscribers = 0;
        if let Some(to) = to {
            record.to = Some(InstanceId(to));
            record.sender = sender(0, "broker");
        }
        record
    }

    pub(super) fn sender(id: u32, name: &str) -> Arc<Sender> {
        Arc::new(Sender { id: InstanceId(id), identity: Identity::Unix { uid: 1000 }, name: name.to_owned() })
    }

    fn record(kind: Kind, topic: &str, body: &[u8], metadata: usize) -> Record {
        Record {
            time: SystemTime::UNIX_EPOCH + Duration::from_nanos(NANOSECONDS),
            head: Head {
                body: u32::try_from(body.len()).unwrap(),
                kind,
                flags: Flags::NONE,
                metadata: u16::try_from(metadata).unwrap(),
                topic: TopicId(7),
                sender: InstanceId(12),
                sequence: 17,
            },
            topic: Topic::new(topic).unwrap(),
            sender: sender(12, "thermometer"),
            to: None,
            subscribers: 3,
            waiting: 0,
            dropped: 0,
            body: Bytes::copy_from_slice(body),
        }
    }
}
