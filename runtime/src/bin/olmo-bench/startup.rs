//! The phases of a start: open, page-in, first token.

use crate::args::Args;
use crate::host::Faults;
use crate::work::weights_read_by_decode;
use olmo_infer::internals::error::Error;
use olmo_infer::internals::file::mapping::{Load, Populated};
use olmo_infer::internals::file::model_file::{ModelFile, Which};
use olmo_infer::internals::generate::passes::random_tokens;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::network::{Network, Options};
use olmo_infer::internals::parallel::team::Team;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One phase.
#[derive(Clone, Copy)]
pub struct Phase {
    /// How long it took.
    pub time: Duration,
    /// Page faults in it.
    pub faults: Faults,
}

impl Phase {
    fn measure<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<(T, Phase), Error> {
        let (begun, faults) = (Instant::now(), Faults::so_far());
        let result = work()?;
        let time = begun.elapsed();
        Ok((result, Phase { time, faults: Faults::so_far().since(faults) }))
    }
}

/// A start, phase by phase; in `olmo-infer` page-in and first token run at the same time.
pub struct Startup {
    /// From the beginning of `main` to the checked and mapped, or read, file.
    pub open: Phase,
    /// Which of the two it was, `mmap` or `read`.
    pub load: &'static str,
    /// Bringing the file's pages into this process.
    pub page_in: Phase,
    /// What page-in covered.
    pub populated: Populated,
    /// A sequence of one position, one forward pass, its logits.
    pub first_token: Phase,
    /// Bytes of the file that are mapped in huge pages after that.
    pub huge_mapped_bytes: Option<u64>,
    /// Bytes of the file that page-in may bring in: all but an embedding that is not also the head.
    pub mapped_bytes: u64,
}

/// Opens, checks and maps or reads the file; `begun` is when the program began.
pub fn open(path: &Path, load: Load, begun: Instant) -> Result<(ModelFile, Phase), Error> {
    let (file, phase) = Phase::measure(|| ModelFile::open_with(path, load))?;
    Ok((file, Phase { time: begun.elapsed(), ..phase }))
}

impl Startup {
    /// Measures what comes after opening; the first to touch the tensors.
    pub fn measure(
        file: &ModelFile,
        network: &Arc<Network>,
        args: &Args,
        open: Phase,
        team: &mut Team,
    ) -> Result<Startup, Error> {
        let (populated, page_in) = Phase::measure(|| file.populate(Which::default(), &|| false))?;
        let token = random_tokens(1, network.config().vocab_size);
        let (_, first_token) = Phase::measure(|| {
            let options = Options { backend: args.backend, ..Options::new(1) };
            let mut batch = Batch::of_one(network, options)?;
            batch.forward(team, [(0, &token[..])])?;
            batch.logits(team, 0..1).map(|_| ())
        })?;
        let mapped_bytes = weights_read_by_decode(file).len() as u64;
        Ok(Startup {
            open,
            load: if file.loaded().way == Load::Read { "read" } else { "mmap" },
            page_in,
            populated,
            first_token,
            huge_mapped_bytes: file.resident().map(|resident| resident.huge_bytes),
            mapped_bytes,
        })
    }
}
