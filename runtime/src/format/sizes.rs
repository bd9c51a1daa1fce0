//! All arithmetic on sizes that a file or a checkpoint states: sums, products and a cursor whose every step is checked.
//! A result that exceeds its type or a file is [`TooLarge`], never a number that has wrapped.

#![deny(clippy::arithmetic_side_effects, reason = "its operands come from untrusted files")]

/// Where files end at the latest: offsets are signed numbers of 64 bits to the system.
pub const MAX_FILE_BYTES: u64 = i64::MAX as u64;

/// A size that no file can have, or no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

/// Product of factors.
///
/// # Errors
/// [`TooLarge`] when it has more than 64 bits.
pub fn product<N: TryInto<u64>>(factors: impl IntoIterator<Item = N>) -> Result<u64, TooLarge> {
    checked(factors, 1, u64::checked_mul)
}

/// Sum of terms.
///
/// # Errors
/// [`TooLarge`] when it has more than 64 bits.
pub fn sum<N: TryInto<u64>>(terms: impl IntoIterator<Item = N>) -> Result<u64, TooLarge> {
    checked(terms, 0, u64::checked_add)
}

fn checked<N: TryInto<u64>>(
    numbers: impl IntoIterator<Item = N>,
    first: u64,
    step: fn(u64, u64) -> Option<u64>,
) -> Result<u64, TooLarge> {
    numbers.into_iter().try_fold(first, |so_far, number| step(so_far, number.try_into().ok()?)).ok_or(TooLarge)
}

/// A size as one of memory.
///
/// # Errors
/// [`TooLarge`] when addresses do not reach so far.
pub fn in_memory(bytes: u64) -> Result<usize, TooLarge> {
    usize::try_from(bytes).map_err(|_| TooLarge)
}

/// A range of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// From the beginning of the file.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
}

impl Extent {
    /// One past the last byte; [`Cursor::take`] makes sure that it is in a possible file.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.bytes)
    }
}

/// A place in a file, at first its beginning. It only moves forward, and never beyond [`MAX_FILE_BYTES`].
#[derive(Debug, Default)]
pub struct Cursor(u64);

impl Cursor {
    /// Where it is.
    pub fn position(&self) -> u64 {
        self.0
    }

    /// Moves to the next multiple of `alignment`, a power of two.
    ///
    /// # Errors
    /// [`TooLarge`] when no file reaches so far; it stays where it is.
    pub fn align(&mut self, alignment: u64) -> Result<(), TooLarge> {
        self.0 = self.0.checked_next_multiple_of(alignment).filter(|&end| end <= MAX_FILE_BYTES).ok_or(TooLarge)?;
        Ok(())
    }

    /// Takes the next `bytes` bytes.
    ///
    /// # Errors
    /// [`TooLarge`] when no file reaches so far; it stays where it is.
    pub fn take(&mut self, bytes: u64) -> Result<Extent, TooLarge> {
        let offset = self.0;
        self.0 = offset.checked_add(bytes).filter(|&end| end <= MAX_FILE_BYTES).ok_or(TooLarge)?;
        Ok(Extent { offset, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_beyond_the_largest_are_too_large() {
        assert_eq!(product([u64::MAX, 1]), Ok(u64::MAX));
        assert_eq!(product([1 << 32, 1u64 << 32]), Err(TooLarge));
        assert_eq!(product([0u64; 0]), Ok(1));
        assert_eq!(sum([u64::MAX - 1, 1]), Ok(u64::MAX));
        assert_eq!(sum([u64::MAX, 1]), Err(TooLarge));
        assert_eq!(sum([0u64; 0]), Ok(0));
        assert_eq!(sum([-1i64]), Err(TooLarge));
        assert_eq!(in_memory(usize::MAX as u64), Ok(usize::MAX));
        assert_eq!(in_memory(u64::MAX).is_ok(), usize::BITS == 64);
    }

    #[test]
    fn a_cursor_stops_where_files_end() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.take(MAX_FILE_BYTES - 100), Ok(Extent { offset: 0, bytes: MAX_FILE_BYTES - 100 }));
        assert_eq!(cursor.take(101), Err(TooLarge));
        assert_eq!(cursor.align(256), Err(TooLarge));
        assert_eq!(cursor.take(100).map(|extent| extent.end()), Ok(MAX_FILE_BYTES));
        assert_eq!(cursor.take(u64::MAX), Err(TooLarge));
        assert_eq!((cursor.align(0), cursor.align(1), cursor.position()), (Err(TooLarge), Ok(()), MAX_FILE_BYTES));
    }
}

/// What Kani proves. It reads this file by itself: nothing above names another one.
#[cfg(kani)]
mod proofs {
    use super::*;

    /// A cursor anywhere in a possible file.
    fn somewhere() -> Cursor {
        let at: u64 = kani::any();
        kani::assume(at <= MAX_FILE_BYTES);
        Cursor(at)
    }

    #[kani::proof]
    #[kani::unwind(4)]
    fn a_product_is_exact_or_too_large() {
        // One factor of eight bits: two of 64 are a multiplier that no solver gets through.
        let (a, b): (u64, u8) = (kani::any(), kani::any());
        let exact = u128::from(a) * u128::from(b);
        assert!(product([a, b.into()]) == u64::try_from(exact).map_err(|_| TooLarge));
    }

    #[kani::proof]
    #[kani::unwind(5)]
    fn a_sum_is_exact_or_too_large() {
        let terms: [u64; 3] = kani::any();
        let exact = u128::from(terms[0]) + u128::from(terms[1]) + u128::from(terms[2]);
        assert!(sum(terms) == u64::try_from(exact).map_err(|_| TooLarge));
    }

    #[kani::proof]
    #[kani::unwind(7)]
    fn align_never_goes_back_and_stops_at_the_next_multiple() {
        let begin = somewhere();
        for alignment in [64, 256, 4096, 64 << 10, 2 << 20] {
            let mut cursor = Cursor(begin.0);
            match cursor.align(alignment) {
                Ok(()) => assert!(cursor.0 >= begin.0 && cursor.0 - begin.0 < alignment && cursor.0 % alignment == 0),
                Err(TooLarge) => assert!(cursor.0 == begin.0 && begin.0 > MAX_FILE_BYTES - alignment),
            }
            assert!(cursor.0 <= MAX_FILE_BYTES);
        }
    }

    #[kani::proof]
    fn taken_extents_are_adjacent_and_inside_the_file() {
        let mut cursor = somewhere();
        let (begin, first, second): (u64, u64, u64) = (cursor.0, kani::any(), kani::any());
        if let (Ok(one), Ok(two)) = (cursor.take(first), cursor.take(second)) {
            assert!(one.offset == begin && one.bytes == first && two.bytes == second);
            assert!(one.end() == two.offset && two.end() == cursor.0 && cursor.0 <= MAX_FILE_BYTES);
        }
    }

    #[kani::proof]
    fn what_is_not_taken_does_not_fit() {
        let mut cursor = somewhere();
        let (begin, bytes): (u64, u64) = (cursor.0, kani::any());
        if cursor.take(bytes).is_err() {
            assert!(cursor.0 == begin && bytes > MAX_FILE_BYTES - begin);
        }
    }
}
