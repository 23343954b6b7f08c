//! Pipes: the yardstick's FIFOs, larger than pipes are by default.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::pipe::fcntl_setpipe_size;

use crate::failure::Failure;
use crate::transport::fifo::yardstick::failed;

/// As large as any user may make a pipe.
pub(super) const PIPE_BYTES: usize = 1 << 20;

pub(super) fn make_fifo(path: PathBuf) -> Result<PathBuf, Failure> {
    match rustix::fs::mkfifoat(CWD, &path, Mode::from_raw_mode(0o600)) {
        Ok(()) => Ok(path),
        Err(error) => Err(failed("make the FIFO", &path, error)),
    }
}

/// Opens a FIFO as soon as somebody opens its other end.
pub(super) fn open_reader(path: &Path) -> Result<File, Failure> {
    open(path, OFlags::RDONLY)
}

/// Opens a FIFO as soon as somebody opens its other end.
pub(super) fn open_writer(path: &Path) -> Result<File, Failure> {
    open(path, OFlags::WRONLY)
}

fn open(path: &Path, access: OFlags) -> Result<File, Failure> {
    let pipe = retry_on_intr(|| rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty()));
    let pipe = pipe.map_err(|error| failed("open the FIFO", path, error))?;
    enlarge(&pipe)?;
    Ok(File::from(pipe))
}

/// To [`PIPE_BYTES`]. Smaller ones would make the yardstick slower than it is.
pub(super) fn enlarge(pipe: impl std::os::fd::AsFd) -> Result<(), Failure> {
    match fcntl_setpipe_size(pipe, PIPE_BYTES) {
        Ok(_) => Ok(()),
        Err(error @ Errno::PERM) => {
            let doing = "make more pipes of 1 MiB, as the yardstick needs; take fewer publishers and subscribers, or \
                         raise fs.pipe-user-pages-soft with sysctl";
            Err(Failure::system(doing, error))
        }
        Err(error) => Err(Failure::system("enlarge a pipe", error)),
    }
}
