//! Relay: a process that only reads and writes between pipes.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, retry_on_intr, write};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice, tee};
use serde::{Deserialize, Serialize};

use crate::bench::args::Relay;
use crate::bench::meter::Cues;
use crate::failure::Failure;
use crate::transport::fifo::streams::BUFFER_BYTES;
use crate::transport::fifo::yardstick::pipes::{PIPE_BYTES, enlarge, open_reader, open_writer};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(super) groups: Vec<Group>,
    pub(super) relay: Relay,
    /// Whether to ask what is ready before each read, as whoever waits for many does, even if there is one input.
    pub(super) polls: bool,
}

/// Whatever comes from one of the inputs goes to all outputs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Group {
    pub(super) inputs: Vec<PathBuf>,
    pub(super) outputs: Vec<PathBuf>,
}

pub(crate) fn run(plan: &Plan) -> Result<(), Failure> {
    // In this order, in which nobody who has two pipes waits for somebody who waits for it.
    let open = |group: &Group| {
        let inputs = group.inputs.iter().map(|path| open_reader(path)).collect::<Result<_, _>>()?;
        let outputs = group.outputs.iter().map(|path| open_writer(path)).collect::<Result<_, _>>()?;
        Ok(Channel { inputs, outputs })
    };
    let mut channels = plan.groups.iter().map(open).collect::<Result<Vec<_>, Failure>>()?;
    let mut means = Means::new(plan.relay)?;
    let _cues = Cues::ready()?;
    match relay(&mut channels, &mut means, plan.polls) {
        // The readers have left.
        Err(Errno::PIPE) => Ok(()),
        relayed => relayed.map_err(|error| Failure::system("relay between pipes", error)),
    }
}

/// A [`Group`], opened.
struct Channel {
    inputs: Vec<File>,
    outputs: Vec<File>,
}

fn relay(channels: &mut [Channel], means: &mut Means, polls: bool) -> rustix::io::Result<()> {
    loop {
        let inputs: usize = channels.iter().map(|channel| channel.inputs.len()).sum();
        let ready = match inputs {
            0 => return Ok(()),
            1 if !polls => vec![true],
            _ => ready(channels)?,
        };
        let mut ready = ready.into_iter();
        for channel in &mut *channels {
            let outputs = &channel.outputs;
            let mut carried = Ok(());
            channel.inputs.retain(|input| match ready.next() {
                Some(true) if carried.is_ok() => match means.carry(input, outputs) {
                    Ok(bytes) => bytes > 0,
                    Err(error) => {
                        carried = Err(error);
                        true
                    }
                },
                _ => true,
            });
            carried?;
            if channel.inputs.is_empty() {
                // So that the readers see the end.
                channel.outputs.clear();
            }
        }
    }
}

/// Which of the inputs have something, or have ended; waits for one.
fn ready(channels: &[Channel]) -> rustix::io::Result<Vec<bool>> {
    let inputs = channels.iter().flat_map(|channel| &channel.inputs);
    let mut asked: Vec<PollFd<'_>> = inputs.map(|input| PollFd::new(input, PollFlags::IN)).collect();
    retry_on_intr(|| poll(&mut asked, None))?;
    Ok(asked.iter().map(|input| !input.revents().is_empty()).collect())
}

/// How bytes get from an input to the outputs.
enum Means {
    Copy {
        buffer: Vec<u8>,
    },
    /// With a pipe that is empty between calls, to where what goes to several outputs is duplicated.
    Splice {
        from: OwnedFd,
        to: OwnedFd,
    },
}

impl Means {
    fn new(relay: Relay) -> Result<Means, Failure> {
        match relay {
            Relay::Copy => Ok(Means::Copy { buffer: vec![0; BUFFER_BYTES] }),
            Relay::Splice => {
                let pipe = pipe_with(PipeFlags::CLOEXEC);
                let (from, to) = pipe.map_err(|error| Failure::system("make a pipe", error))?;
                enlarge(&to)?;
                Ok(Means::Splice { from, to })
            }
        }
    }

    /// Carries what there is, up to a bound; 0 bytes at the end of the input.
    fn carry(&mut self, input: &File, outputs: &[File]) -> rustix::io::Result<usize> {
        match self {
            Means::Copy { buffer } => {
                let bytes = retry_on_intr(|| read(input, &mut *buffer))?;
                outputs.iter().try_for_each(|output| write_all(output, &buffer[..bytes]))?;
                Ok(bytes)
            }
            Means::Splice { from, to } => {
                let Some((last, others)) = outputs.split_last() else { return Ok(0) };
                let mut bytes = PIPE_BYTES;
                for output in others {
                    // The pipe between is empty and has as many places as the input, so that the second time as much
                    // is duplicated as the first time.
                    bytes = retry_on_intr(|| tee(input, &*to, bytes, SpliceFlags::empty()))?;
                    splice_all(&*from, output, bytes)?;
                }
                if others.is_empty() {
                    return splice_some(input, last, bytes);
                }
                splice_all(input, last, bytes)?;
                Ok(bytes)
            }
        }
    }
}

fn write_all(output: &File, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        let written = retry_on_intr(|| write(output, bytes))?;
        bytes = &bytes[written..];
    }
    Ok(())
}

fn splice_all(input: impl std::os::fd::AsFd, output: &File, mut bytes: usize) -> rustix::io::Result<()> {
    while bytes > 0 {
        bytes -= splice_some(&input, output, bytes)?;
    }
    Ok(())
}

fn splice_some(input: impl std::os::fd::AsFd, output: &File, bytes: usize) -> rustix::io::Result<usize> {
    retry_on_intr(|| splice(&input, None, output, None, bytes, SpliceFlags::MOVE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    /// Two inputs that say this, and what comes out of both outputs.
    fn check(relay_by: Relay) {
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map(|(from, to)| (File::from(from), File::from(to))).unwrap();
        let ((first, mut to_first), (second, mut to_second)) = (pipe(), pipe());
        let ((mut of_first, first_out), (mut of_second, second_out)) = (pipe(), pipe());
        to_first.write_all(&[1; 3000]).unwrap();
        to_second.write_all(&[2; 5000]).unwrap();
        drop((to_first, to_second));
        let mut channels = [Channel { inputs: vec![first, second], outputs: vec![first_out, second_out] }];
        relay(&mut channels, &mut Means::new(relay_by).unwrap(), false).unwrap();
        for output in [&mut of_first, &mut of_second] {
            let mut came = Vec::new();
            output.read_to_end(&mut came).unwrap();
            came.sort_unstable();
            assert_eq!(came, [vec![1; 3000], vec![2; 5000]].concat());
        }
    }

    #[test]
    fn whatever_comes_goes_to_all_outputs() {
        check(Relay::Copy);
        check(Relay::Splice);
    }
}
