//! The numbers of a tensor in a model file, in the order of the checkpoint, a piece at a time.

use crate::encode::bf12::decode_panel;
use crate::encode::buffer::reserve;
use crate::encode::panels::extract_rows;
use crate::error::Error;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::encodings::bf12::Bf12Panels;
use olmo_infer::internals::format::encodings::quantized::QuantizedPanels;
use olmo_infer::internals::format::mapped_bytes::MappedBytes;
use olmo_infer::internals::format::panels::PanelShape;
use olmo_infer::internals::format::{Encoding, PANEL_ROWS};
use std::path::Path;

/// Bytes of a vector that are one piece.
const VECTOR_PIECE_BYTES: usize = 1 << 20;

/// A tensor of a model file. A piece of a matrix is a panel, up to 64 rows.
pub struct Numbers<'a> {
    bytes: MappedBytes<'a>,
    shape: Option<PanelShape>,
    coded: Option<Bf12Panels<'a>>,
    quantized: Option<QuantizedPanels<'a>>,
    /// A row of a quantized panel.
    row: Vec<f32>,
    /// The steps of a bf12 panel, decoded to the plain layout.
    decoded: Vec<u32>,
}

impl<'a> Numbers<'a> {
    /// Tensor `index` of `model`.
    pub fn new(model: &'a ModelFile, index: usize) -> Numbers<'a> {
        let bytes = model.tensor_bytes(index);
        let shape = model.specs()[index].panel_shape(model.encoding(index).dtype());
        let coded = shape.zip(model.bf12_table(index)).map(|(shape, table)| Bf12Panels::new(&shape, bytes, table));
        let quantized = match (model.encoding(index), shape) {
            (Encoding::Quantized(quantization), Some(shape)) => QuantizedPanels::new(quantization, &shape, bytes),
            _ => None,
        };
        Numbers { bytes, shape, coded, quantized, row: Vec::new(), decoded: Vec::new() }
    }

    /// Number of pieces.
    pub fn n_pieces(&self) -> usize {
        self.shape.map_or(self.bytes.len().div_ceil(VECTOR_PIECE_BYTES), |shape| shape.n_panels())
    }

    /// Most numbers of a piece.
    pub fn piece_elements(&self) -> usize {
        self.shape.map_or(VECTOR_PIECE_BYTES / 4, |shape| shape.columns * PANEL_ROWS.min(shape.rows))
    }

    /// Reserves memory for decoding and for the elements of a piece; `path` is for messages.
    ///
    /// # Errors
    /// Out of memory.
    pub fn memory(&mut self, path: &Path) -> Result<Vec<u32>, Error> {
        reserve(&mut self.decoded, self.coded.and(self.shape).map_or(0, |shape| shape.panel_bytes() / 4), path)?;
        let columns = self.quantized.and(self.shape).map_or(0, |shape| shape.columns);
        reserve(&mut self.row, columns, path)?;
        let mut bits = Vec::new();
        reserve(&mut bits, self.piece_elements(), path)?;
        Ok(bits)
    }

    /// Appends the numbers of a piece as the bits of f32, row after row, without padding.
    pub fn piece(&mut self, piece: usize, bits: &mut Vec<u32>) {
        let words =
            |range| self.bytes.get(range).and_then(MappedBytes::u32s).expect("the layout aligns and sizes tensors");
        let Some(shape) = &self.shape else {
            let begin = piece * VECTOR_PIECE_BYTES;
            return bits.extend_from_slice(words(begin..self.bytes.len().min(begin + VECTOR_PIECE_BYTES)));
        };
        if let Some(panels) = &self.quantized {
            self.row.resize(shape.columns, 0.0);
            for row in 0..PANEL_ROWS.min(shape.rows - piece * PANEL_ROWS) {
                panels.panel(piece).copy_row(row, &mut self.row);
                bits.extend(self.row.iter().map(|number| number.to_bits()));
            }
            return;
        }
        let plain = match &self.coded {
            Some(panels) => {
                self.decoded.clear();
                decode_panel(&panels.panel(piece), &mut self.decoded);
                &self.decoded
            }
            None => words(piece * shape.panel_bytes()..(piece + 1) * shape.panel_bytes()),
        };
        extract_rows(shape, plain, piece, bits);
    }
}
