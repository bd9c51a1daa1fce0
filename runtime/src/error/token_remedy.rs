//! What to do about a token file.

use std::fmt;

/// What to do about tokens that cannot be used with a model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenRemedy {
    /// The problem states it.
    Stated,
    /// In these words.
    Other(String),
    /// The file is text, of which a tokenizer makes ids.
    Encode,
    /// The file is text in UTF-16.
    EncodeUtf16,
    /// Its ids have another type, as `i64`.
    ReadAs {
        /// Its name.
        token_type: &'static str,
        /// Whether that is a guess from the values.
        is_guess: bool,
    },
    /// Its ids have 64 bits, unless every second id is 0 on purpose.
    ReadAs64Bits,
}

impl fmt::Display for TokenRemedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenRemedy::Stated => Ok(()),
            TokenRemedy::Other(text) => f.write_str(text),
            TokenRemedy::Encode => f.write_str("encode it first"),
            TokenRemedy::EncodeUtf16 => f.write_str("convert it to UTF-8 and encode it first"),
            TokenRemedy::ReadAs { token_type, is_guess: true } => write!(f, "if so, read it as {token_type}"),
            TokenRemedy::ReadAs { token_type, is_guess: false } => write!(f, "read it as {token_type}"),
            TokenRemedy::ReadAs64Bits => f.write_str("read it as i64, or name the type u32 if these zeros are ids"),
        }
    }
}
