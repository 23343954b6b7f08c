//! Arguments of `completions`, of what its scripts ask, and of `man`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub(crate) struct Completions {
    /// Which shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

const COMPLETIONS_EXAMPLES: &str = "\
Topics, patterns and instances complete as they are on the bus: that of --bus on the same line, of PIPEBUS_BUS, or the \
session bus. Packages install these scripts, and pipebusd has its own: pipebusd --completions bash.

Examples:
  source <(pipebus completions bash)               for this shell; in ~/.bashrc for all
  pipebus completions zsh > ~/.zfunc/_pipebus      with ~/.zfunc in fpath before compinit
  pipebus completions fish > ~/.config/fish/completions/pipebus.fish
  pipebus completions powershell | Out-String | Invoke-Expression     for this shell; in $PROFILE for all";

/// The shells there is a script for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    /// 4.4 or later
    Bash,
    /// With compinit
    Zsh,
    /// 3 or later
    Fish,
    /// 5.1 or later
    Powershell,
}

#[derive(Debug, Args)]
pub(crate) struct Complete {
    /// Which words are as they were typed, with their quotes
    #[arg(long, value_enum)]
    pub(crate) quoted: Option<Quoted>,
    /// The words of the command line so far, pipebus itself first; the last is to be completed
    #[arg(last = true)]
    pub(crate) words: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Quoted {
    All,
    Last,
}

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Where to write them
    pub(crate) directory: PathBuf,
}
