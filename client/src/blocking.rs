//! A client for apps without async: every call waits for its end.
//!
//! It has what scripts and simple programs need; headers, publishers of one topic and the state of the link are in the
//! async [`crate::Client`] only. No call here may be made in async code, where it would panic.
//!
//! The connections are kept by a small runtime with one thread, which all blocking clients of a program share.
//!
//! ```no_run
//! use pipebus_client::{Delivery, blocking::Client};
//! let client = Client::connect("session")?;
//! client.publish("greetings/world", "hello")?;
//! for delivery in client.subscribe("greetings/**")? {
//!     if let Delivery::Message(message) = delivery {
//!         println!("{}: {:?}", message.topic(), message.payload);
//!     }
//! }
//! # Ok::<(), pipebus_client::Error>(())
//! ```

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};

use crate::error::{Error, Result};
use crate::{Delivery, Message, Overflow};

/// One for the whole program and never ended: runtimes that come and go leak handles on some systems (mio issue 1944).
static RUNTIME: OnceLock<std::result::Result<Runtime, String>> = OnceLock::new();

fn runtime() -> Result<&'static Runtime> {
    let made = RUNTIME.get_or_init(|| {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("pipebus-client").enable_all();
        builder.build().map_err(|error| error.to_string())
    });
    made.as_ref()
        .map_err(|text| Error::system("start a thread for", Path::new("pipebus"), std::io::Error::other(text.clone())))
}

/// A client whose calls block. See [`crate::Client`] for what each does.
#[derive(Clone, Debug)]
pub struct Client {
    client: crate::Client,
    runtime: &'static Runtime,
}

impl Client {
    /// Connects to a bus: `session`, `system` or a directory.
    ///
    /// # Errors
    /// As [`crate::Builder::connect`].
    pub fn connect(address: &str) -> Result<Client> {
        Client::connect_with(crate::Client::builder(), address)
    }

    /// Connects with a name, a time-out, or without reconnecting.
    ///
    /// # Errors
    /// As [`crate::Builder::connect`].
    pub fn connect_with(builder: crate::Builder, address: &str) -> Result<Client> {
        let runtime = runtime()?;
        let client = runtime.block_on(builder.connect(address))?;
        Ok(Client { client, runtime })
    }

    /// Publishes a message; see [`crate::Client::publish`].
    ///
    /// # Errors
    /// As there.
    pub fn publish(&self, topic: &str, payload: impl Into<Bytes>) -> Result<()> {
        self.runtime.block_on(self.client.publish(topic, payload))
    }

    /// Publishes a value; see [`crate::Client::publish_as`].
    ///
    /// # Errors
    /// As there.
    pub fn publish_as<T: serde::Serialize + ?Sized>(&self, topic: &str, value: &T) -> Result<()> {
        self.runtime.block_on(self.client.publish_as(topic, value))
    }

    /// Waits until all has been routed; see [`crate::Client::flush`].
    ///
    /// # Errors
    /// As there.
    pub fn flush(&self) -> Result<()> {
        self.runtime.block_on(self.client.flush())
    }

    /// Subscribes; see [`crate::Client::subscribe`].
    ///
    /// # Errors
    /// As there.
    pub fn subscribe(&self, pattern: &str) -> Result<Subscription> {
        self.subscribe_with(pattern, Overflow::Block)
    }

    /// Subscribes with an overflow policy; see [`crate::Client::subscribe_with`].
    ///
    /// # Errors
    /// As there.
    pub fn subscribe_with(&self, pattern: &str, overflow: Overflow) -> Result<Subscription> {
        let subscription = self.runtime.block_on(self.client.subscribe_with(pattern, overflow))?;
        Ok(Subscription { subscription, runtime: self.runtime })
    }

    /// Asks, and waits for the answer; see [`crate::Client::request`].
    ///
    /// # Errors
    /// As there.
    pub fn request(&self, topic: &str, payload: impl Into<Bytes>, timeout: Duration) -> Result<Message> {
        self.runtime.block_on(self.client.request(topic, payload, timeout))
    }

    /// Serves requests; see [`crate::Client::serve`].
    ///
    /// # Errors
    /// As there.
    pub fn serve(&self, pattern: &str) -> Result<Server> {
        let server = self.runtime.block_on(self.client.serve(pattern))?;
        Ok(Server { server, runtime: self.runtime })
    }

    /// Leaves the bus; see [`crate::Client::close`].
    ///
    /// # Errors
    /// As there.
    pub fn close(self) -> Result<()> {
        self.runtime.block_on(self.client.close())
    }
}

/// The messages that match a pattern: an iterator that blocks until the next.
#[derive(Debug)]
pub struct Subscription {
    subscription: crate::Subscription,
    runtime: &'static Runtime,
}

impl Subscription {
    /// The next message or gap, if one comes within `timeout`.
    ///
    /// # Errors
    /// A time-out, or [`Error::Closed`] at the end.
    pub fn next_within(&mut self, timeout: Duration) -> Result<Delivery> {
        let next = async { tokio::time::timeout(timeout, self.subscription.next()).await };
        match self.runtime.block_on(next) {
            Ok(Some(delivery)) => Ok(delivery),
            Ok(None) => Err(self.subscription.error().unwrap_or(Error::Closed)),
            Err(_) => Err(Error::TimedOut { doing: "waiting for a message", after: timeout }),
        }
    }
}

impl Iterator for Subscription {
    type Item = Delivery;

    fn next(&mut self) -> Option<Delivery> {
        self.runtime.block_on(self.subscription.next())
    }
}

/// The requests to a pattern: an iterator that blocks until the next.
#[derive(Debug)]
pub struct Server {
    server: crate::Server,
    runtime: &'static Runtime,
}

impl Server {
    /// Answers every request with what `answer` makes of it; an `Err` is told to the requester as a failure. Returns
    /// when the client is closed.
    pub fn answer_each(&mut self, mut answer: impl FnMut(&Message) -> std::result::Result<Bytes, String>) {
        for request in self.by_ref() {
            let answered = answer(&request.0.message);
            // The requester has left, or the connection is lost: nobody waits for this answer.
            let _ = match answered {
                Ok(payload) => request.reply(payload),
                Err(why) => request.fail(why),
            };
        }
    }
}

impl Iterator for Server {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        let runtime = self.runtime;
        runtime.block_on(self.server.next()).map(|request| Request(request, runtime))
    }
}

/// A request that waits for its answer; see [`crate::Request`].
#[derive(Debug)]
pub struct Request(crate::Request, &'static Runtime);

impl Request {
    /// What was asked, by whom.
    pub fn message(&self) -> &Message {
        &self.0.message
    }

    /// Answers.
    ///
    /// # Errors
    /// As [`crate::Request::reply`].
    pub fn reply(self, payload: impl Into<Bytes>) -> Result<()> {
        self.1.block_on(self.0.reply(payload))
    }

    /// Answers that it failed, and why.
    ///
    /// # Errors
    /// As [`crate::Request::fail`].
    pub fn fail(self, why: impl Into<String>) -> Result<()> {
        self.1.block_on(self.0.fail(why))
    }
}
