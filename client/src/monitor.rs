//! Monitors: what passes on the bus, as the broker tells of it: each frame, when, and who got it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_core::Stream;
use pipebus_proto::control::Control;
use pipebus_proto::frame::{Head, Kind, Metadata};
use pipebus_proto::pattern::Pattern;
use pipebus_proto::record::{RECORD_HEAD_BYTES, RecordHead};
use pipebus_proto::topic::{InstanceId, Topic};
use pipebus_proto::wire::{decode_control, decode_metadata};

use crate::client::Handle;
use crate::error::{Error, Result};
use crate::inbox::{Inbox, Item};
use crate::message::Sender;
use crate::run::Run;
use crate::subscription::Gap;

/// What a monitor gets.
#[derive(Clone, Debug)]
pub enum Observation {
    /// A frame that has passed.
    Record(Record),
    /// Records were lost here.
    Gap(Gap),
}

/// One frame that the broker has passed.
///
/// Messages of more than 256 KiB are several frames, each with a record of its own; see [`Head::part`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When the broker had all of it, before anybody got it. Records of different senders may come in another order.
    pub time: SystemTime,
    /// The frame's head, as it was. That of a control frame has neither topic nor sender.
    pub head: Head,
    /// What it was sent to; control frames are recorded on [`CONTROL_TOPIC`](crate::CONTROL_TOPIC).
    pub topic: Topic,
    /// Who sent it; the broker, if it is a control frame to a client.
    pub sender: Arc<Sender>,
    /// Which instance it went to, if it is a request, a reply or a control frame of the broker that went to somebody.
    pub to: Option<InstanceId>,
    /// How many instances it was given to.
    pub subscribers: u32,
    /// How many of them had no room for it at once, so that its sender waits.
    pub waiting: u32,
    /// Messages that overflow policies dropped at once for this delivery: this one for some, or older ones.
    pub dropped: u32,
    /// What was captured of the frame's body: metadata, then payload. A slice of what was read from the pipe.
    pub body: Bytes,
}

impl Record {
    /// What was captured of the payload.
    pub fn payload(&self) -> &[u8] {
        self.body.get(usize::from(self.head.metadata)..).unwrap_or_default()
    }

    /// The metadata: the call of a request or a reply, and headers. `None` if not all of it was captured, or if the
    /// sender put something else there.
    pub fn metadata(&self) -> Option<Metadata> {
        match self.body.get(..usize::from(self.head.metadata))? {
            [] => Some(Metadata::default()),
            bytes => decode_metadata(bytes).ok(),
        }
    }

    /// Whether the body was longer than what was captured.
    pub fn is_cut(&self) -> bool {
        self.body.len() < self.head.body as usize
    }

    /// What a control frame says. `None` if it is none, was not captured whole, or can't be read.
    pub fn control(&self) -> Option<Control> {
        if self.head.kind != Kind::Control || self.is_cut() { None } else { decode_control(&self.body).ok() }
    }

    /// `None` if it is no record.
    fn of(run: &Run, head: &Head, frame: &Bytes) -> Option<Record> {
        let (record, _) = RecordHead::decode(frame).ok()?;
        Some(Record {
            time: SystemTime::UNIX_EPOCH + Duration::from_nanos(record.time),
            head: record.observed(head),
            topic: run.topic().clone(),
            sender: run.sender().clone(),
            to: Some(record.to).filter(|to| *to != InstanceId::BROKER),
            subscribers: record.subscribers,
            waiting: record.waiting,
            dropped: record.dropped,
            body: frame.slice(RECORD_HEAD_BYTES..),
        })
    }
}

/// The records of what passes on the topics that match a pattern; from [`Client::monitor`](crate::Client::monitor).
///
/// A [`Stream`] of [`Observation`]; [`Monitor::next`] serves where streams are not wanted. Ends when the client is closed,
/// or the broker no longer lets it monitor; see [`Monitor::error`]. Dropped, it monitors no more.
///
/// Nobody waits for a monitor: what it has no room for is lost, and a gap says how many. As a
/// [`Subscription`](crate::Subscription), one that is not read holds up all else that comes to its client.
#[derive(Debug)]
pub struct Monitor {
    pub(crate) handle: Arc<Handle>,
    pub(crate) number: u32,
    pub(crate) pattern: Pattern,
    pub(crate) inbox: Arc<Inbox>,
    /// Records that [`Monitor::next`] has begun to take.
    pub(crate) current: Option<Run>,
}

impl Monitor {
    /// The next record or gap; `None` at the end.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Observation> {
        std::future::poll_fn(|context| self.poll_observation(context)).await
    }

    /// The pattern.
    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// Why the stream ended, if not because the client was closed.
    pub fn error(&self) -> Option<Error> {
        self.inbox.error()
    }

    /// Ends it and waits until the broker has confirmed that.
    ///
    /// # Errors
    /// The connection is lost, in which case it has ended as well.
    pub async fn stop(self) -> Result<()> {
        self.handle.shared.unsubscribe(self.number).await
    }

    fn poll_observation(&mut self, context: &mut Context<'_>) -> Poll<Option<Observation>> {
        loop {
            if let Some(run) = &mut self.current {
                // What is no record, though it came as one, says nothing that could be passed on.
                while let Some((head, frame)) = run.next_frame() {
                    if let Some(record) = Record::of(run, &head, &frame) {
                        return Poll::Ready(Some(Observation::Record(record)));
                    }
                }
            }
            self.current = None;
            match std::task::ready!(self.inbox.poll_pop(context)) {
                Some(Item::Run(run)) => self.current = Some(run),
                Some(Item::Gap(gap)) => return Poll::Ready(Some(Observation::Gap(gap))),
                // Requests go to servers.
                Some(Item::Request { .. }) => {}
                None => return Poll::Ready(None),
            }
        }
    }
}

impl Stream for Monitor {
    type Item = Observation;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Observation>> {
        self.poll_observation(context)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.handle.shared.forget_subscription(self.number);
    }
}
