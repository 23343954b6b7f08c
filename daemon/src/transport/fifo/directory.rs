//! The bus's directory: made or taken over, locked, and left as it was found.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use pipebus_proto::knock::KnockId;
use pipebus_proto::place::Place;
use pipebus_proto::trust;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use tracing::{debug, warn};

use super::accounts::group_named;
use crate::core::policy::Group;
use crate::transport::{Access, BindError};

/// The directory of a bus that this broker has. Dropped, what it made is removed, and the lock given up last: another
/// broker may come at once after.
pub(super) struct BusDirectory {
    place: Place,
    /// Removed again at the end, the last first.
    made: Vec<PathBuf>,
    /// The group that clients' FIFOs inherit.
    gid: u32,
    /// Whether the door and all that clients need to knock stay when this broker ends.
    leaves_door: bool,
    /// What clients find by its name, as long as nobody removes it: see [`super::watch`].
    pub(super) ours: Ours,
}

/// What this broker has made or taken over, by which it knows it again. Held open, so that nothing else gets the number
/// of what was removed.
pub(super) struct Ours {
    pub(super) directory: OwnedFd,
    /// Holds the lock as long as it is open.
    pub(super) lock: File,
    pub(super) instances: OwnedFd,
    pub(super) door: Option<OwnedFd>,
}

impl BusDirectory {
    /// Makes the directory, or takes over what is there.
    pub(super) fn take(place: &Place, access: &Access) -> Result<BusDirectory, BindError> {
        let path = place.path();
        let made = make_directory(path, access)?;
        trust::check(&facts(path)?, rustix::process::geteuid().as_raw())?;
        let (directory, lock) = (hold(path)?, lock(place)?);
        let mut removed_at_end = Vec::new();
        if made {
            removed_at_end.push(path.to_owned());
        }
        removed_at_end.push(place.lock());
        let (instances, gid, made) = match make_instances(&place.instances()) {
            Ok(made) => made,
            Err(error) => {
                remove(&removed_at_end);
                return Err(error);
            }
        };
        if made {
            removed_at_end.push(place.instances());
        }
        let directory = BusDirectory {
            place: place.clone(),
            made: removed_at_end,
            gid,
            leaves_door: false,
            ours: Ours { directory, lock, instances, door: None },
        };
        Ok(directory)
    }

    /// The door that this broker makes, or that a broker which was killed left behind.
    pub(super) fn make_door(&mut self, access: &Access, group: &str) -> Result<OwnedFd, BindError> {
        let path = self.place.door();
        let door = own_door(&path, access, group)?;
        self.ours.door = Some(hold(&path)?);
        if !self.made.contains(&path) {
            self.made.push(path);
        }
        Ok(door)
    }

    /// The lock again, after its file was removed. Fails if another broker has taken it since.
    pub(super) fn lock_again(&mut self) -> Result<(), BindError> {
        self.ours.lock = lock(&self.place)?;
        Ok(())
    }

    /// Where clients make their FIFOs again, after it was removed.
    pub(super) fn make_instances_again(&mut self) -> Result<(), BindError> {
        let (held, gid, made) = make_instances(&self.place.instances())?;
        (self.ours.instances, self.gid) = (held, gid);
        if made && !self.made.contains(&self.place.instances()) {
            // Before the door, which is made last and removed first.
            let at = self.made.len().saturating_sub(1);
            self.made.insert(at, self.place.instances());
        }
        Ok(())
    }

    /// The door that somebody else holds for this broker. Clients knock on it while no broker runs, too, so all that
    /// they need stays.
    pub(super) fn inherit_door(&mut self, fd: OwnedFd) -> Result<OwnedFd, BindError> {
        self.made = vec![self.place.lock()];
        self.leaves_door = true;
        let door = check_inherited(fd, &self.place.door())?;
        self.ours.door = Some(hold(&self.place.door())?);
        Ok(door)
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn gid(&self) -> u32 {
        self.gid
    }

    pub(super) fn leaves_door(&self) -> bool {
        self.leaves_door
    }

    /// Takes away the names of an instance's FIFOs.
    pub(super) fn remove_pair(&self, id: &KnockId) {
        for path in [self.place.up(id), self.place.down(id)] {
            let _ = fs::remove_file(path);
        }
    }

    /// Whose FIFOs have names, unless there are more than so many, or it can't be told.
    pub(super) fn who_is_there(&self, entries_max: usize) -> Option<HashSet<KnockId>> {
        let mut there = HashSet::new();
        for (count, entry) in fs::read_dir(self.place.instances()).ok()?.enumerate() {
            if count >= entries_max {
                return None;
            }
            there.extend(entry.ok()?.file_name().to_str().and_then(Place::id_of_down));
        }
        Some(there)
    }
}

impl Drop for BusDirectory {
    fn drop(&mut self) {
        // What has the same names now is another broker's, or nobody's.
        if !is_named(&self.ours.lock, &self.place.lock()).unwrap_or(false) {
            return;
        }
        if self.made.contains(&self.place.instances()) {
            let entries = fs::read_dir(self.place.instances()).into_iter().flatten().flatten();
            entries.for_each(|entry| drop(fs::remove_file(entry.path())));
        }
        remove(&self.made);
    }
}

/// Removes what is there, the last first.
fn remove(paths: &[PathBuf]) {
    for path in paths.iter().rev() {
        let removed = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
        if let Err(error) = removed {
            debug!(path = %path.display(), %error, "could not be removed");
        }
    }
}

/// Keeps what has this name, whatever becomes of the name.
fn hold(path: &Path) -> Result<OwnedFd, BindError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed("open", path)(errno.into()))
}

/// Whether this is what still has the name.
pub(super) fn is_named(held: impl AsFd, path: &Path) -> io::Result<bool> {
    let held = rustix::fs::fstat(held)?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (held.st_dev, held.st_ino)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What the system says to something that was tried with a path.
pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BindError {
    let path = path.to_owned();
    move |source| BindError::System { doing, path, source }
}

/// Whether the directory had to be made.
fn make_directory(path: &Path, access: &Access) -> Result<bool, BindError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed("make", parent))?;
    }
    let mode = if *access == Access::Owner { 0o700 } else { 0o755 };
    match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {
            // Whatever the umask took away.
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("chmod", path))?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed("make", path)(error)),
    }
}

/// What is known of the bus's directory and all above it.
fn facts(directory: &Path) -> Result<Vec<trust::Directory>, BindError> {
    trust::ancestry(directory, |path| {
        let facts = fs::symlink_metadata(path)?;
        Ok((facts.is_dir(), facts.uid(), facts.mode()))
    })
    .map_err(failed("examine", directory))
}

/// Takes the bus, or says who has it.
fn lock(place: &Place) -> Result<File, BindError> {
    let path = place.lock();
    loop {
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0))
            .open(&path)
            .map_err(failed("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = (&file).take(32).read_to_string(&mut holder);
                let path = place.path().to_owned();
                return Err(BindError::Taken { path, holder: holder.trim().to_owned() });
            }
            Err(fs::TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
        }
        // A broker that just ended may have removed the file between our opening and our locking it.
        let still_there = fs::metadata(&path).is_ok_and(|named| file.metadata().is_ok_and(|f| f.ino() == named.ino()));
        if still_there {
            let pid = std::process::id().to_string();
            let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(pid.as_bytes()));
            written.map_err(failed("write", &path))?;
            return Ok(file);
        }
    }
}

/// Where clients make their FIFOs: writable but not listable, sticky, and its group is the group of what is made in it.
/// Returns it, that group, and whether it had to be made.
fn make_instances(path: &Path) -> Result<(OwnedFd, u32, bool), BindError> {
    let made = match fs::create_dir(path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(failed("make", path)(error)),
    };
    let facts = fs::symlink_metadata(path).map_err(failed("examine", path))?;
    if !facts.is_dir() {
        return Err(trust::Distrust::NoDirectory { path: path.to_owned() }.into());
    }
    if facts.mode() & 0o7777 != 0o3733 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o3733)).map_err(failed("chmod", path))?;
    }
    Ok((hold(path)?, facts.gid(), made))
}

/// The door that this broker makes, or that a broker which was killed left behind.
fn own_door(path: &Path, access: &Access, group: &str) -> Result<OwnedFd, BindError> {
    match rustix::fs::mkfifoat(CWD, path, Mode::from_raw_mode(0o600)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed("make", path)(errno.into())),
    }
    let facts = fs::symlink_metadata(path).map_err(failed("examine", path))?;
    if !facts.file_type().is_fifo() {
        return Err(BindError::NotFifo { path: path.to_owned() });
    }
    // Read and write, so that the last client's leaving is no end of file.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let door = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed("open", path)(e.into()))?;
    let mode = match access {
        Access::Owner => 0o600,
        Access::Group => 0o620,
        Access::Everyone => 0o622,
    };
    if *access == Access::Group {
        let gid = group_id(group)?;
        let chown = rustix::fs::fchown(&door, None, Some(rustix::fs::Gid::from_raw(gid)));
        chown.map_err(|e| failed("give to its group", path)(e.into()))?;
    }
    rustix::fs::fchmod(&door, Mode::from_raw_mode(mode)).map_err(|e| failed("chmod", path)(e.into()))?;
    Ok(door)
}

/// Whether this is the FIFO on which clients of this bus knock, and nobody else can read what they say.
fn check_inherited(fd: OwnedFd, path: &Path) -> Result<OwnedFd, BindError> {
    let facts = rustix::fs::fstat(&fd).map_err(|e| failed("examine", path)(e.into()))?;
    if FileType::from_raw_mode(facts.st_mode) != FileType::Fifo {
        return Err(BindError::NotFifo { path: path.to_owned() });
    }
    let named = fs::symlink_metadata(path).map_err(failed("examine", path))?;
    if (named.dev(), named.ino()) != (facts.st_dev, facts.st_ino) {
        let error = io::Error::other("systemd handed over another FIFO; let ListenFIFO= name this one");
        return Err(failed("listen on", path)(error));
    }
    if facts.st_mode & 0o044 != 0 {
        let mode = format!("{:04o}", facts.st_mode & 0o7777);
        warn!(mode, "others can read the door, and so take knocks away; set SocketMode=");
    }
    Ok(fd)
}

pub(super) fn group_id(name: &str) -> Result<u32, BindError> {
    match group_named(name).map_err(failed("look up the group", Path::new(name)))? {
        Some(Group::Unix { gid }) => Ok(gid),
        _ => Err(BindError::NoGroup(name.to_owned())),
    }
}
