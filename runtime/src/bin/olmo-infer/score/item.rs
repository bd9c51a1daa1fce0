//! An item and its line.

use crate::score::inputs::Entry;
use crate::score::score_file::{BEGINNING, DIGEST, ERROR, SCORED, SUM, TOKENS, Total, head};
use crate::score::sequence::{Sequence, Tokenizing};
use crate::score::tasks::Answer;
use olmo_infer::internals::cli::json::json_string;
use olmo_infer::internals::score::TokenScore;
use std::f64::consts::LN_2;
use std::io::{self, Write};

/// An item.
pub struct ScoredItem {
    /// The beginning of its line, by which it is found again.
    head: Vec<u8>,
    digest: Option<u64>,
    labels: String,
    /// Its place in a task.
    pub answer: Option<Answer>,
    /// Bytes of the files up to its end.
    pub n_read: u64,
    /// Its tokens, or why it has no scores.
    pub sequence: Result<Sequence, String>,
}

/// The scores of an item, by window.
#[derive(Default)]
pub struct Scores {
    windows: Vec<Option<Vec<TokenScore>>>,
    /// Why there are none.
    problem: Option<String>,
}

impl Scores {
    /// For an item that is not evaluated yet.
    pub fn of(item: &ScoredItem) -> Scores {
        let n_windows = item.sequence.as_ref().map_or(0, |sequence| sequence.windows.len());
        Scores { windows: vec![None; n_windows], problem: item.sequence.as_ref().err().cloned() }
    }

    /// Notes the scores of a window, or why there are none.
    pub fn note(&mut self, window: usize, scores: Result<Vec<TokenScore>, String>) {
        match scores {
            Ok(scores) => self.windows[window] = Some(scores),
            Err(problem) => self.problem = Some(problem),
        }
    }

    /// Whether all are known, or there are none.
    pub fn is_done(&self) -> bool {
        self.problem.is_some() || self.windows.iter().all(Option::is_some)
    }

    fn tokens(&self) -> impl Iterator<Item = &TokenScore> {
        self.windows.iter().flatten().flatten()
    }

    /// Their sum.
    ///
    /// # Errors
    /// Why there are none.
    pub fn total(&self) -> Result<Total, &str> {
        let n_scored = self.tokens().count() as u64;
        // From 0.0: the sum of nothing would be -0.0.
        let sum_nll = self.tokens().fold(0.0, |sum, score| sum + score.nll);
        self.problem.as_deref().map_or(Ok(Total { n_scored, sum_nll }), Err)
    }
}

impl ScoredItem {
    /// Tokenizes an item.
    pub fn new(entry: Entry, tokenizing: &Tokenizing) -> ScoredItem {
        let (head, answer) = (head(&entry.file, entry.line), Answer::of(&entry));
        let (sequence, labels) = match entry.request {
            Ok(request) => (tokenizing.sequence(request.content), request.labels),
            Err(problem) => (Err(problem), String::new()),
        };
        ScoredItem { head, digest: entry.digest, labels, answer, n_read: entry.n_read, sequence }
    }

    /// Bytes of memory that it takes besides its tokens.
    pub fn n_bytes(&self) -> usize {
        self.head.len() + self.labels.len() + self.sequence.as_ref().err().map_or(0, String::len)
    }

    /// Tokens of all its windows.
    pub fn n_evaluated(&self) -> usize {
        self.sequence.iter().flat_map(|sequence| &sequence.windows).map(|window| window.tokens.len()).sum()
    }

    /// Its line, with the score of each token if `per_token`.
    pub fn line(&self, scores: &Scores, per_token: bool) -> io::Result<Vec<u8>> {
        let mut line = BEGINNING.to_vec();
        line.extend(&self.head);
        if let Some(digest) = self.digest {
            line.extend(DIGEST);
            write!(line, "\"{digest:016x}\"")?;
        }
        let (sequence, Total { n_scored, sum_nll }) = match (&self.sequence, scores.total()) {
            (Ok(sequence), Ok(total)) => (sequence, total),
            (Err(problem), _) => return self.error_line(line, problem),
            (_, Err(problem)) => return self.error_line(line, problem),
        };
        // JSON has no infinity, and nothing has no mean.
        let number = |number: f64| if number.is_finite() { number.to_string() } else { "null".into() };
        line.extend(TOKENS);
        write!(line, "{}", sequence.n_tokens)?;
        line.extend(SCORED);
        write!(line, "{n_scored}")?;
        line.extend(SUM);
        line.extend(number(sum_nll).as_bytes());
        let mean = sum_nll / n_scored as f64;
        write!(line, ",\"mean_nll\":{},\"perplexity\":{}", number(mean), number(mean.exp()))?;
        if let Some(extent) = sequence.extent {
            let (of_byte, of_word) = (sum_nll / extent.bytes as f64, sum_nll / extent.words as f64);
            let [byte, bits, word] = [of_byte.exp(), of_byte / LN_2, of_word.exp()].map(number);
            write!(line, ",\"bytes\":{},\"byte_perplexity\":{byte},\"bits_per_byte\":{bits}", extent.bytes)?;
            write!(line, ",\"words\":{},\"word_perplexity\":{word}", extent.words)?;
        }
        if sequence.is_continuation {
            write!(line, ",\"is_greedy\":{}", scores.tokens().all(|score| score.is_greedy))?;
        }
        if sequence.windows.len() > 1 {
            write!(line, ",\"windows\":{}", sequence.windows.len())?;
        }
        if sequence.n_left_out > 0 {
            write!(line, ",\"left_out\":{}", sequence.n_left_out)?;
        }
        line.extend(self.labels.as_bytes());
        if per_token {
            line.extend(b",\"nll\":[");
            for (i, score) in scores.tokens().enumerate() {
                let comma = if i == 0 { "" } else { "," };
                // The logits are f32: more digits would be noise.
                let nll = score.nll as f32;
                let nll = if nll.is_finite() { nll.to_string() } else { "null".into() };
                write!(line, "{comma}{nll}")?;
            }
            line.push(b']');
        }
        line.extend(b"}\n");
        Ok(line)
    }

    fn error_line(&self, mut line: Vec<u8>, problem: &str) -> io::Result<Vec<u8>> {
        line.extend(ERROR);
        json_string(&mut line, problem)?;
        writeln!(line, "{}}}", self.labels)?;
        Ok(line)
    }
}
