//! Guesses of the next tokens, which the model checks in one pass: the same tokens in less time.
//!
//! A pass over a few tokens takes little longer than a pass over one, and its logits are the same bits. So each
//! sequence gets rows for its next token and for guesses of those after it. The tokens are then chosen row by row, as
//! without guesses; the rows after a guess that was wrong are dropped.
//!
//! Guesses come from the text so far, or from the drafts of the file. Drafts write their keys and values where the
//! model's own will be, and the checking pass overwrites them. Whether guesses are made, and how many, depends on what
//! passes cost here and on how often guesses were right.

mod lookup;
mod pace;
mod pause;
mod trust;

use crate::error::Error;
use crate::generate::sampler::Choice;
use crate::generate::speculation::lookup::look_up;
use crate::generate::speculation::pace::Pace;
use crate::generate::speculation::pause::Pause;
use crate::generate::speculation::trust::Trust;
use crate::network::activations::LOGITS_CHUNK;
use crate::network::batch::Batch;
use crate::network::speculate::Speculate;
use crate::os::memory;
use crate::parallel::team::Team;
use std::time::Instant;

/// Most guesses at a time: with the next token they are within one tile of rows of most kernels.
const MOST: usize = 5;
/// Most guesses from the text after all of the last ones were right.
const MOST_COPIED: usize = 15;
/// Upper ends of the ranges of margins whose guesses are counted together, the last of which has no end.
const MARGINS: [f64; 5] = [0.25, 0.5, 1.0, 2.0, 4.0];
/// How often guesses of these margins are right, before any was made.
const EXPECTED: [f64; 6] = [0.5, 0.6, 0.75, 0.85, 0.95, 0.98];
/// Chances before drafts that cost too much are measured again: one of them costs more than a pass.
const FIRST_DEAR_PAUSE: u32 = 64;
/// What a pass of the draft costs besides reading its weights, before it is measured.
const DRAFT_OVERHEAD: f64 = 0.02;

/// Counts of guesses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Speculated {
    /// Passes that checked guesses.
    pub passes: usize,
    /// Tokens that these passes yielded, for all sequences together.
    pub tokens: usize,
    /// Guesses from the text so far.
    pub looked_up: usize,
    /// Those that were right.
    pub looked_up_right: usize,
    /// Guesses of the drafts.
    pub drafted: usize,
    /// Those that were right.
    pub drafted_right: usize,
    /// Seconds that the same tokens would have taken without guesses, less those that they took; by the times of plain
    /// passes in between.
    pub seconds_gained: f64,
}

impl Speculated {
    /// The counts since an earlier time.
    pub fn since(&self, before: &Speculated) -> Speculated {
        Speculated {
            passes: self.passes - before.passes,
            tokens: self.tokens - before.tokens,
            looked_up: self.looked_up - before.looked_up,
            looked_up_right: self.looked_up_right - before.looked_up_right,
            drafted: self.drafted - before.drafted,
            drafted_right: self.drafted_right - before.drafted_right,
            seconds_gained: self.seconds_gained - before.seconds_gained,
        }
    }
}

/// The sequences that guesses are made for, by their slots.
pub trait Sequences {
    /// The tokens of the sequence in a slot, of which the last is not evaluated, and most guesses of what follows them;
    /// `None` of a slot without a sequence.
    fn known(&self, slot: usize) -> Option<(&[u32], usize)>;

    /// The guess of the token at `position` after the tokens and `guessed`, by the logits of a draft.
    fn guess(&mut self, slot: usize, logits: &[f32], position: usize, guessed: &[u32]) -> Choice;
}

/// Guesses of a caller: from a slot, the tokens of its sequence, and the largest number of guesses.
pub type Given<'g> = dyn FnMut(usize, &[u32], usize) -> Vec<u32> + 'g;

/// Makes guesses for the sequences of a batch.
pub struct Speculator {
    speculate: Speculate,
    /// Of a pass.
    most_rows: usize,
    guesses: Vec<Guesses>,
    pace: Pace,
    /// Slots whose drafts continue.
    drafting: Vec<usize>,
    /// Seconds of the drafts of this pass.
    draft_seconds: f64,
    /// After drafts that cost more than they can gain.
    too_dear: Pause,
    counts: Speculated,
}

/// Where the guesses of a sequence come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Text,
    Draft,
}

/// The guesses of one sequence.
struct Guesses {
    /// The next token and the guesses after it; empty for a slot without a sequence.
    part: Vec<u32>,
    source: Source,
    /// Whether they are one try after others were wrong.
    is_try: bool,
    /// Range of the margin, by draft.
    margins: Vec<usize>,
    /// The probability that all are right.
    all_right: f64,
    /// Of guesses from the text, of those of drafts, and of those by the ranges of their margins.
    text: Trust,
    draft: Trust,
    by_margin: [Trust; EXPECTED.len()],
    /// Whether all of the last guesses from the text were right, and many.
    copies: bool,
}

impl Guesses {
    fn new() -> Result<Guesses, Error> {
        const WHAT: &str = "the guesses";
        Ok(Guesses {
            part: memory::room_for(LOGITS_CHUNK, WHAT)?,
            source: Source::Text,
            is_try: false,
            margins: memory::room_for(LOGITS_CHUNK, WHAT)?,
            all_right: 1.0,
            text: Trust::new(0.5),
            draft: Trust::new(0.6),
            by_margin: EXPECTED.map(Trust::new),
            copies: false,
        })
    }

    /// Number of guesses.
    fn n(&self) -> usize {
        self.part.len().saturating_sub(1)
    }

    fn add_draft(&mut self, choice: Choice) {
        let margin = MARGINS.iter().position(|&end| choice.margin < end).unwrap_or(MARGINS.len());
        self.margins.push(margin);
        self.part.push(choice.token);
        self.all_right *= self.by_margin[margin].share();
    }
}

impl Speculator {
    /// For the slots of `batch`, by its options. Products by `gemm` are other sums for several rows than for one: there
    /// nothing is guessed.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(batch: &Batch) -> Result<Speculator, Error> {
        let (options, network, n) = (batch.options(), batch.network(), batch.n_slots());
        let share = network.draft().map(|draft| {
            let bytes = |bytes: u64| bytes.max(1) as f64;
            bytes(draft.bytes_per_token()) / bytes(network.weights().bytes_per_token())
        });
        let is_off = options.backend.gemm || batch.config().linear.is_some();
        let speculate = if is_off { Speculate::OFF } else { options.speculate };
        let draft = speculate.draft && share.is_some();
        let mut guesses = memory::room_for(n, "the guesses")?;
        for _ in 0..n {
            guesses.push(Guesses::new()?);
        }
        Ok(Speculator {
            speculate: Speculate { draft, ..speculate },
            most_rows: options.chunk.min(LOGITS_CHUNK),
            guesses,
            pace: Pace::new(n, share.unwrap_or(1.0) + DRAFT_OVERHEAD)?,
            drafting: memory::room_for(n, "the guesses")?,
            draft_seconds: 0.0,
            too_dear: Pause::new(FIRST_DEAR_PAUSE),
            counts: Speculated::default(),
        })
    }

    /// Whether nothing is ever guessed.
    pub fn is_off(&self) -> bool {
        self.speculate.is_off()
    }

    /// What has been guessed so far.
    pub fn counts(&self) -> Speculated {
        self.counts
    }

    /// Another sequence begins in a slot: its guesses will be right about as often as those of the one before.
    pub fn begin(&mut self, slot: usize) {
        self.guesses[slot].part.clear();
        self.guesses[slot].copies = false;
    }

    /// Decides what the next pass evaluates of each sequence, see [`Speculator::part`].
    ///
    /// # Errors
    /// Those of [`Batch::forward`]; a draft whose logits are not finite makes no guess.
    pub fn guess(&mut self, batch: &mut Batch, team: &mut Team, sequences: &mut impl Sequences) -> Result<(), Error> {
        let n = self.begin_pass(sequences);
        let is_fixed = self.speculate.tokens.is_some();
        if n == 0 || n >= self.most_rows || self.speculate.is_off() || !is_fixed && self.pace.plain(n).is_none() {
            return Ok(());
        }
        let mut rows = n;
        self.drafting.clear();
        for slot in 0..self.guesses.len() {
            let Some((tokens, room)) = sequences.known(slot) else { continue };
            let room = room.min(self.most_rows - rows);
            if room == 0 {
                continue;
            }
            if self.speculate.lookup {
                self.guess_from_text(slot, n, tokens, room);
            }
            if self.guesses[slot].n() == 0 && self.speculate.draft {
                self.drafting.push(slot);
            }
            rows += self.guesses[slot].n();
        }
        let drafted = self.draft(batch, team, sequences, n, rows);
        // The checking pass writes there.
        for slot in 0..self.guesses.len() {
            if let Some((tokens, _)) = sequences.known(slot) {
                let evaluated = batch.truncate(slot, tokens.len() - 1);
                // It has room for a window and a chunk, and guesses are fewer than a chunk.
                assert!(evaluated + 1 == tokens.len(), "a ring still has the window of the next token");
            }
        }
        drafted
    }

    /// As [`Speculator::guess`], with guesses of the caller.
    pub fn guess_given(&mut self, sequences: &mut impl Sequences, guess: &mut Given<'_>) {
        let mut rows = self.begin_pass(sequences);
        for slot in 0..self.guesses.len() {
            let Some((tokens, room)) = sequences.known(slot) else { continue };
            let room = room.min(self.most_rows.saturating_sub(rows));
            let guessed = guess(slot, tokens, room);
            assert!(guessed.len() <= room, "as many guesses as there is room for");
            self.guesses[slot].part.extend(guessed);
            rows += self.guesses[slot].n();
        }
    }

    /// Gives each sequence its next token, and no guess; the number of sequences.
    fn begin_pass(&mut self, sequences: &impl Sequences) -> usize {
        self.draft_seconds = 0.0;
        let mut n = 0;
        for (slot, guesses) in self.guesses.iter_mut().enumerate() {
            guesses.part.clear();
            guesses.margins.clear();
            (guesses.all_right, guesses.is_try) = (1.0, false);
            if let Some((tokens, _)) = sequences.known(slot) {
                guesses.part.extend(tokens.last());
                n += 1;
            }
        }
        n
    }

    /// Guesses from the text so far, the number that pays for one of `n` sequences.
    fn guess_from_text(&mut self, slot: usize, n: usize, tokens: &[u32], room: usize) {
        let row = self.pace.row() * n as f64;
        let guesses = &mut self.guesses[slot];
        guesses.source = Source::Text;
        if let Some(fixed) = self.speculate.tokens {
            look_up(tokens, fixed.min(room), &mut guesses.part);
            return;
        }
        let most = if guesses.copies { MOST_COPIED } else { MOST };
        let share = guesses.text.share();
        let pay = paying(share, row, most);
        if pay == 0 {
            if !guesses.text.pause.waits() && look_up(tokens, 1.min(room), &mut guesses.part) > 0 {
                guesses.text.pause.tried();
                guesses.is_try = true;
            }
            return;
        }
        look_up(tokens, pay.min(room), &mut guesses.part);
        // Of one sequence; in a batch the draft may not pay for the others.
        if self.speculate.draft && n == 1 {
            let (of_draft, cost) = (guesses.draft.share(), self.pace.draft() + row);
            let gain = |share: f64, cost: f64, n: usize| (1..=n).map(|i| share.powi(i as i32) - cost).sum::<f64>();
            if gain(of_draft, cost, paying(of_draft, cost, MOST)) > gain(share, row, pay) {
                guesses.part.truncate(1);
            }
        }
    }

    /// Lets the drafts of some of the `n` sequences guess token by token, while that pays; `rows` are those of the pass
    /// so far.
    fn draft(
        &mut self,
        batch: &mut Batch,
        team: &mut Team,
        sequences: &mut impl Sequences,
        n: usize,
        mut rows: usize,
    ) -> Result<(), Error> {
        let vocab_size = batch.config().vocab_size;
        loop {
            self.keep_drafting(sequences, n, rows);
            if self.drafting.is_empty() {
                return Ok(());
            }
            rows += self.drafting.len();
            let begun = Instant::now();
            let guesses = &self.guesses;
            let last = |slot: &usize| (*slot, &guesses[*slot].part[guesses[*slot].n()..]);
            batch.forward_draft(team, self.drafting.iter().map(last))?;
            let result = batch.draft_logits(team, 0..self.drafting.len());
            for (row, &slot) in self.drafting.iter().enumerate() {
                let guesses = &mut self.guesses[slot];
                guesses.source = Source::Draft;
                match &result {
                    Ok(logits) => {
                        let logits = &logits[row * vocab_size..][..vocab_size];
                        let position = sequences.known(slot).map_or(0, |(tokens, _)| tokens.len()) + guesses.n();
                        guesses.add_draft(sequences.guess(slot, logits, position, &guesses.part[1..]));
                    }
                    // The model may be right where its draft is not.
                    Err(Error::NotFinite { sequence, .. }) if *sequence == slot => guesses.draft.learn(false),
                    Err(_) => {}
                }
            }
            let seconds = begun.elapsed().as_secs_f64();
            self.draft_seconds += seconds;
            if let Some(plain) = self.pace.plain(n) {
                self.pace.drafted(plain, seconds);
            }
            match result {
                Ok(_) => {}
                Err(Error::NotFinite { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes the slots whose next draft is not wanted or does not pay from `drafting`; `rows` are those of the pass so
    /// far.
    fn keep_drafting(&mut self, sequences: &impl Sequences, n: usize, rows: usize) {
        let most = self.speculate.tokens.unwrap_or(MOST);
        let guesses = &mut self.guesses;
        self.drafting.retain(|&slot| {
            let room = sequences.known(slot).map_or(0, |(_, room)| room);
            guesses[slot].n() < if guesses[slot].is_try { 1 } else { most.min(room) }
        });
        self.drafting.truncate(self.most_rows - rows);
        if self.speculate.tokens.is_some() || self.drafting.is_empty() {
            return;
        }
        // A guess that is right saves a token of a plain pass, which yields `n`.
        let (row, draft) = (self.pace.row() * n as f64, self.pace.draft() * n as f64);
        let gain = |guesses: &Guesses| guesses.all_right * guesses.draft.share();
        let is_first = self.drafting.iter().all(|&slot| guesses[slot].n() == 0);
        let gains = self.drafting.iter().map(|&slot| gain(&guesses[slot]) - row).filter(|gain| *gain > 0.0);
        if gains.sum::<f64>() > draft {
            return self.drafting.retain(|&slot| gain(&guesses[slot]) > row);
        }
        let n_drafting = self.drafting.len() as f64;
        if !is_first {
            self.drafting.clear();
        } else if n_drafting > draft + row * n_drafting {
            // It would pay if they were right.
            self.drafting.retain(|&slot| !guesses[slot].draft.pause.waits());
            self.drafting.iter().for_each(|&slot| {
                guesses[slot].draft.pause.tried();
                guesses[slot].is_try = true;
            });
        } else if self.too_dear.waits() {
            self.drafting.clear();
        } else {
            self.too_dear.tried();
            self.drafting.iter().for_each(|&slot| guesses[slot].is_try = true);
        }
    }

    /// What the next pass evaluates, by slot.
    pub fn parts(&self) -> impl Iterator<Item = (usize, &[u32])> {
        let parts = self.guesses.iter().map(|guesses| &guesses.part[..]).enumerate();
        parts.filter(|(_, part)| !part.is_empty())
    }

    /// What the next pass evaluates of the sequence in a slot: its next token, and guesses; empty without a sequence.
    pub fn part(&self, slot: usize) -> &[u32] {
        &self.guesses[slot].part
    }

    /// Whether the next pass has guesses.
    pub fn has_guesses(&self) -> bool {
        self.guesses.iter().any(|guesses| guesses.n() > 0)
    }

    /// Takes in the seconds of the pass that evaluated the parts, and how many tokens it yielded.
    pub fn passed(&mut self, seconds: f64, tokens: usize) {
        let n = self.guesses.iter().filter(|guesses| !guesses.part.is_empty()).count();
        let rows: usize = self.guesses.iter().map(|guesses| guesses.part.len()).sum();
        if n == 0 {
            return;
        }
        self.pace.passed(n, rows - n, seconds);
        if rows > n {
            self.counts.passes += 1;
            self.counts.tokens += tokens;
        }
        if let Some(plain) = self.pace.plain(n).filter(|_| rows > n || self.draft_seconds > 0.0) {
            let gained = plain * tokens as f64 / n as f64 - seconds - self.draft_seconds;
            self.counts.seconds_gained += gained;
            if gained > 0.0 && self.draft_seconds > 0.0 {
                self.too_dear.begin_again();
            }
        }
    }

    /// Takes in how many guesses of a slot were right, and whether the next one was wrong.
    pub fn learn(&mut self, slot: usize, n_right: usize, is_next_wrong: bool) {
        let guesses = &mut self.guesses[slot];
        let (n, n_known) = (guesses.n(), n_right + usize::from(is_next_wrong));
        if n == 0 {
            return;
        }
        let trust = match guesses.source {
            Source::Text => {
                self.counts.looked_up += n;
                self.counts.looked_up_right += n_right;
                guesses.copies = n_right == n && n >= MOST;
                &mut guesses.text
            }
            Source::Draft => {
                self.counts.drafted += n;
                self.counts.drafted_right += n_right;
                for (i, &margin) in guesses.margins.iter().take(n_known).enumerate() {
                    guesses.by_margin[margin].learn(i < n_right);
                }
                &mut guesses.draft
            }
        };
        if guesses.is_try && n_right > 0 {
            trust.begin_again();
        }
        (0..n_known.min(n)).for_each(|i| trust.learn(i < n_right));
    }
}

/// How many guesses pay of which each is right with probability `share` when all before it are, and costs `cost` tokens.
fn paying(share: f64, cost: f64, most: usize) -> usize {
    (1..=most).take_while(|&i| share.powi(i as i32) > cost).count()
}
