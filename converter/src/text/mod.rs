//! The text sections of a model file: the bytes of every token, the tokenizer, and the chat format.

pub mod chat_child;
pub mod chat_files;
pub mod chat_probes;
pub mod chat_section;
pub mod chat_template;
pub mod dolma2;
pub mod gguf_tokenizer;
pub mod jinja;
pub mod kept_files;
pub mod part;
pub mod python_json;
pub mod python_text;
pub mod special_tokens;
pub mod split_check;
pub mod template_error;
pub mod template_source;
pub mod tokenizer_json;
pub mod tokenizer_parts;
pub mod tokenizer_section;
pub mod tokenizer_settings;
pub mod vocab;

use crate::error::{Error, Problem};
use crate::folder::gguf::metadata::Metadata;
use crate::folder::source_file;
use crate::json::strict;
use crate::model::settings::Settings;
use crate::text::chat_files::Present;
use crate::text::gguf_tokenizer::Found;
use crate::text::kept_files::KeptFiles;
pub use crate::text::part::Part;
use crate::text::part::{MAX_BYTES, too_long};
use crate::text::tokenizer_json::{Around, TokenizerJson, beyond_rows};
use crate::text::vocab::Vocabulary;
use olmo_infer::internals::format::{TOKENIZER_UNKNOWN, TokenizerHead};
use olmo_infer::internals::text::tokenizer::{NoTokenizer, Tokenizer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

/// Rejects an input, with its device and inode, that the model would replace.
pub type RefuseTarget<'a> = dyn Fn(&Path, (u64, u64)) -> Result<(), Problem> + 'a;

/// The text sections of a model file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Text {
    /// The bytes of every token.
    pub vocabulary: Option<Vocabulary>,
    /// The section `TOKENIZER`, or why there is none.
    pub tokenizer: Part,
    /// The section `CHAT`, or why there is none.
    pub chat: Part,
    /// Warnings for the user, a line each.
    pub warnings: Vec<String>,
    /// The files for the section `FILES`.
    pub files: KeptFiles,
}

impl Text {
    /// The bytes of the section `TOKENIZER`. An unsupported tokenizer is stored as the reason.
    pub fn tokenizer_section(&self) -> Option<Vec<u8>> {
        match &self.tokenizer {
            Part::Absent | Part::Missing(_) => None,
            Part::Known(bytes, _) => Some(bytes.clone()),
            // A reader refuses the section without tokens.
            Part::Unknown(_) if self.vocabulary.is_none() => None,
            Part::Unknown(why) => {
                let mut head = TokenizerHead::new_zeroed();
                head.kind = U32::new(TOKENIZER_UNKNOWN);
                Some([head.as_bytes(), why.as_bytes()].concat())
            }
        }
    }

    /// The bytes of the section `CHAT`. An unusable template is stored as the reason, for `--chat` to report.
    pub fn chat_section(&self) -> Option<Vec<u8>> {
        match &self.chat {
            Part::Absent | Part::Missing(_) => None,
            Part::Known(bytes, _) => Some(bytes.clone()),
            Part::Unknown(why) => Some(chat_section::unusable(why)),
        }
    }

    /// Reads the text files of `folder`. `vocab` replaces its vocabulary: a `vocab.txt` or a `tokenizer.json`.
    /// `program` runs a chat template. Rejects a file that `target` would replace.
    ///
    /// # Errors
    /// A file cannot be read, has invalid content, or contradicts another. An unsupported tokenizer or chat template is
    /// not an error.
    pub fn read(
        folder: &Path,
        vocab: Option<&Path>,
        program: Option<&Path>,
        settings: &Settings,
        refuse_target: &RefuseTarget<'_>,
    ) -> Result<Text, Error> {
        let (vocab_size, architecture) = (settings.config.vocab_size, settings.config.architecture);
        let present = |name: &str| -> Result<Option<PathBuf>, Error> {
            let path = folder.join(name);
            match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(Error::io(path, "cannot read its metadata", error)),
                // A dangling link exists, and is an error.
                Ok(_) => {
                    not_the_target(&path, refuse_target)?;
                    source_file::refuse_link_out_of(folder, &path)?;
                    Ok(Some(path))
                }
            }
        };
        let (json, txt) = match vocab {
            Some(path) => given(path, refuse_target)?,
            None => (None, present("vocab.txt")?),
        };
        let json = match json {
            None => present("tokenizer.json")?,
            given => given,
        };
        // The small files first: a defect in one of them should not cost reading a hundred thousand tokens.
        let mut files = KeptFiles::default();
        let config_json = object(&mut files, &present, "tokenizer_config.json", true)?;
        // The other files may be invalid if they are ignored.
        let count = !config_json.contains_key("added_tokens_decoder");
        let map = object(&mut files, &present, "special_tokens_map.json", count)?;
        let added = object(&mut files, &present, "added_tokens.json", count)?;
        let class = settings.tokenizer_class.as_deref();
        let of_folder = chat_files::Folder { path: folder, present: &present, config: &config_json, map: &map, class };
        let template = chat_files::read(&of_folder, architecture, &mut files)?;
        let mut text = Text::default();
        let settings = tokenizer_settings::settings(config_json, map, &added);
        let around = Around { vocab_size, architecture: Some(architecture), settings };
        text.tokens(json.as_deref(), txt.as_deref(), &around, &mut files)?;
        // Last, as it takes longest and needs a child process.
        let (chat, mut warnings) = template.format(folder, program)?;
        warnings.append(&mut text.warnings);
        Ok(Text { files, chat, warnings, ..text })
    }

    /// Reads the texts in the metadata of a GGUF file. The arguments are those of [`Text::read`].
    ///
    /// # Errors
    /// As those of [`Text::read`].
    pub fn of_gguf(
        metadata: &Metadata,
        vocab: Option<&Path>,
        program: Option<&Path>,
        settings: &Settings,
        refuse_target: &RefuseTarget<'_>,
    ) -> Result<Text, Error> {
        let (vocab_size, architecture) = (settings.config.vocab_size, settings.config.architecture);
        let template = chat_files::of_gguf(metadata, architecture)?;
        let (mut text, mut files) = (Text::default(), KeptFiles::default());
        match vocab {
            Some(path) => {
                let (json, txt) = given(path, refuse_target)?;
                let around = Around { vocab_size, architecture: Some(architecture), ..Around::default() };
                text.tokens(json.as_deref(), txt.as_deref(), &around, &mut files)?;
            }
            None => match gguf_tokenizer::read(metadata, vocab_size, architecture)? {
                Found::Absent => {}
                Found::Unknown(why) => text.tokenizer = Part::Unknown(why),
                Found::Tokenizer(read) => drop(text.take(read, "tokenizer.ggml")),
            },
        }
        let (chat, mut warnings) = template.format(metadata.path(), program)?;
        warnings.append(&mut text.warnings);
        Ok(Text { files, chat, warnings, ..text })
    }

    /// Takes a tokenizer from the source with this name. Returns the ids of tokens that only other files define.
    fn take(&mut self, read: TokenizerJson, name: &'static str) -> Vec<u32> {
        self.warnings.extend(read.warnings);
        self.tokenizer = match read.tokenizer {
            Ok(section) => readable(section, &read.vocabulary, name),
            Err(problem) => Part::Unknown(problem),
        };
        self.vocabulary = Some(read.vocabulary);
        read.named_elsewhere
    }

    /// Reads the vocabulary in a `tokenizer.json`, a `vocab.txt` or both, and keeps them.
    fn tokens(
        &mut self,
        json: Option<&Path>,
        txt: Option<&Path>,
        around: &Around,
        files: &mut KeptFiles,
    ) -> Result<(), Error> {
        let (text, vocab_size) = (self, around.vocab_size);
        let mut named_elsewhere = Vec::new();
        if let Some(path) = json {
            let limit = tokenizer_json::MAX_TOKENIZER_BYTES;
            let bytes = files.read("tokenizer.json", path, limit, || tokenizer_json::too_long(path))?;
            named_elsewhere = text.take(tokenizer_json::parse_with(path, bytes, around)?, "tokenizer.json");
        }
        if let Some(path) = txt {
            let bytes = files.read("vocab.txt", path, vocab::MAX_VOCAB_BYTES, || vocab::too_long(path))?;
            let vocabulary = vocab::parse(path, bytes, vocab_size)?;
            if let (Some(other), Some(json)) = (&text.vocabulary, json) {
                reject_other_vocabulary(path, &vocabulary, json, other, &named_elsewhere)?;
            } else {
                let beyond = vocabulary.iter().filter(|(id, _)| *id as usize >= vocab_size).map(|(_, token)| token);
                text.warnings.extend(beyond_rows("vocab.txt", vocab_size, beyond));
                text.tokenizer = match dolma2::section(&vocabulary) {
                    Some(section) => Part::Known(section, "vocab.txt, the vocabulary of dolma2"),
                    None => {
                        Part::Missing("a vocab.txt does not define how text is split; add the model's tokenizer.json")
                    }
                };
                text.vocabulary = Some(vocabulary);
            }
        }
        Ok(())
    }
}

/// Refuses a file that the target would replace.
///
/// # Errors
/// It would, or there is no such file.
pub(crate) fn not_the_target(path: &Path, refuse_target: &RefuseTarget<'_>) -> Result<(), Error> {
    let metadata = fs::metadata(path).map_err(|error| Error::io(path, "cannot open", error))?;
    Ok(refuse_target(path, (metadata.dev(), metadata.ino()))?)
}

/// The vocabulary that a user names, as a `tokenizer.json` or as a `vocab.txt`.
fn given(path: &Path, refuse_target: &RefuseTarget<'_>) -> Result<(Option<PathBuf>, Option<PathBuf>), Error> {
    not_the_target(path, refuse_target)?;
    let path = path.to_path_buf();
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    Ok(if is_json { (Some(path), None) } else { (None, Some(path)) })
}

/// A tokenizer that the runtime accepts, or why it does not: sections beyond its limits are not written.
fn readable(section: Vec<u8>, vocabulary: &Vocabulary, name: &'static str) -> Part {
    let tokens = vocabulary.section();
    let read = olmo_infer::internals::text::vocabulary::Vocabulary::in_section(&tokens)
        .map(|tokens| Tokenizer::in_section(&section, &tokens));
    match read {
        Some(Ok(_)) => Part::Known(section, name),
        Some(Err(NoTokenizer::Damaged(found))) => Part::Unknown(format!("it has {found}")),
        _ => Part::Unknown("it cannot be stored".into()),
    }
}

/// Rejects two different vocabularies. `named_elsewhere` are ids of `other` that neither file needs to have.
fn reject_other_vocabulary(
    path: &Path,
    vocabulary: &Vocabulary,
    json: &Path,
    other: &Vocabulary,
    named_elsewhere: &[u32],
) -> Result<(), Error> {
    if vocabulary == other {
        return Ok(());
    }
    let bytes: BTreeMap<u32, &[u8]> = vocabulary.iter().collect();
    let mut other_bytes: BTreeMap<u32, &[u8]> = other.iter().collect();
    other_bytes.retain(|id, _| bytes.contains_key(id) || !named_elsewhere.contains(id));
    if bytes == other_bytes {
        return Ok(());
    }
    let differs = |id: &u32| bytes.get(id) != other_bytes.get(id);
    let id = bytes.keys().chain(other_bytes.keys()).copied().filter(differs).min().unwrap_or(0);
    let shown = |bytes: Option<&&[u8]>| match bytes {
        Some(bytes) => format!("\"{}\"", olmo_infer::internals::error::shown::quoted(bytes)),
        None => "no token".into(),
    };
    let found = format!("id {id} is {}", shown(bytes.get(&id)));
    let expected = format!("{} as in {}", shown(other_bytes.get(&id)), crate::error::shown_path(json));
    Err(Problem::new(path, found).expected(expected).advice("remove the one of another model").into())
}

/// The object of a JSON file, which is kept; empty if there is no file, or if it is ignored.
fn object(files: &mut KeptFiles, present: &Present, name: &str, is_used: bool) -> Result<Map<String, Value>, Error> {
    let Some(path) = present(name)? else { return Ok(Map::new()) };
    let bytes = files.read(name, &path, MAX_BYTES, || too_long(&path))?;
    if !is_used {
        return Ok(Map::new());
    }
    match strict::parse(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Problem::new(&path, "JSON that is not an object").expected("an object").into()),
        Err(error) => Err(Problem::invalid_json(&path, error).into()),
    }
}
