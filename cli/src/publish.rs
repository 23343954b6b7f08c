//! `pipebus pub`: a message, a file, or every line of the input.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::Path;

use bytes::{Bytes, BytesMut};
use pipebus_client::{Client, Error, Link, Publisher};
use pipebus_proto::place::Address;

use crate::args::messages::Publish;
use crate::bus::{connect, report_losses};
use crate::failure::Failure;
use crate::output::note;

/// How much of the input is read at once; more than a pipe holds by default would not come anyway.
const READ_BYTES: usize = 64 * 1024;

/// A line or message of more than this is not waited for: no broker can be configured to take it.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

pub(crate) async fn run(bus: &Address, arguments: &Publish) -> Result<(), Failure> {
    let client = connect(bus, "pub").await?;
    let losses = tokio::spawn(report_losses(client.link()));
    let published = publish(&client, arguments).await;
    losses.abort();
    // What was published before something failed is to arrive as well.
    let finished = finish(client).await;
    published.and(finished)
}

async fn publish(client: &Client, arguments: &Publish) -> Result<(), Failure> {
    let publisher = client.publisher(arguments.topic.as_str())?;
    let outlet = Outlet { publisher, headers: &arguments.headers };
    let file = arguments.file.as_deref();
    if arguments.lines {
        return outlet.publish_lines(Lines::of(source(file)?)).await;
    }
    match (&arguments.message, file) {
        (Some(message), _) => outlet.publish(message_of(message)?).await,
        (None, Some(path)) if arguments.headers.is_empty() => outlet.publish_file(path).await,
        (None, _) => outlet.publish(whole(source(file)?)?).await,
    }
}

/// The message that an argument stands for: itself, or if it is `-` all of the standard input.
pub(crate) fn message_of(argument: &OsStr) -> Result<Bytes, Failure> {
    if argument == "-" { whole(source(None)?) } else { Ok(Bytes::copy_from_slice(argument.as_encoded_bytes())) }
}

fn source(file: Option<&Path>) -> Result<Box<dyn Read>, Failure> {
    let Some(path) = file else {
        if io::stdin().is_terminal() {
            note("reading from the terminal; Ctrl-D on an empty line ends the input");
        }
        return Ok(Box::new(io::stdin()));
    };
    Ok(Box::new(open(path)?))
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| Failure::system(format!("open {}", path.display()), error))
}

fn whole(source: impl Read) -> Result<Bytes, Failure> {
    let mut message = Vec::new();
    let read = source.take(MESSAGE_BYTES_MAX as u64 + 1).read_to_end(&mut message);
    read.map_err(|error| Failure::system("read the input", error))?;
    match message.len() {
        0..=MESSAGE_BYTES_MAX => Ok(message.into()),
        _ => Err(Failure::InputTooLarge { max: MESSAGE_BYTES_MAX }),
    }
}

/// Where messages go, and the headers of each.
struct Outlet<'a> {
    publisher: Publisher,
    headers: &'a [(String, String)],
}

impl Outlet<'_> {
    /// Reading blocks this thread, not the connection, which the runtime's worker keeps.
    async fn publish_lines(&self, mut lines: Lines<impl Read>) -> Result<(), Failure> {
        while let Some(mut some) = lines.next_some()? {
            while let Some(line) = next_line(&mut some) {
                self.publish(line).await?;
            }
        }
        Ok(())
    }

    /// Publishes as much of a file as there was when it was opened, read into memory that is lent to the pipe. What has
    /// no length, such as a pipe, is read to its end.
    async fn publish_file(&self, path: &Path) -> Result<(), Failure> {
        let failed = |error| Failure::system(format!("read {}", path.display()), error);
        let mut file = open(path)?;
        let facts = file.metadata().map_err(failed)?;
        let length = usize::try_from(facts.len()).unwrap_or(usize::MAX);
        if !facts.is_file() || length == 0 {
            return self.publish(whole(file)?).await;
        }
        if length > MESSAGE_BYTES_MAX {
            return Err(Failure::InputTooLarge { max: MESSAGE_BYTES_MAX });
        }
        let mut loan = self.publisher.loan(length);
        file.read_exact(&mut loan).map_err(failed)?;
        Ok(self.publisher.publish_loan(loan).await?)
    }

    async fn publish(&self, message: Bytes) -> Result<(), Failure> {
        if self.headers.is_empty() {
            match self.publisher.try_publish(message.clone()) {
                Err(Error::WouldWait) => {}
                published => return Ok(published?),
            }
        }
        Ok(self.publisher.publish_with(message, self.headers).await?)
    }
}

/// The lines of a source, as they come.
struct Lines<R> {
    source: R,
    /// The beginning of a line whose end has not come yet.
    begun: BytesMut,
    ended: bool,
}

impl<R: Read> Lines<R> {
    fn of(source: R) -> Lines<R> {
        Lines { source, begun: BytesMut::new(), ended: false }
    }

    /// As many whole lines as there are without waiting for more than one; `None` at the end of the source.
    fn next_some(&mut self) -> Result<Option<Bytes>, Failure> {
        while !self.ended {
            let before = self.begun.len();
            if before > MESSAGE_BYTES_MAX {
                return Err(Failure::InputTooLarge { max: MESSAGE_BYTES_MAX });
            }
            let read = self.read()?;
            self.ended = read == 0;
            if let Some(newline) = self.begun[before..].iter().rposition(|byte| *byte == b'\n') {
                return Ok(Some(self.begun.split_to(before + newline + 1).freeze()));
            }
        }
        Ok(Some(self.begun.split().freeze()).filter(|last| !last.is_empty()))
    }

    fn read(&mut self) -> Result<usize, Failure> {
        let before = self.begun.len();
        self.begun.resize(before + READ_BYTES, 0);
        let read = loop {
            match self.source.read(&mut self.begun[before..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.begun.truncate(before + read.as_ref().copied().unwrap_or(0));
        read.map_err(|error| Failure::system("read the input", error))
    }
}

/// Takes a line, without its newline and without a copy.
fn next_line(lines: &mut Bytes) -> Option<Bytes> {
    let mut rest = &lines[..];
    // Memory can always be read.
    let length = rest.skip_until(b'\n').unwrap_or(0);
    if length == 0 {
        return None;
    }
    let mut line = lines.split_to(length);
    if line.ends_with(b"\n") {
        line.truncate(length - 1);
    }
    Some(line)
}

/// Waits until the broker has routed all, however slow the subscribers are, and leaves.
async fn finish(client: Client) -> Result<(), Failure> {
    let mut link = client.link();
    let flushed = tokio::select! {
        biased;
        flushed = client.flush() => flushed,
        // Lost after all was confirmed: there is nothing to wait for.
        _ = link.wait_for(|link| matches!(link, Link::Down { .. })) => Ok(()),
    };
    let closed = client.close().await;
    match (flushed, closed) {
        (Err(Error::Unconfirmed { messages }), _) | (_, Err(Error::Unconfirmed { messages })) => {
            Err(Failure::InDoubt { messages })
        }
        // Here again all was confirmed before.
        (Ok(()) | Err(Error::Disconnected), _) => Ok(()),
        (Err(error), _) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its pieces one at a time, as a pipe does.
    struct Pieces(Vec<&'static [u8]>);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            self.0.remove(0).read(buffer)
        }
    }

    fn check(pieces: &[&'static [u8]], expected: &[&[u8]]) {
        let mut lines = Lines::of(Pieces(pieces.to_vec()));
        let mut got = Vec::new();
        while let Some(mut some) = lines.next_some().unwrap() {
            got.extend(std::iter::from_fn(|| next_line(&mut some)));
        }
        assert_eq!(got, expected, "{pieces:?}");
    }

    #[test]
    fn lines_are_cut_wherever_the_pieces_end() {
        check(&[], &[]);
        check(&[b"a\nb\n"], &[b"a", b"b"]);
        check(&[b"a", b"b\n", b"c\nd", b"\n"], &[b"ab", b"c", b"d"]);
        check(&[b"a", b"\n"], &[b"a"]);
    }

    #[test]
    fn a_last_line_without_a_newline_counts_and_empty_lines_are_messages() {
        check(&[b"a\nb"], &[b"a", b"b"]);
        check(&[b"\n\na\n"], &[b"", b"", b"a"]);
        check(&[b"a\r\n"], &[b"a\r"]);
    }

    #[test]
    fn a_line_comes_before_the_next_is_read() {
        let mut lines = Lines::of(Pieces(vec![b"a\n", b"b\n"]));
        assert_eq!(lines.next_some().unwrap().unwrap(), "a\n");
        assert_eq!(lines.source.0.len(), 1);
    }

    #[test]
    fn a_line_may_be_longer_than_what_is_read_at_once() {
        let long: &'static [u8] = vec![b'x'; READ_BYTES].leak();
        let mut lines = Lines::of(Pieces(vec![long, long, b"\n"]));
        assert_eq!(lines.next_some().unwrap().unwrap().len(), 2 * READ_BYTES + 1);
    }
}
