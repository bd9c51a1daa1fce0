//! The bytes of the model file in memory: the file itself, mapped, or a copy of it in huge pages.
//!
//! Mapped costs nothing, is shared with every other process on the same file and stays in the page cache for the next
//! run: the way for local disks. Over a network or FUSE a request that fails would end the program with SIGBUS: there
//! the file is read once, in large pieces by several threads.

#![allow(unsafe_code, reason = "the mapping of a file that others can change")]

use crate::error::Error;
use crate::format::mapped_bytes::MappedBytes;
use crate::os::file_system::FileSystem;
use crate::os::mapped_ranges::Mapped;
use crate::os::memory::{self, Resident};
use crate::os::spawn::spawn_scoped;
#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::{Mmap, MmapMut, MmapOptions};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A huge page of x86-64, and of AArch64 with 4 KiB pages.
const HUGE_PAGE: usize = 2 << 20;
/// Bytes that one step of [`Mapping::populate`] brings in.
const POPULATE_STEP: usize = 8 << 20;
/// A step that takes longer is taken to come from the disk.
const SLOW_STEP: Duration = Duration::from_millis(1);
/// Bytes of one read, and threads that read.
const READ_PIECE: usize = 8 << 20;
const READERS: usize = 4;

/// How the file is brought into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Load {
    /// As suits the file system: [`Load::Read`] on network and FUSE ones, [`Load::Mmap`] on others.
    #[default]
    Auto,
    /// The file is mapped.
    Mmap,
    /// The file is read into memory of this process.
    Read,
}

impl Load {
    /// The one of this name: `auto`, `mmap` or `read`.
    pub fn named(name: &str) -> Option<Load> {
        match name {
            "auto" => Some(Load::Auto),
            "mmap" => Some(Load::Mmap),
            "read" => Some(Load::Read),
            _ => None,
        }
    }
}

/// What was done about the file.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// [`Load::Mmap`] or [`Load::Read`].
    pub way: Load,
    /// Why that one.
    pub reason: Reason,
    /// The file system of the file.
    pub file_system: FileSystem,
}

/// Why a file is mapped or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The caller chose it.
    Asked,
    /// It suits the file system.
    FileSystem,
    /// Reading would suit the file system, but there is not the memory for it.
    TooLarge,
}

/// Bytes in memory, those of the whole file in order.
pub struct Mapping {
    /// Registers the file with the program's handlers; dropped before `map`.
    _mapped: Option<Mapped>,
    map: Mmap,
    /// Where the file begins in `map`: its copy is aligned to huge pages.
    begin: usize,
    length: usize,
    loaded: Loaded,
}

impl Mapping {
    /// Maps or reads the first `length` bytes of `file`, which it has; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::ModelTooLarge`], [`Error::OutOfMemory`], [`Error::AddressSpace`], [`Error::Map`], and [`Error::Io`] when
    /// it cannot be read or became shorter.
    pub(crate) fn new(path: &Path, file: &File, length: usize, load: Load) -> Result<Mapping, Error> {
        let file_system = file_system(file);
        // Only where it matters: most starts need not ask.
        let may_read = load == Load::Read || (load == Load::Auto && file_system.remote);
        let memory = if may_read { memory::available() } else { None };
        let (way, reason) = choose(load, file_system, length as u64, memory);
        let loaded = Loaded { way, reason, file_system };
        if way == Load::Read {
            memory::check_weights(length as u64, memory)?;
            let (map, begin) = read(path, file, length)?;
            return Ok(Mapping { map, begin, length, loaded, _mapped: None });
        }
        let map = map(file, length).map_err(|source| Error::Map { path: path.to_path_buf(), source })?;
        let mapped = Some(Mapped::new(&map, path));
        Ok(Mapping { map, begin: 0, length, loaded, _mapped: mapped })
    }

    /// A copy of the bytes of a file in huge pages; `name` is for messages.
    ///
    /// # Errors
    /// As [`Mapping::new`] for [`Load::Read`].
    pub(crate) fn copy_of(name: &Path, bytes: &[u8]) -> Result<Mapping, Error> {
        let (map, begin) = filled(name, bytes.len(), |out| {
            out.copy_from_slice(bytes);
            Ok(())
        })?;
        let loaded = Loaded { way: Load::Read, reason: Reason::Asked, file_system: FileSystem::UNKNOWN };
        Ok(Mapping { map, begin, length: bytes.len(), loaded, _mapped: None })
    }

    /// All bytes of the file.
    pub fn bytes(&self) -> MappedBytes<'_> {
        MappedBytes::from(&self.map[self.begin..self.begin + self.length])
    }

    /// How they came here.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// How much of it is in memory now, and how much of that in huge pages. Looks at every page: it takes its time.
    pub fn resident(&self) -> Option<Resident> {
        memory::resident(self.bytes().addresses())
    }

    /// Pages the bytes in `range` into this process, in order, in huge pages where the page cache has them. `stop`
    /// ends it early. When the bytes come from a disk a second thread joins in, so that the disk always has a request.
    ///
    /// # Errors
    /// [`Error::Io`] when the file was truncated or cannot be read: the kernel returns an error instead of raising
    /// SIGBUS.
    #[cfg(target_os = "linux")]
    pub(crate) fn populate(
        &self,
        path: &Path,
        range: Range<usize>,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Populated, Error> {
        if self.loaded.way == Load::Read {
            return Ok(Populated { bytes: 0, complete: true });
        }
        if !Advice::PopulateRead.is_supported() {
            return Ok(Populated { bytes: 0, complete: false });
        }
        // Only a hint, refused by kernels without huge pages for files. It also makes what comes from the disk come in
        // huge pages, which later runs find in the page cache.
        let _refused_where_unsupported = self.map.advise(Advice::HugePage);
        let end = range.end.min(self.length);
        let next = AtomicUsize::new(range.start);
        let (done, unable) = (AtomicUsize::new(0), AtomicBool::new(false));
        // Returns whether there may be more to do.
        let step = || -> io::Result<bool> {
            let at = next.fetch_add(POPULATE_STEP, Ordering::Relaxed);
            if at >= end || unable.load(Ordering::Relaxed) || stop() {
                return Ok(false);
            }
            let bytes = POPULATE_STEP.min(end - at);
            match self.map.advise_range(Advice::PopulateRead, at, bytes) {
                // This file system cannot do it: the first pass brings the tensors in.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => unable.store(true, Ordering::Relaxed),
                Err(error) => {
                    unable.store(true, Ordering::Relaxed);
                    return Err(error);
                }
                Ok(()) => {
                    done.fetch_add(bytes, Ordering::Relaxed);
                }
            }
            Ok(true)
        };
        let rest = || {
            while step()? {}
            Ok(())
        };
        let result = thread::scope(|scope| {
            let mut second = None;
            loop {
                let begun = Instant::now();
                if !step()? {
                    break;
                }
                if second.is_none() && begun.elapsed() > SLOW_STEP {
                    // If no second thread can be started, this one does all of the work.
                    second = spawn_scoped(scope, "olmo-page-in-2", rest).ok();
                }
            }
            second.map_or(Ok(()), |second| second.join().expect("populating does not panic"))
        });
        result.map_err(Error::io(path, "read all of it into memory (truncated, or an I/O error)"))?;
        let bytes = done.into_inner();
        Ok(Populated { bytes, complete: bytes == end.saturating_sub(range.start) })
    }

    /// Pages the bytes in `range` into this process, if the kernel can. Its errors are left to the code that reads the bytes.
    pub(crate) fn populate_at_once(&self, range: Range<usize>) {
        #[cfg(target_os = "linux")]
        if self.loaded.way != Load::Read && Advice::PopulateRead.is_supported() {
            let end = range.end.min(self.length);
            let _left_to_the_reader = self.map.advise_range(Advice::PopulateRead, range.start, end - range.start);
        }
        #[cfg(not(target_os = "linux"))]
        let _the_first_pass_brings_it_in = range;
    }

    /// Elsewhere the first pass brings the tensors in.
    ///
    /// # Errors
    /// None.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn populate(
        &self,
        _path: &Path,
        _range: Range<usize>,
        _stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Populated, Error> {
        Ok(Populated { bytes: 0, complete: self.loaded.way == Load::Read })
    }
}

/// What [`ModelFile::populate`](crate::file::model_file::ModelFile::populate) did.
#[derive(Clone, Copy, Debug)]
pub struct Populated {
    /// Bytes brought in.
    pub bytes: usize,
    /// Whether everything is there.
    pub complete: bool,
}

/// Whether to map or to read a file of `length` bytes, with `memory` bytes to be had.
fn choose(load: Load, file_system: FileSystem, length: u64, memory: Option<u64>) -> (Load, Reason) {
    // A run needs memory in addition to the weights.
    let fits = memory.is_none_or(|memory| length.saturating_add(length / 8) <= memory);
    match load {
        Load::Mmap | Load::Read => (load, Reason::Asked),
        Load::Auto if !file_system.remote => (Load::Mmap, Reason::FileSystem),
        Load::Auto if fits => (Load::Read, Reason::FileSystem),
        Load::Auto => (Load::Mmap, Reason::TooLarge),
    }
}

/// The file system of `file`.
#[cfg(target_os = "linux")]
fn file_system(file: &File) -> FileSystem {
    use std::os::fd::AsRawFd;
    let mut found = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open while `file` is borrowed, and the pointer is to room for one `statfs`.
    let status = unsafe { libc::fstatfs(file.as_raw_fd(), found.as_mut_ptr()) };
    if status != 0 {
        return FileSystem::UNKNOWN;
    }
    // SAFETY: the call succeeded, so it has written all of it.
    let found = unsafe { found.assume_init() };
    // A signed word on some machines; the numbers have 32 bits.
    FileSystem::with_magic(found.f_type as u32)
}

/// Unknown: only Linux numbers its file systems.
#[cfg(not(target_os = "linux"))]
fn file_system(_file: &File) -> FileSystem {
    FileSystem::UNKNOWN
}

/// The first `length` bytes of the file, mapped; the caller has checked that it has them.
fn map(file: &File, length: usize) -> io::Result<Mmap> {
    // SAFETY: the mapping is read-only and never longer than the file. The contract of a mapping also requires that no
    // process changes the file meanwhile, which no program can enforce: `MappedBytes` gives copies, and views of
    // numbers without invalid bit patterns, so a changed file gives changed numbers. A truncated one raises SIGBUS, as
    // the documentation of `Model` and SECURITY.md state.
    unsafe { MmapOptions::new().len(length).map(file) }
}

/// A copy of the file in memory of this process, and where it begins there.
fn read(path: &Path, file: &File, length: usize) -> Result<(Mmap, usize), Error> {
    filled(path, length, |out| read_pieces(file, ahead(file, length).as_ref(), out))
}

/// Memory of this process, filled with `length` bytes, and where they begin: in huge pages, unless the file is smaller
/// than one, of which most would be cleared for nothing.
fn filled(path: &Path, length: usize, fill: impl FnOnce(&mut [u8]) -> io::Result<()>) -> Result<(Mmap, usize), Error> {
    let padded = length.checked_add(HUGE_PAGE).ok_or(Error::AddressSpace { bytes: length as u64 })?;
    let mut map = MmapMut::map_anon(padded).map_err(|_| Error::OutOfMemory {
        bytes: padded as u64,
        what: "a copy of the model",
        advice: "map the model instead, or raise the limit (ulimit -v)",
    })?;
    let begin = map.as_ptr().align_offset(HUGE_PAGE);
    #[cfg(target_os = "linux")]
    if length >= HUGE_PAGE {
        // Only a hint: small pages hold the same bytes.
        let _refused_where_unsupported = map.advise(Advice::HugePage);
    }
    let cannot = Error::io(path, "read all of it (cut short meanwhile, or an I/O error: copy or pack it again)");
    fill(&mut map[begin..begin + length]).map_err(cannot)?;
    let map = map.make_read_only().map_err(Error::io(path, "protect its copy in memory"))?;
    Ok((map, begin))
}

/// A mapping through which the pages of a piece are ordered before it is read: they then come by requests of 2 MiB,
/// where plain reads of a network file system make many of 128 KiB. Its bytes are never touched, so that any failure is
/// an error of the read.
#[cfg(target_os = "linux")]
fn ahead(file: &File, length: usize) -> Option<Mmap> {
    let map = map(file, length).ok()?;
    let _refused_where_unsupported = map.advise(Advice::HugePage);
    Some(map)
}

/// Orders a piece.
#[cfg(target_os = "linux")]
fn order(map: &Mmap, at: usize, bytes: usize) {
    // What fails here fails again where it is reported.
    let _the_read_tells = map.advise_range(Advice::PopulateRead, at, bytes);
}

/// Elsewhere nothing can be ordered.
#[cfg(not(target_os = "linux"))]
fn ahead(_file: &File, _length: usize) -> Option<Mmap> {
    None
}

/// Elsewhere nothing is.
#[cfg(not(target_os = "linux"))]
fn order(_map: &Mmap, _at: usize, _bytes: usize) {}

/// Fills `bytes` from the beginning of the file: pieces go to the threads in order, so that the file is read in order.
fn read_pieces(file: &File, ahead: Option<&Mmap>, bytes: &mut [u8]) -> io::Result<()> {
    let failed = AtomicBool::new(false);
    let pieces = Mutex::new(bytes.chunks_mut(READ_PIECE).enumerate());
    let read = || -> io::Result<()> {
        while !failed.load(Ordering::Relaxed) {
            // No thread panics while holding this lock.
            let Some((index, piece)) = pieces.lock().expect("not poisoned").next() else { break };
            let at = index * READ_PIECE;
            if let Some(map) = ahead {
                order(map, at, piece.len());
            }
            let result = file.read_exact_at(piece, at as u64);
            result.inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        // The work needs none of the other threads: those that cannot be started are left out.
        let others: Vec<_> =
            (1..READERS).filter_map(|i| spawn_scoped(scope, &format!("olmo-read-{i}"), read).ok()).collect();
        let own = read();
        others.into_iter().fold(own, |result, other| result.and(other.join().expect("reading does not panic")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LOCAL: FileSystem = FileSystem { name: "ext4", remote: false };
    const REMOTE: FileSystem = FileSystem { name: "nfs", remote: true };

    /// An unnamed file of `length` bytes without pattern, and the bytes.
    fn file_of(length: usize) -> (File, Vec<u8>) {
        let bytes: Vec<u8> = (0..length as u32).map(|i| (i.wrapping_mul(2654435761) >> 24) as u8).collect();
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&bytes).expect("written");
        (file, bytes)
    }

    #[test]
    fn auto_reads_where_pages_come_from_afar_and_fit_the_memory() {
        assert_eq!(choose(Load::Auto, LOCAL, 10, Some(100)), (Load::Mmap, Reason::FileSystem));
        assert_eq!(choose(Load::Auto, REMOTE, 10, Some(100)), (Load::Read, Reason::FileSystem));
        assert_eq!(choose(Load::Auto, REMOTE, 10, None), (Load::Read, Reason::FileSystem));
        assert_eq!(choose(Load::Auto, REMOTE, 89, Some(100)), (Load::Read, Reason::FileSystem));
        assert_eq!(choose(Load::Auto, REMOTE, 90, Some(100)), (Load::Mmap, Reason::TooLarge));
        assert_eq!(choose(Load::Auto, REMOTE, 101, Some(100)), (Load::Mmap, Reason::TooLarge));
        assert_eq!(choose(Load::Mmap, REMOTE, 10, Some(100)), (Load::Mmap, Reason::Asked));
        assert_eq!(choose(Load::Read, LOCAL, 101, Some(100)), (Load::Read, Reason::Asked));
    }

    #[test]
    fn mapped_and_read_are_the_bytes_of_the_file() {
        for length in [1, 4096, READ_PIECE - 1, 2 * READ_PIECE + 12345] {
            let (file, bytes) = file_of(length);
            for load in [Load::Mmap, Load::Read] {
                let mapping = Mapping::new("m".as_ref(), &file, length, load).expect("in memory");
                assert_eq!(mapping.loaded().way, load);
                assert!(mapping.bytes().are(bytes.as_slice().into()), "{length} bytes, {load:?}");
                let populated = mapping.populate("m".as_ref(), 0..length, &|| false).expect("brought in");
                assert!(populated.complete || cfg!(not(target_os = "linux")), "{length} bytes, {load:?}");
            }
        }
    }

    #[test]
    fn a_copy_begins_at_a_huge_page() {
        let (file, _) = file_of(100);
        let mapping = Mapping::new("m".as_ref(), &file, 100, Load::Read).expect("read");
        assert_eq!(mapping.bytes().addresses().start % HUGE_PAGE, 0);
    }

    #[test]
    fn a_file_that_became_shorter_is_an_error() {
        let (file, _) = file_of(READ_PIECE + 5000);
        let long = 2 * READ_PIECE;
        let read = Mapping::new("m.olmo".as_ref(), &file, long, Load::Read).err().expect("too short").to_string();
        assert!(read.starts_with("m.olmo: cannot read all of it (cut short meanwhile"), "{read}");
        // A mapping notices when it is brought in.
        let mapping = Mapping::new("m.olmo".as_ref(), &file, long, Load::Mmap).expect("mapped");
        if cfg!(target_os = "linux") {
            let error = mapping.populate("m.olmo".as_ref(), 0..long, &|| false).expect_err("too short").to_string();
            assert!(error.starts_with("m.olmo: cannot read all of it into memory (truncated"), "{error}");
        }
    }

    #[test]
    fn populate_stops_when_asked() {
        let (file, _) = file_of(4 * POPULATE_STEP);
        let mapping = Mapping::new("m".as_ref(), &file, 4 * POPULATE_STEP, Load::Mmap).expect("mapped");
        let steps = AtomicUsize::new(0);
        let stop = || steps.fetch_add(1, Ordering::Relaxed) >= 2;
        let populated = mapping.populate("m".as_ref(), 0..4 * POPULATE_STEP, &stop).expect("brought in");
        assert!(!populated.complete && populated.bytes <= 2 * POPULATE_STEP, "{populated:?}");
    }
}
