//! The errors of the library for the user of a command: with the options that help, which the library does not know.

use olmo_infer::Error;
use olmo_infer::internals::cli::advice::of_load;
use olmo_infer::internals::error::{TokenRemedy, display_path};
use std::fmt;

/// An error of the library with advice about options.
pub struct Advised<'a> {
    error: &'a Error,
    takes_text: bool,
}

impl<'a> Advised<'a> {
    /// For a command that takes text or token files.
    pub fn new(error: &'a Error) -> Advised<'a> {
        Advised { error, takes_text: true }
    }

    /// For a command that takes token files only.
    pub fn for_ids(error: &'a Error) -> Advised<'a> {
        Advised { error, takes_text: false }
    }
}

impl fmt::Display for Advised<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = self.error;
        let advice = match error {
            Error::ContextTooLarge { sequences: 1, .. } => "ask for fewer positions or a smaller --chunk",
            Error::ContextTooLarge { .. } => "ask for a smaller --batch, fewer positions or a smaller --chunk",
            Error::Tokens { path, problem, remedy } => {
                return match of_tokens(remedy, self.takes_text) {
                    Some(advice) => write!(f, "{}: {problem}; {advice}", display_path(path)),
                    None => error.fmt(f),
                };
            }
            error => match of_load(error) {
                Some(advice) => advice,
                None => return error.fmt(f),
            },
        };
        write!(f, "{error}; {advice}")
    }
}

/// What to do about a token file; `None` where no option helps.
fn of_tokens(remedy: &TokenRemedy, takes_text: bool) -> Option<String> {
    Some(match remedy {
        TokenRemedy::Encode if !takes_text => "make ids of it with olmo-infer tokenize".into(),
        TokenRemedy::EncodeUtf16 if !takes_text => {
            "convert it with iconv -f UTF-16 -t UTF-8, and make ids of it with olmo-infer tokenize".into()
        }
        TokenRemedy::Encode => {
            "give text with --prompt, or --prompt-file FILE, and make ids of it with olmo-infer tokenize".into()
        }
        TokenRemedy::EncodeUtf16 => "convert it with iconv -f UTF-16 -t UTF-8, and give it with --prompt-file".into(),
        TokenRemedy::ReadAs { token_type: "u32", is_guess: true } => "if so, leave out --token-type".into(),
        TokenRemedy::ReadAs { token_type, is_guess: true } => format!("if so, add --token-type {token_type}"),
        TokenRemedy::ReadAs { token_type, is_guess: false } => format!("use --token-type {token_type}"),
        TokenRemedy::ReadAs64Bits => {
            "read it with --token-type i64, or with --token-type u32 if these zeros are ids".into()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_names_options() {
        let tokens = |remedy| Error::Tokens { path: "t.bin".into(), problem: "4 bytes".into(), remedy };
        let read_as = |token_type, is_guess| tokens(TokenRemedy::ReadAs { token_type, is_guess });
        let too_large = |sequences| Error::ContextTooLarge { sequences, positions: 9, bytes: 2, available: 1 };
        for (error, line) in [
            (read_as("i64", true), "t.bin: 4 bytes; if so, add --token-type i64"),
            (read_as("u32", true), "t.bin: 4 bytes; if so, leave out --token-type"),
            (read_as("u32", false), "t.bin: 4 bytes; use --token-type u32"),
            (tokens(TokenRemedy::Stated), "t.bin: 4 bytes"),
            (tokens(TokenRemedy::Other("split it".into())), "t.bin: 4 bytes; split it"),
            (
                too_large(1),
                "9 positions need 0.0 GB for the KV cache and activations, 0.0 GB of memory are available; ask for fewer \
                 positions or a smaller --chunk",
            ),
            (
                too_large(2),
                "2 sequences at a time need 0.0 GB for the KV cache and activations, 0.0 GB of memory are available; ask \
                 for a smaller --batch, fewer positions or a smaller --chunk",
            ),
            (
                Error::ModelTooLarge { bytes: 2, available: 1 },
                "reading the model takes 0.0 GB of memory, 0.0 GB are available; map it instead, with --load mmap",
            ),
            (Error::NoTokens, "no tokens to evaluate, expected at least one"),
        ] {
            assert_eq!(Advised::new(&error).to_string(), line);
        }
        for (remedy, line) in [
            (TokenRemedy::Encode, "t.bin: 4 bytes; make ids of it with olmo-infer tokenize"),
            (
                TokenRemedy::EncodeUtf16,
                "t.bin: 4 bytes; convert it with iconv -f UTF-16 -t UTF-8, and make ids of it with olmo-infer tokenize",
            ),
        ] {
            assert_eq!(Advised::for_ids(&tokens(remedy)).to_string(), line);
        }
    }
}
