//! Derives a chat format from a model's chat template: the texts around the turns, and rules for their contents.
//!
//! A template is a program. It is run while packing, in a child process (`chat_child`), on conversations of marks; the
//! texts between the marks are its pieces. Probes at the position of each mark reveal what it does with a content, and
//! conversations not used for the derivation verify that pieces and rules reproduce its output. So the runtime needs no
//! interpreter, and a hostile template cannot run there.

use crate::text::chat_probes::{self, Random};
use crate::text::jinja::{Names, Template};
use jiff::civil::DateTime;
use olmo_infer::internals::text::chat::{Chat, Cut, Message, Past, Role, Rule, Style, date, is_python_space};

/// Largest total size of the texts of a chat format.
const MAX_BYTES: usize = 4 << 20;
/// Most user turns of the conversations that pieces are derived from.
const MOST_TURNS: usize = 5;
/// User turns of the conversations for verification, the short ones first.
const VERIFIED_TURNS: [usize; 12] = [2, 3, 4, 5, 6, 7, 8, 9, 13, 17, 33, 65];
/// Number of short ones among them.
const N_SHORT: usize = 6;
/// Most user turns of a conversation whose length is derived from a number in the template.
const MOST_VERIFIED_TURNS: usize = 130;
/// Messages are short from this number of turns on.
const MANY_TURNS: usize = 10;
/// Random conversations for verification, of one turn and of several.
const N_VERIFIED: usize = 40;
/// The two times at which texts with dates are verified.
const TIMES: [DateTime; 2] =
    [DateTime::constant(2021, 11, 9, 8, 5, 3, 0), DateTime::constant(2032, 2, 28, 22, 40, 59, 0)];

/// Derives the chat format of a template in this process; [`crate::text::chat_child`] does it in a child process.
///
/// # Errors
/// Why it cannot be used, in one line.
///
/// # Panics
/// When the interpreter panics. It may also overflow the stack, and allocate any amount of memory.
pub fn chat(source: &str, names: &Names) -> Result<Chat, String> {
    let template = Template::new(source, names)?;
    let tried = Tried {
        literals: chat_probes::literals(source, names),
        pairs: chat_probes::pairs(source),
        numbers: chat_probes::numbers(source),
        has_dates: source.contains("strftime_now"),
    };
    let think_end = chat_probes::think_end(&tried.literals);
    let deriver = Deriver { template: &template, probes: chat_probes::contents(&think_end), think_end };
    // Some models have no system message: their templates raise an error, or drop it.
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
    deriver.find_exceptions(&mut chat, &tried)?;
    deriver.verify(chat, &tried)
}

/// A template and its probes.
struct Deriver<'t> {
    template: &'t Template,
    /// Contents that reveal what the template does with a content.
    probes: Vec<String>,
    think_end: String,
}

/// The form of a date in texts: its format between NULs.
fn as_format(format: &str) -> Option<String> {
    date(format, TIMES[0]).map(|_| format!("\0{format}\0"))
}

/// A conversation of marks: unique texts that no real message contains.
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

    /// Extends a style of one turn to several turns.
    fn turns(&self, with_system: bool, mut style: Style) -> Result<Style, String> {
        let n_system = usize::from(with_system);
        let mut known: [Option<String>; 11] = [const { None }; 11];
        let put = |known: &mut Option<String>, text: String| match known {
            Some(known) if *known != text => Err("its chat template writes a turn depending on more than its \
                 position"
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
        // The shortest conversation with each kind of past turn, and the index of the turn.
        for (past, n_turns, index) in
            [(Past::Only, 2, 0), (Past::First, 3, 0), (Past::Middle, 4, 1), (Past::Last, 3, 1)]
        {
            style.user[past as usize] = self.rule(with_system, n_turns, n_system + 2 * index)?;
            style.assistant[past as usize] = self.rule(with_system, n_turns, n_system + 2 * index + 1)?;
        }
        Ok(style)
    }

    /// The texts around the contents of a conversation, in order.
    fn pieces(&self, with_system: bool, n_turns: usize) -> Result<Vec<String>, String> {
        let marks = marks(with_system, n_turns);
        let text = self.template.render(&marks, as_format)?;
        let bad = || "its chat template does not write each turn once, in order".to_string();
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
        // NULs may only enclose dates.
        let is_date = |format: &str| date(format, TIMES[0]).is_some();
        let dates_are_whole = |piece: &String| {
            piece.matches('\0').count().is_multiple_of(2) && piece.split('\0').skip(1).step_by(2).all(is_date)
        };
        match pieces.iter().all(dates_are_whole) {
            true => Ok(pieces),
            false => Err("its chat template splits a date, or writes the character NUL".into()),
        }
    }

    /// The rule that the template applies to the content of message `index`.
    fn rule(&self, with_system: bool, n_turns: usize, index: usize) -> Result<Rule, String> {
        let mut messages = marks(with_system, n_turns);
        let text = self.template.render(&messages, as_format)?;
        let unsupported = || "its chat template does more than put text around each turn".to_string();
        let (before, after) = text.split_once(&messages[index].content).ok_or_else(unsupported)?;
        let mut rules: Vec<Rule> = Rule::all().collect();
        for probe in &self.probes {
            messages[index].content.clone_from(probe);
            let rendered = self.template.render(&messages, as_format)?;
            let written =
                rendered.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).ok_or_else(unsupported)?;
            rules.retain(|rule| rule.apply(probe, &self.think_end) == written);
        }
        rules.first().copied().ok_or_else(unsupported)
    }

    /// Finds contents that the template treats specially: blank ones, those with a string of the template, and those
    /// with a length that it may test.
    fn find_exceptions(&self, chat: &mut Chat, tried: &Tried) -> Result<(), String> {
        let unsupported = || "its chat template does more than put text around each turn".to_string();
        let think = chat_probes::think_begin(&self.think_end);
        let thinking = format!("{think}\nr\n{}\n\na", self.think_end);
        let blank = ["".to_string(), " \n".into(), format!("{think}a{} \n", self.think_end)];
        for content in blank {
            chat.takes_blank &= self.agrees(chat, |_| &content)
                && self.agrees_with_one(chat, &content, "other")
                && self.agrees_with_one(chat, &content, &thinking);
        }
        let lengths = tried.numbers.iter().flat_map(|&n| [n.saturating_sub(1), n, n + 1]);
        for content in lengths.flat_map(chat_probes::contents_of_length) {
            if !self.agrees(chat, |_| &content) {
                return Err(unsupported());
            }
        }
        // A string that the template acts on is reserved: no message may contain it. Shorter strings would occur in
        // normal messages.
        let reserve = |chat: &mut Chat, texts: &[&String]| {
            let longest = texts.iter().max_by_key(|text| text.trim().chars().count());
            let text = longest.map(|text| text.trim().to_string()).unwrap_or_default();
            if text.chars().count() < 3 {
                return Err(unsupported());
            }
            chat.reserved.push(text);
            Ok(())
        };
        for literal in &tried.literals {
            let is_blank = literal.chars().all(is_python_space);
            if !is_blank && !self.agrees_with_one(chat, literal, &thinking) {
                reserve(chat, &[literal])?;
            }
            for content in chat_probes::contents_with(literal) {
                if self.agrees(chat, |_| &content) {
                    continue;
                }
                if is_blank && content == *literal {
                    chat.takes_blank = false;
                } else {
                    reserve(chat, &[literal])?;
                    // In another case it is another text, which the search would miss.
                    if !self.agrees(chat, |_| &content) {
                        return Err(unsupported());
                    }
                }
            }
        }
        for [a, b] in &tried.pairs {
            let both = [format!("{a}x{b}"), format!("{a}\nx\n{b}"), format!("y {a} x {b} y")];
            let (first, second) = (format!("y {a}"), format!("{b} y"));
            let agree = both.iter().all(|content| self.agrees(chat, |_| content))
                && self.agrees_with_one(chat, &both[0], &thinking)
                && self.agrees(chat, |i| if i == 0 { &first } else { &second });
            if !agree {
                reserve(chat, &[a, b])?;
            }
        }
        Ok(())
    }

    /// Whether the template's output equals that of `chat`, or `chat` rejects the messages, for conversations of one to
    /// four turns in which message `i` is `content(i)`.
    fn agrees<'c>(&self, chat: &Chat, content: impl Fn(usize) -> &'c String) -> bool {
        [false, true].into_iter().filter(|&with_system| has_style(chat, with_system)).all(|with_system| {
            let most = if chat.takes_turns(with_system) { 4 } else { 1 };
            (1..=most).all(|n_turns| {
                let mut messages = marks(with_system, n_turns);
                messages.iter_mut().enumerate().for_each(|(i, message)| message.content.clone_from(content(i)));
                self.is_same(chat, &messages, TIMES[0])
            })
        })
    }

    /// [`Deriver::agrees`] for conversations of one to three turns in which one message is `content` and the others are
    /// `other`, for each message.
    fn agrees_with_one(&self, chat: &Chat, content: &str, other: &str) -> bool {
        [false, true].into_iter().filter(|&with_system| has_style(chat, with_system)).all(|with_system| {
            let most = if chat.takes_turns(with_system) { 3 } else { 1 };
            let of_turns = (1..=most).map(|n_turns| marks(with_system, n_turns));
            of_turns.flat_map(|messages| (0..messages.len()).map(move |one| (one, messages.clone()))).all(
                |(one, mut messages)| {
                    for (i, message) in messages.iter_mut().enumerate() {
                        message.content = if i == one { content.into() } else { other.into() };
                    }
                    self.is_same(chat, &messages, TIMES[0])
                },
            )
        })
    }

    /// Whether the template's output equals that of `chat`, or `chat` rejects the messages, as it will at run time.
    fn is_same(&self, chat: &Chat, messages: &[Message], time: DateTime) -> bool {
        match chat.render_at(messages, || time) {
            Ok(text) => {
                let rendered = self.template.render(messages, move |format: &str| date(format, time));
                rendered.is_ok_and(|rendered| rendered == text)
            }
            Err(_) => true,
        }
    }

    /// Compares `chat` with the template on conversations not used for the derivation. A style whose conversations of
    /// several turns differ keeps only the first turn.
    fn verify(&self, mut chat: Chat, tried: &Tried) -> Result<Chat, String> {
        for with_system in [false, true] {
            if !has_style(&chat, with_system) {
                continue;
            }
            if !self.holds(&chat, with_system, &[1], tried) {
                match with_system {
                    true => chat.with_system = None,
                    false => chat.alone = None,
                }
            } else if chat.takes_turns(with_system) {
                // Around every number of the template, which may count messages or turns.
                let near = tried.numbers.iter().flat_map(|&n| [n / 2, n / 2 + 1, n.saturating_sub(1), n, n + 1]);
                let near = near.filter(|n_turns| (2..=MOST_VERIFIED_TURNS).contains(n_turns));
                let lengths: Vec<usize> = VERIFIED_TURNS.into_iter().chain(near).collect();
                if !self.holds(&chat, with_system, &lengths, tried) {
                    let why = "its pieces do not reproduce all tested conversations";
                    let style = if with_system { &mut chat.with_system } else { &mut chat.alone };
                    if let Some(style) = style {
                        *style = first_turn(style, why);
                    }
                }
            }
        }
        match has_style(&chat, false) || has_style(&chat, true) {
            true => Ok(chat),
            false => Err("its chat template does more than put text around each turn".into()),
        }
    }

    /// Whether the format reproduces the template for conversations of these numbers of user turns.
    fn holds(&self, chat: &Chat, with_system: bool, lengths: &[usize], tried: &Tried) -> bool {
        let mut random = Random::new(u64::from(with_system) << 32 | lengths.len() as u64);
        // Each length once, then random short ones.
        let short = |random: &mut Random| lengths[random.below(lengths.len().min(N_SHORT))];
        (0..lengths.len() + N_VERIFIED).all(|i| {
            let n_turns = lengths.get(i).copied().unwrap_or_else(|| short(&mut random));
            let mut messages = marks(with_system, n_turns);
            for at in 0..messages.len() {
                // Some messages repeat the previous one.
                messages[at].content = match (at, random.below(6)) {
                    (1.., 0) => messages[at - 1].content.clone(),
                    (_, n) if n_turns >= MANY_TURNS => format!("message {n} of {at}"),
                    _ => random.content(&self.think_end, &tried.literals),
                };
            }
            match tried.has_dates {
                false => self.is_same(chat, &messages, TIMES[0]),
                true => times(i).all(|time| self.is_same(chat, &messages, time)),
            }
        })
    }
}

/// The strings and numbers of a template that are tried on it.
struct Tried {
    literals: Vec<String>,
    pairs: Vec<[String; 2]>,
    numbers: Vec<usize>,
    /// Whether it uses the date.
    has_dates: bool,
}

/// Several times: over all rounds every month, day, weekday and hour.
fn times(round: usize) -> impl Iterator<Item = DateTime> {
    let day = move |i: usize| {
        let n = 4 * round + i;
        DateTime::new(2024 + (n % 7) as i16, 1 + (n % 12) as i8, 1 + (n % 28) as i8, (n % 24) as i8, 59, 1, 0)
    };
    // The days that not every month has.
    let last = round.is_multiple_of(2).then(|| DateTime::constant(2027, 8, 29 + (round / 2 % 3) as i8, 0, 0, 0, 0));
    TIMES.into_iter().chain((0..4).filter_map(move |i| day(i).ok())).chain(last)
}

fn has_style(chat: &Chat, with_system: bool) -> bool {
    if with_system { chat.with_system.is_some() } else { chat.alone.is_some() }
}

/// The first turn of a style, with the reason why only one turn can be rendered.
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

    /// A template that writes every message as `written`, an expression in which `m` is the message.
    fn template_of(written: &str) -> String {
        format!("{{% for m in messages %}}<{{{{ m.role }}}}>{written}\n{{% endfor %}}<assistant>")
    }

    /// Whether the derived format rejects the conversation of these user messages and answers. If it accepts them, it
    /// must reproduce the template.
    #[track_caller]
    fn is_refused(template: &str, contents: &[&str]) -> bool {
        let names = vec![("bos_token".to_string(), "<|endoftext|>".to_string())];
        let Ok(chat) = chat(template, &names) else { return true };
        let mut messages = marks(false, contents.len().div_ceil(2));
        for (message, content) in messages.iter_mut().zip(contents) {
            message.content = content.to_string();
        }
        let time = DateTime::constant(2026, 11, 30, 9, 0, 0, 0);
        let Ok(text) = chat.render_at(&messages, || time) else { return true };
        let rendered = Template::new(template, &names).expect("a template").render(&messages, move |f| date(f, time));
        assert_eq!(rendered.as_ref(), Ok(&text), "{template}");
        false
    }

    #[test]
    fn reproduces_template_or_rejects() {
        let long = "word ".repeat(300);
        let lines = "line\n".repeat(40);
        let think = "<think>\nr\n</think>\n\na";
        let many: Vec<&str> = ["q", "a"].repeat(14)[..27].to_vec();
        let many_more: Vec<&str> = ["q", "a"].repeat(21)[..41].to_vec();
        let keeps = "{% if ns.q %}{{ m.content }}{% else %}{{ m.content.split('</think>')[-1] }}{% endif %}";
        let asks_last = format!(
            "{{% set ns = namespace(q=false) %}}{{% set l = messages[-1].content %}}{{% if l.startswith('<tool_response>') \
             and l.endswith('</tool_response>') %}}{{% set ns.q = true %}}{{% endif %}}{}",
            template_of(keeps)
        );
        let contents = |written: &str| template_of(written);
        let cases: Vec<(String, Vec<&str>)> = vec![
            (asks_last, vec!["q", think, "<tool_response>x</tool_response>"]),
            (
                contents(
                    "{% if '<tool_call>' in m.content and '</tool_call>' in m.content %}T{% endif %}{{ m.content }}",
                ),
                vec!["<tool_call> </tool_call>"],
            ),
            (
                contents("{% if m.content.startswith('{') and m.content.endswith('}') %}J{% endif %}{{ m.content }}"),
                vec!["{\"a\":1}"],
            ),
            (contents("{% if '**' in m.content and '##' in m.content %}M{% endif %}{{ m.content }}"), vec!["** ##"]),
            (
                contents(
                    "{% set c = m.content %}{% if '<reasoning>' in c and '</reasoning>' in c %}{% set c = \
                c.split('</reasoning>')[-1].lstrip('\\n') %}{% endif %}{{ c }}",
                ),
                vec!["q", "<reasoning>r</reasoning>\nans", "z"],
            ),
            ("{% for m in messages[-20:] %}<{{ m.role }}>{{ m.content }}{% endfor %}".into(), many.clone()),
            (contents("{% if loop.index > 14 %}[late]{% endif %}{{ m.content }}"), many.clone()),
            (contents("{% if messages|length > 16 %}<late>{% endif %}{{ m.content }}"), many),
            (
                contents("{% if messages|length > 40 %}{{ raise_exception('many') }}{% endif %}{{ m.content }}"),
                many_more,
            ),
            (contents("{{ m.content[:500] }}"), vec![&long]),
            (contents("{% if m.content|length > 500 %}[long]{% endif %}{{ m.content }}"), vec![&long]),
            (contents("{% if m.content.count('\\n') > 30 %}[lines]{% endif %}{{ m.content }}"), vec![&lines]),
            (contents("{{ m.content.replace('\\r\\n','\\n') }}"), vec!["a\r\nb"]),
            (contents("{{ m.content.replace('\\u200b','') }}"), vec!["a\u{200b}b"]),
            (contents("{{ m.content.replace('\\x0b','') }}"), vec!["a\u{b}b"]),
            (contents("{{ m.content.replace(bos_token,'') }}"), vec!["a <|endoftext|> b"]),
            (contents("{{ m.content.replace('<' ~ 'stop' ~ '>','') }}"), vec!["a <stop> b"]),
            (format!("{{% set t %}}<stop>{{% endset %}}{}", contents("{{ m.content.replace(t,'') }}")), vec!["<stop>"]),
            (contents("{% if 'tl;dr' in m.content|lower %}S{% endif %}{{ m.content }}"), vec!["TL;DR please"]),
            (contents("{% if m.content|lower == 'continue' %}S{% endif %}{{ m.content }}"), vec!["Continue"]),
            (contents("{% if 'URGENT' == m.content.upper()[:6] %}S{% endif %}{{ m.content }}"), vec!["urgent now"]),
            (contents("{% if m.content.isdigit() %}S{% endif %}{{ m.content }}"), vec!["42"]),
            (contents("{% if m.content.isupper() %}S{% endif %}{{ m.content }}"), vec!["HELLO WORLD 0"]),
            (contents("{% if loop.changed(m.content) %}[c]{% endif %}{{ m.content }}"), vec!["a", "a", "b"]),
            (contents("{% if m.content == '\\n\\n' %}[e]{% endif %}{{ m.content }}"), vec!["\n\n"]),
            (
                contents(
                    "{% if messages|length == 1 and messages[0].content.startswith('reset') %}R{% endif %}{{ m.content }}",
                ),
                vec!["reset now"],
            ),
            (contents("{% if strftime_now('%d') == '30' %}[30]{% endif %}{{ m.content }}"), vec!["a"]),
            (contents("{% if strftime_now('%B') == 'November' %}[N]{% endif %}{{ m.content }}"), vec!["a"]),
        ];
        for (template, contents) in &cases {
            // Each of these acts on the contents of its conversation, so that no fixed pieces are right.
            assert!(is_refused(template, contents), "{template}");
        }
        // Other conversations are rendered.
        assert!(!is_refused(&template_of("{{ m.content }}"), &["q", think, "<tool_response>x</tool_response>"]));
        assert!(!is_refused(&template_of("{{ m.content|trim }}{{ strftime_now('%d %b %Y') }}"), &[" q ", "a", "\nz"]));
        assert!(!is_refused(&cases[0].0, &["q", think, "z"]));
    }
}
