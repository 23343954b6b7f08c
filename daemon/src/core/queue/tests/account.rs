//! Queues of one user, which have their room together.

use super::*;

/// Two queues whose user may have so much waiting, one of which has all of it.
fn neighbours(bytes_max: usize) -> (Subscriber, Subscriber, Arc<Account>) {
    let limits = Limits { queued_bytes_per_user_max: bytes_max, ..Limits::none() };
    let account = Arc::new(Account::new(Arc::new(Total::new(&limits)), &limits, start()));
    let [mut full, idle] = [0, 1].map(|_| {
        let mut subscriber = Subscriber::new(1 << 20);
        subscriber.queue.account = account.clone();
        subscriber
    });
    let frames = u64::try_from(bytes_max / FRAME).unwrap();
    full.queue(Block, messages(1..=frames));
    (full, idle, account)
}

#[test]
fn what_one_queue_holds_is_no_room_for_another() {
    let (mut full, mut idle, account) = neighbours(10 * FRAME);
    assert_eq!((account.queued(), account.room()), (10 * FRAME, 0));
    assert!(matches!(idle.push(Block, messages(1..=2)), Pushed::Full(_)));
    full.take(FRAME);
    assert!(matches!(idle.push(Block, messages(1..=2)), Pushed::Full(_)), "it is not written yet");
    full.read(FRAME);
    let Pushed::Full(rest) = idle.push(Block, messages(1..=2)) else { panic!("more than there is room for") };
    assert_eq!(rest.messages(), 1);
    assert_eq!(account.queued(), 10 * FRAME);
    drop((full, idle));
    assert_eq!(account.queued(), 0);
}

#[test]
fn an_idle_queue_takes_a_large_frame_only_while_there_is_any_room() {
    let (mut full, mut idle, account) = neighbours(10 * FRAME);
    idle.lose(DropNewest, message(1, 50 * FRAME), 1);
    full.take(FRAME);
    full.read(FRAME);
    idle.queue(DropNewest, message(2, 50 * FRAME));
    assert_eq!(account.queued(), 59 * FRAME);
    idle.reads("gap1@1 m2");
}

#[test]
fn the_oldest_are_dropped_for_new_ones_though_others_have_all_the_room() {
    let (mut full, mut idle, _) = neighbours(10 * FRAME);
    full.take(2 * FRAME);
    full.read(2 * FRAME);
    idle.queue(DropOldest, messages(1..=2));
    idle.lose(DropOldest, messages(3..=3), 1);
    idle.lose(Latest, messages(4..=4), 1);
    idle.reads("gap2@1 m3 m4");
}

#[test]
fn who_waits_for_room_that_others_have_waits_no_longer_than_for_a_stalled_client() {
    let (_full, mut idle, account) = neighbours(10 * FRAME);
    for _ in 0..4 {
        assert!(matches!(idle.push(Block, messages(1..=1)), Pushed::Full(_)));
        idle.wait(STALL_TIMEOUT / 4);
    }
    idle.lose(Block, messages(1..=1), 1);
    assert_eq!(account.take_reached().last().unwrap().0, Limit::QueuedBytesPerUser);
}

#[test]
fn some_answers_have_room_whatever_else_waits_for_the_user() {
    let (_full, mut idle, _) = neighbours(10 * FRAME);
    let pong = encode_control(&Control::Pong { token: 1 });
    let taken = (0..).take_while(|_| idle.queue.push_control(pong.clone()).is_ok()).count();
    assert_eq!(taken, ANSWER_BYTES_KEPT / pong.len());
}
