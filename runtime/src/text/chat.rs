//! The chat format: the texts that a model's chat template puts around the turns of a conversation.
//!
//! The converter has run the template and derived the pieces, so nothing here interprets templates. The section is
//! copied before it is checked: text in a mapped file would stop being UTF-8 if the file were modified.

pub use crate::error::ChatError;
use crate::error::{Error, one_line};
use crate::file::model_file::ModelFile;
use crate::format::{
    CHAT_BLANK, CHAT_DATES, CHAT_PIECES, CHAT_UNUSABLE, CHAT_WITH_SYSTEM, CHAT_WITHOUT_SYSTEM, ChatHead, ChatStyle,
    section,
};
use crate::os::memory;
use jiff::civil::DateTime;
use zerocopy::FromBytes;
use zerocopy::little_endian::U32;

/// Encloses a date format in the texts of a section with [`CHAT_DATES`]. The texts contain no other NUL.
const DATE: char = '\0';
/// Longest rendered conversation. Most bytes of messages times number of reserved texts: each reserved text is searched
/// in each message.
const MAX_RENDERED_BYTES: usize = 64 << 20;
const MAX_COMPARED: usize = 1 << 30;
/// Longest date format.
const MAX_FORMAT_BYTES: usize = 100;

/// The author of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions for the model; only at the start of a conversation.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 3] = [Role::System, Role::User, Role::Assistant];

    /// Its name in `messages.json` and in chat templates.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its author.
    pub role: Role,
    /// Its text. That of the assistant begins with what the chat template puts before an answer.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: Role, content: impl Into<String>) -> Message {
        Message { role, content: content.into() }
    }
}

/// The part of a message's content that a template writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The part to drop before the end of an answer's thinking.
    pub cut: Cut,
    /// What to strip after a cut.
    pub strip_cut: Strip,
    /// What to strip in any case, afterwards.
    pub strip: Strip,
}

/// The part that a [`Rule`] drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cut {
    /// Nothing.
    #[default]
    Nothing,
    /// Everything up to and including the last end of thinking.
    ToLast,
    /// Everything up to and including the first end of thinking.
    ToFirst,
}

/// The characters that a [`Rule`] strips.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strip {
    /// Nothing.
    #[default]
    Nothing,
    /// Leading white space.
    Left,
    /// Trailing white space.
    Right,
    /// White space at both ends.
    Both,
    /// Leading newlines.
    NewlinesLeft,
    /// Trailing newlines.
    NewlinesRight,
    /// Newlines at both ends.
    NewlinesBoth,
}

impl Strip {
    /// In the order of their codes.
    pub const ALL: [Strip; 7] = [
        Strip::Nothing,
        Strip::Left,
        Strip::Right,
        Strip::Both,
        Strip::NewlinesLeft,
        Strip::NewlinesRight,
        Strip::NewlinesBoth,
    ];

    /// Strips a text.
    pub fn apply(self, text: &str) -> &str {
        match self {
            Strip::Nothing => text,
            Strip::Left => text.trim_start_matches(is_python_space),
            Strip::Right => text.trim_end_matches(is_python_space),
            Strip::Both => text.trim_matches(is_python_space),
            Strip::NewlinesLeft => text.trim_start_matches('\n'),
            Strip::NewlinesRight => text.trim_end_matches('\n'),
            Strip::NewlinesBoth => text.trim_matches('\n'),
        }
    }
}

/// White space as in Python's `str.strip`: that of Unicode and the separators U+001C to U+001F.
pub fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

impl Rule {
    /// All rules, the simplest first.
    pub fn all() -> impl Iterator<Item = Rule> {
        let cuts = [Cut::ToLast, Cut::ToFirst].into_iter();
        let cuts = cuts.flat_map(|cut| Strip::ALL.map(|strip_cut| (cut, strip_cut)));
        let cuts = std::iter::once((Cut::Nothing, Strip::Nothing)).chain(cuts);
        cuts.flat_map(|(cut, strip_cut)| Strip::ALL.map(|strip| Rule { cut, strip_cut, strip }))
    }

    /// Its code in a [`ChatStyle`].
    pub fn code(self) -> u16 {
        let cut = match self.cut {
            Cut::Nothing => 0,
            Cut::ToLast => 1,
            Cut::ToFirst => 2,
        };
        // The codes are the indices in `Strip::ALL`.
        cut << 8 | (self.strip_cut as u16) << 4 | self.strip as u16
    }

    /// The rule with this code.
    pub fn with_code(code: u16) -> Option<Rule> {
        Rule::all().find(|rule| rule.code() == code)
    }

    /// The part of `content` to write; `think_end` ends thinking.
    pub fn apply<'c>(self, content: &'c str, think_end: &str) -> &'c str {
        let found = match self.cut {
            Cut::Nothing => None,
            Cut::ToLast => content.rfind(think_end),
            Cut::ToFirst => content.find(think_end),
        };
        let rest = found.map_or(content, |at| self.strip_cut.apply(&content[at + think_end.len()..]));
        self.strip.apply(rest)
    }
}

/// The position of a past turn, which has an answer, in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// The only one.
    Only,
    /// The first of several.
    First,
    /// Neither the first nor the last.
    Middle,
    /// The last of several.
    Last,
}

impl Past {
    /// In the order of the section.
    pub const ALL: [Past; 4] = [Past::Only, Past::First, Past::Middle, Past::Last];

    /// The position of turn `index` among `n_past`.
    pub fn of(index: usize, n_past: usize) -> Past {
        match (index, n_past.saturating_sub(1).saturating_sub(index)) {
            (0, 0) => Past::Only,
            (0, _) => Past::First,
            (_, 0) => Past::Last,
            _ => Past::Middle,
        }
    }
}

/// Texts and rules of conversations with a system message, or of those without. Pairs are for conversations of one turn
/// and of several; arrays of four are for past turns in the order of [`Past::ALL`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Before the first content, of the system message or the first user turn.
    pub open: [String; 2],
    /// Between the system message and the first user turn.
    pub after_system: [String; 2],
    /// After the last user turn; it prompts the answer.
    pub ask: [String; 2],
    /// Between a past user turn and its answer.
    pub reply: [String; 4],
    /// Between a past answer and the next user turn.
    pub next: [String; 4],
    /// The rule for the system message.
    pub system: [Rule; 2],
    /// The rule for the last user turn.
    pub last_user: [Rule; 2],
    /// The rules for past user turns.
    pub user: [Rule; 4],
    /// The rules for past answers.
    pub assistant: [Rule; 4],
    /// Why only one turn can be rendered; `None` if conversations can.
    pub one_turn: Option<String>,
}

impl Style {
    /// The texts in the order of the section.
    pub fn texts(&self) -> [&str; N_TEXTS] {
        let texts = self.open.iter().chain(&self.after_system).chain(&self.ask).chain(&self.reply).chain(&self.next);
        let mut texts = texts.map(String::as_str);
        std::array::from_fn(|_| texts.next().expect("as many as the fields have"))
    }

    /// The rules in the order of the section.
    pub fn rules(&self) -> [Rule; N_RULES] {
        let rules = self.system.iter().chain(&self.last_user).chain(&self.user).chain(&self.assistant);
        let mut rules = rules.copied();
        std::array::from_fn(|_| rules.next().expect("as many as the fields have"))
    }

    fn new(texts: [String; N_TEXTS], rules: [Rule; N_RULES], one_turn: Option<String>) -> Style {
        let [o0, o1, s0, s1, a0, a1, r0, r1, r2, r3, n0, n1, n2, n3] = texts;
        let [rs0, rs1, rl0, rl1, ru0, ru1, ru2, ru3, ra0, ra1, ra2, ra3] = rules;
        Style {
            open: [o0, o1],
            after_system: [s0, s1],
            ask: [a0, a1],
            reply: [r0, r1, r2, r3],
            next: [n0, n1, n2, n3],
            system: [rs0, rs1],
            last_user: [rl0, rl1],
            user: [ru0, ru1, ru2, ru3],
            assistant: [ra0, ra1, ra2, ra3],
            one_turn,
        }
    }
}

/// Number of texts of a [`Style`].
pub const N_TEXTS: usize = 14;
/// Number of rules of a [`Style`].
pub const N_RULES: usize = 12;

/// The chat format of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chat {
    /// Without a system message, if the template supports that.
    pub alone: Option<Style>,
    /// With a system message, if the template supports one.
    pub with_system: Option<Style>,
    /// The text that ends thinking, as `</think>`; empty if no rule cuts.
    pub think_end: String,
    /// Texts that no message may contain, as the template treats them specially.
    pub reserved: Vec<String>,
    /// Whether a message may be blank after its rule.
    pub takes_blank: bool,
    /// Whether the texts contain date formats.
    pub has_dates: bool,
}

/// Why a section has no usable chat format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoChat {
    /// The converter could not use the template, for this reason.
    Unusable(String),
    /// The section violates the format.
    Damaged,
}

impl Chat {
    /// The chat format of `file`; `None` without one. Checks the digest.
    ///
    /// # Errors
    /// [`Error::UnusableChatTemplate`] with the reason when the template could not be used, [`Error::Damaged`] when the
    /// section violates the format.
    pub fn new(file: &ModelFile) -> Result<Option<Chat>, Error> {
        let Some(bytes) = file.checked_section(section::CHAT)? else { return Ok(None) };
        Chat::in_section(&bytes).map(Some).map_err(|problem| match problem {
            NoChat::Unusable(why) => Error::UnusableChatTemplate { problem: one_line(&why) },
            NoChat::Damaged => Error::Damaged {
                path: file.path().to_path_buf(),
                place: "chat format".into(),
                found: format!("{} bytes", bytes.len()),
                expected: "what format-spec.md describes".into(),
            },
        })
    }

    /// Parses a section.
    ///
    /// # Errors
    /// [`NoChat`].
    pub fn in_section(bytes: &[u8]) -> Result<Chat, NoChat> {
        match Reader::head(bytes).ok_or(NoChat::Damaged)? {
            (head, reader) if head.kind.get() == CHAT_UNUSABLE => {
                let why = reader.unusable(head).ok_or(NoChat::Damaged)?;
                Err(NoChat::Unusable(why))
            }
            (head, reader) => reader.chat(head).ok_or(NoChat::Damaged),
        }
    }

    /// Whether a system message is supported.
    pub fn takes_system(&self) -> bool {
        self.with_system.is_some()
    }

    /// Whether conversations of several turns are supported.
    pub fn takes_turns(&self, with_system: bool) -> bool {
        self.style(with_system).is_some_and(|style| style.one_turn.is_none())
    }

    fn style(&self, with_system: bool) -> Option<&Style> {
        if with_system { self.with_system.as_ref() } else { self.alone.as_ref() }
    }

    /// Renders a conversation `[system] user (assistant user)*` as the prompt for an answer, with the present date.
    ///
    /// # Errors
    /// [`ChatError`].
    pub fn render(&self, messages: &[Message]) -> Result<String, ChatError> {
        self.render_at(messages, || jiff::tz::TimeZone::system().to_datetime(jiff::Timestamp::now()))
    }

    /// [`Chat::render`] with another clock, which is called only for texts with dates.
    ///
    /// # Errors
    /// [`ChatError`].
    pub fn render_at(&self, messages: &[Message], now: impl FnOnce() -> DateTime) -> Result<String, ChatError> {
        let n_system = usize::from(messages.first().is_some_and(|message| message.role == Role::System));
        let (system, turns) = messages.split_at(n_system);
        check_order(turns, n_system)?;
        let style = match n_system {
            0 => self.alone.as_ref().ok_or(ChatError::NeedsSystem)?,
            _ => self.with_system.as_ref().ok_or(ChatError::NoSystem)?,
        };
        let n_past = turns.len() / 2;
        let several = usize::from(n_past > 0);
        if let (Some(why), 1) = (&style.one_turn, several) {
            return Err(ChatError::OneTurn(why.clone()));
        }
        let (past, last) = turns.split_at(2 * n_past);
        let mut pieces = vec![Piece::Text(&style.open[several])];
        pieces.extend(system.iter().map(|system| Piece::Content(style.system[several], system)));
        pieces.extend(system.iter().map(|_| Piece::Text(&style.after_system[several])));
        for (index, turn) in past.chunks(2).enumerate() {
            let at = Past::of(index, n_past) as usize;
            pieces.extend([Piece::Content(style.user[at], &turn[0]), Piece::Text(&style.reply[at])]);
            pieces.extend([Piece::Content(style.assistant[at], &turn[1]), Piece::Text(&style.next[at])]);
        }
        pieces.extend([Piece::Content(style.last_user[several], &last[0]), Piece::Text(&style.ask[several])]);
        let content_bytes = messages.iter().fold(0usize, |sum, message| sum.saturating_add(message.content.len()));
        // An empty message costs a search too.
        let searched_bytes = content_bytes.saturating_add(messages.len());
        if searched_bytes.saturating_mul(self.reserved.len()) > MAX_COMPARED {
            return Err(ChatError::TooLong);
        }
        let now = self.has_dates.then(now);
        let (mut text, mut index, mut around_bytes) = (String::new(), 0, 0usize);
        for piece in pieces {
            match piece {
                Piece::Text(around) => {
                    // A date can be shorter than its format.
                    around_bytes = around_bytes.saturating_add(around.len());
                    if around_bytes > MAX_RENDERED_BYTES {
                        return Err(ChatError::TooLong);
                    }
                    with_dates(around, now, &mut text)?;
                }
                Piece::Content(rule, message) => {
                    append(self.written(rule, &message.content, index)?, &mut text)?;
                    index += 1;
                }
            }
        }
        Ok(text)
    }

    /// The part of message `index` to write.
    fn written<'c>(&self, rule: Rule, content: &'c str, index: usize) -> Result<&'c str, ChatError> {
        if let Some(text) = self.reserved.iter().find(|text| content.contains(text.as_str())) {
            return Err(ChatError::Reserved { index, text: text.clone() });
        }
        let written = rule.apply(content, &self.think_end);
        match self.takes_blank || !written.chars().all(is_python_space) {
            true => Ok(written),
            false => Err(ChatError::Blank { index }),
        }
    }

    /// The part of the answer that the prompt already contains, as `<think>`, in a conversation of `n_user_turns`. The
    /// content of the assistant's message is this prefix and the generated text.
    pub fn answer_prefix(&self, with_system: bool, n_user_turns: usize) -> &str {
        let Some(style) = self.style(with_system).filter(|style| style.one_turn.is_none()) else { return "" };
        let (several, past) = if n_user_turns > 1 { (1, Past::Last) } else { (0, Past::Only) };
        style.ask[several].strip_prefix(style.reply[past as usize].as_str()).unwrap_or("")
    }
}

enum Piece<'c> {
    Text(&'c str),
    Content(Rule, &'c Message),
}

/// Checks that roles alternate; `before` messages precede `turns`.
fn check_order(turns: &[Message], before: usize) -> Result<(), ChatError> {
    for (index, message) in turns.iter().enumerate() {
        let (role, expected) = match index % 2 {
            0 => (Role::User, "a user message: the roles are [system], user, assistant, user, ..."),
            _ => (Role::Assistant, "an assistant message: the roles are [system], user, assistant, user, ..."),
        };
        if message.role != role {
            return Err(ChatError::Order { index: before + index, found: Some(message.role.name()), expected });
        }
    }
    match turns.len() % 2 {
        1 => Ok(()),
        _ => Err(ChatError::Order { index: before + turns.len(), found: None, expected: "a user message at the end" }),
    }
}

/// Appends a text with its date formats expanded.
fn with_dates(text: &str, now: Option<DateTime>, out: &mut String) -> Result<(), ChatError> {
    let Some(now) = now else { return append(text, out) };
    for (i, part) in text.split(DATE).enumerate() {
        if i % 2 == 0 {
            append(part, out)?;
        } else {
            append(&date(part, now).unwrap_or_default(), out)?;
        }
    }
    Ok(())
}

/// Appends a text, up to the largest size of a conversation.
fn append(text: &str, out: &mut String) -> Result<(), ChatError> {
    if out.len() + text.len() > MAX_RENDERED_BYTES {
        return Err(ChatError::TooLong);
    }
    memory::asking(|| out.try_reserve(text.len())).map_err(|_| ChatError::NoMemory { bytes: text.len() })?;
    *out += text;
    Ok(())
}

/// A date in a `strftime` format. Only conversions without locale and time zone are supported.
pub fn date(format: &str, now: DateTime) -> Option<String> {
    if format.len() > MAX_FORMAT_BYTES {
        return None;
    }
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        let conversion = rest[at + 1..].trim_start_matches('-');
        let known = conversion.starts_with(|c| "aAbBdDeFHIjmMpRSTyY%".contains(c));
        // At most one flag.
        if !known || rest.len() - at - 1 - conversion.len() > 1 {
            return None;
        }
        rest = &conversion[1..];
    }
    jiff::fmt::strtime::format(format, now).ok()
}

/// Reads the data after the head of a section.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn head(bytes: &'a [u8]) -> Option<(&'a ChatHead, Reader<'a>)> {
        let (head, rest) = ChatHead::ref_from_prefix(bytes).ok()?;
        (head.reserved.get() == 0).then_some((head, Reader { rest }))
    }

    /// The next text, of `bytes` bytes.
    fn text(&mut self, bytes: U32) -> Option<String> {
        let (text, rest) = self.rest.split_at_checked(bytes.get() as usize)?;
        self.rest = rest;
        String::from_utf8(text.to_vec()).ok()
    }

    fn unusable(mut self, head: &ChatHead) -> Option<String> {
        let others = [head.flags, head.n_reserved_texts, head.think_end_bytes];
        let why = self.text(head.reason_bytes)?;
        (others.iter().all(|other| other.get() == 0) && self.rest.is_empty()).then_some(why)
    }

    fn chat(mut self, head: &ChatHead) -> Option<Chat> {
        let flags = head.flags.get();
        let has = |flag: u32| flags & flag != 0;
        let known = CHAT_WITHOUT_SYSTEM | CHAT_WITH_SYSTEM | CHAT_BLANK | CHAT_DATES;
        let has_style = has(CHAT_WITHOUT_SYSTEM) || has(CHAT_WITH_SYSTEM);
        if head.kind.get() != CHAT_PIECES || head.reason_bytes.get() != 0 || flags & !known != 0 || !has_style {
            return None;
        }
        let mut heads = [None, None];
        for (style, flag) in heads.iter_mut().zip([CHAT_WITHOUT_SYSTEM, CHAT_WITH_SYSTEM]) {
            if has(flag) {
                let (read, rest) = ChatStyle::ref_from_prefix(self.rest).ok()?;
                (*style, self.rest) = (Some(read), rest);
            }
        }
        let (lengths, rest) =
            <[U32]>::ref_from_prefix_with_elems(self.rest, head.n_reserved_texts.get() as usize).ok()?;
        self.rest = rest;
        let think_end = self.text(head.think_end_bytes)?;
        let mut style = |head: Option<&ChatStyle>| match head {
            None => Some(None),
            Some(head) => self.style(head, has(CHAT_DATES), !think_end.is_empty()).map(Some),
        };
        let (alone, with_system) = (style(heads[0])?, style(heads[1])?);
        let reserved: Vec<String> = lengths.iter().map(|&bytes| self.text(bytes)).collect::<Option<_>>()?;
        let is_whole = self.rest.is_empty() && reserved.iter().all(|text| !text.is_empty());
        is_whole.then_some(Chat {
            alone,
            with_system,
            think_end,
            reserved,
            takes_blank: has(CHAT_BLANK),
            has_dates: has(CHAT_DATES),
        })
    }

    fn style(&mut self, head: &ChatStyle, has_dates: bool, may_cut: bool) -> Option<Style> {
        let mut texts = [const { String::new() }; N_TEXTS];
        for (text, &bytes) in texts.iter_mut().zip(&head.text_bytes) {
            *text = self.text(bytes)?;
            let n_marks = text.matches(DATE).count();
            let mut formats = text.split(DATE).skip(1).step_by(2);
            let is_known = formats.all(|format| date(format, DateTime::default()).is_some());
            if n_marks % 2 == 1 || n_marks > 0 && !has_dates || !is_known {
                return None;
            }
        }
        let mut rules = [Rule::default(); N_RULES];
        for (rule, code) in rules.iter_mut().zip(head.rules) {
            *rule = Rule::with_code(code.get()).filter(|rule| may_cut || rule.cut == Cut::Nothing)?;
        }
        let why = self.text(head.one_turn_bytes)?;
        Some(Style::new(texts, rules, (!why.is_empty()).then_some(why)))
    }
}
