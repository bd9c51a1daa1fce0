//! The list of mapped ranges that the handler of SIGBUS reads. Nothing in it is freed.

use crate::error::display_path;
use crate::os::raw_line::{kept, text};
use libc::c_char;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// Capacity of the list of mappings. For a mapping beyond it SIGBUS ends the program, as without a handler.
const MAX_MAPPINGS: usize = 16;

/// Mapped ranges. A slot is taken while `text` is not null. It contains no address until `end` is set, last.
static MAPPINGS: [Range; MAX_MAPPINGS] = [const { Range::new() }; MAX_MAPPINGS];

/// A mapping and the text of its error line.
struct Range {
    begin: AtomicUsize,
    end: AtomicUsize,
    /// The path of the file, for the error line.
    text: AtomicPtr<c_char>,
}

impl Range {
    const fn new() -> Range {
        Range { begin: AtomicUsize::new(0), end: AtomicUsize::new(0), text: AtomicPtr::new(ptr::null_mut()) }
    }
}

/// The entry of a mapping in the list, until it is dropped.
#[derive(Debug)]
pub struct Mapped(Option<usize>);

impl Mapped {
    /// Registers `bytes` as a mapping of the file at `path`.
    pub fn new(bytes: &[u8], path: &Path) -> Mapped {
        let text = kept(display_path(path).to_string().into_bytes());
        let begin = bytes.as_ptr() as usize;
        let slot = MAPPINGS.iter().position(|range| {
            // Claimed with an empty range, which contains no address.
            let free = range.text.compare_exchange(ptr::null_mut(), text, Ordering::AcqRel, Ordering::Relaxed);
            free.is_ok()
        });
        if let Some(slot) = slot {
            MAPPINGS[slot].begin.store(begin, Ordering::Release);
            MAPPINGS[slot].end.store(begin + bytes.len(), Ordering::Release);
        }
        Mapped(slot)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let Some(slot) = self.0 else { return };
        MAPPINGS[slot].end.store(0, Ordering::Release);
        MAPPINGS[slot].begin.store(0, Ordering::Release);
        MAPPINGS[slot].text.store(ptr::null_mut(), Ordering::Release);
    }
}

/// The path of the file that is mapped at `address`, and the offset there; `None` outside of all mappings.
///
/// Async-signal-safe: it reads atomics and texts that are never freed.
pub(super) fn find(address: usize) -> Option<(&'static [u8], usize)> {
    let contains = |range: &&Range| {
        let begin = range.begin.load(Ordering::Acquire);
        (begin..range.end.load(Ordering::Acquire)).contains(&address)
    };
    let range = MAPPINGS.iter().find(contains)?;
    Some((text(&range.text), address - range.begin.load(Ordering::Acquire)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_ranges_free_their_slots() {
        for _ in 0..2 {
            let bytes = [0u8; 4];
            let held: Vec<Mapped> = (0..MAX_MAPPINGS + 1).map(|_| Mapped::new(&bytes, Path::new("x"))).collect();
            // Other tests of this process may map files meanwhile.
            assert!(held.last().is_some_and(|mapped| mapped.0.is_none()));
            assert!(held.iter().filter(|mapped| mapped.0.is_some()).count() >= MAX_MAPPINGS / 2);
        }
    }

    #[test]
    fn addresses_are_found_in_their_ranges_only() {
        let bytes = [0u8; 4];
        let begin = bytes.as_ptr() as usize;
        let mapped = Mapped::new(&bytes, Path::new("some file"));
        // Where other tests hold all slots there is nothing to find.
        if mapped.0.is_some() {
            assert_eq!(find(begin + 3), Some((&b"some file"[..], 3)));
        }
        drop(mapped);
        assert_eq!(find(0), None);
    }
}
