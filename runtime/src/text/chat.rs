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
pub use crate::text::chat_style::{Cut, N_RULES, N_TEXTS, Past, Rule, Strip, Style, is_python_space};
pub use crate::text::message::{Message, Role};
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
