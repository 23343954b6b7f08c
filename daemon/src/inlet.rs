//! Inlet: where one client's frames come in, are held against what the client may say, and go their way.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use pipebus_proto::control::{Control, Overflow, Purpose, Reason, Regarding};
use pipebus_proto::frame::{Call, HEAD_BYTES, Kind, Malformed, Part};
use pipebus_proto::splitter::{Span, begun_frame, next_span};
use pipebus_proto::topic::{InstanceId, TopicId};
use pipebus_proto::wire::{decode_control, decode_metadata};
use tracing::{debug, trace};

use crate::admin;
use crate::broker::Broker;
use crate::core::bus::{Refused, Server};
use crate::core::queue::Introductions;
use crate::core::routes::Route;
use crate::delivery::Delivery;
use crate::delivery::gathered::Gathered;
use crate::delivery::large::Large;
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
    pub(crate) id: InstanceId,
    /// The way back to the client.
    pub(crate) outbox: Arc<Outbox>,
    /// A SenderInfo frame about the client, once it has sent a message.
    introduction: Bytes,
    /// The last sequence number.
    sequence: u64,
    unfinished: Option<Box<Unfinished>>,
    /// Of a loaned message that is unfinished.
    loan: Option<Arc<Loan>>,
    /// The client's pipe, once it has been made larger for large frames.
    pipe: Option<Box<relay::Source>>,
    /// What the client has declared, as far as it has been looked up.
    declared: BTreeSet<(TopicId, Purpose)>,
    /// Rests of a span that did not fit somewhere; empty between spans.
    waiting: Vec<(Arc<Outbox>, Span, Overflow)>,
}

/// A message of which fragments are still to come.
struct Unfinished {
    kind: Kind,
    topic: TopicId,
    sequence: u64,
    bytes: u64,
    way: Way,
}

/// Where a message goes.
#[derive(Clone)]
enum Way {
    /// To all who subscribed when it began: who comes in the middle gets none of it, who goes still gets its end.
    Subscribers(Arc<Route<Arc<Outbox>>>),
    /// To this server, which is to answer it.
    Server(Arc<Outbox>, Call),
    /// Back to the requester.
    Requester(Arc<Outbox>, Call),
    /// To nobody.
    Nowhere,
}

impl Inlet {
    pub(crate) fn new(broker: Arc<Broker>, id: InstanceId, outbox: Arc<Outbox>) -> Inlet {
        Inlet {
            broker,
            id,
            outbox,
            introduction: Bytes::new(),
            sequence: 0,
            unfinished: None,
            loan: None,
            pipe: None,
            declared: BTreeSet::new(),
            waiting: Vec::new(),
        }
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
        let mut turn = self.turn();
        self.count_read(bytes_read);
        loop {
            while let Some(span) = next_span(buffer.bytes()).map_err(protocol)? {
                if span.kind != Kind::Control {
                    buffer.read_one_by_one(span.bytes.len() >= span.frames as usize * relay::PAGES_BYTES_MIN);
                }
                if !self.handle(span).await? {
                    return Ok(false);
                }
            }
            let more = self.take_in_large(buffer, reader).await?;
            // Whoever floods the broker shares its thread with others.
            if self.turn() > turn {
                turn = self.turn();
                tokio::task::yield_now().await;
            }
            if !more {
                return Ok(true);
            }
        }
    }

    /// Obeys a control frame or sends messages on their way; `false` once the client has said goodbye.
    async fn handle(&mut self, span: Span) -> Result<bool, Refused> {
        if span.kind == Kind::Control {
            return Ok(self.handle_control(&span));
        }
        self.verify(&span).map_err(protocol)?;
        let way = self.way(&span, span.bytes.len() - HEAD_BYTES).await?;
        // Nobody gets its pages: it is released as soon as it is in the queues.
        let _loan = self.loan_of(&span);
        self.outbox.counters.messages_in.add(span.messages());
        let (instance, topic) = (self.id.0, span.topic.0);
        trace!(instance, topic, frames = span.frames, bytes = span.bytes.len(), "routing");
        match way {
            Way::Subscribers(route) => {
                let mut delivery = self.delivery(&route);
                delivery.deliver(span);
                if !delivery.waiting.is_empty() {
                    Box::pin(delivery.wait()).await;
                }
            }
            Way::Server(server, call) => Box::pin(self.ask(span, &server, call)).await,
            Way::Requester(requester, call) => Box::pin(self.reply(span, &requester, call)).await,
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
        self.verify(span).map_err(protocol)?;
        let way = self.way(span, gathered.frame_bytes() - HEAD_BYTES).await?;
        let loan = self.loan_of(span);
        self.outbox.counters.bytes_in.add(gathered.taken as u64);
        self.outbox.counters.messages_in.add(span.messages());
        trace!(instance = self.id.0, topic = span.topic.0, frames = span.frames, bytes = gathered.bytes(), "moving");
        buffer.read_one_by_one(true);
        let Way::Subscribers(route) = way else {
            relay::discard(gathered.pipe(), gathered.bytes());
            gathered.end(buffer.bytes());
            return Ok(true);
        };
        let own = self.outbox.clone();
        let large = Large { gathered: &gathered, loan: loan.as_ref(), owner: &own.owner };
        let mut delivery = self.delivery(&route);
        if let Some(laggards) = delivery.deliver_large(large) {
            Box::pin(delivery.catch_up(laggards)).await;
        }
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
            self.loan = span.loaned.then(|| Arc::new(Loan::new(self.id, span.first..=span.last, self.outbox.clone())));
        }
        if span.part.ends() { self.loan.take() } else { self.loan.clone() }
    }

    fn delivery<'a>(&'a mut self, route: &'a Route<Arc<Outbox>>) -> Delivery<'a> {
        let names = Introductions { topic: &route.introduction, sender: &self.introduction };
        Delivery { targets: &route.targets, names, waiting: &mut self.waiting }
    }

    fn handle_control(&mut self, span: &Span) -> bool {
        let body = span.iter().next().map(|frame| frame.body).unwrap_or_default();
        let control = match decode_control(&body) {
            Ok(control) => control,
            Err(malformed) => {
                // The frame is whole, so the stream goes on: only this one is refused.
                self.outbox.send(&protocol(malformed).about(Regarding::Connection));
                return true;
            }
        };
        debug!(instance = self.id.0, ?control, "control");
        match control {
            Control::Goodbye { .. } => return false,
            Control::Consumed { sender, sequence } => {
                self.outbox.loans.consumed(sender, sequence);
                return true;
            }
            Control::Retract { topic } => {
                self.declared.retain(|(declared, _)| *declared != topic);
            }
            _ => {}
        }
        self.broker.handle_control(self.id, control);
        true
    }

    /// Checks what the client says of itself: its id, its count, and the order of its fragments.
    fn verify(&mut self, span: &Span) -> Result<(), Malformed> {
        if span.sender != self.id {
            return Err(Malformed::Sender { claimed: span.sender, own: self.id });
        }
        match &mut self.unfinished {
            None if span.part.begins() => {
                let sequence = self.sequence;
                if span.first != sequence + 1 || span.last - span.first + 1 != u64::from(span.frames) {
                    return Err(Malformed::Sequence { before: sequence, found: span.first });
                }
                if self.introduction.is_empty() {
                    self.introduction = self.broker.introduce(self.id);
                }
                self.sequence = span.last;
                Ok(())
            }
            Some(message) if !span.part.begins() => {
                let same = (message.kind, message.topic, message.sequence);
                if same == (span.kind, span.topic, span.first) { Ok(()) } else { Err(Malformed::Fragment) }
            }
            _ => Err(Malformed::Fragment),
        }
    }

    /// Where the span's message goes: decided at its beginning, kept for its fragments.
    async fn way(&mut self, span: &Span, body_bytes: usize) -> Result<Way, Refused> {
        let max = self.broker.config.limits().message_bytes_max;
        if let Some(message) = &mut self.unfinished {
            message.bytes += body_bytes as u64;
            if message.bytes > max {
                let text = format!("a message is larger than the limit of {max} bytes");
                return Err(Refused::new(Reason::TooLarge, text));
            }
            let way = message.way.clone();
            if span.part == Part::Last {
                self.unfinished = None;
            }
            return Ok(way);
        }
        let way = match span.kind {
            // What happens seldom is in a box: otherwise each instance would have room for it all the time.
            Kind::Request => Box::pin(self.way_of_request(span)).await?,
            Kind::Reply => self.way_of_reply(span)?,
            Kind::Message | Kind::Control => {
                self.check_declared(span.topic, Purpose::Publish)?;
                self.broker.routes().get(span.topic).cloned().map_or(Way::Nowhere, Way::Subscribers)
            }
        };
        if span.part == Part::First {
            let (kind, topic, sequence) = (span.kind, span.topic, span.first);
            let bytes = body_bytes as u64;
            self.unfinished = Some(Box::new(Unfinished { kind, topic, sequence, bytes, way: way.clone() }));
        }
        Ok(way)
    }

    async fn way_of_request(&mut self, span: &Span) -> Result<Way, Refused> {
        self.check_declared(span.topic, Purpose::Request)?;
        let call = call_of(span)?;
        if call.requester != self.id {
            return Err(protocol(Malformed::Sender { claimed: call.requester, own: self.id }));
        }
        match self.broker.handle_request(span.topic, call) {
            Some(Server::Instance(_, server)) => Ok(Way::Server(server, call)),
            Some(Server::Broker(topic)) => {
                admin::answer(&self.broker, &topic, span.topic, call, &self.outbox).await;
                Ok(Way::Nowhere)
            }
            None => Ok(Way::Nowhere),
        }
    }

    fn way_of_reply(&self, span: &Span) -> Result<Way, Refused> {
        let call = call_of(span)?;
        // Nobody waits for it any more, or never has: both are the same from here, and neither harms anybody.
        let Some(requester) = self.broker.requester(call, span.topic, self.id) else { return Ok(Way::Nowhere) };
        if span.part == Part::First {
            self.broker.handle_answered(call);
        }
        Ok(Way::Requester(requester, call))
    }

    fn check_declared(&mut self, topic: TopicId, purpose: Purpose) -> Result<(), Refused> {
        if self.declared.contains(&(topic, purpose)) {
            return Ok(());
        }
        if !self.broker.may_send(self.id, topic, purpose) {
            let text = format!("topic id {} was not declared for that by this client", topic.0);
            return Err(Refused::new(Reason::Protocol, text));
        }
        self.declared.insert((topic, purpose));
        Ok(())
    }

    async fn ask(&mut self, span: Span, server: &Outbox, call: Call) {
        let introduction = self.broker.routes().get(span.topic).map(|route| route.introduction.clone());
        let topic = introduction.unwrap_or_default();
        let names = Introductions { topic: &topic, sender: &self.introduction };
        if server.push_waiting(span, Overflow::Block, names).await > 0 {
            self.broker.handle_unheard(call);
        }
    }

    async fn reply(&mut self, span: Span, requester: &Outbox, call: Call) {
        let ends = span.part == Part::Whole;
        let names = Introductions { topic: &Bytes::new(), sender: &self.introduction };
        requester.push_waiting(span, Overflow::Block, names).await;
        if ends {
            self.broker.handle_answered(call);
        }
    }
}

fn call_of(span: &Span) -> Result<Call, Refused> {
    let frame = span.iter().next();
    let metadata = frame.and_then(|frame| decode_metadata(frame.metadata()).ok());
    metadata.and_then(|metadata| metadata.call).ok_or_else(|| protocol(Malformed::Body))
}

/// The client broke the protocol.
pub(crate) fn protocol(malformed: Malformed) -> Refused {
    Refused::new(Reason::Protocol, malformed.to_string())
}
