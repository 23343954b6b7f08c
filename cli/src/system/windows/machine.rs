//! The machine: facts about it that change, for the demo's publishers, and how a shell is asked there.

use pipebus_windows::machine;

use crate::output::grouped;

/// A command that answers whoever asks what this machine is called, in the words of a shell.
pub(crate) const NAME_COMMAND: &[&str] =
    &["cmd", "/c", "echo %COMPUTERNAME% runs %OS% and tells user %PIPEBUS_SID%, who asked"];

/// How to do by hand what the demo has shown.
pub(crate) const BY_HAND: &str =
    "  pipebusd                                                            the broker of your session
  pipebus sub 'machine/**'                                            one who listens
  & { while (1) { Get-Date; sleep 1 } } | pipebus pub machine/time --lines
  pipebus reply host/name -- hostname                                 one who answers
  pipebus request host/name                                           one who asks
  pipebus status; pipebus instances; pipebus topics                   what is going on";

/// The disk of which is told how much is free.
const DISK: &str = r"C:\";

/// Something that can be read again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    Load,
    Memory,
    Disk,
}

impl Reading {
    pub(crate) const ALL: [Reading; 3] = [Reading::Load, Reading::Memory, Reading::Disk];

    pub(crate) fn topic(self) -> &'static str {
        match self {
            Reading::Load => "machine/load",
            Reading::Memory => "machine/memory/free",
            Reading::Disk => "machine/disk/free",
        }
    }

    /// The reading now, on one line; where the system does not tell, that it does not.
    pub(crate) fn take(self) -> String {
        let taken =
            match self {
                Reading::Load => machine::load().map(|load| {
                    let (processes, threads) = (u64::from(load.processes), u64::from(load.threads));
                    format!("{} processes, {} threads", grouped(processes), grouped(threads))
                }),
                Reading::Memory => machine::load()
                    .map(|load| format!("{} of {}", mebibytes(load.free_bytes), mebibytes(load.all_bytes))),
                Reading::Disk => machine::disk(DISK)
                    .map(|(free, all)| format!("{} of {} on {DISK}", mebibytes(free), mebibytes(all))),
            };
        taken.unwrap_or_else(|_| "this system does not tell".to_owned())
    }
}

/// In a unit so small that a change is seen.
fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", grouped(bytes >> 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_one_line() {
        for reading in Reading::ALL {
            assert!(!reading.take().contains('\n'), "{reading:?}");
        }
    }
}
