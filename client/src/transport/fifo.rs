//! Reaching the broker over FIFOs: the client makes a pair, and knocks.
//!
//! The steps and why they come in this order are in `proto/PROTOCOL.md`, "Rendezvous".

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pipebus_proto::knock::{Knock, KnockId};
use pipebus_proto::place::{Place, Surroundings};
use pipebus_proto::trust;
use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use tokio::net::unix::pipe;

use crate::error::{Error, Result};

/// How long to wait before knocking again on a door that is full: the broker is busy letting others in.
const DOOR_RETRY: Duration = Duration::from_millis(2);

/// The broker's group may read the one, and write to the other.
const UP_MODE: Mode = Mode::from_bits_retain(0o640);
const DOWN_MODE: Mode = Mode::from_bits_retain(0o620);

/// What the broker says.
pub(crate) type Reader = pipe::Receiver;

/// Where the client speaks.
pub(crate) type Writer = pipe::Sender;

/// A pair of FIFOs that waits for the broker. Dropped, it removes their names, if the broker has not yet.
pub(crate) struct Attempt {
    pub(crate) reader: Reader,
    /// Not a [`Writer`] yet: until the broker has opened its end, the pipe counts as closed, and tokio would never
    /// forget that. It would then try again and again to write to a pipe that is full, rather than wait.
    writer: OwnedFd,
    pub(crate) door: Door,
    names: Names,
}

/// Where a client knocks, and what tells the broker for which pair.
pub(crate) struct Door {
    fifo: OwnedFd,
    knock: Knock,
}

struct Names([PathBuf; 2]);

impl Drop for Names {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

impl Attempt {
    /// Makes the FIFOs with `hello` waiting in one of them.
    pub(crate) async fn prepare(place: &Place, hello: &[u8]) -> Result<Attempt> {
        check_directory(place)?;
        let door = open_door(place)?;
        let mut id = KnockId([0; 16]);
        getrandom::fill(&mut id.0)
            .map_err(|error| Error::system("get random bytes for", place.path(), io::Error::other(error)))?;
        let names = Names([place.up(&id), place.down(&id)]);
        let [up, down] = &names.0;
        make_fifo(place, up)?;
        make_fifo(place, down)?;
        let reader = open(down, OFlags::RDONLY, DOWN_MODE)?;
        // Opened for both ends first: so this user, not the broker's, is charged for the pipe's memory, and what is
        // written has a reader. Closed again, so that the broker's leaving is an error and not a silence.
        let both = open(up, OFlags::RDWR, UP_MODE)?;
        let writer = open(up, OFlags::WRONLY, UP_MODE)?;
        rustix::io::write(&both, hello).map_err(|errno| failed("write to", up, errno))?;
        drop(both);
        // Last, for closing any descriptor of the file would drop it. It tells the broker this process's id.
        rustix::fs::fcntl_lock(&writer, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| failed("lock", up, errno))?;
        Ok(Attempt {
            reader: Reader::from_owned_fd(reader).map_err(|e| Error::system("read from", down, e))?,
            writer,
            door: Door { fifo: door, knock: Knock::new(id) },
            names,
        })
    }

    /// The broker has answered: both ends are open.
    pub(crate) fn open(self) -> Result<(Reader, Writer)> {
        let [up, _] = &self.names.0;
        let writer = Writer::from_owned_fd(self.writer).map_err(|error| Error::system("write to", up, error))?;
        Ok((self.reader, writer))
    }
}

impl Door {
    /// Tells the broker. Then it answers on [`Attempt::reader`]; more than once, if it has to be told again.
    pub(crate) async fn knock(&self, place: &Place) -> Result<()> {
        let bytes = self.knock.encode();
        loop {
            // So short a write is all or nothing (pipe(7), PIPE_BUF).
            match rustix::io::write(&self.fifo, &bytes) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN) => tokio::time::sleep(DOOR_RETRY).await,
                Err(Errno::PIPE) => return Err(no_broker(place)),
                Err(errno) => return Err(failed("write to", &place.door(), errno)),
            }
        }
    }
}

/// Makes a pipe hold `bytes`, or as much less as the system allows: not more than fs.pipe-max-size, and nothing if this
/// user has many large pipes already (pipe(7), pipe-user-pages-soft). Makes none smaller.
pub(crate) fn grow(pipe: &impl AsFd, bytes: usize) {
    let now = rustix::pipe::fcntl_getpipe_size(pipe).unwrap_or(bytes);
    let sizes = std::iter::successors(Some(bytes), |bytes| Some(bytes / 2));
    for bytes in sizes.take_while(|bytes| *bytes > now) {
        if rustix::pipe::fcntl_setpipe_size(pipe, bytes).is_ok() {
            return;
        }
    }
}

/// What the session bus's place depends on, as this process has it.
pub fn surroundings() -> Surroundings {
    let runtime_directory = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    Surroundings::Unix {
        runtime_directory: runtime_directory.filter(|path| path.is_absolute()),
        temporary_directory: std::env::temp_dir(),
        uid: rustix::process::geteuid().as_raw(),
    }
}

/// What the system says, with what to do where something has run out.
fn failed(doing: &'static str, path: &Path, errno: Errno) -> Error {
    let advice = match errno {
        Errno::MFILE => "close some files of this program, or raise its limit (ulimit -n)",
        Errno::NFILE => "the system has no file descriptors left",
        Errno::NOSPC | Errno::DQUOT => "free some space or some files in the bus's file system",
        Errno::NOMEM => "the system has no memory left for a pipe",
        _ => return Error::system(doing, path, errno),
    };
    Error::Exhausted(format!("cannot {doing} {}: {}; {advice}", path.display(), io::Error::from(errno)))
}

fn no_broker(place: &Place) -> Error {
    Error::NoBroker { path: place.path().to_owned() }
}

fn check_directory(place: &Place) -> Result<()> {
    let directories = trust::ancestry(place.path(), |path| {
        let facts = fs::symlink_metadata(path)?;
        Ok((facts.is_dir(), facts.uid(), facts.mode()))
    });
    match directories {
        Ok(directories) => Ok(trust::check(&directories, rustix::process::geteuid().as_raw())?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(no_broker(place)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(no_permission(place)),
        Err(error) => Err(Error::system("examine", place.path(), error)),
    }
}

fn no_permission(place: &Place) -> Error {
    Error::NoPermission { path: place.path().to_owned() }
}

fn open_door(place: &Place) -> Result<OwnedFd> {
    let path = place.door();
    let facts = match fs::symlink_metadata(&path) {
        Ok(facts) => facts,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(no_broker(place)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(no_permission(place)),
        Err(error) => return Err(Error::system("examine", &path, error)),
    };
    if FileType::from_raw_mode(facts.mode()) != FileType::Fifo {
        return Err(Error::NotFifo { path });
    }
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(door) => Ok(door),
        // A FIFO that nobody reads: its broker was killed.
        Err(Errno::NXIO | Errno::NOENT) => Err(no_broker(place)),
        Err(Errno::ACCESS) => Err(no_permission(place)),
        Err(errno) => Err(failed("open", &path, errno)),
    }
}

fn make_fifo(place: &Place, path: &Path) -> Result<()> {
    match rustix::fs::mkfifoat(CWD, path, Mode::from_raw_mode(0o600)) {
        Ok(()) => Ok(()),
        Err(Errno::NOENT) => Err(no_broker(place)),
        Err(Errno::ACCESS) => Err(no_permission(place)),
        Err(errno) => Err(failed("make the FIFO", path, errno)),
    }
}

/// Opens a FIFO of this client's own, and gives it its mode: separately, since the umask takes the group's bits away; and
/// not by its name, by which whoever owns the directory could have a file of this user's changed instead.
fn open(path: &Path, access: OFlags, mode: Mode) -> Result<OwnedFd> {
    let flags = access | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fifo = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed("open", path, errno))?;
    let facts = rustix::fs::fstat(&fifo).map_err(|errno| failed("examine", path, errno))?;
    if FileType::from_raw_mode(facts.st_mode) != FileType::Fifo {
        return Err(Error::NotFifo { path: path.to_owned() });
    }
    rustix::fs::fchmod(&fifo, mode).map_err(|errno| failed("chmod", path, errno))?;
    Ok(fifo)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn what_is_put_in_the_place_of_a_fifo_is_not_changed() {
        let root = tempfile::tempdir().unwrap();
        let [file, link, fifo] = ["file", "link", "fifo"].map(|name| root.path().join(name));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let before = mode(&file);
        for path in [&file, &link] {
            open(path, OFlags::RDONLY, DOWN_MODE).unwrap_err();
        }
        assert_eq!(mode(&file), before);
        make_fifo(&Place::new(root.path()), &fifo).unwrap();
        open(&fifo, OFlags::RDWR, UP_MODE).unwrap();
        assert_eq!(mode(&fifo), 0o640);
    }
}
