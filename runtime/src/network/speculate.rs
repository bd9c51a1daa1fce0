//! How the next tokens of a text are guessed, for the model to check several of them in one pass.

/// Which guesses are made: `Options { speculate: Speculate::OFF, ..Options::new(4096) }`. Tokens and logits are those of
/// the model in any case, to the last bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speculate {
    /// Whether the last tokens are looked up in the text so far: what followed them there may follow again.
    pub lookup: bool,
    /// Whether the drafts of the file are computed with, if it has any.
    pub draft: bool,
    /// How many tokens are guessed each time, whether that pays or not. `None`: the number that pays by the times
    /// and the guesses so far, which may be 0.
    pub tokens: Option<usize>,
}

impl Speculate {
    /// Both ways, where they pay.
    pub const AUTO: Speculate = Speculate { lookup: true, draft: true, tokens: None };
    /// One token each pass.
    pub const OFF: Speculate = Speculate { lookup: false, draft: false, tokens: None };
    /// By the text so far.
    pub const LOOKUP: Speculate = Speculate { draft: false, ..Speculate::AUTO };
    /// By the drafts of the file.
    pub const DRAFT: Speculate = Speculate { lookup: false, ..Speculate::AUTO };

    const NAMED: [(&str, Speculate); 4] = [
        ("auto", Speculate::AUTO),
        ("off", Speculate::OFF),
        ("lookup", Speculate::LOOKUP),
        ("draft", Speculate::DRAFT),
    ];

    /// The one of that name: `auto`, `off`, `lookup` or `draft`.
    pub fn named(name: &str) -> Option<Speculate> {
        Speculate::NAMED.into_iter().find(|(of, _)| *of == name).map(|(_, speculate)| speculate)
    }

    /// Whether nothing is guessed.
    pub fn is_off(&self) -> bool {
        !self.lookup && !self.draft
    }
}
