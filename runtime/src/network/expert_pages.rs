//! Which experts were taken, and their pages: those of an expert are brought into memory when it is taken, so that a
//! model is usable that does not fit into memory, and a first token reads what it needs.

use crate::error::Error;
use crate::file::mapping::Load;
use crate::file::model_file::ModelFile;
use crate::format::config::ModelConfig;
use crate::os::memory;
use crate::parallel::team::Team;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Those of all layers.
pub(crate) struct ExpertPages {
    /// `None` when the weights are not those of a mapped file: then they are in memory.
    file: Option<Arc<ModelFile>>,
    n_experts: usize,
    /// `[n_layers, n_experts]`
    taken: Vec<AtomicBool>,
    /// Whether the file is larger than the memory that was available at first: then pages that were there may have gone.
    may_go: bool,
}

impl ExpertPages {
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(config: &ModelConfig, file: Option<Arc<ModelFile>>) -> Result<ExpertPages, Error> {
        let n_experts = config.experts.map_or(0, |experts| experts.n_experts);
        let n = config.n_layers().saturating_mul(n_experts);
        let taken = memory::collected((0..n).map(|_| AtomicBool::new(false)), "the list of experts")?;
        let file = file.filter(|file| n > 0 && file.loaded().way == Load::Mmap);
        let bytes = file.as_ref().map_or(0, |file| file.layout().file_bytes);
        // Asked for once: it reads a few files of the kernel.
        let may_go = file.is_some() && memory::available().is_some_and(|available| bytes > available);
        Ok(ExpertPages { file, n_experts, taken, may_go })
    }

    /// Notes that some experts of a layer are taken, which ascend, and brings in those whose pages may be missing.
    pub fn take(&self, team: &mut Team, layer: usize, experts: &mut Vec<usize>) {
        experts.retain(|&expert| {
            let is_known = self.taken[layer * self.n_experts + expert].swap(true, Ordering::Relaxed);
            self.may_go || !is_known
        });
        if let Some(file) = &self.file {
            team.for_each(experts.len(), |index| file.populate_expert(layer, experts[index]));
        }
    }

    /// Number of experts that were taken, and of all.
    pub fn n_taken(&self) -> (usize, usize) {
        (self.taken.iter().filter(|taken| taken.load(Ordering::Relaxed)).count(), self.taken.len())
    }
}
