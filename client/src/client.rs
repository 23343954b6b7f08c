//! Client: an app's way to a bus.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pipebus_proto::control::{NAME_BYTES_MAX, Overflow, Role};
use pipebus_proto::frame::{Flags, Kind};
use pipebus_proto::pattern::Pattern;
use pipebus_proto::place::Address;
use pipebus_proto::record::Watch;
use pipebus_proto::wire::encode_value;
use serde::Serialize;
use tokio::sync::watch;

use crate::connection::{Endpoint, keep_connected};
use crate::error::{Error, Result};
use crate::incoming::call;
use crate::message::Message;
use crate::monitor::Monitor;
use crate::publisher::Publisher;
use crate::serve::Server;
use crate::shared::Shared;
use crate::shared::link::Link;
use crate::shared::sending::{Destination, Outbound};
use crate::subscription::Subscription;
use crate::transport;

/// How long to wait for the broker to let a client in, unless told otherwise: longer than a broker takes to end, 5 seconds
/// unless configured otherwise, and the next one to start.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time-out for connecting: brokers sweep the FIFOs of clients that have waited for longer.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// How long closing may take.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// An app's way to a bus. Cheap to clone; clones share one connection.
///
/// The connection is kept up by a task of the tokio runtime in which it was made. If it is lost, it is made again, with
/// all subscriptions, each of which then gets a gap; [`Client::link`] tells of it. The connection ends when
/// [`Client::close`] is called or the last handle, subscription and server is dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (_bus, address) = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/example_bus.rs"));
/// use pipebus_client::{Client, Delivery};
/// let client = Client::connect(&address).await?; // "session", "system" or a directory
/// let mut subscription = client.subscribe("sensors/**").await?;
/// client.publish("sensors/kitchen/temp", "21.5").await?;
/// if let Some(Delivery::Message(message)) = subscription.next().await {
///     assert_eq!(message.topic().as_str(), "sensors/kitchen/temp");
///     assert_eq!(&message.payload[..], b"21.5");
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    handle: Arc<Handle>,
}

/// Held by all that keeps the connection up.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// How to connect; from [`Client::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    name: Option<String>,
    timeout: Duration,
    reconnects: bool,
    visits: bool,
}

impl Builder {
    /// What the client calls itself, for people who look at the bus; at most 64 bytes. The program's name by default.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Builder {
        self.name = Some(name.into());
        self
    }

    /// How long to wait to be let in, each time: 10 seconds by default, at most 60.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Builder {
        self.timeout = timeout.min(TIMEOUT_MAX);
        self
    }

    /// Whether to connect again after the connection was lost; it does by default.
    #[must_use]
    pub fn reconnect(mut self, reconnect: bool) -> Builder {
        self.reconnects = reconnect;
        self
    }

    /// Whether to come for the broker alone: to ask it, to order it and to hear its events, on topics that begin with `$`,
    /// and nothing else. Such a client is let in though the broker drains, if the policy lets it order that, and is not
    /// waited for.
    #[must_use]
    pub fn visit(mut self, visit: bool) -> Builder {
        self.visits = visit;
        self
    }

    /// Connects to a bus: `session`, `system` or a directory.
    ///
    /// # Errors
    /// No broker, no permission, a directory not to be trusted, another version, a full broker or one that drains, or a
    /// time-out.
    pub async fn connect(self, address: &str) -> Result<Client> {
        let place = address.parse::<Address>()?.place(&transport::surroundings());
        let mut name = self.name.unwrap_or_else(program_name);
        name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
        let (timeout, reconnects, visits) = (self.timeout, self.reconnects, self.visits);
        let endpoint = Endpoint { place, name, timeout, reconnects, visits };
        let established = endpoint.establish().await?;
        let shared = Arc::new(Shared::new());
        shared.link.send_replace(Link::Up { client: established.welcome.client });
        tokio::spawn(keep_connected(shared.clone(), endpoint, established));
        Ok(Client { handle: Arc::new(Handle { shared }) })
    }
}

fn program_name() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&path).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

impl Client {
    /// Connects to a bus: `session`, `system` or a directory. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// As [`Builder::connect`].
    pub async fn connect(address: &str) -> Result<Client> {
        Client::builder().connect(address).await
    }

    /// To connect with a name, a time-out, or without reconnecting.
    pub fn builder() -> Builder {
        Builder { name: None, timeout: TIMEOUT, reconnects: true, visits: false }
    }

    /// Publishes a message to all who subscribe to its topic.
    ///
    /// Returns once the message is on its way: it goes out at once, or with others while a write is under way. Waits
    /// while the broker takes nothing, and while the connection is being made again. [`Client::flush`] tells when it
    /// has been routed.
    ///
    /// # Errors
    /// The topic is malformed or not allowed, the message is too large, or the client is closed.
    ///
    /// # Cancel safety
    /// Nothing is published if the future is dropped before it returns.
    pub async fn publish(&self, topic: &str, payload: impl Into<Bytes>) -> Result<()> {
        self.publisher(topic)?.publish(payload).await
    }

    /// Publishes a value, for [`Message::decode`] at the other end.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (_bus, address) = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/example_bus.rs"));
    /// # let client = pipebus_client::Client::connect(&address).await?;
    /// # use pipebus_client::Delivery;
    /// let mut subscription = client.subscribe("load").await?;
    /// client.publish_as("load", &(0.5f64, 4u32)).await?;
    /// if let Some(Delivery::Message(message)) = subscription.next().await {
    ///     let (load, cores): (f64, u32) = message.decode()?;
    ///     assert_eq!((load, cores), (0.5, 4));
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Client::publish`]; or the value does not encode.
    pub async fn publish_as<T: Serialize + ?Sized>(&self, topic: &str, value: &T) -> Result<()> {
        self.publish(topic, encode_value(value)?).await
    }

    /// Publishes a value as JSON, for any program at the other end.
    ///
    /// # Errors
    /// As [`Client::publish`]; or the value is no JSON.
    #[cfg(feature = "json")]
    pub async fn publish_json<T: Serialize + ?Sized>(&self, topic: &str, value: &T) -> Result<()> {
        let payload = serde_json::to_vec(value).map_err(|error| Error::Json(error.to_string()))?;
        self.publish(topic, payload).await
    }

    /// A publisher of one topic, which need not look it up for each message.
    ///
    /// # Errors
    /// The topic is malformed.
    pub fn publisher(&self, topic: &str) -> Result<Publisher> {
        let slot = self.handle.shared.slot(topic)?;
        Ok(Publisher { handle: self.handle.clone(), slot })
    }

    /// Waits until the broker has routed all that this client has published so far: it is then in the queues of all
    /// who get it.
    ///
    /// # Errors
    /// [`Error::Unconfirmed`] if a connection was lost since the last flush, with the number of messages in doubt.
    pub async fn flush(&self) -> Result<()> {
        self.handle.shared.flush().await
    }

    /// Subscribes to all topics that match, with the `block` overflow: if this client is slow, publishers wait.
    ///
    /// # Errors
    /// The pattern is malformed or not allowed, this client has too many subscriptions, or is closed.
    pub async fn subscribe(&self, pattern: &str) -> Result<Subscription> {
        self.subscribe_with(pattern, Overflow::Block).await
    }

    /// Subscribes, and says what happens when this client is slow.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub async fn subscribe_with(&self, pattern: &str, overflow: Overflow) -> Result<Subscription> {
        let pattern = Pattern::new(pattern)?;
        let (number, inbox) = self.handle.shared.subscribe(pattern.clone(), Role::Subscribe, overflow).await?;
        Ok(Subscription { handle: self.handle.clone(), number, pattern, inbox, current: None })
    }

    /// Monitors all topics that match: gets a record of each frame that passes there, be it a message, a request or a
    /// reply, as far as `watch` wants it. `**` means all topics but the broker's own; control frames are recorded on
    /// [`CONTROL_TOPIC`](pipebus_proto::record::CONTROL_TOPIC).
    ///
    /// It is announced: on `$bus/events/monitor`, and in what the broker says of this client. A client gets each record
    /// once, by the first of its living monitors that matches the topic, and each of its monitors that matches the topic
    /// gets that.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (_bus, address) = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/example_bus.rs"));
    /// # let client = pipebus_client::Client::connect(&address).await?;
    /// use pipebus_client::{Observation, Watch};
    /// let mut monitor = client.monitor("sensors/**", Watch { capture_bytes: 2, ..Watch::default() }).await?;
    /// client.publish("sensors/kitchen/temp", "21.5").await?;
    /// if let Some(Observation::Record(record)) = monitor.next().await {
    ///     assert_eq!((record.topic.as_str(), record.subscribers), ("sensors/kitchen/temp", 0));
    ///     assert_eq!((record.head.body, record.payload(), record.is_cut()), (4, &b"21"[..], true));
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The pattern is malformed or not allowed, this client has too many subscriptions, or is closed.
    pub async fn monitor(&self, pattern: &str, watch: Watch) -> Result<Monitor> {
        self.monitor_with(pattern, watch, Overflow::DropNewest).await
    }

    /// Monitors, and says what is lost when this client is slow: with [`Overflow::DropOldest`] the oldest records that
    /// wait, with any other the new ones.
    ///
    /// # Errors
    /// As [`Client::monitor`].
    pub async fn monitor_with(&self, pattern: &str, watch: Watch, overflow: Overflow) -> Result<Monitor> {
        let pattern = Pattern::new(pattern)?;
        let (number, inbox) = self.handle.shared.subscribe(pattern.clone(), Role::Monitor(watch), overflow).await?;
        Ok(Monitor { handle: self.handle.clone(), number, pattern, inbox, current: None })
    }

    /// Asks whoever serves the topic, and waits for the answer.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (_bus, address) = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/example_bus.rs"));
    /// # let client = pipebus_client::Client::connect(&address).await?;
    /// # use std::time::Duration;
    /// let mut server = client.serve("math/double").await?;
    /// tokio::spawn(async move {
    ///     while let Some(request) = server.next().await {
    ///         let number: u32 = request.message.decode().unwrap_or(0);
    ///         let _ = request.reply_as(&(number * 2)).await;
    ///     }
    /// });
    /// let question = pipebus_client::encode_value(&21u32)?;
    /// let answer = client.request("math/double", question, Duration::from_secs(5)).await?;
    /// assert_eq!(answer.decode::<u32>()?, 42);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// At once: nobody serves the topic. Later: the server left, says that it failed, or took longer than `timeout`.
    ///
    /// # Cancel safety
    /// If the future is dropped, the answer is no longer waited for; the request may have been sent.
    pub async fn request(&self, topic: &str, payload: impl Into<Bytes>, timeout: Duration) -> Result<Message> {
        let slot = self.handle.shared.slot(topic)?;
        let payload = payload.into();
        let (correlation, answered) = self.handle.shared.open_call();
        let _cancel = CancelCall { shared: &self.handle.shared, correlation };
        let _awaiting = self.handle.shared.awaiting_answer();
        let ask = async {
            let outbound = Outbound {
                kind: Kind::Request,
                flags: Flags::NONE,
                headers: &[],
                call: Some(call(correlation)),
                payload: &payload,
            };
            self.handle.shared.send(Destination::Topic(&slot), outbound).await?;
            answered.await.unwrap_or(Err(Error::Disconnected))
        };
        let answer = tokio::time::timeout(timeout, ask).await;
        let answer = answer.unwrap_or(Err(Error::TimedOut { doing: "the answer to a request", after: timeout }));
        answer.map(|message| message.about(slot.topic.clone())).map_err(|error| match error {
            Error::Unanswered { failure, .. } => Error::unanswered(topic, failure),
            error => error,
        })
    }

    /// Serves requests to all topics that match.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub async fn serve(&self, pattern: &str) -> Result<Server> {
        let pattern = Pattern::new(pattern)?;
        let (number, inbox) = self.handle.shared.subscribe(pattern, Role::Serve, Overflow::Block).await?;
        Ok(Server { handle: self.handle.clone(), number, inbox })
    }

    /// How the client stands to its broker, now and as it changes.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.handle.shared.link.subscribe()
    }

    /// Leaves the bus: sends what waits to be sent, and waits until the broker has routed it. Its subscriptions and
    /// servers end.
    ///
    /// # Errors
    /// [`Error::Unconfirmed`] if messages are in doubt, as when the broker takes nothing for 5 seconds; or a time-out.
    pub async fn close(self) -> Result<()> {
        let shared = &self.handle.shared;
        let mut link = shared.link.subscribe();
        shared.close();
        let closed = tokio::time::timeout(CLOSE_WAIT, link.wait_for(|link| *link == Link::Closed)).await;
        match (closed, shared.take_in_doubt()) {
            (Err(_), _) => Err(Error::TimedOut { doing: "closing", after: CLOSE_WAIT }),
            (Ok(_), 0) => Ok(()),
            (Ok(_), messages) => Err(Error::Unconfirmed { messages }),
        }
    }
}

/// Gives a request up unless it has been answered.
struct CancelCall<'a> {
    shared: &'a Shared,
    correlation: u64,
}

impl Drop for CancelCall<'_> {
    fn drop(&mut self) {
        self.shared.cancel_call(self.correlation);
    }
}
