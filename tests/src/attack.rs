//! Attack: an honest publisher and an honest subscriber whose messages go on while others do what they like, and what
//! must be so behind it.

use std::fs;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pipebus_proto::control::Overflow;
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use tokio::time::Instant;

use crate::raw::RawClient;
use crate::traffic::{Calm, Publisher, Subscriber, payload};
use crate::{EVERYONE, OTHER_UID, TestBus, wait_for};

/// How long an honest message may be under way, and an honest client at the door. Far more than it takes, for busy
/// machines; without an attack both take a millisecond.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Where the honest messages go.
pub const HONEST_TOPIC: &str = "honest/traffic";

/// How many lines an attack may add to the log, whatever its size.
const LOG_LINES_MAX: usize = 200;

/// Messages that must come before an attack, and behind it.
const MESSAGES_MIN: u64 = 100;

/// What an attack may cost the broker.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<'a> {
    /// By how much its resident memory may grow, at the worst moment.
    pub memory: u64,
    /// What its log must say, and how often at most.
    pub said: &'a [(&'a str, usize)],
}

/// A broker with clients who do nothing wrong.
#[derive(Debug)]
pub struct Bystanders {
    bus: TestBus,
    calm: Calm,
    resident: u64,
    traffic: Arc<Traffic>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Traffic {
    stop: AtomicBool,
    sent: Mutex<Vec<Instant>>,
    received: AtomicU64,
    slowest_ms: AtomicU64,
}

impl Bystanders {
    /// On a bus that is open to all.
    pub fn start(settings: &[&str]) -> Bystanders {
        let mut bus = TestBus::in_memory(&[&EVERYONE, settings].concat());
        bus.log_as_usual();
        bus.start_broker();
        Bystanders::on(bus)
    }

    /// On this bus, whose broker runs.
    pub fn on(bus: TestBus) -> Bystanders {
        let calm = Calm::of(&bus);
        let traffic = Arc::new(Traffic::default());
        let subscriber = Subscriber::new(&bus, HONEST_TOPIC, Overflow::Block);
        let publisher = Publisher::new(&bus, HONEST_TOPIC);
        let (sending, receiving) = (traffic.clone(), traffic.clone());
        let threads = vec![
            thread::spawn(move || sending.publish(publisher)),
            thread::spawn(move || receiving.receive(subscriber)),
        ];
        let mut bystanders = Bystanders { bus, calm, resident: 0, traffic, threads };
        // What the broker needs for any traffic it has from now on.
        bystanders.wait_for_messages();
        let pid = bystanders.bus.broker().0.id();
        // The highest that is remembered begins anew (proc_pid_clear_refs(5)).
        fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
        bystanders.resident = bystanders.memory("VmRSS:");
        bystanders
    }

    /// The bus.
    pub fn bus(&self) -> &TestBus {
        &self.bus
    }

    /// Connects so many honest clients one after another, none of which may wait long.
    pub fn connect(&self, clients: usize) {
        let once = || {
            let begun = Instant::now();
            RawClient::connect(&self.bus.place());
            begun.elapsed()
        };
        let slowest = std::iter::repeat_with(once).take(clients).max().unwrap_or_default();
        eprintln!("the slowest of {clients} honest clients took {slowest:?} to connect");
        assert!(slowest < PATIENCE, "an honest client waited {slowest:?} at the door");
    }

    /// Waits until many messages more have arrived.
    pub fn wait_for_messages(&self) {
        let before = self.traffic.received.load(Ordering::SeqCst);
        wait_for("honest messages", || {
            let finished = self.threads.iter().any(JoinHandle::is_finished);
            let received = self.traffic.received.load(Ordering::SeqCst);
            (finished || received >= before + MESSAGES_MIN).then_some(())
        });
    }

    /// Behind the attack, whose clients must all be gone: the broker is the same and lives, all messages have arrived in
    /// time, in order and whole, memory has stayed within its bound and files have come back, and the log says what
    /// happened and not much more.
    pub fn unharmed(mut self, bounds: &Bounds<'_>) {
        self.wait_for_messages();
        self.traffic.stop.store(true, Ordering::SeqCst);
        for thread in std::mem::take(&mut self.threads) {
            thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
        let slowest = Duration::from_millis(self.traffic.slowest_ms.load(Ordering::SeqCst));
        let grown = self.memory("VmHWM:").saturating_sub(self.resident);
        let messages = self.traffic.received.load(Ordering::SeqCst);
        eprintln!("{messages} messages, the slowest took {slowest:?}; {} KiB more memory", grown / 1024);
        assert!(slowest < PATIENCE, "an honest message was held up for {slowest:?}");
        assert!(grown < bounds.memory, "the broker has grown by {grown} bytes");
        self.calm.comes_back(&self.bus);
        assert_eq!(self.bus.log().matches("listening").count(), 1, "it is the same broker");
        self.check_log(bounds.said);
    }

    fn check_log(&self, said: &[(&str, usize)]) {
        for (line, max) in said {
            // What is counted is told when the broker has a moment.
            wait_for(line, || self.bus.log().contains(line).then_some(()));
            let count = self.bus.log().matches(line).count();
            assert!(count <= *max, "said {count} times: {line}");
        }
        let lines = self.bus.log().lines().count();
        assert!(lines <= LOG_LINES_MAX, "the log has {lines} lines");
    }

    /// A line of /proc/PID/status, in bytes.
    fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.bus.broker().0.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the broker lives");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Bystanders {
    fn drop(&mut self) {
        self.traffic.stop.store(true, Ordering::SeqCst);
    }
}

/// Of each message: mostly small, now and then one whose pages are moved, or one in fragments.
fn size(number: u64) -> usize {
    match number {
        _ if number.is_multiple_of(64) => 300_000,
        _ if number.is_multiple_of(16) => 40_000,
        _ => 100,
    }
}

impl Traffic {
    fn publish(&self, mut publisher: Publisher) {
        while !self.stop.load(Ordering::SeqCst) {
            let number = publisher.sequence + 1;
            let payload = payload(number, size(number));
            self.sent.lock().unwrap().push(Instant::now());
            publisher.send(&payload);
            // A pace that leaves the machine to the attack.
            thread::sleep(Duration::from_millis(1));
        }
        publisher.flush();
        // One behind all, for the subscriber to know.
        publisher.send(b"");
        publisher.flush();
    }

    fn receive(&self, mut subscriber: Subscriber) {
        for number in 1.. {
            let message = subscriber.next_message().expect("the stream goes on");
            assert_eq!(message.sequence, number, "lost as it was told: {}", subscriber.lost);
            assert_eq!(subscriber.lost, 0);
            if message.payload.is_empty() {
                return;
            }
            assert!(message.payload == payload(number, size(number)), "message {number} is damaged");
            let sent = self.sent.lock().unwrap()[usize::try_from(number).unwrap() - 1];
            let took = u64::try_from(sent.elapsed().as_millis()).unwrap();
            self.slowest_ms.fetch_max(took, Ordering::SeqCst);
            self.received.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Does something as a user who is not the broker's, if this can.
pub fn as_attacker<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    as_attacker_of(OTHER_UID, act)
}

/// The same, as one of several.
pub fn as_attacker_of<T: Send>(uid: u32, act: impl FnOnce() -> T + Send) -> T {
    let act = || {
        become_user(uid);
        act()
    };
    thread::scope(|scope| scope.spawn(act).join().unwrap_or_else(|panic| resume_unwind(panic)))
}

/// Makes this thread another user's, if it can.
fn become_user(uid: u32) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
    set_thread_groups(&[]).unwrap();
    set_thread_res_gid(gid, gid, gid).unwrap();
    set_thread_res_uid(uid, uid, uid).unwrap();
}

/// Repeats an attack in so many threads as long as something else takes. Returns how often it was made.
pub fn under_attack(attackers: usize, attack: impl Fn() + Sync, act: impl FnOnce()) -> u64 {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let repeat = || {
        become_user(OTHER_UID);
        while !stop.load(Ordering::SeqCst) {
            attack();
            count.fetch_add(1, Ordering::SeqCst);
        }
    };
    thread::scope(|scope| {
        (0..attackers).for_each(|_| drop(scope.spawn(repeat)));
        // Also if it fails.
        let _stop = StopOnDrop(&stop);
        wait_for("the attack to begin", || (count.load(Ordering::SeqCst) > 0).then_some(()));
        act();
    });
    count.into_inner()
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
