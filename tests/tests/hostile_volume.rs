//! Clients that send too much, never end what they send, or do not read what they get: what they cost has a bound, and
//! others' messages go on.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use pipebus_proto::control::{Control, Farewell, Overflow, Reason, Role};
use pipebus_proto::frame::{BODY_BYTES_MAX, Call, Flags, HEAD_BYTES, Head, Kind, Metadata};
use pipebus_proto::topic::{InstanceId, TopicId};
use pipebus_proto::wire::{encode_control, encode_head, encode_metadata};
use pipebus_tests::attack::{Bounds, Bystanders, HONEST_TOPIC, as_attacker};
use pipebus_tests::raw::{RawClient, frame};
use pipebus_tests::traffic::Publisher;
use pipebus_tests::{can_change_user, wait_for};

const MIB: u64 = 1024 * 1024;

const POLICIES: [Overflow; 5] =
    [Overflow::Block, Overflow::DropOldest, Overflow::DropNewest, Overflow::Latest, Overflow::Disconnect];

fn publishers(bystanders: &Bystanders, count: usize) -> Vec<Publisher> {
    as_attacker(|| (0..count).map(|_| Publisher::new(bystanders.bus(), "hostile")).collect())
}

/// Waits until all that its client has written has been read.
fn is_read(client: &RawClient) {
    wait_for("the broker to read it", || (rustix::io::ioctl_fionread(client.up()).unwrap() == 0).then_some(()));
}

#[test]
fn frames_that_never_end_cost_no_more_than_they_have_brought() {
    const CLIENTS: usize = 300;
    let bystanders = Bystanders::start(&[]);
    let clients = publishers(&bystanders, CLIENTS);
    let body = u32::try_from(BODY_BYTES_MAX).unwrap();
    let kinds = [(Kind::Message, 0), (Kind::Reply, 21)].into_iter().cycle();
    for ((kind, metadata), publisher) in kinds.zip(&clients) {
        let (topic, sender) = (publisher.topic, publisher.id);
        let head = Head { body, kind, flags: Flags::NONE, metadata, topic, sender, sequence: 1 };
        publisher.client.write(&[&encode_head(&head)[..], &[0; 50_000]].concat());
    }
    // One byte more, now and then.
    for _ in 0..20 {
        clients.iter().for_each(|publisher| publisher.client.write(&[0]));
    }
    bystanders.connect(20);
    drop(clients);
    let frames = CLIENTS as u64 * (BODY_BYTES_MAX + HEAD_BYTES) as u64;
    bystanders.unharmed(&Bounds { memory: frames + 16 * MIB, said: &[("connected", 80)] });
}

#[test]
fn a_message_that_never_ends_is_cut_off_at_the_limit() {
    let bystanders = Bystanders::start(&["limits.message_bytes_max=1048576"]);
    for bytes in [0, 1, 1000, BODY_BYTES_MAX] {
        let mut publisher = publishers(&bystanders, 1).remove(0);
        let mut flags = Flags::MORE;
        let goes_on = |publisher: &Publisher| rustix::io::ioctl_fionread(publisher.client.down()).unwrap() == 0;
        // Of empty fragments there is no end, and they cost nothing.
        for _ in 0..if bytes == 0 { 500 } else { u64::MAX } {
            let fragment =
                frame(publisher.id, publisher.topic, 1, flags, &vec![0; bytes]).repeat(65_536 / (bytes + 24) + 1);
            flags = Flags::MORE.with(Flags::CONTINUED);
            let fragment = if publisher.sequence == 0 { fragment[..HEAD_BYTES + bytes].to_vec() } else { fragment };
            publisher.sequence = 1;
            if !goes_on(&publisher) || !publisher.client.write_while(&fragment, || goes_on(&publisher)) {
                break;
            }
        }
        if bytes > 0 {
            let answer = publisher.client.hear();
            assert!(matches!(answer, Some(Control::Refused { reason: Reason::TooLarge, .. })), "{bytes}: {answer:?}");
            assert_eq!(publisher.client.hear(), Some(Control::Goodbye { cause: Farewell::Protocol }));
        }
    }
    bystanders.unharmed(&Bounds {
        memory: 8 * MIB,
        said: &[("reason=a message is larger than limits.message_bytes_max", 3)],
    });
}

#[test]
fn a_flood_of_empty_messages_and_of_questions_that_nobody_reads_the_answers_of_is_borne() {
    let bystanders = Bystanders::start(&[]);
    let mut empty = publishers(&bystanders, 1).remove(0);
    for _ in 0..100 {
        let messages: Vec<u8> = (0..2000).flat_map(|_| empty.next(b"")).collect();
        empty.client.write(&messages);
    }
    empty.flush();
    let mut asks = publishers(&bystanders, 3);
    let pings = encode_control(&Control::Ping { token: 1 }).repeat(30_000);
    for publisher in &mut asks {
        assert!(!publisher.client.write_while(&pings, || !publisher.client.is_gone()), "who never reads is sent away");
    }
    bystanders.connect(20);
    drop((empty, asks));
    bystanders.unharmed(&Bounds { memory: 16 * MIB, said: &[("reads no answers, so it is disconnected", 3)] });
}

#[test]
fn replies_that_nobody_asked_for_and_requests_in_pieces_go_nowhere() {
    let bystanders = Bystanders::start(&[]);
    let mut hostile = publishers(&bystanders, 1).remove(0);
    hostile.client.say(&Control::Declare {
        token: 2,
        topic: "asked".to_owned(),
        purpose: pipebus_proto::control::Purpose::Request,
    });
    let Some(Control::Declared { topic: asked, .. }) = hostile.client.hear() else { panic!("not declared") };
    let send = |hostile: &mut Publisher, kind, flags, topic, requester, correlation, begins: bool| {
        let call = Call { requester: InstanceId(requester), correlation };
        let metadata = encode_metadata(&Metadata { call: Some(call), headers: Vec::new() }).unwrap();
        let metadata = if begins { &metadata[..] } else { b"" };
        hostile.sequence += u64::from(begins);
        let (bytes, body) = (u16::try_from(metadata.len()).unwrap(), u32::try_from(metadata.len()).unwrap() + 100);
        let (sender, sequence) = (hostile.id, hostile.sequence);
        let head = Head { body, kind, flags, metadata: bytes, topic, sender, sequence };
        hostile.client.write(&[&encode_head(&head)[..], metadata, &[0; 100]].concat());
    };
    for number in 0..5000u32 {
        for flags in [Flags::NONE, Flags::FAILED] {
            send(&mut hostile, Kind::Reply, flags, TopicId(number), number % 9, u64::from(number), true);
        }
        let me = hostile.id.0;
        send(&mut hostile, Kind::Request, Flags::MORE, asked, me, u64::from(number), true);
        send(&mut hostile, Kind::Request, Flags::MORE.with(Flags::CONTINUED), asked, me, 0, false);
        send(&mut hostile, Kind::Request, Flags::CONTINUED, asked, me, 0, false);
        // Nobody serves it.
        let answer = hostile.client.hear();
        assert!(matches!(answer, Some(Control::RequestFailed { correlation, .. }) if correlation == u64::from(number)));
    }
    hostile.flush();
    drop(hostile);
    bystanders.unharmed(&Bounds { memory: 8 * MIB, said: &[("connected", 4)] });
}

/// Subscribers to what is honest, with all policies, and with pipes as small as they can be.
fn eavesdroppers(bystanders: &Bystanders, count: usize, policies: &[Overflow]) -> Vec<RawClient> {
    let eavesdropper = |overflow: &Overflow| {
        let (mut client, _) = RawClient::connect(&bystanders.bus().place());
        rustix::pipe::fcntl_setpipe_size(client.down(), 1).unwrap();
        let (subscription, pattern) = (1, HONEST_TOPIC.to_owned());
        client.say(&Control::Subscribe { subscription, pattern, role: Role::Subscribe, overflow: *overflow });
        // What is published already may come before the answer.
        while client.hear().is_some_and(|control| control != Control::Subscribed { subscription }) {}
        client
    };
    as_attacker(|| policies.iter().cycle().take(count).map(eavesdropper).collect())
}

const SMALL_QUEUES: &[&str] = &["queue.bytes_max=65536", "queue.stall_timeout_ms=300"];

#[test]
fn subscribers_that_never_read_lose_messages_and_nobody_else_does() {
    const CLIENTS: usize = 200;
    let bystanders = Bystanders::start(SMALL_QUEUES);
    let clients = eavesdroppers(&bystanders, CLIENTS, &POLICIES);
    (0..10).for_each(|_| bystanders.wait_for_messages());
    drop(clients);
    // Beside what waits, the largest frame, which a queue takes when it is empty.
    let queues = CLIENTS as u64 * (65_536 + BODY_BYTES_MAX as u64);
    let said = &[("too slow, so messages are dropped", 50), ("too slow, so it is disconnected", 50)];
    bystanders.unharmed(&Bounds { memory: queues + 16 * MIB, said });
}

#[test]
fn clients_that_read_and_write_byte_by_byte_hold_nobody_up() {
    let bystanders = Bystanders::start(SMALL_QUEUES);
    let mut readers = eavesdroppers(&bystanders, 50, &POLICIES[1..4]);
    let mut writers = publishers(&bystanders, 50);
    let message = writers.iter_mut().map(|writer| writer.next(&[7; 200])).collect::<Vec<_>>();
    for at in 0..message[0].len() {
        writers.iter().zip(&message).for_each(|(writer, message)| writer.client.write(&message[at..=at]));
        readers.iter_mut().for_each(|reader| assert_eq!(reader.read(1), 1));
    }
    writers.iter().for_each(|writer| is_read(&writer.client));
    drop((readers, writers));
    let queues = 50 * (65_536 + BODY_BYTES_MAX as u64);
    bystanders.unharmed(&Bounds { memory: queues + 16 * MIB, said: &[("too slow, so messages are dropped", 50)] });
}

#[test]
fn who_may_not_make_publishers_wait_does_not_set_their_pace_by_reading_just_fast_enough() {
    if !can_change_user() {
        return;
    }
    let rules = "policy.rules=[{who=['owner','root'],allow=['all']},\
                 {who=['any'],allow=['connect','publish','subscribe','request','serve']}]";
    let bystanders = Bystanders::start(&[SMALL_QUEUES, &[rules]].concat());
    let mut readers = eavesdroppers(&bystanders, 1, &[Overflow::Block]);
    for _ in 0..50 {
        std::thread::sleep(std::time::Duration::from_millis(200));
        readers.iter_mut().for_each(|reader| assert!(reader.read(4096) > 0));
    }
    bystanders.wait_for_messages();
    drop(readers);
    bystanders.unharmed(&Bounds { memory: 16 * MIB, said: &[("messages are dropped", 2)] });
}
