//! Panels of int8 and int4 matrices.

use crate::encode::buffer::reserve;
use crate::encode::nearest::zero_code;
use crate::encode::panels::Seen;
use crate::encode::scale_search::{Best, ScaleSearch};
use crate::error::Error;
use crate::folder::element::{SourceType, f32_to_f16, widen};
use olmo_infer::internals::format::PANEL_ROWS;
use olmo_infer::internals::format::encodings::quantized::{
    BLOCK_COLUMNS, ELEMENT_OFFSET, Elements, Quantization, Scales,
};
use std::path::Path;

/// Columns of half a block.
const HALF: usize = BLOCK_COLUMNS / 2;

/// Fills panels of matrices that are quantized alike.
pub struct PanelEncoder {
    quantization: Quantization,
    search: ScaleSearch,
    /// The numbers of a row.
    row: Vec<u32>,
}

/// A row of a block.
struct BlockRow {
    /// Codes of int4, or bytes of int8 elements.
    codes: [u8; BLOCK_COLUMNS],
    /// The scales of its halves.
    scales: [f32; 2],
    /// What they stand for, without the factor of the row.
    numbers: [f32; BLOCK_COLUMNS],
    /// Sum of the squares of its numbers, and of the errors.
    squares: f32,
    squared_errors: f32,
}

impl PanelEncoder {
    /// For matrices of up to `columns` columns; `path` is for messages.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(quantization: Quantization, columns: usize, path: &Path) -> Result<PanelEncoder, Error> {
        let mut row = Vec::new();
        reserve(&mut row, columns, path)?;
        Ok(PanelEncoder { quantization, search: ScaleSearch::new(&quantization), row })
    }

    /// Whether it fills panels of matrices of this kind.
    pub fn is_for(&self, quantization: Quantization, columns: usize) -> bool {
        self.quantization == quantization && self.row.capacity() >= columns
    }

    /// Fills a panel from up to 64 consecutive rows of `columns` elements. Rows with numbers that cannot be stored
    /// become zeros.
    ///
    /// # Panics
    /// When the lengths do not fit: `rows` must hold whole rows, `panel` exactly one panel.
    pub fn fill(&mut self, source: SourceType, rows: &[u8], columns: usize, panel: &mut [u8]) -> Seen {
        assert_eq!(panel.len(), self.quantization.panel_bytes(columns));
        let rows = rows.chunks_exact(columns * source.bytes());
        assert!(rows.remainder().is_empty() && (1..=PANEL_ROWS).contains(&rows.len()));
        let mut seen = Seen::default();
        self.clear(panel);
        for (index, bytes) in rows.enumerate() {
            self.row.clear();
            widen(source, bytes, &mut self.row);
            let largest = seen.look_at_row(&self.row, (index * columns) as u64, self.search.limit());
            if let Some(largest) = largest {
                self.fill_row(largest, panel, index, &mut seen);
            }
        }
        seen
    }

    /// Makes a panel of padding.
    fn clear(&self, panel: &mut [u8]) {
        let (factors, blocks) = panel.split_at_mut(self.quantization.factor_bytes());
        factors.fill(0);
        let padding = padding(&self.quantization);
        for block in blocks.chunks_exact_mut(self.quantization.block_bytes()) {
            let (scales, elements) = block.split_at_mut(self.quantization.scale_bytes());
            scales.fill(0);
            elements.fill(padding);
        }
    }

    /// Fills row number `index` with the numbers of `row`, whose largest magnitude is `largest`.
    fn fill_row(&self, largest: f32, panel: &mut [u8], index: usize, seen: &mut Seen) {
        let factor = self.search.factor(largest);
        let (factors, blocks) = panel.split_at_mut(self.quantization.factor_bytes());
        if let Some(slot) = factors.as_chunks_mut::<4>().0.get_mut(index) {
            *slot = factor.to_le_bytes();
        }
        // A row of zeros has the factor 0, and what stands for zeros with any factor.
        let inverse = if factor == 0.0 { 0.0 } else { 1.0 / factor };
        let (mut squares, mut squared_errors) = (0.0, 0.0);
        let blocks = blocks.chunks_exact_mut(self.quantization.block_bytes());
        for (bits, block) in self.row.chunks(BLOCK_COLUMNS).zip(blocks) {
            let mut x = [0.0; BLOCK_COLUMNS];
            x.iter_mut().zip(bits).for_each(|(x, &bits)| *x = f32::from_bits(bits) * inverse);
            let mut row = self.encode(&x);
            row.codes[bits.len()..].fill(padding(&self.quantization) & 0xf);
            self.put(&row, block, index);
            squares += f64::from(row.squares);
            squared_errors += f64::from(row.squared_errors);
            let pairs = row.numbers.iter().zip(bits);
            seen.n_changed += pairs.map(|(number, bits)| u64::from((number * factor).to_bits() != *bits)).sum::<u64>();
        }
        let square = f64::from(factor) * f64::from(factor);
        seen.loss.squares += square * squares;
        seen.loss.squared_errors += square * squared_errors;
    }

    /// Finds scales and integers.
    fn encode(&self, x: &[f32; BLOCK_COLUMNS]) -> BlockRow {
        let mut row = BlockRow {
            codes: [0; BLOCK_COLUMNS],
            scales: [0.0; 2],
            numbers: [0.0; BLOCK_COLUMNS],
            squares: 0.0,
            squared_errors: 0.0,
        };
        let mut add = |best: Best| {
            row.squares += best.squares;
            row.squared_errors += best.error;
            best.scale
        };
        if self.quantization.scales == Scales::Row16 {
            let halves = x.as_chunks::<HALF>().0.iter().zip(&mut row.scales);
            let codes = row.codes.as_chunks_mut::<HALF>().0.iter_mut().zip(row.numbers.as_chunks_mut::<HALF>().0);
            for ((x, scale), (codes, numbers)) in halves.zip(codes) {
                *scale = add(self.search.best(x));
                (*codes, *numbers) = self.search.nearest.encode(x, *scale);
            }
        } else {
            let scale = add(self.search.best(x));
            row.scales = [scale; 2];
            (row.codes, row.numbers) = self.search.nearest.encode(x, scale);
        }
        row
    }

    /// Writes a row of a block.
    fn put(&self, row: &BlockRow, block: &mut [u8], index: usize) {
        let (scales, elements) = block.split_at_mut(self.quantization.scale_bytes());
        let [first, second] = row.scales;
        match self.quantization.scales {
            Scales::F16 => {
                let half = f32_to_f16(first.to_bits()).expect("a scale that can be stored");
                scales.as_chunks_mut::<2>().0[index] = half.to_le_bytes();
            }
            Scales::Row32 => scales[index] = (first as i8).cast_unsigned(),
            Scales::Row16 => {
                scales[index] = (first as i8).cast_unsigned();
                scales[PANEL_ROWS + index] = (second as i8).cast_unsigned();
            }
        }
        let words = elements.as_chunks_mut::<4>().0.iter_mut().skip(index).step_by(PANEL_ROWS);
        match self.quantization.elements {
            Elements::Int8 => words.zip(row.codes.as_chunks::<4>().0).for_each(|(word, quad)| *word = *quad),
            Elements::Int4(_) => words.zip(row.codes.as_chunks::<8>().0).for_each(|(word, octet)| {
                *word = std::array::from_fn(|i| octet[i] | octet[i + 4] << 4);
            }),
        }
    }
}

/// A byte of elements that are padding.
pub fn padding(quantization: &Quantization) -> u8 {
    match quantization.elements {
        Elements::Int8 => ELEMENT_OFFSET,
        Elements::Int4(levels) => zero_code(&levels) * 0x11,
    }
}
