//! Ingress: what one client sends, held against what it may say, and where it goes.

use std::collections::BTreeSet;
use std::sync::Arc;

use pipebus_proto::control::{Purpose, Reason};
use pipebus_proto::frame::{Call, Kind, Malformed, Part};
use pipebus_proto::splitter::Span;
use pipebus_proto::topic::{InstanceId, Topic, TopicId};
use pipebus_proto::wire::decode_metadata;

use crate::core::limits::Limit;
use crate::core::refused::Refused;
use crate::core::routes::{Route, Routes};

/// The state of what one client sends.
#[derive(Debug)]
pub struct Ingress<T> {
    id: InstanceId,
    /// The version of the policy by which `declared` was looked up.
    version: u32,
    /// The last sequence number.
    sequence: u64,
    unfinished: Option<Box<Unfinished<T>>>,
    /// What the client has declared and may do, as far as it has been looked up.
    declared: BTreeSet<(TopicId, Purpose)>,
}

/// A message of which fragments are still to come.
#[derive(Debug)]
struct Unfinished<T> {
    kind: Kind,
    topic: TopicId,
    sequence: u64,
    bytes: u64,
    way: Way<T>,
}

/// Where a message goes.
#[derive(Clone, Debug)]
pub enum Way<T> {
    /// To all who subscribed when it began: who comes in the middle gets none of it, who goes still gets its end.
    Subscribers(Arc<Route<T>>),
    /// To this server, which is to answer it.
    Server(T, Call),
    /// A request that nobody takes; the requester has been told why.
    Unserved,
    /// To the broker itself, which answers on this topic.
    Broker(Topic, Call),
    /// Back to the requester.
    Requester(T, Call),
    /// To nobody.
    Nowhere,
}

/// What an instance has said of a topic, and what has become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Undeclared,
    /// It sends there.
    Declared,
    /// It may not any more, and has been told so; it may not have heard yet.
    Revoked,
}

/// Who is to answer a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Server<T> {
    /// The broker itself.
    Broker(Topic),
    /// This instance.
    Instance(InstanceId, T),
}

/// What is asked of the bus: rarely, and not for most messages.
pub trait Exchange<T> {
    /// What `from` has said of `topic`.
    fn standing(&self, from: InstanceId, topic: TopicId, purpose: Purpose) -> Standing;
    /// Who is to answer a request; if nobody will, the requester has been told.
    fn server(&self, topic: TopicId, call: Call) -> Option<Server<T>>;
    /// Where the answer of `from` goes; nowhere if it is not the one to give it.
    fn requester(&self, call: Call, topic: TopicId, from: InstanceId) -> Option<T>;
    /// The request is answered.
    fn answered(&self, call: Call);
    /// `instance` has reached a limit.
    fn reached(&self, instance: InstanceId, limit: Limit);
}

impl<T: Clone> Ingress<T> {
    /// Of a client that has sent nothing yet.
    pub fn new(id: InstanceId) -> Ingress<T> {
        Ingress { id, version: 0, sequence: 0, unfinished: None, declared: BTreeSet::new() }
    }

    /// Whose frames these are.
    pub fn id(&self) -> InstanceId {
        self.id
    }

    /// The client has retracted a topic.
    pub fn retract(&mut self, topic: TopicId) {
        self.declared.retain(|(declared, _)| *declared != topic);
    }

    /// Whether what a span says is so, and where its messages go: decided at the beginning of a message, and kept for
    /// its fragments. `body_bytes` are those of its only or largest frame, which may not have been read.
    ///
    /// # Errors
    /// The client broke the protocol, or its message is larger than it may be.
    pub fn admit(
        &mut self,
        span: &Span,
        body_bytes: usize,
        routes: &Routes<T>,
        bus: &impl Exchange<T>,
    ) -> Result<Way<T>, Refused> {
        self.verify(span)?;
        let max = routes.message_bytes_max();
        if let Some(message) = &mut self.unfinished {
            message.bytes += body_bytes as u64;
            if message.bytes > max {
                bus.reached(self.id, Limit::MessageBytes);
                let text = format!("a message is larger than limits.message_bytes_max, {max} bytes");
                return Err(Refused::new(Reason::TooLarge, text));
            }
            let way = message.way.clone();
            if span.part == Part::Last {
                self.unfinished = None;
            }
            return Ok(way);
        }
        let way = match span.kind {
            Kind::Request => self.way_of_request(span, routes, bus)?,
            Kind::Reply => self.way_of_reply(span, bus)?,
            Kind::Message | Kind::Control | Kind::Record => {
                match self.look_up(span.topic, Purpose::Publish, routes, bus)? {
                    Standing::Declared => routes.get(span.topic).cloned().map_or(Way::Nowhere, Way::Subscribers),
                    _ => Way::Nowhere,
                }
            }
        };
        if span.part == Part::First {
            // The broker answers at once, whatever else the request says.
            let later = if let Way::Broker(..) = way { Way::Nowhere } else { way.clone() };
            let (kind, topic, sequence) = (span.kind, span.topic, span.first);
            let bytes = body_bytes as u64;
            self.unfinished = Some(Box::new(Unfinished { kind, topic, sequence, bytes, way: later }));
        }
        Ok(way)
    }

    /// Checks what the client says of itself: its id, its count, and the order of its fragments.
    fn verify(&mut self, span: &Span) -> Result<(), Malformed> {
        if span.kind == Kind::Record {
            return Err(Malformed::BrokersOwn(span.kind));
        }
        if span.sender != self.id {
            return Err(Malformed::Sender { claimed: span.sender, own: self.id });
        }
        match &self.unfinished {
            None if span.part.begins() => {
                let before = self.sequence;
                if span.first != before + 1 || span.last - span.first + 1 != u64::from(span.frames) {
                    return Err(Malformed::Sequence { before, found: span.first });
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

    fn way_of_request(&mut self, span: &Span, routes: &Routes<T>, bus: &impl Exchange<T>) -> Result<Way<T>, Refused> {
        // Whether it may still ask is the bus's to say, which tells the requester if not.
        let standing = self.look_up(span.topic, Purpose::Request, routes, bus)?;
        let call = call_of(span)?;
        if call.requester != self.id {
            return Err(Malformed::Sender { claimed: call.requester, own: self.id }.into());
        }
        Ok(match bus.server(span.topic, call) {
            Some(Server::Instance(_, server)) => Way::Server(server, call),
            Some(Server::Broker(topic)) => Way::Broker(topic, call),
            None if standing == Standing::Declared => Way::Unserved,
            None => Way::Nowhere,
        })
    }

    fn way_of_reply(&self, span: &Span, bus: &impl Exchange<T>) -> Result<Way<T>, Refused> {
        let call = call_of(span)?;
        // Nobody waits for it any more, or never has: both are the same from here, and neither harms anybody.
        let Some(requester) = bus.requester(call, span.topic, self.id) else { return Ok(Way::Nowhere) };
        if span.part == Part::First {
            bus.answered(call);
        }
        Ok(Way::Requester(requester, call))
    }

    fn look_up(
        &mut self,
        topic: TopicId,
        purpose: Purpose,
        routes: &Routes<T>,
        bus: &impl Exchange<T>,
    ) -> Result<Standing, Refused> {
        if self.version != routes.version() {
            self.version = routes.version();
            self.declared.clear();
        }
        if self.declared.contains(&(topic, purpose)) {
            return Ok(Standing::Declared);
        }
        let standing = bus.standing(self.id, topic, purpose);
        match standing {
            Standing::Declared => drop(self.declared.insert((topic, purpose))),
            Standing::Revoked => {}
            Standing::Undeclared => {
                let text = format!("topic id {} was not declared for that by this client", topic.0);
                return Err(Refused::new(Reason::Protocol, text));
            }
        }
        Ok(standing)
    }
}

fn call_of(span: &Span) -> Result<Call, Refused> {
    let frame = span.iter().next();
    let metadata = frame.and_then(|frame| decode_metadata(frame.metadata()).ok());
    metadata.and_then(|metadata| metadata.call).ok_or_else(|| Malformed::Body.into())
}
