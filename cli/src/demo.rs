//! `pipebus demo`: what a bus does, shown within seconds on a broker of its own.
//!
//! All that takes part are processes such as anybody could start: `pipebusd`, and `pipebus` itself. How they are
//! started and ended is in [`crate::stage`].

use std::time::Duration;

use clap::builder::styling::AnsiColor;
use pipebus_client::Client;
use pipebus_proto::admin::{INSTANCES, InstanceStatus};
use tokio::io::{AsyncWriteExt, BufReader, Lines};
use tokio::process::ChildStdout;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::look::ask;
use crate::output::{grouped, is_coloured, style, write};
use crate::stage::{Stage, within};
use crate::system::machine::{BY_HAND, NAME_COMMAND, Reading};
use crate::transport::words;

/// The time between two readings of each publisher.
const READING_INTERVAL: Duration = Duration::from_millis(700);

/// Lines of subscribers that are shown: four rounds of all readings.
const LINES_SHOWN: usize = 20;

/// Gaps that are shown; there are seldom more than two.
const GAPS_SHOWN: usize = 3;

/// What the fast publisher publishes: several times what pipes and buffers hold on its way.
const FLOOD_MESSAGES: u64 = 100_000;

/// What may wait in the demo's broker for one instance: little, so that a slow subscriber is seen to be slow at once.
const QUEUE_BYTES_MAX: usize = 64 * 1024;

pub(crate) async fn run() -> Result<(), Failure> {
    let mut interrupt = Interrupt::listen()?;
    let mut stage = Stage::set("demo")?;
    let shown = tokio::select! {
        biased;
        () = interrupt.received() => Err(Failure::Interrupted),
        shown = show(&mut stage) => shown,
    };
    let ended = stage.clear().await;
    shown.and(ended)?;
    say(words::ALL_GONE)
}

async fn show(stage: &mut Stage) -> Result<(), Failure> {
    let client = open(stage).await?;
    show_publishers_and_subscribers(stage, &client).await?;
    show_request(stage, &client).await?;
    show_slow_subscriber(stage, &client).await?;
    show_status(stage).await?;
    say(&format!("\nThe same by hand, with a terminal for each line:\n{BY_HAND}"))
}

async fn open(stage: &mut Stage) -> Result<Client, Failure> {
    let setting = format!("queue.bytes_max={QUEUE_BYTES_MAX}");
    stage.start_broker(&["--log", "error", "--set", "door.access=owner", "--set", &setting])?;
    let client = stage.connect().await?;
    say(&format!("A broker of its own:  pipebusd --bus {}", stage.bus()))?;
    Ok(client)
}

/// A subscriber's mark, and the pattern it subscribes to.
const SUBSCRIBERS: [(&str, &str, AnsiColor); 2] =
    [("all ", "machine/**", AnsiColor::Green), ("free", "machine/*/free", AnsiColor::Yellow)];

async fn show_publishers_and_subscribers(stage: &mut Stage, client: &Client) -> Result<(), Failure> {
    say("\nThree programs publish what they read from this machine:")?;
    for reading in Reading::ALL {
        say(&format!("  ... | pipebus pub {} --lines", reading.topic()))?;
    }
    say("Two subscribe, each to what it wants; the mark in front tells who got what:")?;
    let (sender, mut lines) = mpsc::channel(16);
    for (mark, pattern, colour) in SUBSCRIBERS {
        let style = style(is_coloured(), colour);
        say(&format!("  {style}[{mark}]{style:#} pipebus sub '{pattern}'"))?;
        let output = stage.start_reader(&["sub", pattern])?;
        wait_until_subscribed(client, pattern).await?;
        stage.spawn(pass_on(output, format!("  {style}[{mark}]{style:#} "), sender.clone()));
    }
    for reading in Reading::ALL {
        let mut input = stage.start_writer(&["pub", reading.topic(), "--lines"])?;
        stage.spawn(async move {
            loop {
                let line = reading.take() + "\n";
                if input.write_all(line.as_bytes()).await.is_err() {
                    return;
                }
                tokio::time::sleep(READING_INTERVAL).await;
            }
        });
    }
    say("")?;
    for _ in 0..LINES_SHOWN {
        match within("the subscribers' next message", lines.recv()).await? {
            Some(line) => say(&line)?,
            None => break,
        }
    }
    Ok(())
}

/// Marks a subscriber's lines; takes them even when nobody wants them any more, so that its publishers need not wait.
async fn pass_on(mut output: Lines<BufReader<ChildStdout>>, mark: String, sender: mpsc::Sender<String>) {
    while let Ok(Some(line)) = output.next_line().await {
        let _ = sender.send(format!("{mark}{line}")).await;
    }
}

async fn show_request(stage: &mut Stage, client: &Client) -> Result<(), Failure> {
    say("\nA program that answers requests, and one that asks:")?;
    say(&format!("  pipebus reply host/name -- {}", as_typed(NAME_COMMAND)))?;
    stage.start(&[&["reply", "host/name", "--"], NAME_COMMAND].concat())?;
    wait_until_subscribed(client, "host/name").await?;
    let answer = stage.output_of(&["request", "host/name", "--format", "raw"]).await?;
    say(&format!("  pipebus request host/name\n\n  {}", answer.trim_end()))
}

/// With the last word in quotes.
fn as_typed(command: &[&str]) -> String {
    let Some((last, words)) = command.split_last() else { return String::new() };
    format!("{} '{last}'", words.join(" "))
}

async fn show_slow_subscriber(stage: &mut Stage, client: &Client) -> Result<(), Failure> {
    say("\nA subscriber that is too slow loses the oldest messages, and is told so; nobody waits for it:")?;
    say("  pipebus sub flood --overflow drop-oldest --format json | (sleep ...)")?;
    let mut slow = stage.start_reader(&["sub", "flood", "--overflow", "drop-oldest", "--format", "json"])?;
    wait_until_subscribed(client, "flood").await?;
    say(&format!("  seq -f 'message %06.0f ...' {FLOOD_MESSAGES} | pipebus pub flood --lines"))?;
    let took = flood(stage).await?;
    let tally = within("the slow subscriber", Tally::of(&mut slow)).await?;
    say(&format!(
        "\n  {} messages published in {:.1} s. Of them the slow subscriber got {}, and was told of {} that it lost:",
        grouped(FLOOD_MESSAGES),
        took.as_secs_f64(),
        grouped(tally.received),
        grouped(tally.lost),
    ))?;
    tally.gaps.iter().take(GAPS_SHOWN).try_for_each(|gap| say(&format!("  {gap}")))?;
    if tally.received + tally.lost == FLOOD_MESSAGES {
        say(&format!("  {} + {} = {}: none is lost in silence.", tally.received, tally.lost, FLOOD_MESSAGES))?;
    }
    // It is not to be in the way of the last messages.
    stage.spawn(async move { while let Ok(Some(_)) = slow.next_line().await {} });
    Ok(())
}

/// Publishes all, and returns how long it took until the broker had routed it.
async fn flood(stage: &mut Stage) -> Result<Duration, Failure> {
    let lines: String = (1..=FLOOD_MESSAGES).map(|n| format!("message {n:06} {:.<48}\n", "")).collect();
    let begun = Instant::now();
    let publisher = stage.run_with_input(&["pub", "flood", "--lines"], lines.into_bytes());
    within("the fast publisher", publisher).await??;
    Ok(begun.elapsed())
}

/// What a subscriber says that it got and lost.
#[derive(Default)]
struct Tally {
    received: u64,
    lost: u64,
    gaps: Vec<String>,
}

impl Tally {
    /// Counts until nothing is missing.
    async fn of(output: &mut Lines<BufReader<ChildStdout>>) -> Tally {
        let mut tally = Tally::default();
        while tally.received + tally.lost < FLOOD_MESSAGES {
            let Ok(Some(line)) = output.next_line().await else { break };
            tally.add(line);
        }
        tally
    }

    fn add(&mut self, line: String) {
        match serde_json::from_str::<serde_json::Value>(&line) {
            Ok(object) if object.get("gap").is_some() => {
                self.lost += object["gap"]["messages"].as_u64().unwrap_or(0);
                self.gaps.push(line);
            }
            _ => self.received += 1,
        }
    }
}

async fn show_status(stage: &mut Stage) -> Result<(), Failure> {
    for command in ["status", "instances"] {
        let shown = stage.output_of(&[command]).await?;
        say(&format!("\npipebus {command}\n"))?;
        shown.lines().try_for_each(|line| say(&format!("  {line}")))?;
    }
    Ok(())
}

/// Waits until the broker knows a subscriber or server with this pattern: what is sent from then on reaches it.
async fn wait_until_subscribed(client: &Client, pattern: &str) -> Result<(), Failure> {
    let subscribed = async {
        loop {
            let instances: Vec<InstanceStatus> = ask(client, INSTANCES).await?.json()?;
            let mut subscriptions = instances.iter().flat_map(|instance| &instance.subscriptions);
            if subscriptions.any(|subscription| subscription.pattern == pattern) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within("a subscriber's connection", subscribed).await?
}

fn say(line: &str) -> Result<(), Failure> {
    write(format!("{line}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_received_and_what_was_lost_is_counted_apart() {
        let mut tally = Tally::default();
        tally.add(r#"{"topic":"flood","payload":"{\"gap\":1}"}"#.to_owned());
        tally.add(r#"{"gap":{"messages":7,"topic":"flood","cause":"overflow"}}"#.to_owned());
        tally.add(r#"{"topic":"flood","payload":"x"}"#.to_owned());
        assert_eq!((tally.received, tally.lost, tally.gaps.len()), (2, 7, 1));
    }
}
