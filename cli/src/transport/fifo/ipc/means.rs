//! Means: how two processes of one machine can be connected.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Means {
    Fifo,
    UnixSocket,
    TcpLoopback,
    /// Not a connection: see [`crate::transport::fifo::ipc::file`].
    File,
}

/// What an end reads from, and writes to.
pub(super) type Ends = (Box<dyn Read>, Box<dyn Write>);

impl Means {
    pub(super) const ALL: [Means; 4] = [Means::Fifo, Means::UnixSocket, Means::TcpLoopback, Means::File];

    pub(super) fn name(self) -> &'static str {
        match self {
            Means::Fifo => "FIFO",
            Means::UnixSocket => "unix socket",
            Means::TcpLoopback => "TCP loopback",
            Means::File => "file",
        }
    }

    /// The near end, once there is a [`FarEnd`] in the directory.
    pub(super) fn connect(self, directory: &Path) -> io::Result<Ends> {
        match self {
            Means::Fifo => {
                let writer = File::options().write(true).open(there(directory))?;
                Ok((Box::new(File::open(back(directory))?), Box::new(writer)))
            }
            Means::UnixSocket => of_unix(UnixStream::connect(there(directory))?),
            Means::TcpLoopback => {
                let port = fs::read_to_string(there(directory))?.parse().map_err(io::Error::other)?;
                of_tcp(TcpStream::connect((Ipv4Addr::LOCALHOST, port))?)
            }
            Means::File => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// The end that is there first.
pub(super) enum FarEnd {
    Fifo { there: PathBuf, back: PathBuf },
    UnixSocket(UnixListener),
    TcpLoopback(TcpListener),
}

impl FarEnd {
    /// Puts into the directory what the near end needs.
    pub(super) fn make(means: Means, directory: &Path) -> io::Result<FarEnd> {
        match means {
            Means::Fifo => {
                let (there, back) = (there(directory), back(directory));
                for path in [&there, &back] {
                    rustix::fs::mkfifoat(CWD, path, Mode::from_raw_mode(0o600))?;
                }
                Ok(FarEnd::Fifo { there, back })
            }
            Means::UnixSocket => Ok(FarEnd::UnixSocket(UnixListener::bind(there(directory))?)),
            Means::TcpLoopback => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
                fs::write(there(directory), listener.local_addr()?.port().to_string())?;
                Ok(FarEnd::TcpLoopback(listener))
            }
            Means::File => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Waits for the near end.
    pub(super) fn accept(self) -> io::Result<Ends> {
        match self {
            FarEnd::Fifo { there, back } => {
                let reader = File::open(there)?;
                Ok((Box::new(reader), Box::new(File::options().write(true).open(back)?)))
            }
            FarEnd::UnixSocket(listener) => of_unix(listener.accept()?.0),
            FarEnd::TcpLoopback(listener) => of_tcp(listener.accept()?.0),
        }
    }
}

fn of_unix(stream: UnixStream) -> io::Result<Ends> {
    Ok((Box::new(stream.try_clone()?), Box::new(stream)))
}

fn of_tcp(stream: TcpStream) -> io::Result<Ends> {
    stream.set_nodelay(true)?;
    Ok((Box::new(stream.try_clone()?), Box::new(stream)))
}

fn there(directory: &Path) -> PathBuf {
    directory.join("there")
}

fn back(directory: &Path) -> PathBuf {
    directory.join("back")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_carries_both_ways() {
        for means in Means::ALL.into_iter().filter(|means| *means != Means::File) {
            let directory = tempfile::tempdir().unwrap();
            let far = FarEnd::make(means, directory.path()).unwrap();
            let echo = std::thread::spawn(move || {
                let (mut reader, mut writer) = far.accept().unwrap();
                io::copy(&mut reader, &mut writer).unwrap();
            });
            let (mut reader, mut writer) = means.connect(directory.path()).unwrap();
            writer.write_all(b"hello").unwrap();
            let mut answer = [0; 5];
            reader.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"hello", "{means:?}");
            drop((reader, writer));
            echo.join().unwrap();
        }
    }
}
