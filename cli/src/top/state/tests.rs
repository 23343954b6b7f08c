use std::f64::consts::TAU;

use pipebus_client::{Identity, Overflow};
use pipebus_proto::admin::{InstanceStatus, SubscriptionStatus, UserStatus};

use super::*;
use crate::top::keys::Key;
use crate::top::list::FILTER_CHARACTERS_MAX;

/// A sample of a broker with this process id, so many milliseconds after its start.
pub(in crate::top) fn sample(pid: u32, uptime_ms: u64, instances: Vec<InstanceStatus>) -> Sample {
    let sum = |of: fn(&InstanceStatus) -> u64| instances.iter().map(of).sum::<u64>();
    let status = Status {
        version: "0.1.0".into(),
        pid,
        bus: "/run/pipebus".into(),
        uptime_ms,
        instances: instances.len() as u64,
        instances_max: 16_384,
        topics: 2,
        subscriptions: sum(|instance| instance.subscriptions.len() as u64),
        messages_in: sum(|instance| instance.messages_in),
        bytes_in: sum(|instance| instance.bytes_in),
        messages_out: sum(|instance| instance.messages_out),
        bytes_out: sum(|instance| instance.bytes_out),
        dropped: sum(|instance| instance.dropped),
        queued_bytes: sum(|instance| instance.queued_bytes),
        memory_bytes: Some(12 << 20),
        ..Status::default()
    };
    let names = [(0, "root"), (33, "www-data"), (1000, "käthe")];
    let names = names.map(|(uid, name)| (Identity::Unix { uid }, name.to_owned()));
    Sample { status, instances, topics: None, users: None, names: Names::known(names.into()) }
}

pub(in crate::top) fn instance(id: u32, name: &str, uid: u32, uptime_ms: u64) -> InstanceStatus {
    InstanceStatus {
        id,
        name: name.into(),
        identity: Identity::Unix { uid },
        pid: Some(4000 + id),
        connected_ms: uptime_ms.saturating_sub(500),
        subscriptions: Vec::new(),
        messages_in: 0,
        bytes_in: 0,
        messages_out: 0,
        bytes_out: 0,
        dropped: 0,
        queued_bytes: 0,
        queue_bytes_max: 4 << 20,
        stalled: false,
    }
}

fn subscription(pattern: &str, overflow: Overflow, serves: bool) -> SubscriptionStatus {
    SubscriptionStatus { pattern: pattern.into(), overflow, serves, monitors: false }
}

/// What a wave has brought by this second: so many a second on average, more and less in turn.
fn by_then(second: u64, average: f64) -> u64 {
    (0..second).map(|second| (average * (1.0 + 0.8 * (second as f64 * TAU / 20.0).sin())).round() as u64).sum()
}

/// A bus with all that can be seen on one, as it is this many seconds after its start.
fn busy_instances(second: u64) -> Vec<InstanceStatus> {
    let ms = 1000 * second;
    let (fast, slow) = (by_then(second, 12_300.0), by_then(second, 42.0));
    let publisher = InstanceStatus { messages_in: fast, bytes_in: fast * 100, ..instance(3, "thermometer", 0, ms) };
    let subscriber = InstanceStatus {
        messages_out: fast,
        bytes_out: fast * 100,
        queued_bytes: 3 << 20,
        subscriptions: vec![
            subscription("sensors/**", Overflow::Block, false),
            subscription("logs/*/error", Overflow::DropOldest, false),
        ],
        ..instance(4, "pipebus sub\u{1b}[2J", 1000, ms)
    };
    let stalled = InstanceStatus {
        messages_out: 1000,
        bytes_out: 100_000,
        dropped: fast,
        queued_bytes: 4 << 20,
        stalled: true,
        subscriptions: vec![subscription("sensors/kitchen/*", Overflow::DropNewest, false)],
        ..instance(17, "plotter", 33, ms)
    };
    let server = InstanceStatus {
        messages_in: slow,
        messages_out: slow,
        bytes_in: slow * 90,
        bytes_out: slow * 60,
        pid: None,
        subscriptions: vec![subscription("host/uptime", Overflow::Block, true)],
        ..instance(120, "温度計のとても長い名前サーバー", 33, ms)
    };
    let own = InstanceStatus { messages_in: 2 * second, bytes_in: 100 * second, ..instance(121, "pipebus top", 0, ms) };
    vec![publisher, subscriber, stalled, server, own]
}

/// A minute of that bus.
pub(in crate::top) fn busy() -> State {
    let start = now();
    let mut state = State::new(sample(4711, 0, busy_instances(0)), InstanceRow::SORT, INTERVALS[3], start);
    state.handle_connected(121);
    for second in 1..=60 {
        let mut next = sample(4711, 1000 * second, busy_instances(second));
        (next.topics, next.users) = (Some(topics()), Some(users()));
        let now = start + Duration::from_secs(second);
        state.handle_time(now);
        state.handle_sample(next, now);
    }
    state
}

fn users() -> Vec<UserStatus> {
    let user = |uid, instances, queued_bytes| UserStatus {
        identity: Identity::Unix { uid },
        instances,
        subscriptions: 2 * instances,
        topics: 1,
        queued_bytes,
        queued_bytes_max: 64 << 20,
    };
    vec![user(0, 2, 0), user(1000, 1, 3 << 20), user(33, 2, 4 << 20)]
}

fn topics() -> Vec<TopicStatus> {
    let topic = |id, name: &str, publishers, subscribers, servers| TopicStatus {
        id,
        name: name.into(),
        publishers,
        requesters: servers,
        subscribers,
        servers,
    };
    vec![topic(20, "sensors/kitchen/temp", 1, 2, 0), topic(21, "host/uptime", 0, 0, 1)]
}

fn now() -> Instant {
    Instant::now()
}

pub(in crate::top) fn press(state: &mut State, keys: &str) -> Vec<Effect> {
    keys.chars().filter_map(|letter| state.handle_key(Key::Character(letter))).collect()
}

fn shown(state: &State) -> Vec<u32> {
    (0..).map_while(|position| state.instances.row(position)).map(|row| row.status.id).collect()
}

fn one(id: u32, messages_in: u64, uptime_ms: u64) -> Vec<InstanceStatus> {
    vec![InstanceStatus { messages_in, ..instance(id, "x", 0, uptime_ms) }]
}

#[test]
fn rates_are_by_the_brokers_clock_however_late_its_answer_comes() {
    let start = now();
    let mut state = State::new(sample(1, 10_000, one(7, 100, 10_000)), 0, INTERVALS[3], start);
    assert_eq!((state.rates, state.instances.row(0).unwrap().rates), (None, None));
    state.handle_sample(sample(1, 12_000, one(7, 140, 12_000)), start + Duration::from_secs(9));
    assert_eq!(state.rates.unwrap().messages_in, 20.0);
    assert_eq!(state.instances.row(0).unwrap().rates.unwrap().messages_in, 20.0);
}

#[test]
fn who_has_come_since_the_last_sample_has_a_rate_at_once() {
    let mut state = State::new(sample(1, 10_000, Vec::new()), 0, INTERVALS[3], now());
    state.handle_sample(sample(1, 11_000, one(7, 50, 11_000)), now());
    assert_eq!(state.instances.row(0).unwrap().rates.unwrap().messages_in, 50.0);
}

#[test]
fn who_has_left_is_forgotten() {
    let mut state = busy();
    state.handle_sample(sample(4711, 61_000, Vec::new()), now());
    assert_eq!((shown(&state), state.instances.rows().len()), (vec![], 0));
}

#[test]
fn another_broker_makes_the_rates_begin_anew_and_gives_nobody_the_history_of_another() {
    let mut state = State::new(sample(1, 10_000, one(7, 900, 10_000)), 0, INTERVALS[3], now());
    state.handle_sample(sample(1, 12_000, one(7, 940, 12_000)), now());
    assert_eq!(state.instances.row(0).unwrap().histories.messages_in.newest_first().count(), 2);
    state.handle_sample(sample(2, 13_000, one(7, 1000, 13_000)), now() + Duration::from_secs(3));
    let row = state.instances.row(0).unwrap();
    assert_eq!((state.rates, row.rates, row.histories.messages_in.newest_first().count()), (None, None, 0));
    // The bus has a history of its own, in which nothing came while there was nobody.
    assert_eq!(state.histories.messages_in.newest_first().collect::<Vec<_>>()[..2], [0.0, 0.0]);
    state.handle_sample(sample(2, 14_000, one(7, 1010, 14_000)), now());
    assert_eq!(state.rates.unwrap().messages_in, 10.0);
}

#[test]
fn the_same_process_that_was_started_later_is_another_broker() {
    let mut state = State::new(sample(1, 10_000, one(7, 100, 10_000)), 0, INTERVALS[3], now());
    state.handle_sample(sample(1, 200, one(7, 100, 200)), now());
    assert_eq!(state.rates, None);
}

#[test]
fn a_disconnection_is_asked_about_and_ordered_only_with_y() {
    let mut state = busy();
    press(&mut state, "d");
    let Overlay::Confirm(target) = state.overlay.clone() else { panic!("not asked") };
    assert_eq!((target.id, target.name.as_str()), (3, "thermometer"));
    for key in [Key::Enter, Key::Down, Key::Character('d'), Key::Character(' ')] {
        assert_eq!((state.handle_key(key), &state.overlay), (None, &Overlay::Confirm(target.clone())));
    }
    assert_eq!(press(&mut state, "n"), []);
    assert_eq!(state.overlay, Overlay::None);
    assert_eq!(press(&mut state, "dy"), [Effect::Disconnect(target.clone())]);
    state.handle_outcome(&target, Err("rule 3\u{1b}[2J says no".into()));
    let notice = &state.notice.as_ref().unwrap().text;
    assert_eq!(notice, "not disconnected: 3 thermometer: rule 3\\u{1b}[2J says no");
}

#[test]
fn nobody_is_disconnected_whom_the_question_was_not_about() {
    let mut state = busy();
    press(&mut state, "d");
    state.handle_lost(now());
    assert_eq!((press(&mut state, "y"), &state.overlay), (vec![], &Overlay::None));
    press(&mut state, "d");
    assert_eq!(state.overlay, Overlay::None, "while there is no broker there is no asking");
    state.handle_connected(1);
    press(&mut state, "d");
    state.handle_sample(sample(9, 1, one(3, 0, 1)), now());
    assert_eq!((press(&mut state, "y"), &state.overlay), (vec![], &Overlay::None));
}

#[test]
fn this_program_does_not_disconnect_itself() {
    let mut state = busy();
    press(&mut state, "/top");
    state.handle_key(Key::Enter);
    press(&mut state, "d");
    assert_eq!(state.overlay, Overlay::None);
    assert!(state.notice.as_ref().unwrap().text.contains("this program itself"));
}

#[test]
fn keys_sort_reverse_and_filter() {
    let mut state = busy();
    assert_eq!(shown(&state), [3, 4, 120, 121, 17]);
    press(&mut state, "r");
    assert_eq!(shown(&state), [17, 121, 120, 3, 4]);
    press(&mut state, ">>");
    assert_eq!(shown(&state)[0], 17, "the only one who loses something");
    for _ in 0..20 {
        state.handle_key(Key::Left);
    }
    assert_eq!(shown(&state), [3, 4, 17, 120, 121]);
    press(&mut state, "/KITCHEN");
    assert_eq!((shown(&state), &state.overlay), (vec![17], &Overlay::Filter));
    state.handle_key(Key::Backspace);
    state.handle_key(Key::Enter);
    assert_eq!((state.list().filter(), &state.overlay), ("KITCHE", &Overlay::None));
    assert_eq!(state.handle_key(Key::Escape), None, "the filter goes first");
    assert_eq!((shown(&state).len(), state.handle_key(Key::Escape)), (5, Some(Effect::Quit)));
}

#[test]
fn a_filter_takes_the_letters_that_are_keys_elsewhere_and_no_more_than_it_holds() {
    let mut state = busy();
    assert_eq!(press(&mut state, "/q"), []);
    press(&mut state, &"x".repeat(500));
    assert_eq!(state.list().filter().len(), FILTER_CHARACTERS_MAX);
    assert_eq!(state.handle_key(Key::Interrupt), Some(Effect::Quit));
}

#[test]
fn all_about_an_instance_stays_when_it_leaves() {
    let mut state = busy();
    state.handle_key(Key::End);
    state.handle_key(Key::Enter);
    assert_eq!(state.detail.as_ref().unwrap().row.status.id, 17);
    state.handle_sample(sample(4711, 61_000, busy_instances(61).split_off(3)), now());
    let detail = state.detail.as_ref().unwrap();
    assert!(detail.has_left && detail.row.status.name == "plotter");
    press(&mut state, "d");
    assert_eq!(state.overlay, Overlay::None);
    assert_eq!((state.handle_key(Key::Escape), state.detail.is_none()), (None, true));
}

#[test]
fn a_pause_ends_with_a_question_and_intervals_have_ends() {
    let mut state = busy();
    assert_eq!((press(&mut state, "p"), state.is_paused), (vec![], true));
    assert_eq!((press(&mut state, "p"), state.is_paused), (vec![Effect::Ask], false));
    press(&mut state, &"+".repeat(20));
    assert_eq!(state.interval, INTERVALS[0]);
    press(&mut state, &"-".repeat(20));
    assert_eq!(state.interval, INTERVALS[8]);
}

#[test]
fn a_view_that_is_turned_to_is_asked_for() {
    let mut state = busy();
    assert_eq!((press(&mut state, "3"), state.view), (vec![Effect::Ask], View::Users));
    assert_eq!((state.handle_key(Key::Tab), state.view), (Some(Effect::Ask), View::Instances));
    state.handle_key(Key::BackTab);
    state.handle_key(Key::BackTab);
    assert_eq!(state.view, View::Topics);
}

#[test]
fn what_is_not_true_any_more_is_said() {
    let mut state = busy();
    let start = state.now;
    assert_eq!(state.trouble(), None);
    state.handle_asked(start);
    state.handle_time(start + Duration::from_secs(1));
    assert_eq!(state.trouble(), None);
    state.handle_time(start + Duration::from_secs(3));
    assert_eq!(state.trouble().unwrap(), "the broker has not answered for 3 s");
    state.handle_lost(start + Duration::from_secs(3));
    state.handle_time(start + Duration::from_secs(8));
    let lost = "the connection to the broker was lost 5 s ago; connecting again";
    assert_eq!(state.trouble().unwrap(), lost);
    state.handle_connected(1);
    assert_eq!(state.trouble(), None);
    state.handle_failure("not allowed: rule 3".into());
    assert_eq!(state.trouble().unwrap(), "not allowed: rule 3; asking again");
    state.handle_sample(sample(4711, 61_000, Vec::new()), state.now);
    assert_eq!(state.trouble(), None);
}

#[test]
fn a_notice_goes_by_itself_or_with_a_key() {
    let mut state = busy();
    let target = Target { id: 3, name: "x".into(), user: "root".into(), pid: None };
    state.handle_outcome(&target, Ok(()));
    assert_eq!(state.notice.as_ref().unwrap().text, "disconnected: 3 x");
    state.handle_time(state.now + Duration::from_secs(9));
    assert!(state.notice.is_some());
    state.handle_time(state.now + Duration::from_secs(1));
    assert!(state.notice.is_none());
    state.handle_outcome(&target, Ok(()));
    state.handle_key(Key::Down);
    assert!(state.notice.is_none());
}
