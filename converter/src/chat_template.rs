//! The chat template of a model becomes texts around the turns of conversations, and rules for their contents.
//!
//! A template is a program. It is run here, at packing time, on conversations whose contents are marks; the texts
//! between the marks are its pieces. Probes in the place of each mark show what it does with a content, and
//! conversations that nothing was derived from show whether pieces and rules give what the template gives. So the
//! runtime needs no interpreter, and a hostile template can do nothing there.

use crate::chat_probes::{self, Random};
use crate::jinja::{Names, Template};
use jiff::civil::DateTime;
use olmo_infer::chat::{Chat, Cut, Message, Past, Role, Rule, Style, date, is_python_space};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// Time that a template may take in all; that of published models takes some tens of milliseconds. There are steps that
/// take as long as a number in the template says.
pub const MAX_TIME: Duration = Duration::from_secs(5);
/// Stack of the thread that runs a template: as many steps nest no value deeper than it can drop.
const STACK_BYTES: usize = 256 << 20;
/// Longest texts of a chat format, all together.
const MAX_BYTES: usize = 4 << 20;
/// User turns of the conversations that pieces are derived from.
const MOST_TURNS: usize = 5;
/// User turns of the conversations that they are verified on.
const MOST_VERIFIED_TURNS: usize = 7;
/// Conversations that they are verified on, of one turn and of several.
const N_VERIFIED: usize = 40;
/// The two moments at which texts with dates are verified.
const MOMENTS: [DateTime; 2] =
    [DateTime::constant(2021, 11, 9, 8, 5, 3, 0), DateTime::constant(2032, 2, 28, 22, 40, 59, 0)];

/// Why a template gives no chat format.
#[derive(Debug, PartialEq)]
pub enum NoChat {
    /// It cannot be used, in words.
    Unusable(String),
    /// It takes more than [`MAX_TIME`]. Its thread cannot be ended but with the program.
    TooSlow,
}

/// The chat format of a template.
///
/// # Errors
/// [`NoChat`].
pub fn chat(template: &str, names: &Names) -> Result<Chat, NoChat> {
    within(MAX_TIME, template, names)
}

/// [`chat`], with another limit.
fn within(most: Duration, template: &str, names: &Names) -> Result<Chat, NoChat> {
    let (template, names) = (template.to_string(), names.clone());
    let (send, receive) = mpsc::channel();
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    // Nothing waits for the answer of one that took too long.
    let thread = thread.spawn(move || send.send(derived(&template, &names)).unwrap_or_default());
    thread.map_err(|error| NoChat::Unusable(format!("its chat template cannot be run: {error}")))?;
    match receive.recv_timeout(most) {
        Ok(derived) => derived.map_err(NoChat::Unusable),
        Err(RecvTimeoutError::Timeout) => Err(NoChat::TooSlow),
        Err(RecvTimeoutError::Disconnected) => Err(NoChat::Unusable("its chat template cannot be run".into())),
    }
}

/// [`chat`], on a thread of its own.
fn derived(source: &str, names: &Names) -> Result<Chat, String> {
    let template = Template::new(source, names)?;
    let literals = chat_probes::literals(source);
    let think_end = chat_probes::think_end(&literals);
    let deriver = Deriver { template: &template, probes: chat_probes::contents(&think_end), think_end };
    // Some models take no system message: their templates raise an error, or leave it out.
    let (alone, with_system) = (deriver.style(false), deriver.style(true).ok());
    let alone = match (alone, &with_system) {
        (Ok(style), _) => Some(style),
        (Err(_), Some(_)) => None,
        (Err(problem), None) => return Err(problem),
    };
    let mut chat = Chat { alone, with_system, takes_blank: true, ..Chat::default() };
    let styles = || chat.alone.iter().chain(&chat.with_system);
    chat.has_dates = styles().any(|style| style.texts().iter().any(|text| text.contains('\0')));
    let cuts = styles().any(|style| style.rules().iter().any(|rule| rule.cut != Cut::Nothing));
    if styles().flat_map(Style::texts).map(str::len).sum::<usize>() > MAX_BYTES {
        return Err("its chat template writes more than 4 MiB of text around the turns".into());
    }
    if cuts {
        chat.think_end = deriver.think_end.clone();
    }
    deriver.find_exceptions(&mut chat, &literals)?;
    deriver.verify(chat, &literals)
}

/// A template while its pieces are derived.
struct Deriver<'t> {
    template: &'t Template,
    /// Contents that show what the template does with one.
    probes: Vec<String>,
    think_end: String,
}

/// Gives each date the form that it has in texts: its format between NULs.
fn as_format(format: &str) -> Option<String> {
    date(format, MOMENTS[0]).map(|_| format!("\0{format}\0"))
}

/// The date at the first or the second moment.
fn at_first(format: &str) -> Option<String> {
    date(format, MOMENTS[0])
}

fn at_second(format: &str) -> Option<String> {
    date(format, MOMENTS[1])
}

/// A conversation of marks: texts that no message has, each in one place.
fn marks(with_system: bool, n_turns: usize) -> Vec<Message> {
    let role = |i: usize| match i {
        0 if with_system => Role::System,
        i if (i - usize::from(with_system)) % 2 == 0 => Role::User,
        _ => Role::Assistant,
    };
    let n = usize::from(with_system) + 2 * n_turns - 1;
    let mark = |i: usize| format!("\u{f8ff}{}\u{f8fe}", char::from_u32(0xe000 + i as u32).unwrap_or('\u{e000}'));
    (0..n).map(|i| Message::new(role(i), mark(i))).collect()
}

impl Deriver<'_> {
    /// Texts and rules of conversations with or without a system message.
    fn style(&self, with_system: bool) -> Result<Style, String> {
        let mut style = Style::default();
        let mut pieces = self.pieces(with_system, 1)?.into_iter();
        let mut next = || pieces.next().unwrap_or_default();
        style.open[0] = next();
        if with_system {
            style.after_system[0] = next();
        }
        style.ask[0] = next();
        let n_system = usize::from(with_system);
        if with_system {
            style.system[0] = self.rule(with_system, 1, 0)?;
        }
        style.last_user[0] = self.rule(with_system, 1, n_system)?;
        let one_turn = style.clone();
        match self.turns(with_system, style) {
            Ok(style) => Ok(style),
            Err(why) => Ok(Style { one_turn: Some(why), ..one_turn }),
        }
    }

    /// A style of one turn grows to conversations.
    fn turns(&self, with_system: bool, mut style: Style) -> Result<Style, String> {
        let n_system = usize::from(with_system);
        let mut known: [Option<String>; 11] = [const { None }; 11];
        let put = |known: &mut Option<String>, text: String| match known {
            Some(known) if *known != text => Err("its chat template writes a turn in ways that differ with more than \
                 its place"
                .to_string()),
            _ => {
                *known = Some(text);
                Ok(())
            }
        };
        for n_turns in 2..=MOST_TURNS {
            let mut pieces = self.pieces(with_system, n_turns)?.into_iter();
            let mut next = || pieces.next().unwrap_or_default();
            put(&mut known[0], next())?;
            if with_system {
                put(&mut known[1], next())?;
            }
            for index in 0..n_turns - 1 {
                let past = Past::of(index, n_turns - 1) as usize;
                put(&mut known[3 + past], next())?;
                put(&mut known[7 + past], next())?;
            }
            put(&mut known[2], next())?;
        }
        let [open, after_system, ask, r0, r1, r2, r3, n0, n1, n2, n3] = known.map(Option::unwrap_or_default);
        (style.open[1], style.after_system[1], style.ask[1]) = (open, after_system, ask);
        (style.reply, style.next) = ([r0, r1, r2, r3], [n0, n1, n2, n3]);
        if with_system {
            style.system[1] = self.rule(with_system, 2, 0)?;
        }
        style.last_user[1] = self.rule(with_system, 2, n_system + 2)?;
        // The shortest conversation that has a past turn of each kind, and its place there.
        for (past, n_turns, index) in
            [(Past::Only, 2, 0), (Past::First, 3, 0), (Past::Middle, 4, 1), (Past::Last, 3, 1)]
        {
            style.user[past as usize] = self.rule(with_system, n_turns, n_system + 2 * index)?;
            style.assistant[past as usize] = self.rule(with_system, n_turns, n_system + 2 * index + 1)?;
        }
        Ok(style)
    }

    /// The texts around the contents of a conversation, in their order.
    fn pieces(&self, with_system: bool, n_turns: usize) -> Result<Vec<String>, String> {
        let marks = marks(with_system, n_turns);
        let text = self.template.render(&marks, as_format)?;
        let bad = || "its chat template does not write each turn once, in its order".to_string();
        let mut pieces = Vec::new();
        let mut rest = text.as_str();
        for mark in &marks {
            let (before, after) = rest.split_once(&mark.content).ok_or_else(bad)?;
            pieces.push(before.to_string());
            rest = after;
        }
        pieces.push(rest.to_string());
        if pieces.iter().any(|piece| piece.contains(['\u{f8ff}', '\u{f8fe}'])) {
            return Err(bad());
        }
        // NULs enclose dates, and nothing else.
        let is_date = |format: &str| date(format, MOMENTS[0]).is_some();
        let dates_are_whole = |piece: &String| {
            piece.matches('\0').count().is_multiple_of(2) && piece.split('\0').skip(1).step_by(2).all(is_date)
        };
        match pieces.iter().all(dates_are_whole) {
            true => Ok(pieces),
            false => Err("its chat template takes a date apart, or writes the character NUL".into()),
        }
    }

    /// What the template does with the content of message `index`.
    fn rule(&self, with_system: bool, n_turns: usize, index: usize) -> Result<Rule, String> {
        let mut messages = marks(with_system, n_turns);
        let text = self.template.render(&messages, as_format)?;
        let more = || "its chat template does more with a turn than to put texts around it".to_string();
        let (before, after) = text.split_once(&messages[index].content).ok_or_else(more)?;
        let mut rules: Vec<Rule> = Rule::all().collect();
        for probe in &self.probes {
            messages[index].content.clone_from(probe);
            let rendered = self.template.render(&messages, as_format)?;
            let written = rendered.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).ok_or_else(more)?;
            rules.retain(|rule| rule.apply(probe, &self.think_end) == written);
        }
        rules.first().copied().ok_or_else(more)
    }

    /// Finds contents that the template treats in a way of its own: blank ones, and those with a text that the template
    /// itself contains.
    fn find_exceptions(&self, chat: &mut Chat, literals: &[String]) -> Result<(), String> {
        let blank = ["".to_string(), " \n".into(), format!("<think>a{} \n", self.think_end)];
        for content in blank {
            chat.takes_blank &= self.agrees(chat, &content);
        }
        for literal in literals.iter().filter(|literal| !literal.chars().all(is_python_space)) {
            let contents = [
                literal.clone(),
                format!("a {literal}"),
                format!("{literal} b"),
                format!("a\n{literal}\nb {literal}c"),
            ];
            if contents.iter().all(|content| self.agrees(chat, content)) {
                continue;
            }
            // A shorter text would be in messages that are meant to be sent.
            if literal.chars().count() < 3 {
                return Err("its chat template does more with a turn than to put texts around it".into());
            }
            chat.reserved.push(literal.clone());
        }
        Ok(())
    }

    /// Whether the template gives what `chat` gives, or would refuse, for conversations in which every message is
    /// `content`.
    fn agrees(&self, chat: &Chat, content: &str) -> bool {
        [false, true].into_iter().filter(|&with_system| has_style(chat, with_system)).all(|with_system| {
            let n_turns = if chat.takes_turns(with_system) { 3 } else { 1 };
            let mut messages = marks(with_system, n_turns);
            messages.iter_mut().for_each(|message| message.content = content.to_string());
            match chat.render_at(&messages, || MOMENTS[0]) {
                Ok(text) => self.template.render(&messages, at_first).is_ok_and(|rendered| rendered == text),
                Err(_) => true,
            }
        })
    }

    /// Compares what `chat` gives with what the template gives, on conversations that nothing was derived from. A style
    /// whose conversations of several turns differ keeps its first turn.
    fn verify(&self, mut chat: Chat, literals: &[String]) -> Result<Chat, String> {
        for with_system in [false, true] {
            if !has_style(&chat, with_system) {
                continue;
            }
            if !self.holds(&chat, with_system, 1..=1, literals) {
                match with_system {
                    true => chat.with_system = None,
                    false => chat.alone = None,
                }
            } else if chat.takes_turns(with_system)
                && !self.holds(&chat, with_system, 2..=MOST_VERIFIED_TURNS, literals)
            {
                let why = "conversations that it was tried on were not those that its pieces give";
                let style = if with_system { &mut chat.with_system } else { &mut chat.alone };
                if let Some(style) = style {
                    *style = first_turn(style, why);
                }
            }
        }
        match has_style(&chat, false) || has_style(&chat, true) {
            true => Ok(chat),
            false => Err("its chat template does more with a turn than to put texts around it".into()),
        }
    }

    /// Whether conversations of so many user turns are those of the template.
    fn holds(
        &self,
        chat: &Chat,
        with_system: bool,
        n_turns: std::ops::RangeInclusive<usize>,
        literals: &[String],
    ) -> bool {
        let mut random = Random::new(u64::from(with_system) << 32 | *n_turns.end() as u64);
        (0..N_VERIFIED).all(|_| {
            let n_turns = n_turns.start() + random.below(n_turns.end() - n_turns.start() + 1);
            let mut messages = marks(with_system, n_turns);
            for message in &mut messages {
                message.content = random.content(&self.think_end, literals);
            }
            let same = |date: fn(&str) -> Option<String>, moment: DateTime| match chat.render_at(&messages, || moment) {
                Ok(text) => self.template.render(&messages, date).is_ok_and(|rendered| rendered == text),
                // What is refused is refused at run time, too.
                Err(_) => true,
            };
            same(at_first, MOMENTS[0]) && same(at_second, MOMENTS[1])
        })
    }
}

fn has_style(chat: &Chat, with_system: bool) -> bool {
    if with_system { chat.with_system.is_some() } else { chat.alone.is_some() }
}

/// What is left of a style of which only one turn can be rendered, for this reason.
fn first_turn(style: &Style, why: &str) -> Style {
    let first = |texts: &[String; 2]| [texts[0].clone(), String::new()];
    Style {
        open: first(&style.open),
        after_system: first(&style.after_system),
        ask: first(&style.ask),
        system: [style.system[0], Rule::default()],
        last_user: [style.last_user[0], Rule::default()],
        one_turn: Some(why.into()),
        ..Style::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_templates_that_take_too_long() {
        let template = "{% for i in range(30000) %}{% endfor %}{{ messages[-1].content }}";
        assert_eq!(within(Duration::from_millis(1), template, &Names::new()), Err(NoChat::TooSlow));
        assert!(within(Duration::from_secs(600), "{{ messages[-1].content }}", &Names::new()).is_ok());
    }
}
