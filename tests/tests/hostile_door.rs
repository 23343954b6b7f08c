//! Clients that do at the door what they like: others get in all the same, and those who are in notice nothing.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use pipebus_proto::control::{Control, Overflow, Reason};
use pipebus_proto::frame::PROTOCOL_VERSION;
use pipebus_proto::knock::{KNOCK_BYTES, Knock, KnockId};
use pipebus_proto::place::Place;
use pipebus_proto::wire::encode_control;
use pipebus_tests::attack::{Bounds, Bystanders, as_attacker, as_attacker_of, under_attack};
use pipebus_tests::raw::{RawClient, make_fifo};
use pipebus_tests::{OTHER_UID, open, wait_for};
use rustix::fs::OFlags;

const MIB: u64 = 1024 * 1024;

/// So many bytes are written whole or not at all.
const PIPE_BUF: usize = 4096;

fn hello() -> Vec<u8> {
    encode_control(&Control::Hello { version: PROTOCOL_VERSION, name: "hostile".to_owned() }).to_vec()
}

/// Another one each time.
fn some_id() -> KnockId {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::SeqCst);
    let mut id = [0xaa; 16];
    id[..8].copy_from_slice(&count.to_le_bytes());
    KnockId(id)
}

/// Fills the door with this, which is written again and again until it takes no more.
fn flood(place: &Place, block: impl Fn() -> Vec<u8>) {
    let door = open(&place.door(), OFlags::WRONLY).unwrap();
    for _ in 0..100 {
        let _ = rustix::io::write(&door, &block());
    }
}

/// Honest clients connect while others knock with ids of nobody, as fast as they can.
fn connect_in_a_flood(bystanders: &Bystanders) {
    let place = bystanders.bus().place();
    let knocks = || (0..PIPE_BUF / KNOCK_BYTES).flat_map(|_| Knock::new(some_id()).encode()).collect();
    let floods = under_attack(4, || flood(&place, knocks), || bystanders.connect(50));
    eprintln!("{} blocks of knocks", floods * 100);
}

const NOWHERE: Bounds<'_> = Bounds { memory: 8 * MIB, said: &[("knocks led nowhere", 4)] };

#[test]
fn a_flood_of_knocks_that_lead_nowhere_keeps_nobody_out() {
    let bystanders = Bystanders::start(&[]);
    connect_in_a_flood(&bystanders);
    bystanders.unharmed(&NOWHERE);
}

#[test]
fn a_flood_of_knocks_keeps_nobody_out_where_very_many_seem_to_wait() {
    let bystanders = Bystanders::start(&[]);
    // As many as the sweep leaves one user.
    as_attacker(|| (0..8192).for_each(|_| drop(RawClient::prepare(&bystanders.bus().place()))));
    connect_in_a_flood(&bystanders);
    bystanders.unharmed(&NOWHERE);
}

#[test]
fn half_knocks_and_noise_keep_nobody_out() {
    let bystanders = Bystanders::start(&[]);
    let place = bystanders.bus().place();
    let noise = || {
        let knock = Knock::new(some_id()).encode();
        let half = usize::from(knock[12]) % KNOCK_BYTES;
        let mut broken = knock;
        broken[9 + half % 20] ^= 1;
        // The beginnings of knocks that never end are what costs most to look at.
        let magic = knock[..8].repeat(100);
        [&knock[..half], &broken, &magic, &knock[half..]].concat()
    };
    under_attack(4, || flood(&place, noise), || bystanders.connect(50));
    bystanders.unharmed(&Bounds { memory: 8 * MIB, said: &[("no knock was written to the door", 4)] });
}

#[test]
fn thousands_that_never_say_hello_keep_nobody_out_who_says_it() {
    const SILENT: usize = 2500;
    const USERS: usize = 5;
    // So long that each keeps its seat until the end.
    let bystanders = Bystanders::start(&["timeouts.handshake_ms=20000"]);
    let place = bystanders.bus().place();
    let knock = || {
        let client = RawClient::prepare(&place);
        client.knock();
        client
    };
    let of_user = |uid| as_attacker_of(uid, || (0..SILENT / USERS).map(|_| knock()).collect::<Vec<_>>());
    let mut silent: Vec<_> = (OTHER_UID - 4..=OTHER_UID).flat_map(of_user).collect();
    bystanders.connect(50);
    // Those without a seat are told so, and those with one wait.
    let refused = |client: &mut RawClient| {
        let is_answered = rustix::io::ioctl_fionread(client.down()).unwrap() > 0;
        is_answered && matches!(client.hear(), Some(Control::Refused { reason: Reason::UserFull, .. }))
    };
    let mut count = 0;
    wait_for("most of them to be turned away", || {
        let before = silent.len();
        silent.retain_mut(|client| !refused(client));
        count += before - silent.len();
        (count >= SILENT * 3 / 4).then_some(())
    });
    assert!(silent.len() > 50, "who is slow is waited for");
    // With its Hello ready a client of the same user is let in, too.
    as_attacker(|| drop(RawClient::connect(&place)));
    drop(silent);
    bystanders.unharmed(&Bounds { memory: 32 * MIB, said: &[("refused a client", 105)] });
}

#[test]
fn who_says_hello_byte_by_byte_or_wrongly_holds_nobody_up() {
    let bystanders = Bystanders::start(&["timeouts.handshake_ms=1000"]);
    let place = bystanders.bus().place();
    let never_ends = || {
        let slow: Vec<_> = (0..50).map(|_| RawClient::prepare(&place)).collect();
        slow.iter().for_each(RawClient::knock);
        for byte in &hello()[..20] {
            slow.iter().for_each(|client| client.write_if_heard(&[*byte]));
        }
    };
    let wrong = || {
        let giant = [0xff; 600];
        let bye = encode_control(&Control::Ping { token: 1 });
        for start in [&giant[..], &giant[..23], &[0; 24], &bye, &hello()[..30], &[]] {
            let mut client = RawClient::prepare(&place);
            client.write(start);
            client.knock();
            client.away_from_down(|| {});
        }
    };
    under_attack(
        2,
        || {
            never_ends();
            wrong();
        },
        || bystanders.connect(50),
    );
    bystanders.unharmed(&Bounds { memory: 16 * MIB, said: &[("refused a client", 160)] });
}

/// Goes so many of the steps in `PROTOCOL.md`, "Connecting, step by step", and dies.
fn die_after(place: &Place, step: usize) {
    let mut client = RawClient::without_fifos(place);
    let (up, down) = client.paths();
    let hello = hello();
    let steps: [&dyn Fn(&mut RawClient); 9] = [
        &|_| make_fifo(&up, 0o640),
        &|_| make_fifo(&down, 0o620),
        &|client| client.open(),
        &|client| client.write(&hello[..10]),
        &|client| client.write(&hello[10..]),
        &|client| client.write_to_door(&Knock::new(client.id).encode()[..20]),
        &|client| client.knock(),
        &|client| drop(client.hear()),
        &|client| client.subscribe("a/topic", Overflow::Block),
    ];
    steps[..step].iter().for_each(|take| take(&mut client));
}

#[test]
fn who_dies_at_any_step_to_the_door_leaves_no_more_than_names_of_its_own() {
    const TIMES: usize = 150;
    let bystanders = Bystanders::start(&[]);
    let place = bystanders.bus().place();
    as_attacker(|| (0..TIMES).for_each(|_| (0..=9).for_each(|step| die_after(&place, step))));
    bystanders.connect(20);
    // What nobody has knocked for is left to those who may still knock, until it is old (door.rs).
    let left = || fs::read_dir(place.instances()).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    wait_for("those who knocked to be gone", || (left().len() <= TIMES * 11).then_some(()));
    bystanders.unharmed(&Bounds { memory: 8 * MIB, said: &[("connected", 80)] });
}

#[test]
fn thousands_who_come_and_go_at_once_fill_neither_memory_nor_log() {
    let bystanders = Bystanders::start(&[]);
    let place = bystanders.bus().place();
    let come_and_go = || {
        let clients: Vec<_> = (0..100).map(|_| RawClient::connect(&place)).collect();
        drop(clients);
    };
    as_attacker(|| (0..20).for_each(|_| come_and_go()));
    bystanders.connect(20);
    bystanders.unharmed(&Bounds { memory: 16 * MIB, said: &[("connected", 120), ("were left out", 5)] });
}
