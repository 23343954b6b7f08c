//! What is written past the queue, and what the queue knows of it.

use super::*;

#[test]
fn nothing_is_written_past_a_queue_in_which_something_waits_or_is_in_flight() {
    let mut subscriber = Subscriber::new(1 << 20);
    subscriber.queue(Block, messages(1..=1));
    assert_eq!(subscriber.begin_direct(messages(2..=2)), None);
    assert_eq!(subscriber.take(1), "m1");
    assert_eq!(subscriber.begin_direct(messages(2..=2)), None);
    subscriber.read(FRAME - 1);
    assert_eq!(subscriber.begin_direct(messages(2..=2)), None);
    subscriber.read(1);
    let span = subscriber.begin_direct(messages(2..=2)).unwrap();
    assert_eq!((subscriber.queue.queued_bytes(), subscriber.begin_direct(messages(1..=1).from(2))), (FRAME, None));
    assert_eq!(subscriber.end_direct(&span, FRAME), None);
    assert_eq!(subscriber.queue.queued_bytes(), 0);
    assert!(subscriber.begin_direct(messages(1..=1).from(2)).is_some());
}

#[test]
fn nothing_is_written_past_the_queue_before_the_client_knows_topic_and_sender() {
    let mut subscriber = Subscriber::stranger(1 << 20);
    assert_eq!(subscriber.begin_direct(messages(1..=1)), None);
    subscriber.queue(Block, messages(1..=1));
    subscriber.reads("topic@1 sender*1 m1");
    assert_eq!(subscriber.begin_direct(messages(1..=1).from(2)), None);
    assert_eq!(subscriber.begin_direct(messages(2..=2).on(2)), None);
    assert!(subscriber.begin_direct(messages(2..=2).on(2).kind(Kind::Reply)).is_some());
}

#[test]
fn of_a_span_written_in_part_the_begun_frame_goes_on_and_the_others_are_left() {
    let mut subscriber = Subscriber::new(1 << 20);
    for (written, left, expected) in
        [(1, Some(2..=3), "m1"), (FRAME, Some(2..=3), "m1"), (FRAME + 1, Some(3..=3), "m1 m2")]
    {
        let span = subscriber.begin_direct(messages(1..=3)).unwrap();
        assert_eq!(subscriber.end_direct(&span, written), left.map(|left| messages(left).into()));
        assert_eq!(subscriber.read_behind(&span.bytes[..written]), expected);
    }
    let span = subscriber.begin_direct(messages(1..=3)).unwrap();
    assert_eq!(subscriber.end_direct(&span, 0), Some(messages(1..=3).into()));
    subscriber.reads("");
}

#[test]
fn what_others_push_meanwhile_comes_behind_the_begun_frame() {
    let mut subscriber = Subscriber::new(1 << 20);
    let span = subscriber.begin_direct(messages(1..=1)).unwrap();
    subscriber.queue(Block, messages(1..=1).from(2));
    subscriber.queue.push_control(encode_control(&Control::Pong { token: 7 })).unwrap();
    assert_eq!(subscriber.end_direct(&span, 30), None);
    assert_eq!(subscriber.begin_direct(messages(2..=2)), None);
    assert_eq!(subscriber.read_behind(&span.bytes[..30]), "m1 m1*2 pong7");
}

#[test]
fn fragments_follow_a_beginning_that_was_written_past_the_queue() {
    let mut subscriber = Subscriber::new(1 << 20);
    assert_eq!(subscriber.begin_direct(fragment(Middle, 1)), None);
    let first = subscriber.begin_direct(fragment(First, 1)).unwrap();
    assert_eq!(subscriber.end_direct(&first, 40), None);
    subscriber.queue(Block, fragment(Middle, 1));
    assert_eq!(subscriber.read_behind(&first.bytes[..40]), "f1 c1");
    let middle = subscriber.begin_direct(fragment(Middle, 1)).unwrap();
    assert_eq!(subscriber.end_direct(&middle, FRAME), None);
    let last = subscriber.begin_direct(fragment(Last, 1)).unwrap();
    assert_eq!(subscriber.end_direct(&last, FRAME), None);
    subscriber.reads("");
    assert_eq!(subscriber.begin_direct(fragment(Last, 1)), None);
    subscriber.queue(Block, fragment(Last, 1));
    subscriber.reads("");
}

#[test]
fn a_beginning_of_which_nothing_was_written_has_no_fragments() {
    let mut subscriber = Subscriber::new(1 << 20);
    let first = subscriber.begin_direct(fragment(First, 1)).unwrap();
    assert_eq!(subscriber.end_direct(&first, 0), Some(first));
    assert_eq!(subscriber.begin_direct(fragment(Last, 1)), None);
}

#[test]
fn the_rest_of_a_begun_frame_is_never_dropped() {
    for overflow in [Block, DropOldest, DropNewest, Latest] {
        let mut subscriber = Subscriber::new(2 * FRAME);
        let span = subscriber.begin_direct(messages(1..=1)).unwrap();
        assert_eq!(subscriber.end_direct(&span, 1), None);
        for sequence in 2..=9 {
            let _ = subscriber.push(overflow, messages(sequence..=sequence));
        }
        let expected = match overflow {
            DropOldest | Latest => "m1 gap7@1 m9",
            DropNewest => "m1 m2 gap7@1",
            Block | Disconnect => "m1 m2",
        };
        assert_eq!(subscriber.read_behind(&span.bytes[..1]), expected);
    }
}

#[test]
fn the_rest_of_a_begun_frame_outlives_all_else_when_the_client_is_to_go() {
    let mut subscriber = Subscriber::new(1 << 20);
    let span = subscriber.begin_direct(messages(1..=1)).unwrap();
    assert_eq!(subscriber.end_direct(&span, 90), None);
    subscriber.queue(DropOldest, messages(2..=2));
    subscriber.queue.push_control(encode_control(&Control::Pong { token: 7 })).unwrap();
    subscriber.queue.clear();
    assert_eq!(subscriber.queue.queued_bytes(), FRAME - 90);
    assert_eq!(subscriber.read_behind(&span.bytes[..90]), "m1");
    subscriber.queue(Block, messages(3..=3));
    subscriber.queue.clear();
    subscriber.reads("");
}

#[test]
fn a_message_begun_past_the_queue_that_outgrows_it_is_aborted_behind_the_begun_frame() {
    let mut subscriber = Subscriber::new(FRAME);
    let first = subscriber.begin_direct(fragment(First, 1)).unwrap();
    assert_eq!(subscriber.end_direct(&first, 50), None);
    subscriber.lose(DropNewest, fragment(Middle, 1), 1);
    subscriber.queue(DropNewest, fragment(Last, 1));
    assert_eq!(subscriber.read_behind(&first.bytes[..50]), "f1 abort*1 gap1@1");
}

#[test]
fn a_topic_that_goes_between_fragments_ends_the_message_behind_the_begun_frame() {
    let mut subscriber = Subscriber::new(1 << 20);
    let first = subscriber.begin_direct(fragment(First, 1)).unwrap();
    assert_eq!(subscriber.end_direct(&first, 50), None);
    subscriber.queue.forget_topic(TopicId(1));
    assert_eq!(subscriber.begin_direct(fragment(Last, 1)), None);
    subscriber.queue(Block, fragment(Last, 1));
    assert_eq!(subscriber.read_behind(&first.bytes[..50]), "f1 abort*1 gone@1");
}

#[test]
fn a_topic_that_goes_while_a_message_is_written_past_the_queue_is_said_to_be_gone_behind_it() {
    let mut subscriber = Subscriber::new(1 << 20);
    let span = subscriber.begin_direct(messages(1..=2)).unwrap();
    subscriber.queue.forget_topic(TopicId(1));
    assert_eq!(subscriber.end_direct(&span, FRAME + 9), None);
    assert_eq!(subscriber.read_behind(&span.bytes[..FRAME + 9]), "m1 m2 gone@1");
    assert_eq!(subscriber.begin_direct(messages(3..=3)), None);
}

#[test]
fn writing_past_the_queue_is_progress_and_its_rest_can_stall() {
    let mut subscriber = Subscriber::new(FRAME);
    let write = |subscriber: &mut Subscriber, written: usize| {
        let span = subscriber.begin_direct(messages(1..=1)).unwrap();
        assert_eq!(subscriber.end_direct(&span, written), None);
        span
    };
    write(&mut subscriber, FRAME);
    subscriber.wait(STALL_TIMEOUT * 2);
    // All was taken long ago: the time since does not count.
    let span = write(&mut subscriber, 10);
    assert!(matches!(subscriber.push(Block, messages(2..=2)), Pushed::Full(_)));
    subscriber.wait(STALL_TIMEOUT - TICK);
    assert!(matches!(subscriber.push(Block, messages(2..=2)), Pushed::Full(_)));
    subscriber.wait(TICK);
    subscriber.lose(Block, messages(2..=2), 1);
    assert!(subscriber.queue.stalled());
    assert_eq!(subscriber.read_behind(&span.bytes[..10]), "m1 gap1@1");
    assert!(!subscriber.queue.stalled());
}

#[test]
fn who_waits_while_a_message_is_written_past_the_queue_waits_as_long_as_any() {
    let mut subscriber = Subscriber::new(FRAME);
    subscriber.wait(STALL_TIMEOUT * 2);
    let span = subscriber.begin_direct(messages(1..=1)).unwrap();
    let full = |pushed: Pushed| matches!(pushed, Pushed::Full(_));
    assert!(full(subscriber.push(Block, messages(1..=1).from(2))));
    subscriber.wait(STALL_TIMEOUT - TICK);
    assert!(full(subscriber.push(Block, messages(1..=1).from(2))));
    assert_eq!(subscriber.end_direct(&span, FRAME), None);
    subscriber.queue(Block, messages(1..=1).from(2));
    subscriber.reads("m1*2");
}

#[test]
fn what_was_not_written_past_the_queue_is_held_no_more() {
    let mut subscriber = Subscriber::new(FRAME);
    let span = subscriber.begin_direct(messages(1..=1)).unwrap();
    // The account hears of what is in flight, since the queue has changed.
    subscriber.queue.forget_topic(TopicId(40));
    let held = subscriber.queue.queued_bytes();
    assert_eq!(subscriber.queue.account.queued(), held);
    assert!(subscriber.end_direct(&span, 0).is_some());
    assert_eq!(subscriber.queue.account.queued(), held - span.bytes.len());
}
