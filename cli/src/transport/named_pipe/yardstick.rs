//! The yardstick, which is not on this system: it relays between FIFOs, with the system calls of Linux.

use std::convert::Infallible;
use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

use crate::bench::args::{Feed, Relay};
use crate::bench::play::Cast;
use crate::failure::Failure;
use crate::stage::Stage;
use crate::transport::named_pipe::not_here;

/// What a process of a yardstick does: there is none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Part {}

impl Part {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        match *self {}
    }
}

/// Whether there can be a yardstick on this system.
pub(crate) fn check() -> Result<(), Failure> {
    Err(none())
}

fn none() -> Failure {
    let why = "it relays between FIFOs, which are not on this system; leave --yardstick out";
    not_here("measure with a yardstick", why)
}

/// There is none, and so nobody who could ask it for anything.
pub(crate) struct Yardstick<'a> {
    never: Infallible,
    stage: PhantomData<&'a Stage>,
}

impl Yardstick<'_> {
    pub(crate) fn lay(_: &Stage) -> Result<Yardstick<'_>, Failure> {
        Err(none())
    }

    pub(crate) async fn flow(&self, _: [u32; 2], _: usize, _: Relay, _: Feed) -> Result<Cast, Failure> {
        match self.never {}
    }

    pub(crate) async fn ping_pong(&self, _: usize) -> Result<Cast, Failure> {
        match self.never {}
    }

    pub(crate) async fn paced(&self, _: usize, _: u32) -> Result<Cast, Failure> {
        match self.never {}
    }
}
