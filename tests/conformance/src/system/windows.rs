//! On Windows: named pipes. The programs have been built together with the tests.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pipebus_client::Identity;
use pipebus_windows::{account, pipe};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::windows::named_pipe::NamedPipeClient;

/// What the broker says.
pub type Reader = ReadHalf<NamedPipeClient>;
/// Where a client speaks.
pub type Writer = WriteHalf<NamedPipeClient>;

/// An address that nobody else has.
pub fn fresh_address(_: &Path) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!(r"\\.\pipe\pipebus-story-{}-{count}", std::process::id())
}

/// Opens the pipe, once it has an instance that is free.
pub async fn open(address: &str) -> (Reader, Writer) {
    loop {
        match pipe::open(address) {
            Ok(pipe) => return tokio::io::split(pipe),
            Err(error) if pipe::is_busy(&error) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Who this process is.
pub fn own_identity() -> Identity {
    Identity::Windows { sid: account::own().unwrap().sid }
}

/// The path of one of the project's programs.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.ancestors().find(|path| path.ends_with("deps")).unwrap().parent().unwrap();
    let program = folder.join(name).with_extension("exe");
    assert!(program.exists(), "{} is to be built first: cargo build --bins", program.display());
    program
}
