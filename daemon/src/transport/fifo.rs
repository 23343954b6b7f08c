//! Clients arrive over FIFOs: a well-known one to knock on, and a pair for each.
//!
//! A FIFO carries no credentials of who writes to it. But nobody can create a file that somebody else owns: so the
//! client makes its own two FIFOs, and their owner is the client's identity. The steps and their order are in
//! `proto/PROTOCOL.md`, "Rendezvous".

mod accounts;
mod directory;
mod leftovers;
mod sweep;
mod watch;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pipebus_proto::control::{Identity, Reason, Regarding};
use pipebus_proto::frame::PROTOCOL_VERSION;
use pipebus_proto::knock::{Knock, KnockFinder};
use pipebus_proto::place::{Place, Surroundings};
use pipebus_proto::wire::encode_control;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, Resource, Rlimit};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};
use tokio::net::unix::pipe;
use tokio::runtime::Handle;
use tracing::{debug, info, warn};

pub(crate) use self::accounts::{group_named, groups_of, user_named};
use self::directory::{BusDirectory, failed};
use self::sweep::Sweep;
use self::watch::Watch;
use super::{Access, Arrived, BindError, Closed};
use crate::config::DoorSection;
use crate::core::policy::Peer;
use crate::core::refused::Refused;
use crate::counters::Tally;
use crate::episode::Episode;

/// How much is read from the door at once; as much as the kernel keeps in a FIFO by default.
const DOOR_BYTES: usize = 64 * 1024;

/// How often it is read before what has come is looked at.
const DOOR_READS_MAX: usize = 16;

/// After so many knocks that lead nowhere all else has its turn.
const UNFIT_TURN: u64 = 32;

/// So many knocks at once may be a flood of such that lead nowhere. One look at who is there costs less than trying each,
/// as long as there are not many times more who are there than have knocked.
const CROWD: usize = 64;
const THERE_PER_KNOCK_MAX: usize = 16;

/// A door that another process made and holds.
pub type Inherited = OwnedFd;

/// The door that systemd hands over (sd_listen_fds(3)), if it does. To be called once, before threads are started.
///
/// # Errors
/// The environment that systemd sets is broken.
pub fn inherited_door() -> io::Result<Option<Inherited>> {
    let Some(fd) = sd_notify::listen_fds()?.next() else { return Ok(None) };
    #[expect(unsafe_code, reason = "no library hands over a FIFO: they know sockets only")]
    // SAFETY: systemd opened this descriptor for this process alone, as LISTEN_PID says, and nothing else here takes
    // it.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Where a client's frames come from.
pub(crate) type Reader = pipe::Receiver;

/// Where a client's frames go. tokio hears of it once somebody has to wait for room: most never have to, and what it
/// keeps of a pipe is 0.3 KiB of memory.
#[derive(Debug)]
pub(crate) struct Writer {
    /// Before the pipe, which it must not outlive.
    room: OnceLock<Box<AsyncFd<RawFd>>>,
    pipe: OwnedFd,
    /// Whose thread waits.
    home: Handle,
}

impl Writer {
    pub(crate) fn new(pipe: OwnedFd, home: Handle) -> Writer {
        Writer { room: OnceLock::new(), pipe, home }
    }

    /// Waits until there may be room, or the client has left.
    ///
    /// # Cancel safety
    /// It may be cancelled and called again.
    pub(crate) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        Ok(self.room()?.ready(interest).await?.ready())
    }

    fn room(&self) -> io::Result<&AsyncFd<RawFd>> {
        if let Some(room) = self.room.get() {
            return Ok(room);
        }
        let _entered = self.home.enter();
        #[expect(unsafe_code, reason = "tokio's safe ways own the pipe, and that can't be given away from here")]
        // SAFETY: the pipe is this writer's own, is never another, and is closed after `room` is gone.
        let room = unsafe { AsyncFd::register_with_interest(self.pipe.as_raw_fd(), Interest::WRITABLE)? };
        Ok(self.room.get_or_init(|| Box::new(room)))
    }

    /// Tries something; if it would block, [`Writer::ready`] waits for room.
    pub(crate) fn try_io<R>(&self, io: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        match self.room.get() {
            Some(room) => room.try_io(Interest::WRITABLE, |_| io()),
            None => io(),
        }
    }
}

impl AsFd for Writer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// Reads what is there: nothing, as an error, if the pipe is empty.
pub(crate) fn try_read(reader: &Reader, bytes: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::read(reader, bytes)?)
}

/// Writes as much as the pipe takes at once: nothing, as an error, if it is full.
pub(crate) fn try_write(writer: &Writer, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    // Not through tokio, which writes nothing before it has heard that the pipe is ready.
    Ok(rustix::io::writev(writer, pieces)?)
}

/// What whoever writes to the door can make happen as often as it likes.
#[derive(Default)]
struct Told {
    garbage: Episode,
    unfit: Episode,
    exhausted: Episode,
}

impl Told {
    /// Says what is to be said now.
    fn tell(&mut self) {
        if let Some(bytes) = self.garbage.due() {
            warn!(bytes, "something that is no knock was written to the door");
        }
        if let Some(knocks) = self.unfit.due() {
            info!(knocks, "knocks led nowhere; log debug to see why each did");
        }
        if let Some(clients) = self.exhausted.due() {
            warn!(
                clients,
                "file descriptors have run out, so clients are turned away; raise LimitNOFILE or lower \
                 limits.instances_max"
            );
        }
    }
}

/// The broker's end of the door.
pub(crate) struct Listener {
    door: pipe::Receiver,
    finder: KnockFinder,
    /// Found, and not answered yet.
    knocks: VecDeque<Knock>,
    /// Given up when file descriptors run out, so that one more client can be told so.
    spare: VecDeque<File>,
    sweep: Sweep,
    watch: Watch,
    told: Told,
    tally: Arc<Tally>,
    /// The last to go: with it goes the lock.
    directory: BusDirectory,
}

impl Listener {
    /// Makes the bus's directory and door, or takes over what is there. `inherited` is a door that somebody else, such
    /// as systemd, holds for this broker: clients knock on it while no broker runs, too, so what they need stays.
    pub(crate) fn bind(
        place: &Place,
        settings: &DoorSection,
        inherited: Option<Inherited>,
    ) -> Result<Listener, BindError> {
        check_system(settings)?;
        let mut directory = BusDirectory::take(place, &settings.access)?;
        let door = match inherited {
            Some(fd) => directory.inherit_door(fd)?,
            None => directory.make_door(&settings.access, &settings.group)?,
        };
        let door = pipe::Receiver::from_owned_fd(door).map_err(failed("listen on", &place.door()))?;
        let mut sweep = Sweep::new(place.instances());
        // What a killed broker left behind, before anybody comes.
        sweep.take_turn();
        let mut listener = Listener {
            door,
            finder: KnockFinder::default(),
            knocks: VecDeque::new(),
            spare: VecDeque::new(),
            sweep,
            watch: Watch::new(settings.clone()),
            told: Told::default(),
            tally: Arc::default(),
            directory,
        };
        listener.keep_spare();
        Ok(listener)
    }

    /// Counts from now on there what happens to those who knock.
    pub(crate) fn count_in(&mut self, tally: Arc<Tally>) {
        self.tally = tally;
    }

    /// Waits for the next client that is fit to be one, whose pipes are then waited for in the runtime `home`.
    ///
    /// # Cancel safety
    /// A client is taken only when returned; half a knock is kept.
    pub(crate) async fn accept(&mut self, home: &Handle) -> Result<Arrived, Closed> {
        loop {
            let mut unfit = 0;
            while let Some(knock) = self.knocks.pop_front() {
                match self.meet(&knock, home) {
                    Ok(arrived) => return Ok(arrived),
                    Err(why) => {
                        debug!(id = %knock.id, reason = %why, "a knock led nowhere");
                        self.count_unfit(1);
                        unfit += 1;
                        if unfit % UNFIT_TURN == 0 {
                            tokio::task::yield_now().await;
                        }
                    }
                }
            }
            self.told.tell();
            if let Some(door) = self.watch.look(&mut self.directory)? {
                self.change_door(door)?;
            }
            tokio::select! {
                ready = self.door.readable() => ready?,
                () = tokio::time::sleep_until(self.watch.next()) => continue,
                () = tokio::time::sleep_until(self.sweep.due()) => {
                    self.sweep.take_turn();
                    continue;
                }
            }
            // Whoever floods the door is not to keep the broker from all else.
            tokio::task::yield_now().await;
            self.empty_door()?;
        }
    }

    /// Takes what is at the door, and what comes while it is taken: in a flood there is room for others only now.
    fn empty_door(&mut self) -> io::Result<()> {
        let mut bytes = vec![0; DOOR_BYTES];
        for _ in 0..DOOR_READS_MAX {
            match self.door.try_read(&mut bytes) {
                Ok(count) => {
                    self.find_knocks(&bytes[..count]);
                    if count < DOOR_BYTES {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.thin_out();
        Ok(())
    }

    fn find_knocks(&mut self, bytes: &[u8]) {
        self.finder.push(bytes);
        self.knocks.extend(std::iter::from_fn(|| self.finder.next_knock()));
        self.told.garbage.add(self.finder.take_garbage());
    }

    /// In a crowd, leaves out knocks that lead nowhere, so that whoever floods the door has nothing but its own work: the
    /// sooner the door is emptied again, the more room there is for others.
    fn thin_out(&mut self) {
        if self.knocks.len() < CROWD {
            return;
        }
        // Whoever has knocked has made its FIFOs before, so it is among them; and nobody is met twice.
        if let Some(mut there) = self.directory.who_is_there(self.knocks.len() * THERE_PER_KNOCK_MAX) {
            let found = self.knocks.len();
            self.knocks.retain(|knock| there.remove(&knock.id));
            self.count_unfit((found - self.knocks.len()) as u64);
        }
    }

    /// Clients knock elsewhere from now on; who has knocked where it was is let in all the same.
    fn change_door(&mut self, door: OwnedFd) -> io::Result<()> {
        let mut bytes = vec![0; DOOR_BYTES];
        if let Ok(count) = rustix::io::read(&self.door, &mut bytes) {
            self.find_knocks(&bytes[..count]);
        }
        self.door = pipe::Receiver::from_owned_fd(door)?;
        Ok(())
    }

    /// Opens the FIFOs of who knocked, checks them, and takes their names away.
    fn meet(&mut self, knock: &Knock, home: &Handle) -> Result<Arrived, Unfit> {
        match self.open_pair(knock, home) {
            Err(Unfit::System(error)) if is_exhaustion(&error) => {
                self.tell_exhausted(knock, home);
                Err(Unfit::System(error))
            }
            Ok((arrived, version)) if version != PROTOCOL_VERSION => {
                self.say_no(&arrived.writer, Refused::wrong_version(version));
                Err(Unfit::Version(version))
            }
            Err(Unfit::System(error)) if error.kind() == io::ErrorKind::NotFound => Err(Unfit::System(error)),
            Err(unfit) => {
                // Who is unfit or dead does not get better, and is not to be met again and again.
                self.directory.remove_pair(&knock.id);
                Err(unfit)
            }
            Ok((arrived, _)) => Ok(arrived),
        }
    }

    fn open_pair(&self, knock: &Knock, home: &Handle) -> Result<(Arrived, u16), Unfit> {
        let down = open_fifo(&self.directory.place().down(&knock.id), OFlags::WRONLY)?;
        let up = open_fifo(&self.directory.place().up(&knock.id), OFlags::RDONLY);
        if let Err(Unfit::System(error)) = &up
            && is_exhaustion(error)
            && self.check(&down).is_ok()
        {
            // Now: closed without a word, and opened anew for it, the pipe would look to the client as if this broker had
            // come and gone.
            self.say_no(&down, exhausted());
        }
        let up = up?;
        let (down_facts, up_facts) = (self.check(&down)?, self.check(&up)?);
        let (down_uid, up_uid) = (down_facts.st_uid, up_facts.st_uid);
        if down_uid != up_uid {
            return Err(Unfit::Owners(down_uid, up_uid));
        }
        // Renamed while they were opened, one can be both: the broker would answer itself for ever.
        if (down_facts.st_dev, down_facts.st_ino) == (up_facts.st_dev, up_facts.st_ino) {
            return Err(Unfit::Same);
        }
        self.directory.remove_pair(&knock.id);
        let peer = Peer { identity: Identity::Unix { uid: up_uid }, pid: lock_holder(&up) };
        let _entered = home.enter();
        let arrived = Arrived { reader: Reader::from_owned_fd(up)?, writer: Writer::new(down, home.clone()), peer };
        Ok((arrived, knock.version))
    }

    /// Whether this is a FIFO that only its owner and the broker can open.
    fn check(&self, fd: &OwnedFd) -> Result<Stat, Unfit> {
        let facts = rustix::fs::fstat(fd)?;
        if FileType::from_raw_mode(facts.st_mode) != FileType::Fifo {
            return Err(Unfit::NotFifo);
        }
        if facts.st_nlink != 1 {
            return Err(Unfit::Links);
        }
        let of_group = facts.st_mode & 0o070 != 0 && facts.st_gid != self.directory.gid();
        if facts.st_mode & 0o007 != 0 || of_group {
            return Err(Unfit::Mode(facts.st_mode & 0o7777));
        }
        Ok(facts)
    }

    /// With the spare descriptors given up, there is room to tell one client that there is none.
    fn tell_exhausted(&mut self, knock: &Knock, home: &Handle) {
        self.told.exhausted.add(1);
        self.spare.clear();
        if let Ok((arrived, _)) = self.open_pair(knock, home) {
            self.say_no(&arrived.writer, exhausted());
        }
        self.keep_spare();
    }

    /// Tells a client no, if its pipe takes that at once; otherwise it will see its pipes closed.
    fn say_no(&self, pipe: impl AsFd, refused: Refused) {
        self.tally.turned_away.count(refused.reason);
        let frame = encode_control(&refused.about(Regarding::Connection));
        let _ = rustix::io::write(pipe, &frame);
    }

    fn count_unfit(&mut self, knocks: u64) {
        self.told.unfit.add(knocks);
        self.tally.unfit_knocks.add(knocks);
    }

    fn keep_spare(&mut self) {
        self.spare.extend((0..4).filter_map(|_| File::open("/dev/null").ok()));
    }
}

impl Drop for Listener {
    /// If the next broker will have the same door, it is given back the knocks that have been read and not answered.
    fn drop(&mut self) {
        if self.directory.leaves_door() {
            for knock in &self.knocks {
                let _ = rustix::io::write(&self.door, &knock.encode());
            }
        }
    }
}

/// Why a knock leads nowhere.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("not a FIFO")]
    NotFifo,
    #[error("it has other names (hard links)")]
    Links,
    #[error("the two FIFOs are one")]
    Same,
    #[error("others may open it (mode {0:04o})")]
    Mode(u32),
    #[error("the two FIFOs have different owners, {0} and {1}")]
    Owners(u32, u32),
    #[error("version {0} of the protocol")]
    Version(u16),
    #[error(transparent)]
    System(#[from] io::Error),
}

impl From<Errno> for Unfit {
    fn from(errno: Errno) -> Unfit {
        Unfit::System(errno.into())
    }
}

/// Who this process is.
pub(crate) fn own_identity() -> Identity {
    Identity::Unix { uid: rustix::process::geteuid().as_raw() }
}

/// What the session bus's place depends on.
pub(crate) fn surroundings() -> Surroundings {
    let runtime_directory = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    Surroundings::Unix {
        runtime_directory: runtime_directory.filter(|path| path.is_absolute()),
        temporary_directory: std::env::temp_dir(),
        uid: rustix::process::geteuid().as_raw(),
    }
}

/// What root is here.
pub(crate) fn root() -> Identity {
    Identity::Unix { uid: 0 }
}

/// Whether there can be such a door.
///
/// # Errors
/// There is no such group, or what is asked for is for pipes of Windows.
pub fn check_door(door: &DoorSection) -> Result<(), BindError> {
    check_system(door)?;
    if door.access == Access::Group {
        directory::group_id(&door.group)?;
    }
    Ok(())
}

/// Whether nothing is asked for that only pipes of Windows have.
fn check_system(door: &DoorSection) -> Result<(), BindError> {
    if !door.security.is_empty() {
        return Err(BindError::Elsewhere("door.security"));
    }
    if door.remote { Err(BindError::Elsewhere("door.remote")) } else { Ok(()) }
}

/// The broker has written its last to a client. What is in a FIFO stays there for who reads it, so this is all.
pub(crate) async fn part(_: &mut Reader, _: Duration) {}

/// Allows this process as many open files as the system lets it: two for each instance. Returns how many that is.
pub fn raise_open_files() -> Option<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);
    rustix::process::getrlimit(Resource::Nofile).current
}

fn open_fifo(path: &Path, access: OFlags) -> Result<OwnedFd, Unfit> {
    let flags = access | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// The process that holds a record lock on the FIFO; `None` if nobody does, or it can't be seen from here.
fn lock_holder(fd: &OwnedFd) -> Option<u32> {
    let lock = rustix::process::fcntl_getlk(fd, &Flock::from(FlockType::WriteLock)).ok()??;
    u32::try_from(lock.pid?.as_raw_nonzero().get()).ok()
}

fn exhausted() -> Refused {
    Refused::new(Reason::Exhausted, "the broker has no file descriptors left; try again later")
}

fn is_exhaustion(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

#[cfg(test)]
mod tests;
