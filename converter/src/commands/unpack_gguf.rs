//! The GGUF file that a model was packed from, byte for byte: its kept header, and the numbers and blocks of the
//! tensors at their places.

use crate::commands::kept_gguf::{InGguf, KeptGguf};
use crate::commands::sources::Source;
use crate::commands::unpack_folder::{UnpackFolder, UnpackedFile};
use crate::encode::buffer::reserve;
use crate::encode::kept_blocks::KeptBlocks;
use crate::encode::numbers::Numbers;
use crate::encode::pool::thread_pool;
use crate::error::{Error, Problem};
use crate::folder::element::narrow;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::encodings::quantized::QuantizedPanels;
use olmo_infer::internals::format::{Encoding, PANEL_ROWS};
use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3;

/// The name of the file.
pub const NAME: &str = "model.gguf";

/// Why the file cannot be restored although no number was lost, for the user: a tensor is blocks in it, which the model
/// stores in another encoding. `None` when it can.
///
/// # Errors
/// Numbers of a tensor were lost, or a tensor of the file was left out.
pub fn why_not(model: &ModelFile, gguf: &KeptGguf) -> Result<Option<String>, Error> {
    let refused = |tensor: String, found: String| {
        let problem = Problem::new(model.path(), found).tensor(tensor);
        problem.advice("it cannot be unpacked, so keep the GGUF file").into()
    };
    let tensors = || model.specs().iter().zip(&gguf.tensors).enumerate();
    if let Some((index, (spec, tensor))) = tensors().find(|(index, _)| model.records()[*index].rounded.get() != 0) {
        let stored = model.encoding(index).name();
        return Err(refused(
            spec.name(),
            format!("is {} in the GGUF file and was rounded to {stored}", tensor.type_name),
        ));
    }
    if let Some(name) = &gguf.left_out {
        return Err(refused(name.clone(), "is in the GGUF file, and was left out when the model was packed".into()));
    }
    let is_recoded = |(index, (_, tensor)): &(usize, (_, &InGguf))| {
        tensor.rows.blocks.is_some() && blocks(model, *index, tensor).is_none()
    };
    Ok(tensors().find(is_recoded).map(|(index, (spec, tensor))| {
        format!("{} is {} in it and {} here", spec.name(), tensor.type_name, model.encoding(index).name())
    }))
}

/// What takes the blocks of a tensor out of its panels, and the panels; `None` when they are not stored as they are.
fn blocks<'a>(model: &'a ModelFile, index: usize, tensor: &InGguf) -> Option<(KeptBlocks, QuantizedPanels<'a>)> {
    let Encoding::Quantized(quantization) = model.encoding(index) else { return None };
    let kept = KeptBlocks::new(tensor.rows.blocks?, quantization)?;
    let shape = model.specs()[index].panel_shape(model.encoding(index).dtype())?;
    Some((kept, QuantizedPanels::new(quantization, &shape, model.tensor_bytes(index))?))
}

/// Writes the file.
///
/// # Errors
/// It cannot be written, or a tensor's numbers or blocks are not those that were packed.
pub fn write(model: &ModelFile, gguf: &KeptGguf, sources: &[Source], into: &UnpackFolder) -> Result<(), Error> {
    let mut file = into.create(NAME)?;
    file.append(&gguf.start)?;
    let writing = Writing { model, gguf, sources, file: &file };
    // Not rayon's own pool, which panics when a thread cannot be started.
    thread_pool(0)?.install(|| (0..gguf.tensors.len()).into_par_iter().try_for_each(|index| writing.tensor(index)))?;
    file.keep()
}

/// What is written, and whereto.
struct Writing<'a> {
    model: &'a ModelFile,
    gguf: &'a KeptGguf,
    sources: &'a [Source],
    file: &'a UnpackedFile<'a>,
}

impl Writing<'_> {
    /// Writes the data of tensor `index` and the zeros behind them.
    fn tensor(&self, index: usize) -> Result<(), Error> {
        let (model, path) = (self.model, &self.file.path);
        let (spec, source, tensor) = (&model.specs()[index], &self.sources[index], &self.gguf.tensors[index]);
        let not_restored = |found: String| {
            let problem = Problem::new(model.path(), found).tensor(spec.name());
            Error::from(problem.advice("the file is damaged, copy or pack it again"))
        };
        let blocks = blocks(model, index, tensor);
        // Of blocks the numbers alone do not decide: other integers with another scale have the same ones.
        if blocks.is_some() && !model.has_digest(index) {
            return Err(not_restored("its digest is wrong".into()));
        }
        let mut of_model = Numbers::new(model, index);
        let (mut bits, mut numbers) = (of_model.memory(path)?, Vec::new());
        reserve(&mut numbers, of_model.piece_elements() * source.dtype.bytes(), path)?;
        let mut digest = Xxh3::with_seed(0);
        let (mut data, mut at) = (Vec::new(), 0);
        for piece in 0..of_model.n_pieces() {
            bits.clear();
            numbers.clear();
            of_model.piece(piece, &mut bits);
            if !narrow(source.dtype, &bits, &mut numbers) {
                return Err(not_restored(format!("has values that are not {} numbers", source.dtype.name())));
            }
            digest.update(&numbers);
            let data = match &blocks {
                None => &numbers,
                Some((kept, panels)) => {
                    data.clear();
                    let rows = 0..PANEL_ROWS.min(spec.rows - piece * PANEL_ROWS);
                    rows.for_each(|row| kept.append_row(&panels.panel(piece), row, &mut data));
                    &data
                }
            };
            self.rows(tensor, spec.rows, at, data)?;
            at += data.len() as u64;
        }
        if digest.digest() != source.digest {
            return Err(not_restored("the restored numbers are not those that were packed".into()));
        }
        // Less than 1 MiB.
        self.file.write_at(&vec![0; (tensor.next - tensor.data.end) as usize], tensor.data.end)
    }

    /// Writes data of a tensor of `n_rows` rows, which begin `at` bytes after its first in the order of the model.
    fn rows(&self, tensor: &InGguf, n_rows: usize, at: u64, data: &[u8]) -> Result<(), Error> {
        let begin = tensor.data.start;
        if tensor.rows.head_dim.is_none() {
            return self.file.write_at(data, begin + at);
        }
        // Whole rows: pieces of matrices are panels.
        let row_bytes = (tensor.data.end - begin) / n_rows as u64;
        let mut rows = data.chunks(row_bytes as usize).zip(at / row_bytes..);
        rows.try_for_each(|(data, row)| self.file.write_at(data, begin + tensor.rows.stored(row) * row_bytes))
    }
}
