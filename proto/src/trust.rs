//! Whether a bus's directory, or its named pipe, can be trusted: judged from facts that the caller has read.
//!
//! Whoever can write to a bus's directory, or rename it away, can pretend to be the broker. This is the question that
//! OpenSSH asks of key files (its `safe_path`), milder about groups, with one more rule for the temporary directory.

use std::io;
use std::path::{Path, PathBuf};

use crate::place::PipeName;

/// What is known of a directory, as lstat(2) tells it.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it is a directory, rather than a link or anything else.
    pub is_directory: bool,
    /// Its owner.
    pub uid: u32,
    /// Its permission bits, with the sticky bit.
    pub mode: u32,
}

const STICKY: u32 = 0o1000;
const ROOT: u32 = 0;

/// The directory and all above it, nearest first; `examine` says of each whether it is a directory, its owner and mode.
///
/// Links above the directory are followed here, so that what is judged is what is used.
///
/// # Errors
/// What `examine` or the operating system says.
pub fn ancestry(
    directory: &Path,
    mut examine: impl FnMut(&Path) -> io::Result<(bool, u32, u32)>,
) -> io::Result<Vec<Directory>> {
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = parent.canonicalize()?;
    let real = directory.file_name().map_or(parent.clone(), |name| parent.join(name));
    real.ancestors()
        .map(|path| {
            let (is_directory, uid, mode) = examine(path)?;
            Ok(Directory { path: path.to_owned(), is_directory, uid, mode })
        })
        .collect()
}

/// Judges a bus's directory (the first) by itself and by those above it, up to the root (the last), for user `me`.
///
/// Good is a real directory that nobody but its owner can write, below no directory that everybody can write. Below one
/// that everybody can write but not rename in, such as `/tmp`, it must also be `me`'s or root's and closed to all
/// others. A parent that its group can write is taken as it is: on many systems every user has a group alone.
///
/// # Errors
/// Which directory is bad, and why.
pub fn check(directories: &[Directory], me: u32) -> Result<(), Distrust> {
    let Some(bus) = directories.first() else { return Ok(()) };
    if !bus.is_directory {
        return Err(Distrust::NoDirectory { path: bus.path.clone() });
    }
    if bus.mode & 0o022 != 0 {
        return Err(Distrust::Writable { path: bus.path.clone(), mode: bus.mode });
    }
    for pair in directories.windows(2) {
        let (child, parent) = (&pair[0], &pair[1]);
        if parent.mode & 0o002 == 0 {
            continue;
        }
        if parent.mode & STICKY == 0 {
            return Err(Distrust::Replaceable { path: child.path.clone(), parent: parent.path.clone() });
        }
        if child.uid != me && child.uid != ROOT {
            return Err(Distrust::Owner { path: child.path.clone(), uid: child.uid });
        }
        if std::ptr::eq(child, bus) && bus.mode & 0o077 != 0 {
            return Err(Distrust::Open { path: bus.path.clone(), mode: bus.mode });
        }
    }
    Ok(())
}

/// Judges a named pipe of Windows by its owner, for an account `me`; both are security identifiers as text.
///
/// Anybody can make a pipe of any name, as anybody can make a directory in the temporary one. Good is what is `me`'s, the
/// system's, of those who administer the machine, or of a service that has an account of its own (`NT SERVICE\NAME`). Not of
/// LocalService and NetworkService, which many services are; and a session's bus, which is `me`'s alone, is no service's.
/// ("Well-known SIDs" in Microsoft's documentation.) Of a pipe on another machine this says little: its accounts are others.
///
/// # Errors
/// It is somebody else's.
pub fn check_owner(pipe: &Path, owner: &str, me: &str) -> Result<(), Distrust> {
    const TRUSTED: [&str; 2] = ["S-1-5-18", "S-1-5-32-544"];
    const SERVICES: &str = "S-1-5-80-";
    let is_session = PipeName::of(pipe).is_some_and(|name| name.pipe.eq_ignore_ascii_case(&format!("pipebus-{me}")));
    let is_service = owner.starts_with(SERVICES) && !is_session;
    if !owner.is_empty() && (owner == me || TRUSTED.contains(&owner) || is_service) {
        return Ok(());
    }
    Err(Distrust::Stranger { path: pipe.to_owned(), owner: owner.to_owned() })
}

/// Why a bus is not trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Distrust {
    /// A link or a file.
    #[error("{} is not a real directory; remove it, or name another bus", path.display())]
    NoDirectory {
        /// Where.
        path: PathBuf,
    },
    /// Others may write to it.
    #[error("{} can be written by others (mode {:04o}); chmod go-w it, or name another bus", path.display(), mode & 0o7777)]
    Writable {
        /// Where.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Anybody may put something else in its place.
    #[error("anybody can replace {}, since {} is writable by all and not sticky; name another bus", path.display(), parent.display())]
    Replaceable {
        /// Where.
        path: PathBuf,
        /// What is writable.
        parent: PathBuf,
    },
    /// Somebody else's, in a place where everybody may write.
    #[error("{} belongs to user {uid}, who may have put it there to deceive; name another bus", path.display())]
    Owner {
        /// Where.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// A pipe of somebody else's.
    #[error("{} belongs to {owner:?}, who may have made it to deceive; name another bus", path.display())]
    Stranger {
        /// Its name.
        path: PathBuf,
        /// The owner's security identifier.
        owner: String,
    },
    /// In a place where everybody may write, and not closed.
    #[error("{} is open to others (mode {:04o}) in a place where everybody may write; chmod go= it, or name another bus", path.display(), mode & 0o7777)]
    Open {
        /// Where.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(path: &str, uid: u32, mode: u32) -> Directory {
        Directory { path: path.into(), is_directory: true, uid, mode }
    }

    fn check_bus(bus: Directory, above: &[Directory]) -> Result<(), Distrust> {
        let mut all = vec![bus];
        all.extend_from_slice(above);
        all.push(directory("/", 0, 0o755));
        check(&all, 1000)
    }

    #[test]
    fn a_directory_that_only_its_owner_writes_is_good() {
        let run = [directory("/run", 0, 0o755)];
        assert_eq!(check_bus(directory("/run/pipebus", 77, 0o755), &run), Ok(()));
        let home = [directory("/home/me", 1000, 0o755), directory("/home", 0, 0o755)];
        assert_eq!(check_bus(directory("/home/me/bus", 1000, 0o700), &home), Ok(()));
    }

    #[test]
    fn one_that_others_write_is_not() {
        for mode in [0o777, 0o1777, 0o775, 0o722] {
            let got = check_bus(directory("/x/bus", 1000, mode), &[directory("/x", 0, 0o755)]);
            assert_eq!(got, Err(Distrust::Writable { path: "/x/bus".into(), mode }));
        }
        let mut link = directory("/x/bus", 1000, 0o777);
        link.is_directory = false;
        assert_eq!(check_bus(link, &[]), Err(Distrust::NoDirectory { path: "/x/bus".into() }));
    }

    #[test]
    fn in_the_temporary_directory_it_must_be_mine_and_closed() {
        let tmp = [directory("/tmp", 0, 0o1777)];
        assert_eq!(check_bus(directory("/tmp/b", 1000, 0o700), &tmp), Ok(()));
        let theirs = check_bus(directory("/tmp/b", 1001, 0o700), &tmp);
        assert_eq!(theirs, Err(Distrust::Owner { path: "/tmp/b".into(), uid: 1001 }));
        let open = check_bus(directory("/tmp/b", 1000, 0o755), &tmp);
        assert_eq!(open, Err(Distrust::Open { path: "/tmp/b".into(), mode: 0o755 }));
        let below = [directory("/tmp/x", 1001, 0o755), tmp[0].clone()];
        let got = check_bus(directory("/tmp/x/b", 1000, 0o700), &below);
        assert_eq!(got, Err(Distrust::Owner { path: "/tmp/x".into(), uid: 1001 }));
        let loose = [directory("/w", 0, 0o777)];
        let got = check_bus(directory("/w/b", 1000, 0o700), &loose);
        assert_eq!(got, Err(Distrust::Replaceable { path: "/w/b".into(), parent: "/w".into() }));
    }

    #[test]
    fn a_pipe_is_mine_the_systems_or_a_services() {
        let check = |owner| check_owner(Path::new(r"\\.\pipe\b"), owner, "S-1-5-21-1-1001");
        for owner in ["S-1-5-21-1-1001", "S-1-5-18", "S-1-5-32-544", "S-1-5-80-7-7-7-7-7"] {
            assert_eq!(check(owner), Ok(()), "{owner}");
        }
        for owner in ["S-1-5-21-1-1002", "", "S-1-5-7", "S-1-5-8", "S-1-5-180", "S-1-5-19", "S-1-5-20"] {
            assert!(matches!(check(owner), Err(Distrust::Stranger { .. })), "{owner}");
        }
        let session = Path::new(r"\\.\PIPE\Pipebus-S-1-5-21-1-1001");
        let of_service = check_owner(session, "S-1-5-80-7-7-7-7-7", "S-1-5-21-1-1001");
        assert!(matches!(of_service, Err(Distrust::Stranger { .. })), "a session is its user's");
    }
}
