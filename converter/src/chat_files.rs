//! What the files of a folder say about conversations.

use crate::chat_section;
use crate::chat_template::{self, MAX_TIME, NoChat};
use crate::error::{Error, Problem};
use crate::source_file;
use crate::special_tokens::{Origin, Sources, TemplateFiles};
use crate::strict_json;
use crate::text::Part;
use olmo_infer::config::Architecture;
use serde_json::{Map, Value};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Longest of these files; real ones have some KiB.
const MAX_BYTES: u64 = 4 << 20;
/// A folder with more templates.
const MORE_TEMPLATES: &str = "additional_chat_templates";

/// Finds a file of the folder by its name.
pub type Present<'a> = dyn Fn(&str) -> Result<Option<PathBuf>, Error> + 'a;

/// The chat format of a folder, and what the user should know about it.
///
/// # Errors
/// A file cannot be read or is not what its name says. A template that cannot be used is no error.
pub fn read(folder: &Path, present: &Present, architecture: Architecture) -> Result<(Part, Vec<String>), Error> {
    let config_path = present("tokenizer_config.json")?;
    let config = config_path.as_deref().map(object).transpose()?.unwrap_or_default();
    let map_path = present("special_tokens_map.json")?;
    // It may be broken where it does not count.
    let counts = !config.contains_key("added_tokens_decoder");
    let map = map_path.as_deref().filter(|_| counts).map(object).transpose()?;
    // The configuration of the model is checked elsewhere.
    let class = present("config.json")?.and_then(|path| object(&path).ok());
    let class = class.as_ref().and_then(|config| config.get("tokenizer_class")?.as_str());
    let sources = Sources { config: &config, map: map.as_ref(), architecture, class };
    let files = templates(folder, present)?;
    let unusable = |why: String| {
        let warning = format!("no chat format: {why}");
        (Part::Unknown(why), vec![warning])
    };
    let (template, origin) = match sources.template(&files) {
        Ok(Some(found)) => found,
        Ok(None) => return Ok((Part::Absent, Vec::new())),
        Err(why) => return Ok(unusable(why)),
    };
    match chat_template::chat(&template, &sources.names()) {
        Ok(chat) => {
            let mut warnings = Vec::new();
            let mut one_turn = |style: Option<&olmo_infer::chat::Style>, with: &str| {
                let why = style.and_then(|style| style.one_turn.as_deref());
                warnings.extend(why.map(|why| format!("only one turn of a conversation{with} can be asked: {why}")));
            };
            let is_same = |other: &olmo_infer::chat::Style| {
                chat.alone.as_ref().is_some_and(|style| style.one_turn == other.one_turn)
            };
            one_turn(chat.alone.as_ref(), "");
            one_turn(chat.with_system.as_ref().filter(|style| !is_same(style)), " with a system message");
            Ok((Part::Known(chat_section::section(&chat), origin.name()), warnings))
        }
        Err(NoChat::Unusable(why)) => Ok(unusable(why)),
        // An error, so that its thread ends, and that no clock decides about the bytes of a file.
        Err(NoChat::TooSlow) => {
            let path = match origin {
                Origin::File => folder.join(origin.name()),
                Origin::TokenizerConfig => config_path.unwrap_or_default(),
                Origin::SpecialTokensMap => map_path.unwrap_or_default(),
            };
            let found = format!("its chat template takes more than {} s", MAX_TIME.as_secs());
            let problem = Problem::new(path, found).expected("some milliseconds");
            Err(problem.advice("move it away, or pack again when the machine has less to do").into())
        }
    }
}

/// The templates that are files of their own.
fn templates(folder: &Path, present: &Present) -> Result<TemplateFiles, Error> {
    let single = present("chat_template.jinja")?.as_deref().map(text).transpose()?;
    let more = folder.join(MORE_TEMPLATES);
    let entries = match fs::read_dir(&more) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(TemplateFiles { single, ..TemplateFiles::default() });
        }
        Err(error) => return Err(Error::io(more, "cannot read the folder", error)),
        Ok(entries) => entries,
    };
    let mut files = TemplateFiles { single, ..TemplateFiles::default() };
    // transformers takes it for chat_template.jinja, which it replaces.
    let mut file = None;
    for entry in entries {
        let name = entry.map_err(|error| Error::io(&more, "cannot read the folder", error))?.file_name();
        match name.to_str() {
            Some(name @ ("default.jinja" | "file.jinja")) => {
                let path = present(&format!("{MORE_TEMPLATES}/{name}"))?;
                let template = path.as_deref().map(text).transpose()?;
                if name == "default.jinja" { files.default = template } else { file = template }
            }
            Some(name) => files.has_others |= name.ends_with(".jinja"),
            None => {}
        }
    }
    files.default = files.default.or(file);
    Ok(files)
}

/// The text of a file of at most [`MAX_BYTES`].
fn text(path: &Path) -> Result<String, Error> {
    let bytes = source_file::read_at_most(path, MAX_BYTES)?
        .ok_or_else(|| Problem::new(path, "longer than 4 MiB").expected("a file of some KiB"))?;
    String::from_utf8(bytes).map_err(|_| Problem::new(path, "bytes that are not UTF-8").expected("UTF-8").into())
}

/// The object of a JSON file.
fn object(path: &Path) -> Result<Map<String, Value>, Error> {
    match strict_json::parse(text(path)?.as_bytes()) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Problem::new(path, "JSON that is not an object").expected("an object").into()),
        Err(error) => Err(Problem::no_json(path, error).into()),
    }
}
