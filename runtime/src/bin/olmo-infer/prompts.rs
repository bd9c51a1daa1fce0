//! What a run evaluates: token files, or a text that becomes ids.

use crate::args::generate::GenerateArgs;
use crate::args::prompt::{Prompt, PromptText};
use crate::failure::Failure;
use crate::messages;
use crate::program::PROGRAM;
use olmo_infer::internals::conversation::POSITION_BYTES;
use olmo_infer::internals::error::{Error, display_path};
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::text::chat::{Chat, ChatError, Message, Role};
use olmo_infer::internals::text::encoder::Encoder;
use olmo_infer::internals::text::token_file::read_tokens_as;
use olmo_infer::internals::text::tokenizer::Tokenizer;
use olmo_infer::internals::text::vocabulary::Vocabulary;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Longest text: what a model can take is far less.
pub const MAX_TEXT_BYTES: usize = 64 << 20;

/// A sequence to evaluate.
pub struct Input {
    /// Its ids, checked.
    pub tokens: Vec<u32>,
    /// Number of positions to evaluate.
    pub positions: usize,
}

/// Reads all prompts, so that nothing is computed when one of them is bad.
///
/// # Errors
/// What is wrong with each bad one.
pub fn read(args: &GenerateArgs, file: &ModelFile) -> Result<Vec<Input>, Failure> {
    if let Some(prompt) = &args.prompt {
        return Ok(vec![of_text(args, prompt, file)?]);
    }
    let (mut inputs, mut failures) = (Vec::new(), Vec::new());
    for path in &args.tokens {
        match of_file(args, file.config(), path) {
            Ok(input) => inputs.push(input),
            Err(failure) => failures.push(failure),
        }
    }
    if failures.is_empty() { Ok(inputs) } else { Err(Failure::Several(failures)) }
}

fn of_file(args: &GenerateArgs, config: &ModelConfig, path: &Path) -> Result<Input, Failure> {
    let tokens = read_tokens_as(path, args.token_type, config.vocab_size, config.max_position_embeddings);
    let tokens = tokens.map_err(|error| match error {
        Error::Io { ref source, .. } if source.kind() == io::ErrorKind::NotFound && is_phrase(path) => {
            Failure::Refused(format!("{error}; to give text use --prompt"))
        }
        error => error.into(),
    })?;
    let positions = args.positions(tokens.len(), config.max_position_embeddings);
    let positions = positions.map_err(|failure| Failure::Refused(format!("{}: {failure}", display_path(path))))?;
    Ok(Input { tokens, positions })
}

/// Whether the name of a token file is rather a text.
fn is_phrase(path: &Path) -> bool {
    path.to_str().is_some_and(|name| name.contains(char::is_whitespace))
}

fn of_text(args: &GenerateArgs, prompt: &Prompt, file: &ModelFile) -> Result<Input, Failure> {
    let tokens = encoded(prompt, file)?;
    let most = file.config().max_position_embeddings;
    match tokens.len() {
        0 => Err(Failure::Usage("the prompt is empty, expected a text".into())),
        n if n > most => Err(Failure::Refused(format!(
            "the prompt has {n} tokens, expected at most {most}, the positions of the model; shorten it"
        ))),
        n => Ok(Input { positions: args.positions(n, most)?, tokens }),
    }
}

/// The ids of a prompt.
pub fn encoded(prompt: &Prompt, file: &ModelFile) -> Result<Vec<u32>, Failure> {
    let most = file.config().max_position_embeddings;
    let most_bytes = MAX_TEXT_BYTES.min(most.saturating_mul(POSITION_BYTES));
    let text = match &prompt.text {
        PromptText::Given(text) => text.clone(),
        PromptText::File(path) | PromptText::Messages(path) => {
            let too_long = format!("more than {most_bytes} bytes, too many for the {most} positions of the model");
            read_text(path, most_bytes, &format!("{too_long}; shorten the prompt"))?
        }
    };
    if let PromptText::File(path) = &prompt.text {
        note_mark(path, &text);
    }
    // An empty file of messages is not a conversation.
    if text.is_empty() && !matches!(prompt.text, PromptText::Messages(_)) {
        return Err(Failure::Usage("the prompt is empty, expected a text".into()));
    }
    // Before it is encoded, which takes memory for each byte.
    if text.len() > most_bytes {
        let found = format!("the prompt has {} bytes, too many for the {most} positions of the model", text.len());
        return Err(Failure::Refused(format!("{found}; shorten it")));
    }
    if !prompt.chat {
        return Ok(encoder(file, "--prompt")?.encode(&text)?);
    }
    let chat = chat(file)?;
    let (messages, flag) = match &prompt.text {
        PromptText::Messages(path) => (messages::parse(path, &text)?, "--messages"),
        PromptText::Given(_) | PromptText::File(_) => {
            let system = prompt.system.as_ref().map(|system| Message::new(Role::System, system));
            (system.into_iter().chain([Message::new(Role::User, text)]).collect(), "--chat")
        }
    };
    let text = chat.render(&messages).map_err(|error| match (&prompt.text, &error) {
        (PromptText::Messages(path), ChatError::Order { found: None, .. }) => {
            let path = display_path(path);
            Failure::Refused(format!("{path}: {error}; add a user message, which the model then answers"))
        }
        (_, ChatError::NoMemory { .. }) => Failure::Refused(error.to_string()),
        (PromptText::Messages(path), _) => Failure::Refused(format!("{}: {error}", display_path(path))),
        _ => Failure::Usage(format!("{}: {error}", display_path(file.path()))),
    })?;
    Ok(encoder(file, flag)?.encode(&text)?)
}

/// The chat format of a model.
pub fn chat(file: &ModelFile) -> Result<Chat, Failure> {
    let path = display_path(file.path());
    let chat = Chat::new(file).map_err(|error| match error {
        Error::UnusableChatTemplate { problem } => {
            Failure::Refused(format!("{path}: {problem}; use --prompt alone, or token ids"))
        }
        error => error.into(),
    })?;
    chat.ok_or_else(|| {
        Failure::Usage(format!(
            "{path}: has no chat format; base models have none: use --prompt alone, or pack the folder of an instruct \
             model with its tokenizer_config.json or chat_template.jinja"
        ))
    })
}

/// The encoder of a model, which `what` needs: an option or a command.
pub fn encoder(file: &ModelFile, what: &str) -> Result<Encoder, Failure> {
    let path = display_path(file.path());
    let none = |part: &str| {
        Failure::Usage(format!(
            "{path}: has no {part}, which {what} needs; pack it with a tokenizer.json in the folder, or give token ids in a \
             file"
        ))
    };
    let vocabulary = Vocabulary::new(file)?.ok_or_else(|| none("vocabulary"))?;
    let tokenizer = Tokenizer::new(file, &vocabulary).map_err(|error| match error {
        Error::UnusableTokenizer { problem } => {
            Failure::Refused(format!("{path}: {problem}, so {what} cannot be used"))
        }
        error => error.into(),
    })?;
    let tokenizer = tokenizer.ok_or_else(|| none("tokenizer"))?;
    Encoder::new(&tokenizer).map_err(|error| match error {
        Error::UnusableTokenizer { problem } => Failure::Refused(format!("{path}: {problem}")),
        error => error.into(),
    })
}

/// A text from a file, or from standard input for `-`; `too_long` is the error for more than `most_bytes`.
pub fn read_text(path: &Path, most_bytes: usize, too_long: &str) -> Result<String, Failure> {
    let refused = || Err(Failure::Refused(format!("{}: {too_long}", display_path(path))));
    let mut bytes = Vec::new();
    let read = |source: &mut dyn Read, bytes: &mut Vec<u8>| {
        source.take(most_bytes as u64 + 1).read_to_end(bytes).map_err(Error::io(path, "read"))
    };
    if path.as_os_str() == "-" {
        read(&mut io::stdin().lock(), &mut bytes)?;
    } else {
        let mut file = File::open(path).map_err(Error::io(path, "open"))?;
        // Of a device and a pipe it is 0.
        let length = file.metadata().map_err(Error::io(path, "read its metadata"))?.len();
        if length > most_bytes as u64 {
            return refused();
        }
        read(&mut file, &mut bytes)?;
        if (bytes.len() as u64) < length {
            return Err(Error::io(path, "read")(io::ErrorKind::UnexpectedEof.into()).into());
        }
    }
    if bytes.len() > most_bytes {
        return refused();
    }
    let shown = display_path(path);
    if is_utf16(&bytes) {
        let convert = "convert it with iconv -f UTF-16 -t UTF-8";
        return Err(Failure::Refused(format!("{shown}: text in UTF-16, expected UTF-8; {convert}")));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::Refused(format!(
            "{shown}: not text: byte {at} is not UTF-8; expected text in UTF-8, convert it with iconv"
        ))
    })?;
    Ok(text)
}

/// Notes a byte order mark in the text of a file.
pub fn note_mark(path: &Path, text: &str) {
    if text.starts_with('\u{feff}') {
        let (shown, remove) = (display_path(path), "to leave it out, remove it with sed '1s/^\\xEF\\xBB\\xBF//'");
        PROGRAM.note(format_args!("{shown}: begins with a byte order mark, which becomes part of the text; {remove}"));
    }
}

/// Whether bytes are text in UTF-16: with its mark, or ASCII letters each next to a zero.
fn is_utf16(bytes: &[u8]) -> bool {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let is_ascii = |high: usize| pairs.iter().all(|pair| pair[high] == 0 && pair[1 - high] != 0);
    let is_marked = matches!(bytes, [0xff, 0xfe, ..] | [0xfe, 0xff, ..]);
    is_marked || rest.is_empty() && !pairs.is_empty() && (is_ascii(0) || is_ascii(1))
}
