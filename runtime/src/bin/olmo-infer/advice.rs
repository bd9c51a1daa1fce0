//! What the user of a command can do about an error of the library, which knows no options.

use olmo_infer::Error;

/// The advice to print behind an error, with the characters that separate them; empty where the error says it all.
pub fn advice(error: &Error) -> &'static str {
    match error {
        Error::Map { .. } => "; where files cannot be mapped, use --load read",
        Error::ModelTooLarge { .. } => "; map it instead, with --load mmap",
        Error::ContextTooLarge { sequences: 1, .. } => "; ask for fewer positions or a smaller --chunk",
        Error::ContextTooLarge { .. } => "; ask for a smaller --batch, fewer positions or a smaller --chunk",
        _ => "",
    }
}
