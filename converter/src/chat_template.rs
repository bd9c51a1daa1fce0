//! The chat template of a model becomes the texts around the turns of a conversation.
//!
//! A template is a program in Jinja. It is run here, at packing time, on turns that are marks; what stands around the
//! marks goes into the file. So the runtime needs no interpreter, and a hostile template can do nothing there.

use minijinja::{Environment, Error, ErrorKind, Value, context};
use olmo_infer::format::ChatHead;
use serde_json::json;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

/// Steps that a template may take; those of the published models take some hundreds.
const FUEL: u64 = 50_000;
/// Time that a template may take; those of the published models take less than a millisecond. There are steps that take
/// as long as a number in the template says.
pub const MAX_TIME: Duration = Duration::from_secs(5);
/// Stack of the thread that runs a template: so many steps nest no value deeper than it can drop.
const STACK_BYTES: usize = 256 << 20;
/// Longest text that a template may write.
const MAX_TEXT_BYTES: usize = 1 << 20;
/// Marks that stand for a turn, of characters that no text has.
const MARKS: [&str; 2] = ["\u{f8ff}\u{e000}", "\u{f8ff}\u{e001}"];
/// A turn to look at what the template does with it.
const TURN: &str = " Hi,\n \"there\" ";

/// Texts by which a template may call tokens: `bos_token` and the like, with what they stand for.
pub type Names = Vec<(String, String)>;

/// Why a template gives no section.
#[derive(Debug, PartialEq)]
pub enum NoChat {
    /// It is none that can be used, in words.
    Unusable(String),
    /// It takes more than [`MAX_TIME`]. Its thread cannot be ended but with the program.
    TooSlow,
}

/// The section `CHAT` of a template.
///
/// # Errors
/// [`NoChat`].
pub fn section(template: &str, names: &Names) -> Result<Vec<u8>, NoChat> {
    let (template, names) = (template.to_string(), names.clone());
    let (send, receive) = mpsc::channel();
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    // Nobody waits for the answer of one that took too long.
    let thread = thread.spawn(move || send.send(rendered(&template, &names)).unwrap_or_default());
    thread.map_err(|error| NoChat::Unusable(format!("its chat template cannot be run: {error}")))?;
    match receive.recv_timeout(MAX_TIME) {
        Ok(rendered) => rendered.map_err(NoChat::Unusable),
        Err(RecvTimeoutError::Timeout) => Err(NoChat::TooSlow),
        Err(RecvTimeoutError::Disconnected) => Err(NoChat::Unusable("its chat template cannot be run".into())),
    }
}

/// [`section`], on a thread of its own.
fn rendered(template: &str, names: &Names) -> Result<Vec<u8>, String> {
    let mut environment = Environment::new();
    // As `apply_chat_template` of transformers sets it.
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    let refuse = |message: String| -> Result<Value, Error> { Err(Error::new(ErrorKind::InvalidOperation, message)) };
    environment.add_function("raise_exception", refuse);
    let in_words = |error: Error| format!("its chat template cannot be used: {error}").replace('\n', " ");
    environment.add_template("chat", template).map_err(in_words)?;
    let template = environment.get_template("chat").map_err(in_words)?;
    let names: Value = names.iter().map(|(name, text)| (name.clone(), text.clone())).collect();
    let render = |turns: &[(&str, &str)]| {
        let messages: Vec<_> = turns.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
        let context =
            context! { messages => Value::from_serialize(&messages), add_generation_prompt => true, ..names.clone() };
        let mut text = Limited(Vec::new());
        template.render_captured_to(context, &mut text).map_err(in_words)?;
        String::from_utf8(text.0).map_err(|_| "its chat template writes no text".to_string())
    };

    let alone = |user: &str| render(&[("user", user)]);
    let with_system = |system: &str, user: &str| render(&[("system", system), ("user", user)]);
    let [before, after] = around(&alone(MARKS[1])?, [MARKS[1]])?;
    // Some models take no system's text: their templates say so, or leave it out.
    let system: [String; 3] = with_system(MARKS[0], MARKS[1]).and_then(|text| around(&text, MARKS)).unwrap_or_default();
    let assembled = [[&before, TURN, &after].concat(), [&system[0], TURN, &system[1], TURN, &system[2]].concat()];
    let takes_system = system.iter().any(|text| !text.is_empty());
    if alone(TURN)? != assembled[0] || takes_system && with_system(TURN, TURN)? != assembled[1] {
        return Err("its chat template does more with a turn than to put texts around it".into());
    }
    let texts = [before, after].into_iter().chain(system).collect::<Vec<String>>();
    let length = |i: usize| U32::new(texts[i].len() as u32);
    let head = ChatHead {
        before_user: length(0),
        after_user: length(1),
        before_system: length(2),
        after_system: length(3),
        after_user_of_system: length(4),
        reserved: U32::new(0),
    };
    Ok([head.as_bytes(), texts.concat().as_bytes()].concat())
}

/// What a template writes, up to a limit.
struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_TEXT_BYTES {
            return Err(io::Error::other("more than 1 MiB of text"));
        }
        self.0.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The texts around marks that stand once each, in their order.
fn around<const MARKED: usize, const TEXTS: usize>(
    text: &str,
    marks: [&str; MARKED],
) -> Result<[String; TEXTS], String> {
    let bad = || "its chat template does not write each turn once".to_string();
    let mut texts = Vec::new();
    let mut rest = text;
    for mark in marks {
        let (before, after) = rest.split_once(mark).ok_or_else(bad)?;
        texts.push(before.to_string());
        rest = after;
    }
    texts.push(rest.to_string());
    let clean = texts.iter().all(|text| MARKS.iter().all(|mark| !text.contains(mark)));
    texts.try_into().ok().filter(|_| clean).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use olmo_infer::chat::Chat;

    fn names() -> Names {
        vec![("bos_token".into(), "<|endoftext|>".into()), ("eos_token".into(), "<|endoftext|>".into())]
    }

    /// What `template` makes of a user's turn, and of a system's text before it.
    #[track_caller]
    fn prompts(template: &str) -> (String, Option<String>) {
        let section = section(template, &names()).expect("a template that can be used");
        let chat = Chat::in_section(&section).expect("a section");
        (chat.prompt(None, "Hello").expect("takes a user's turn"), chat.prompt(Some("Be brief."), "Hello"))
    }

    #[test]
    fn the_turns_of_olmo_2_instruct() {
        let template = "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ '<|system|>\\n' \
             + message['content'] + '\\n' }}{% elif message['role'] == 'user' %}{{ '<|user|>\\n' + message['content'] + \
             '\\n' }}{% endif %}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}";
        let (alone, with_system) = prompts(template);
        assert_eq!(alone, "<|endoftext|><|user|>\nHello\n<|assistant|>\n");
        assert_eq!(
            with_system.as_deref(),
            Some("<|endoftext|><|system|>\nBe brief.\n<|user|>\nHello\n<|assistant|>\n")
        );
    }

    #[test]
    fn a_default_system_turn_as_of_olmo_3() {
        let template = "{%- set has_system = messages|selectattr('role', 'equalto', 'system')|list|length > 0 -%}\n\
             {%- if not has_system -%}\n{{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' -}}\n{%- endif -%}\n\
             {%- for message in messages -%}\n{{- '<|im_start|>' + message['role'] + '\\n' + message.get('content', '') + \
             '<|im_end|>\\n' -}}\n{%- endfor -%}\n{%- if add_generation_prompt -%}\n{{- '<|im_start|>assistant\\n' -}}\n\
             {%- endif -%}\n";
        let (alone, with_system) = prompts(template);
        let end = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(alone, format!("<|im_start|>system\nYou are helpful.<|im_end|>\n{end}"));
        assert_eq!(with_system, Some(format!("<|im_start|>system\nBe brief.<|im_end|>\n{end}")));
    }

    #[test]
    fn a_template_that_takes_no_system_text() {
        let template = "{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('no') }}\
             {% endif %}[{{ message.content }}]{% endfor %}";
        assert_eq!(prompts(template), ("[Hello]".into(), None));
    }

    #[test]
    fn templates_that_cannot_be_used_say_why() {
        for (template, says) in [
            ("{% for", "cannot be used"),
            ("{{ raise_exception('never') }}", "never"),
            ("{{ messages[0].content }}{{ messages[0].content }}", "each turn once"),
            ("nothing", "each turn once"),
            ("{{ messages[-1].content | trim }}", "does more with a turn"),
            ("{% for i in range(100000000) %}x{% endfor %}", "cannot be used"),
            ("{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}{{ messages[0].content }}", "cannot be used"),
            ("{{ strftime_now('%Y') }}{{ messages[0].content }}", "cannot be used"),
            ("{% include 'other' %}", "cannot be used"),
        ] {
            let Err(NoChat::Unusable(problem)) = section(template, &names()) else { panic!("{template}") };
            assert!(problem.contains(says) && !problem.contains('\n'), "{template}: {problem}");
        }
    }
}
