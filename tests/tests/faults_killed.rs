//! `kill -9` of anything at any moment, again and again under load: what arrives is whole and in order, what is lost is
//! told, and the bus comes back.
//!
//! The moments come of a seed, which a failing story prints. `PIPEBUS_SEED` repeats one.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use pipebus_client::{Client, Delivery, Error, Subscription};
use pipebus_tests::traffic::{Calm, Chance};
use pipebus_tests::{Process, TestBus, wait_for};

/// How often something is killed.
const KILLS: usize = 12;

/// How long one goes on at most before something is killed, in milliseconds.
const LIFE_MS_MAX: usize = 120;

/// Message `number` of a publisher: of many sizes, and no part of one is like another's.
fn text(number: u64) -> String {
    let size = match number % 50 {
        // In fragments.
        0 => 300_000,
        // Large, so that the broker does not read them.
        1..=4 => 40_000,
        _ => 100,
    };
    let letter = char::from(b'a' + u8::try_from(number % 26).unwrap());
    format!("{number}:{}", letter.to_string().repeat(size))
}

/// What one subscriber has got, and how it must go on.
#[derive(Debug, Default)]
struct Seen {
    /// Of each topic: the last number, and how many gaps had been told of by then.
    topics: BTreeMap<String, (Option<u64>, u64)>,
    gaps: u64,
    /// What is wrong.
    fault: Option<String>,
}

impl Seen {
    /// A publisher begins with 0 here, and all that it sends is to come.
    fn expect_from_the_start(&mut self, topic: &str) {
        self.topics.insert(topic.to_owned(), (None, self.gaps));
    }

    fn gap(&mut self) {
        self.gaps += 1;
    }

    fn message(&mut self, topic: &str, payload: &str) {
        let number = payload.split(':').next().and_then(|number| number.parse().ok());
        let Some(number) = number.filter(|number| payload == text(*number)) else {
            self.fault = Some(format!("torn: {} bytes on {topic}", payload.len()));
            return;
        };
        let gaps = self.gaps;
        // Who comes later begins anywhere.
        let (last, told) =
            self.topics.insert(topic.to_owned(), (Some(number), gaps)).unwrap_or((number.checked_sub(1), gaps));
        let next = last.map_or(0, |last| last + 1);
        if number < next || (number > next && told == gaps) {
            self.fault = Some(format!("{number} came where {next} was to come on {topic}, and no gap was told of"));
        }
    }

    fn last(&self, topic: &str) -> Option<u64> {
        self.topics.get(topic)?.0
    }
}

type Record = Arc<Mutex<Seen>>;

fn open(record: &Record) -> MutexGuard<'_, Seen> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A program that publishes as fast as it may.
struct Publisher {
    process: Process,
    topic: String,
    feeder: JoinHandle<()>,
}

impl Publisher {
    fn start(bus: &TestBus, topic: &str) -> Publisher {
        let mut command = bus.cli(&["pub", topic, "--lines"]);
        let mut process = Process::start(command.stdin(Stdio::piped()).stderr(Stdio::null()));
        let mut stdin = process.0.stdin.take().unwrap();
        // Until it is killed.
        let feeder =
            std::thread::spawn(
                move || for _ in (0..).take_while(|number| writeln!(stdin, "{}", text(*number)).is_ok()) {},
            );
        Publisher { process, topic: topic.to_owned(), feeder }
    }

    fn kill(self) {
        drop(self.process);
        self.feeder.join().unwrap();
    }
}

/// A program that subscribes to all of it.
struct Subscriber {
    process: Process,
    record: Record,
    reader: JoinHandle<()>,
}

impl Subscriber {
    fn start(bus: &TestBus) -> Subscriber {
        let mut command = bus.cli(&["sub", "load/*", "--format", "json"]);
        let mut process = Process::start(command.stdout(Stdio::piped()).stderr(Stdio::null()));
        let mut lines = BufReader::new(process.0.stdout.take().unwrap());
        let record = Record::default();
        let kept = record.clone();
        let reader = std::thread::spawn(move || {
            let mut line = String::new();
            // One that was killed in the middle of a line has not said it.
            while lines.read_line(&mut line).is_ok() && line.ends_with('\n') {
                let value: serde_json::Value = serde_json::from_str(&line).unwrap();
                match value["gap"].is_object() {
                    true => open(&kept).gap(),
                    false => open(&kept).message(value["topic"].as_str().unwrap(), value["payload"].as_str().unwrap()),
                }
                line.clear();
            }
        });
        Subscriber { process, record, reader }
    }

    fn kill(self) -> Record {
        drop(self.process);
        self.reader.join().unwrap();
        self.record
    }
}

/// A client of this process, that is never killed: it sees all from the start.
async fn observe(mut subscription: Subscription, record: Record, stop: Arc<AtomicBool>) {
    while !stop.load(SeqCst) {
        let Ok(next) = tokio::time::timeout(Duration::from_millis(50), subscription.next()).await else { continue };
        match next {
            Some(Delivery::Message(message)) => {
                open(&record).message(message.topic().as_str(), &String::from_utf8_lossy(&message.payload));
            }
            Some(Delivery::Gap(_)) => open(&record).gap(),
            None => {
                open(&record).fault = Some(format!("ended: {:?}", subscription.error()));
                return;
            }
        }
    }
}

/// Publishes, and asks now and then whether all has arrived: what has not is in doubt, and nothing else may happen.
/// Returns how many are in doubt in all.
async fn publish_and_flush(client: Client, topic: &'static str, stop: Arc<AtomicBool>) -> u64 {
    let mut in_doubt = 0;
    for number in 0.. {
        if stop.load(SeqCst) {
            break;
        }
        client.publish(topic, text(number)).await.unwrap();
        if number % 20 == 0 {
            match client.flush().await {
                Ok(()) => {}
                Err(Error::Unconfirmed { messages }) if messages > 0 => in_doubt += messages,
                Err(error) => panic!("{error}"),
            }
        }
    }
    in_doubt
}

/// Everybody who takes part.
struct Cast {
    bus: TestBus,
    publishers: [Publisher; 2],
    subscriber: Subscriber,
    observer: Record,
    started: usize,
}

impl Cast {
    fn kill_broker(&mut self) {
        self.bus.kill_broker();
        self.bus.start_broker();
    }

    fn kill_publisher(&mut self, which: usize) {
        self.started += 1;
        let topic = format!("load/{}", self.started);
        open(&self.observer).expect_from_the_start(&topic);
        let next = Publisher::start(&self.bus, &topic);
        std::mem::replace(&mut self.publishers[which], next).kill();
    }

    fn kill_subscriber(&mut self) {
        let next = Subscriber::start(&self.bus);
        let record = std::mem::replace(&mut self.subscriber, next).kill();
        assert_eq!(open(&record).fault, None);
    }

    /// From everybody who publishes now, something new comes to everybody who subscribes.
    fn all_goes_on(&self) {
        let topics: Vec<_> =
            self.publishers.iter().map(|publisher| &publisher.topic[..]).chain(["load/inside"]).collect();
        for record in [&self.observer, &self.subscriber.record] {
            let before: Vec<_> = topics.iter().map(|topic| open(record).last(topic)).collect();
            for (topic, before) in topics.iter().zip(before) {
                wait_for(&format!("messages on {topic} after {before:?}"), || {
                    assert_eq!(open(record).fault, None);
                    (open(record).last(topic) > before).then_some(())
                });
            }
        }
    }
}

/// Tells the seed if the story fails.
struct Seed(u64);

impl Seed {
    fn choose() -> Seed {
        let given = std::env::var("PIPEBUS_SEED").ok().map(|seed| seed.parse().expect("PIPEBUS_SEED is a number"));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Seed(given.unwrap_or_else(|| u64::from(now.subsec_nanos()) | 1))
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to repeat it: PIPEBUS_SEED={}", self.0);
        }
    }
}

/// Sweeps what clients have left that were killed while they knocked: as if it were long after.
fn check_nothing_is_left(bus: &mut TestBus) {
    let entries = || fs::read_dir(bus.place().instances()).unwrap().map(|entry| entry.unwrap().path());
    let long_ago = SystemTime::now() - Duration::from_secs(600);
    for path in entries() {
        let fifo = pipebus_tests::open(&path, rustix::fs::OFlags::RDONLY).unwrap();
        fs::File::from(fifo).set_modified(long_ago).unwrap();
    }
    bus.kill_broker();
    bus.start_broker();
    let left: Vec<_> = fs::read_dir(bus.place().instances()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    let left: Vec<_> = fs::read_dir(bus.place().path()).unwrap().collect();
    assert_eq!(left.len(), 3, "the door, the lock and instances/: {left:?}");
}

/// Kills `KILLS` times what `victim` says, and looks after each whether all goes on as it must.
fn kill_again_and_again(victim: impl Fn(&mut Chance, &mut Cast)) {
    let seed = Seed::choose();
    let mut chance = Chance(seed.0);
    let bus = TestBus::start();
    let calm = Calm::of(&bus);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (observer, stop) = (Record::default(), Arc::new(AtomicBool::new(false)));
    let (observing, publishing) = runtime.block_on(async {
        let (subscriber, publisher) = (bus.client().await, bus.client().await);
        let subscription = subscriber.subscribe("load/*").await.unwrap();
        open(&observer).expect_from_the_start("load/inside");
        let observing = tokio::spawn(observe(subscription, observer.clone(), stop.clone()));
        (observing, tokio::spawn(publish_and_flush(publisher, "load/inside", stop.clone())))
    });
    let publishers = ["load/a", "load/b"].map(|topic| {
        open(&observer).expect_from_the_start(topic);
        Publisher::start(&bus, topic)
    });
    let mut cast = Cast { subscriber: Subscriber::start(&bus), bus, publishers, observer, started: 0 };
    cast.all_goes_on();
    for _ in 0..KILLS {
        // Any moment will do: that is what is told here.
        std::thread::sleep(Duration::from_millis(chance.below(LIFE_MS_MAX) as u64));
        victim(&mut chance, &mut cast);
        cast.all_goes_on();
    }
    stop.store(true, SeqCst);
    let in_doubt = runtime.block_on(async {
        observing.await.unwrap();
        publishing.await.unwrap()
    });
    drop(runtime);
    let Cast { mut bus, publishers, subscriber, observer, .. } = cast;
    publishers.into_iter().for_each(Publisher::kill);
    assert_eq!(open(&subscriber.kill()).fault, None);
    let seen = open(&observer);
    assert_eq!(seen.fault, None);
    assert!(in_doubt == 0 || seen.gaps > 0, "{in_doubt} messages in doubt, though no broker was killed");
    calm.comes_back(&bus);
    check_nothing_is_left(&mut bus);
}

#[test]
fn a_broker_is_killed_again_and_again_and_all_goes_on() {
    kill_again_and_again(|_, cast| cast.kill_broker());
}

#[test]
fn publishers_are_killed_again_and_again_and_nobody_gets_half_of_a_message() {
    kill_again_and_again(|chance, cast| {
        cast.kill_publisher(chance.below(2));
        assert_eq!(open(&cast.observer).gaps, 0, "nobody but the dead has lost anything");
    });
}

#[test]
fn subscribers_are_killed_again_and_again_and_nobody_else_notices() {
    kill_again_and_again(|_, cast| {
        cast.kill_subscriber();
        assert_eq!(open(&cast.observer).gaps, 0, "nobody but the dead has lost anything");
    });
}

#[test]
fn anything_is_killed_again_and_again_also_several_at_once() {
    kill_again_and_again(|chance, cast| {
        // The broker first: a program that has not been let in yet does not wait for the next one.
        let victims = 1 + chance.below(7);
        if victims & 1 != 0 {
            cast.kill_broker();
        }
        if victims & 2 != 0 {
            cast.kill_publisher(chance.below(2));
        }
        if victims & 4 != 0 {
            cast.kill_subscriber();
        }
    });
}
