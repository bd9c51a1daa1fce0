//! The section `FILES`: the small files of a folder byte for byte, so that `unpack` gives the folder back.

use crate::error::{Error, Problem};
use crate::folder::source_file;
use olmo_infer::internals::format::{FILE_NAMES, FileRecord, FilesHead};
use std::collections::BTreeMap;
use std::path::Path;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

/// Files by the codes of their names. Each is read once: what is kept is what was looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeptFiles(BTreeMap<u32, Vec<u8>>);

impl KeptFiles {
    /// Reads the file at `path`, keeps it under `name`, one of the names of the format, and shows it. `too_long` is the
    /// error for more than `limit` bytes.
    ///
    /// # Errors
    /// It cannot be read or is too long.
    pub(crate) fn read(
        &mut self,
        name: &str,
        path: &Path,
        limit: u64,
        too_long: impl FnOnce() -> Problem,
    ) -> Result<&[u8], Error> {
        let bytes = source_file::read_at_most(path, limit)?.ok_or_else(too_long)?;
        Ok(self.keep(name, bytes))
    }

    /// Keeps a file that was read, and shows it.
    fn keep(&mut self, name: &str, bytes: Vec<u8>) -> &[u8] {
        let code = (1..).zip(FILE_NAMES).find(|(_, known)| *known == name).expect("a name of the format").0;
        self.0.insert(code, bytes);
        &self.0[&code]
    }

    /// The bytes of the section, with the `generation_config.json` that was read elsewhere; `None` when there is no file.
    pub fn section(&self, generation_config: Option<&[u8]>) -> Option<Vec<u8>> {
        let kept = self.0.iter().map(|(&code, bytes)| (code, bytes.as_slice()));
        // Its code is the last one.
        let last = generation_config.map(|bytes| (FILE_NAMES.len() as u32, bytes));
        let files: Vec<(u32, &[u8])> = kept.chain(last).collect();
        if files.is_empty() {
            return None;
        }
        let head = FilesHead { n_files: U32::new(files.len() as u32), reserved: U32::new(0) };
        let n_bytes: usize = files.iter().map(|(_, bytes)| size_of::<FileRecord>() + bytes.len()).sum();
        let mut section = Vec::with_capacity(size_of::<FilesHead>() + n_bytes);
        section.extend(head.as_bytes());
        for (code, bytes) in &files {
            // None is longer than 12 MiB.
            let record = FileRecord { name: U32::new(*code), bytes: U32::new(bytes.len() as u32) };
            section.extend(record.as_bytes());
        }
        files.iter().for_each(|(_, bytes)| section.extend(*bytes));
        Some(section)
    }
}

/// Names and bytes of the files in a section.
///
/// # Errors
/// What is wrong with it. No name is taken from the file, so that none can lead out of a folder.
pub fn in_section(bytes: &[u8]) -> Result<Vec<(&'static str, &[u8])>, &'static str> {
    let (head, rest) = FilesHead::ref_from_prefix(bytes).map_err(|_| "no room for its head")?;
    let n_files = head.n_files.get() as usize;
    if !(1..=FILE_NAMES.len()).contains(&n_files) || head.reserved.get() != 0 {
        return Err("a number of files that is not possible");
    }
    let (records, mut rest) =
        <[FileRecord]>::ref_from_prefix_with_elems(rest, n_files).map_err(|_| "no room for its records")?;
    let mut files: Vec<(&'static str, &[u8])> = Vec::with_capacity(n_files);
    let mut previous = 0;
    for record in records {
        let code = record.name.get();
        let name = FILE_NAMES.get((code as usize).wrapping_sub(1)).filter(|_| code > previous);
        let name = name.ok_or("names that are unknown or out of order")?;
        previous = code;
        let (file, others) = rest.split_at_checked(record.bytes.get() as usize).ok_or("no room for its files")?;
        files.push((name, file));
        rest = others;
    }
    if rest.is_empty() { Ok(files) } else { Err("bytes after its last file") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> KeptFiles {
        let mut kept = KeptFiles::default();
        assert_eq!(kept.section(None), None);
        for (name, bytes) in [("vocab.txt", "0\ta"), ("tokenizer.json", "")] {
            assert_eq!(kept.keep(name, bytes.into()), bytes.as_bytes());
        }
        kept
    }

    #[test]
    fn section_gives_back_its_files_in_the_order_of_codes() {
        let section = kept().section(Some(b"{}")).expect("files");
        let files = [("tokenizer.json", &b""[..]), ("vocab.txt", b"0\ta"), ("generation_config.json", b"{}")];
        assert_eq!(in_section(&section).as_deref(), Ok(&files[..]));
        let section = kept().section(None).expect("files");
        assert_eq!(in_section(&section).as_deref(), Ok(&files[..2]));
    }

    #[test]
    fn refuses_sections_that_are_not_whole() {
        let good = kept().section(Some(b"{}")).expect("files");
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            in_section(&bytes).expect_err("refused")
        };
        let names = "names that are unknown or out of order";
        for (at, byte, says) in [
            (0, 0, "a number of files that is not possible"),
            (0, 8, "a number of files that is not possible"),
            (3, 1, "a number of files that is not possible"),
            (4, 1, "a number of files that is not possible"),
            // Zero, the first one twice, and beyond the last.
            (8, 0, names),
            (16, 1, names),
            (24, 8, names),
            (24, 2, names),
            (12, 6, "no room for its files"),
            (15, 0xff, "no room for its files"),
            (28, 1, "bytes after its last file"),
        ] {
            assert_eq!(changed(at, byte), says, "byte {at} {byte}");
        }
        for length in 0..good.len() {
            assert!(in_section(&good[..length]).is_err(), "{length}");
        }
        assert_eq!(in_section(&[&good[..], b"x"].concat()), Err("bytes after its last file"));
    }
}
