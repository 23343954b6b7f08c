//! `pipebus scan`: what it finds, what it says of it, and that it leaves all as it was.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use pipebus_tests::raw::make_fifo;
use pipebus_tests::{EVERYONE, OTHER_UID, Process, TestBus, as_user, can_change_user, command, open, wait_for};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};
use rustix::process::Signal;
use serde_json::Value;

/// Other brokers of this machine are left alone: their tests count who comes.
fn scan(arguments: &[&str]) -> Command {
    let mut scan = command("pipebus");
    scan.args(["scan", "--no-ask"]).args(arguments).env_remove("XDG_RUNTIME_DIR");
    scan
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Its exit code, and its JSON.
fn json(scan: &mut Command) -> (i32, Value) {
    let output = scan.arg("--json").output().unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert!(!text(&output.stderr).contains("panicked"), "{output:?}");
    (output.status.code().unwrap(), report)
}

/// What is said of this bus.
fn of<'report>(report: &'report Value, bus: &TestBus) -> &'report Value {
    let all = report["buses"].as_array().unwrap();
    all.iter().find(|found| found["path"] == bus.address()).unwrap_or_else(|| panic!("{report}"))
}

/// The same, found without being named.
fn found(bus: &TestBus) -> Value {
    let (code, report) = json(&mut scan(&[]));
    assert_eq!(code, 0);
    of(&report, bus).clone()
}

fn fifo<'report>(report: &'report Value, path: &Path) -> &'report Value {
    let all = report["fifos"].as_array().unwrap();
    let path = path.display().to_string();
    all.iter().find(|fifo| fifo["path"] == path).unwrap_or_else(|| panic!("{path}: {report}"))
}

/// The processes that read it, or write to it. Those that another test is just starting have all that is open here, too,
/// for a moment, and are left out.
fn pids(fifo: &Value, which: &str) -> Vec<u64> {
    let holders = fifo["holders"].as_array().unwrap().iter().filter(|holder| holder[which] == true);
    let pids = holders.map(|holder| holder["pid"].as_u64().unwrap());
    pids.filter(|pid| *pid == u64::from(std::process::id()) || !is_starting(*pid)).collect()
}

/// Whether it is gone, or still runs this program.
fn is_starting(pid: u64) -> bool {
    let program = |pid: &str| fs::read_link(format!("/proc/{pid}/exe")).ok();
    program(&pid.to_string()).is_none_or(|running| Some(running) == program("self"))
}

/// Does something beside this until it is dropped, also if the test fails.
struct Beside(Arc<AtomicBool>, Option<JoinHandle<u64>>);

impl Beside {
    fn start(mut work: impl FnMut() + Send + 'static) -> Beside {
        let done = Arc::new(AtomicBool::new(false));
        let is_done = done.clone();
        let thread = std::thread::spawn(move || {
            let mut times = 0;
            while !is_done.load(Ordering::Relaxed) {
                work();
                times += 1;
            }
            times
        });
        Beside(done, Some(thread))
    }

    /// How often it was done.
    fn stop(mut self) -> u64 {
        self.0.store(true, Ordering::Relaxed);
        self.1.take().unwrap().join().unwrap()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_bus_that_is_served_is_alive_and_who_serves_it_is_told() {
    let bus = TestBus::start_with(&["limits.instances_max=100"]);
    let pid = u64::from(bus.broker().0.id());
    // Asked on a busy machine, a broker may need more time than a scan gives it.
    let alive = wait_for("the broker's answer", || {
        let (_, report) = json(&mut scan(&[&bus.address()]));
        Some(of(&report, &bus).clone()).filter(|bus| bus["instances"].is_u64())
    });
    assert_eq!((&alive["state"], &alive["why"]), (&"alive".into(), &Value::Null));
    assert_eq!(
        (&alive["broker"]["pid"], &alive["broker"]["version"]),
        (&pid.into(), &env!("CARGO_PKG_VERSION").into())
    );
    assert_eq!((&alive["instances"], &alive["instances_max"]), (&1.into(), &100.into()));
    assert_eq!((&alive["door"]["mode"], &alive["may_connect"]), (&"0600".into(), &true.into()));
    assert_eq!(alive["owner"]["id"], rustix::process::geteuid().as_raw());

    let unasked = found(&bus);
    assert_eq!((&unasked["state"], &unasked["broker"]["pid"]), (&"alive".into(), &pid.into()));
    assert_eq!((&unasked["broker"]["version"], &unasked["instances"]), (&Value::Null, &Value::Null));

    let Output { stdout, .. } = scan(&[]).output().unwrap();
    let row = text(&stdout).lines().find(|line| line.contains(&bus.address())).unwrap().to_owned();
    assert!(row.contains("alive") && row.contains(&pid.to_string()), "{row}");
}

#[test]
fn a_bus_whose_broker_was_killed_is_stale_and_one_that_has_ended_is_absent() {
    let mut bus = TestBus::start();
    bus.kill_broker();
    let (code, report) = json(&mut scan(&[&bus.address()]));
    assert_eq!((code, &of(&report, &bus)["state"]), (3, &"stale".into()));
    assert_eq!(of(&report, &bus)["broker"], Value::Null);
    bus.start_broker();
    assert!(bus.terminate_broker().wait().success());
    let (code, report) = json(&mut scan(&[&bus.address()]));
    assert_eq!((code, &of(&report, &bus)["state"]), (3, &"absent".into()));
    let (code, report) = json(&mut scan(&[]));
    assert!(code == 0 && !report.to_string().contains(&bus.address()), "absent ones are shown only if named");
}

#[test]
fn a_door_that_somebody_holds_for_a_broker_is_not_knocked_on() {
    let mut bus = TestBus::start();
    bus.kill_broker();
    // As systemd does.
    let door = open(&bus.place().door(), OFlags::RDWR).unwrap();
    let held = found(&bus);
    assert_eq!((&held["state"], &held["may_connect"]), (&"held".into(), &true.into()));
    assert_eq!(rustix::io::read(&door, &mut [0; 64]), Err(Errno::AGAIN), "nothing was written to it");
    assert_eq!(fs::read_dir(bus.place().instances()).unwrap().count(), 0);
}

#[test]
fn a_strangers_bus_is_no_permission_and_an_open_one_is_alive() {
    if !can_change_user() {
        return;
    }
    let closed = TestBus::start();
    let as_stranger = |bus: &TestBus| json(as_user(&mut scan(&[&bus.address()]), OTHER_UID));
    let (code, report) = as_stranger(&closed);
    let bus = of(&report, &closed);
    assert_eq!((code, &bus["state"], &bus["may_connect"]), (3, &"no-permission".into(), &false.into()));
    assert!(report["unseen"]["processes_unreadable"].as_u64().unwrap() > 0);
    let output = as_user(&mut scan(&[]), OTHER_UID).output().unwrap();
    assert!(text(&output.stderr).contains("run this as root"), "{output:?}");

    let open = TestBus::start_with(&EVERYONE);
    let (code, report) = as_stranger(&open);
    let bus = of(&report, &open);
    assert_eq!((code, &bus["state"], &bus["may_connect"]), (0, &"alive".into(), &true.into()));
    assert_eq!((&bus["door"]["admits"], &bus["broker"]["pid"]), (&"everyone".into(), &open.broker().0.id().into()));
    // Only administrators are told more.
    assert_eq!((&bus["broker"]["version"], &bus["instances"]), (&Value::Null, &Value::Null));
    assert!(bus["why"].as_str().unwrap().contains("not allowed"), "{bus}");
}

#[test]
fn a_bus_that_is_not_as_it_should_be_or_does_not_answer_is_broken() {
    let bus = TestBus::start();
    bus.broker().signal(Signal::STOP);
    let begun = tokio::time::Instant::now();
    let (code, report) = json(&mut scan(&[&bus.address()]));
    assert!(begun.elapsed() < pipebus_tests::DEADLINE / 2, "{:?}", begun.elapsed());
    bus.broker().signal(Signal::CONT);
    let stopped = of(&report, &bus);
    assert_eq!((code, &stopped["state"]), (3, &"broken".into()));
    assert!(stopped["why"].as_str().unwrap().contains("took longer"), "{stopped}");

    let no_bus = TestBus::without_broker(&[]);
    fs::create_dir_all(no_bus.place().instances()).unwrap();
    fs::write(no_bus.place().door(), "").unwrap();
    let (code, report) = json(&mut scan(&[&no_bus.address()]));
    assert_eq!((code, &of(&report, &no_bus)["state"]), (3, &"broken".into()));
}

#[test]
fn a_fifo_is_shown_with_its_reader_its_writer_and_what_waits_in_it() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("pipe");
    make_fifo(&path, 0o640);
    let reader = open(&path, OFlags::RDONLY).unwrap();
    let writer = open(&path, OFlags::WRONLY).unwrap();
    fcntl_setpipe_size(&writer, 128 * 1024).unwrap();
    rustix::io::write(&writer, b"hello").unwrap();
    let holder = Process::start(Command::new("sleep").arg("60").stdin(Stdio::null()).stdout(writer));
    let (code, report) = json(&mut scan(&["--all"]));
    let seen = fifo(&report, &path);
    assert_eq!(code, 0);
    assert_eq!(pids(seen, "reads"), [u64::from(std::process::id())]);
    assert_eq!(pids(seen, "writes"), [u64::from(holder.0.id())]);
    assert_eq!((&seen["waiting_bytes"], &seen["buffer_bytes"]), (&5.into(), &(128 * 1024).into()));
    assert_eq!((&seen["mode"], &seen["name"], &seen["bus"]), (&"0640".into(), &"leads".into(), &Value::Null));
    let command = |seen: &Value| seen["holders"].to_string().contains(r#""command":"sleep""#);
    assert!(command(seen), "{seen}");

    let mut bytes = [0; 64];
    assert_eq!(rustix::io::read(&reader, &mut bytes).unwrap(), 5, "it is still there");
    assert_eq!(fcntl_getpipe_size(&reader).unwrap(), 128 * 1024);
    let Output { stdout, .. } = scan(&["--all"]).output().unwrap();
    let row = text(&stdout).lines().find(|line| line.contains(path.to_str().unwrap())).unwrap().to_owned();
    assert!(row.contains("128 KiB") && row.contains(&format!("{} sleep", holder.0.id())), "{row}");
}

#[test]
fn a_fifo_that_is_looked_at_gets_no_reader_and_no_writer_by_it() {
    let root = tempfile::tempdir().unwrap();
    let [read, written] = ["read", "written"].map(|name| root.path().join(name));
    for path in [&read, &written] {
        make_fifo(path, 0o600);
    }
    // One that is read and that nobody writes to, and one that is written to and that nobody reads.
    let reader = open(&read, OFlags::RDONLY).unwrap();
    let both = open(&written, OFlags::RDWR).unwrap();
    let writer = open(&written, OFlags::WRONLY).unwrap();
    drop(both);
    let path = written.clone();
    let watch = Beside::start(move || {
        assert_eq!(open(&path, OFlags::WRONLY).unwrap_err(), Errno::NXIO);
        assert_eq!(rustix::io::write(&writer, b"x"), Err(Errno::PIPE));
        assert_eq!(rustix::io::read(&reader, &mut [0; 8]), Ok(0), "end of file, not a writer that says nothing");
    });
    for _ in 0..20 {
        let (_, report) = json(&mut scan(&["--all"]));
        let holders = |path| (pids(fifo(&report, path), "reads").len(), pids(fifo(&report, path), "writes").len());
        assert_eq!((holders(&read), holders(&written)), ((1, 0), (0, 1)));
        assert_eq!(fifo(&report, &written)["waiting_bytes"], 0);
    }
    assert!(watch.stop() > 20);
}

#[test]
fn whatever_a_fifo_is_called_it_is_one_row_and_does_a_terminal_no_harm() {
    let root = tempfile::tempdir().unwrap();
    let names: [&[u8]; 3] = [b"line\nbreak \x1b[31m", b"no text \xff\xfe", b"lie (deleted)"];
    let paths: Vec<PathBuf> = names.iter().map(|name| root.path().join(OsStr::from_bytes(name))).collect();
    let open_one = |path: &PathBuf| -> OwnedFd {
        make_fifo(path, 0o600);
        open(path, OFlags::RDWR).unwrap()
    };
    let _held: Vec<OwnedFd> = paths.iter().map(open_one).collect();
    let Output { stdout, stderr, .. } = scan(&["--all"]).output().unwrap();
    let shown = text(&stdout);
    assert!(shown.contains(r"line\nbreak \u{1b}[31m  ") && !shown.contains('\u{1b}'), "{shown}{}", text(&stderr));
    let (_, report) = json(&mut scan(&["--all"]));
    for path in &paths {
        assert_eq!(fifo(&report, path)["name"], "leads");
    }
    let odd = fifo(&report, &paths[1]);
    assert!(odd["path_base64"].as_str().unwrap().ends_with("//4="), "{odd}");
}

#[tokio::test]
async fn fifos_of_instances_are_deleted_and_part_of_their_bus() {
    let bus = TestBus::start();
    let _client = bus.client().await;
    let (_, report) = tokio::task::spawn_blocking(|| json(&mut scan(&["--all"]))).await.unwrap();
    let parts = |part: &str| {
        let all = report["fifos"].as_array().unwrap().iter();
        all.filter(|fifo| fifo["bus"] == bus.address() && fifo["part"] == part).collect::<Vec<_>>()
    };
    let (broker, me) = (u64::from(bus.broker().0.id()), u64::from(std::process::id()));
    let [door] = parts("door")[..] else { panic!("{report}") };
    assert_eq!((pids(door, "reads"), &door["name"]), (vec![broker], &"leads".into()));
    for (part, reader, writer) in [("up", broker, me), ("down", me, broker)] {
        let [fifo] = parts(part)[..] else { panic!("{report}") };
        assert_eq!((pids(fifo, "reads"), pids(fifo, "writes")), (vec![reader], vec![writer]), "{part}");
        assert_eq!(fifo["name"], "deleted");
    }
}

#[test]
fn processes_that_come_and_go_meanwhile_are_no_failure() {
    let coming = Beside::start(|| assert!(Command::new("true").status().unwrap().success()));
    for _ in 0..10 {
        let (code, report) = json(&mut scan(&["--pipes"]));
        assert_eq!((code, &report["unseen"]["processes_complete"]), (0, &true.into()));
    }
    assert!(coming.stop() > 0);
}

#[test]
fn pipes_without_a_name_are_shown_only_if_wanted() {
    let holder = Process::start(Command::new("sleep").arg("60").stdin(Stdio::piped()).stdout(Stdio::null()));
    let pid = u64::from(holder.0.id());
    let has_pipe = |option: &str| {
        let (_, report) = json(&mut scan(&[option]));
        let fifos = report["fifos"].as_array().unwrap().clone();
        fifos.iter().any(|fifo| fifo["name"] == "pipe" && pids(fifo, "reads").contains(&pid))
    };
    assert_eq!((has_pipe("--all"), has_pipe("--pipes")), (false, true));
}
