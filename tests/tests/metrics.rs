//! Metrics: they say what has happened, to the last byte, in formats that others read.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pipebus_client::{Client, Error};
use pipebus_proto::admin::{METRICS, MetricsFormat, MetricsQuestion};
use pipebus_proto::control::{Control, Overflow, Purpose, Reason};
use pipebus_proto::wire::encode_control;
use pipebus_tests::raw::RawClient;
use pipebus_tests::traffic::{Publisher, Subscriber};
use pipebus_tests::{DEADLINE, EVERYONE, OTHER_UID, TestBus, as_user, can_change_user, soon, wait_for, wait_until};

/// What the broker says at one moment.
struct Scrape {
    text: String,
    /// By name and labels, but for the bus's.
    values: BTreeMap<String, f64>,
}

impl Scrape {
    fn of(text: String) -> Scrape {
        let series = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.strip_suffix('}').unwrap().split_once('{').unwrap();
            let others = labels.split_once("\",").map_or(String::new(), |(_, others)| format!("{{{others}}}"));
            (format!("{name}{others}"), value.parse().unwrap())
        });
        let values: BTreeMap<String, f64> = series.collect();
        Scrape { text, values }
    }

    async fn by(client: &Client) -> Scrape {
        let answer = soon("the metrics", client.request(METRICS, "", DEADLINE)).await.unwrap();
        Scrape::of(String::from_utf8(answer.payload.to_vec()).unwrap())
    }

    #[track_caller]
    fn get(&self, series: &str) -> f64 {
        *self.values.get(series).unwrap_or_else(|| panic!("no {series} in:\n{}", self.text))
    }

    /// How much more there is than before.
    #[track_caller]
    fn since(&self, before: &Scrape, series: &str) -> f64 {
        self.get(series) - before.get(series)
    }

    /// Those that must never get less.
    fn counters(&self) -> impl Iterator<Item = (&String, f64)> {
        let grows = |name: &str| ["_total", "_bucket", "_count", "_sum"].iter().any(|end| name.ends_with(end));
        self.values.iter().filter(move |(name, _)| grows(name.split('{').next().unwrap())).map(|(n, v)| (n, *v))
    }
}

/// Whether another implementation reads this: the parsers of Prometheus's own client for Python. Says so where it isn't.
#[track_caller]
fn read_by_others(format: MetricsFormat, text: &str) {
    let module = match format {
        MetricsFormat::OpenMetrics => "prometheus_client.openmetrics.parser",
        MetricsFormat::Prometheus => "prometheus_client.parser",
    };
    let python = |script: &str| {
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        python
    };
    if !python(&format!("import {module}")).output().is_ok_and(|imported| imported.status.success()) {
        eprintln!("skipped: no other implementation, which is in python3-prometheus-client");
        return;
    }
    let script = format!(
        "import sys\nfrom {module} import text_string_to_metric_families as read\n\
         for family in read(sys.stdin.read()): print(family.type, len(family.samples))"
    );
    let mut child = python(&script).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let (read, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{complaint}\n{text}");
    let samples: usize = read.lines().map(|line| line.split(' ').nth(1).unwrap().parse::<usize>().unwrap()).sum();
    assert_eq!(samples, text.lines().filter(|line| !line.starts_with('#')).count(), "{read}");
    // In the wrong format counters lose their type.
    assert!(!read.contains("unknown") && read.contains("counter") && read.contains("histogram"), "{read}");
}

#[tokio::test]
async fn both_formats_are_what_others_read_and_say_the_same() {
    let bus = TestBus::start();
    let client = bus.client().await;
    client.publish("a", "b").await.unwrap();
    let cli = |arguments: &[&str]| {
        let output = bus.cli(&[&["metrics"], arguments].concat()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let (open, prometheus) = (cli(&[]), cli(&["--format", "prometheus"]));
    assert!(open.ends_with("\n# EOF\n") && !prometheus.contains("# EOF"));
    read_by_others(MetricsFormat::OpenMetrics, &open);
    read_by_others(MetricsFormat::Prometheus, &prometheus);
    let names = |text: String| Scrape::of(text).values.into_keys().collect::<BTreeSet<_>>();
    assert_eq!(names(open), names(prometheus));

    let question = serde_json::to_vec(&MetricsQuestion { format: MetricsFormat::Prometheus }).unwrap();
    assert!(client.request(METRICS, question, DEADLINE).await.unwrap().payload.starts_with(b"# HELP"));
    let refused = client.request(METRICS, r#"{"format":"html"}"#, DEADLINE).await.unwrap_err();
    assert!(matches!(&refused, Error::Failed(text) if text.contains("format")), "{refused}");
}

#[tokio::test]
async fn what_has_passed_is_counted_to_the_last_byte() {
    let bus = TestBus::start();
    let observer = bus.client().await;
    let mut subscriber = Subscriber::new(&bus, "a", Overflow::Block);
    let mut publisher = Publisher::new(&bus, "a");
    // With the first answer comes the broker's name. Then, what a look itself adds.
    Scrape::by(&observer).await;
    let (first, second) = (Scrape::by(&observer).await, Scrape::by(&observer).await);
    let answer_beside_text = second.since(&first, "pipebus_sent_bytes_total") - first.text.len() as f64;

    let ping = Control::Ping { token: 7 };
    let (said, heard) = (encode_control(&ping).len(), encode_control(&Control::Pong { token: 7 }).len());
    let (mut written, mut read) = (2 * said, 2 * heard);
    let sizes = [0, 1, 100, 5_000, 40_000, 100_000, 600_000];
    for size in sizes {
        let bytes = publisher.next(&vec![1; size]);
        written += bytes.len();
        let mut left = bytes.len();
        std::thread::scope(|scope| {
            scope.spawn(|| publisher.client.write(&bytes));
            // With the first come the names of topic and sender.
            while left > 0 {
                let frame = subscriber.client.next_frame().unwrap();
                read += frame.head.frame_bytes();
                left -= if frame.head.sender == publisher.id { frame.head.frame_bytes() } else { 0 };
            }
        });
    }
    // Whoever hears the answer knows that all before it has been counted.
    for client in [&mut publisher.client, &mut subscriber.client] {
        client.say(&ping);
        assert_eq!(client.hear(), Some(Control::Pong { token: 7 }));
    }
    let mut looks = vec![Scrape::by(&observer).await];
    let by_traffic = |looks: &[Scrape], series: &str| {
        looks.last().unwrap().since(&second, series) - second.since(&first, series) * looks.len() as f64
    };
    let sent = |looks: &[Scrape]| {
        let before = std::iter::once(&second).chain(looks).take(looks.len());
        let answers: f64 = before.map(|scrape| scrape.text.len() as f64 + answer_beside_text).sum();
        looks.last().unwrap().since(&second, "pipebus_sent_bytes_total") - answers
    };
    // The answer itself may be counted a moment after it has come.
    wait_until("the last answer to be counted", async || {
        looks.push(Scrape::by(&observer).await);
        sent(&looks) >= read as f64
    })
    .await;
    assert_eq!(sent(&looks), read as f64);
    assert_eq!(by_traffic(&looks, "pipebus_messages_received_total"), sizes.len() as f64);
    assert_eq!(by_traffic(&looks, "pipebus_messages_sent_total"), sizes.len() as f64);
    assert_eq!(by_traffic(&looks, "pipebus_received_bytes_total"), written as f64);
    assert_eq!(by_traffic(&looks, "pipebus_control_frames_received_total"), 2.0);
    let third = looks.pop().unwrap();
    assert_eq!((third.get("pipebus_instances"), third.get("pipebus_subscriptions")), (3.0, 1.0));
    assert_eq!((third.get("pipebus_users"), third.get("pipebus_topics")), (1.0, 1.0));
    assert_eq!((third.get("pipebus_queued_bytes"), third.get("pipebus_messages_dropped_total")), (0.0, 0.0));
}

#[tokio::test]
async fn what_is_counted_never_gets_less_when_clients_leave() {
    let bus = TestBus::start_with(&["queue.bytes_max=65536"]);
    let observer = bus.client().await;
    let mut before = Scrape::by(&observer).await;
    let mut check = |now: Scrape| {
        for (series, value) in before.counters() {
            assert!(now.get(series) >= value, "{series} was {value} and is {}", now.get(series));
        }
        before = now;
    };
    for round in 1..=3 {
        let subscriber = Subscriber::new(&bus, "a", Overflow::DropNewest);
        let mut publisher = Publisher::new(&bus, "a");
        for _ in 0..50 {
            publisher.send(&[0; 10_000]);
        }
        publisher.flush();
        check(Scrape::by(&observer).await);
        drop((subscriber, publisher));
        wait_until("both to be gone", async || {
            let now = Scrape::by(&observer).await;
            let gone = now.get("pipebus_instances") == 1.0;
            check(now);
            gone
        })
        .await;
        let now = Scrape::by(&observer).await;
        let ended: f64 =
            now.values.iter().filter(|(n, _)| n.starts_with("pipebus_disconnections")).map(|(_, v)| v).sum();
        assert_eq!(
            (now.get("pipebus_connections_total"), ended),
            (1.0 + 2.0 * f64::from(round), 2.0 * f64::from(round))
        );
        assert!(now.get("pipebus_messages_dropped_total") >= 20.0 * f64::from(round));
        check(now);
    }
}

/// Publishes so many messages, each once the one before has arrived.
fn one_by_one(publisher: &mut Publisher, subscriber: &mut Subscriber, messages: u64, size: usize) {
    for _ in 0..messages {
        publisher.send(&vec![0; size]);
        let message = subscriber.next_message().unwrap();
        assert_eq!(message.sequence, publisher.sequence);
    }
    // Whichever of the two has written them, it has told of them now.
    publisher.flush();
    subscriber.client.say(&Control::Ping { token: 0 });
    assert_eq!(subscriber.client.hear(), Some(Control::Pong { token: 0 }));
}

#[tokio::test]
async fn one_message_in_64_that_come_alone_is_timed_whichever_way_it_goes() {
    let bus = TestBus::start();
    let observer = bus.client().await;
    let mut timed = 0.0;
    // The first of each goes through the queue, with the names that it bears; the others past it, or as pages.
    for size in [100, 65_536] {
        let topic = format!("of/{size}");
        let mut subscriber = Subscriber::new(&bus, &topic, Overflow::Block);
        let mut publisher = Publisher::new(&bus, &topic);
        for (messages, more) in [(1, 1.0), (63, 0.0), (1, 1.0), (64, 1.0)] {
            one_by_one(&mut publisher, &mut subscriber, messages, size);
            timed += more;
            let now = Scrape::by(&observer).await;
            assert_eq!(now.get("pipebus_latency_seconds_count"), timed, "after {} of {size}", publisher.sequence);
        }
    }
    let now = Scrape::by(&observer).await;
    let sum = now.get("pipebus_latency_seconds_sum");
    assert!(sum > timed * 100e-9 && sum < timed * DEADLINE.as_secs_f64(), "{timed} took {sum} s");
}

#[tokio::test]
async fn a_message_that_waits_for_its_subscriber_is_in_the_bucket_of_its_time() {
    const WAIT: Duration = Duration::from_millis(1200);
    let bus = TestBus::start();
    let observer = bus.client().await;
    let mut slow = Subscriber::new(&bus, "a", Overflow::Block);
    let mut flood = Publisher::new(&bus, "a");
    for _ in 0..30 {
        flood.send(&[0; 10_000]);
    }
    flood.flush();
    let before = Scrape::by(&observer).await;
    assert!(before.get("pipebus_queued_bytes") >= 200_000.0, "{}", before.text);
    assert!(before.get("pipebus_queue_fullest_ratio") > 0.04, "{}", before.text);

    // Its first message is timed, and behind all that.
    let mut publisher = Publisher::new(&bus, "a");
    publisher.send(b"late");
    publisher.flush();
    let sent = tokio::time::Instant::now();
    tokio::time::sleep(WAIT).await;
    for _ in 0..31 {
        slow.next_message().unwrap();
    }
    let at_most = sent.elapsed() + Duration::from_secs(1);
    wait_until("the message to be told of", async || {
        Scrape::by(&observer).await.since(&before, "pipebus_latency_seconds_count") > 0.0
    })
    .await;
    let after = Scrape::by(&observer).await;
    assert_eq!(after.since(&before, "pipebus_latency_seconds_count"), 1.0);
    assert_eq!(after.since(&before, "pipebus_latency_seconds_bucket{le=\"1.048576\"}"), 0.0);
    let took = after.since(&before, "pipebus_latency_seconds_sum");
    assert!((WAIT.as_secs_f64()..at_most.as_secs_f64()).contains(&took), "{took} s");
}

#[tokio::test]
async fn who_waits_and_who_is_stalled_is_seen_while_it_is_so() {
    let bus = TestBus::start_with(&["queue.bytes_max=65536", "queue.stall_timeout_ms=1000"]);
    let observer = bus.client().await;
    let mut slow = Subscriber::new(&bus, "a", Overflow::Block);
    let mut publisher = Publisher::new(&bus, "a");
    let frames: Vec<u8> = (0..40).flat_map(|_| publisher.next(&[0; 10_000])).collect();
    let sees = async |series: &str, value: f64| {
        wait_until(series, async || Scrape::by(&observer).await.get(series) == value).await;
    };
    let writing = std::thread::spawn(move || publisher.client.write(&frames));
    // It waits until the stall time-out; then what it sends is dropped, and it waits no more.
    sees("pipebus_publishers_waiting", 1.0).await;
    sees("pipebus_instances_stalled", 1.0).await;
    sees("pipebus_publishers_waiting", 0.0).await;
    writing.join().unwrap();
    assert!(Scrape::by(&observer).await.get("pipebus_messages_dropped_total") > 0.0);
    slow.next_message().unwrap();
    sees("pipebus_instances_stalled", 0.0).await;
}

#[tokio::test]
async fn what_is_refused_is_counted_by_its_reason() {
    if !can_change_user() {
        return;
    }
    let rules = "policy.rules=[{who=['owner','root'],allow=['all']},\
                 {who=['uid:65534'],allow=['connect','request'],topics=['ask/**']},{who=['uid:65534'],allow=['connect']}]";
    let bus = TestBus::start_with(&["door.access=everyone", rules]);
    let observer = bus.client().await;
    let before = Scrape::by(&observer).await;

    // Not let in.
    let stranger = RawClient::prepare(&bus.place()).try_to_arrive_as(OTHER_UID - 1);
    assert!(matches!(stranger, Some(Control::Refused { reason: Reason::Forbidden, .. })), "{stranger:?}");
    let nobody = RawClient::without_fifos(&bus.place());
    nobody.knock();
    // Let in, and refused this and that.
    let (mut other, _) = RawClient::connect_as(&bus.place(), OTHER_UID);
    for topic in ["a", "a//b"] {
        other.say(&Control::Declare { token: 1, topic: topic.to_owned(), purpose: Purpose::Publish });
        assert!(matches!(other.hear(), Some(Control::Refused { .. })));
    }
    other.write(&[0xff; 64]);
    while other.next_frame().is_some() {}
    assert!(matches!(observer.request("nobody/serves", "", DEADLINE).await, Err(Error::NoServer { .. })));

    let wanted = [
        ("pipebus_clients_refused_total{reason=\"forbidden\"}", 1.0),
        ("pipebus_knocks_unfit_total", 1.0),
        ("pipebus_refusals_total{reason=\"forbidden\"}", 1.0),
        ("pipebus_refusals_total{reason=\"name\"}", 1.0),
        ("pipebus_refusals_total{reason=\"protocol\"}", 1.0),
        ("pipebus_disconnections_total{cause=\"protocol\"}", 1.0),
        ("pipebus_requests_failed_total{reason=\"no_server\"}", 1.0),
    ];
    wait_until("all to be counted", async || {
        let now = Scrape::by(&observer).await;
        wanted.iter().all(|(series, _)| now.since(&before, series) > 0.0)
    })
    .await;
    let now = Scrape::by(&observer).await;
    for (series, times) in wanted {
        assert_eq!(now.since(&before, series), times, "{series}");
    }
    let others: f64 = now.values.iter().filter(|(name, _)| name.contains("refus")).map(|(_, value)| value).sum();
    assert_eq!(others, 4.0, "nothing else was refused:\n{}", now.text);
}

#[test]
fn who_may_not_ask_is_told_no() {
    if !can_change_user() {
        return;
    }
    let bus = TestBus::start_with(&EVERYONE);
    let refused = as_user(&mut bus.cli(&["metrics"]), OTHER_UID).output().unwrap();
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    assert!(refused.stdout.is_empty() && String::from_utf8_lossy(&refused.stderr).contains(METRICS), "{refused:?}");
}

/// A bus whose broker writes its metrics often.
fn writing_bus(path: &Path) -> TestBus {
    let file = format!("metrics.file={}", path.display());
    TestBus::start_with(&[&file, "metrics.interval_ms=1"])
}

#[test]
fn the_file_is_replaced_as_a_whole_and_gone_with_the_broker() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipebus.prom");
    let mut bus = writing_bus(&path);
    wait_for("the file", || path.exists().then_some(()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    let start = tokio::time::Instant::now();
    let mut texts = BTreeSet::new();
    while texts.len() < 300 {
        let text = fs::read_to_string(&path).unwrap();
        // How long the broker was on a processor: each time more.
        let last = text.lines().last().unwrap_or_default();
        let is_whole = text.starts_with("# HELP pipebus_build_info ") && text.ends_with('\n');
        assert!(is_whole && last.starts_with("pipebus_process_cpu_seconds_total{"), "a part of it:\n{text}");
        texts.insert(last.to_owned());
        assert!(start.elapsed() < DEADLINE, "it is replaced too seldom: {} times", texts.len());
    }
    read_by_others(MetricsFormat::Prometheus, &fs::read_to_string(&path).unwrap());

    // Who is killed leaves it, and who comes next takes it over.
    bus.kill_broker();
    let left = Scrape::of(fs::read_to_string(&path).unwrap());
    bus.start_broker();
    wait_for("it to be of the next broker", || {
        let now = Scrape::of(fs::read_to_string(&path).unwrap());
        (now.get("pipebus_start_time_seconds") > left.get("pipebus_start_time_seconds")).then_some(())
    });
    assert!(bus.terminate_broker().wait().success());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "something is left");
}

#[test]
fn a_file_that_cannot_be_written_is_told_of_once_and_harms_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("later");
    let path = folder.join("pipebus.prom");
    let bus = writing_bus(&path);
    let told = |text: &str| bus.log().matches(text).count();
    for episode in 1..=2 {
        wait_for("the broker to say so", || (told("can't be written") == episode).then_some(()));
        assert!(bus.cli(&["pub", "a", "b"]).status().unwrap().success());
        fs::create_dir(&folder).unwrap();
        wait_for("the file", || path.exists().then_some(()));
        wait_for("the broker to say that, too", || (told("are written again") == episode).then_some(()));
        assert_eq!(told("can't be written"), episode, "it says so again and again");
        // It may be just about to write there.
        wait_for("the folder to go", || fs::remove_dir_all(&folder).ok());
    }
}

#[test]
fn nothing_is_written_through_links_of_others() {
    let directory = tempfile::tempdir().unwrap();
    let of = |name: &str| directory.path().join(name);
    fs::write(of("others"), "others").unwrap();
    std::os::unix::fs::symlink(of("others"), of("pipebus.prom")).unwrap();
    std::os::unix::fs::symlink(of("others"), of("pipebus.prom.tmp")).unwrap();
    let _bus = writing_bus(&of("pipebus.prom"));
    wait_for("the file", || fs::symlink_metadata(of("pipebus.prom")).unwrap().is_file().then_some(()));
    assert_eq!(fs::read_to_string(of("others")).unwrap(), "others");
}

#[tokio::test]
async fn many_who_ask_at_once_get_whole_answers_while_others_come_and_go() {
    let bus = TestBus::start();
    let goes_on = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while goes_on.load(Ordering::Relaxed) {
                let mut publisher = Publisher::new(&bus, "a");
                publisher.send(b"b");
                publisher.flush();
            }
        });
        let asking = [(); 4].map(|()| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let client = bus.client().await;
                    let mut before = Scrape::by(&client).await;
                    for _ in 0..50 {
                        let now = Scrape::by(&client).await;
                        assert_eq!(now.values.len(), before.values.len());
                        let less = before.counters().find(|(series, value)| now.get(series) < *value);
                        assert!(less.is_none(), "{less:?}, then less:\n{}", now.text);
                        before = now;
                    }
                });
            })
        });
        let ended = asking.map(|asking| asking.join());
        goes_on.store(false, Ordering::Relaxed);
        ended.into_iter().for_each(|ended| ended.unwrap());
    });
}

#[test]
fn the_document_and_the_broker_name_the_same_metrics() {
    let document = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let document = fs::read_to_string(document).unwrap();
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `pipebus_"));
    let told: BTreeSet<(String, String)> = rows
        .map(|row| {
            let (name, rest) = row.split_once('`').unwrap();
            (format!("pipebus_{name}"), rest.split('|').nth(1).unwrap().trim().to_owned())
        })
        .collect();
    let bus = TestBus::start();
    let output = bus.cli(&["metrics", "--format", "prometheus"]).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let said = output.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(|line| {
        let (name, kind) = line.split_once(' ').unwrap();
        (name.to_owned(), kind.to_owned())
    });
    assert_eq!(told, said.collect());
    // And what is asked of them in examples is there.
    for word in document.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        let is_there = |name: &str| told.iter().any(|(known, _)| known == name);
        let part = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
        let is_name = word.starts_with("pipebus_") && word != "pipebus_";
        assert!(!is_name || is_there(word) || part.is_some_and(is_there), "{word} is no metric");
    }
}
