//! Our model in this process, one pass at a time. The threads live for a pass only, so that nothing spins while another
//! program is measured.

use olmo_infer::internals::error::Error;
use olmo_infer::internals::file::model_file::{ModelFile, Which};
use olmo_infer::internals::generate::passes;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::network::{Network, Options};
use olmo_infer::internals::parallel::team::with_team;
use std::fs;
use std::sync::Arc;

/// One sequence of a model file that is mapped.
pub struct Ours {
    file: Arc<ModelFile>,
    batch: Batch,
}

impl Ours {
    /// Loads the file, and makes a sequence of up to `positions` positions.
    pub fn new(file: ModelFile, positions: usize) -> Result<Ours, String> {
        let file = Arc::new(file);
        file.populate(Which { drafts: false, experts: true }, &|| false).map_err(text)?;
        let network = Arc::new(Network::new(file.clone()).map_err(text)?);
        Ok(Ours { file, batch: Batch::of_one(&network, Options::new(positions)).map_err(text)? })
    }

    /// Seconds for `n` tokens, one after the other, after `context` positions.
    pub fn decode(&mut self, threads: usize, context: usize, n: usize) -> Result<f64, String> {
        let batch = &mut self.batch;
        let seconds = with_team(threads, |team| {
            let mut token = passes::begin(batch, team, context)?;
            passes::decode(batch, team, &mut token, n)
        });
        seconds.and_then(|seconds| seconds).map_err(text)
    }

    /// Seconds from a prompt of `n` tokens to the logits of the last one.
    pub fn prefill(&mut self, threads: usize, n: usize) -> Result<f64, String> {
        let batch = &mut self.batch;
        let tokens = passes::random_tokens(n, batch.config().vocab_size);
        with_team(threads, |team| passes::prefill(batch, team, &tokens)).and_then(|seconds| seconds).map_err(text)
    }

    /// Logits of the last token of a prompt.
    pub fn logits(&mut self, threads: usize, tokens: &[u32]) -> Result<Vec<f32>, String> {
        let batch = &mut self.batch;
        let logits = with_team(threads, |team| {
            batch.restart(0);
            passes::feed(batch, team, tokens)?;
            batch.logits(team, tokens.len() - 1..tokens.len()).map(<[f32]>::to_vec)
        });
        logits.and_then(|logits| logits).map_err(text)
    }

    /// Share of the mapped pages of the file that is in huge pages; 0 when the kernel does not report it.
    pub fn huge_share(&self) -> f64 {
        let (Ok(smaps), Ok(path)) = (fs::read_to_string("/proc/self/smaps"), self.file.path().canonicalize()) else {
            return 0.0;
        };
        huge_share(&smaps, &path.display().to_string())
    }
}

fn text(error: Error) -> String {
    error.to_string()
}

/// The share of huge pages in the mappings of `path`, from the text of `/proc/self/smaps`.
fn huge_share(smaps: &str, path: &str) -> f64 {
    let (mut inside, mut resident, mut huge) = (false, 0.0, 0.0);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let key = words.next().unwrap_or_default();
        if !key.ends_with(':') {
            // The first line of a mapping: its addresses, and the path at the end.
            inside = line.ends_with(path);
        } else if inside && (key == "Rss:" || key == "FilePmdMapped:") {
            let kilobytes: f64 = words.next().and_then(|number| number.parse().ok()).unwrap_or(0.0);
            *(if key == "Rss:" { &mut resident } else { &mut huge }) += kilobytes;
        }
    }
    if resident > 0.0 { huge / resident } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::huge_share;

    #[test]
    fn huge_page_share_is_of_the_file_only() {
        let smaps = "\
            7f00-7f10 r--p 00000000 fe:00 12   /lib/libc.so.6\nRss: 100 kB\nFilePmdMapped: 0 kB\n\
            7f20-7f90 r--s 00000000 fe:00 13   /models/a.olmo\nRss: 4000 kB\nFilePmdMapped: 3000 kB\n\
            7fa0-7fb0 rw-p 00000000 00:00 0\nRss: 100 kB\nFilePmdMapped: 0 kB\n";
        assert_eq!(huge_share(smaps, "/models/a.olmo"), 0.75);
        assert_eq!(huge_share(smaps, "/models/b.olmo"), 0.0);
    }
}
