//! `pipebus disconnect`, `reload`, `log` and `drain`: what an administrator tells the broker to do.

use std::time::Duration;

use pipebus_client::{Client, Delivery, Error, Message, Subscription};
use pipebus_proto::admin::{
    self, DRAIN_EVENT, DisconnectOrder, DrainOrder, Draining, InstanceStatus, LogFilter, LogOrder, Reloaded, Status,
};
use pipebus_proto::place::Address;
use serde::Serialize;
use tokio::time::Instant;

use crate::args::orders::{Disconnect, Drain, Log, Reload};
use crate::bus::visit;
use crate::failure::Failure;
use crate::format::escape;
use crate::interrupt::Interrupt;
use crate::look;
use crate::output;
use crate::system::account::user_name;
use crate::system::process;

/// How long the broker may take: to reload, it may have to ask a directory service about everybody who is connected.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How long the broker may take from its goodbye to its end, and how often that is looked for.
const END_WAIT: Duration = Duration::from_secs(30);
const END_STEP: Duration = Duration::from_millis(10);

pub(crate) async fn disconnect(bus: &Address, arguments: &Disconnect) -> Result<(), Failure> {
    let order = DisconnectOrder { instance: arguments.instance, reason: arguments.reason.clone() };
    let answer = obey(&visit(bus, "disconnect").await?, admin::DISCONNECT, &order).await?;
    let gone: InstanceStatus = answer.json()?;
    let pid = gone.pid.map(|pid| format!(", process {pid}")).unwrap_or_default();
    let text = format!("instance {} is disconnected: {}, user {}{pid}", gone.id, gone.name, user_name(&gone.identity));
    show(&answer, arguments.json, &text)
}

pub(crate) async fn reload(bus: &Address, arguments: &Reload) -> Result<(), Failure> {
    let client = visit(bus, "reload").await?;
    let answer = client.request(admin::RELOAD, "", TIMEOUT).await?;
    let Reloaded { restart_for } = answer.json()?;
    let mut text = "the policy and the limits are read anew, and hold for all who are connected".to_owned();
    if !restart_for.is_empty() {
        text.push_str(&format!("; start the broker anew for what else has changed: {}", restart_for.join(", ")));
    }
    show(&answer, arguments.json, &text)
}

pub(crate) async fn log(bus: &Address, arguments: &Log) -> Result<(), Failure> {
    let order = LogOrder { filter: arguments.filter.clone() };
    let answer = obey(&visit(bus, "log").await?, admin::LOG, &order).await?;
    let LogFilter { filter, configured } = answer.json()?;
    let lasts = format!("{filter}   (until the broker ends; then {configured}, as configured)");
    let text = if filter == configured { filter } else { lasts };
    show(&answer, arguments.json, &text)
}

pub(crate) async fn drain(bus: &Address, arguments: &Drain) -> Result<(), Failure> {
    let timeout_ms = arguments.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    let order = DrainOrder { timeout_ms, cancel: arguments.cancel };
    if arguments.wait {
        return drain_and_wait(bus, &order, arguments.json).await;
    }
    let answer = obey(&visit(bus, "drain").await?, admin::DRAIN, &order).await?;
    show(&answer, arguments.json, &in_words(&answer.json()?))
}

async fn drain_and_wait(bus: &Address, order: &DrainOrder, json: bool) -> Result<(), Failure> {
    let client = Client::builder().name("pipebus drain").visit(true).reconnect(false);
    let client = client.connect(&bus.to_string()).await?;
    let mut interrupt = Interrupt::listen()?;
    let status: Status = look::ask(&client, admin::STATUS).await?.json()?;
    // Before the order, so that nothing is missed.
    let mut events = client.subscribe(DRAIN_EVENT).await?;
    let answer = obey(&client, admin::DRAIN, order).await?;
    show(&answer, json, &in_words(&answer.json()?))?;
    let ended = async {
        goodbye(&mut events).await?;
        end_of(status.pid).await
    };
    tokio::select! {
        ended = ended => ended,
        () = interrupt.received() => Err(Failure::StillDraining),
    }
}

/// Waits until the broker has said goodbye to all.
async fn goodbye(events: &mut Subscription) -> Result<(), Failure> {
    loop {
        match events.next().await {
            Some(Delivery::Message(event)) if !event.json::<Draining>()?.draining => return Err(Failure::CalledOff),
            Some(_) => {}
            None => break,
        }
    }
    match events.error() {
        None | Some(Error::Disconnected) => Ok(()),
        Some(error) => Err(error.into()),
    }
}

/// Waits until the broker's process is no more, so that another may take its place. One that can't be seen from here is not
/// waited for.
async fn end_of(pid: u32) -> Result<(), Failure> {
    let deadline = Instant::now() + END_WAIT;
    while process::lives(pid) {
        if Instant::now() > deadline {
            return Err(Failure::Stuck { what: "the end of the broker after its goodbye", after: END_WAIT });
        }
        tokio::time::sleep(END_STEP).await;
    }
    Ok(())
}

fn in_words(draining: &Draining) -> String {
    if draining.draining {
        format!("draining: nobody new is let in, and the broker {}", look::draining(draining))
    } else {
        "not draining: everybody is let in".to_owned()
    }
}

/// Gives the broker an order.
async fn obey(client: &Client, topic: &str, order: &impl Serialize) -> Result<Message, Failure> {
    let order = serde_json::to_vec(order).map_err(|error| Failure::system("give the order", error))?;
    Ok(client.request(topic, order, TIMEOUT).await?)
}

fn show(answer: &Message, json: bool, text: &str) -> Result<(), Failure> {
    let mut shown = String::new();
    escape(&mut shown, text);
    let mut bytes = if json { answer.payload.to_vec() } else { shown.into_bytes() };
    bytes.push(b'\n');
    output::write(&bytes)
}
