//! Words of help and of the demo that depend on the kind of pipe.

/// What an address may be.
pub(crate) const BUS: &str = "Which bus: session, system, or a directory";

/// What `scan` does.
pub(crate) const SCAN: &str = "Find the buses of this machine, and all FIFOs that processes hold open";

/// What `scan` may be told to look for.
pub(crate) const SCAN_BUSES: &str =
    "Buses that you want to know of, besides those that are found: system, session, or directories";

/// What `scan` shows besides buses.
pub(crate) const SCAN_ALL: &str = "Show all FIFOs that processes hold open, too";

/// What `scan` shows besides those.
pub(crate) const SCAN_PIPES: &str = "Show pipes without a name besides; means --all";

/// What else there is to say of `scan`.
pub(crate) const SCAN_EXAMPLES: &str = "\
Found are the system bus, the session buses that you may see, and buses that a process serves. They are:
  alive          a broker serves it; its version and instances are shown if you may ask it
  held           no broker runs; systemd holds the door, and starts one when a client comes
  stale          a broker that was killed has left it behind
  no permission  you may not look there, or not connect
  broken         something is wrong, and what it is stands below
  absent         it is not there; shown only if you name it

Nothing is disturbed: no broker is started, and no FIFO is opened but the doors of buses. Brokers that run are asked how \
they are, and log that a client came and went; a policy that logs refusals logs those. What waits in a FIFO is counted \
through a descriptor that is borrowed from a process for a moment (pidfd_getfd), which needs the right to trace \
it (ptrace): where it says \"needs root\", you have not.

Exit codes: 0 done, 1 failed, 3 a bus that you named is not alive.

Examples:
  pipebus scan
  pipebus scan /srv/app/bus && echo alive
  sudo pipebus scan --all
  pipebus scan --all --json | jq '.fifos[] | select(.waiting_bytes > 0)'";

/// What else there is to say of `doctor`.
pub(crate) const DOCTOR_EXAMPLES: &str = "\
Each line is one check: ok, a warning, a problem, or unknown where you may not see. Behind \"mend:\" is what to do about it.

It connects as any client does, which starts the broker where systemd holds the door; it publishes nothing. It asks the \
broker for what administrators may see, and whether you may publish and subscribe: a policy that logs refusals logs these.

Exit codes: 0 no problem, 1 a problem or more.

Examples:
  pipebus doctor
  sudo pipebus doctor --bus system
  pipebus doctor --bus /srv/app/bus --json | jq '.checks[] | select(.level != \"ok\")'";

/// What else there is to say of `demo`.
pub(crate) const DEMO_EXAMPLES: &str = "\
Starts a pipebusd on a temporary directory, has programs publish, subscribe, ask and be too slow, \
and removes all of it again. Needs pipebusd beside pipebus or in PATH.

Examples:
  pipebus demo
  NO_COLOR=1 pipebus demo | less";

/// What the demo says in the end.
pub(crate) const ALL_GONE: &str = "The broker has ended, and its directory is gone.";
