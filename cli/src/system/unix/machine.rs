//! The machine: facts about it that change, for the demo's publishers, and how a shell is asked there.

use std::fs;

use crate::output::grouped;

/// A command that answers whoever asks what this machine is called, in the words of a shell.
pub(crate) const NAME_COMMAND: &[&str] =
    &["sh", "-c", r#"echo "$(uname -n) runs $(uname -s) and tells user $PIPEBUS_UID, who asked""#];

/// How to do by hand what the demo has shown.
pub(crate) const BY_HAND: &str =
    "  pipebusd                                                            the broker of your session
  pipebus sub 'machine/**'                                            one who listens
  while sleep 1; do cat /proc/loadavg; done | pipebus pub machine/load --lines
  pipebus reply host/name -- uname -n                                 one who answers
  pipebus request host/name                                           one who asks
  pipebus status; pipebus instances; pipebus topics                   what is going on";

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
        let taken = match self {
            Reading::Load => fs::read_to_string("/proc/loadavg").ok().as_deref().and_then(load),
            Reading::Memory => fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(memory),
            Reading::Disk => rustix::fs::statvfs("/").ok().map(|facts| {
                let size = |blocks: u64| mebibytes(blocks.saturating_mul(facts.f_frsize));
                format!("{} of {} on /", size(facts.f_bavail), size(facts.f_blocks))
            }),
        };
        taken.unwrap_or_else(|| "this system does not tell".to_owned())
    }
}

/// The load of the last minute, and how many processes there are; see proc_loadavg(5).
fn load(text: &str) -> Option<String> {
    let mut fields = text.split_whitespace();
    let minute = fields.next()?;
    let (running, all) = fields.nth(2)?.split_once('/')?;
    Some(format!("{minute}, {running} of {all} threads running"))
}

/// See proc_meminfo(5).
fn memory(text: &str) -> Option<String> {
    let value = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
    };
    Some(format!("{} of {}", mebibytes(value("MemAvailable")? * 1024), mebibytes(value("MemTotal")? * 1024)))
}

/// In a unit so small that a change is seen.
fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", grouped(bytes >> 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_become_lines_for_people() {
        assert_eq!(load("0.20 0.18 0.12 1/80 11206\n").unwrap(), "0.20, 1 of 80 threads running");
        let text = "MemTotal:       8000 kB\nMemFree:  1 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(memory(text).unwrap(), "2 MiB of 7 MiB");
        assert_eq!(load(""), None);
        assert_eq!(memory("MemTotal: x"), None);
    }

    #[test]
    fn a_reading_is_one_line() {
        for reading in Reading::ALL {
            assert!(!reading.take().contains('\n'), "{reading:?}");
        }
    }
}
