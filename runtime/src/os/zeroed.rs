//! Zeroed buffers for activations and KV caches.
//!
//! Large buffers are mapped separately, with transparent huge pages requested: a context of several thousand positions
//! is read for every token, and with small pages each of them would need its own TLB entry.

use crate::error::Error;
use crate::os::memory;
use memmap2::{MmapMut, MmapOptions};
use std::ops::{Deref, DerefMut};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Buffers of at least this many bytes are mapped: one huge page of x86-64 and AArch64.
const MAPPED_BYTES: usize = 2 << 20;

/// A zeroed buffer; the pages of a large one are committed when they are written.
pub struct ZeroedBuffer<T>(Memory<T>);

enum Memory<T> {
    Heap(Vec<T>),
    /// Its own pages, holding as many elements as fit.
    Mapped(MmapMut),
}

impl<T: FromBytes + IntoBytes + Immutable + Clone> ZeroedBuffer<T> {
    /// A buffer of `elements` elements.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; `what` names the purpose of the buffer.
    pub fn new(elements: usize, what: &'static str) -> Result<ZeroedBuffer<T>, Error> {
        let no_memory = || Error::OutOfMemory {
            bytes: (elements as u64).saturating_mul(size_of::<T>() as u64),
            what,
            advice: "ask for fewer positions or a smaller chunk",
        };
        let bytes = elements.checked_mul(size_of::<T>()).ok_or_else(no_memory)?;
        if bytes >= MAPPED_BYTES {
            let map = MmapOptions::new().len(bytes).map_anon().map_err(|_| no_memory())?;
            // Only a hint: everything works without huge pages.
            #[cfg(target_os = "linux")]
            let _unsupported = map.advise(memmap2::Advice::HugePage);
            return Ok(ZeroedBuffer(Memory::Mapped(map)));
        }
        let mut heap = memory::room_for(elements, what).map_err(|_| no_memory())?;
        heap.resize(elements, T::new_zeroed());
        Ok(ZeroedBuffer(Memory::Heap(heap)))
    }
}

/// An empty buffer.
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
    fn buffers_of_all_sizes_are_zeroed_and_writable() {
        for elements in [0, 1, 1000, MAPPED_BYTES / 4 - 1, MAPPED_BYTES / 4, MAPPED_BYTES] {
            let mut buffer = ZeroedBuffer::<f32>::new(elements, "test").expect("it fits");
            assert!(buffer.len() == elements && buffer.iter().all(|&x| x == 0.0));
            buffer.fill(1.5);
            assert!(buffer.iter().all(|&x| x == 1.5));
        }
    }

    #[test]
    fn new_returns_error_when_out_of_memory() {
        for elements in [usize::MAX / 2, 1 << 50] {
            let no_memory =
                ZeroedBuffer::<f32>::new(elements, "the KV cache").err().expect("more than the address space");
            assert!(no_memory.to_string().contains("bytes for the KV cache"), "{no_memory}");
        }
    }
}
