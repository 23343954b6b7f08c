//! Systems that refuse what makes large messages fast, pipes that grow and pages that move: all messages arrive all the
//! same.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::env::consts::ARCH;
use std::os::fd::OwnedFd;
use std::thread;

use pipebus_client::{Client, Delivery, Overflow, Publisher, Subscription};
use pipebus_proto::control::{Control, Farewell};
use pipebus_tests::traffic::{self, Calm, payload};
use pipebus_tests::{TestBus, binary, can_change_user, soon};
use rustix::io::Errno;
use rustix::param::page_size;
use rustix::pipe::{SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe, tee};
use rustix::thread::{Gid, Uid, gettid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use seccompiler::{TargetArch, apply_filter, compile_from_json};
use serde_json::json;

/// Published in this order, each once lent and once written.
const SIZES: [usize; 6] = [64 * 1024, 100, 300 * 1024, 40 * 1024, 3, 1024 * 1024];

/// How often all of them are.
const ROUNDS: usize = 3;

/// How a kernel refuses to move pages: for just these pipes, or at all.
const REFUSALS: [Errno; 2] = [Errno::INVAL, Errno::NOSYS];

/// A connection of its own, and all messages.
struct Subscriber {
    _client: Client,
    subscription: Subscription,
}

impl Subscriber {
    async fn new(bus: &TestBus) -> Subscriber {
        let client = bus.client().await;
        let subscription = soon("a subscription", client.subscribe_with("**", Overflow::Block)).await.unwrap();
        Subscriber { _client: client, subscription }
    }

    /// All that is published in [`everything_arrives`], and nothing else.
    async fn expect_all(&mut self) {
        for (number, size, _) in messages() {
            match soon("a message", self.subscription.next()).await {
                Some(Delivery::Message(message)) => {
                    assert_eq!(message.sender().uid(), Some(rustix::process::geteuid().as_raw()));
                    assert_eq!(message.payload.len(), size, "message {number}");
                    assert!(message.payload == payload(number, size), "bytes of message {number} are others");
                }
                other => panic!("not message {number} but {other:?}"),
            }
        }
    }
}

/// Number, size, and whether it is lent.
fn messages() -> impl Iterator<Item = (u64, usize, bool)> {
    let of_a_round = SIZES.iter().flat_map(|size| [(*size, true), (*size, false)]);
    let all = std::iter::repeat_n(of_a_round, ROUNDS).flatten();
    (1..).zip(all).map(|(number, (size, lent))| (number, size, lent))
}

async fn publish_all(publisher: &Publisher) {
    for (number, size, lent) in messages() {
        let payload = payload(number, size);
        if lent {
            let mut loan = publisher.loan(size);
            loan.copy_from_slice(&payload);
            soon("room", publisher.publish_loan(loan)).await.unwrap();
        } else {
            // With headers, for which there is no place before pages.
            let headers = [("written".to_owned(), "yes".to_owned())];
            soon("room", publisher.publish_with(payload, &headers)).await.unwrap();
        }
    }
}

/// Publishes all, and waits until everybody has all.
async fn everything_arrives(client: &Client, subscribers: Vec<Subscriber>) -> Vec<Subscriber> {
    let read = |mut subscriber: Subscriber| async {
        subscriber.expect_all().await;
        subscriber
    };
    let readers: Vec<_> = subscribers.into_iter().map(|subscriber| tokio::spawn(read(subscriber))).collect();
    publish_all(&client.publisher("a").unwrap()).await;
    let mut subscribers = Vec::new();
    for reader in readers {
        subscribers.push(reader.await.unwrap());
    }
    subscribers
}

/// Does something in a thread that is changed before. Whatever it starts inherits the change, and no other story does.
fn in_changed_thread<T: Send>(change: impl FnOnce() + Send, act: impl FnOnce() -> T + Send) -> T {
    let changed = || {
        change();
        act()
    };
    thread::scope(|scope| scope.spawn(changed).join().unwrap())
}

/// Plays the clients of a story: all in this thread.
fn play(clients: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(clients);
}

/// Makes this thread one of a user of its own, who has no pipes but those of this story.
fn become_another_user() {
    let thread = u32::try_from(gettid().as_raw_nonzero().get()).unwrap();
    // Not of the system, and few enough for a container.
    let id = 20_000 + thread % 40_000;
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_groups(&[]).unwrap();
    set_thread_res_gid(gid, gid, gid).unwrap();
    set_thread_res_uid(uid, uid, uid).unwrap();
}

/// Takes all pages that this user may have in pipes (pipe(7), pipe-user-pages-soft), until it is dropped.
fn hog() -> Vec<OwnedFd> {
    let mut held = Vec::new();
    loop {
        // One end is enough to keep a pipe.
        let (end, _) = pipe().unwrap();
        let usual = fcntl_getpipe_size(&end).unwrap() >= 16 * page_size();
        let grown = fcntl_setpipe_size(&end, 1024 * 1024);
        held.push(end);
        if !usual {
            assert_eq!(grown, Err(Errno::PERM));
            return held;
        }
    }
}

/// Whether pipes are limited for a user who is not root, and this can act as one; says so if not.
fn can_use_up_pipes() -> bool {
    let limit = std::fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft").unwrap();
    let limited = limit.trim() != "0";
    if !limited {
        eprintln!("skipped: fs.pipe-user-pages-soft is 0, so pipes of all users may grow");
    }
    limited && can_change_user()
}

/// A user's pages for pipes are used up when half of its clients have connected, and later given back.
fn pages_are_used_up_for(subscribers: usize) {
    if !can_use_up_pipes() {
        return;
    }
    // By who may write where they are built.
    binary("pipebusd");
    in_changed_thread(become_another_user, || {
        let bus = TestBus::start();
        let calm = Calm::of(&bus);
        play(async {
            let early = bus.client().await;
            let mut all = Vec::new();
            for _ in 0..subscribers / 2 {
                all.push(Subscriber::new(&bus).await);
            }
            let held = hog();
            let late = bus.client().await;
            while all.len() < subscribers {
                all.push(Subscriber::new(&bus).await);
            }
            for client in [&early, &late] {
                all = everything_arrives(client, all).await;
            }
            drop(held);
            for client in [&early, &late, &bus.client().await] {
                all = everything_arrives(client, all).await;
            }
        });
        calm.comes_back(&bus);
    });
}

#[test]
fn a_user_whose_pipes_may_not_grow_gets_all_messages() {
    pages_are_used_up_for(1);
}

#[test]
fn four_subscribers_of_a_user_whose_pipes_may_not_grow_get_all_messages() {
    pages_are_used_up_for(4);
}

/// Whether calls of the system can be refused here; says so if not.
fn can_refuse_pages() -> bool {
    let can = TargetArch::try_from(ARCH).is_ok();
    if !can {
        eprintln!("skipped: there are no seccomp filters for {ARCH}");
    }
    can
}

/// From now on the kernel moves no pages for this thread, neither from pipe to pipe nor from memory to a pipe.
fn refuse_pages(errno: Errno) {
    let calls = ["splice", "tee", "vmsplice"].map(|name| json!({ "syscall": name }));
    let refused = json!({ "errno": errno.raw_os_error() });
    let filters = json!({ "pages": { "mismatch_action": "allow", "match_action": refused, "filter": calls } });
    let programs = compile_from_json(filters.to_string().as_bytes(), TargetArch::try_from(ARCH).unwrap()).unwrap();
    apply_filter(&programs["pages"]).unwrap();
    let ((from, _from), (_to, to)) = (pipe().unwrap(), pipe().unwrap());
    assert_eq!(tee(from, to, 1, SpliceFlags::NONBLOCK), Err(errno));
}

/// How often the broker has said that it copies.
fn said(bus: &TestBus) -> usize {
    bus.log().matches("pages can't be moved from pipe to pipe").count()
}

/// All messages to one subscriber, and then to three.
fn everything_arrives_at_one_and_three(bus: &TestBus) {
    play(async {
        let client = bus.client().await;
        for subscribers in [1, 3] {
            let mut all = Vec::new();
            while all.len() < subscribers {
                all.push(Subscriber::new(bus).await);
            }
            everything_arrives(&client, all).await;
        }
    });
}

#[test]
fn a_broker_that_can_not_move_pages_copies_them_and_says_so_once() {
    if !can_refuse_pages() {
        return;
    }
    for errno in REFUSALS {
        let bus = in_changed_thread(|| refuse_pages(errno), TestBus::start);
        let calm = Calm::of(&bus);
        everything_arrives_at_one_and_three(&bus);
        assert_eq!(said(&bus), 1);
        calm.comes_back(&bus);
    }
}

#[test]
fn a_client_that_can_not_lend_pages_writes_them() {
    if !can_refuse_pages() {
        return;
    }
    for errno in REFUSALS {
        let bus = TestBus::start();
        let calm = Calm::of(&bus);
        in_changed_thread(|| refuse_pages(errno), || everything_arrives_at_one_and_three(&bus));
        assert_eq!(said(&bus), 0);
        calm.comes_back(&bus);
    }
}

#[test]
fn where_nobody_can_move_pages_all_is_written_and_read() {
    if !can_refuse_pages() {
        return;
    }
    in_changed_thread(
        || refuse_pages(Errno::NOSYS),
        || {
            let bus = TestBus::start();
            everything_arrives_at_one_and_three(&bus);
            assert_eq!(said(&bus), 1);
        },
    );
}

#[test]
fn who_leaves_a_broker_that_can_not_move_pages_is_told_goodbye() {
    if !can_refuse_pages() {
        return;
    }
    let bus = in_changed_thread(|| refuse_pages(Errno::INVAL), TestBus::start);
    let mut subscriber = traffic::Subscriber::new(&bus, "a", Overflow::Block);
    let mut publisher = traffic::Publisher::new(&bus, "a");
    // Each is written at once, and behind a large message the broker looks for the next, and reads no more than its head.
    fcntl_setpipe_size(publisher.client.up(), 1024 * 1024).unwrap();
    for number in 1..=3 {
        publisher.send(&payload(number, 64 * 1024));
        subscriber.expect(number, &payload(number, 64 * 1024));
    }
    assert_eq!(said(&bus), 1);
    subscriber.client.say(&Control::Goodbye { cause: Farewell::Leaving });
    assert_eq!(subscriber.next_message(), None);
    assert_eq!(subscriber.goodbye, Some(Farewell::Leaving));
}
