//! Choices: where all that happens by chance comes from, a tape of bytes. A seed makes one, or a fuzzer.
//!
//! The tape is cut into blocks, one for each step, so that a step can be taken out without changing the others.

/// The bytes of one step. What it chooses beyond them follows from them.
pub(crate) const BLOCK_BYTES: usize = 8;

/// Steps are taken until it ends.
pub(super) struct Tape<'a>(pub(super) &'a [u8]);

/// The choices of one step.
pub(super) struct Choices {
    block: [u8; BLOCK_BYTES],
    used: usize,
    luck: u64,
}

impl Tape<'_> {
    /// The next step's; a block that is cut short ends with zeros.
    pub(super) fn next(&mut self) -> Option<Choices> {
        let (bytes, rest) = self.0.split_at(self.0.len().min(BLOCK_BYTES));
        self.0 = rest;
        let mut block = [0; BLOCK_BYTES];
        block[..bytes.len()].copy_from_slice(bytes);
        (!bytes.is_empty()).then(|| Choices { block, used: 0, luck: u64::from_le_bytes(block) })
    }
}

impl Choices {
    /// Nothing but zeros, which is what a failure shrinks to.
    pub(super) fn none() -> Choices {
        Choices { block: [0; BLOCK_BYTES], used: 0, luck: 0 }
    }

    pub(super) fn byte(&mut self) -> u8 {
        if let Some(byte) = self.block.get(self.used) {
            self.used += 1;
            return *byte;
        }
        self.luck = self.luck.wrapping_mul(6_364_136_223_846_793_005);
        (self.luck >> 40) as u8
    }

    /// Below `max`.
    pub(super) fn below(&mut self, max: usize) -> usize {
        match max {
            0 | 1 => 0,
            2..=256 => usize::from(self.byte()) % max,
            _ => (usize::from(self.byte()) << 16 | usize::from(self.byte()) << 8 | usize::from(self.byte())) % max,
        }
    }

    /// Below `max`; at its ends more often than anywhere else, for there are the faults.
    pub(super) fn at_the_edge(&mut self, max: usize) -> usize {
        match self.byte() % 4 {
            0 => 0,
            1 => max - 1,
            _ => self.below(max),
        }
    }

    /// True so many times of 256.
    pub(super) fn happens(&mut self, times: u8) -> bool {
        self.byte() > 255 - times
    }

    pub(super) fn one_of<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.below(among.len())]
    }
}
