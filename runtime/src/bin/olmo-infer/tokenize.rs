//! `olmo-infer tokenize` and `olmo-infer detokenize`: text to ids, and ids to text.

use crate::advice::Advised;
use crate::args::text::{DETOKENIZE_COMMAND, DetokenizeArgs, Source, TOKENIZE_COMMAND, TokenizeArgs};
use crate::failure::Failure;
use crate::opened;
use crate::printer::PIECE_BYTES;
use crate::prompts::{MAX_TEXT_BYTES, encoded, encoder, note_mark, read_text};
use olmo_infer::internals::error::display_path;
use olmo_infer::internals::error::shown::for_terminal;
use olmo_infer::internals::text::stream::TextStream;
use olmo_infer::internals::text::token_file::read_text_ids;
use olmo_infer::internals::text::vocabulary::Vocabulary;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::slice;

/// Prints the ids of a text.
pub fn tokenize(args: &TokenizeArgs) -> Result<(), Failure> {
    let others: Vec<PathBuf> = args.file().map(Path::to_path_buf).into_iter().collect();
    let file = &opened::open(TOKENIZE_COMMAND, &args.model, args.load, &others)?;
    if io::stdout().is_terminal() {
        return Err(Failure::Usage("token ids are not text; redirect standard output to a file or a pipe".into()));
    }
    let ids = match &args.text {
        Source::Prompt(prompt) => encoded(prompt, file)?,
        Source::File(path) => {
            let encoder = encoder(file, "tokenize")?;
            let text = read_text(path, MAX_TEXT_BYTES, "more than 64 MiB of text, expected less; split it")?;
            note_mark(path, &text);
            encoder.encode(&text)?
        }
    };
    file.check_unchanged()?;
    let mut out = BufWriter::with_capacity(PIECE_BYTES, io::stdout().lock());
    ids.iter().try_for_each(|id| out.write_all(&id.to_le_bytes()))?;
    Ok(out.flush()?)
}

/// Prints the bytes of ids, or text in a terminal.
pub fn detokenize(args: &DetokenizeArgs) -> Result<(), Failure> {
    let file = &opened::open(DETOKENIZE_COMMAND, &args.model, args.load, slice::from_ref(&args.tokens))?;
    let model = display_path(file.path());
    let vocabulary = Vocabulary::new(file)?.ok_or_else(|| {
        Failure::Usage(format!("{model}: has no vocabulary, which detokenize needs; pack it with --vocab vocab.txt"))
    })?;
    let path = &args.tokens;
    let tokens = read_text_ids(path, args.token_type, file.config().vocab_size)
        .map_err(|error| Failure::Refused(Advised::for_ids(&error).to_string()))?;
    if let Some(i) = tokens.iter().position(|&token| vocabulary.bytes(token).is_none()) {
        return Err(Failure::Refused(format!(
            "{}: token {i} is {}, which has no text in the vocabulary of {model}; it is one of the untrained ids that fill \
             up the embedding",
            display_path(path),
            tokens[i],
        )));
    }
    // The texts of tokens can be long: they are not collected.
    let mut out = BufWriter::with_capacity(PIECE_BYTES, io::stdout().lock());
    let mut texts = tokens.iter().filter_map(|&token| vocabulary.bytes(token));
    if io::stdout().is_terminal() {
        // As with --text.
        let (mut text, mut shown) = (TextStream::default(), Vec::new());
        for bytes in texts {
            for piece in bytes.chunks(PIECE_BYTES) {
                shown.clear();
                text.push(piece, &mut shown);
                out.write_all(for_terminal(&String::from_utf8_lossy(&shown)).as_bytes())?;
            }
        }
        shown.clear();
        text.finish(&mut shown);
        out.write_all(for_terminal(&String::from_utf8_lossy(&shown)).as_bytes())?;
    } else {
        texts.try_for_each(|bytes| out.write_all(bytes))?;
    }
    file.check_unchanged()?;
    Ok(out.flush()?)
}
