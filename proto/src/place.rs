//! Where a bus is: addresses, and the names of the pipes and files that belong to it. Pure arithmetic; touches no file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::knock::KnockId;

/// What the names of pipes begin with on Windows, if they are this machine's.
pub const PIPES: &str = r"\\.\pipe\";

/// How people name a bus: `system`, `session`, or its path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Address {
    /// The machine's bus, `/run/pipebus`; on Windows `\\.\pipe\pipebus`.
    System,
    /// The user's own bus, in `$XDG_RUNTIME_DIR/pipebus`; on Windows `\\.\pipe\pipebus-`, and the user's SID.
    #[default]
    Session,
    /// The bus in this directory; on Windows, of this pipe.
    Path(PathBuf),
}

impl Address {
    /// The bus's place, given what surrounds the program.
    pub fn place(&self, surroundings: &Surroundings) -> Place {
        let path = match (self, surroundings) {
            (Address::Path(path), _) => path.clone(),
            (Address::System, Surroundings::Unix { .. }) => PathBuf::from("/run/pipebus"),
            (Address::Session, Surroundings::Unix { runtime_directory: Some(runtime), .. }) => runtime.join("pipebus"),
            (Address::Session, Surroundings::Unix { temporary_directory, uid, .. }) => {
                temporary_directory.join(format!("pipebus-{uid}"))
            }
            (Address::System, Surroundings::Windows { .. }) => PathBuf::from(format!("{PIPES}pipebus")),
            (Address::Session, Surroundings::Windows { sid }) => PathBuf::from(format!("{PIPES}pipebus-{sid}")),
        };
        Place { path }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        match text {
            "system" => Ok(Address::System),
            "session" => Ok(Address::Session),
            _ if text.contains("://") => Err(AddressError::Remote(text.to_owned())),
            _ if text.contains('/') || text.starts_with(r"\\") => Ok(Address::Path(PathBuf::from(text))),
            _ => Err(AddressError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::System => f.write_str("system"),
            Address::Session => f.write_str("session"),
            Address::Path(path) => path.display().fmt(f),
        }
    }
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Neither a word that is known nor a path.
    #[error(r"{0:?} is no bus: say system, session, or a directory with a slash in it such as ./{0}; on Windows, a pipe such as \\.\pipe\{0}")]
    Unknown(String),
    /// A bus on another machine.
    #[error("{0:?} is a remote address; only buses of this machine can be reached: say system, session or a path")]
    Remote(String),
}

/// What an address depends on, read by the caller from its environment.
#[derive(Clone, Debug)]
pub enum Surroundings {
    /// On a Unix system, where a bus is a directory with FIFOs.
    Unix {
        /// `$XDG_RUNTIME_DIR`, if set and absolute.
        runtime_directory: Option<PathBuf>,
        /// The directory for temporary files.
        temporary_directory: PathBuf,
        /// The user's number.
        uid: u32,
    },
    /// On Windows, where a bus is a named pipe.
    Windows {
        /// The user's security identifier, as text.
        sid: String,
    },
}

/// A bus's path: its directory, in which are the FIFOs that the functions below name; or, on Windows, its named pipe, and
/// then nothing belongs to it that has a name of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    path: PathBuf,
}

impl Place {
    /// The bus in this directory, or of this named pipe.
    pub fn new(path: impl Into<PathBuf>) -> Place {
        Place { path: path.into() }
    }

    /// The bus itself: its directory or its named pipe.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The well-known FIFO on which clients knock.
    pub fn door(&self) -> PathBuf {
        self.path.join("bus")
    }

    /// The directory in which clients make their FIFOs.
    pub fn instances(&self) -> PathBuf {
        self.path.join("instances")
    }

    /// The file that the broker locks, with its pid in it.
    pub fn lock(&self) -> PathBuf {
        self.path.join("broker.lock")
    }

    /// The FIFO on which the client of this knock sends.
    pub fn up(&self, id: &KnockId) -> PathBuf {
        self.instances().join(format!("{id}.up"))
    }

    /// The FIFO on which the client of this knock receives.
    pub fn down(&self, id: &KnockId) -> PathBuf {
        self.instances().join(format!("{id}.down"))
    }

    /// Of which knock this is the name of [`Place::down`], if of any.
    pub fn id_of_down(name: &str) -> Option<KnockId> {
        let digits: &[u8; 32] = name.strip_suffix(".down")?.as_bytes().try_into().ok()?;
        let mut id = [0; 16];
        for (byte, digits) in id.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(digits[0])? << 4 | digit(digits[1])?;
        }
        Some(KnockId(id))
    }
}

/// A name of a named pipe of Windows, taken apart: `\\MACHINE\pipe\NAME`. The system does not care how it is spelt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipeName<'a> {
    /// The machine: `.` is this one.
    pub machine: &'a str,
    /// The pipe's own name.
    pub pipe: &'a str,
}

impl PipeName<'_> {
    /// What a path names, if it is a pipe.
    pub fn of(path: &Path) -> Option<PipeName<'_>> {
        let (machine, rest) = path.to_str()?.strip_prefix(r"\\")?.split_once('\\')?;
        let (kind, pipe) = rest.split_once('\\')?;
        let is_pipe = kind.eq_ignore_ascii_case("pipe") && !machine.is_empty() && !pipe.is_empty();
        is_pipe.then_some(PipeName { machine, pipe })
    }

    /// Whether it is on this machine.
    pub fn is_local(&self) -> bool {
        self.machine == "."
    }
}

/// A lower-case hexadecimal digit.
fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: &str, runtime: Option<&str>, expected: &str) {
        let surroundings = Surroundings::Unix {
            runtime_directory: runtime.map(PathBuf::from),
            temporary_directory: "/tmp".into(),
            uid: 1000,
        };
        let place = address.parse::<Address>().unwrap().place(&surroundings);
        assert_eq!(place.path(), Path::new(expected), "{address}");
    }

    #[test]
    fn an_id_is_known_by_the_name_of_its_fifo() {
        let id = KnockId([0x00, 0x01, 0x7f, 0x80, 0x9a, 0xff, 0xab, 0xcd, 0xef, 9, 8, 7, 6, 5, 4, 3]);
        let place = Place::new("/bus");
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(Place::id_of_down(&name(place.down(&id))), Some(id));
        let none = [name(place.up(&id)), name(place.down(&id)).to_uppercase(), "00.down".into(), ".down".into()];
        assert_eq!(none.map(|name| Place::id_of_down(&name)), [None; 4]);
    }

    #[test]
    fn an_address_is_a_word_or_a_path() {
        check("system", None, "/run/pipebus");
        check("session", Some("/run/user/1000"), "/run/user/1000/pipebus");
        check("session", None, "/tmp/pipebus-1000");
        check("/a/b", None, "/a/b");
        check("./b", None, "./b");
        check(r"\\.\pipe\b", None, r"\\.\pipe\b");
        assert_eq!("sesion".parse::<Address>(), Err(AddressError::Unknown("sesion".into())));
        assert!(matches!("ssh://host".parse::<Address>(), Err(AddressError::Remote(_))));
    }

    #[test]
    fn a_name_of_a_pipe_has_a_machine_and_a_name() {
        for name in [r"\\.\pipe\pipebus", r"\\.\PIPE\a\b", r"\\server\pipe\pipebus"] {
            assert!(PipeName::of(Path::new(name)).is_some(), "{name}");
        }
        for name in ["pipebus", r"\\.\pipe\", r"\\.\pipe", r"\\\pipe\a", r"C:\pipe\a", r"\\.\mailslot\a", "./a"] {
            assert_eq!(PipeName::of(Path::new(name)), None, "{name}");
        }
        let local = |name| PipeName::of(Path::new(name)).unwrap().is_local();
        assert_eq!([local(r"\\.\pipe\a"), local(r"\\server\pipe\a")], [true, false]);
    }

    #[test]
    fn on_windows_a_bus_is_a_pipe() {
        let surroundings = Surroundings::Windows { sid: "S-1-5-21-7".to_owned() };
        let path = |address: Address| address.place(&surroundings).path().display().to_string();
        assert_eq!(path(Address::System), r"\\.\pipe\pipebus");
        assert_eq!(path(Address::Session), r"\\.\pipe\pipebus-S-1-5-21-7");
    }
}
