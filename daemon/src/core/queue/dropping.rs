//! Dropping: what goes when there is no room, by the overflow policy, and the gap that stands in its place.

use pipebus_proto::control::Overflow;
use pipebus_proto::frame::Part;
use pipebus_proto::splitter::Span;
use pipebus_proto::topic::TopicId;

use super::{Entry, GAPS_SIDE_BY_SIDE_MAX, Introductions, Pushed, Queue, may_be_dropped};

impl Queue {
    /// Whether a frame could fit if all were dropped that may be. If not, there is no sense in dropping any.
    pub(super) fn can_make_room(&self, frame_bytes: usize) -> bool {
        let (stays, limit) = (self.bytes - self.droppable_bytes + self.in_flight, self.limit());
        (stays == 0 && limit > 0) || stays + frame_bytes <= limit
    }

    /// The newest frames of the span that fit now, and how many are older. An idle queue takes at least one.
    fn newest_to_room(&self, span: Span) -> (Option<Span>, u32) {
        let older = span.frames - 1;
        match span.clone().newest(self.room()) {
            (None, _) if self.takes_any() => (span.cut_after(older).1, older),
            parts => parts,
        }
    }

    pub(super) fn drop_newest(&mut self, rest: &Span) -> Pushed {
        let messages = rest.messages();
        self.lose(self.entries.len(), rest.topic, messages);
        Pushed::Dropped { messages }
    }

    /// Drops messages that nobody has made, since there is no room for them.
    pub fn drop_unmade(&mut self, topic: TopicId, messages: u64) {
        self.lose(self.entries.len(), topic, messages);
        self.count_full();
    }

    pub(super) fn drop_oldest(&mut self, rest: Span, overflow: Overflow, names: Introductions<'_>) -> Pushed {
        let before = self.dropped;
        self.evict(rest.bytes.len());
        let (newest, older) = self.newest_to_room(rest.clone());
        if let Some(newest) = newest {
            if older > 0 {
                self.lose(self.entries.len(), rest.topic, u64::from(older));
            }
            self.append(newest, overflow, names);
        } else {
            let _ = self.drop_newest(&rest);
        }
        Pushed::Dropped { messages: self.dropped - before }
    }

    pub(super) fn keep_latest(&mut self, rest: Span, overflow: Overflow, names: Introductions<'_>) -> Pushed {
        let before = self.dropped;
        let topic = rest.topic;
        // In one pass: taking entries out of the middle, one by one, would take the square of their number.
        for entry in std::mem::take(&mut self.entries) {
            match entry {
                Entry::Messages { span, overflow: Overflow::Latest }
                    if span.topic == topic && span.part == Part::Whole =>
                {
                    self.discount(span.bytes.len(), Overflow::Latest);
                    self.timed_is_dropped(&span);
                    self.lose(self.entries.len(), topic, span.messages());
                }
                Entry::Gap { topic, messages } => {
                    self.place_gap(self.entries.len(), topic, messages);
                }
                other => self.entries.push_back(other),
            }
        }
        let older = rest.frames - 1;
        if older > 0 {
            self.lose(self.entries.len(), topic, u64::from(older));
        }
        if let (_, Some(newest)) = rest.cut_after(older) {
            let _ = self.drop_oldest(newest, overflow, names);
        }
        Pushed::Dropped { messages: self.dropped - before }
    }

    /// Drops the oldest messages that may be dropped, until there is room for `wanted` bytes, or for as many as there
    /// can be, or none are left.
    pub(super) fn evict(&mut self, wanted: usize) {
        let wanted = wanted.min(self.limit());
        let mut index = 0;
        while index < self.entries.len() {
            // Asked once: others of the same user may free some at any moment.
            let lacking = wanted.saturating_sub(self.room());
            if lacking == 0 {
                break;
            }
            let (span, overflow) = match &self.entries[index] {
                Entry::Messages { span, overflow } if may_be_dropped(*overflow) => (span.clone(), *overflow),
                _ => {
                    index += 1;
                    continue;
                }
            };
            if span.part != Part::Whole {
                index = self.abandon(index, index, &span);
                continue;
            }
            let (topic, bytes) = (span.topic, span.bytes.len());
            let (kept, dropped) = span.newest(bytes.saturating_sub(lacking));
            self.discount(bytes - kept.as_ref().map_or(0, |span| span.bytes.len()), overflow);
            match kept {
                Some(span) => self.entries[index] = Entry::Messages { span, overflow },
                None => {
                    if let Some(Entry::Messages { span, .. }) = self.entries.remove(index) {
                        self.timed_is_dropped(&span);
                    }
                }
            }
            index = self.lose(index, topic, u64::from(dropped));
        }
    }

    /// Puts a gap before entry `at`, or adds to one that stands there. Returns where the entry after it is now.
    ///
    /// The gap names the topic only if the client knows it.
    pub(super) fn lose(&mut self, at: usize, topic: TopicId, messages: u64) -> usize {
        self.dropped += messages;
        let topic = if self.topics_told.contains(&topic) { topic } else { TopicId(0) };
        self.place_gap(at, topic, messages)
    }

    fn place_gap(&mut self, at: usize, topic: TopicId, messages: u64) -> usize {
        let is_gap = |entry: Option<&Entry>| matches!(entry, Some(Entry::Gap { .. }));
        let mut start = at;
        while start > 0 && is_gap(self.entries.get(start - 1)) {
            start -= 1;
        }
        let mut end = at;
        while is_gap(self.entries.get(end)) {
            end += 1;
        }
        for entry in self.entries.range_mut(start..end) {
            if let Entry::Gap { topic: known, messages: count } = entry
                && (*known == topic || known.0 == 0)
            {
                *count += messages;
                return end;
            }
        }
        if end - start < GAPS_SIDE_BY_SIDE_MAX {
            self.entries.insert(end, Entry::Gap { topic, messages });
            return end + 1;
        }
        let removed = self.entries.drain(start..end);
        let sum = removed.map(|entry| if let Entry::Gap { messages, .. } = entry { messages } else { 0 }).sum::<u64>();
        self.entries.insert(start, Entry::Gap { topic: TopicId(0), messages: sum + messages });
        start + 1
    }
}
