//! `pipebus bench ipc`, which is not on this system: it compares FIFOs with what is beside them on Unix.

use serde::{Deserialize, Serialize};

use crate::bench::args::Ipc;
use crate::failure::Failure;
use crate::stage::Stage;
use crate::transport::named_pipe::not_here;

/// What one of two processes does: there is none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Part {}

impl Part {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        match *self {}
    }
}

pub(crate) async fn measure(_: &Stage, _: &Ipc) -> Result<(), Failure> {
    let why = "FIFOs and Unix sockets are not on this system; pipebus bench throughput measures its pipes with a bus";
    Err(not_here("compare means of communication", why))
}
