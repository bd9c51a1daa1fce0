//! The line of `--timing`.

use olmo_infer::greedy::Timing;
use olmo_infer::model_file::Populated;
use std::fmt;
use std::time::Duration;

/// Where the time of a run went.
pub struct Summary {
    /// From the start of the program to the checked and mapped file.
    pub opened: Duration,
    /// Bringing the file's pages in, beside the computation.
    pub page_in: Option<(Duration, Populated)>,
    /// From the start of the program to the first predicted token after a prompt.
    pub first_token: Duration,
    /// Number of sequences.
    pub sequences: usize,
    /// Prefill and decode.
    pub timing: Timing,
    /// Weights that one token of decode reads.
    pub bytes_per_token: u64,
    /// Instruction set.
    pub isa: &'static str,
    /// Whether the `gemm` crate computed the products.
    pub gemm: bool,
    /// Number of threads.
    pub threads: usize,
    /// Memory of the process itself.
    pub anonymous_bytes: Option<u64>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        write!(f, "open and map {:.2} ms", ms(self.opened))?;
        match self.page_in {
            Some((time, populated)) if populated.bytes > 0 => {
                let part = if populated.complete { "" } else { " (stopped early)" };
                write!(f, ", page-in of {:.3} GB {:.1} ms{part}", populated.bytes as f64 / 1e9, ms(time))?;
            }
            _ => write!(f, ", page-in on demand")?,
        }
        write!(f, ", first token after {:.1} ms", ms(self.first_token))?;
        let t = &self.timing;
        let rate = |tokens: usize, time: Duration| tokens as f64 / time.as_secs_f64().max(1e-9);
        write!(f, "; prefill {} tokens, {:.1} tok/s", t.prefill_tokens, rate(t.prefill_tokens, t.prefill))?;
        if t.decode_tokens > 0 {
            let per_second = rate(t.decode_tokens, t.decode);
            // A pass reads the weights once, for however many sequences.
            let passes = rate(t.decode_passes, t.decode);
            let gb_per_second = passes * self.bytes_per_token as f64 / 1e9;
            write!(f, "; decode {} tokens", t.decode_tokens)?;
            match self.sequences {
                1 => write!(f, ", {:.2} ms each", 1e3 / passes)?,
                _ => write!(f, " in {} passes, {:.2} ms each", t.decode_passes, 1e3 / passes)?,
            }
            write!(f, ", {per_second:.1} tok/s, {gb_per_second:.1} GB/s")?;
        }
        if self.sequences > 1 {
            let (tokens, time) = (t.prefill_tokens + t.decode_tokens, t.prefill + t.decode);
            write!(f, "; {} sequences, {tokens} tokens, {:.1} tok/s in all", self.sequences, rate(tokens, time))?;
        }
        let products = if self.gemm { " with gemm" } else { "" };
        write!(f, "; {}{products}, {} threads", self.isa, self.threads)?;
        match self.anonymous_bytes {
            Some(bytes) => write!(f, ", {:.1} MB anonymous memory", bytes as f64 / 1e6),
            None => Ok(()),
        }
    }
}
