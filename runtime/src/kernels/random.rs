//! Numbers for the tests of the kernels.

/// xorshift64; not zero at the beginning.
pub struct Random(pub u64);

impl Random {
    /// The next bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
