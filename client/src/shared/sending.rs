//! Sending: how a message gets from the app to what waits to be written, and what it may have to wait for.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use pipebus_proto::control::{Control, Purpose, Regarding};
use pipebus_proto::frame::{Call, Flags, Kind, Metadata};
use pipebus_proto::topic::{InstanceId, Topic, TopicId};
use tokio::sync::oneshot;

use super::{Phase, Question, Shared, State};
use crate::error::{Error, Result};
use crate::loan::Loan;
use crate::outgoing::{Draft, SHARED_BYTES_MIN};

/// Topics that stay declared though nobody holds a publisher for them.
const IDLE_TOPICS_MAX: usize = 1024;

/// A topic to send to, and its ids in this connection, by purpose; 0 while not declared.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) topic: Topic,
    /// Read and changed under the lock only.
    ids: [AtomicU32; 2],
}

impl Slot {
    fn id(&self, purpose: Purpose) -> Option<TopicId> {
        Some(self.ids[purpose as usize].load(Ordering::Relaxed)).filter(|id| *id != 0).map(TopicId)
    }

    /// The broker's answer.
    pub(super) fn remember(&self, purpose: Purpose, id: TopicId) {
        self.ids[purpose as usize].store(id.0, Ordering::Relaxed);
    }

    /// The broker takes nothing more by this id: it has to be asked anew. `false` if it is another's.
    pub(super) fn revoke(&self, purpose: Purpose, id: TopicId) -> bool {
        let is_own = self.id(purpose) == Some(id);
        if is_own {
            self.ids[purpose as usize].store(0, Ordering::Relaxed);
        }
        is_own
    }

    /// Whether it has no ids.
    pub(super) fn is_unused(&self) -> bool {
        self.ids.iter().all(|id| id.load(Ordering::Relaxed) == 0)
    }

    /// Ids are the connection's.
    pub(super) fn forget(&self) {
        self.ids.iter().for_each(|id| id.store(0, Ordering::Relaxed));
    }
}

/// Where a message is to go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Destination<'a> {
    /// To a topic.
    Topic(&'a Arc<Slot>),
    /// Back to who asked, as long as the connection is the one it asked on.
    Reply { topic: TopicId, connection: u64 },
}

/// What has to be there before a message can be sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lacking {
    Connection,
    Declaration,
    Room,
}

/// What a message needs to be sent.
struct Admitted {
    topic: TopicId,
    client: InstanceId,
    message_bytes_max: u64,
}

impl Admitted {
    fn check(&self, bytes: usize) -> Result<()> {
        let (bytes, max) = (bytes as u64, self.message_bytes_max);
        if bytes > max { Err(Error::TooLarge { bytes, max }) } else { Ok(()) }
    }
}

/// A message of the app's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outbound<'a> {
    pub(crate) kind: Kind,
    pub(crate) flags: Flags,
    pub(crate) headers: &'a [(String, String)],
    /// Of a reply: which request. Of a request: its correlation; the requester is filled in.
    pub(crate) call: Option<Call>,
    pub(crate) payload: &'a Bytes,
}

impl Outbound<'_> {
    fn purpose(&self) -> Purpose {
        if self.kind == Kind::Request { Purpose::Request } else { Purpose::Publish }
    }

    fn metadata(&self, client: InstanceId) -> Result<Vec<u8>> {
        if self.headers.is_empty() && self.call.is_none() {
            return Ok(Vec::new());
        }
        let mut call = self.call;
        if self.kind == Kind::Request
            && let Some(call) = &mut call
        {
            call.requester = client;
        }
        let metadata = Metadata { call, headers: self.headers.to_vec() };
        pipebus_proto::wire::encode_metadata(&metadata).ok_or(Error::Headers)
    }
}

impl Shared {
    /// The slot of a topic.
    pub(crate) fn slot(&self, topic: &str) -> Result<Arc<Slot>> {
        let mut state = self.lock();
        if let Some(slot) = state.slots.get(topic) {
            return Ok(slot.clone());
        }
        let topic = Topic::new(topic)?;
        if state.slots.len() >= IDLE_TOPICS_MAX {
            state.retract_idle();
        }
        let slot = Arc::new(Slot { topic: topic.clone(), ids: Default::default() });
        state.slots.insert(topic, slot.clone());
        Ok(slot)
    }

    /// Publishes a small message if nothing has to be waited for or looked into; `false` if it has to go the other way.
    #[inline]
    pub(crate) fn publish_small(&self, slot: &Slot, payload: &[u8]) -> bool {
        if payload.len() >= SHARED_BYTES_MIN {
            return false;
        }
        let mut state = self.lock();
        let Phase::Up { client, .. } = state.phase else { return false };
        let Some(topic) = slot.id(Purpose::Publish).filter(|_| state.outgoing.has_room()) else { return false };
        state.outgoing.push_small(topic, client, payload);
        let ring = std::mem::take(&mut state.writer_idle);
        drop(state);
        self.ring(ring);
        true
    }

    /// Sends a message, once there is a connection, an id for its topic, and room.
    ///
    /// # Cancel safety
    /// Nothing is sent unless it returns.
    pub(crate) async fn send(&self, destination: Destination<'_>, outbound: Outbound<'_>) -> Result<()> {
        self.wait_until(destination, outbound.purpose(), || self.try_send(destination, outbound)).await
    }

    /// Publishes what is lent, once that is possible.
    ///
    /// # Cancel safety
    /// Nothing is published unless it returns.
    pub(crate) async fn publish_loan(&self, slot: &Arc<Slot>, mut loan: Loan) -> Result<()> {
        let publish = || self.try_publish_loan(slot, &mut loan);
        self.wait_until(Destination::Topic(slot), Purpose::Publish, publish).await
    }

    /// Tries to send until nothing is lacking.
    async fn wait_until(
        &self,
        destination: Destination<'_>,
        purpose: Purpose,
        mut sent: impl FnMut() -> Result<std::result::Result<(), Lacking>>,
    ) -> Result<()> {
        loop {
            // Mostly nothing is lacking, and getting ready to wait costs more than sending.
            let Err(lacking) = sent()? else { return Ok(()) };
            if let (Lacking::Declaration, Destination::Topic(slot)) = (lacking, destination) {
                self.declare(slot, purpose).await?;
                continue;
            }
            let mut room = pin!(self.room.notified());
            room.as_mut().enable();
            // What was lacking may have come before anybody could be told.
            match sent()? {
                Ok(()) => return Ok(()),
                Err(Lacking::Declaration) => {}
                Err(Lacking::Connection | Lacking::Room) => room.await,
            }
        }
    }

    /// Sends a message if nothing has to be waited for; otherwise says what is lacking.
    pub(crate) fn try_send(
        &self,
        destination: Destination<'_>,
        outbound: Outbound<'_>,
    ) -> Result<std::result::Result<(), Lacking>> {
        let tried = self.lock().try_send(destination, outbound)?;
        Ok(tried.map(|ring| self.ring(ring)))
    }

    /// Waits until a message could be published, but for room.
    pub(crate) async fn declare_to_publish(&self, slot: &Arc<Slot>) -> Result<()> {
        let lacking =
            || self.lacking(slot).map(|lacking| lacking.filter(|it| *it != Lacking::Room).map_or(Ok(()), Err));
        self.wait_until(Destination::Topic(slot), Purpose::Publish, lacking).await
    }

    /// What a message to be published would have to wait for.
    pub(crate) fn lacking(&self, slot: &Arc<Slot>) -> Result<Option<Lacking>> {
        Ok(self.lock().admit(Destination::Topic(slot), Purpose::Publish)?.err())
    }

    /// Publishes what is lent if nothing has to be waited for, and leaves nothing then.
    pub(crate) fn try_publish_loan(
        &self,
        slot: &Arc<Slot>,
        loan: &mut Loan,
    ) -> Result<std::result::Result<(), Lacking>> {
        let mut state = self.lock();
        let admitted = match state.admit(Destination::Topic(slot), Purpose::Publish)? {
            Ok(admitted) => admitted,
            Err(lacking) => return Ok(Err(lacking)),
        };
        let bytes = loan.len();
        admitted.check(bytes)?;
        if let Some(pages) = loan.take_pages() {
            state.outgoing.push_loan(admitted.topic, admitted.client, pages, bytes, &self.pool);
        }
        let ring = std::mem::take(&mut state.writer_idle);
        drop(state);
        self.ring(ring);
        Ok(Ok(()))
    }

    /// Answers a request however much waits already: a short answer that must not be forgotten.
    pub(crate) fn reply_now(&self, topic: TopicId, connection: u64, outbound: Outbound<'_>) {
        let mut state = self.lock();
        let Phase::Up { client, .. } = state.phase else { return };
        if state.connection != connection {
            return;
        }
        if let Ok(metadata) = outbound.metadata(client) {
            state.append(topic, client, &metadata, outbound);
            drop(state);
            self.work.notify_one();
        }
    }

    /// Asks the broker for a topic's id. If the connection is lost meanwhile, the caller meets that next.
    async fn declare(&self, slot: &Arc<Slot>, purpose: Purpose) -> Result<()> {
        let Some(answered) = self.lock().ask_to_declare(slot, purpose) else { return Ok(()) };
        self.work.notify_one();
        let _awaiting = self.awaiting_answer();
        match answered.await {
            Ok(Err(Error::Disconnected)) | Err(_) => Ok(()),
            Ok(answer) => answer,
        }
    }

    /// Asks for a topic's id and does not wait for it.
    pub(crate) fn declare_soon(&self, slot: &Arc<Slot>, purpose: Purpose) {
        let mut state = self.lock();
        let asked = |question: &Question| question.slot.as_ref().is_some_and(|(asked, _)| Arc::ptr_eq(asked, slot));
        if !state.questions.values().any(asked) {
            let _ = state.ask_to_declare(slot, purpose);
            drop(state);
            self.work.notify_one();
        }
    }

    pub(super) fn ring(&self, ring: bool) {
        if ring {
            self.work.notify_one();
        }
    }
}

impl State {
    /// Asks for a topic's id, if there is anybody to ask.
    fn ask_to_declare(&mut self, slot: &Arc<Slot>, purpose: Purpose) -> Option<oneshot::Receiver<Result<()>>> {
        let Phase::Up { .. } = self.phase else { return None };
        let (answer, answered) = oneshot::channel();
        let token = self.number();
        let question = Question { answer, slot: Some((slot.clone(), purpose)) };
        self.questions.insert(Regarding::Declare(token), question);
        self.outgoing.push_control(&Control::Declare { token, topic: slot.topic.to_string(), purpose });
        Some(answered)
    }

    /// Appends a message if it can go now; then says whether the writer is to be rung.
    fn try_send(
        &mut self,
        destination: Destination<'_>,
        outbound: Outbound<'_>,
    ) -> Result<std::result::Result<bool, Lacking>> {
        let admitted = match self.admit(destination, outbound.purpose())? {
            Ok(admitted) => admitted,
            Err(lacking) => return Ok(Err(lacking)),
        };
        let metadata = outbound.metadata(admitted.client)?;
        admitted.check(metadata.len() + outbound.payload.len())?;
        self.append(admitted.topic, admitted.client, &metadata, outbound);
        Ok(Ok(std::mem::take(&mut self.writer_idle)))
    }

    /// What a message needs to be appended now, or what it is lacking.
    fn admit(&self, destination: Destination<'_>, purpose: Purpose) -> Result<std::result::Result<Admitted, Lacking>> {
        let (client, message_bytes_max) = match &self.phase {
            Phase::Up { client, message_bytes_max } => (*client, *message_bytes_max),
            Phase::Down | Phase::Leaving => match destination {
                Destination::Topic(_) => return Ok(Err(Lacking::Connection)),
                Destination::Reply { .. } => return Err(Error::Disconnected),
            },
            Phase::Closing => return Err(Error::Closed),
            Phase::Closed(error) => return Err(error.clone()),
        };
        let topic = match destination {
            Destination::Topic(slot) => match slot.id(purpose) {
                Some(id) => id,
                None => return Ok(Err(Lacking::Declaration)),
            },
            Destination::Reply { topic, connection } if connection == self.connection => topic,
            Destination::Reply { .. } => return Err(Error::Disconnected),
        };
        if !self.outgoing.has_room() {
            return Ok(Err(Lacking::Room));
        }
        Ok(Ok(Admitted { topic, client, message_bytes_max }))
    }

    fn append(&mut self, topic: TopicId, sender: InstanceId, metadata: &[u8], outbound: Outbound<'_>) {
        let Outbound { kind, flags, payload, .. } = outbound;
        self.outgoing.push(&Draft { kind, flags, topic, sender, metadata, payload });
    }

    /// Retracts the topics that nobody holds a handle of.
    fn retract_idle(&mut self) {
        let outgoing = &mut self.outgoing;
        self.slots.retain(|_, slot| {
            let held = Arc::strong_count(slot) > 1;
            if !held && let Some(topic) = slot.id(Purpose::Publish).or(slot.id(Purpose::Request)) {
                outgoing.push_control(&Control::Retract { topic });
            }
            held
        });
    }
}
