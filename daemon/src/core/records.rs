//! Records: what those who monitor a topic are told of what has passed there.
//!
//! Made for each of them when a span has been delivered, as many as it has room for; of others it is only known how many
//! they would have been. Not where records go: the shell pushes them, and waits for nobody.

use bytes::Bytes;
use pipebus_proto::frame::{Flags, HEAD_BYTES, Head, Kind, Part};
use pipebus_proto::record::{RECORD_HEAD_BYTES, RecordHead, Watch};
use pipebus_proto::splitter::Span;
use pipebus_proto::topic::InstanceId;
use pipebus_proto::wire::encode_head;

/// How a span has passed.
#[derive(Clone, Debug)]
pub struct Passage {
    /// When the broker had it, before anybody got it: in nanoseconds since 1970.
    pub time: u64,
    /// How many instances it was given to.
    pub subscribers: usize,
    /// Which instance got it, if it is of a kind that goes to one; otherwise the broker.
    pub to: InstanceId,
    /// How much of each body those want who had room when it was looked at; whoever wants more had none.
    pub looked_at: usize,
    /// Of each instance that had no room for all of it: the sequence number of the first frame that waits.
    pub waiting: Vec<u64>,
    /// Of each instance for which messages were dropped: how many.
    pub dropped: Vec<u64>,
}

/// Records for one who watches.
#[derive(Debug, PartialEq, Eq)]
pub struct Made {
    /// Those for which there is room.
    pub span: Option<Span>,
    /// How many there is none for.
    pub lost: u64,
}

impl Passage {
    /// What `watch` wants to be told of the frames of a span, in at most `room` bytes. Where less of a body is here than was
    /// looked at, less is told.
    pub fn records<'a>(
        &self,
        watch: &Watch,
        frames: impl Iterator<Item = (Head, &'a [u8])> + Clone,
        room: usize,
    ) -> Made {
        let captured = |head: &Head, body: &[u8]| watch.captured(head.body as usize).min(body.len());
        let (mut bytes, mut fitting, mut wanted, mut all) = (0, 0, 0, 0);
        for (head, body) in frames.clone() {
            all += 1;
            if !watch.wants(&head) {
                continue;
            }
            let with_it = bytes + HEAD_BYTES + RECORD_HEAD_BYTES + captured(&head, body);
            let was_looked_at = watch.captured(head.body as usize) <= self.looked_at;
            if fitting == wanted && with_it <= room && was_looked_at {
                (bytes, fitting) = (with_it, fitting + 1);
            }
            wanted += 1;
        }
        let mut records = Records { bytes: Vec::with_capacity(bytes), span: None };
        let numbered = frames.enumerate().filter(|(_, (head, _))| watch.wants(head));
        for (number, (head, body)) in numbered.take(fitting) {
            let record = self.record(&head, all - 1 - number, all);
            records.push(&head, &record, &body[..captured(&head, body)]);
        }
        Made { span: records.span(), lost: (wanted - fitting) as u64 }
    }

    /// What is told of one of `all` frames, with `behind` it.
    fn record(&self, head: &Head, behind: usize, all: usize) -> RecordHead {
        let waiting = self.waiting.iter().filter(|first| **first <= head.sequence).count();
        let dropped = self.dropped.iter().map(|count| share_of(*count, behind as u64, all as u64)).sum::<u64>();
        RecordHead {
            time: self.time,
            body: head.body,
            kind: head.kind,
            flags: head.flags,
            metadata: head.metadata,
            subscribers: u32::try_from(self.subscribers).unwrap_or(u32::MAX),
            waiting: u32::try_from(waiting).unwrap_or(u32::MAX),
            dropped: u32::try_from(dropped).unwrap_or(u32::MAX),
            to: self.to,
        }
    }
}

/// Of `count` messages that were dropped for one instance, those of a frame with `behind` of `all` behind it: one for each
/// of the last, which are what was dropped where the newest are; and what is more than there are, for the last.
fn share_of(count: u64, behind: u64, all: u64) -> u64 {
    let more = if behind == 0 { count.saturating_sub(all) } else { 0 };
    u64::from(count > behind) + more
}

/// Records that are being made.
struct Records {
    bytes: Vec<u8>,
    /// What they are, without their bytes.
    span: Option<Span>,
}

impl Records {
    fn push(&mut self, observed: &Head, record: &RecordHead, captured: &[u8]) {
        let Head { topic, sender, sequence, .. } = *observed;
        // No longer than the body of a frame may be, since no more is captured.
        let body = u32::try_from(RECORD_HEAD_BYTES + captured.len()).unwrap_or(u32::MAX);
        let head = Head { body, kind: Kind::Record, flags: Flags::NONE, metadata: 0, topic, sender, sequence };
        self.bytes.extend_from_slice(&encode_head(&head));
        self.bytes.extend_from_slice(&record.encode());
        self.bytes.extend_from_slice(captured);
        let span = self.span.get_or_insert(Span {
            bytes: Bytes::new(),
            kind: Kind::Record,
            part: Part::Whole,
            loaned: false,
            topic,
            sender,
            first: sequence,
            last: sequence,
            frames: 0,
        });
        span.last = sequence;
        span.frames += 1;
    }

    fn span(self) -> Option<Span> {
        let Records { bytes, span } = self;
        span.map(|span| Span { bytes: bytes.into(), ..span })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use pipebus_proto::record::CAPTURE_BYTES_MAX;
    use pipebus_proto::splitter::next_span;
    use pipebus_proto::topic::TopicId;
    use proptest::prelude::*;

    /// Frames of these lengths, numbered from 1.
    fn frames(bodies: &[usize]) -> Vec<(Head, Vec<u8>)> {
        let frame = |(sequence, body): (u64, &usize)| {
            let (kind, flags, topic, sender) = (Kind::Message, Flags::NONE, TopicId(7), InstanceId(3));
            let head = Head { body: *body as u32, kind, flags, metadata: 0, topic, sender, sequence };
            (head, vec![sequence as u8; *body])
        };
        (1..).zip(bodies).map(frame).collect()
    }

    fn passage() -> Passage {
        let (to, looked_at) = (InstanceId::BROKER, usize::MAX);
        Passage { time: 5, subscribers: 3, to, looked_at, waiting: Vec::new(), dropped: Vec::new() }
    }

    fn made(passage: &Passage, watch: &Watch, frames: &[(Head, Vec<u8>)], room: usize) -> Made {
        passage.records(watch, frames.iter().map(|(head, body)| (*head, &body[..])), room)
    }

    /// The records, once a client has read them.
    fn read(made: &Made) -> Vec<(Head, RecordHead, Vec<u8>)> {
        let Some(span) = &made.span else { return Vec::new() };
        let mut buffer = BytesMut::from(&span.bytes[..]);
        let cut = next_span(&mut buffer).unwrap().unwrap();
        assert_eq!((&cut, buffer.len()), (span, 0), "it is the span that a client cuts");
        let records = span.look().map(|(head, body)| {
            let (record, captured) = RecordHead::decode(body).unwrap();
            (record.observed(&head), record, captured.to_vec())
        });
        records.collect()
    }

    /// Who waits and what was dropped, for each frame of five.
    fn counts(waiting: &[u64], dropped: &[u64]) -> Vec<(u32, u32)> {
        let passage = Passage { waiting: waiting.to_vec(), dropped: dropped.to_vec(), ..passage() };
        let made = made(&passage, &Watch::default(), &frames(&[1; 5]), usize::MAX);
        read(&made).iter().map(|(_, record, _)| (record.waiting, record.dropped)).collect()
    }

    #[test]
    fn each_frame_has_a_record_with_its_head_and_the_beginning_of_its_body() {
        let frames = frames(&[2, 0, 9]);
        let made = made(&passage(), &Watch { capture_bytes: 3, ..Watch::default() }, &frames, usize::MAX);
        assert_eq!(made.lost, 0);
        for ((head, record, captured), (sent, body)) in read(&made).iter().zip(&frames) {
            assert_eq!((head, record.time, record.subscribers, record.to), (sent, 5, 3, InstanceId::BROKER));
            assert_eq!(captured, &body[..body.len().min(3)]);
        }
        assert_eq!(made.span.unwrap().frames, 3);
    }

    #[test]
    fn who_waits_does_so_from_its_first_frame_that_did_not_fit() {
        assert_eq!(counts(&[], &[]), [(0, 0); 5]);
        assert_eq!(counts(&[3, 1, 5], &[]), [(1, 0), (1, 0), (2, 0), (2, 0), (3, 0)]);
    }

    #[test]
    fn what_was_dropped_is_told_with_the_last_frames_and_never_twice() {
        assert_eq!(counts(&[], &[2]), [(0, 0), (0, 0), (0, 0), (0, 1), (0, 1)]);
        assert_eq!(counts(&[], &[1, 5]), [(0, 1), (0, 1), (0, 1), (0, 1), (0, 2)]);
        assert_eq!(counts(&[], &[8]), [(0, 1), (0, 1), (0, 1), (0, 1), (0, 4)]);
    }

    #[test]
    fn nothing_is_made_where_nothing_is_wanted_or_there_is_no_room() {
        let nothing = Watch { bytes_min: 10, ..Watch::default() };
        assert_eq!(made(&passage(), &nothing, &frames(&[2, 3]), usize::MAX), Made { span: None, lost: 0 });
        assert_eq!(made(&passage(), &Watch::default(), &frames(&[2, 3]), 57), Made { span: None, lost: 2 });
        let one = made(&passage(), &Watch::default(), &frames(&[2, 3]), 58);
        assert_eq!((read(&one).len(), one.lost), (1, 1));
    }

    #[test]
    fn who_wants_more_than_was_looked_at_gets_nothing_and_who_wants_less_gets_that() {
        let passage = Passage { looked_at: 3, ..passage() };
        let captured = |capture_bytes| {
            let made = made(&passage, &Watch { capture_bytes, ..Watch::default() }, &frames(&[2, 9]), usize::MAX);
            (read(&made).iter().map(|(_, _, captured)| captured.len()).collect::<Vec<_>>(), made.lost)
        };
        assert_eq!(captured(3), (vec![2, 3], 0));
        assert_eq!(captured(4), (vec![2], 1));
    }

    #[test]
    fn the_largest_frame_is_cut_to_what_fits_a_record() {
        let made = made(&passage(), &Watch::default(), &frames(&[256 * 1024]), usize::MAX);
        assert_eq!(read(&made)[0].2.len(), CAPTURE_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn all_that_is_wanted_is_made_or_lost_in_order_and_within_the_room(
            bodies in prop::collection::vec(0usize..40, 1..20),
            capture_bytes in 0u32..50,
            bytes_min in 0u32..20,
            room in 0usize..2000,
            dropped in prop::collection::vec(1u64..30, 0..4),
        ) {
            let watch = Watch { capture_bytes, bytes_min, ..Watch::default() };
            let frames = frames(&bodies);
            let passage = Passage { dropped: dropped.clone(), ..passage() };
            let made = made(&passage, &watch, &frames, room);
            let records = read(&made);
            let wanted: Vec<_> = frames.iter().filter(|(head, _)| watch.wants(head)).collect();
            prop_assert_eq!(records.len() as u64 + made.lost, wanted.len() as u64);
            prop_assert!(made.span.as_ref().is_none_or(|span| span.bytes.len() <= room));
            for ((head, _, captured), (sent, body)) in records.iter().zip(wanted) {
                prop_assert_eq!((head, &captured[..]), (sent, &body[..body.len().min(capture_bytes as usize)]));
            }
            let all = passage.records(&Watch::default(), frames.iter().map(|(h, b)| (*h, &b[..])), usize::MAX);
            let told: u64 = read(&all).iter().map(|(_, record, _)| u64::from(record.dropped)).sum();
            prop_assert_eq!(told, dropped.iter().sum::<u64>());
        }
    }
}
