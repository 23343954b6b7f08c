//! Inlet: where one client's frames come in, are held against what the client may say, and go their way.

use std::sync::Arc;
use std::time::{self, Duration};

use bytes::Bytes;
use pipebus_proto::control::{Control, Overflow, Regarding};
use pipebus_proto::frame::{Call, HEAD_BYTES, Kind, Part};
use pipebus_proto::splitter::{Span, begun_frame, next_span};
use pipebus_proto::topic::InstanceId;
use pipebus_proto::wire::decode_control;
use tokio::time::Instant;
use tracing::{debug, trace};

use crate::admin;
use crate::broker::Broker;
use crate::core::ingress::{Exchange, Ingress, Way};
use crate::core::queue::{Introductions, Pushed};
use crate::core::records::Passage;
use crate::core::refused::Refused;
use crate::core::routes::Route;
use crate::delivery::Delivery;
use crate::delivery::gathered::Gathered;
use crate::delivery::large::Large;
use crate::delivery::watched::Watched;
use crate::loans::Loan;
use crate::outbox::Outbox;
use crate::read_buffer::ReadBuffer;
use crate::relay;
use crate::transport::Reader;

/// After so much from one client others on its thread have their turn, and after what goes together with it.
const TURN_BYTES_MAX: u64 = 256 * 1024;

/// Where one client's frames come in.
pub(crate) struct Inlet {
    pub(crate) broker: Arc<Broker>,
    /// The way back to the client.
    pub(crate) outbox: Arc<Outbox>,
    /// A SenderInfo frame about the client, once it has sent a message.
    introduction: Bytes,
    ingress: Ingress<Arc<Outbox>>,
    /// Of a loaned message that is unfinished.
    loan: Option<Arc<Loan>>,
    /// The client's pipe, once it has been made larger for large frames.
    pipe: Option<Box<relay::Source>>,
    /// Rests of a span that did not fit somewhere; empty between spans.
    waiting: Vec<(Arc<Outbox>, Span, Overflow)>,
}

impl Inlet {
    pub(crate) fn new(broker: Arc<Broker>, id: InstanceId, outbox: Arc<Outbox>) -> Inlet {
        Inlet {
            broker,
            outbox,
            introduction: Bytes::new(),
            ingress: Ingress::new(id),
            loan: None,
            pipe: None,
            waiting: Vec::new(),
        }
    }

    /// Whose frames these are.
    pub(crate) fn id(&self) -> InstanceId {
        self.ingress.id()
    }

    fn count_read(&mut self, bytes: usize) {
        self.outbox.counters.bytes_in.add(bytes as u64);
        if let Some(pipe) = &mut self.pipe {
            pipe.taken(bytes);
        }
    }

    /// How many bytes have been read from the client so far.
    pub(crate) fn bytes_in(&self) -> u64 {
        self.outbox.counters.bytes_in.read()
    }

    /// Which turn on its thread the client has.
    fn turn(&self) -> u64 {
        self.bytes_in() / TURN_BYTES_MAX
    }

    /// Takes in all whole frames in the buffer, to which so many bytes have come, and large ones that are whole in the
    /// pipe; `false` once the client has said goodbye.
    pub(crate) async fn take_in(
        &mut self,
        bytes_read: usize,
        buffer: &mut ReadBuffer,
        reader: &Reader,
    ) -> Result<bool, Refused> {
        let mut arrived = buffer.arrival();
        let mut has_messages = false;
        let mut turn = self.turn();
        let mut pace = Pace::begin(&self.outbox);
        self.count_read(bytes_read);
        loop {
            while let Some(span) = next_span(buffer.bytes())? {
                self.outbox.counters.controls_in.add(u64::from(span.kind == Kind::Control));
                if span.kind != Kind::Control {
                    has_messages = true;
                    buffer.read_one_by_one(span.bytes.len() >= span.frames as usize * relay::PAGES_BYTES_MIN);
                }
                if !self.handle(span, arrived).await? {
                    return Ok(false);
                }
            }
            let more = self.take_in_large(buffer, reader).await?;
            if self.outbox.account.has_rate() {
                Box::pin(pace.keep()).await;
            }
            // Whoever floods the broker shares its thread with others.
            if self.turn() > turn {
                turn = self.turn();
                tokio::task::yield_now().await;
            }
            if !more {
                if has_messages {
                    buffer.count_arrival();
                }
                return Ok(true);
            }
            // What follows came later than that, nobody knows when.
            arrived = None;
        }
    }

    /// Obeys a control frame or sends messages on their way, timed if it is known when they arrived; `false` once the
    /// client has said goodbye.
    async fn handle(&mut self, span: Span, arrived: Option<time::Instant>) -> Result<bool, Refused> {
        if span.kind == Kind::Control {
            return Ok(self.handle_control(&span));
        }
        let way = self.admit(&span, span.bytes.len() - HEAD_BYTES)?;
        // Nobody gets its pages: it is released as soon as it is in the queues.
        let _loan = self.loan_of(&span);
        self.outbox.counters.messages_in.add(span.messages());
        let (instance, topic) = (self.id().0, span.topic.0);
        trace!(instance, topic, frames = span.frames, bytes = span.bytes.len(), "routing");
        self.time(&span, &way, arrived);
        match way {
            Way::Subscribers(route) => {
                let mut delivery = self.delivery(&route);
                delivery.deliver(&span);
                if !delivery.waiting.is_empty() {
                    Box::pin(delivery.wait()).await;
                }
            }
            Way::Server(server, call) => Box::pin(self.ask(span, &server, call)).await,
            Way::Unserved => self.tell_of_unserved(&span),
            Way::Requester(requester, call) => Box::pin(self.reply(span, &requester, call)).await,
            Way::Broker(topic, call) => {
                let question = span.iter().next().filter(|_| span.part == Part::Whole).map(|frame| frame.payload());
                let question = question.unwrap_or_default();
                Box::pin(admin::answer(&self.broker, &topic, &question, span.topic, call, &self.outbox)).await;
            }
            Way::Nowhere => {}
        }
        Ok(true)
    }

    /// Sends large frames on their way of which the first begins in the buffer and the rest is in the pipe; `false` if
    /// there is none, or it has to be read like any other.
    async fn take_in_large(&mut self, buffer: &mut ReadBuffer, reader: &Reader) -> Result<bool, Refused> {
        let Some((span, in_pipe)) = begun_frame(buffer.bytes()) else { return Ok(false) };
        if span.kind != Kind::Message || in_pipe < relay::PAGES_BYTES_MIN {
            return Ok(false);
        }
        let pipe = self.pipe.get_or_insert_with(|| Box::new(relay::Source::of(reader)));
        let gathered = match pipe.has_soon(reader, in_pipe).await {
            true => Gathered::gather(buffer.bytes(), reader, pipe),
            false => Err(0),
        };
        let gathered = match gathered {
            Ok(gathered) => gathered,
            Err(read) => {
                // The pipe may be smaller than it was: whose it is can change that.
                self.pipe = None;
                self.count_read(read);
                buffer.look_first();
                return Ok(false);
            }
        };
        let span = &gathered.span;
        let way = self.admit(span, gathered.frame_bytes() - HEAD_BYTES)?;
        let loan = self.loan_of(span);
        self.outbox.counters.bytes_in.add(gathered.taken as u64);
        self.outbox.counters.messages_in.add(span.messages());
        trace!(instance = self.id().0, topic = span.topic.0, frames = span.frames, bytes = gathered.bytes(), "moving");
        self.time(span, &way, buffer.arrival());
        buffer.count_arrival();
        buffer.read_one_by_one(true);
        let Way::Subscribers(route) = way else {
            relay::discard(gathered.pipe(), gathered.bytes());
            gathered.end(buffer.bytes());
            return Ok(true);
        };
        let own = self.outbox.clone();
        let large = Large { gathered: &gathered, loan: loan.as_ref(), owner: &own.owner };
        let mut delivery = self.delivery(&route);
        let mut watched = Watched::begin(&delivery, &gathered);
        if let Some(laggards) = delivery.deliver_large(large) {
            Box::pin(delivery.catch_up(laggards)).await;
        }
        if let Some(watched) = &mut watched {
            delivery.end(&mut watched.passage);
        }
        drop(watched);
        // Before waiting: what waits are copies.
        gathered.end(buffer.bytes());
        drop(loan);
        if !delivery.waiting.is_empty() {
            Box::pin(delivery.wait()).await;
        }
        Ok(true)
    }

    /// The loan that a frame belongs to, until its message ends.
    fn loan_of(&mut self, span: &Span) -> Option<Arc<Loan>> {
        if span.part.begins() {
            self.loan =
                span.loaned.then(|| Arc::new(Loan::new(self.id(), span.first..=span.last, self.outbox.clone())));
        }
        if span.part.ends() { self.loan.take() } else { self.loan.clone() }
    }

    /// Lets everybody who gets a span tell how long its last message took to get there.
    fn time(&self, span: &Span, way: &Way<Arc<Outbox>>, arrived: Option<time::Instant>) {
        let Some(arrived) = arrived else { return };
        let time = |to: &Outbox| to.time(span, arrived, &self.broker.latency);
        match way {
            Way::Subscribers(route) => route.targets.iter().for_each(|target| time(&target.to)),
            Way::Server(to, _) | Way::Requester(to, _) => time(to),
            Way::Broker(..) | Way::Unserved | Way::Nowhere => {}
        }
    }

    fn delivery<'a>(&'a mut self, route: &'a Route<Arc<Outbox>>) -> Delivery<'a> {
        let names = Introductions { topic: &route.introduction, sender: &self.introduction };
        Delivery { broker: &self.broker, route, names, waiting: &mut self.waiting, dropped: Vec::new() }
    }

    fn handle_control(&mut self, span: &Span) -> bool {
        let body = span.iter().next().map(|frame| frame.body).unwrap_or_default();
        self.observe(&body);
        let control = match decode_control(&body) {
            Ok(control) => control,
            Err(malformed) => {
                // The frame is whole, so the stream goes on: only this one is refused.
                self.broker.say(&self.outbox, &Refused::from(malformed).about(Regarding::Connection));
                return true;
            }
        };
        debug!(instance = self.id().0, ?control, "control");
        match control {
            Control::Goodbye { .. } => return false,
            Control::Consumed { sender, sequence } => {
                self.outbox.loans.consumed(sender, sequence);
                return true;
            }
            Control::Retract { topic } => self.ingress.retract(topic),
            _ => {}
        }
        self.broker.handle_control(self.id(), control);
        true
    }

    /// Those who watch are told what the client says in a control frame with this body.
    pub(crate) fn observe(&mut self, body: &[u8]) {
        if let Some(route) = self.broker.watched_control() {
            let introduction = self.introduction().clone();
            self.broker.observe_heard(&route, self.id(), &introduction, body);
        }
    }

    fn introduction(&mut self) -> &Bytes {
        if self.introduction.is_empty() {
            self.introduction = self.broker.introduce(self.id());
        }
        &self.introduction
    }

    /// Where the span's message goes, if the client may send it.
    fn admit(&mut self, span: &Span, body_bytes: usize) -> Result<Way<Arc<Outbox>>, Refused> {
        let way = self.ingress.admit(span, body_bytes, &self.broker.routes(), &*self.broker)?;
        self.introduction();
        Ok(way)
    }

    /// Whoever owes time for what its user has sent before waits.
    pub(crate) async fn keep_rate_from_before(&self) {
        if self.outbox.account.has_rate() {
            Pace::begin(&self.outbox).keep().await;
        }
    }

    async fn ask(&mut self, span: Span, server: &Outbox, call: Call) {
        let introduction = self.broker.routes().get(span.topic).map(|route| route.introduction.clone());
        if self.hand_over(span, server, &introduction.unwrap_or_default()).await > 0 {
            self.broker.handle_unheard(call);
        }
    }

    async fn reply(&mut self, span: Span, requester: &Outbox, call: Call) {
        let ends = span.part == Part::Whole;
        self.hand_over(span, requester, &Bytes::new()).await;
        if ends {
            self.broker.answered(call);
        }
    }

    /// Gives a request or a reply to the one who gets it, waiting for room. Returns the messages dropped.
    async fn hand_over(&mut self, span: Span, to: &Outbox, topic: &Bytes) -> u64 {
        let names = Introductions { topic, sender: &self.introduction };
        let watched = self.broker.watched(span.topic);
        let watched = watched.map(|route| (route, span.clone(), Passage::begin(1, to.instance())));
        let pushed = to.push(span, Overflow::Block, names);
        if let Some((route, span, mut passage)) = watched {
            match &pushed {
                Pushed::Full(rest) => passage.waiting.push(rest.first),
                Pushed::Dropped { messages } => passage.dropped.push(*messages),
                Pushed::Queued | Pushed::Disconnect => {}
            }
            self.broker.tell(&route, &self.introduction, span.look(), &passage);
        }
        match pushed {
            Pushed::Full(rest) => to.push_waiting(rest, Overflow::Block, names).await,
            Pushed::Dropped { messages } => messages,
            Pushed::Queued | Pushed::Disconnect => 0,
        }
    }

    /// A request that nobody takes has passed, too.
    fn tell_of_unserved(&self, span: &Span) {
        if let Some(route) = self.broker.watched(span.topic) {
            let passage = Passage::begin(0, InstanceId::BROKER);
            self.broker.tell(&route, &self.introduction, span.look(), &passage);
        }
    }
}

/// What a client sends, held against the rate of its user. Dropped, all of it has been charged, whatever became of it.
struct Pace {
    outbox: Arc<Outbox>,
    /// What has been charged so far.
    charged: (u64, u64),
}

impl Pace {
    fn begin(outbox: &Arc<Outbox>) -> Pace {
        Pace { outbox: outbox.clone(), charged: outbox.counters.sent() }
    }

    /// Whoever sends faster than it may is not read for a while. What has been read is on its way.
    async fn keep(&mut self) {
        let wait = self.charge();
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    fn charge(&mut self) -> Duration {
        let sent = self.outbox.counters.sent();
        let (messages, bytes) = (sent.0 - self.charged.0, sent.1 - self.charged.1);
        self.charged = sent;
        self.outbox.account.charge_sent(messages, bytes, Instant::now().into_std())
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        if self.outbox.account.has_rate() {
            self.charge();
        }
    }
}
