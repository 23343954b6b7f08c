//! One client's life, over pipes without names.

#![cfg(unix)]

use super::*;
use crate::config::Config;
use crate::core::policy::{Peer, Policy, Who};
use crate::shutdown::Conductor;
use bytes::BytesMut;
use pipebus_proto::control::{Identity, Overflow, Purpose, Role};
use pipebus_proto::frame::{Flags, Head, Kind, PROTOCOL_VERSION};
use pipebus_proto::place::Place;
use pipebus_proto::splitter::{Frame, next_span};
use pipebus_proto::topic::{InstanceId, TopicId};
use pipebus_proto::wire::{decode_control, encode_head};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::runtime::Handle;

/// The client's end of an instance.
struct Client {
    up: pipe::Sender,
    down: pipe::Receiver,
    buffer: BytesMut,
    sequence: u64,
}

fn broker(queue_bytes: usize) -> Arc<Broker> {
    let mut config = Config::default();
    config.queue.bytes_max = queue_bytes;
    Arc::new(Broker::new(
        config,
        Policy::allowing(vec![Who::Any]),
        Place::new("/nowhere"),
        Identity::Unix { uid: 1 },
        &[],
    ))
}

/// Instances and topics.
fn held(broker: &Broker) -> (usize, usize) {
    let bus = broker.bus();
    (bus.instances().len(), bus.topics().len())
}

/// A client whose pipes are as small as they can be.
fn arrive(broker: &Arc<Broker>, conductor: &Conductor) -> Client {
    let (up, reader) = pipe::pipe().unwrap();
    let (writer, down) = pipe::pipe().unwrap();
    for pipe in [rustix::fd::AsFd::as_fd(&up), rustix::fd::AsFd::as_fd(&writer)] {
        rustix::pipe::fcntl_setpipe_size(pipe, 1).unwrap();
    }
    tokio::spawn(serve(broker.clone(), arrived(reader, writer), Turn::default(), conductor.view()));
    Client { up, down, buffer: BytesMut::new(), sequence: 0 }
}

fn arrived(reader: pipe::Receiver, writer: pipe::Sender) -> Arrived {
    let peer = Peer { identity: Identity::Unix { uid: 1 }, pid: None };
    Arrived { reader, writer: own(writer), peer }
}

fn own(writer: pipe::Sender) -> Writer {
    Writer::new(writer.into_nonblocking_fd().unwrap(), Handle::current())
}

impl Client {
    async fn say(&mut self, control: &Control) {
        self.up.write_all(&encode_control(control)).await.unwrap();
    }

    async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(span) = next_span(&mut self.buffer).unwrap() {
                let mut frames = span.iter();
                let first = frames.next();
                let rest: Vec<u8> = span.bytes[first.as_ref().unwrap().head.frame_bytes()..].to_vec();
                let later = self.buffer.split();
                self.buffer = BytesMut::from(&rest[..]);
                self.buffer.unsplit(later);
                return first;
            }
            if self.down.read_buf(&mut self.buffer).await.unwrap() == 0 {
                return None;
            }
        }
    }

    async fn hear(&mut self) -> Option<Control> {
        let frame = self.frame().await?;
        assert_eq!(frame.head.kind, Kind::Control);
        Some(decode_control(&frame.body).unwrap())
    }

    async fn connect(broker: &Arc<Broker>, conductor: &Conductor) -> (Client, InstanceId) {
        let mut client = arrive(broker, conductor);
        client.say(&Control::Hello { version: PROTOCOL_VERSION, name: "test".to_owned() }).await;
        let Some(Control::Welcome(welcome)) = client.hear().await else { panic!("no welcome") };
        (client, welcome.client)
    }

    async fn declare(&mut self, topic: &str) -> TopicId {
        let (topic, purpose) = (topic.to_owned(), Purpose::Publish);
        self.say(&Control::Declare { token: 1, topic, purpose }).await;
        let Some(Control::Declared { topic, .. }) = self.hear().await else { panic!("not declared") };
        topic
    }

    async fn publish(&mut self, sender: InstanceId, topic: TopicId, payload: &[u8]) {
        self.sequence += 1;
        let (body, kind, sequence) = (u32::try_from(payload.len()).unwrap(), Kind::Message, self.sequence);
        let head = Head { body, kind, flags: Flags::NONE, metadata: 0, topic, sender, sequence };
        self.up.write_all(&encode_head(&head)).await.unwrap();
        self.up.write_all(payload).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_no_hello_in_time_is_refused() {
    let (broker, conductor) = (broker(4096), Conductor::new());
    let mut client = arrive(&broker, &conductor);
    let before = Instant::now();
    assert!(matches!(client.hear().await, Some(Control::Refused { reason: Reason::Protocol, .. })));
    assert_eq!(before.elapsed().as_secs(), broker.config.handshake_timeout().as_secs());
    assert_eq!(client.hear().await, None);
}

#[tokio::test(start_paused = true)]
async fn the_smallest_queue_and_the_smallest_pipe_pass_everything() {
    let (broker, conductor) = (broker(1), Conductor::new());
    let (mut publisher, id) = Client::connect(&broker, &conductor).await;
    let (mut subscriber, _) = Client::connect(&broker, &conductor).await;
    let (subscription, pattern) = (1, "a/*".to_owned());
    let (role, overflow) = (Role::Subscribe, Overflow::Block);
    subscriber.say(&Control::Subscribe { subscription, pattern, role, overflow }).await;
    assert_eq!(subscriber.hear().await, Some(Control::Subscribed { subscription }));
    let topic = publisher.declare("a/b").await;
    let publish = async {
        for number in 0..100u8 {
            publisher.publish(id, topic, &[number; 70]).await;
        }
    };
    let receive = async {
        let mut next = 0;
        while next < 100 {
            let frame = subscriber.frame().await.unwrap();
            if frame.head.kind == Kind::Message {
                assert_eq!(frame.payload(), vec![next; 70]);
                next += 1;
            }
        }
    };
    tokio::join!(publish, receive);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_before_the_shutdown_is_delivered_before_goodbye() {
    let (broker, conductor) = (broker(100_000), Conductor::new());
    let (mut publisher, id) = Client::connect(&broker, &conductor).await;
    let (mut subscriber, _) = Client::connect(&broker, &conductor).await;
    let (subscription, pattern) = (1, "**".to_owned());
    let (role, overflow) = (Role::Subscribe, Overflow::Block);
    subscriber.say(&Control::Subscribe { subscription, pattern, role, overflow }).await;
    assert_eq!(subscriber.hear().await, Some(Control::Subscribed { subscription }));
    let topic = publisher.declare("a").await;
    publisher.publish(id, topic, &[7; 30]).await;
    let deadline = Instant::now() + Duration::from_secs(5);
    let shutdown = tokio::spawn(conductor.conduct(deadline, move || broker.wake_all()));
    let mut payload = Vec::new();
    let farewell = loop {
        let frame = subscriber.frame().await.unwrap();
        match frame.head.kind {
            Kind::Message => payload.extend_from_slice(&frame.payload()),
            _ => match decode_control(&frame.body).unwrap() {
                Control::Goodbye { cause } => break cause,
                Control::TopicInfo { .. } | Control::SenderInfo { .. } | Control::LastCall => {}
                // The publisher may be gone first.
                Control::TopicGone { .. } | Control::SenderGone { .. } => {}
                other => panic!("{other:?}"),
            },
        }
    };
    assert_eq!((farewell, payload.len()), (Farewell::Shutdown, 30));
    drop((publisher, subscriber));
    shutdown.await.unwrap();
    assert!(Instant::now() < deadline);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_left_leaves_nothing_in_the_bus() {
    let (broker, conductor) = (broker(4096), Conductor::new());
    let (mut client, _) = Client::connect(&broker, &conductor).await;
    client.declare("a/b").await;
    assert_eq!(held(&broker), (1, 1));
    drop(client);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(held(&broker), (0, 0));
}

#[tokio::test]
async fn an_instance_is_small_while_it_waits() {
    let (_up, reader) = pipe::pipe().unwrap();
    let (writer, _down) = pipe::pipe().unwrap();
    let life = serve(broker(4096), arrived(reader, writer), Turn::default(), Conductor::new().view());
    // With tokio's 96 bytes that is a task of 640, and the next larger has 768. What happens when it wakes is in boxes.
    assert!(size_of_val(&life) <= 544, "{}", size_of_val(&life));
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_many_pieces_is_written_though_tokio_believes_that_the_pipe_is_full() {
    let (writer, mut down) = pipe::pipe().unwrap();
    let writer = own(writer);
    writer.ready(Interest::WRITABLE).await.unwrap();
    writer.try_io::<()>(|| Err(std::io::ErrorKind::WouldBlock.into())).unwrap_err();
    let mut batch = vec![Bytes::from_static(b"x"); PIECES_MAX + 1];
    timeout(FAREWELL_WAIT, write_batch(&writer, &mut batch, |_| {})).await.expect("it waits for room").unwrap();
    let mut read = vec![0; PIECES_MAX + 1];
    down.read_exact(&mut read).await.unwrap();
}
