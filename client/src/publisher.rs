//! Publisher: an app's way to one topic.

use std::sync::Arc;

use bytes::Bytes;
use pipebus_proto::control::Purpose;
use pipebus_proto::frame::{Flags, Kind};

use crate::client::Handle;
use crate::error::{Error, Result};
use crate::loan::Loan;
use crate::shared::sending::{Destination, Lacking, Outbound, Slot};

/// Publishes to one topic; from [`Client::publisher`](crate::Client::publisher). Cheap to clone.
#[derive(Clone, Debug)]
pub struct Publisher {
    pub(crate) handle: Arc<Handle>,
    pub(crate) slot: Arc<Slot>,
}

impl Publisher {
    /// Publishes a message; see [`Client::publish`](crate::Client::publish).
    ///
    /// # Errors
    /// As [`Client::publish`](crate::Client::publish).
    ///
    /// # Cancel safety
    /// Nothing is published if the future is dropped before it returns.
    pub async fn publish(&self, payload: impl Into<Bytes>) -> Result<()> {
        let payload = payload.into();
        if self.handle.shared.publish_small(&self.slot, &payload) {
            return Ok(());
        }
        // In a box, so that what is mostly not needed is not moved about with every message.
        Box::pin(self.publish_with(payload, &[])).await
    }

    /// Waits until the broker has said that this client may publish to the topic, so that a program can tell at its start.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (_bus, address) = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/example_bus.rs"));
    /// # let client = pipebus_client::Client::connect(&address).await?;
    /// let temperature = client.publisher("sensors/kitchen/temp")?;
    /// temperature.declare().await?;
    /// assert!(client.publisher("$bus/status")?.declare().await.is_err());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// It may not, it has too many topics, or is closed.
    ///
    /// # Cancel safety
    /// It may be cancelled and called again.
    pub async fn declare(&self) -> Result<()> {
        self.handle.shared.declare_to_publish(&self.slot).await
    }

    /// Publishes a message with headers: names and values for the receivers, at most 65,535 bytes as they are sent.
    ///
    /// # Errors
    /// As [`Client::publish`](crate::Client::publish); or the headers are too long.
    ///
    /// # Cancel safety
    /// Nothing is published if the future is dropped before it returns.
    pub async fn publish_with(&self, payload: impl Into<Bytes>, headers: &[(String, String)]) -> Result<()> {
        let payload = payload.into();
        let shared = &self.handle.shared;
        // What is lent has no metadata: there is no place for it before the first page.
        match headers.is_empty().then(|| Loan::of(&shared.pool, &payload)).flatten() {
            Some(loan) => shared.publish_loan(&self.slot, loan).await,
            None => shared.send(Destination::Topic(&self.slot), outbound(&payload, headers)).await,
        }
    }

    /// Memory of this client's for a payload of `bytes` bytes, so that it need not be copied: for large messages, from
    /// 32 KiB.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (_bus, address) = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/example_bus.rs"));
    /// # use pipebus_client::{Client, Delivery};
    /// # let client = Client::connect(&address).await?;
    /// let mut subscription = client.subscribe("camera").await?;
    /// let camera = client.publisher("camera")?;
    /// let mut picture = camera.loan(1024 * 768);
    /// picture.fill(127);
    /// camera.publish_loan(picture).await?;
    /// if let Some(Delivery::Message(message)) = subscription.next().await {
    ///     assert_eq!(message.payload.len(), 1024 * 768);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn loan(&self, bytes: usize) -> Loan {
        Loan::new(&self.handle.shared.pool, bytes)
    }

    /// Publishes what the app has put into a loan; see [`Client::publish`](crate::Client::publish).
    ///
    /// # Errors
    /// As [`Client::publish`](crate::Client::publish).
    ///
    /// # Cancel safety
    /// Nothing is published if the future is dropped before it returns.
    pub async fn publish_loan(&self, loan: Loan) -> Result<()> {
        match loan.into_plain() {
            Ok(plain) => self.publish_with(plain, &[]).await,
            Err(loan) => self.handle.shared.publish_loan(&self.slot, loan).await,
        }
    }

    /// Publishes a message if that needs no waiting.
    ///
    /// # Errors
    /// [`Error::WouldWait`] if it does: there is no room or no connection now, or the broker has just been asked for
    /// the topic's id. Otherwise as [`Client::publish`](crate::Client::publish).
    pub fn try_publish(&self, payload: impl Into<Bytes>) -> Result<()> {
        let payload = payload.into();
        if self.handle.shared.publish_small(&self.slot, &payload) {
            return Ok(());
        }
        let tried = match self.handle.shared.lacking(&self.slot)? {
            Some(lacking) => Err(lacking),
            None => self.try_publish_large(&payload)?,
        };
        tried.map_err(|lacking| {
            if lacking == Lacking::Declaration {
                self.handle.shared.declare_soon(&self.slot, Purpose::Publish);
            }
            Error::WouldWait
        })
    }

    fn try_publish_large(&self, payload: &Bytes) -> Result<std::result::Result<(), Lacking>> {
        let shared = &self.handle.shared;
        match Loan::of(&shared.pool, payload) {
            Some(mut loan) => shared.try_publish_loan(&self.slot, &mut loan),
            None => shared.try_send(Destination::Topic(&self.slot), outbound(payload, &[])),
        }
    }
}

fn outbound<'a>(payload: &'a Bytes, headers: &'a [(String, String)]) -> Outbound<'a> {
    Outbound { kind: Kind::Message, flags: Flags::NONE, headers, call: None, payload }
}
