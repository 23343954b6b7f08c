//! Clients that do with files what they like: where FIFOs should be, with other users' FIFOs, with all the room there is.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use pipebus_proto::control::{Control, Reason};
use pipebus_proto::frame::PROTOCOL_VERSION;
use pipebus_proto::place::Place;
use pipebus_tests::attack::{Bounds, Bystanders, as_attacker, under_attack};
use pipebus_tests::raw::{RawClient, make_fifo};
use pipebus_tests::{EVERYONE, OTHER_UID, TestBus, can_change_user, open, wait_for};
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};

const MIB: u64 = 1024 * 1024;

/// Puts something where a FIFO should be.
type Put = fn(&Place, &Path);

const NO_FIFOS: [(&str, Put); 8] = [
    ("a file", |_, path| fs::write(path, "").unwrap()),
    ("a link to nowhere", |_, path| symlink("/nowhere", path).unwrap()),
    ("a link to a device", |_, path| symlink("/dev/zero", path).unwrap()),
    ("a link to the door", |place, path| symlink(place.door(), path).unwrap()),
    ("a link to itself", |_, path| symlink(path, path).unwrap()),
    ("a directory", |_, path| fs::create_dir(path).unwrap()),
    ("a socket", |_, path| drop(UnixListener::bind(path).unwrap())),
    ("a FIFO open to all", |_, path| make_fifo(path, 0o666)),
];

/// Knocks with FIFOs that are as they should be, and then something else instead of one or both of them.
fn knock_with(place: &Place, put: &dyn Fn(&Path)) {
    for which in [1, 2, 3] {
        let client = RawClient::prepare(place);
        let (up, down) = client.paths();
        for (bit, path) in [(1, up), (2, down)] {
            if which & bit > 0 {
                fs::remove_file(&path).unwrap();
                put(&path);
            }
        }
        client.knock();
    }
}

fn entries(place: &Place) -> Vec<fs::DirEntry> {
    fs::read_dir(place.instances()).unwrap().map(Result::unwrap).collect()
}

#[test]
fn whatever_is_where_fifos_should_be_is_refused_and_swept() {
    let bystanders = Bystanders::start(&[]);
    let place = bystanders.bus().place();
    for _ in 0..30 {
        as_attacker(|| NO_FIFOS.iter().for_each(|(_, put)| knock_with(&place, &|path| put(&place, path))));
        if can_change_user() {
            // What only root can make, as if it were the attacker's.
            for (kind, major, minor) in [("c", "1", "3"), ("c", "1", "5"), ("c", "5", "0"), ("b", "7", "0")] {
                knock_with(&place, &|path| {
                    let made = Command::new("mknod").arg(path).args([kind, major, minor]).status().unwrap();
                    assert!(made.success());
                    chown(path, Some(OTHER_UID), None).unwrap();
                });
            }
            // A FIFO of another user.
            knock_with(&place, &|path| {
                make_fifo(path, 0o620);
                chown(path, Some(OTHER_UID), None).unwrap();
            });
        }
    }
    bystanders.connect(20);
    wait_for("all to be swept", || entries(&place).is_empty().then_some(()));
    bystanders.unharmed(&Bounds { memory: 8 * MIB, said: &[("knocks led nowhere", 4)] });
}

#[test]
fn who_exchanges_its_fifos_while_they_are_opened_harms_nobody() {
    let bystanders = Bystanders::start(&[]);
    let place = bystanders.bus().place();
    let exchange = || {
        let mut client = RawClient::prepare(&place);
        let (up, down) = client.paths();
        client.say(&Control::Hello { version: PROTOCOL_VERSION, name: "exchanged".to_owned() });
        client.knock();
        // Until the broker has taken the names away, one or the other.
        while renameat_with(CWD, &up, CWD, &down, RenameFlags::EXCHANGE).is_ok() {}
        client.away_from_down(|| {});
        let _ = (fs::remove_file(up), fs::remove_file(down));
    };
    let count = under_attack(2, exchange, || bystanders.connect(100));
    assert!(count > 100, "{count}");
    bystanders.unharmed(&Bounds { memory: 8 * MIB, said: &[("connected", 100)] });
}

#[test]
fn nobody_can_touch_the_fifos_of_another_user_even_knowing_their_names() {
    if !can_change_user() {
        return;
    }
    let bystanders = Bystanders::start(&[]);
    let place = bystanders.bus().place();
    let mut honest = RawClient::prepare(&place);
    honest.say(&Control::Hello { version: PROTOCOL_VERSION, name: "honest".to_owned() });
    let (up, down) = honest.paths();
    as_attacker(|| {
        let mine = RawClient::prepare(&place).paths().0;
        for path in [&up, &down, &place.door(), &place.lock(), &place.instances()] {
            assert!(fs::remove_file(path).is_err() && fs::remove_dir(path).is_err());
            assert!(fs::rename(path, place.instances().join("stolen")).is_err());
            assert!(fs::rename(&mine, path).is_err());
            assert!(symlink(&mine, path).is_err());
            assert!(fs::set_permissions(path, fs::metadata(&mine).unwrap().permissions()).is_err());
            assert!(chown(path, Some(OTHER_UID), None).is_err());
            assert!(open(path, OFlags::RDONLY).is_err());
        }
        for path in [&up, &down, &place.lock()] {
            assert!(open(path, OFlags::WRONLY).is_err());
        }
        assert!(fs::read_dir(place.instances()).is_err(), "names are not to be had");
        assert!(fs::write(place.path().join("file"), "").is_err());
    });
    honest.knock();
    assert!(matches!(honest.hear(), Some(Control::Welcome(_))));
    drop(honest);
    bystanders.unharmed(&Bounds { memory: 8 * MIB, said: &[("name=\"honest\"", 1)] });
}

/// A broker that may have so many files open.
fn with_files(files: usize) -> TestBus {
    let mut bus = TestBus::without_broker(&EVERYONE);
    bus.log_as_usual();
    let wrapped = bus.broker_command();
    let mut limited = Command::new("prlimit");
    limited.arg(format!("--nofile={files}:{files}")).arg(wrapped.get_program()).args(wrapped.get_args());
    limited.stderr(File::options().create(true).append(true).open(bus.scratch().join("log")).unwrap());
    bus.adopt_broker(&mut limited);
    bus
}

#[test]
fn who_takes_all_file_descriptors_keeps_others_out_only_as_long_as_it_holds_them() {
    let bystanders = Bystanders::on(with_files(256));
    let place = bystanders.bus().place();
    let knock = || {
        let mut client = RawClient::prepare(&place);
        client.say(&Control::Hello { version: PROTOCOL_VERSION, name: "hoarder".to_owned() });
        client.knock();
        let answer = client.hear();
        (client, answer)
    };
    let (holding, refused) = as_attacker(|| {
        let answers: Vec<_> = (0..1000).map(|_| knock()).collect();
        let (held, refused): (Vec<_>, Vec<_>) =
            answers.into_iter().partition(|(_, answer)| matches!(answer, Some(Control::Welcome(_))));
        let told = |answer: &_| matches!(answer, Some(Control::Refused { reason: Reason::Exhausted, .. }));
        (held, refused.iter().filter(|(_, answer)| told(answer)).count())
    });
    assert!(holding.len() > 50 && refused > 800, "{} and {refused}", holding.len());
    bystanders.wait_for_messages();
    drop(holding);
    wait_for("an honest client to get in", || matches!(knock().1, Some(Control::Welcome(_))).then_some(()));
    bystanders.connect(20);
    bystanders.unharmed(&Bounds { memory: 8 * MIB, said: &[("file descriptors have run out", 3)] });
}

#[test]
fn who_fills_the_directory_is_swept_and_others_get_in_meanwhile() {
    // More than one user may have.
    const FIFOS: usize = 18_000;
    const MAY_HAVE: usize = 16_384;
    const FULL: usize = 30;
    let bystanders = Bystanders::start(&[]);
    let place = bystanders.bus().place();
    let at = |kind: &str, number: usize| place.instances().join(format!("{kind}{number}"));
    as_attacker(|| {
        for number in 0..FIFOS {
            rustix::fs::mkfifoat(CWD, at("fifo", number), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        }
        for number in 0..1000 {
            fs::write(at("file", number), "").unwrap();
            symlink("/dev/null", at("link", number)).unwrap();
            fs::create_dir(at("directory", number)).unwrap();
        }
        (0..FULL).for_each(|number| fs::create_dir_all(at("full", number).join("of/more")).unwrap());
    });
    bystanders.connect(50);
    let is_fifo = |entry: &fs::DirEntry| entry.file_type().unwrap().is_fifo();
    wait_for("the directory to be swept", || {
        let (fifos, others): (Vec<_>, Vec<_>) = entries(&place).into_iter().partition(is_fifo);
        (fifos.len() <= MAY_HAVE && others.len() == FULL).then_some(())
    });
    assert!(entries(&place).iter().filter(|entry| !is_fifo(entry)).all(|entry| is_named(entry, "full")));
    let said = &[("swept what clients left behind", 4), ("directories that are not empty can't be swept", 3)];
    bystanders.unharmed(&Bounds { memory: 8 * MIB, said });
}

fn is_named(entry: &fs::DirEntry, beginning: &str) -> bool {
    entry.file_name().to_string_lossy().starts_with(beginning)
}
