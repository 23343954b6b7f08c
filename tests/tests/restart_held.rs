//! The broker is restarted while its door stays, as under systemd: whoever comes meanwhile is let in later, nobody is
//! turned away, and in an orderly restart nothing is in doubt.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pipebus_client::{Client, Delivery, Error, Result};
use pipebus_proto::control::{Control, Farewell};
use pipebus_proto::knock::KNOCK_BYTES;
use pipebus_tests::raw::{RawClient, message};
use pipebus_tests::{DEADLINE, TestBus, soon, wait_until};
use tokio::task::{JoinHandle, block_in_place};

const RESTARTS: usize = 8;

/// Clients at the same time, of each sort.
const CLIENTS: usize = 8;

/// What they do between two restarts, in all.
const ATTEMPTS: u64 = 200;

/// Clients that do something over and over.
struct Crowd {
    done: Arc<AtomicU64>,
    enough: Arc<AtomicBool>,
    members: Vec<JoinHandle<Vec<Error>>>,
}

impl Crowd {
    fn gather() -> Crowd {
        Crowd { done: Arc::default(), enough: Arc::default(), members: Vec::new() }
    }

    /// One more, doing this.
    fn add<Work: Future<Output = Result<()>> + Send>(&mut self, mut act: impl FnMut() -> Work + Send + 'static) {
        let (done, enough) = (self.done.clone(), self.enough.clone());
        self.members.push(tokio::spawn(async move {
            let mut failures = Vec::new();
            while !enough.load(Ordering::SeqCst) {
                failures.extend(act().await.err());
                done.fetch_add(1, Ordering::SeqCst);
            }
            failures
        }));
    }

    async fn go_on(&self) {
        let until = self.done.load(Ordering::SeqCst) + ATTEMPTS;
        wait_until("clients to go on", async || self.done.load(Ordering::SeqCst) >= until).await;
    }

    /// All that has failed.
    async fn disperse(self) -> Vec<Error> {
        self.enough.store(true, Ordering::SeqCst);
        let mut failures = Vec::new();
        for member in self.members {
            failures.extend(soon("a client to end", member).await.unwrap());
        }
        failures
    }
}

async fn come_and_go(address: String) -> Result<()> {
    let client = Client::connect(&address).await?;
    client.publish("comes/and/goes", "x").await?;
    client.flush().await?;
    client.close().await
}

async fn send_some(client: Client) -> Result<()> {
    for _ in 0..10 {
        client.publish("stays", "x").await?;
    }
    client.flush().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_restart_nobody_is_turned_away_and_nothing_is_in_doubt() {
    let mut bus = TestBus::with_held_door();
    bus.log_as_usual();
    bus.start_broker();
    let mut crowd = Crowd::gather();
    for _ in 0..CLIENTS {
        let (address, client) = (bus.address(), bus.client().await);
        crowd.add(move || come_and_go(address.clone()));
        crowd.add(move || send_some(client.clone()));
    }
    for _ in 0..RESTARTS {
        crowd.go_on().await;
        assert!(block_in_place(|| bus.terminate_broker().wait()).success());
        block_in_place(|| bus.start_broker());
    }
    crowd.go_on().await;
    let failures = crowd.disperse().await;
    assert!(failures.is_empty(), "{failures:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_when_the_broker_is_killed_is_let_in_by_the_next() {
    let mut bus = TestBus::with_held_door();
    bus.log_as_usual();
    bus.start_broker();
    let mut crowd = Crowd::gather();
    for _ in 0..CLIENTS {
        let address = bus.address();
        crowd.add(move || come_and_go(address.clone()));
    }
    for _ in 0..RESTARTS {
        crowd.go_on().await;
        block_in_place(|| bus.kill_broker());
        block_in_place(|| bus.start_broker());
    }
    let failures = crowd.disperse().await;
    // What was on its way then is in doubt, and that is said.
    let in_doubt = |error: &Error| matches!(error, Error::Unconfirmed { messages: 1 });
    assert!(failures.iter().all(in_doubt), "{failures:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_knock_that_a_killed_broker_took_with_it_is_made_again() {
    let mut bus = TestBus::with_held_door();
    let address = bus.address();
    let connecting = tokio::spawn(async move { Client::builder().timeout(DEADLINE).connect(&address).await });
    // As a broker that dies before it answers.
    let knock = block_in_place(|| bus.door().read_exact(&mut [0; KNOCK_BYTES]));
    knock.unwrap();
    block_in_place(|| bus.start_broker());
    soon("the client to be let in", connecting).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_comes_before_the_goodbye_at_the_last_call_is_routed() {
    let mut bus = TestBus::start();
    let subscriber = bus.client().await;
    let mut subscription = subscriber.subscribe("late").await.unwrap();
    let (mut raw, me) = RawClient::connect(&bus.place());
    let topic = raw.declare("late");
    let mut broker = bus.terminate_broker();
    assert_eq!(raw.hear(), Some(Control::LastCall));
    raw.write(&message(me.client, topic, 1, b"not too late"));
    raw.say(&Control::Ping { token: 7 });
    raw.say(&Control::Goodbye { cause: Farewell::Leaving });
    assert_eq!(raw.hear(), Some(Control::Pong { token: 7 }));
    assert_eq!(raw.hear(), Some(Control::Goodbye { cause: Farewell::Shutdown }));
    match soon("the message", subscription.next()).await {
        Some(Delivery::Message(message)) => assert_eq!(message.payload, "not too late"),
        other => panic!("{other:?}"),
    }
    assert!(broker.wait().success());
}
