//! The model's run over the passages. It needs a model file: a copy of the weights in bf16, which has no name and is
//! gone when the run is over.

use crate::calibrate::passages::Passages;
use crate::calibrate::squared_inputs::SquaredInputs;
use crate::encode::importance::Importance;
use crate::error::{Error, Problem};
use crate::write::model_output::Output;
use crate::write::pipeline;
use crate::write::plan::Plan;
use olmo_infer::internals::file::mapping::Load;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::kernels::Isa;
use olmo_infer::internals::kernels::backend::Backend;
use olmo_infer::internals::network::activations::LOGITS_CHUNK;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::network::{Network, Options};
use olmo_infer::internals::parallel::team::{Team, Threads};
use rayon::ThreadPool;
use std::sync::Arc;
use zerocopy::IntoBytes;

/// Writes the model that `plan` describes into `copy`, and runs it over the passages. `progress` gets how many bytes of
/// how many are written, and then read by the run.
///
/// # Errors
/// A source cannot be read or has numbers that are not accepted, the copy cannot be written, out of memory; activations
/// are not finite numbers.
pub fn importance(
    plan: &Plan<'_>,
    copy: Output<'_>,
    passages: &Passages,
    pool: &ThreadPool,
    allow_nonfinite: bool,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Importance, Error> {
    copy.allocate(plan.layout.file_bytes)?;
    let outcome = pipeline::data(plan, &copy, pool, allow_nonfinite, progress)?;
    let (head, header) = plan.head(&outcome.written);
    copy.write_at(&head, size_of_val(&header) as u64)?;
    copy.write_at(header.as_bytes(), 0)?;
    let file = copy.handle()?;
    let network = Arc::new(Network::new(Arc::new(ModelFile::of(file, copy.shown(), Load::Mmap)?))?);
    let positions = passages.passages.iter().map(Vec::len).max().unwrap_or(1);
    let mut batch = Batch::of_one(&network, options(positions))?;
    let mut sums = SquaredInputs::new(network.config());
    let run = |team: &mut Team<'_>| -> Result<(), Error> {
        for (index, passage) in passages.passages.iter().enumerate() {
            let all = plan.layout.file_bytes;
            progress(all / passages.passages.len() as u64 * index as u64, all);
            batch.restart(0);
            let mut observe = |layer, inputs, rows: &[f32]| sums.add(layer, inputs, rows);
            batch.forward_observed(team, [(0, passage.as_slice())], &mut observe)?;
            for first in (0..passage.len()).step_by(LOGITS_CHUNK) {
                let rows = first..passage.len().min(first + LOGITS_CHUNK);
                sums.add_of_head(batch.head_input(team, rows));
            }
        }
        Ok(())
    };
    Threads::new(pool.current_num_threads()).run(run)??;
    sums.importance().ok_or_else(|| {
        let problem = Problem::new(&passages.path, "leads to activations that are not finite numbers");
        problem.expected("a model that runs").advice("check the weights, or leave --calibrate out").into()
    })
}

/// The kernels whose bits are the same on every machine: those of this crate. A processor without any computes their
/// definition.
fn options(positions: usize) -> Options {
    let best = Isa::best();
    let isa = if best.has_products() { best } else { Isa::named("scalar").expect("the definition is everywhere") };
    Options { backend: Backend::of(isa), ..Options::new(positions) }
}
