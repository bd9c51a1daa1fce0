//! The line of `--timing`.

use olmo_infer::internals::file::mapping::{Load, Loaded, Populated, Reason};
use olmo_infer::internals::generate::Timing;
use olmo_infer::internals::generate::speculation::Speculated;
use olmo_infer::internals::network::kv_type::KvType;
use olmo_infer::internals::os::file_system::FileSystem;
use olmo_infer::internals::os::memory::Resident;
use std::fmt;
use std::fs;
use std::time::Duration;

/// Less than this of a file is not worth words about its pages.
const FEW_BYTES: u64 = 16 << 20;
/// A larger share than this in huge pages is as good as all: the ends of a file may not fill one.
const NEARLY_ALL: f64 = 0.95;

/// Where the time of a run went.
pub struct Summary {
    /// From the start of the program to the checked and mapped, or read, file.
    pub opened: Duration,
    /// How the file came into memory.
    pub loaded: Loaded,
    /// Length of the file.
    pub file_bytes: u64,
    /// How much of it is in memory and in huge pages at the end.
    pub resident: Option<Resident>,
    /// Bringing the file's pages in, during the computation.
    pub page_in: Option<(Duration, Populated)>,
    /// From the start of the program to the first predicted token after a prompt.
    pub first_token: Duration,
    /// Number of sequences.
    pub sequences: usize,
    /// Prefill and decode.
    pub timing: Timing,
    /// Experts that a token took, and all experts of all layers; 0 in a model without experts.
    pub experts: (usize, usize),
    /// Weights that one token of decode reads.
    pub bytes_per_token: u64,
    /// Instruction set.
    pub isa: &'static str,
    /// Whether the `gemm` crate computed the products.
    pub gemm: bool,
    /// Whether weights are bf12, and would be read faster as bf16 where memory is fast.
    pub suits_plain: bool,
    /// Number of threads.
    pub threads: usize,
    /// Memory of the process itself.
    pub anonymous_bytes: Option<u64>,
    /// What keys and values were stored as.
    pub kv: KvType,
    /// How tokens were sampled, and the origin of these values.
    pub sampling: String,
    /// The seed, when tokens were sampled.
    pub seed: Option<u64>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let reason = reason(&self.loaded);
        match self.loaded.way {
            Load::Read => {
                let gb = self.file_bytes as f64 / 1e9;
                write!(f, "open and read {gb:.3} GB {:.1} ms ({reason})", ms(self.opened))?;
            }
            _ => write!(f, "open and map {:.2} ms ({reason})", ms(self.opened))?,
        }
        match self.page_in {
            _ if self.loaded.way == Load::Read => {}
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
                1 => write!(f, ", {:.2} ms each", 1e3 / per_second)?,
                _ => write!(f, " in {} passes, {:.2} ms each", t.decode_passes, 1e3 / passes)?,
            }
            write!(f, ", {per_second:.1} tok/s, {gb_per_second:.1} GB/s")?;
            f.write_str(&guesses(&t.speculated, t.decode))?;
        }
        if self.sequences > 1 {
            let (tokens, time) = (t.prefill_tokens + t.decode_tokens, t.prefill + t.decode);
            write!(f, "; {} sequences, {tokens} tokens, {:.1} tok/s in all", self.sequences, rate(tokens, time))?;
        }
        if let (taken, 1..) = self.experts {
            write!(f, "; {taken} of {} experts taken", self.experts.1)?;
        }
        let products = if self.gemm { " with gemm" } else { "" };
        write!(f, "; {}{products}, {} threads", self.isa, self.threads)?;
        if let Some(bytes) = self.anonymous_bytes {
            write!(f, ", {:.1} MB anonymous memory", bytes as f64 / 1e6)?;
        }
        if self.kv == KvType::Bf16 {
            write!(f, ", KV cache in bf16")?;
        }
        write!(f, "; {}", self.sampling)?;
        if let Some(seed) = self.seed {
            write!(f, "; seed {seed}")?;
        }
        if self.suits_plain {
            write!(
                f,
                "; 12 bits suit AVX-512: with fast memory a file packed with --encoding plain decodes faster here"
            )?;
        }
        match self.resident {
            Some(resident) if resident.bytes >= FEW_BYTES => self.write_pages(f, resident),
            _ => Ok(()),
        }
    }
}

impl Summary {
    /// How much of the model is in huge pages, and when that is little, why and what to do.
    fn write_pages(&self, f: &mut fmt::Formatter<'_>, resident: Resident) -> fmt::Result {
        let (gb, huge) = (resident.bytes as f64 / 1e9, resident.huge_bytes as f64 / 1e9);
        write!(f, "; {huge:.3} of {gb:.3} GB in huge pages")?;
        if resident.huge_bytes as f64 >= NEARLY_ALL * resident.bytes as f64 {
            return Ok(());
        }
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        write!(f, ": {}", small_pages(&self.loaded, kernel.trim()))
    }
}

/// How many guesses were right, and the tokens and the time that they gained of `decode`; empty without a guess.
pub fn guesses(of: &Speculated, decode: Duration) -> String {
    let kinds = [("text", of.looked_up, of.looked_up_right), ("draft", of.drafted, of.drafted_right)];
    let kinds = kinds.into_iter().filter(|(_, n, _)| *n > 0);
    let kinds: Vec<String> = kinds.map(|(name, n, right)| format!("{right} of {n} by the {name}")).collect();
    if kinds.is_empty() {
        return String::new();
    }
    let (right, seconds) = (kinds.join(" and "), decode.as_secs_f64().max(1e-9));
    let per_pass = of.tokens as f64 / of.passes.max(1) as f64;
    let times = (1.0 + of.seconds_gained / seconds).max(0.0);
    format!("; guessed right {right}, {per_pass:.2} tokens a pass with guesses, about {times:.1} x as fast as without")
}

/// Why the file is mapped or read.
fn reason(loaded: &Loaded) -> String {
    let name = loaded.file_system.name;
    match loaded.reason {
        Reason::Asked => format!("as asked for, on {name}"),
        Reason::FileSystem => format!("as suits {name}"),
        Reason::TooLarge => format!("on {name}, too large to be read into memory"),
    }
}

/// Why a model is in small pages under `kernel`, and what to do about it.
fn small_pages(loaded: &Loaded, kernel: &str) -> String {
    let name = loaded.file_system.name;
    if loaded.way == Load::Read {
        return "the OS gave few; see /sys/kernel/mm/transparent_hugepage/enabled, and whether memory is short".into();
    }
    match large_pages_since(loaded.file_system) {
        Some(since) if version(kernel).is_some_and(|version| version < since) => format!(
            "{name} keeps files in large pieces from Linux {}.{} on, this is {kernel}; --load read takes them from the \
             system's own memory",
            since.0, since.1
        ),
        Some(_) => format!(
            "the page cache has the file in small pieces, as small writes leave it, or reading it without advice ({name}, \
             Linux {kernel}); write it again with olmo-pack copy, or use --load read"
        ),
        None => {
            format!("{name} under Linux {kernel} may not have them; copy the file to ext4 or xfs, or use --load read")
        }
    }
}

/// The first Linux whose page cache holds regular files of this file system in pieces of up to 2 MiB.
fn large_pages_since(file_system: FileSystem) -> Option<(u32, u32)> {
    match file_system.name {
        "xfs" => Some((5, 18)),
        "ext4" => Some((6, 16)),
        _ => None,
    }
}

/// Major and minor number of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pages_have_a_cause_and_a_remedy() {
        let loaded =
            |way, name| Loaded { way, reason: Reason::FileSystem, file_system: FileSystem { name, remote: false } };
        for (way, name, kernel, parts) in [
            (Load::Mmap, "ext4", "6.12.3-arch1", ["from Linux 6.16 on, this is 6.12.3-arch1", "--load read"]),
            (Load::Mmap, "ext4", "6.16.0", ["ext4, Linux 6.16.0", "olmo-pack copy"]),
            (Load::Mmap, "xfs", "5.15.0", ["from Linux 5.18 on", "--load read"]),
            (Load::Mmap, "xfs", "10.2", ["as small writes leave it", "olmo-pack copy"]),
            (Load::Mmap, "ext4", "", ["as small writes leave it", "olmo-pack copy"]),
            (Load::Mmap, "overlayfs", "6.18.1", ["overlayfs under Linux 6.18.1", "copy the file to ext4"]),
            (Load::Read, "nfs", "6.18.1", ["the OS gave few", "transparent_hugepage"]),
        ] {
            let text = small_pages(&loaded(way, name), kernel);
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }
}
