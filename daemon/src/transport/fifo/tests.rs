use super::*;
use crate::config::Config;
use pipebus_proto::knock::KnockId;
use rustix::fs::CWD;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::time::Duration;

/// A bus whose door somebody else made, and that door.
fn held_bus(root: &Path) -> (Place, OwnedFd) {
    let place = Place::new(root.join("bus"));
    fs::DirBuilder::new().mode(0o700).create(place.path()).unwrap();
    rustix::fs::mkfifoat(CWD, place.door(), Mode::from_raw_mode(0o600)).unwrap();
    let door = rustix::fs::open(place.door(), OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()).unwrap();
    (place, door)
}

fn bind(place: &Place, door: &OwnedFd) -> Result<Listener, BindError> {
    Listener::bind(place, &Config::default().door, Some(door.try_clone().unwrap()))
}

/// What a client does before it waits. Its ends must live until the broker has opened the others.
fn knock(place: &Place, door: &OwnedFd, id: u8) -> [OwnedFd; 2] {
    let knock = Knock::new(KnockId([id; 16]));
    let ends = [place.up(&knock.id), place.down(&knock.id)].map(|path| {
        rustix::fs::mkfifoat(CWD, &path, Mode::from_raw_mode(0o600)).unwrap();
        rustix::fs::open(&path, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()).unwrap()
    });
    rustix::io::write(door, &knock.encode()).unwrap();
    ends
}

#[tokio::test]
async fn a_door_of_somebody_else_stays_with_all_that_clients_need_and_unanswered_knocks() {
    let root = tempfile::tempdir().unwrap();
    let (place, door) = held_bus(root.path());
    let mut listener = bind(&place, &door).unwrap();
    let _ends = [knock(&place, &door, 1), knock(&place, &door, 2)];
    listener.accept(&Handle::current()).await.unwrap();
    drop(listener);
    assert!(place.door().exists() && !place.lock().exists());

    let mut next = bind(&place, &door).unwrap();
    tokio::time::timeout(Duration::from_secs(30), next.accept(&Handle::current())).await.unwrap().unwrap();
    assert_eq!(fs::read_dir(place.instances()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_door_elsewhere_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let (place, door) = held_bus(root.path());
    fs::rename(place.door(), root.path().join("moved")).unwrap();
    rustix::fs::mkfifoat(CWD, place.door(), Mode::from_raw_mode(0o600)).unwrap();
    let error = bind(&place, &door).err().unwrap();
    assert!(error.to_string().contains("ListenFIFO="), "{error}");
}
