//! The target for chat templates, which are programs.
//!
//! `olmo-pack` runs them in a process of its own, whose death is a reason and no finding; that is tried in
//! `tests/text/chat_templates.rs`. Here they are run in this process, so that the fuzzer sees where they go: templates that
//! can nest values without end, or make lists of any length, are left out, and what the interpreter itself panics on.

use crate::repository;
use jiff::civil::DateTime;
use olmo_infer::internals::text::chat::{Chat, Message, Role, date};
use olmo_pack::text::chat_section;
use olmo_pack::text::chat_template as templates;
use olmo_pack::text::jinja::{Names, Template};
use std::cell::RefCell;
use std::fs;
use std::panic;
use std::sync::Once;
use std::thread::{self, Builder};

/// Longest template that is tried.
const MAX_TEMPLATE_BYTES: usize = 2048;
/// Most digits of its numbers.
const MAX_DIGITS: usize = 3;
/// Room for values as deep as a template of that length nests them.
const STACK_BYTES: usize = 256 << 20;
/// The thread that runs templates.
const THREAD: &str = "fuzzed-template";
/// Longest reason why a template cannot be used.
const MAX_REASON_BYTES: usize = 2000;
/// The time of the conversation that is compared.
const NOW: DateTime = DateTime::constant(2026, 11, 30, 9, 5, 0, 0);

thread_local! {
    /// Where this thread panicked, and why.
    static PANICKED: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A chat template. What is derived of it survives being written and read, and gives the text of the template.
///
/// # Panics
/// When it does not, or our code panics.
pub fn chat_template(input: &[u8]) {
    let Ok(template) = str::from_utf8(input) else { return };
    if template.len() > MAX_TEMPLATE_BYTES || may_grow(template) {
        return;
    }
    hide_panics();
    let template = template.to_string();
    let thread = Builder::new().name(THREAD.into()).stack_size(STACK_BYTES);
    // Where it panicked is known on the same thread.
    let derive = move || match panic::catch_unwind(|| derived(&template)) {
        Ok(result) => result,
        Err(_) => match PANICKED.take() {
            place if is_ours(&place) => Err(format!("a panic: {place}")),
            // The interpreter's, or of what it calls.
            _ => Ok(()),
        },
    };
    let tried = thread.spawn(derive).expect("a thread").join();
    if let Err(found) = tried.unwrap_or_else(|_| Err("it panicked twice".into())) {
        panic!("{found}");
    }
}

/// Whether a panic is one of code of this repository; the text begins with the file.
fn is_ours(place: &str) -> bool {
    let file = place.split(": ").next().unwrap_or_default();
    ["converter/src", "runtime/src", "tests/support"].iter().any(|folder| file.contains(folder))
}

/// Notes where a template's thread panics, in place of printing it or ending the program, as the fuzzer's hook does.
fn hide_panics() {
    static HIDDEN: Once = Once::new();
    HIDDEN.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| match thread::current().name() {
            Some(THREAD) => {
                let file = info.location().map_or("nowhere", |location| location.file());
                PANICKED.set(format!("{file}: {info}"));
            }
            _ => print(info),
        }));
    });
}

/// Derives the chat format and holds it against the template.
fn derived(template: &str) -> Result<(), String> {
    let names: Names = vec![("bos_token".into(), "<s>".into()), ("eos_token".into(), "</s>".into())];
    let chat = match templates::chat(template, &names) {
        Ok(chat) => chat,
        Err(why) if why.is_empty() || why.len() > MAX_REASON_BYTES => return Err(format!("a reason {why:?}")),
        Err(_) => return Ok(()),
    };
    if Chat::in_section(&chat_section::section(&chat)).as_ref() != Ok(&chat) {
        return Err(format!("not read as it was written: {chat:?}"));
    }
    let message = |role: Role, content: &str| Message::new(role, content);
    let turns = [
        message(Role::System, "You answer in one sentence."),
        message(Role::User, "Which rivers flow through Vienna?"),
        message(Role::Assistant, "The Danube, and the Wien."),
        message(Role::User, "And through 3 towns of your choice?\n"),
    ];
    for messages in [&turns[..2], &turns[1..2], &turns[..], &turns[1..]] {
        let Ok(text) = chat.render_at(messages, || NOW) else { continue };
        let rendered = Template::new(template, &names)?.render(messages, |format: &str| date(format, NOW));
        if rendered.as_ref() != Ok(&text) {
            return Err(format!("{text:?} of the pieces, {rendered:?} of the template"));
        }
    }
    Ok(())
}

/// Whether a template may nest values without end or make long lists, which nothing but the memory limits, or takes as
/// many steps as it can for each conversation: it may if it names a namespace where it is not one of its attributes
/// that is meant, twice in one statement, has large numbers or a product, or more than one range.
fn may_grow(template: &str) -> bool {
    let long_number = template.as_bytes().split(|byte| !byte.is_ascii_digit()).any(|digits| digits.len() > MAX_DIGITS);
    if long_number || template.contains('*') || template.matches("range").count() > 1 {
        return true;
    }
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let names = template.match_indices("namespace").map(|(at, _)| {
        let before = template[..at].trim_end().trim_end_matches('=').trim_end();
        before.rsplit(|c| !is_name(c)).next().unwrap_or_default()
    });
    names.into_iter().any(|name| {
        let mentions = |tag: &str| {
            tag.match_indices(name)
                .filter(|(at, _)| !tag[..*at].ends_with(is_name) && !tag[at + name.len()..].starts_with(is_name))
                .map(|(at, _)| tag[at + name.len()..].to_string())
                .collect::<Vec<_>>()
        };
        name.is_empty()
            || template.split('%').any(|tag| {
                let mentions = mentions(tag);
                let is_bare = |rest: &&String| !rest.starts_with('.') && !rest.trim_start().starts_with("= namespace");
                mentions.iter().any(|rest| is_bare(&rest)) || mentions.len() > 2
            })
    })
}

/// The short templates of the tests.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let entries = fs::read_dir(repository().join("tests/chat_templates")).expect("templates");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let templates = paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "jinja"));
    let templates = templates.map(|path| fs::read(path).expect("a template"));
    templates.filter(|template| template.len() <= MAX_TEMPLATE_BYTES).collect()
}
