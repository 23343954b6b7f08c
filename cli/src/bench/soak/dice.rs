//! Dice: what happens next, as if by chance. One seed gives the same again.

/// Numbers that look random.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        // Seeds that follow each other must not begin alike, and none may be 0.
        Dice(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// One below `max`, which is not 0.
    pub(super) fn below(&mut self, max: u64) -> u64 {
        (self.number() >> 16) % max
    }

    /// From 1 byte to 1 MiB, of each order of magnitude as many.
    pub(super) fn size(&mut self) -> usize {
        let magnitude = 1 << self.below(20);
        usize::try_from(magnitude + self.below(magnitude)).unwrap_or(1)
    }

    /// Another die, whose numbers are others.
    pub(super) fn split(&mut self) -> Dice {
        Dice::new(self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_can_happen_does_and_nothing_else() {
        let mut dice = Dice::new(0);
        let mut seen = [false; 6];
        for _ in 0..1000 {
            seen[usize::try_from(dice.below(6)).unwrap()] = true;
            assert!((1..=1 << 20).contains(&dice.size()));
        }
        assert_eq!(seen, [true; 6]);
    }
}
