//! Bytes of a file that is checked, and the errors about what is wrong in them.

use crate::error::Error;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes that can be read at any offset.
pub trait ReadAt {
    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// The OS returns an error; fewer bytes remain.
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, out, offset)
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..));
        let bytes = rest.and_then(|rest| rest.get(..out.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }
}

/// A file that is checked, and the errors about it.
pub(super) struct Reader<'a, S: ?Sized> {
    pub path: &'a Path,
    pub source: &'a S,
    pub length: u64,
}

impl<S: ReadAt + ?Sized> Reader<'_, S> {
    pub fn damaged(&self, place: impl Into<String>, found: impl ToString, expected: impl ToString) -> Error {
        Error::Damaged {
            path: self.path.to_path_buf(),
            place: place.into(),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    /// Only where addresses have 32 bits: within the limits of a configuration no size is beyond every file.
    pub fn impossible(&self) -> Error {
        self.damaged("configuration", "sizes beyond every file", "a possible model")
    }

    /// A comparison of numbers that must be equal.
    pub fn equal(&self, place: &str, found: u64, expected: u64) -> Result<(), Error> {
        if found == expected { Ok(()) } else { Err(self.damaged(place, found, expected)) }
    }
}
