//! The target that goes all the way: open, verify, and a forward pass.

use super::edit::Edit;
use crate::packed::Packed;
use olmo_infer::internals::error::Error;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::kernels::Isa;
use olmo_infer::internals::kernels::backend::Backend;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::network::{Network, Options};
use olmo_infer::internals::parallel::team::with_team;
use olmo_pack::commands::verify;
use olmo_pack::encode::pool;
use rayon::ThreadPool;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Edits of a valid file, anywhere in it, and a prompt. The first byte chooses the file, whether its digests are made
/// right, and the number of tokens; the tokens follow, one byte each, then the edits.
///
/// # Panics
/// When a change is not found although the digests are the old ones, when logits are neither finite numbers nor
/// refused, or when two instruction sets that promise the same bits do not give them.
pub fn forward(input: &[u8]) {
    let Some((&choice, rest)) = input.split_first() else { return };
    let base = &bases()[usize::from(choice) % bases().len()];
    let Some((prompt, edits)) = rest.split_at_checked(1 + usize::from(choice >> 4 & 3)) else { return };
    let mut bytes = base.bytes.clone();
    Edit::all(edits).for_each(|edit| edit.apply(&mut bytes, |offset| offset));
    let repaired = choice & 0x80 != 0;
    if repaired {
        base.repair_all(&mut bytes);
    }
    let is_changed = bytes != base.bytes;
    let Ok(file) = ModelFile::from_bytes(Path::new("fuzz"), &bytes) else {
        assert!(is_changed, "a good file was not opened");
        return;
    };
    let problems = verify::check(&file, pool());
    assert!(repaired || is_changed != problems.is_empty(), "changed: {is_changed}, found: {problems:?}");
    let prompt: Vec<u32> = prompt.iter().map(|&token| token.into()).collect();
    run(Arc::new(file), &prompt, problems.is_empty());
}

/// Computes the logits of a prompt on every instruction set. The records of a `sound` file describe its numbers
/// correctly.
fn run(file: Arc<ModelFile>, prompt: &[u32], sound: bool) {
    let network = Arc::new(Network::new(file.clone()).expect("memory"));
    let known = prompt.iter().all(|&token| (token as usize) < file.config().vocab_size);
    let mut first: Option<Result<Vec<u32>, String>> = None;
    for &isa in Isa::available().iter().filter(|isa| isa.has_products()) {
        let backend = Backend { gemm: false, ..Backend::of(isa) };
        let options = Options { backend, ..Options::new(prompt.len().min(file.config().max_position_embeddings)) };
        let found = with_team(1, |team| -> Result<Vec<u32>, Error> {
            let mut batch = Batch::of_one(&network, options)?;
            batch.forward(team, [(0, prompt)])?;
            let logits = batch.logits(team, 0..prompt.len())?;
            assert!(logits.iter().all(|logit| logit.is_finite()));
            Ok(logits.iter().map(|logit| logit.to_bits()).collect())
        })
        .expect("runs");
        match &found {
            Ok(logits) => assert!(known && logits.len() == prompt.len() * file.config().vocab_size),
            Err(Error::NotFinite { .. }) => assert!(known),
            Err(Error::UnknownToken { .. }) => assert!(!known),
            Err(Error::PassTooLong { .. }) => assert!(prompt.len() > file.config().max_position_embeddings),
            Err(error) => panic!("{error}"),
        }
        let found = found.map_err(|error| error.to_string());
        let expected = first.get_or_insert_with(|| found.clone());
        assert!(!sound || *expected == found, "{} gives other bits", isa.name());
    }
}

/// The files that are edited.
fn bases() -> &'static [Packed; 7] {
    static BASES: OnceLock<[Packed; 7]> = OnceLock::new();
    BASES.get_or_init(Packed::all)
}

/// A pool of one thread.
fn pool() -> &'static ThreadPool {
    static POOL: OnceLock<ThreadPool> = OnceLock::new();
    POOL.get_or_init(|| pool::thread_pool(1).expect("a pool"))
}
