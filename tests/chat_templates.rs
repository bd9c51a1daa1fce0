//! Chat templates give what `apply_chat_template` of transformers gives, for the templates and conversations of
//! `scripts/make_chat_goldens.py`: the Jinja environment by itself, and the pieces that are derived of it.

use jiff::civil::DateTime;
use olmo_infer::chat::{Chat, ChatError, Message, Role, date};
use olmo_infer::encoder::Encoder;
use olmo_infer::tokenizer::Tokenizer;
use olmo_infer::vocabulary::Vocabulary;
use olmo_pack::chat_template::{self, NoChat};
use olmo_pack::jinja::{Names, Template};
use olmo_pack::tokenizer_json;
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
const NOT_RUN: [&str; 0] = [];

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
    assert!(n_texts > 2500 && n_errors > 300, "{n_texts} texts, {n_errors} errors");
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

/// How much of a template can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Nothing,
    OneTurn,
    Conversations,
}

#[test]
fn pieces_render_what_transformers_renders() {
    let (mut n_texts, mut n_refused, mut wrong) = (0, 0, Vec::new());
    let mut used: BTreeMap<Use, Vec<String>> = BTreeMap::new();
    for (name, cases) in cases() {
        let chat = match chat_template::chat(&source(&name), &names()) {
            Ok(chat) => chat,
            Err(NoChat::Unusable(why)) => {
                println!("{name}: {why}");
                used.entry(Use::Nothing).or_default().push(name);
                continue;
            }
            Err(NoChat::TooSlow) => panic!("{name} is too slow"),
        };
        let turns = chat.takes_turns(false) || chat.takes_turns(true);
        used.entry(if turns { Use::Conversations } else { Use::OneTurn }).or_default().push(name.clone());
        for style in chat.alone.iter().chain(&chat.with_system) {
            if let Some(why) = &style.one_turn {
                println!("{name}: one turn: {why}");
            }
        }
        if !chat.reserved.is_empty() || !chat.takes_blank {
            println!("{name}: reserved {:?}, blank {}", chat.reserved, chat.takes_blank);
        }
        for case in cases {
            match (chat.render_at(&case.messages, || NOW), &case.text) {
                (Ok(text), Some(expected)) if text == *expected => n_texts += 1,
                // Conversations that end with an answer ask for none.
                (Err(ChatError::Order { .. }), _) => {}
                (Err(_), _) => n_refused += 1,
                (text, expected) => wrong.push(format!("{name}: {:?}\n  is {text:?}\n  not {expected:?}", case.messages)),
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases, first of each template:\n{}", wrong.len(), first_of_each(&wrong));
    for (how, names) in &used {
        println!("{how:?} ({}): {}", names.len(), names.join(" "));
    }
    println!("{n_texts} texts, {n_refused} refused");
    assert!(n_texts > 1500, "{n_texts} texts, {n_refused} refused");
}

#[test]
fn rendered_conversations_become_the_ids_of_transformers() {
    let path = repository().join("tests/tokenizers/small-dolma2/tokenizer.json");
    let json = tokenizer_json::read(&path, 1 << 20).expect("read");
    let (tokens, section) = (json.vocabulary.section(), json.tokenizer.expect("known"));
    let vocabulary = Vocabulary::in_section(&tokens).expect("a vocabulary");
    let encoder = Encoder::new(&Tokenizer::in_section(&section, vocabulary).expect("a tokenizer")).expect("an encoder");
    let mut n_texts = 0;
    for case in cases().into_values().flatten() {
        if let Some(text) = &case.text {
            assert_eq!(encoder.encode(text), case.ids, "{text:?}");
            n_texts += 1;
        }
    }
    assert!(n_texts > 2500, "{n_texts}");
}
