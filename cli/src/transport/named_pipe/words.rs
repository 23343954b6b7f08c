//! Words of help and of the demo that depend on the kind of pipe.

/// What an address may be.
pub(crate) const BUS: &str = r"Which bus: session, system, or a pipe such as \\.\pipe\NAME";

/// What `scan` does.
pub(crate) const SCAN: &str = "Find the buses of this machine, and all its named pipes";

/// What `scan` may be told to look for.
pub(crate) const SCAN_BUSES: &str =
    r"Buses that you want to know of, besides those that are found: system, session, or pipes such as \\.\pipe\NAME";

/// What `scan` shows besides buses.
pub(crate) const SCAN_ALL: &str = "Show the names of all pipes, too, none of which is opened for that";

/// What `scan` shows besides those.
pub(crate) const SCAN_PIPES: &str = "The same as --all: all pipes have names here";

/// What else there is to say of `scan`.
pub(crate) const SCAN_EXAMPLES: &str = "\
Found are the system bus, your session bus, and where the system lists its pipes those of other sessions. They are:
  alive          a broker serves it; its version and instances are shown if you may ask it
  foreign        somebody serves it who is no broker, or whom you should not trust
  busy           each instance of the pipe has a client
  no permission  you may not open it
  broken         something is wrong, and what it is stands below
  unasked        there is such a pipe, and it was not opened
  absent         it is not there; shown only if you name it

Opening a pipe takes one of its instances for a moment, and its server notices. So pipes that may be no bus are opened \
only if you name them, and with --no-ask no others at all. Brokers that run are asked how they are, and log that a client \
came and went; a policy that logs refusals logs those.

Exit codes: 0 done, 1 failed, 3 a bus that you named is not alive.

Examples:
  pipebus scan
  pipebus scan \\\\.\\pipe\\app
  pipebus scan --all
  pipebus scan --json | ConvertFrom-Json";

/// What else there is to say of `doctor`.
pub(crate) const DOCTOR_EXAMPLES: &str = "\
Each line is one check: ok, a warning, a problem, or unknown where you may not see. Behind \"mend:\" is what to do about it.

It connects as any client does, and publishes nothing. It asks the broker for what administrators may see, and whether you \
may publish and subscribe: a policy that logs refusals logs these.

Exit codes: 0 no problem, 1 a problem or more.

Examples:
  pipebus doctor
  pipebus doctor --bus system
  pipebus doctor --json";

/// What else there is to say of `demo`.
pub(crate) const DEMO_EXAMPLES: &str = "\
Starts a pipebusd on a pipe of its own, has programs publish, subscribe, ask and be too slow, and ends all of it again. \
Needs pipebusd beside pipebus or in PATH.

Examples:
  pipebus demo";

/// What the demo says in the end.
pub(crate) const ALL_GONE: &str = "The broker has ended, and its pipe is gone.";
