//! Panels of int8 and int4 matrices.

use crate::encode::buffer::reserve;
use crate::encode::panels::Seen;
use crate::encode::scale_search::{Encoded, ScaleSearch, limit};
use crate::error::Error;
use crate::folder::element::{SourceType, f32_to_f16, widen};
use olmo_infer::internals::format::PANEL_ROWS;
use olmo_infer::internals::format::encodings::quantized::{
    BLOCK_COLUMNS, ELEMENT_OFFSET, Elements, Quantization, Scales,
};
use std::path::Path;

/// Sums of squares in f32 below this have lost digits.
const SMALLEST_SQUARES: f32 = 1e-30;
/// Columns of half a block.
const HALF: usize = BLOCK_COLUMNS / 2;

/// Fills panels of matrices that are quantized alike.
pub struct PanelEncoder {
    quantization: Quantization,
    search: ScaleSearch,
    /// The numbers of a row.
    row: Vec<u32>,
}

impl PanelEncoder {
    /// For matrices of up to `columns` columns; `path` is for messages.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(quantization: Quantization, columns: usize, path: &Path) -> Result<PanelEncoder, Error> {
        let mut row = Vec::new();
        reserve(&mut row, columns, path)?;
        let search = ScaleSearch::new(&quantization, zero_code(&quantization));
        Ok(PanelEncoder { quantization, search, row })
    }

    /// Whether it fills panels of matrices of this kind.
    pub fn is_for(&self, quantization: Quantization, columns: usize) -> bool {
        self.quantization == quantization && self.row.capacity() >= columns
    }

    /// Fills a panel from up to 64 consecutive rows of `columns` elements. Rows with numbers that cannot be stored
    /// become zeros. `weights` has how often the squares of errors count in each column; without, they count alike.
    ///
    /// # Panics
    /// When the lengths do not fit: `rows` must hold whole rows, `panel` exactly one panel, `weights` all columns.
    pub fn fill(
        &mut self,
        source: SourceType,
        rows: &[u8],
        columns: usize,
        weights: Option<&[f32]>,
        panel: &mut [u8],
    ) -> Seen {
        assert!(weights.is_none_or(|weights| weights.len() == columns));
        assert_eq!(panel.len(), self.quantization.panel_bytes(columns));
        let rows = rows.chunks_exact(columns * source.bytes());
        assert!(rows.remainder().is_empty() && (1..=PANEL_ROWS).contains(&rows.len()));
        let mut seen = Seen::default();
        self.clear(panel);
        for (index, bytes) in rows.enumerate() {
            self.row.clear();
            widen(source, bytes, &mut self.row);
            let largest = seen.look_at_row(&self.row, (index * columns) as u64, limit(&self.quantization));
            if let Some(largest) = largest {
                self.fill_row(largest, weights, panel, index, &mut seen);
            }
        }
        seen
    }

    /// Makes a panel of padding.
    pub(super) fn clear(&self, panel: &mut [u8]) {
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
    fn fill_row(&self, largest: f32, weights: Option<&[f32]>, panel: &mut [u8], index: usize, seen: &mut Seen) {
        let factor = self.search.factor(largest);
        let (factors, blocks) = panel.split_at_mut(self.quantization.factor_bytes());
        if let Some(slot) = factors.as_chunks_mut::<4>().0.get_mut(index) {
            *slot = factor.to_le_bytes();
        }
        // A row of zeros has the factor 0, and integers that give zeros with any factor.
        let inverse = if factor == 0.0 { 0.0 } else { 1.0 / factor };
        let (mut squares, mut squared_errors) = (0.0, 0.0);
        let blocks = blocks.chunks_exact_mut(self.quantization.block_bytes());
        let mut weights = weights.map(|weights| weights.chunks(BLOCK_COLUMNS));
        for (bits, block) in self.row.chunks(BLOCK_COLUMNS).zip(blocks) {
            let mut x = [0.0; BLOCK_COLUMNS];
            let weights = weights.as_mut().and_then(Iterator::next).map(|weights| {
                let mut of_block = [0.0; BLOCK_COLUMNS];
                of_block.iter_mut().zip(weights.iter().cycle()).for_each(|(to, weight)| *to = *weight);
                of_block
            });
            // What fills a last block up are the same numbers again: they choose the same scales.
            x.iter_mut().zip(bits.iter().cycle()).for_each(|(x, &bits)| *x = f32::from_bits(bits) * inverse);
            let (scales, mut row) = self.encode(&x, weights.as_ref());
            if bits.len() < BLOCK_COLUMNS {
                row.codes[bits.len()..].fill(padding(&self.quantization));
                let pairs = || x.iter().zip(row.numbers).take(bits.len());
                row.squares = pairs().map(|(x, _)| x * x).sum();
                row.squared_errors = pairs().map(|(x, number)| (x - number) * (x - number)).sum();
            }
            self.put(scales, &row.codes, block, index);
            if self.quantization.scales == Scales::F16 && row.squares < SMALLEST_SQUARES {
                // No factor has made these numbers large enough for squares in f32.
                let wide = |x: f32| f64::from(x);
                let pairs = || x.iter().zip(row.numbers).take(bits.len());
                squares += pairs().map(|(&x, _)| wide(x) * wide(x)).sum::<f64>();
                squared_errors += pairs().map(|(&x, number)| (wide(x) - wide(number)).powi(2)).sum::<f64>();
            } else {
                squares += f64::from(row.squares);
                squared_errors += f64::from(row.squared_errors);
            }
            let is_changed = |number: f32, bits: u32| u32::from((number * factor).to_bits() != bits);
            let pairs = row.numbers.iter().zip(bits);
            let n_changed = pairs.fold(0u32, |n, (number, bits)| n.wrapping_add(is_changed(*number, *bits)));
            seen.n_changed += u64::from(n_changed);
        }
        let square = f64::from(factor) * f64::from(factor);
        seen.loss.squares += square * squares;
        seen.loss.squared_errors += square * squared_errors;
    }

    /// The scales of the halves of a block, and its numbers.
    fn encode(
        &self,
        x: &[f32; BLOCK_COLUMNS],
        weights: Option<&[f32; BLOCK_COLUMNS]>,
    ) -> ([f32; 2], Encoded<BLOCK_COLUMNS>) {
        if self.quantization.scales != Scales::Row16 {
            let whole = self.search.encode(x, weights);
            return ([whole.scale; 2], whole);
        }
        let half_from = |at: usize| {
            let half = |all: &[f32; BLOCK_COLUMNS]| -> [f32; HALF] { std::array::from_fn(|i| all[at + i]) };
            self.search.encode(&half(x), weights.map(half).as_ref())
        };
        let (first, second) = (half_from(0), half_from(HALF));
        let codes = [first.codes, second.codes];
        let numbers = [first.numbers, second.numbers];
        let both = Encoded {
            scale: 0.0,
            codes: *codes.as_flattened().first_chunk().expect("two halves"),
            numbers: *numbers.as_flattened().first_chunk().expect("two halves"),
            squares: first.squares + second.squares,
            squared_errors: first.squared_errors + second.squared_errors,
        };
        ([first.scale, second.scale], both)
    }

    /// Writes a row of a block.
    pub(super) fn put(&self, [first, second]: [f32; 2], codes: &[u8; BLOCK_COLUMNS], block: &mut [u8], index: usize) {
        let (scales, elements) = block.split_at_mut(self.quantization.scale_bytes());
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
            Elements::Int8 => words.zip(codes.as_chunks::<4>().0).for_each(|(word, quad)| *word = *quad),
            Elements::Int4(_) => words.zip(codes.as_chunks::<8>().0).for_each(|(word, octet)| {
                *word = std::array::from_fn(|i| octet[i] | octet[i + 4] << 4);
            }),
        }
    }
}

/// What encodes an element where the scale is 0: the integer 0, or a level whose product with 0 is +0.
fn zero_code(quantization: &Quantization) -> u8 {
    match quantization.elements {
        Elements::Int8 => ELEMENT_OFFSET,
        Elements::Int4(levels) => levels.get().iter().position(|&level| level >= 0).unwrap_or(0) as u8,
    }
}

/// A byte of elements that are padding, and the code of one: of int8 the integer 0, of int4 the first level.
pub fn padding(quantization: &Quantization) -> u8 {
    match quantization.elements {
        Elements::Int8 => ELEMENT_OFFSET,
        Elements::Int4(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::levels::LEVELS;
    use crate::encode::loss::Loss;
    use crate::folder::element::INFINITY;
    use olmo_infer::internals::format::Dtype;
    use olmo_infer::internals::format::encodings::quantized::{QuantizedPanels, f16_to_f32};
    use olmo_infer::internals::format::panels::PanelShape;

    const ROWS: usize = 5;

    fn all() -> Vec<Quantization> {
        let of_elements =
            |elements| [Scales::F16, Scales::Row32, Scales::Row16].map(|scales| Quantization { elements, scales });
        [Elements::Int8, Elements::Int4(LEVELS)].into_iter().flat_map(of_elements).collect()
    }

    /// About normal numbers, of another size in each row; the first row has an outlier.
    fn numbers(columns: usize) -> Vec<f32> {
        let mut state = 7u32;
        let mut uniform = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut numbers: Vec<f32> = (0..ROWS * columns)
            .map(|at| (0..4).map(|_| uniform()).sum::<f32>() * 0.01 * (1 + at / columns) as f32)
            .collect();
        numbers[3] = 0.5;
        numbers
    }

    /// A panel of these rows, what was seen, and the numbers that it holds.
    fn encoded(quantization: Quantization, numbers: &[f32], columns: usize) -> (Vec<u8>, Seen, Vec<Vec<f32>>) {
        encoded_with(quantization, numbers, columns, None)
    }

    fn encoded_with(
        quantization: Quantization,
        numbers: &[f32],
        columns: usize,
        weights: Option<&[f32]>,
    ) -> (Vec<u8>, Seen, Vec<Vec<f32>>) {
        let rows: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let mut encoder = PanelEncoder::new(quantization, columns, Path::new("")).expect("memory");
        let mut panel = vec![0xaa; quantization.panel_bytes(columns)];
        let seen = encoder.fill(SourceType::F32, &rows, columns, weights, &mut panel);
        let dtype = if quantization.elements == Elements::Int8 { Dtype::Int8 } else { Dtype::Int4 };
        let shape = PanelShape { rows: numbers.len() / columns, columns, dtype };
        let panels = QuantizedPanels::new(quantization, &shape, panel[..].into()).expect("its length");
        let back = (0..shape.rows).map(|row| {
            let mut out = vec![0.0; columns];
            panels.panel(0).copy_row(row, &mut out);
            out
        });
        let back = back.collect();
        (panel, seen, back)
    }

    /// The scales of a row in a block of a panel, with its factor.
    fn scales(quantization: Quantization, panel: &[u8], block: usize, row: usize) -> [f32; 2] {
        let (factors, blocks) = panel.split_at(quantization.factor_bytes());
        let factor = factors.as_chunks().0.get(row).map_or(1.0, |&factor| f32::from_le_bytes(factor));
        let scales = &blocks[block * quantization.block_bytes()..];
        let small = |at: usize| f32::from(scales[at].cast_signed()) * factor;
        match quantization.scales {
            Scales::F16 => [f16_to_f32(u16::from_le_bytes(scales.as_chunks().0[row])); 2],
            Scales::Row32 => [small(row); 2],
            Scales::Row16 => [small(row), small(PANEL_ROWS + row)],
        }
    }

    #[test]
    fn every_number_is_the_nearest_that_its_scale_has() {
        let columns = 70;
        let numbers = numbers(columns);
        for quantization in all() {
            let (panel, seen, back) = encoded(quantization, &numbers, columns);
            let integers: Vec<f32> = match quantization.elements {
                Elements::Int8 => (-127..=127).map(|integer| integer as f32).collect(),
                Elements::Int4(levels) => levels.get().iter().map(|&level| f32::from(level)).collect(),
            };
            let mut loss = Loss::default();
            for (row, back) in back.iter().enumerate() {
                for (column, &found) in back.iter().enumerate() {
                    let wanted = numbers[row * columns + column];
                    let scale = scales(quantization, &panel, column / 32, row)[column % 32 / 16];
                    let distance = |integer: &f32| (wanted - integer * scale).abs();
                    let least = integers.iter().map(distance).fold(f32::INFINITY, f32::min);
                    let error = (wanted - found).abs();
                    // Numbers over a scale are up to 127, and rounded a few times.
                    assert!(error <= least + 5e-5 * scale.abs(), "{quantization:?} [{row}, {column}]");
                    loss.squares += f64::from(wanted).powi(2);
                    loss.squared_errors += f64::from(error).powi(2);
                }
            }
            assert!((seen.loss.relative_rms() / loss.relative_rms() - 1.0).abs() < 1e-3, "{seen:?} {loss:?}");
            let most = if quantization.elements == Elements::Int8 { 0.01 } else { 0.12 };
            assert!((0.3 * most..most).contains(&loss.relative_rms()), "{quantization:?}: {}", loss.relative_rms());
            assert!(seen.n_changed > 0 && seen.min_magnitude() == 0 && !seen.all_zero());
        }
    }

    #[test]
    fn numbers_of_the_encoding_stay_as_they_are() {
        let columns = 64;
        for quantization in all() {
            let (integers, largest) = match quantization.elements {
                Elements::Int8 => ((-127..=127).collect::<Vec<i32>>(), 127.0),
                // Numbers over their factor are multiples of a power of two where the largest number is.
                Elements::Int4(levels) => (levels.get().map(i32::from).to_vec(), -63.0),
            };
            let mut numbers = vec![0.0; columns];
            for (column, number) in numbers.iter_mut().enumerate() {
                *number = integers[column * 7 % integers.len()] as f32 * 0.25;
            }
            // Each group has the number that decides its scale.
            (0..columns).step_by(16).for_each(|column| numbers[column] = largest * 0.25);
            let (_, seen, back) = encoded(quantization, &numbers, columns);
            if quantization.elements == Elements::Int8 {
                assert_eq!((&back[0], seen.n_changed), (&numbers, 0), "{quantization:?}");
                assert_eq!(seen.loss.relative_rms(), 0.0);
            } else {
                assert!(seen.loss.relative_rms() < 0.01, "{quantization:?}: {}", seen.loss.relative_rms());
            }
        }
    }

    #[test]
    fn weights_lower_the_errors_that_count() {
        let columns = 70;
        let numbers = numbers(columns);
        let weights: Vec<f32> = (0..columns).map(|column| [1e-3, 1.0, 40.0][column * column % 3]).collect();
        for quantization in all() {
            let error = |weights_of_search: Option<&[f32]>| -> f32 {
                let (_, _, back) = encoded_with(quantization, &numbers, columns, weights_of_search);
                let errors = back.concat().into_iter().zip(&numbers).map(|(found, wanted)| (found - wanted).powi(2));
                errors.zip(weights.iter().cycle()).map(|(error, weight)| error * weight).sum()
            };
            let (plain, weighted) = (error(None), error(Some(&weights)));
            // In 8 bits chance has a part in which scale rounds best.
            let most = if quantization.elements == Elements::Int8 { 0.99 } else { 0.9 };
            assert!(weighted < most * plain, "{quantization:?}: {weighted} {plain}");
            assert_eq!(
                encoded_with(quantization, &numbers, columns, Some(&[1.0; 70])).0,
                encoded(quantization, &numbers, columns).0
            );
        }
    }

    #[test]
    fn zeros_become_zeros_without_a_sign() {
        for quantization in all() {
            let (panel, seen, back) = encoded(quantization, &[0.0; 40], 40);
            let scales = quantization.scale_bytes();
            assert!(panel[..quantization.factor_bytes() + scales].iter().all(|&byte| byte == 0));
            assert!(back[0].iter().all(|number| number.to_bits() == 0), "{quantization:?}");
            assert!(seen.all_zero() && seen.n_changed == 0);
            let (_, seen, back) = encoded(quantization, &[-0.0; 40], 40);
            assert!(back[0].iter().all(|number| number.to_bits() == 0) && seen.n_changed == 40);
        }
    }

    #[test]
    fn small_and_large_numbers_keep_their_precision() {
        for quantization in all().into_iter().filter(|quantization| quantization.scales != Scales::F16) {
            for size in [1e-33, 1e-20, 1e20, 8e37] {
                let numbers: Vec<f32> = numbers(64).iter().map(|number| number * size).collect();
                let (_, seen, back) = encoded(quantization, &numbers, 64);
                assert!(seen.loss.relative_rms() < 0.12, "{quantization:?} {size}");
                assert!(back.concat().iter().all(|number| number.is_finite()));
            }
            let (_, _, back) = encoded(quantization, &[1e-42; 64], 64);
            assert!(back[0].iter().all(|number| number.abs() < 1e-36));
        }
    }

    #[test]
    fn numbers_below_every_f16_scale_are_lost_and_counted() {
        for quantization in all().into_iter().filter(|quantization| quantization.scales == Scales::F16) {
            let (_, seen, back) = encoded(quantization, &[1e-30; 64], 64);
            assert!(back[0].iter().all(|&number| number == 0.0));
            assert_eq!((seen.loss.relative_rms(), seen.n_changed), (1.0, 64), "{quantization:?}");
        }
    }

    #[test]
    fn numbers_that_cannot_be_stored_are_found() {
        for quantization in all() {
            let mut numbers = numbers(40);
            (numbers[50], numbers[90], numbers[91]) = (f32::from_bits(INFINITY), f32::NAN, f32::NAN);
            numbers[10] = limit(&quantization) * 1.01;
            let (_, seen, back) = encoded(quantization, &numbers, 40);
            assert_eq!((seen.n_nonfinite, seen.first_nonfinite, seen.first_overflow), (3, Some(50), Some(10)));
            assert!(back[..3].concat().iter().all(|number| number.is_finite()));
            numbers.iter_mut().for_each(|number| *number = number.min(limit(&quantization)).max(0.0));
            let (_, seen, back) = encoded(quantization, &numbers, 40);
            assert!(seen.first_overflow.is_none() && back.concat().iter().all(|number| number.is_finite()));
        }
    }
}
