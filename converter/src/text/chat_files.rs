//! The files of a folder that define its chat format.

use crate::error::{Error, Problem, shortened};
use crate::folder::gguf::metadata::Metadata;
use crate::folder::source_file;
use crate::text::chat_child::{self, NoFormat};
use crate::text::chat_section;
use crate::text::gguf_tokenizer::named_token;
use crate::text::jinja::Names;
use crate::text::kept_files::KeptFiles;
use crate::text::part::{MAX_BYTES, Part, too_long};
use crate::text::special_tokens::{Origin, Sources, TemplateFiles};
use olmo_infer::internals::error::one_line;
use olmo_infer::internals::format::config::Architecture;
use olmo_infer::internals::os::directory::names;
use serde_json::{Map, Value};
use std::io;
use std::path::{Path, PathBuf};

/// Most characters of rejected texts in a message.
const SHOWN_CHARS: usize = 200;
/// The file of a single template.
const SINGLE: &str = "chat_template.jinja";
/// The folder of further templates.
const MORE_TEMPLATES: &str = "additional_chat_templates";

/// Finds a file of the folder by name.
pub type Present<'a> = dyn Fn(&str) -> Result<Option<PathBuf>, Error> + 'a;

/// A folder and its parsed files.
pub struct Folder<'a> {
    /// Its path.
    pub path: &'a Path,
    /// Finds its files.
    pub present: &'a Present<'a>,
    /// `tokenizer_config.json`.
    pub config: &'a Map<String, Value>,
    /// `special_tokens_map.json`, or empty if it is ignored.
    pub map: &'a Map<String, Value>,
    /// `tokenizer_class` of `config.json`.
    pub class: Option<&'a str>,
}

/// The template of a folder, not run yet.
pub struct Template {
    /// The template in effect, or why there is none.
    found: Result<Option<(String, Origin)>, String>,
    names: Names,
    /// Whether all templates of the folder are kept in the model file.
    is_kept: bool,
}

/// Finds the template of a folder, and keeps `chat_template.jinja`.
///
/// # Errors
/// A file cannot be read or has invalid content. An unusable template is not an error.
pub fn read(folder: &Folder, architecture: Architecture, kept: &mut KeptFiles) -> Result<Template, Error> {
    let sources = Sources { config: folder.config, map: Some(folder.map), architecture, class: folder.class };
    let files = templates(folder, kept)?;
    let is_kept = files.default.is_none() && !files.has_others;
    Ok(Template { found: sources.template(&files), names: sources.names(), is_kept })
}

/// The template in the metadata of a GGUF file, with the texts of its special tokens.
///
/// # Errors
/// A value has the wrong type.
pub(crate) fn of_gguf(metadata: &Metadata, architecture: Architecture) -> Result<Template, Problem> {
    let mut config = Map::new();
    for (name, key) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("sep", "seperator"), ("pad", "padding")] {
        let text = named_token(metadata, &format!("tokenizer.ggml.{key}_token_id"))?;
        config.extend(text.map(|text| (format!("{name}_token"), text.into())));
    }
    let names = Sources { config: &config, map: None, architecture, class: None }.names();
    let found = metadata.text("tokenizer.chat_template")?.map(|template| (template.to_string(), Origin::Gguf));
    Ok(Template { found: Ok(found), names, is_kept: true })
}

impl Template {
    /// Runs the template of the folder at `path` with `program`; returns its chat format and warnings for the user.
    ///
    /// # Errors
    /// The template was not run. An unusable one is not an error.
    pub fn format(self, path: &Path, program: Option<&Path>) -> Result<(Part, Vec<String>), Error> {
        let is_kept = self.is_kept;
        let (part, mut warnings) = self.run(path, program)?;
        if !is_kept {
            warnings.push(format!("{MORE_TEMPLATES} is not kept: unpack does not restore it"));
        }
        Ok((part, warnings))
    }

    fn run(self, path: &Path, program: Option<&Path>) -> Result<(Part, Vec<String>), Error> {
        let unusable = |why: String| {
            let warning = format!("no chat format: {why}");
            (Part::Unknown(why), vec![warning])
        };
        let (template, origin) = match self.found {
            Ok(Some(found)) => found,
            Ok(None) => return Ok((Part::Absent, Vec::new())),
            Err(why) => return Ok(unusable(why)),
        };
        match chat_child::chat(program, &template, &self.names) {
            Ok(chat) => {
                let mut warnings = Vec::new();
                let mut one_turn_warnings = Vec::new();
                let mut one_turn = |style: Option<&olmo_infer::internals::text::chat::Style>, with: &str| {
                    let why = style.and_then(|style| style.one_turn.as_deref());
                    one_turn_warnings
                        .extend(why.map(|why| format!("only single-turn conversations{with} are supported: {why}")));
                };
                let is_same = |other: &olmo_infer::internals::text::chat::Style| {
                    chat.alone.as_ref().is_some_and(|style| style.one_turn == other.one_turn)
                };
                if !chat.reserved.is_empty() {
                    let shown: Vec<String> =
                        chat.reserved.iter().map(|text| format!("\"{}\"", one_line(text))).collect();
                    let shown = shortened(&shown.join(", "), SHOWN_CHARS);
                    warnings.push(format!("messages that contain {shown} are refused: the chat template acts on them"));
                }
                one_turn(chat.alone.as_ref(), "");
                one_turn(chat.with_system.as_ref().filter(|style| !is_same(style)), " with a system message");
                warnings.extend(one_turn_warnings);
                Ok((Part::Known(chat_section::section(&chat), origin.name()), warnings))
            }
            Err(NoFormat::Unusable(why)) => Ok(unusable(why)),
            Err(NoFormat::NotRun(why)) => {
                let problem = Problem::new(path, format!("its chat template was not run: {why}"));
                Err(problem.advice("pack it again, or remove the template").into())
            }
        }
    }
}

/// The templates in separate files.
fn templates(folder: &Folder, kept: &mut KeptFiles) -> Result<TemplateFiles, Error> {
    let not_text = |path: &Path| Problem::new(path, "bytes that are not UTF-8").expected("UTF-8");
    let single = match (folder.present)(SINGLE)? {
        None => None,
        Some(path) => {
            let bytes = kept.read(SINGLE, &path, MAX_BYTES, || too_long(&path))?;
            Some(str::from_utf8(bytes).map_err(|_| not_text(&path))?.to_string())
        }
    };
    let more = folder.path.join(MORE_TEMPLATES);
    let entries = match names(&more) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(TemplateFiles { single, ..TemplateFiles::default() });
        }
        Err(error) => return Err(Error::io(more, "cannot read the folder", error)),
        Ok(entries) => entries,
    };
    let mut files = TemplateFiles { single, ..TemplateFiles::default() };
    // transformers treats it as chat_template.jinja, which it overrides.
    let mut file = None;
    for name in entries {
        let name = name.map_err(|error| Error::io(&more, "cannot read the folder", error))?;
        match name.to_str() {
            Some(name @ ("default.jinja" | "file.jinja")) => {
                let Some(path) = (folder.present)(&format!("{MORE_TEMPLATES}/{name}"))? else { continue };
                let bytes = source_file::read_at_most(&path, MAX_BYTES)?.ok_or_else(|| too_long(&path))?;
                let template = Some(String::from_utf8(bytes).map_err(|_| not_text(&path))?);
                if name == "default.jinja" { files.default = template } else { file = template }
            }
            Some(name) => files.has_others |= name.ends_with(".jinja"),
            None => {}
        }
    }
    files.default = files.default.or(file);
    Ok(files)
}
