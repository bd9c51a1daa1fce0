//! Bytes that may change while they are read: those of a mapped file, which other processes may write to.
//!
//! A function that takes a slice relies on its staying the same: it decodes checked text without another check, or
//! reads a compared length again. So this type has no public method that returns a `&[u8]` or a `&str`. It has copies,
//! for all values that control the program, and views of numbers, for which every bit pattern is valid: a change of the
//! file changes results, and nothing else.

use crate::error::Error;
use crate::os::memory;
use std::fmt;
use std::ops::Range;
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};
use zerocopy::FromBytes;

/// Most bytes that are copied at once, before their digest is checked.
const UNCHECKED_COPY: usize = 4 << 20;

/// Bytes of a file in memory, which may be mapped.
#[derive(Clone, Copy)]
pub struct MappedBytes<'a>(&'a [u8]);

impl<'a> From<&'a [u8]> for MappedBytes<'a> {
    /// Also takes bytes that no other process can change.
    fn from(bytes: &'a [u8]) -> MappedBytes<'a> {
        MappedBytes(bytes)
    }
}

impl<'a> MappedBytes<'a> {
    /// Number of bytes.
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Those in a range; `None` when it is not inside.
    pub fn get(self, range: Range<usize>) -> Option<MappedBytes<'a>> {
        self.0.get(range).map(MappedBytes)
    }

    /// The first `bytes` of them, and the rest; `None` when there are fewer.
    pub fn split_at(self, bytes: usize) -> Option<(MappedBytes<'a>, MappedBytes<'a>)> {
        self.0.split_at_checked(bytes).map(|(first, rest)| (MappedBytes(first), MappedBytes(rest)))
    }

    /// A copy, which stays as it is.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn copied(self) -> Result<Vec<u8>, Error> {
        let mut copy = memory::room_for(self.len(), "a copy of a part of the model file")?;
        copy.extend_from_slice(self.0);
        Ok(copy)
    }

    /// A copy whose XXH3-64 with `seed` is `digest`; `None` when it is not.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn checked_copy(self, seed: u64, digest: u64) -> Result<Option<Vec<u8>>, Error> {
        // What is refused takes no memory for what it claims to be, nor for its holes.
        if self.len() > UNCHECKED_COPY && self.digest(seed) != digest {
            return Ok(None);
        }
        let copy = self.copied()?;
        // Of the copy: the file may have changed since.
        let is_good = xxh3_64_with_seed(&copy, seed) == digest;
        Ok(is_good.then_some(copy))
    }

    /// Copies them into `out`.
    ///
    /// # Panics
    /// When it has another length.
    pub fn copy_to(self, out: &mut [u8]) {
        out.copy_from_slice(self.0);
    }

    /// Their XXH3-64.
    pub fn digest(self, seed: u64) -> u64 {
        // It computes with the bytes, and no step depends on them.
        xxh3_64_with_seed(self.0, seed)
    }

    /// Adds them to a digest of more.
    pub fn add_to(self, digest: &mut Xxh3) {
        digest.update(self.0);
    }

    /// Whether others are the same at this moment.
    pub fn are(self, other: MappedBytes<'_>) -> bool {
        self.0 == other.0
    }

    /// The first that is not zero.
    pub fn first_not_zero(self) -> Option<usize> {
        self.0.iter().position(|&byte| byte != 0)
    }

    /// As f32 numbers; `None` when they are not aligned or not a whole number of them.
    pub fn f32s(self) -> Option<&'a [f32]> {
        <[f32]>::ref_from_bytes(self.0).ok()
    }

    /// As words, little-endian; `None` when they are not aligned or not a whole number of them.
    pub fn u32s(self) -> Option<&'a [u32]> {
        <[u32]>::ref_from_bytes(self.0).ok()
    }

    /// For what computes with the bytes and trusts none: kernels and decoders of bf12 and quantized matrices.
    pub(crate) fn for_kernels(self) -> &'a [u8] {
        self.0
    }

    /// Their addresses.
    pub(crate) fn addresses(self) -> Range<usize> {
        let begin = self.0.as_ptr().addr();
        begin..begin.saturating_add(self.0.len())
    }
}

impl fmt::Debug for MappedBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MappedBytes({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_of_whole_aligned_numbers() {
        let words = [1u32, 2, 0x3f80_0000];
        let bytes = MappedBytes::from(zerocopy::IntoBytes::as_bytes(&words[..]));
        assert_eq!(bytes.u32s(), Some(&words[..]));
        assert_eq!(bytes.f32s().map(|numbers| numbers[2]), Some(1.0));
        let part = |range| bytes.get(range).expect("inside");
        assert_eq!((part(0..7).u32s(), part(1..9).f32s()), (None, None));
        assert!(bytes.get(4..13).is_none() && bytes.split_at(13).is_none());
        let (first, rest) = bytes.split_at(4).expect("12 bytes");
        assert_eq!((first.u32s(), rest.u32s()), (Some(&words[..1]), Some(&words[1..])));
        assert!(first.are(part(0..4)) && !first.are(part(4..8)));
        assert_eq!(part(1..4).first_not_zero(), None);
        assert_eq!(part(1..12).first_not_zero(), Some(3));
        assert_eq!(part(4..5).copied().expect("memory"), [2]);
        let mut digest = Xxh3::with_seed(7);
        first.add_to(&mut digest);
        rest.add_to(&mut digest);
        assert_eq!(digest.digest(), bytes.digest(7));
    }
}
