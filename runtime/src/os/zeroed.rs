//! Memory of zeros for activations and KV caches, asked of the system once.
//!
//! Large buffers are mapped by themselves, with the wish for huge pages: a context of some thousand positions is read
//! for every token, and in small pages the processor would look up the place of each of them.

use crate::error::Error;
use crate::os::memory;
use memmap2::{MmapMut, MmapOptions};
use std::ops::{Deref, DerefMut};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Buffers of at least so many bytes are mapped: a huge page of x86-64 and AArch64.
const MAPPED_BYTES: usize = 2 << 20;

/// A buffer that begins as zeros, which the system has not had to fill yet.
pub struct ZeroedBuffer<T>(Memory<T>);

enum Memory<T> {
    Heap(Vec<T>),
    /// Pages of its own, as many elements as fit.
    Mapped(MmapMut),
}

impl<T: FromBytes + IntoBytes + Immutable + Clone> ZeroedBuffer<T> {
    /// A buffer of `elements` elements.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], with `what` it is for.
    pub fn new(elements: usize, what: &'static str) -> Result<ZeroedBuffer<T>, Error> {
        let refused = || Error::OutOfMemory {
            bytes: (elements as u64).saturating_mul(size_of::<T>() as u64),
            what,
            advice: "ask for fewer positions or a smaller chunk",
        };
        let bytes = elements.checked_mul(size_of::<T>()).ok_or_else(refused)?;
        if bytes >= MAPPED_BYTES {
            let map = MmapOptions::new().len(bytes).map_anon().map_err(|_| refused())?;
            // Only a wish: without huge pages everything works.
            #[cfg(target_os = "linux")]
            let _refused_where_unsupported = map.advise(memmap2::Advice::HugePage);
            return Ok(ZeroedBuffer(Memory::Mapped(map)));
        }
        let mut heap = memory::room_for(elements, what).map_err(|_| refused())?;
        heap.resize(elements, T::new_zeroed());
        Ok(ZeroedBuffer(Memory::Heap(heap)))
    }
}

/// No elements.
impl<T> Default for ZeroedBuffer<T> {
    fn default() -> ZeroedBuffer<T> {
        ZeroedBuffer(Memory::Heap(Vec::new()))
    }
}

impl<T: FromBytes + IntoBytes + Immutable> Deref for ZeroedBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Memory::Heap(elements) => elements,
            Memory::Mapped(map) => <[T]>::ref_from_bytes(map).expect("a mapping is aligned and has whole elements"),
        }
    }
}

impl<T: FromBytes + IntoBytes + Immutable> DerefMut for ZeroedBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.0 {
            Memory::Heap(elements) => elements,
            Memory::Mapped(map) => <[T]>::mut_from_bytes(map).expect("a mapping is aligned and has whole elements"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_all_sizes_are_zeros_that_can_be_written() {
        for elements in [0, 1, 1000, MAPPED_BYTES / 4 - 1, MAPPED_BYTES / 4, MAPPED_BYTES] {
            let mut buffer = ZeroedBuffer::<f32>::new(elements, "test").expect("it fits");
            assert!(buffer.len() == elements && buffer.iter().all(|&x| x == 0.0));
            buffer.fill(1.5);
            assert!(buffer.iter().all(|&x| x == 1.5));
        }
    }

    #[test]
    fn memory_that_there_is_not_is_refused() {
        for elements in [usize::MAX / 2, 1 << 50] {
            let refused = ZeroedBuffer::<f32>::new(elements, "the KV cache").err().expect("nobody has so much");
            assert!(refused.to_string().contains("bytes for the KV cache"), "{refused}");
        }
    }
}
