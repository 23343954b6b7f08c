//! First figures: what the bus moves, beside a relay that only reads and writes between two FIFOs.
//!
//!     cargo run --release -p pipebus-tests --example figures
//!
//! Publisher, subscriber, broker and relay are processes of their own; rounds of bus and relay take turns, and medians
//! are shown. The relay moves as many bytes for a message as the bus does, head included.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for developers, which may simply fail")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use pipebus_client::{Client, Delivery};
use pipebus_proto::frame::HEAD_BYTES;
use pipebus_tests::raw::make_fifo;
use pipebus_tests::{Process, TestBus, wait_for};
use tokio::time::Instant;

const ROUND: Duration = Duration::from_millis(700);
const ROUNDS: usize = 5;
const PINGS: usize = 5000;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["publish", address, size] => publish(address, size.parse().unwrap()).await,
        ["subscribe", address] => subscribe(address).await,
        ["echo", address] => echo(address).await,
        ["relay", from, to] => relay(from, to),
        ["write", to, size] => write(to, size.parse().unwrap()),
        _ => compare().await,
    }
}

async fn compare() {
    let bus = TestBus::start_with(&["log.filter=warn,pipebusd=info"]);
    println!("{:>9} {:>14} {:>12} {:>14} {:>8}", "payload", "bus, msgs/s", "MB/s", "relay, msgs/s", "ratio");
    for size in [16, 128, 1024, 16 * 1024, 64 * 1024, 1024 * 1024] {
        let (mut of_bus, mut of_relay) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            of_bus.push(measure_bus(&bus, size));
            of_relay.push(measure_relay(&bus, size));
        }
        let (bus_rate, relay_rate) = (median(&mut of_bus), median(&mut of_relay));
        let megabytes = bus_rate * size as f64 / 1e6;
        println!("{size:>9} {bus_rate:>14.0} {megabytes:>12.1} {relay_rate:>14.0} {:>8.2}", bus_rate / relay_rate);
    }
    let (mut of_bus, mut of_relay) = (ping_bus(&bus).await, ping_relay(&bus));
    println!(
        "\nround trip, 64 B: bus p50 {:.1} us, p99 {:.1} us",
        percentile(&mut of_bus, 50),
        percentile(&mut of_bus, 99)
    );
    println!(
        "                relay p50 {:.1} us, p99 {:.1} us",
        percentile(&mut of_relay, 50),
        percentile(&mut of_relay, 99)
    );
}

fn median(values: &mut [f64]) -> f64 {
    percentile(values, 50)
}

fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) * percent / 100]
}

fn role(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments);
    command
}

fn measure_bus(bus: &TestBus, size: usize) -> f64 {
    let mut subscriber = Process::start(role(&["subscribe", &bus.address()]).stdout(Stdio::piped()));
    let mut said = BufReader::new(subscriber.0.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "ready");
    let _publisher = Process::start(&mut role(&["publish", &bus.address(), &size.to_string()]));
    said.next().unwrap().unwrap().parse().unwrap()
}

async fn publish(address: &str, size: usize) {
    let client = Client::connect(address).await.unwrap();
    let publisher = client.publisher("figures").unwrap();
    let payload = bytes::Bytes::from(vec![7; size]);
    loop {
        publisher.publish(payload.clone()).await.unwrap();
    }
}

async fn subscribe(address: &str) {
    let client = Client::connect(address).await.unwrap();
    let mut subscription = client.subscribe("figures").await.unwrap();
    println!("ready");
    // The first tenth of a second is not counted: pipes and caches are cold.
    let (mut count, mut start) = (0u64, None);
    let begin = Instant::now();
    while let Some(delivery) = subscription.next().await {
        assert!(matches!(delivery, Delivery::Message(_)), "{delivery:?}");
        count += 1;
        if start.is_none() && begin.elapsed() > ROUND / 7 {
            (count, start) = (0, Some(Instant::now()));
        }
        if let Some(start) = start
            && (count % 64 == 0 || count < 64)
            && start.elapsed() > ROUND
        {
            println!("{}", count as f64 / start.elapsed().as_secs_f64());
            return;
        }
    }
}

fn measure_relay(bus: &TestBus, size: usize) -> f64 {
    let [from, to] = fifos(bus, ["from", "to"]);
    let _relay = Process::start(&mut role(&["relay", &from, &to]));
    let _writer = Process::start(&mut role(&["write", &from, &(size + HEAD_BYTES).to_string()]));
    let mut reader = open_reader(&to);
    let mut buffer = vec![0; 1 << 20];
    let (mut bytes, mut start) = (0, None);
    let begin = Instant::now();
    loop {
        bytes += reader.read(&mut buffer).unwrap();
        match start {
            None if begin.elapsed() > ROUND / 7 => (bytes, start) = (0, Some(Instant::now())),
            Some(start) if Instant::now() - start > ROUND => {
                return bytes as f64 / (size + HEAD_BYTES) as f64 / start.elapsed().as_secs_f64();
            }
            _ => {}
        }
    }
}

fn fifos<const N: usize>(bus: &TestBus, names: [&str; N]) -> [String; N] {
    names.map(|name| {
        let path = bus.scratch().join(name);
        let _ = std::fs::remove_file(&path);
        make_fifo(&path, 0o600);
        path.display().to_string()
    })
}

fn open_reader(path: &str) -> File {
    wait_for("a FIFO to open", || File::open(path).ok())
}

fn open_writer(path: &str) -> File {
    File::options().write(true).open(path).unwrap()
}

fn relay(from: &str, to: &str) {
    let (mut reader, mut writer) = (open_reader(from), open_writer(to));
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = reader.read(&mut buffer).unwrap();
        if count == 0 || writer.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// Writes in batches, as a client does.
fn write(to: &str, size: usize) {
    let mut writer = open_writer(to);
    let batch = vec![7; size * (64 * 1024 / size).max(1)];
    while writer.write_all(&batch).is_ok() {}
}

async fn ping_bus(bus: &TestBus) -> Vec<f64> {
    let mut echo = Process::start(role(&["echo", &bus.address()]).stdout(Stdio::piped()));
    let mut said = BufReader::new(echo.0.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "ready");
    let client = bus.client().await;
    let mut pongs = client.subscribe("pong").await.unwrap();
    let publisher = client.publisher("ping").unwrap();
    let payload = bytes::Bytes::from(vec![7; 64]);
    let mut times = Vec::new();
    for _ in 0..PINGS {
        let start = Instant::now();
        publisher.publish(payload.clone()).await.unwrap();
        pongs.next().await.unwrap();
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times
}

async fn echo(address: &str) {
    let client = Client::connect(address).await.unwrap();
    let mut pings = client.subscribe("ping").await.unwrap();
    let publisher = client.publisher("pong").unwrap();
    println!("ready");
    while let Some(Delivery::Message(message)) = pings.next().await {
        publisher.publish(message.payload).await.unwrap();
    }
}

/// Four FIFOs and two relays: as many hops as a message and its answer take over the bus.
fn ping_relay(bus: &TestBus) -> Vec<f64> {
    let [a, b, c, d] = fifos(bus, ["a", "b", "c", "d"]);
    let _there = Process::start(&mut role(&["relay", &a, &b]));
    let _echo = Process::start(&mut role(&["relay", &b, &c]));
    let _back = Process::start(&mut role(&["relay", &c, &d]));
    let mut writer = open_writer(&a);
    let mut reader = open_reader(&d);
    let mut buffer = [7; 64 + HEAD_BYTES];
    let mut times = Vec::new();
    for _ in 0..PINGS {
        let start = Instant::now();
        writer.write_all(&buffer).unwrap();
        reader.read_exact(&mut buffer).unwrap();
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times
}
