//! The texts around the turns of a conversation, and the rules for their contents.

#[cfg(doc)]
use crate::format::ChatStyle;

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
        std::array::from_fn(|_| texts.next().expect("the texts and rules of all fields"))
    }

    /// The rules in the order of the section.
    pub fn rules(&self) -> [Rule; N_RULES] {
        let rules = self.system.iter().chain(&self.last_user).chain(&self.user).chain(&self.assistant);
        let mut rules = rules.copied();
        std::array::from_fn(|_| rules.next().expect("the texts and rules of all fields"))
    }

    /// Texts and rules in the order of the section.
    pub fn new(texts: [String; N_TEXTS], rules: [Rule; N_RULES], one_turn: Option<String>) -> Style {
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
