//! Routing: what the broker does with what it reads, as its shell does.

use bytes::Bytes;
use pipebus_proto::control::{Control, Overflow, Regarding};
use pipebus_proto::frame::{Call, HEAD_BYTES, Kind, Malformed, Part};
use pipebus_proto::splitter::{Span, next_span};
use pipebus_proto::wire::{decode_control, decode_metadata};
use pipebusd::core::ingress::Way;
use pipebusd::core::queue::Introductions;
use pipebusd::core::records::Passage;
use pipebusd::core::refused::Refused;

use super::choices::Choices;
use super::client::{Arriving, Client, Rest};
use super::down::{Due, Outcome, State};
use super::world::{OpenCall, World};

impl Client {
    /// Whether the broker reads what it sends: not while it waits for room somewhere.
    fn is_read(&self) -> bool {
        self.waiting.is_empty() && !self.down.is_closed
    }
}

impl World {
    /// The broker reads some of what a client has written.
    pub(super) fn take_in(&mut self, id: u32, bytes: usize, choices: &mut Choices) {
        let now = self.now;
        let client = self.client(id);
        if client.is_read() && now >= client.paused_until {
            let read = client.up.split_to(bytes.min(client.up.len()));
            client.uncharged.1 += read.len() as u64;
            client.inbox.extend_from_slice(&read);
            self.go_on(id, choices);
        }
    }

    /// Takes in all whole frames that have been read.
    fn go_on(&mut self, id: u32, choices: &mut Choices) {
        while let Some(client) = self.clients.get_mut(&id).filter(|client| client.is_read()) {
            match next_span(&mut client.inbox) {
                Ok(Some(span)) => self.handle(id, &span, choices),
                Ok(None) => return self.charge(id),
                Err(malformed) => self.refuse(id, malformed.into()),
            }
        }
    }

    /// The client broke the protocol: it is told, and ends.
    fn refuse(&mut self, id: u32, refused: Refused) {
        let client = self.client(id);
        assert!(client.is_hostile, "{id} was refused: {refused}");
        client.down.answer(&refused.about(Regarding::Connection));
        client.down.is_closed = true;
    }

    fn handle(&mut self, id: u32, span: &Span, choices: &mut Choices) {
        self.client(id).uncharged.0 += span.messages();
        if span.kind == Kind::Control {
            return self.handle_control(id, span);
        }
        let client = self.clients.get_mut(&id).unwrap();
        let way = client.ingress.admit(span, span.bytes.len() - HEAD_BYTES, &self.routes, &self.bus);
        let way = match way {
            Ok(way) => way,
            Err(refused) => {
                self.carry_out();
                self.check_too_large(id, span, &refused);
                return self.refuse(id, refused);
            }
        };
        self.check_way(id, span, &way);
        self.note_way(id, span, &way);
        self.carry_out();
        self.expect(id, span, &way);
        match way {
            Way::Subscribers(route) => {
                let mut passage = self.passage(route.targets.len(), 0);
                for target in &route.targets {
                    let rest = Rest::of(span, target.to, target.overflow, &route.introduction, None);
                    self.deliver(id, rest, &mut passage, choices);
                }
                self.tell_of(id, &route, span, &passage, choices);
            }
            Way::Server(to, call) => {
                let introduction = self.routes.get(span.topic).map(|route| route.introduction.clone());
                let rest = Rest::of(span, to, Overflow::Block, &introduction.unwrap_or_default(), Some(call));
                let mut passage = self.passage(1, to);
                self.deliver(id, rest, &mut passage, choices);
                self.tell_of_call(id, span, &passage, choices);
            }
            Way::Requester(to, call) => {
                let mut passage = self.passage(1, to);
                let rest = Rest::of(span, to, Overflow::Block, &Bytes::new(), Some(call));
                self.deliver(id, rest, &mut passage, choices);
                self.tell_of_call(id, span, &passage, choices);
            }
            Way::Unserved => {
                let passage = self.passage(0, 0);
                self.tell_of_call(id, span, &passage, choices);
            }
            Way::Broker(..) | Way::Nowhere => {}
        }
        if choices.happens(200) {
            self.bury(choices);
        }
    }

    fn handle_control(&mut self, id: u32, span: &Span) {
        let body = span.iter().next().unwrap().body;
        self.tell_of_control(id, 0, &body);
        let client = self.client(id);
        let control = match decode_control(&body) {
            Ok(control) => control,
            Err(malformed) => {
                assert!(client.is_hostile && malformed == Malformed::Body);
                let refused = Refused::from(malformed).about(Regarding::Connection);
                self.tell_of_answer(id, &refused);
                return self.client(id).down.answer(&refused);
            }
        };
        match &control {
            Control::Goodbye { .. } => {
                client.down.is_closed = true;
                return;
            }
            Control::Consumed { .. } => return,
            Control::Retract { topic } => {
                client.unheard = client.unheard.saturating_sub(1);
                client.ingress.retract(*topic);
                client.declared.remove(topic);
            }
            Control::Declare { .. } => client.unheard = client.unheard.saturating_sub(1),
            Control::Cancel { correlation } => {
                let call = Call { requester: pipebus_proto::topic::InstanceId(id), correlation: *correlation };
                self.calls.remove(&call);
            }
            _ => {}
        }
        self.tell(id, control);
    }

    /// What has been let in, for the model.
    fn note_way(&mut self, id: u32, span: &Span, way: &Way<u32>) {
        let client = self.clients.get_mut(&id).unwrap();
        if span.part.begins() {
            client.sequence_in = span.last;
            match way {
                Way::Server(server, call) => {
                    let open = OpenCall { topic: span.topic, server: *server };
                    assert!(self.calls.insert(*call, open).is_none(), "it waits for its answer already");
                }
                // Who begins to answer has answered.
                Way::Requester(_, call) if span.part == Part::First => drop(self.calls.remove(call)),
                _ => {}
            }
        }
        let bytes = (span.bytes.len() - HEAD_BYTES) as u64;
        match (span.part, &mut client.arriving) {
            (Part::First, arriving) => {
                *arriving = Some(Arriving { kind: span.kind, topic: span.topic, sequence: span.first, bytes });
            }
            (Part::Middle, Some(arriving)) => arriving.bytes += bytes,
            (_, arriving) => *arriving = None,
        }
    }

    /// Notes what should come.
    fn expect(&mut self, id: u32, span: &Span, way: &Way<u32>) {
        let mut to = match way {
            Way::Subscribers(route) => route.targets.iter().map(|target| (target.to, target.overflow)).collect(),
            Way::Server(to, _) | Way::Requester(to, _) => vec![(*to, Overflow::Block)],
            Way::Unserved | Way::Broker(..) | Way::Nowhere => Vec::new(),
        };
        to.retain(|(to, _)| self.clients.contains_key(to));
        let state = if span.part == Part::Whole { State::Complete } else { State::Begun };
        let (kind, topic) = (span.kind, span.topic);
        let name = self.topics_ever.get(&topic).cloned();
        for (to, overflow) in to {
            let due = &mut self.client(to).down.due;
            for frame in span.iter() {
                let message = (frame.head.sender, frame.head.sequence);
                if span.part.begins() {
                    let name = name.clone().unwrap();
                    let due_now = Due { kind, topic, name, overflow, state, frames: vec![frame] };
                    assert!(due.insert(message, due_now).is_none(), "{id} sends {message:?} twice");
                } else if let Some(due) = due.get_mut(&message) {
                    due.frames.push(frame);
                }
            }
        }
    }

    /// Writes or pushes to one client; what does not fit waits. What becomes of it is noted in its passage.
    fn deliver(&mut self, from: u32, rest: Rest, passage: &mut Passage, choices: &mut Choices) {
        let Some(sender) = self.clients.get(&from).map(|client| client.introduction.clone()) else { return };
        let others_wait = rest.waited || self.clients.values().any(|client| client.waits_for(rest.to));
        let now = self.now;
        // Whoever has left takes nothing, and who is about to no more than it has begun to.
        let Some(to) = self.clients.get_mut(&rest.to).filter(|to| rest.direct || !to.down.is_closed) else {
            return self.end_call(&rest, &Outcome::Done);
        };
        if !rest.waited && !rest.direct {
            to.down.time(&rest.span, now);
        }
        let tries = choices.byte() % 4;
        let direct = rest.direct || (tries > 0 && to.down.begin_direct(&rest.span));
        // Others act before it ends.
        if direct && !rest.direct && tries == 1 && rest.call.is_none() {
            self.client(from).waiting.push(Rest { direct, ..rest });
            return;
        }
        let (call, part, kind) = (rest.call, rest.span.part, rest.span.kind);
        let span = if direct { to.down.end_direct(rest.span, choices, now) } else { Some(rest.span) };
        let names = Introductions { topic: &rest.introduction, sender: &sender };
        let outcome = match span.filter(|_| !to.down.is_closed) {
            Some(span) => to.down.push(span, rest.overflow, names, others_wait, now),
            None => Outcome::Done,
        };
        match outcome {
            Outcome::Waits(span) => {
                passage.waiting.push(span.first);
                let rest = Rest { span, direct: false, waited: true, introduction: rest.introduction, ..rest };
                self.client(from).waiting.push(rest);
            }
            outcome => {
                if let Outcome::Dropped(messages) = outcome {
                    passage.dropped.push(messages);
                }
                self.end_delivery(call, kind, part, &outcome);
            }
        }
    }

    fn end_call(&mut self, rest: &Rest, outcome: &Outcome) {
        self.end_delivery(rest.call, rest.span.kind, rest.span.part, outcome);
    }

    /// All of a span has been pushed, or dropped.
    fn end_delivery(&mut self, call: Option<Call>, kind: Kind, part: Part, outcome: &Outcome) {
        match (call, kind, outcome) {
            (Some(call), Kind::Request, Outcome::Dropped(_)) => {
                self.calls.remove(&call);
                self.bus.0.borrow_mut().handle_unheard(call);
                self.carry_out();
            }
            (Some(call), Kind::Reply, _) if part == Part::Whole => {
                self.calls.remove(&call);
                self.bus.0.borrow_mut().handle_answered(call);
            }
            _ => {}
        }
    }

    /// What did not fit is pushed again; then the broker reads on.
    pub(super) fn retry(&mut self, id: u32, choices: &mut Choices) {
        if self.client(id).waiting.is_empty() {
            return;
        }
        // Those who watch have been told before.
        let mut passage = self.passage(0, 0);
        for rest in std::mem::take(&mut self.client(id).waiting) {
            self.deliver(id, rest, &mut passage, choices);
        }
        if choices.happens(200) {
            self.bury(choices);
        }
        self.go_on(id, choices);
    }

    /// Whoever sends faster than it may is not read for a while.
    fn charge(&mut self, id: u32) {
        let (now, limits) = (self.now, &self.limits);
        let client = self.clients.get_mut(&id).unwrap();
        let (messages, bytes) = std::mem::take(&mut client.uncharged);
        if client.account.has_rate() {
            client.paused_until = now + client.account.charge_sent(messages, bytes, now);
            self.paces.check(client.user, id, (messages, bytes), now, limits.rate_per_user_max);
        }
    }
}

impl Rest {
    fn of(span: &Span, to: u32, overflow: Overflow, introduction: &Bytes, call: Option<Call>) -> Rest {
        let (span, introduction) = (span.clone(), introduction.clone());
        Rest { to, span, overflow, introduction, direct: false, waited: false, call }
    }
}

/// The call that a frame is about, if it says so.
pub(super) fn call_of(span: &Span) -> Option<Call> {
    let frame = span.iter().next()?;
    decode_metadata(frame.metadata()).ok()?.call
}
