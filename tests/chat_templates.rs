//! Chat templates give what `apply_chat_template` of transformers gives, for the templates and conversations of
//! `scripts/make_chat_goldens.py`: the Jinja environment by itself, and the pieces that are derived of it.

use jiff::civil::DateTime;
use olmo_infer::chat::{Chat, ChatError, Message, Role, date};
use olmo_infer::config::Architecture;
use olmo_infer::encoder::Encoder;
use olmo_infer::tokenizer::Tokenizer;
use olmo_infer::vocabulary::Vocabulary;
use olmo_pack::chat_section;
use olmo_pack::chat_template::{self, NoChat};
use olmo_pack::jinja::{Names, Template};
use olmo_pack::special_tokens::{Sources, TemplateFiles};
use olmo_pack::tokenizer_json::{self, Around};
use olmo_tests::repository;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// The moment at which the templates were run.
const NOW: DateTime = DateTime::constant(2026, 3, 5, 14, 7, 9, 0);

fn now(format: &str) -> Option<String> {
    date(format, NOW)
}

fn folder() -> PathBuf {
    repository().join("tests/chat_templates")
}

/// The special tokens that the goldens were made with.
fn names() -> Names {
    let names = [("bos_token", "<|endoftext|>"), ("eos_token", "<|endoftext|>"), ("pad_token", "<|extra_id_0|>")];
    names.map(|(name, text)| (name.into(), text.into())).to_vec()
}

/// What transformers makes of a conversation.
struct Case {
    messages: Vec<Message>,
    /// Its text, or `None` for an error.
    text: Option<String>,
    ids: Vec<u32>,
}

fn lines(name: &str) -> Vec<Value> {
    let lines = fs::read_to_string(folder().join(name)).expect("goldens");
    lines.lines().skip(1).map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn source(template: &str) -> String {
    fs::read_to_string(folder().join(format!("{template}.jinja"))).expect("a template")
}

/// The cases of each template.
fn cases() -> BTreeMap<String, Vec<Case>> {
    let mut cases: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    for line in lines("expected.jsonl") {
        let message = |message: &Value| {
            let role = Role::ALL.into_iter().find(|role| message["role"] == role.name()).expect("a role");
            Message::new(role, message["content"].as_str().expect("a text"))
        };
        let case = Case {
            messages: line["messages"].as_array().expect("messages").iter().map(message).collect(),
            text: line["text"].as_str().map(String::from),
            ids: line["ids"].as_array().into_iter().flatten().map(|id| id.as_u64().expect("an id") as u32).collect(),
        };
        cases.entry(line["template"].as_str().expect("a name").into()).or_default().push(case);
    }
    cases
}

/// Templates that minijinja does not run as jinja2 does. Each is an error, and never another text.
const NOT_RUN: [&str; 12] = [
    "attribute-or-item",
    "concatenation",
    "dict-and-range",
    "escapes",
    "html-autoescape-off",
    "macro-defaults",
    "python-methods",
    "python-repr",
    "scoping",
    "string-filters",
    "tests-of-values",
    "undefined-prints-nothing",
];

#[test]
fn environment_renders_what_transformers_renders() {
    let (mut n_texts, mut n_errors) = (0, 0);
    let mut wrong = Vec::new();
    for (name, cases) in cases() {
        let template = Template::new(&source(&name), &names());
        for case in cases {
            let rendered = template.as_ref().map_err(Clone::clone).and_then(|t| t.render(&case.messages, now));
            match (&rendered, &case.text) {
                (Ok(rendered), Some(text)) if rendered == text => n_texts += 1,
                (Err(_), None) => n_errors += 1,
                (Err(_), Some(_)) if NOT_RUN.contains(&name.as_str()) => n_errors += 1,
                _ => wrong.push(format!("{name}: {:?}\n  is {rendered:?}\n  not {:?}", case.messages, case.text)),
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases, first of each template:\n{}", wrong.len(), first_of_each(&wrong));
    println!("{n_texts} texts, {n_errors} errors");
    assert!(n_texts > 3000 && n_errors > 400, "{n_texts} texts, {n_errors} errors");
}

#[test]
fn expressions_print_what_jinja2_prints_or_fail() {
    let known = fs::read_to_string(folder().join("known_differences.txt")).expect("a list");
    let known: Vec<String> = known.lines().map(|line| serde_json::from_str(line).expect("a JSON string")).collect();
    let message = [Message::new(Role::User, " Hi there\n")];
    let (mut n_same, mut differing) = (0, Vec::new());
    for line in lines("expressions.jsonl") {
        let source = line["template"].as_str().expect("a template");
        let rendered = Template::new(source, &names()).and_then(|template| template.render(&message, now));
        match (rendered, line["text"].as_str()) {
            (Ok(rendered), Some(text)) if rendered == text => n_same += 1,
            (Ok(_), Some(_)) => differing.push(source.to_string()),
            // An error on either side: such a template is told, or transformers does not run it.
            _ => {}
        }
    }
    assert_eq!(differing, known);
    assert!(n_same > 2600, "{n_same}");
}

fn first_of_each(wrong: &[String]) -> String {
    let mut seen = Vec::new();
    let first = |line: &&String| {
        let name = line.split(':').next().unwrap_or_default().to_string();
        let is_new = !seen.contains(&name);
        seen.push(name);
        is_new
    };
    wrong.iter().filter(first).cloned().collect::<Vec<_>>().join("\n")
}

#[test]
fn pieces_render_what_transformers_renders() {
    let (mut n_texts, mut n_refused, mut wrong) = (0, 0, Vec::new());
    let [mut conversations, mut one_turn, mut nothing] = [const { Vec::new() }; 3];
    for (name, cases) in cases() {
        let chat = match chat_template::chat(&source(&name), &names()) {
            Ok(chat) => chat,
            Err(NoChat::Unusable(_)) => {
                nothing.push(name);
                continue;
            }
            Err(NoChat::TooSlow) => panic!("{name} is too slow"),
        };
        // What is written into a file and read again is the same.
        assert_eq!(Chat::in_section(&chat_section::section(&chat)).as_ref(), Ok(&chat), "{name}");
        for case in cases {
            match (chat.render_at(&case.messages, || NOW), &case.text) {
                (Ok(text), Some(expected)) if text == *expected => n_texts += 1,
                // Conversations that end with an answer ask for none.
                (Err(ChatError::Order { .. }), _) => {}
                (Err(_), _) => n_refused += 1,
                (text, expected) => {
                    wrong.push(format!("{name}: {:?}\n  is {text:?}\n  not {expected:?}", case.messages));
                }
            }
        }
        let list = if chat.takes_turns(false) || chat.takes_turns(true) { &mut conversations } else { &mut one_turn };
        list.push(name);
    }
    assert!(wrong.is_empty(), "{} cases, first of each template:\n{}", wrong.len(), first_of_each(&wrong));
    let counts = [conversations.len(), one_turn.len(), nothing.len()];
    assert_eq!(counts, [56, 13, 30], "{conversations:?}\n{one_turn:?}\n{nothing:?}");
    // Of every family of published templates.
    for name in ["olmo2-instruct", "olmo3-instruct", "olmo3-think", "chatml", "qwen3", "llama31-date", "deepseek-r1"] {
        assert!(conversations.iter().any(|other| other == name), "{name}");
    }
    assert_eq!((n_texts, n_refused), (1440, 354));
}

/// The family of a `config.json` that this program packs.
fn architecture(files: &Value) -> Option<Architecture> {
    match files["config.json"]["model_type"].as_str()? {
        "olmo" => Some(Architecture::Olmo1),
        "olmo2" => Some(Architecture::Olmo2),
        "olmo3" => Some(Architecture::Olmo3),
        _ => None,
    }
}

#[test]
fn names_of_tokens_are_those_that_transformers_passes() {
    let mut n_same = 0;
    for line in lines("special_tokens.jsonl") {
        let files = &line["files"];
        // The pad token of tokenizer.json counts only where no file names one.
        let of_tokenizer_json = !files["tokenizer.json"].is_null();
        let (Some(architecture), Some(tokens)) = (architecture(files), line["tokens"].as_object()) else { continue };
        if of_tokenizer_json {
            continue;
        }
        let empty = serde_json::Map::new();
        let config = files["tokenizer_config.json"].as_object().unwrap_or(&empty);
        let map = files["special_tokens_map.json"].as_object();
        let class = files["config.json"]["tokenizer_class"].as_str();
        let names: BTreeMap<String, Value> =
            Sources { config, map, architecture, class }.names().into_iter().map(|(k, v)| (k, v.into())).collect();
        let expected: BTreeMap<String, Value> = tokens.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        assert_eq!(names, expected, "{files}");
        n_same += 1;
    }
    assert!(n_same > 700, "{n_same}");
}

#[test]
fn template_is_the_one_that_transformers_uses() {
    let (mut n_same, mut n_errors) = (0, 0);
    for line in lines("which_template.jsonl") {
        let files = &line["files"];
        let more = "additional_chat_templates/";
        let text = |name: &str| files[name].as_str().map(String::from);
        // A file that is not UTF-8 is refused as it is read.
        let has_bytes = files.as_object().is_some_and(|files| files.values().any(|file| file.get("hex").is_some()));
        if has_bytes {
            continue;
        }
        let empty = serde_json::Map::new();
        let config = files["tokenizer_config.json"].as_object().unwrap_or(&empty);
        let map = files["special_tokens_map.json"].as_object();
        let Some(architecture) = architecture(files) else { continue };
        let default = text(&format!("{more}default.jinja")).or_else(|| text(&format!("{more}file.jinja")));
        let has_more = |name: &String| name.starts_with(more) && name.ends_with(".jinja");
        let has_others = files.as_object().is_some_and(|files| files.keys().any(has_more));
        let single = text("chat_template.jinja");
        let found = Sources { config, map, architecture, class: None }
            .template(&TemplateFiles { single, default, has_others })
            .map(|found| found.map(|(template, _)| template));
        // A value that is not a text is an error here, and a later one there: its type is given.
        let is_template = |template: &&str| !["NoneType", "int", "float", "bool", "list", "dict"].contains(template);
        match (&found, line["template"].as_str().filter(is_template)) {
            (Ok(Some(found)), Some(expected)) => {
                let lines = |text: &str| text.replace("\r\n", "\n").replace('\r', "\n");
                assert_eq!(lines(found), lines(expected), "{files}");
            }
            (Ok(None) | Err(_), None) => n_errors += 1,
            _ => panic!("{files}: {found:?}, not {:?}", line["template"]),
        }
        n_same += 1;
    }
    assert!(n_same > 350 && n_errors > 50, "{n_same} {n_errors}");
}

#[test]
fn rendered_conversations_become_the_ids_of_transformers() {
    let path = repository().join("tests/tokenizers/small-dolma2/tokenizer.json");
    let json = tokenizer_json::read(&path, &Around::rows(1 << 20)).expect("read");
    let (tokens, section) = (json.vocabulary.section(), json.tokenizer.expect("known"));
    let vocabulary = Vocabulary::in_section(&tokens).expect("a vocabulary");
    let encoder =
        Encoder::new(&Tokenizer::in_section(&section, &vocabulary).expect("a tokenizer")).expect("an encoder");
    let mut n_texts = 0;
    for case in cases().into_values().flatten() {
        if let Some(text) = &case.text {
            assert_eq!(encoder.encode(text).expect("ids"), case.ids, "{text:?}");
            n_texts += 1;
        }
    }
    assert!(n_texts > 2500, "{n_texts}");
}
