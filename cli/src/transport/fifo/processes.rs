//! Processes: what /proc tells of them.
//!
//! Nothing is opened but what is in /proc itself, and whoever ends while it is looked at is left out. Threads that do not
//! share the descriptors of their process are not looked at; there are hardly any.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;
use rustix::path::Arg;

/// More than any file that is read here has, but for the arguments of a process, of which this much is enough.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A process, by its directory in /proc: never another's, even if its number is used again.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    directory: OwnedFd,
}

impl Process {
    /// All that can be seen.
    pub(crate) fn all() -> io::Result<impl Iterator<Item = Process>> {
        let entries = std::fs::read_dir("/proc")?;
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Ok(pids.filter_map(Process::of))
    }

    /// The process of this number, if there is one.
    pub(crate) fn of(pid: u32) -> Option<Process> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty()).ok()?;
        Some(Process { pid, directory })
    }

    /// The name of its program, as the system keeps it: the process can change it to anything.
    pub(crate) fn command(&self) -> String {
        let name = self.read("comm").unwrap_or_default();
        String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into_owned()
    }

    /// What it was started with, beginning with its own name.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let all = self.read("cmdline").unwrap_or_default();
        let all = all.strip_suffix(b"\0").unwrap_or(&all);
        all.split(|byte| *byte == 0).map(|argument| OsString::from_vec(argument.to_owned())).collect()
    }

    /// Where it is, if this user may see.
    pub(crate) fn working_directory(&self) -> Option<PathBuf> {
        let link = rustix::fs::readlinkat(&self.directory, "cwd", Vec::new()).ok()?;
        Some(OsString::from_vec(link.into_bytes()).into())
    }

    /// Whose rights it has.
    pub(crate) fn uid(&self) -> Option<u32> {
        let status = self.read("status")?;
        field(&status, "Uid:")?.split_whitespace().nth(1)?.parse().ok()
    }

    /// What it does, as a letter of ps(1).
    pub(crate) fn state(&self) -> Option<char> {
        field(&self.read("status")?, "State:")?.trim_start().chars().next()
    }

    /// How many descriptors it may have open; `u64::MAX` if as many as it likes.
    pub(crate) fn descriptors_max(&self) -> Option<u64> {
        let limits = self.read("limits")?;
        let soft = field(&limits, "Max open files")?.split_whitespace().next()?.to_owned();
        if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
    }

    /// Its open descriptors.
    pub(crate) fn descriptors(&self) -> rustix::io::Result<Descriptors> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.directory, "fd", flags, Mode::empty()).map(Descriptors)
    }

    /// How a descriptor was opened.
    pub(crate) fn flags_of(&self, descriptor: i32) -> Option<OFlags> {
        let information = self.read(&format!("fdinfo/{descriptor}"))?;
        let octal = field(&information, "flags:")?.trim().to_owned();
        u32::from_str_radix(&octal, 8).ok().map(OFlags::from_bits_retain)
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, name, flags, Mode::empty()).ok()?;
        let mut bytes = Vec::new();
        File::from(file).take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }
}

/// What stands behind a word at the beginning of a line.
fn field(bytes: &[u8], word: &str) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    text.lines().find_map(|line| line.strip_prefix(word)).map(str::to_owned)
}

/// The open descriptors of a process.
pub(crate) struct Descriptors(OwnedFd);

impl Descriptors {
    /// Their numbers.
    pub(crate) fn numbers(&self) -> rustix::io::Result<impl Iterator<Item = i32>> {
        let entries = Dir::read_from(&self.0)?.map_while(rustix::io::Result::ok);
        Ok(entries.filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok()))
    }

    /// What a descriptor is open on.
    pub(crate) fn facts(&self, descriptor: i32) -> rustix::io::Result<Facts> {
        facts_at(&self.0, descriptor.to_string(), AtFlags::empty())
    }

    /// What it is called: a path, as it was when it was opened or renamed, or the like of `pipe:[7]`.
    pub(crate) fn name(&self, descriptor: i32) -> Option<Vec<u8>> {
        let name = rustix::fs::readlinkat(&self.0, descriptor.to_string(), Vec::new()).ok()?;
        Some(name.into_bytes())
    }
}

/// What is known of a file without opening it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) kind: FileType,
    /// Its permission bits, with the sticky bit and the like.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) device: Device,
    pub(crate) inode: u64,
    /// When it was last written to, in seconds since 1970.
    pub(crate) modified: i64,
}

/// The number of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Device {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl Facts {
    /// Of what has this path; of a link itself.
    pub(crate) fn of(path: impl Arg) -> rustix::io::Result<Facts> {
        facts_at(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Whether both are of one file.
    pub(crate) fn is_same(&self, other: &Facts) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// Asks for what the system knows already: whoever looks at other programs' files must not have to wait for a file server
/// that is gone, or for a program that pretends to be one.
fn facts_at(directory: impl AsFd, path: impl Arg, flags: AtFlags) -> rustix::io::Result<Facts> {
    let flags = flags | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(directory, path, flags, StatxFlags::BASIC_STATS).map(Facts::from)
}

impl From<Statx> for Facts {
    fn from(facts: Statx) -> Facts {
        let mode = u32::from(facts.stx_mode);
        Facts {
            kind: FileType::from_raw_mode(mode),
            mode: mode & 0o7777,
            uid: facts.stx_uid,
            gid: facts.stx_gid,
            device: Device { major: facts.stx_dev_major, minor: facts.stx_dev_minor },
            inode: facts.stx_ino,
            modified: facts.stx_mtime.tv_sec,
        }
    }
}

/// Whether the system says that somebody may not, rather than that something is not there.
pub(crate) fn is_denial(errno: Errno) -> bool {
    matches!(errno, Errno::ACCESS | Errno::PERM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn this_process_is_seen_as_it_is() {
        let me = Process::of(std::process::id()).unwrap();
        assert_eq!(me.uid(), Some(rustix::process::geteuid().as_raw()));
        assert!(matches!(me.state(), Some('R' | 'S')));
        assert_eq!(me.arguments(), std::env::args_os().collect::<Vec<_>>());
        assert_eq!(me.descriptors_max(), rustix::process::getrlimit(rustix::process::Resource::Nofile).current);
        assert!(Process::all().unwrap().any(|process| process.pid == me.pid));
    }

    #[test]
    fn a_descriptor_tells_what_it_is_open_on_and_how() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let me = Process::of(std::process::id()).unwrap();
        let descriptors = me.descriptors().unwrap();
        for (fd, access) in [(&reader, OFlags::RDONLY), (&writer, OFlags::WRONLY)] {
            let number = fd.as_raw_fd();
            assert_eq!(descriptors.facts(number).unwrap().kind, FileType::Fifo);
            assert_eq!(me.flags_of(number).unwrap() & OFlags::ACCMODE, access);
            assert!(descriptors.name(number).unwrap().starts_with(b"pipe:["));
        }
        assert!(descriptors.numbers().unwrap().any(|number| number == reader.as_raw_fd()));
    }

    #[test]
    fn a_field_is_found_by_its_word_alone() {
        let text = b"Name:\tUid:\nUid:\t1\t2\t3\t4\n";
        assert_eq!(field(text, "Uid:").as_deref(), Some("\t1\t2\t3\t4"));
        assert_eq!(field(text, "Gid:"), None);
    }
}
