//! Each check with facts that are good, and with one of them changed.

use std::path::Path;
use std::time::Duration;

use pipebus_client::{Error, Identity};
use pipebus_proto::admin::{InstanceStatus, Status};
use pipebus_proto::place::Place;
use pipebus_proto::trust::Distrust;
use rustix::fs::FileType;

use super::all;
use crate::doctor::facts::{Answer, Contact, Right};
use crate::doctor::finding::{Finding, Level};
use crate::transport::fifo::doctor::facts::{
    BrokerProcess, Configuration, Facts, Leftovers, Manager, Me, Names, Pipes, Unit,
};
use crate::transport::fifo::processes::{Device, Facts as FileFacts};
use crate::transport::fifo::survey::{Entry, Listening, Survey};

const BROKER: u32 = 77;
const ME: u32 = 1000;
const GROUP: u32 = 500;

fn entry(kind: FileType, mode: u32, uid: u32) -> Entry {
    let device = Device { major: 0, minor: 1 };
    Entry::There(FileFacts { kind, mode, uid, gid: GROUP, device, inode: 1, modified: 0 })
}

/// Changes what is there.
fn change(entry: &mut Entry, change: impl FnOnce(&mut FileFacts)) {
    if let Entry::There(facts) = entry {
        change(facts);
    }
}

fn unit(name: &str, active: &str, file: &str) -> Unit {
    Unit { name: name.into(), is_loaded: true, active: active.into(), file: file.into(), result: "exit-code".into() }
}

/// The system bus, for its group, in which this user is, under systemd.
fn good() -> Facts {
    let right = Answer::Given(Right { allowed: true, on: "some topics or all" });
    Facts {
        address: "system".into(),
        survey: Survey {
            place: Place::new("/run/pipebus"),
            directory: entry(FileType::Directory, 0o755, BROKER),
            door: entry(FileType::Fifo, 0o620, BROKER),
            instances: entry(FileType::Directory, 0o3733, BROKER),
            lock: entry(FileType::RegularFile, 0o600, BROKER),
            holder: Some(4242),
            listening: Listening::Somebody,
            may_connect: Some(true),
        },
        names: Names {
            directory_owner: "pipebus".into(),
            door_owner: "pipebus".into(),
            instances_owner: "pipebus".into(),
            lock_owner: "pipebus".into(),
            door_group: Some("pipebus-users".into()),
        },
        trust: Some(Ok(())),
        me: Me { uid: ME, name: "ann".into(), groups: vec![GROUP], groups_on_file: vec![GROUP], descriptors_max: 1024 },
        leftovers: Some(Leftovers::default()),
        process: Some(BrokerProcess {
            pid: 4242,
            user: "pipebus".into(),
            state: 'S',
            descriptors_max: 65536,
            descriptors: Some(30),
        }),
        contact: Contact::Connected { after: Duration::from_millis(1) },
        status: Answer::Given(status()),
        instances: Answer::Given(vec![instance()]),
        crowd: Answer::Given(Some(("ann".into(), 3))),
        publish: right.clone(),
        subscribe: right,
        pipes: Pipes {
            size_max: Some(1 << 20),
            user_pages_soft: Some(16384),
            user_pages_hard: Some(0),
            protected_fifos: Some(1),
        },
        units: vec![unit("pipebusd.socket", "active", "enabled"), unit("pipebusd.service", "active", "enabled")],
        manager: Manager::System,
        configuration: Configuration::Valid { file: Some("/etc/pipebus/system.toml".into()) },
    }
}

fn status() -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: 4242,
        instances: 5,
        instances_max: 4096,
        uptime_ms: 60_000,
        ..Status::default()
    }
}

fn instance() -> InstanceStatus {
    InstanceStatus {
        id: 1,
        name: "web\n".into(),
        identity: Identity::Unix { uid: ME },
        pid: Some(9),
        connected_ms: 0,
        subscriptions: Vec::new(),
        messages_in: 0,
        bytes_in: 0,
        messages_out: 0,
        bytes_out: 0,
        dropped: 0,
        queued_bytes: 0,
        queue_bytes_max: 0,
        stalled: false,
    }
}

fn with(change: impl FnOnce(&mut Facts)) -> Vec<Finding> {
    let mut facts = good();
    change(&mut facts);
    all(&facts)
}

/// Fails unless this check, and it alone, says that with what mends it.
#[track_caller]
fn check(change: impl FnOnce(&mut Facts), check: &str, level: Level, says: &str, mend: &str) {
    let findings = with(change);
    let finding = findings.iter().find(|finding| finding.check == check).expect("the check says something");
    assert_eq!(finding.level, level, "{finding:?}");
    assert!(finding.what.contains(says), "{finding:?}");
    assert!(finding.mend.as_deref().unwrap_or_default().contains(mend), "{finding:?}");
    let others = findings.iter().filter(|other| other.check != check && other.level > Level::Unknown);
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&Finding>::new());
}

#[track_caller]
fn problem(change: impl FnOnce(&mut Facts), of: &str, says: &str, mend: &str) {
    check(change, of, Level::Problem, says, mend);
}

#[track_caller]
fn warning(change: impl FnOnce(&mut Facts), of: &str, says: &str, mend: &str) {
    check(change, of, Level::Warning, says, mend);
}

#[test]
fn nothing_is_wrong_with_what_is_good() {
    let findings = all(&good());
    assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:#?}");
    let mut checks: Vec<_> = findings.iter().map(|finding| finding.check).collect();
    checks.sort_unstable();
    checks.dedup();
    assert_eq!((checks.len(), findings.len()), (super::CHECKS.len(), super::CHECKS.len()));
}

#[test]
fn what_is_wrong_is_one_line_with_what_mends_it() {
    let findings = with(|facts| change(&mut facts.survey.instances, |file| file.mode = 0o755));
    let finding = findings.iter().find(|finding| finding.check == "instances").unwrap();
    let line = finding.line(false);
    assert!(line.starts_with("problem  instances      /run/pipebus/instances: has mode 0755"), "{line}");
    assert!(line.ends_with("mend: chmod 3733 /run/pipebus/instances"), "{line}");
}

#[test]
fn files_that_are_not_as_they_should_be() {
    let directory = |facts: &mut Facts| change(&mut facts.survey.directory, |file| file.kind = FileType::Symlink);
    problem(directory, "directory", "not a directory", "rm /run/pipebus");
    let closed = |facts: &mut Facts| change(&mut facts.survey.directory, |file| file.mode = 0o700);
    warning(closed, "directory", "keeps out", "chmod 0755");
    let writable = Distrust::Writable { path: "/run/pipebus".into(), mode: 0o777 };
    problem(|facts| facts.trust = Some(Err(writable)), "trust", "written by others", "chmod go-w /run/pipebus");
    let owner = Distrust::Owner { path: "/tmp/x".into(), uid: 1 };
    problem(|facts| facts.trust = Some(Err(owner)), "trust", "belongs to user 1", "another place");
    problem(|facts| facts.survey.door = Entry::Absent, "door", "no door", "systemctl restart pipebusd.socket");
    let file = |facts: &mut Facts| change(&mut facts.survey.door, |file| file.kind = FileType::RegularFile);
    problem(file, "door", "not a FIFO", "rm /run/pipebus/bus");
    let others = |facts: &mut Facts| change(&mut facts.survey.door, |file| file.uid = ME);
    problem(others, "door", "take knocks away", "chown 77 /run/pipebus/bus");
    problem(|facts| facts.survey.instances = Entry::Absent, "instances", "no such", "restart pipebusd.socket");
    let others = |facts: &mut Facts| change(&mut facts.survey.instances, |file| file.uid = ME);
    problem(others, "instances", "can't take", "chown 77 /run/pipebus/instances");
}

#[test]
fn what_may_not_be_seen_is_said_once() {
    let hidden = |facts: &mut Facts| {
        (facts.survey.door, facts.survey.instances, facts.survey.lock) = (Entry::Hidden, Entry::Hidden, Entry::Hidden);
        (facts.survey.holder, facts.survey.listening) = (None, Listening::Unknown);
        facts.survey.may_connect = Some(false);
    };
    problem(hidden, "door", "ann may not see it", "ask pipebus");
}

#[test]
fn every_mode_but_those_that_are_meant_is_mended_to_one_of_them() {
    for good_mode in [0o600, 0o620, 0o622] {
        let findings = with(|facts| change(&mut facts.survey.door, |file| file.mode = good_mode));
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{good_mode:o}: {findings:?}");
    }
    for (mode, says, mended) in [
        (0o644, "read it", "chmod 0600"),
        (0o666, "read it", "chmod 0622"),
        (0o640, "read it", "chmod 0600"),
        (0o220, "can't read", "chmod 0620"),
        (0o602, "meant to be", "chmod 0622"),
        (0o1620, "meant to be", "chmod 0620"),
    ] {
        problem(|facts| change(&mut facts.survey.door, |file| file.mode = mode), "door", says, mended);
    }
}

#[test]
fn who_does_not_get_in_is_told_why() {
    let out = |facts: &mut Facts| facts.survey.may_connect = Some(false);
    let alone = |facts: &mut Facts| {
        out(facts);
        change(&mut facts.survey.door, |file| file.mode = 0o600);
    };
    problem(alone, "permissions", "is for pipebus alone", "door.access");
    let not_in_group = |facts: &mut Facts| {
        out(facts);
        (facts.me.groups, facts.me.groups_on_file) = (Vec::new(), Vec::new());
    };
    problem(not_in_group, "permissions", "in which ann is not", "usermod -aG pipebus-users ann");
    let not_yet = |facts: &mut Facts| {
        out(facts);
        facts.me.groups.clear();
    };
    problem(not_yet, "permissions", "not yet", "newgrp pipebus-users");
    problem(out, "permissions", "instances/ does not", "chmod 3733");
    problem(|facts| facts.names.door_group = None, "permissions", "does not exist", "door.group");
}

#[test]
fn a_connection_that_fails_or_is_slow_is_told_with_its_reason() {
    let slow = Contact::Connected { after: Duration::from_secs(1) };
    warning(|facts| facts.contact = slow, "connection", "1000 ms", "pipebus instances");
    let fails = |error: Error| move |facts: &mut Facts| facts.contact = Contact::Failed(error);
    let none = Error::NoBroker { path: "/run/pipebus".into() };
    problem(fails(none), "connection", "no broker answers", "systemctl start pipebusd.socket");
    problem(fails(Error::Forbidden("rule 3".into())), "connection", "rule 3", "policy check --user ann");
    let late = Error::TimedOut { doing: "connecting", after: Duration::from_secs(5) };
    problem(fails(late), "connection", "took longer", "systemctl restart pipebusd.service");
}

#[test]
fn a_bus_without_a_broker_is_told_by_all_that_shows_it() {
    let gone = |facts: &mut Facts| {
        (facts.survey.holder, facts.survey.listening, facts.process) = (None, Listening::Nobody, None);
        facts.contact = Contact::Failed(Error::NoBroker { path: "/run/pipebus".into() });
        (facts.status, facts.instances, facts.crowd) = (Answer::NotAsked, Answer::NotAsked, Answer::NotAsked);
        (facts.publish, facts.subscribe) = (Answer::NotAsked, Answer::NotAsked);
        facts.units.clear();
        facts.leftovers = Some(Leftovers { fifos: 4, old: 4 });
    };
    let levels: Vec<_> = with(gone)
        .into_iter()
        .filter(|finding| finding.level != Level::Ok)
        .map(|finding| (finding.check, finding.level, finding.mend.unwrap_or_default()))
        .collect();
    let start = "pipebusd --bus system".to_owned();
    let remove = format!("{start}, or: find /run/pipebus/instances -type p -mmin +3 -delete");
    let expected = [
        ("listener", Level::Problem, start.clone()),
        ("connection", Level::Problem, start.clone()),
        ("lock", Level::Warning, start),
        ("leftovers", Level::Warning, remove),
    ];
    assert_eq!(levels, expected);
}

#[test]
fn what_is_wrong_with_the_broker_is_told() {
    let state = |state| move |facts: &mut Facts| facts.process.as_mut().unwrap().state = state;
    problem(state('T'), "process", "stopped", "kill -CONT 4242");
    warning(state('D'), "process", "waits", "/proc/4242/stack");
    let old = |facts: &mut Facts| facts.status = Answer::Given(Status { version: "0.0.9".into(), ..status() });
    warning(old, "versions", "the broker 0.0.9", "systemctl restart pipebusd.service");
    let wrong = Configuration::Invalid { file: Some("/etc/x.toml".into()), says: "unknown key".into() };
    problem(|facts| facts.configuration = wrong, "configuration", "unknown key", "correct /etc/x.toml");
    problem(|facts| facts.survey.listening = Listening::Nobody, "listener", "4242 holds", "restart pipebusd.service");
}

#[test]
fn who_may_not_administer_is_told_that_some_can_not_be_seen() {
    let findings = with(|facts| {
        (facts.status, facts.instances, facts.crowd) = (Answer::Forbidden, Answer::Forbidden, Answer::Forbidden);
        facts.process.as_mut().unwrap().descriptors = None;
        facts.leftovers = None;
    });
    let unknown: Vec<_> = findings.iter().filter(|f| f.level == Level::Unknown).map(|f| f.check).collect();
    assert_eq!(unknown, ["versions", "broker-files", "leftovers"]);
    assert!(findings.iter().all(|finding| finding.level <= Level::Unknown), "{findings:?}");
    assert!(findings.iter().any(|finding| finding.what.ends_with("may not administer")), "{findings:?}");
}

#[test]
fn units_that_do_not_do_their_part_are_told() {
    let set = |at: usize, active: &'static str, file: &'static str| {
        move |facts: &mut Facts| (facts.units[at].active, facts.units[at].file) = (active.into(), file.into())
    };
    problem(set(1, "failed", "enabled"), "service", "exit-code", "journalctl -e -u pipebusd.service");
    problem(set(0, "failed", "enabled"), "socket", "exit-code", "reset-failed pipebusd.socket");
    warning(set(0, "inactive", "enabled"), "socket", "without it", "start pipebusd.socket");
    warning(set(0, "active", "disabled"), "socket", "after the next start", "enable pipebusd.socket");
    let findings = with(set(1, "inactive", "disabled"));
    assert!(findings.iter().all(|finding| finding.level == Level::Ok), "it comes with a knock: {findings:?}");
}

#[test]
fn too_few_descriptors_are_told_before_they_run_out() {
    let process = |max, used| {
        move |facts: &mut Facts| {
            let process = facts.process.as_mut().unwrap();
            (process.descriptors_max, process.descriptors) = (max, used);
        }
    };
    let needed = 2 * 4096 + 64;
    warning(process(needed - 1, Some(30)), "broker-files", "needs 8,256", "prlimit --pid 4242 --nofile=8256:8256");
    problem(process(100, Some(37)), "broker-files", "37 of 100", "prlimit --pid 4242");
    problem(process(100, None), "broker-files", "42 of 100", "LimitNOFILE=");
    assert!(with(process(needed, Some(30))).iter().all(|finding| finding.level == Level::Ok));
    assert!(with(process(u64::MAX, None)).iter().all(|finding| finding.level == Level::Ok));
    warning(|facts| facts.me.descriptors_max = 16, "own-files", "only 16", "ulimit -n 1024");
}

#[test]
fn pipes_that_may_be_too_small_or_too_few_are_told() {
    warning(|facts| facts.pipes.size_max = Some(65536), "pipe-size", "64 KiB", "fs.pipe-max-size=1048576");
    let crowd = |instances| Answer::Given(Some(("ann".to_owned(), instances)));
    warning(|facts| facts.crowd = crowd(513), "pipe-pages", "ann has 513 instances", "fs.pipe-user-pages-soft=65536");
    let hard = |facts: &mut Facts| (facts.crowd, facts.pipes.user_pages_hard) = (crowd(513), Some(16384));
    problem(hard, "pipe-pages", "can't be made", "fs.pipe-user-pages-hard=65536");
    warning(|facts| facts.pipes.user_pages_soft = Some(1024), "pipe-pages", "32 instances", "=16384");
    for (instances, soft) in [(512, 16384), (100_000, 0)] {
        let findings = with(|facts| (facts.crowd, facts.pipes.user_pages_soft) = (crowd(instances), Some(soft)));
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:?}");
    }
}

#[test]
fn what_a_broker_sweeps_is_no_fault_unless_it_stays() {
    let left = |fifos, old| move |facts: &mut Facts| facts.leftovers = Some(Leftovers { fifos, old });
    assert!(with(left(2, 0)).iter().all(|finding| finding.level == Level::Ok));
    warning(left(2, 2), "leftovers", "2 FIFOs", "find /run/pipebus/instances -type p");
}

#[test]
fn losses_stalls_and_limits_name_who_and_what() {
    let slow = InstanceStatus { dropped: 7, stalled: true, ..instance() };
    let dropped = |facts: &mut Facts| {
        facts.status = Answer::Given(Status { dropped: 1200, ..status() });
        facts.instances = Answer::Given(vec![InstanceStatus { stalled: false, ..slow.clone() }]);
    };
    warning(
        dropped,
        "losses",
        "1,200 messages dropped within 1m, for subscribers that were too slow: web\\n (process 9)",
        "queue.bytes_max",
    );
    let stalled = |facts: &mut Facts| facts.instances = Answer::Given(vec![slow.clone(); 5]);
    warning(
        stalled,
        "stalls",
        "not reading: 5 subscribers: web\\n (process 9), web\\n (process 9), web\\n (process 9) and 2 more",
        "",
    );
    let reached = |facts: &mut Facts| {
        let limits_reached = [("limits.topics_max".to_owned(), 3)].into();
        facts.status = Answer::Given(Status { limits_reached, ..status() });
    };
    warning(reached, "limits", "limits.topics_max (3 times)", "pipebus users");
    let full = |facts: &mut Facts| facts.status = Answer::Given(Status { instances: 3700, ..status() });
    warning(full, "limits", "nearly reached: 3,700 of 4,096", "pipebus users");
}

#[test]
fn who_may_nothing_is_told() {
    let denied = || Answer::Given(Right { allowed: false, on: "any topic" });
    let nothing = |facts: &mut Facts| (facts.publish, facts.subscribe) = (denied(), denied());
    warning(
        nothing,
        "rights",
        "ann may not publish (any topic), may not subscribe (any topic)",
        "policy check --user ann",
    );
    let reader = with(|facts| facts.publish = denied());
    assert!(reader.iter().all(|finding| finding.level == Level::Ok), "{reader:?}");
}

#[test]
fn what_a_path_has_in_it_changes_no_command() {
    let odd = Path::new("/srv/a b; rm -r ~");
    let findings = with(|facts| {
        facts.survey.place = Place::new(odd);
        change(&mut facts.survey.instances, |file| file.mode = 0o777);
    });
    let finding = findings.iter().find(|finding| finding.check == "instances").unwrap();
    assert_eq!(finding.mend.as_deref(), Some("chmod 3733 '/srv/a b; rm -r ~/instances'"));
}
