//! Where pages can't be moved: everything is read into memory, and the callers' own way for that is taken.

use pipebus_proto::frame::FRAME_BYTES_MAX;
use tokio::time::Instant;

use crate::transport::{Reader, Writer};

/// No frame is so large.
pub(crate) const PAGES_BYTES_MIN: usize = FRAME_BYTES_MAX + 1;

/// Nobody ever gets one.
pub(crate) enum Pipe {}

pub(crate) fn grow<T>(_: T) -> usize {
    0
}

#[derive(Debug)]
pub(crate) struct Source;

impl Source {
    pub(crate) fn of(_: &Reader) -> Source {
        Source
    }

    pub(crate) async fn has_soon(&mut self, _: &Reader, _: usize) -> bool {
        false
    }

    pub(crate) fn has(&mut self, _: &Reader, _: usize) -> bool {
        false
    }

    pub(crate) fn taken(&mut self, _: usize) {}
}

pub(crate) fn share_with<T>(_: &T, _: &Writer, _: usize) -> usize {
    0
}

pub(crate) fn move_to<T, U>(_: &T, _: &U, _: usize) -> usize {
    0
}

pub(crate) async fn move_until<T>(_: &T, _: &Writer, _: usize, _: Instant, _: impl FnMut(usize)) {}

pub(crate) fn discard<T>(_: &T, _: usize) {}

pub(crate) fn read_rest<T>(_: &T, bytes: usize) -> Vec<u8> {
    vec![0; bytes]
}

pub(crate) fn read_into<T>(_: &T, _: &mut [u8]) {}

pub(crate) enum Scratch {}

impl Scratch {
    pub(crate) fn of(_: &[u8]) -> Option<Scratch> {
        None
    }

    pub(crate) fn take() -> Option<Scratch> {
        None
    }

    pub(crate) fn put(&self, _: &[u8]) -> bool {
        match *self {}
    }

    pub(crate) fn put_from<T>(&self, _: &T, _: usize) -> usize {
        match *self {}
    }

    pub(crate) fn with_part_of<T>(_: &T, _: usize, _: usize) -> Option<Scratch> {
        None
    }

    pub(crate) fn pipe(&self) -> &Pipe {
        match *self {}
    }

    pub(crate) fn give_back(self, _: usize) {}
}
