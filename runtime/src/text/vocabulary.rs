//! The vocabulary: the bytes of every token.

use crate::error::Error;
use crate::file::model_file::ModelFile;
use crate::format::{VocabularyHead, section};
use std::sync::Arc;
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

/// A copy of the vocabulary section, shared by its clones.
#[derive(Clone)]
pub struct Vocabulary {
    section: Arc<Vec<u8>>,
    n_tokens: usize,
}

impl Vocabulary {
    /// The vocabulary of `file`; `None` without one. Copies the section (about a megabyte) and checks its digest, so
    /// that no wrong text is printed. Offsets are checked when a token is looked up.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the digest is wrong or the length does not match the head, and [`Error::OutOfMemory`].
    pub(crate) fn of_file(file: &ModelFile) -> Result<Option<Vocabulary>, Error> {
        let Some(bytes) = file.checked_section(section::VOCABULARY)? else { return Ok(None) };
        let n_bytes = bytes.len();
        let damaged = || Error::Damaged {
            path: file.path().to_path_buf(),
            place: "vocabulary".into(),
            found: format!("{n_bytes} bytes"),
            expected: "the length in its head".into(),
        };
        Vocabulary::of(bytes).ok_or_else(damaged).map(Some)
    }

    fn of(section: Vec<u8>) -> Option<Vocabulary> {
        let (head, rest) = VocabularyHead::ref_from_prefix(&section).ok()?;
        let n_tokens = head.n_tokens.get() as usize;
        let (_, text) = parts(rest, n_tokens)?;
        let is_good = text.len() as u64 == head.text_bytes.get() && head.reserved.get() == 0;
        is_good.then(|| Vocabulary { section: Arc::new(section), n_tokens })
    }

    /// Number of ids, including those without an entry.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// The bytes of a token; `None` for an id without an entry.
    pub fn bytes(&self, token: u32) -> Option<&[u8]> {
        let (offsets, text) = parts(self.section.get(size_of::<VocabularyHead>()..)?, self.n_tokens)?;
        let token = usize::try_from(token).ok()?;
        let begin = offsets.get(token)?.get() as usize;
        let end = offsets.get(token.checked_add(1)?)?.get() as usize;
        text.get(begin..end).filter(|bytes| !bytes.is_empty())
    }
}

/// For the programs and tests of this workspace.
#[cfg(feature = "internals")]
#[doc(hidden)]
impl Vocabulary {
    /// The vocabulary of `file`; `None` without one.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the digest is wrong or the length does not match the head, and [`Error::OutOfMemory`].
    pub fn new(file: &ModelFile) -> Result<Option<Vocabulary>, Error> {
        Vocabulary::of_file(file)
    }

    /// Copies a vocabulary from the bytes of a section; `None` when their length does not match the head.
    pub fn in_section(bytes: &[u8]) -> Option<Vocabulary> {
        Vocabulary::of(bytes.to_vec())
    }
}

/// `[n_tokens + 1]` offsets, and the text after them.
fn parts(bytes: &[u8], n_tokens: usize) -> Option<(&[U32], &[u8])> {
    <[U32]>::ref_from_prefix_with_elems(bytes, n_tokens.checked_add(1)?).ok()
}
