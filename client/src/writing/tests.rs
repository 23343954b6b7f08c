//! Writing to real pipes: what comes out is what was published, however it got there.

#![cfg(unix)]

use bytes::Bytes;
use pipebus_proto::frame::{Flags, Kind};
use pipebus_proto::topic::{InstanceId, TopicId};
use tokio::io::AsyncReadExt;

use super::*;
use crate::outgoing::{Draft, Outgoing};
use crate::transport::Reader;
use crate::transport::fake::{no_pipe, pipe};

const TOPIC: TopicId = TopicId(7);
const SENDER: InstanceId = InstanceId(3);

/// Small messages, and large ones that are lent, some of several frames.
const SIZES: [usize; 11] = [10, 40_000, 0, 262_143, 262_144, 262_145, 70, 100, 600_000, 524_288, 5];

fn payload(size: usize, seed: usize) -> Vec<u8> {
    (0..size).map(|at| (at / 7 + seed * 31) as u8).collect()
}

/// All messages, with the large ones lent if there is a pool.
fn queue(sizes: &[usize], pool: Option<&Pool>) -> VecDeque<Piece> {
    let mut outgoing = Outgoing::default();
    for (seed, size) in sizes.iter().enumerate() {
        let payload = Bytes::from(payload(*size, seed));
        match pool.filter(|_| *size >= 32 * 1024).and_then(|pool| Some((pool, pool.take(*size, Instant::now())?))) {
            Some((pool, mut pages)) => {
                pages.payload_mut()[..*size].copy_from_slice(&payload);
                outgoing.push_loan(TOPIC, SENDER, pages, *size, pool);
            }
            None => {
                let flags = if *size >= 32 * 1024 { Flags::LOANED } else { Flags::NONE };
                let draft = Draft {
                    kind: Kind::Message,
                    flags,
                    topic: TOPIC,
                    sender: SENDER,
                    metadata: &[],
                    payload: &payload,
                };
                outgoing.push(&draft);
            }
        }
    }
    let mut batch = VecDeque::new();
    outgoing.take(&mut batch);
    batch
}

/// What comes out of a pipe of which so many bytes are read at once.
async fn come_out(
    (writer, mut reader): (Writer, Reader),
    pool: &Pool,
    mut batch: VecDeque<Piece>,
    step: usize,
) -> Vec<u8> {
    let write = async {
        // As large as it may get, so that it stays as it is.
        let mut outlet = Outlet { writer, pipe_bytes: usize::MAX, pool };
        outlet.write(&mut batch).await.unwrap();
    };
    let read = async {
        let mut all = Vec::new();
        let mut some = vec![0; step];
        loop {
            match reader.read(&mut some).await.unwrap() {
                0 => return all,
                bytes => all.extend_from_slice(&some[..bytes]),
            }
        }
    };
    tokio::join!(write, read).1
}

/// What is written if nothing is lent.
fn plain(sizes: &[usize]) -> Vec<u8> {
    let pieces = queue(sizes, None);
    let bytes = |piece: Piece| if let Piece::Bytes(bytes) = piece { bytes.to_vec() } else { panic!("{piece:?}") };
    pieces.into_iter().flat_map(bytes).collect()
}

#[tokio::test]
async fn what_is_lent_is_the_same_as_what_is_written_however_much_the_pipe_takes() {
    let expected = plain(&SIZES);
    for pipe_bytes in [4096, 65_536, 1 << 20] {
        for step in [999, 4096, 300_000] {
            let pool = Pool::default();
            let batch = queue(&SIZES, Some(&pool));
            assert_eq!(batch.iter().filter(|piece| matches!(piece, Piece::Lent(_))).count(), 6);
            let got = come_out(pipe(pipe_bytes), &pool, batch, step).await;
            assert!(got == expected, "pipe of {pipe_bytes}, {step} at once");
        }
    }
}

#[tokio::test]
async fn what_can_not_be_lent_is_written_and_no_more_is_lent() {
    let pool = Pool::default();
    let batch = queue(&SIZES, Some(&pool));
    assert!(come_out(no_pipe(), &pool, batch, 100_000).await == plain(&SIZES));
    assert!(pool.take(40_000, Instant::now()).is_none());
}

#[tokio::test]
async fn what_is_in_the_pipe_does_not_change_until_it_is_released() {
    let size = 100_000;
    let (pool, now) = (Pool::default(), Instant::now());
    let (writer, mut reader) = pipe(1 << 20);
    let mut outlet = Outlet { writer, pipe_bytes: usize::MAX, pool: &pool };
    let sizes = [size; 3];
    outlet.write(&mut queue(&sizes, Some(&pool))).await.unwrap();
    // One is overdue, the others are of a connection that is lost; all are gone from here, and all memory is used
    // again.
    let scribble = |now| {
        let mut taken: Vec<_> = std::iter::from_fn(|| pool.take(size, now)).collect();
        taken.iter_mut().for_each(|pages| pages.payload_mut().fill(0xee));
        taken.into_iter().for_each(|pages| pool.give_back(pages));
    };
    scribble(now);
    scribble(now + Duration::from_secs(3600));
    pool.forget_lent();
    scribble(now);
    let expected = plain(&sizes);
    let mut got = vec![0; expected.len()];
    reader.read_exact(&mut got).await.unwrap();
    assert!(got == expected);
}
