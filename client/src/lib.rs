//! The client of pipebus: a message bus for the programs of one machine whose only door is a named pipe.
//!
//! ```no_run
//! # async fn example() -> pipebus_client::Result<()> {
//! use pipebus_client::{Client, Delivery};
//! let client = Client::connect("session").await?;
//! client.publish("greetings/world", "hello").await?;
//! let mut subscription = client.subscribe("greetings/**").await?;
//! while let Some(delivery) = subscription.next().await {
//!     match delivery {
//!         Delivery::Message(message) => println!("{}: {:?}", message.topic(), message.payload),
//!         Delivery::Gap(gap) => eprintln!("lost some: {gap:?}"),
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! For apps without async there is [`blocking`].
//!
//! # Memory
//!
//! A client keeps at most 256 KiB that wait to be written and 512 KiB that wait to be lent to its pipe, besides as much that
//! is just being written or lent and a message that is larger, and reads no more while
//! 256 KiB wait for a subscription (64 MiB while the app waits for an answer). Messages larger than 256 KiB are put
//! together in memory, at most 256 MiB of them at once. A pipe that was full grows from 64 to 256 KiB, once, and one
//! that carries messages of 32 KiB or more to 1 MiB. For such messages a client keeps at most 32 MiB of pages that it
//! lends to its pipe; see [`Loan`].

/// The guide for developers, so that its examples are compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/developers.md")]
mod guide {}

/// The README, likewise.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}

pub mod blocking;
mod client;
mod connection;
mod error;
mod inbox;
mod incoming;
mod loan;
mod message;
mod monitor;
mod outgoing;
mod pages;
mod publisher;
mod reading;
mod reassembly;
mod reconnect;
mod run;
mod serve;
mod shared;
mod subscription;
mod transport;
mod writing;

pub use client::{Builder, Client};
pub use error::{Error, Result};
pub use loan::Loan;
pub use message::{Message, Sender};
pub use monitor::{Monitor, Observation, Record};
pub use pipebus_proto::control::{Control, Failure, Identity, Overflow, Reason};
pub use pipebus_proto::frame::{Flags, Head, Kind, Metadata, Part};
pub use pipebus_proto::record::{CAPTURE_BYTES_MAX, CONTROL_TOPIC, Kinds, Watch};
pub use pipebus_proto::topic::{InstanceId, Topic};
pub use pipebus_proto::wire::{decode_value, encode_value};
pub use publisher::Publisher;
pub use run::{MessageRef, Run};
pub use serve::{Request, Server};
pub use shared::link::Link;
pub use subscription::{Arrival, Delivery, Gap, GapCause, Subscription};
pub use transport::surroundings;
