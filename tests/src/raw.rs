//! A client that obeys no rules: it speaks the protocol by hand, and as wrongly as a story wants.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicU8;
use std::time::Duration;

use bytes::BytesMut;
use pipebus_proto::control::{Control, Overflow, Purpose, Role, Welcome};
use pipebus_proto::frame::{Flags, Head, Kind, PROTOCOL_VERSION};
use pipebus_proto::knock::{Knock, KnockId};
use pipebus_proto::place::Place;
use pipebus_proto::splitter::{Frame, Span, next_span};
use pipebus_proto::topic::{InstanceId, TopicId};
use pipebus_proto::wire::{decode_control, encode_control, encode_head};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{IoSliceRaw, SpliceFlags, vmsplice};

use crate::{DEADLINE, open, wait_for};

/// How much is read at once, unless a story says otherwise.
const READ_BYTES: usize = 64 * 1024;

/// A pair of FIFOs, and the client's ends of them.
#[derive(Debug)]
pub struct RawClient {
    place: Place,
    /// Names the FIFOs.
    pub id: KnockId,
    up: Option<OwnedFd>,
    down: Option<OwnedFd>,
    buffer: BytesMut,
}

impl RawClient {
    /// Makes both FIFOs as a good client does, and does not knock.
    pub fn prepare(place: &Place) -> RawClient {
        let mut client = RawClient::without_fifos(place);
        let (up, down) = client.paths();
        make_fifo(&up, 0o640);
        make_fifo(&down, 0o620);
        client.open();
        client
    }

    /// A name, and nothing there.
    pub fn without_fifos(place: &Place) -> RawClient {
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&count.to_le_bytes());
        id[8..12].copy_from_slice(&std::process::id().to_le_bytes());
        RawClient { place: place.clone(), id: KnockId(id), up: None, down: None, buffer: BytesMut::new() }
    }

    /// Where the FIFOs are: up and down.
    pub fn paths(&self) -> (PathBuf, PathBuf) {
        (self.place.up(&self.id), self.place.down(&self.id))
    }

    /// Opens its ends of what is there.
    pub fn open(&mut self) {
        let (up, down) = self.paths();
        self.down = Some(open(&down, OFlags::RDONLY).unwrap());
        // For both ends, so that writing never finds nobody there.
        self.up = Some(open(&up, OFlags::RDWR).unwrap());
    }

    /// Knocks.
    pub fn knock(&self) {
        self.write_to_door(&Knock::new(self.id).encode());
    }

    /// Writes anything to the door.
    pub fn write_to_door(&self, bytes: &[u8]) {
        let door = open(&self.place.door(), OFlags::WRONLY).unwrap();
        wait_for("room at the door", || match rustix::io::write(&door, bytes) {
            Ok(_) => Some(()),
            Err(Errno::AGAIN) => None,
            Err(errno) => panic!("{errno}"),
        });
    }

    /// Connects as a good client does. Its own id is in what is returned.
    pub fn connect(place: &Place) -> (RawClient, Welcome) {
        RawClient::prepare(place).arrive()
    }

    /// The same, as a client of another user, which only root can play.
    pub fn connect_as(place: &Place, uid: u32) -> (RawClient, Welcome) {
        let client = RawClient::prepare(place);
        client.give_to(uid);
        client.arrive()
    }

    /// Tries to connect as a client of another user. Returns what the broker says instead of Welcome.
    pub fn try_to_arrive_as(mut self, uid: u32) -> Option<Control> {
        self.give_to(uid);
        self.say(&Control::Hello { version: PROTOCOL_VERSION, name: "raw".to_owned() });
        self.knock();
        self.hear()
    }

    fn give_to(&self, uid: u32) {
        let (up, down) = self.paths();
        for path in [up, down] {
            std::os::unix::fs::chown(path, Some(uid), None).unwrap();
        }
    }

    fn arrive(self) -> (RawClient, Welcome) {
        let mut client = self;
        client.say(&Control::Hello { version: PROTOCOL_VERSION, name: "raw".to_owned() });
        client.knock();
        match client.hear() {
            Some(Control::Welcome(welcome)) => {
                client.drop_second_end();
                (client, welcome)
            }
            other => panic!("no welcome but {other:?}"),
        }
    }

    /// From now on the broker's leaving is seen, and the client's is by the broker.
    fn drop_second_end(&mut self) {
        let fd = self.up.take().unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        self.up = Some(open(path.as_ref(), OFlags::WRONLY).unwrap());
    }

    /// Closes the pipe from the broker for as long as `act` takes, and then reads it again.
    pub fn away_from_down(&mut self, act: impl FnOnce()) {
        let fd = self.down.take().unwrap();
        let again = |fd: &OwnedFd, flags| {
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd));
            open(path.as_ref(), flags).unwrap()
        };
        let kept = again(&fd, OFlags::WRONLY);
        drop(fd);
        act();
        self.down = Some(again(&kept, OFlags::RDONLY));
    }

    /// Writes a few bytes, if the broker still reads.
    pub fn write_if_heard(&self, bytes: &[u8]) {
        let _ = rustix::io::write(self.up.as_ref().unwrap(), bytes);
    }

    /// Writes any bytes, all of them.
    pub fn write(&self, bytes: &[u8]) {
        assert!(self.write_while(bytes, || true), "the broker reads no more");
    }

    /// Writes any bytes, all of them unless the broker reads no more, or this is no longer true. Returns whether it did.
    pub fn write_while(&self, bytes: &[u8], condition: impl Fn() -> bool) -> bool {
        let start = tokio::time::Instant::now();
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::io::write(self.up(), rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::AGAIN) if condition() => wait_a_moment(self.up(), PollFlags::OUT),
                Err(Errno::AGAIN | Errno::PIPE) => return false,
                Err(errno) => panic!("{errno}"),
            }
            assert!(start.elapsed() < DEADLINE, "waited in vain for room in the pipe");
        }
        true
    }

    /// Puts pages into the pipe that are read later, when somebody reads the pipe: all of them.
    pub fn lend(&self, pages: &'static [AtomicU8]) {
        let mut at = 0;
        while at < pages.len() {
            let rest = &pages[at..];
            #[expect(unsafe_code, reason = "no library has a safe call for it")]
            // SAFETY: the bytes live for ever, and the kernel only reads them; it is not given them for good.
            let lent = unsafe {
                let slice = std::slice::from_raw_parts(rest.as_ptr().cast::<u8>(), rest.len());
                vmsplice(self.up(), &[IoSliceRaw::from_slice(slice)], SpliceFlags::NONBLOCK)
            };
            match lent {
                Ok(count) => at += count,
                Err(Errno::AGAIN) => wait_a_moment(self.up(), PollFlags::OUT),
                Err(errno) => panic!("{errno}"),
            }
        }
    }

    /// Whether the broker has closed the pipe that this client writes to; writes nothing.
    pub fn is_gone(&self) -> bool {
        let mut polled = [PollFd::new(self.up.as_ref().unwrap(), PollFlags::OUT)];
        rustix::event::poll(&mut polled, Some(&Timespec::default())).unwrap();
        polled[0].revents().contains(PollFlags::ERR)
    }

    /// Sends a control frame.
    pub fn say(&self, control: &Control) {
        self.write(&encode_control(control));
    }

    /// The next control frame; messages before it are passed over. `None` at the end.
    pub fn hear(&mut self) -> Option<Control> {
        loop {
            let frame = self.next_frame()?;
            if frame.head.kind == Kind::Control {
                return Some(decode_control(&frame.body).unwrap());
            }
        }
    }

    /// The next frame; `None` at the end.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.whole_frame() {
                return Some(frame);
            }
            if self.read(READ_BYTES) == 0 {
                return None;
            }
        }
    }

    /// The next frame, if all of it has been read.
    pub fn whole_frame(&mut self) -> Option<Frame> {
        let span = self.split()?;
        let frame = span.iter().next();
        // What else the span holds goes back to the front.
        let used = frame.as_ref().map_or(0, |frame| frame.head.frame_bytes());
        let rest = self.buffer.split();
        self.buffer = BytesMut::from(&span.bytes[used..]);
        self.buffer.unsplit(rest);
        frame
    }

    /// Waits for something to read, and reads at most so many bytes of it; 0 at the end.
    pub fn read(&mut self, bytes_max: usize) -> usize {
        let start = tokio::time::Instant::now();
        let mut bytes = vec![0; bytes_max];
        let down = self.down.as_ref().unwrap();
        loop {
            match rustix::io::read(down, &mut bytes) {
                // The end, unless the broker has not even opened its end yet.
                Ok(0) if !is_hung_up(down) => std::thread::sleep(Duration::from_millis(1)),
                Ok(count) => {
                    self.buffer.extend_from_slice(&bytes[..count]);
                    return count;
                }
                Err(Errno::AGAIN) => wait_a_moment(down, PollFlags::IN),
                Err(errno) => panic!("{errno}"),
            }
            assert!(start.elapsed() < DEADLINE, "waited in vain for a frame");
        }
    }

    /// Whether all that was read are whole frames.
    pub fn is_between_frames(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The pipe to the broker.
    pub fn up(&self) -> &OwnedFd {
        self.up.as_ref().unwrap()
    }

    /// The pipe from the broker.
    pub fn down(&self) -> &OwnedFd {
        self.down.as_ref().unwrap()
    }

    fn split(&mut self) -> Option<Span> {
        next_span(&mut self.buffer).unwrap()
    }

    /// Declares a topic.
    pub fn declare(&mut self, topic: &str) -> TopicId {
        self.say(&Control::Declare { token: 1, topic: topic.to_owned(), purpose: Purpose::Publish });
        match self.hear() {
            Some(Control::Declared { topic, .. }) => topic,
            other => panic!("not declared but {other:?}"),
        }
    }

    /// Subscribes.
    pub fn subscribe(&mut self, pattern: &str, overflow: Overflow) {
        let pattern = pattern.to_owned();
        self.say(&Control::Subscribe { subscription: 1, pattern, role: Role::Subscribe, overflow });
        assert_eq!(self.hear(), Some(Control::Subscribed { subscription: 1 }));
    }
}

/// Waits until a pipe is ready, or a moment has passed.
fn wait_a_moment(fd: &OwnedFd, flags: PollFlags) {
    let moment = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    rustix::event::poll(&mut [PollFd::new(fd, flags)], Some(&moment)).unwrap();
}

/// Whether a writer has come and gone (poll(2): POLLHUP).
fn is_hung_up(fd: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(fd, PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&Timespec::default())).unwrap();
    polled[0].revents().contains(PollFlags::HUP)
}

/// Makes a FIFO with just this mode.
pub fn make_fifo(path: &std::path::Path, mode: u32) {
    rustix::fs::mkfifoat(CWD, path, Mode::from_raw_mode(mode)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// One whole message.
pub fn message(sender: InstanceId, topic: TopicId, sequence: u64, payload: &[u8]) -> Vec<u8> {
    frame(sender, topic, sequence, Flags::NONE, payload)
}

/// One frame of a message.
pub fn frame(sender: InstanceId, topic: TopicId, sequence: u64, flags: Flags, payload: &[u8]) -> Vec<u8> {
    let body = u32::try_from(payload.len()).unwrap();
    let head = Head { body, kind: Kind::Message, flags, metadata: 0, topic, sender, sequence };
    [&encode_head(&head)[..], payload].concat()
}

/// A message in frames with at most so many bytes of payload each.
pub fn frames(
    sender: InstanceId,
    topic: TopicId,
    sequence: u64,
    flags: Flags,
    payload: &[u8],
    bytes_max: usize,
) -> Vec<u8> {
    let pieces: Vec<&[u8]> = if payload.is_empty() { vec![payload] } else { payload.chunks(bytes_max).collect() };
    let last = pieces.len() - 1;
    let of_piece = |at: usize| {
        let continued = if at > 0 { Flags::CONTINUED } else { Flags::NONE };
        let more = if at < last { Flags::MORE } else { Flags::NONE };
        flags.with(continued).with(more)
    };
    pieces.iter().enumerate().flat_map(|(at, piece)| frame(sender, topic, sequence, of_piece(at), piece)).collect()
}
