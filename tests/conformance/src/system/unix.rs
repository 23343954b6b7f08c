//! On Unix: a directory with FIFOs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use pipebus_client::Identity;
use pipebus_proto::knock::{Knock, KnockId};
use pipebus_proto::place::Place;
use rustix::fs::{CWD, Mode};
use rustix::process::{Pid, Signal};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;

use crate::Process;

/// What the broker says.
pub type Reader = pipe::Receiver;
/// Where a client speaks.
pub type Writer = pipe::Sender;

/// An address that nobody else has.
pub fn fresh_address(scratch: &Path) -> String {
    scratch.join("bus").display().to_string()
}

impl Process {
    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

/// Makes a pair of FIFOs, and knocks.
pub async fn open(address: &str) -> (Reader, Writer) {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut id = KnockId([0; 16]);
    id.0[..8].copy_from_slice(&COUNT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    id.0[8..12].copy_from_slice(&std::process::id().to_le_bytes());
    let place = Place::new(address);
    for (path, mode) in [(place.up(&id), 0o640), (place.down(&id), 0o620)] {
        rustix::fs::mkfifoat(CWD, &path, Mode::from_raw_mode(0o600)).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    let reader = pipe::OpenOptions::new().open_receiver(place.down(&id)).unwrap();
    // For both ends, so that it can be opened before the broker has come.
    let writer = pipe::OpenOptions::new().read_write(true).open_sender(place.up(&id)).unwrap();
    let mut door = pipe::OpenOptions::new().open_sender(place.door()).unwrap();
    door.write_all(&Knock::new(id).encode()).await.unwrap();
    (reader, writer)
}

/// Who this process is.
pub fn own_identity() -> Identity {
    Identity::Unix { uid: rustix::process::geteuid().as_raw() }
}

/// The path of one of the project's programs, built in the profile of the running test.
pub fn program(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let directory = BUILT.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let directory = test.ancestors().find(|path| path.ends_with("deps"));
        let directory = directory.unwrap().parent().unwrap().to_owned();
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--bins", "-p", "pipebusd", "-p", "pipebus"]);
        if directory.ends_with("release") {
            cargo.arg("--release");
        }
        let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
        assert!(built.success(), "the programs can't be built");
        directory
    });
    directory.join(name)
}
