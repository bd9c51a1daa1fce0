//! The `.npy` reader: a strict check of the header, and reads of the numbers at known offsets.
//!
//! npyz's header parser is made for honest files: on a hostile one it allocates what the file claims, recurses without
//! a limit and multiplies unchecked. So every header is first read by the flat grammar of `npy_header`; npyz then
//! parses a header that *we* write from the checked values, and must come to the same type, shape and order. It never
//! sees a byte of the file. No other module names npyz.

use crate::element::SourceType;
use crate::error::{Error, Problem};
use crate::npy_header::{ACCEPTED, MAX_HEADER_BYTES, check_start};
pub use crate::npy_header::{Checked, Descr, shown_shape};
use rustix::fs::OFlags;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What tells whether a file is still the one that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Device and inode.
    pub inode: (u64, u64),
    /// Length.
    pub bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(file: &File) -> io::Result<Identity> {
        let metadata = file.metadata()?;
        Ok(Identity {
            inode: (metadata.dev(), metadata.ino()),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// A checked `.npy` file. It is opened anew for each read, so that a model of many files needs few descriptors; the
/// identity says that it is still the same one.
#[derive(Clone, Debug)]
pub struct NpyFile {
    /// Where it is.
    pub path: PathBuf,
    /// Element type.
    pub descr: Descr,
    /// Shape, row-major; no dimension is 0.
    pub shape: Vec<u64>,
    /// Everything before the numbers, byte for byte.
    pub preamble: Vec<u8>,
    /// The file that was checked.
    pub identity: Identity,
}

impl NpyFile {
    /// Opens and checks the file at `path`.
    ///
    /// # Errors
    /// What is wrong with it: not a regular file, not an `.npy` file, a type or an order that is not supported, more or
    /// fewer bytes than its shape needs.
    pub fn check(path: &Path) -> Result<NpyFile, Error> {
        let file = open(path)?;
        let identity = Identity::of(&file).map_err(|error| Error::io(path, "cannot look at it", error))?;
        let start = read_start(&file, identity.bytes).map_err(|error| Error::io(path, "cannot read", error))?;
        let Checked { descr, shape, preamble_bytes, .. } = check_header(path, &start, identity.bytes)?;
        let preamble = start[..preamble_bytes].to_vec();
        Ok(NpyFile { path: path.to_path_buf(), descr, shape, preamble, identity })
    }

    /// Length of the numbers.
    pub fn data_bytes(&self) -> u64 {
        self.identity.bytes - self.preamble.len() as u64
    }

    /// The element type, when `u2_is_bf16` answers the one question that the header leaves open.
    ///
    /// # Errors
    /// The numbers are 16-bit integers and not called bfloat16.
    pub fn source_type(&self, u2_is_bf16: bool) -> Result<SourceType, Problem> {
        match self.descr {
            Descr::F32 => Ok(SourceType::F32),
            Descr::F16 => Ok(SourceType::F16),
            Descr::Raw16 => Ok(SourceType::Bf16),
            Descr::U16 if u2_is_bf16 => Ok(SourceType::Bf16),
            Descr::U16 => Err(Problem::new(&self.path, "16-bit integers (<u2)")
                .expected(ACCEPTED)
                .advice("if they are bfloat16, say \"dtype\": \"bfloat16\" in config.json")),
        }
    }

    /// That the file is no longer the one that was checked.
    pub fn changed(&self) -> Problem {
        Problem::new(&self.path, "changed while being packed").advice("pack again when nothing writes to it")
    }

    /// Reads numbers from `offset` bytes behind the preamble on.
    ///
    /// # Errors
    /// The system's, or that the file is no longer the one that was checked.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let file = open(&self.path)?;
        let unchanged = || match Identity::of(&file) {
            Ok(identity) if identity == self.identity => Ok(()),
            Ok(_) => Err(Error::from(self.changed())),
            Err(error) => Err(Error::io(&self.path, "cannot look at it", error)),
        };
        unchanged()?;
        let read = file.read_exact_at(out, self.preamble.len() as u64 + offset);
        // First whether it changed: that explains a read past the end better than the read's own error.
        unchanged()?;
        read.map_err(|error| Error::io(&self.path, "cannot read", error))
    }
}

/// Opens a regular file for reading; a FIFO is refused instead of waited for.
///
/// # Errors
/// The system's, or that it is no regular file.
pub fn open(path: &Path) -> Result<File, Error> {
    let flags = (OFlags::NONBLOCK | OFlags::CLOEXEC).bits() as i32;
    let file = File::options()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|error| Error::io(path, "cannot open", error))?;
    let metadata = file.metadata().map_err(|error| Error::io(path, "cannot look at it", error))?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "is a folder" } else { "is not a regular file" };
        return Err(Problem::new(path, found).expected("a file").into());
    }
    Ok(file)
}

/// The first bytes of the file: the longest legal header and what stands before it, or all of a shorter file.
fn read_start(file: &File, bytes: u64) -> io::Result<Vec<u8>> {
    let mut start = vec![0; bytes.min(12 + MAX_HEADER_BYTES as u64) as usize];
    file.read_exact_at(&mut start, 0)?;
    Ok(start)
}

/// Checks the first bytes of a file of `file_bytes` bytes: all of it, or as many as the longest header has; `path` is for
/// messages.
///
/// # Errors
/// As [`NpyFile::check`], but for the system's.
pub fn check_header(path: &Path, start: &[u8], file_bytes: u64) -> Result<Checked, Problem> {
    let checked = check_start(start, file_bytes).map_err(|bad| bad.problem(path))?;
    confirm_with_npyz(&checked).map_err(|error| Problem::new(path, format!("npyz does not agree: {error}")))?;
    Ok(checked)
}

/// Lets npyz read a header of our own with the checked values, and compares.
pub(crate) fn confirm_with_npyz(checked: &Checked) -> Result<(), String> {
    #[cfg(test)]
    NPYZ_CALLS.with(|calls| calls.set(calls.get() + 1));
    let descr = match checked.descr {
        Descr::F32 => "<f4",
        Descr::F16 => "<f2",
        Descr::Raw16 => "|V2",
        Descr::U16 => "<u2",
    };
    let sizes: String = checked.shape.iter().map(|size| format!("{size}, ")).collect();
    let order = if checked.fortran_order { "True" } else { "False" };
    let text = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({sizes}), }}\n");
    // Version 2.0 has room for any length; 32 dimensions of 20 digits stay far below its limit.
    let mut ours = b"\x93NUMPY\x02\x00".to_vec();
    ours.extend((text.len() as u32).to_le_bytes());
    ours.extend(text.as_bytes());
    let header = npyz::NpyHeader::from_reader(ours.as_slice()).map_err(|error| error.to_string())?;
    let order = if checked.fortran_order { npyz::Order::Fortran } else { npyz::Order::C };
    if header.shape() != checked.shape || header.order() != order || header.dtype().descr() != format!("'{descr}'") {
        return Err(format!("it reads {} {:?} {:?}", header.dtype().descr(), header.shape(), header.order()));
    }
    Ok(())
}

#[cfg(test)]
thread_local! {
    /// How often this thread came to npyz.
    pub(crate) static NPYZ_CALLS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}
