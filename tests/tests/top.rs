//! `pipebus top` on a real terminal.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use pipebus_client::{Client, Link, Overflow};
use pipebus_proto::admin::{DISCONNECT, DRAIN, DisconnectOrder, INSTANCES, InstanceStatus};
use pipebus_tests::screen::Screen;
use pipebus_tests::{DEADLINE, EVERYONE, OTHER_UID, TestBus, as_user, binary, can_change_user, soon};
use rustix::process::{Pid, Signal, kill_process};

/// How often the broker is asked in these stories.
const QUICKLY: &str = "--interval 100ms";

/// A bus on which one client publishes all the time and another reads it.
struct Busy {
    bus: TestBus,
    publisher: Client,
    _subscriber: Client,
}

impl Busy {
    async fn start() -> Busy {
        let bus = TestBus::start();
        let publisher = bus.named_client("thermometer").await;
        let subscriber = bus.named_client("display\u{202e}x").await;
        let mut subscription = subscriber.subscribe_with("sensors/**", Overflow::DropOldest).await.unwrap();
        tokio::spawn(async move { while subscription.next().await.is_some() {} });
        let topic = publisher.publisher("sensors/kitchen/temp").unwrap();
        tokio::spawn(async move {
            while topic.publish("21.5").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        Busy { bus, publisher, _subscriber: subscriber }
    }

    /// Shows the bus on a terminal of this size.
    fn on_screen(&self, width: u16, height: u16) -> Screen {
        let screen = Screen::new(width, height);
        screen.run(&self.top());
        screen.wait_for_text("thermometer");
        screen
    }

    fn top(&self) -> String {
        format!("{} --bus {} top {QUICKLY}", binary("pipebus").display(), self.bus.address())
    }
}

/// The names in a list, from above.
fn names(shown: &str) -> Vec<&str> {
    let rows = shown.lines().skip_while(|line| !line.contains(" ID NAME")).skip(1);
    rows.map_while(|line| line.split_whitespace().nth(1)).take_while(|name| *name != "detail").collect()
}

/// Whether something has one of the colours that a terminal has names for.
fn has_colour(text: &str) -> bool {
    text.contains("\u{1b}[38;5;") || (30..=37).any(|colour| text.contains(&format!("\u{1b}[{colour}m")))
}

/// The program that has taken the screen.
fn top_on(screen: &Screen) -> Pid {
    Pid::from_raw(screen.processes()[1]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_seen_with_their_traffic_and_sorted_filtered_and_opened_by_keys() {
    if !Screen::is_possible() {
        return;
    }
    let busy = Busy::start().await;
    let screen = busy.on_screen(80, 24);
    let has_rate = |name: &str, column: usize, shown: &str| {
        let row = shown.lines().find(|line| line.contains(name))?;
        let rate: f64 = row.split_whitespace().nth(column)?.parse().ok()?;
        (rate > 50.0).then_some(())
    };
    screen.wait("what comes in", |shown| has_rate("thermometer", 4, shown));
    screen.wait("what goes out, of a name that can do no harm", |shown| has_rate("display\\u{202e}x", 5, shown));
    screen.press(&["Left", "Left", "Left", "Left", "Left"]);
    screen.wait_for_text("NAME▲");
    let sorted = screen.shown();
    let display = names(&sorted)[0].to_owned();
    assert_eq!(names(&sorted), [display.as_str(), "pipebus", "thermometer"]);
    screen.press(&["r"]);
    screen.wait("the other order", |shown| (names(shown) == ["thermometer", "pipebus", &display]).then_some(()));
    screen.press(&["/", "sens", "Enter"]);
    screen.wait("those with that in their patterns", |shown| (names(shown) == [&display]).then_some(()));
    screen.wait_for_text("\"sens\": 1 of 3");
    screen.press(&["Enter"]);
    screen.wait_for_text("drop-oldest sensors/**");
    screen.press(&["2"]);
    screen.wait_for_text("sensors/kitchen/temp");
    screen.press(&["3"]);
    screen.wait_for_text("INSTANCES");
    screen.press(&["?"]);
    screen.wait_for_text("Keys");
    assert!(has_colour(&screen.coloured()));
    screen.press(&["Escape"]);
    soon("an order", busy.publisher.request(DRAIN, "{}", DEADLINE)).await.unwrap();
    screen.wait_for_text("draining, waits for 1 ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnection_happens_after_y_and_not_after_n() {
    if !Screen::is_possible() {
        return;
    }
    let busy = Busy::start().await;
    let screen = busy.on_screen(80, 24);
    let mut link = busy.publisher.link();
    screen.press(&["/", "thermo", "Enter", "d"]);
    screen.wait_for_text("Disconnect?");
    screen.press(&["n"]);
    screen.wait("the question to go", |shown| (!shown.contains("Disconnect?")).then_some(()));
    assert!(matches!(*link.borrow(), Link::Up { .. }));
    screen.press(&["d"]);
    screen.wait("whom it is about", |shown| shown.lines().any(|line| line.contains("│ 1  thermometer")).then_some(()));
    screen.press(&["y"]);
    screen.wait("the outcome", |shown| shown.contains("\n disconnected: 1 thermometer").then_some(()));
    soon("the client to be told", link.wait_for(|link| *link == Link::Closed)).await.unwrap();
    screen.wait("its row to go", |shown| shown.contains("nothing has that in it").then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_is_disconnected_itself_ends_and_says_why() {
    if !Screen::is_possible() {
        return;
    }
    let busy = Busy::start().await;
    let screen = Screen::new(120, 24);
    let settings = screen.settings();
    screen.run(&busy.top());
    screen.wait_for_text("thermometer");
    screen.press(&["/", "top", "Enter", "d"]);
    screen.wait_for_text("that is this program itself");
    let instances = soon("the instances", busy.publisher.request(INSTANCES, "", DEADLINE)).await.unwrap();
    let instances: Vec<InstanceStatus> = instances.json().unwrap();
    let instance = instances.iter().find(|instance| instance.name == "pipebus top").unwrap().id;
    let order = DisconnectOrder { instance, reason: Some("it is late".into()) };
    let order = serde_json::to_vec(&order).unwrap();
    soon("an order", busy.publisher.request(DISCONNECT, order, DEADLINE)).await.unwrap();
    screen.wait_for_text("it is late");
    screen.wait_for_prompt();
    assert_eq!((screen.is_taken(), screen.settings()), ((false, true), settings));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_picture_follows_the_size_of_its_terminal() {
    if !Screen::is_possible() {
        return;
    }
    let busy = Busy::start().await;
    let screen = busy.on_screen(160, 50);
    screen.wait_for_text("PATTERNS");
    screen.resize(80, 24);
    screen.wait("fewer columns", |shown| (!shown.contains("PATTERNS") && shown.contains("LOST SUBS")).then_some(()));
    screen.wait("the keys at the foot", |shown| shown.lines().nth(23)?.contains("q quit").then_some(()));
    screen.resize(40, 10);
    screen.wait("still fewer", |shown| (shown.contains("thermometer") && !shown.contains("USER")).then_some(()));
    for (width, height) in [(20, 4), (3, 1), (1, 1)] {
        screen.resize(width, height);
        screen.wait("too small", |shown| shown.lines().all(|line| !line.contains("NAME")).then_some(()));
    }
    screen.resize(80, 24);
    screen.wait_for_text("LOST SUBS");
    screen.press(&["q"]);
    screen.wait_for_prompt();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_is_as_it_was_however_the_program_ends() {
    if !Screen::is_possible() {
        return;
    }
    let busy = Busy::start().await;
    let screen = Screen::new(80, 24);
    let settings = screen.settings();
    let ends: [(&str, &dyn Fn()); 6] = [
        ("q", &|| screen.press(&["q"])),
        ("Esc", &|| screen.press(&["Escape"])),
        ("Ctrl-C", &|| screen.press(&["C-c"])),
        ("SIGTERM", &|| kill_process(top_on(&screen), Signal::TERM).unwrap()),
        ("SIGINT", &|| kill_process(top_on(&screen), Signal::INT).unwrap()),
        ("SIGHUP", &|| kill_process(top_on(&screen), Signal::HUP).unwrap()),
    ];
    for (name, end) in ends {
        screen.run(&format!("clear; echo before {name}"));
        screen.wait_for_prompt();
        screen.run(&busy.top());
        screen.wait_for_text("thermometer");
        assert_eq!(screen.is_taken(), (true, false), "{name}");
        end();
        screen.wait_for_prompt();
        assert_eq!(screen.is_taken(), (false, true), "{name}");
        let shown = screen.shown();
        assert!(shown.contains(&format!("before {name}")) && !shown.contains("thermometer"), "{name}: {shown}");
        assert_eq!(screen.settings(), settings, "{name}");
        screen.run("echo ended with $?");
        screen.wait("the prompt", |shown| shown.contains("ended with 0").then_some(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_view_gives_the_terminal_back_and_comes_again() {
    if !Screen::is_possible() {
        return;
    }
    let busy = Busy::start().await;
    let screen = Screen::new(80, 24);
    let settings = screen.settings();
    screen.run(&busy.top());
    screen.wait_for_text("thermometer");
    for _ in 0..2 {
        screen.press(&["C-z"]);
        screen.wait_for_text("Stopped");
        screen.wait_for_prompt();
        assert_eq!((screen.is_taken(), screen.settings()), ((false, true), settings.clone()));
        screen.run("fg");
        screen.wait_for_text("thermometer");
        screen.wait("the screen to be taken", |_| (screen.is_taken() == (true, false)).then_some(()));
    }
    screen.press(&["?"]);
    screen.wait_for_text("Keys");
    screen.press(&["q"]);
    screen.wait_for_prompt();
    assert_eq!((screen.is_taken(), screen.settings()), ((false, true), settings));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_says_nothing_leaves_the_keys_alive() {
    if !Screen::is_possible() {
        return;
    }
    let busy = Busy::start().await;
    let screen = busy.on_screen(80, 24);
    busy.bus.broker().signal(Signal::STOP);
    screen.wait_for_text("the broker has not answered for");
    screen.press(&["?"]);
    screen.wait_for_text("Keys");
    screen.press(&["Escape"]);
    screen.wait("the help to go", |shown| (!shown.contains("Keys")).then_some(()));
    busy.bus.broker().signal(Signal::CONT);
    screen.wait("the broker to be there again", |shown| (!shown.contains("has not answered")).then_some(()));
    screen.press(&["q"]);
    screen.wait_for_prompt();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_lost_leaves_its_picture_until_there_is_one_again() {
    if !Screen::is_possible() {
        return;
    }
    let mut busy = Busy::start().await;
    let screen = busy.on_screen(80, 24);
    busy.bus.kill_broker();
    screen.wait_for_text("the connection to the broker was lost");
    assert!(screen.shown().contains("thermometer"));
    busy.bus.start_broker();
    let process = format!("process {} ", busy.bus.broker().0.id());
    screen.wait("the new broker and all who have come back", |shown| {
        (shown.contains(&process) && names(shown).len() == 3 && !shown.contains("was lost")).then_some(())
    });
    screen.press(&["q"]);
    screen.wait_for_prompt();
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_terminal_is_told_what_to_do_instead() {
    let busy = Busy::start().await;
    let output = run(&mut busy.bus.cli(&["top"]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), said.contains("pipebus instances")), (Some(1), true), "{said}");
    assert!(output.stdout.is_empty());
    let output = run(&mut busy.bus.cli(&["top", "--once", "--interval", "200ms"]));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(shown.contains("thermometer") && shown.contains("display\\u{202e}x"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "{shown}");
    let row = shown.lines().find(|line| line.contains("thermometer")).unwrap();
    assert!(row.split_whitespace().nth(4).unwrap().parse::<f64>().unwrap() > 50.0, "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_look_is_told_so_and_the_screen_stays_as_it_is() {
    if !Screen::is_possible() || !can_change_user() {
        return;
    }
    let bus = TestBus::start_with(&EVERYONE);
    let output = run(as_user(&mut bus.cli(&["top", "--once"]), OTHER_UID));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), said.contains("not allowed")), (Some(4), true), "{said}");
    let screen = Screen::new(80, 24);
    let pipebus = binary("pipebus").display().to_string();
    screen.run(&format!("setpriv --reuid {OTHER_UID} --clear-groups {pipebus} --bus {} top", bus.address()));
    screen.wait_for_text("not allowed");
    screen.wait_for_prompt();
    assert_eq!(screen.is_taken(), (false, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_colour_it_is_drawn_without() {
    if !Screen::is_possible() {
        return;
    }
    let busy = Busy::start().await;
    let screen = Screen::new(80, 24);
    screen.run(&format!("NO_COLOR=1 {}", busy.top()));
    screen.wait_for_text("thermometer");
    let coloured = screen.coloured();
    assert!(!has_colour(&coloured), "{coloured:?}");
    assert!(coloured.contains("\u{1b}[1m"), "what is bold is bold without colour, too: {coloured:?}");
}
