//! What a folder says about text: the bytes of every token, how text becomes ids, and the format of conversations.

use crate::chat_template::{self, MAX_TIME, Names, NoChat};
use crate::dolma2;
use crate::error::{Error, Problem};
use crate::kept_files::KeptFiles;
use crate::output::Target;
use crate::strict_json;
use crate::tokenizer_json;
use crate::vocab::{self, Vocabulary};
use olmo_infer::format::{TOKENIZER_UNKNOWN, TokenizerHead};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

/// Longest `tokenizer_config.json` and `chat_template.jinja`; real ones have some KiB.
const MAX_BYTES: u64 = 4 << 20;

/// What a model file gets for text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Text {
    /// The bytes of every token.
    pub vocabulary: Option<Vocabulary>,
    /// The section `TOKENIZER`, or why there is none.
    pub tokenizer: Part,
    /// The section `CHAT`, or why there is none.
    pub chat: Part,
    /// The files, for the section `FILES`.
    pub files: KeptFiles,
}

/// A section that may be missing.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Part {
    /// The folder has nothing of it.
    #[default]
    Absent,
    /// The folder has too little of it, and this is what to add.
    Missing(&'static str),
    /// The folder has something, and this is why it cannot be used.
    Unknown(String),
    /// Its bytes, and the name of the file that they come from.
    Known(Vec<u8>, &'static str),
}

impl Part {
    /// The bytes of the section, when it is known.
    pub fn section(&self) -> Option<&[u8]> {
        match self {
            Part::Known(bytes, _) => Some(bytes),
            Part::Absent | Part::Missing(_) | Part::Unknown(_) => None,
        }
    }

    /// For people: where it comes from, or why it is not there.
    pub fn origin(&self) -> String {
        match self {
            Part::Absent => "none".into(),
            Part::Missing(problem) => format!("none: {problem}"),
            Part::Unknown(problem) => format!("none: {problem}"),
            Part::Known(_, name) => (*name).into(),
        }
    }
}

impl Text {
    /// The bytes of the section `TOKENIZER`. One that is not known says why, to whoever needs it.
    pub fn tokenizer_section(&self) -> Option<Vec<u8>> {
        match &self.tokenizer {
            Part::Absent | Part::Missing(_) => None,
            Part::Known(bytes, _) => Some(bytes.clone()),
            Part::Unknown(why) => {
                let mut head = TokenizerHead::new_zeroed();
                head.kind = U32::new(TOKENIZER_UNKNOWN);
                Some([head.as_bytes(), why.as_bytes()].concat())
            }
        }
    }

    /// Reads what `folder` has; `vocab` is another vocabulary, a `vocab.txt` or a `tokenizer.json`. Refuses a file that
    /// would be replaced by `target`.
    ///
    /// # Errors
    /// A file cannot be read or is not what its name says, or two of them contradict each other. A tokenizer or a chat
    /// template that is not understood is no error.
    pub fn read(folder: &Path, vocab: Option<&Path>, vocab_size: usize, target: &Target) -> Result<Text, Error> {
        let not_the_target = |path: PathBuf| -> Result<PathBuf, Error> {
            let metadata = fs::metadata(&path).map_err(|error| Error::io(&path, "cannot open", error))?;
            target.refuse_same(&path, (metadata.dev(), metadata.ino()))?;
            Ok(path)
        };
        let present = |name: &str| -> Result<Option<PathBuf>, Error> {
            let path = folder.join(name);
            match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(Error::io(path, "cannot look at it", error)),
                // A link that leads nowhere is there, and an error.
                Ok(_) => not_the_target(path).map(Some),
            }
        };
        let is_json = |path: &Path| path.extension().is_some_and(|extension| extension == "json");
        let (json, txt) = match vocab {
            Some(path) => {
                let path = not_the_target(path.to_path_buf())?;
                if is_json(&path) { (Some(path), None) } else { (None, Some(path)) }
            }
            None => (None, present("vocab.txt")?),
        };
        let json = match json {
            None => present("tokenizer.json")?,
            given => given,
        };
        // The small files first: one of them that is wrong should not cost the reading of a hundred thousand tokens.
        let mut files = KeptFiles::default();
        let config = present("tokenizer_config.json")?;
        let jinja = present("chat_template.jinja")?;
        let chat = chat(&mut files, config.as_deref(), jinja.as_deref())?;
        for name in ["special_tokens_map.json", "added_tokens.json"] {
            if let Some(path) = present(name)? {
                files.read(name, &path, MAX_BYTES, || too_long(&path))?;
            }
        }
        let mut text = Text { chat, ..Text::default() };
        if let Some(path) = &json {
            let limit = tokenizer_json::MAX_TOKENIZER_BYTES;
            let bytes = files.read("tokenizer.json", path, limit, || tokenizer_json::too_long(path))?;
            let read = tokenizer_json::parse(path, bytes, vocab_size)?;
            text.vocabulary = Some(read.vocabulary);
            text.tokenizer = match read.tokenizer {
                Ok(section) => Part::Known(section, "tokenizer.json"),
                Err(problem) => Part::Unknown(problem),
            };
        }
        if let Some(path) = &txt {
            let bytes = files.read("vocab.txt", path, vocab::MAX_VOCAB_BYTES, || vocab::too_long(path))?;
            let vocabulary = vocab::parse(path, bytes, vocab_size)?;
            if let (Some(other), Some(json)) = (&text.vocabulary, &json) {
                refuse_other(path, &vocabulary, json, other)?;
            } else {
                text.tokenizer = match dolma2::section(&vocabulary) {
                    Some(section) => Part::Known(section, "vocab.txt, which is that of dolma2"),
                    None => Part::Missing("a vocab.txt does not say how text is split; add the model's tokenizer.json"),
                };
            }
            text.vocabulary = Some(vocabulary);
        }
        Ok(Text { files, ..text })
    }
}

/// Two files of tokens must be of one vocabulary.
fn refuse_other(path: &Path, vocabulary: &Vocabulary, json: &Path, other: &Vocabulary) -> Result<(), Error> {
    if vocabulary == other {
        return Ok(());
    }
    let [bytes, other_bytes] = [vocabulary, other].map(|of| of.iter().collect::<BTreeMap<u32, &[u8]>>());
    let differs = |id: &u32| bytes.get(id) != other_bytes.get(id);
    let id = bytes.keys().chain(other_bytes.keys()).copied().filter(differs).min().unwrap_or(0);
    let shown = |bytes: Option<&&[u8]>| match bytes {
        Some(bytes) => format!("\"{}\"", olmo_infer::vocabulary::quoted(bytes)),
        None => "no token".into(),
    };
    let found = format!("id {id} is {}", shown(bytes.get(&id)));
    let expected = format!("{} as in {}", shown(other_bytes.get(&id)), crate::error::shown_path(json));
    Err(Problem::new(path, found).expected(expected).advice("remove the one that is not this model's").into())
}

/// The error for a file of more than [`MAX_BYTES`].
fn too_long(path: &Path) -> Problem {
    Problem::new(path, "longer than 4 MiB").expected("a file of some KiB")
}

/// The text of a file of at most [`MAX_BYTES`], which is kept under this name.
fn read_text<'a>(files: &'a mut KeptFiles, name: &str, path: &Path) -> Result<&'a str, Error> {
    let bytes = files.read(name, path, MAX_BYTES, || too_long(path))?;
    str::from_utf8(bytes).map_err(|_| Problem::new(path, "bytes that are not UTF-8").expected("UTF-8").into())
}

/// The format of conversations: `chat_template.jinja`, or else what `tokenizer_config.json` has.
fn chat(files: &mut KeptFiles, config_path: Option<&Path>, jinja: Option<&Path>) -> Result<Part, Error> {
    let config = match config_path {
        None => Map::new(),
        Some(path) => match strict_json::parse(read_text(files, "tokenizer_config.json", path)?.as_bytes()) {
            Ok(Value::Object(object)) => object,
            Ok(_) => return Err(Problem::new(path, "JSON that is no object").expected("an object").into()),
            Err(error) => {
                return Err(Problem::no_json(path, error).into());
            }
        },
    };
    let (template, path, name) = match (jinja, template_in(&config), config_path) {
        (Some(path), ..) => (read_text(files, "chat_template.jinja", path)?.to_string(), path, "chat_template.jinja"),
        (None, Some(template), Some(path)) => (template.to_string(), path, "tokenizer_config.json"),
        _ => return Ok(Part::Absent),
    };
    match chat_template::section(&template, &names(&config)) {
        Ok(section) => Ok(Part::Known(section, name)),
        Err(NoChat::Unusable(problem)) => Ok(Part::Unknown(problem)),
        // An error, so that its thread ends, and that no clock decides about the bytes of a file.
        Err(NoChat::TooSlow) => {
            let found = format!("its chat template takes more than {} s", MAX_TIME.as_secs());
            let problem = Problem::new(path, found).expected("some milliseconds");
            Err(problem.advice("move it away, or pack again when the machine has less to do").into())
        }
    }
}

/// The template in a `tokenizer_config.json`: a text, or the one that is called "default" in a list.
fn template_in(config: &Map<String, Value>) -> Option<&str> {
    match config.get("chat_template")? {
        Value::String(template) => Some(template),
        Value::Array(list) => {
            let is_default = |entry: &&Value| entry.get("name").and_then(Value::as_str) == Some("default");
            list.iter().find(is_default)?.get("template")?.as_str()
        }
        _ => None,
    }
}

/// What templates call tokens: `bos_token` and the like.
fn names(config: &Map<String, Value>) -> Names {
    let text = |value: &Value| value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_string);
    let names = config.iter().filter(|(key, _)| key.ends_with("_token"));
    names.filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect()
}
