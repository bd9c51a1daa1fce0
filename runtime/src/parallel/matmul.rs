//! Products of weight matrices with rows of activations, on all threads of the team.

use crate::error::Error;
use crate::format::encodings::quantized::{BLOCK_COLUMNS, Elements, QuantizedPanel};
use crate::format::matrix::{Matrix, Panels};
use crate::kernels::LaneOp;
use crate::kernels::backend::Backend;
use crate::kernels::bf16::{Bf16Panel, Bf16Rows, RoundGroup, round_to_bf16};
use crate::kernels::grid::{OutputBlock, OutputGrid};
use crate::kernels::isa::Isa;
use crate::kernels::packed_rows::{ALIGNMENT_WORDS, aligned};
use crate::kernels::quantized::{Form, Precision, QuantizeRow, QuantizedRows, widen_blocks};
use crate::kernels::streaming::Streaming;
use crate::os::zeroed::ZeroedBuffer;
use crate::parallel::team::Team;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

/// What weights are multiplied with that are not f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// What suits the weights, the default: bf16 for bf16 weights, which is what the dot products of the hardware take;
    /// 16-bit integers for int8, whose own error they do not add to; 8-bit integers for int4.
    Auto,
    /// 16-bit integers for all quantized weights.
    Int16,
    /// 8-bit integers for all quantized weights.
    Int8,
    /// Activations as they are; the weights are widened.
    F32,
}

impl Activations {
    /// The one of that name: `auto`, `int16`, `int8` or `f32`.
    pub fn named(name: &str) -> Option<Activations> {
        [Activations::Auto, Activations::Int16, Activations::Int8, Activations::F32]
            .into_iter()
            .find(|activations| activations.name() == name)
    }

    /// Its name, as [`Activations::named`] takes it.
    pub fn name(self) -> &'static str {
        match self {
            Activations::Auto => "auto",
            Activations::Int16 => "int16",
            Activations::Int8 => "int8",
            Activations::F32 => "f32",
        }
    }

    /// How activations for a matrix are converted.
    fn conversion(self, backend: Backend, matrix: &Matrix) -> Conversion {
        match (&matrix.panels, self) {
            (Panels::F32(_), _) | (_, Activations::F32) => Conversion::None,
            (Panels::Bf16(_) | Panels::Bf12(_), _) => Conversion::Bf16,
            (Panels::Quantized(panels), _) => {
                let quantization = panels.quantization();
                let precision = match (self, quantization.elements) {
                    (Activations::Int16, _) | (Activations::Auto, Elements::Int8) => Precision::Int16,
                    _ => Precision::Int8,
                };
                Conversion::Integers(backend.isa.form(&quantization, precision))
            }
        }
    }
}

/// Forms of integers that one instruction set takes: one of 16 bits, and two of 8.
const MOST_FORMS: usize = 3;

/// How activations are converted for a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conversion {
    None,
    Bf16,
    Integers(Form),
}

/// Multiplies; owns the buffers of converted activations.
pub struct Matmul {
    backend: Backend,
    activations: Activations,
    /// Activations rounded to bf16, as the kernels take them.
    words: ZeroedBuffer<u32>,
    /// Activations rounded to bf16, for `gemm`, `[rows, columns]`.
    rounded: ZeroedBuffer<f32>,
    /// Activations rounded to integers, in each form that a matrix needs.
    integers: [Option<(Form, ZeroedBuffer<u32>)>; MOST_FORMS],
}

/// Panel steps of bf16 weights that are widened at a time (64 KiB of f32), and the width of a panel.
const WIDEN_STEPS: usize = 128;
const WIDTH: usize = crate::format::PANEL_ROWS;
/// Rows of activations for which there is always room in the form of [`Backend::few`]: of a batch of 8 sequences that
/// take 8 experts each.
const MOST_FEW_ROWS: usize = 64;
/// Up to this number of rows memory limits the speed.
const FEW_ROWS: usize = 6;

impl Matmul {
    /// For products of these matrices with at most `max_rows` rows of activations of at most `max_columns` columns.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new<'m>(
        backend: Backend,
        activations: Activations,
        matrices: impl IntoIterator<Item = Matrix<'m>>,
        max_rows: usize,
        max_columns: usize,
    ) -> Result<Matmul, Error> {
        const WHAT: &str = "the activations";
        let (mut rounds, mut integers) = (false, [const { None }; MOST_FORMS]);
        for matrix in matrices {
            match activations.conversion(backend, &matrix) {
                Conversion::None => {}
                Conversion::Bf16 => rounds = true,
                Conversion::Integers(form) => {
                    let is_it = |buffer: &&mut Option<(Form, _)>| buffer.as_ref().is_none_or(|(of, _)| *of == form);
                    let buffer = integers.iter_mut().find(is_it).expect("room for each form");
                    if buffer.is_none() {
                        let words = max_rows.saturating_mul(form.row_words(max_columns));
                        *buffer = Some((form, ZeroedBuffer::new(words, WHAT)?));
                    }
                }
            }
        }
        // A size that overflows saturates, and its allocation then fails.
        let words_of = |isa: Isa, rows: usize| rows.saturating_mul(isa.arrangement().row_words(max_columns));
        let words = words_of(backend.isa, max_rows).max(words_of(backend.few, max_rows.min(MOST_FEW_ROWS)));
        let words = words.saturating_add(ALIGNMENT_WORDS);
        let words = if rounds && !backend.gemm { words } else { 0 };
        let rounded = if rounds && backend.gemm { max_rows.saturating_mul(max_columns) } else { 0 };
        let (words, rounded) = (ZeroedBuffer::new(words, WHAT)?, ZeroedBuffer::new(rounded, WHAT)?);
        Ok(Matmul { backend, activations, words, rounded, integers })
    }

    /// `out[t][r] = sum over k of matrix[r][k] * x[t][k]` for every matrix, in one phase of the team.
    ///
    /// `x` is `[rows, columns]` with the columns of the matrices, which they share; each output is
    /// `[rows, matrix rows]`. A matrix is multiplied as its own encoding requires, regardless of the others.
    pub fn run<const N: usize>(&mut self, team: &mut Team, x: &[f32], outputs: [(&Matrix, &mut [f32]); N]) {
        let columns = outputs[0].0.shape.columns;
        let rows = x.len() / columns;
        let backend = self.backend;
        let matrices = outputs.each_ref().map(|(matrix, _)| *matrix);
        let conversions = matrices.map(|matrix| self.activations.conversion(backend, matrix));
        let inputs = self.converted(team, x, columns, None, Conversions::of(conversions));
        let block_rows = rows.clamp(1, backend.isa.chunk_rows());
        let block_columns = block_columns(backend, rows);
        let mut grids = outputs.map(|(matrix, out)| {
            assert!(matrix.shape.columns == columns && out.len() == rows * matrix.shape.rows);
            OutputGrid::new(out, matrix.shape.rows, block_rows, block_columns)
        });
        team.for_blocks(&mut grids, |index, mut out| {
            let input = inputs.of_rows(conversions[index], out.first_row()..out.first_row() + out.rows());
            multiply_panels(backend, matrices[index], &input, &mut out);
        });
    }

    /// Most rows of a range of [`Matmul::run_grouped`].
    pub fn most_group_rows(&self) -> usize {
        self.backend.isa.chunk_rows()
    }

    /// As [`Matmul::run`], with another matrix for each of some ranges of rows: matrix `i` of an output for range `i`.
    /// The ranges ascend; none is longer than [`Matmul::most_group_rows`]. The matrices of an output have one shape, and
    /// all of them the columns of `x`.
    pub fn run_grouped<'m, const N: usize>(
        &mut self,
        team: &mut Team,
        x: &[f32],
        ranges: &[Range<usize>],
        matrices: [&(dyn Fn(usize) -> Matrix<'m> + Sync); N],
        outputs: [&mut [f32]; N],
    ) {
        if ranges.is_empty() {
            return;
        }
        let (backend, columns) = (self.backend, matrices[0](0).shape.columns);
        let rows = x.len() / columns;
        // Matrices of one role can have several encodings: each kind of input is there if one needs it.
        let all = (0..ranges.len()).flat_map(|range| matrices.map(|matrix| matrix(range)));
        let conversions = Conversions::of(all.map(|matrix| self.activations.conversion(backend, &matrix)));
        let activations = self.activations;
        let inputs = self.converted(team, x, columns, Some(ranges), conversions);
        let block_columns = block_columns(backend, longest(ranges));
        let mut grids = outputs.into_iter().zip(matrices).map(|(out, matrix)| {
            let width = matrix(0).shape.rows;
            assert!(out.len() == rows * width);
            OutputGrid::of_ranges(out, width, ranges, block_columns)
        });
        let mut grids: [OutputGrid; N] = std::array::from_fn(|_| grids.next().expect("one for each output"));
        team.for_blocks(&mut grids, |index, mut out| {
            let range = ranges.partition_point(|range| range.start < out.first_row());
            let matrix = matrices[index](range);
            assert!(matrix.shape.columns == columns);
            let input = inputs.of_rows(activations.conversion(backend, &matrix), ranges[range].clone());
            multiply_panels(backend, &matrix, &input, &mut out);
        });
    }

    /// `x` in each form that some matrices need. With ranges, the rows of each are arranged by themselves.
    fn converted<'a>(
        &'a mut self,
        team: &mut Team,
        x: &'a [f32],
        columns: usize,
        ranges: Option<&[Range<usize>]>,
        conversions: Conversions,
    ) -> Converted<'a> {
        let backend = self.backend;
        for (form, words) in self.integers.iter_mut().flatten() {
            if conversions.integers.contains(&Some(*form)) {
                to_integers(backend, team, x, columns, *form, words);
            }
        }
        let bf16 = match conversions.bf16 {
            true => Some(to_bf16(backend, team, x, columns, ranges, &mut self.words, &mut self.rounded)),
            false => None,
        };
        Converted { x, columns, bf16, integers: &self.integers }
    }
}

/// The conversions that some matrices need.
#[derive(Default)]
struct Conversions {
    bf16: bool,
    integers: [Option<Form>; MOST_FORMS],
}

impl Conversions {
    fn of(conversions: impl IntoIterator<Item = Conversion>) -> Conversions {
        conversions.into_iter().fold(Conversions::default(), |mut all, conversion| {
            match conversion {
                Conversion::None => {}
                Conversion::Bf16 => all.bf16 = true,
                Conversion::Integers(form) => {
                    let is_it = |of: &&mut Option<Form>| of.is_none_or(|of| of == form);
                    *all.integers.iter_mut().find(is_it).expect("room for each form") = Some(form);
                }
            }
            all
        })
    }
}

/// Activations `[rows, columns]` as they are, and in the forms that they were converted to.
struct Converted<'a> {
    x: &'a [f32],
    columns: usize,
    bf16: Option<Rounded<'a>>,
    integers: &'a [Option<(Form, ZeroedBuffer<u32>)>; MOST_FORMS],
}

/// Activations rounded to bf16.
enum Rounded<'a> {
    /// As the kernels of an instruction set take them, all together.
    Words(Bf16Rows<'a>, Isa),
    /// The rows of each range by themselves.
    Ranges(Bf16Rows<'a>, Isa),
    /// As `gemm` takes them.
    F32(&'a [f32]),
}

impl<'a> Converted<'a> {
    /// Some of the rows: a whole range, or rows from the first of a group on.
    fn of_rows(&self, conversion: Conversion, rows: Range<usize>) -> Input<'a> {
        let (columns, n_rows) = (self.columns, rows.len());
        let numbers = rows.start * columns..rows.end * columns;
        match conversion {
            Conversion::None => Input::F32 { x: &self.x[numbers], stride: columns },
            Conversion::Bf16 => match self.bf16 {
                Some(Rounded::F32(rounded)) => Input::F32 { x: &rounded[numbers], stride: columns },
                Some(Rounded::Words(all, isa)) => Input::Bf16(all.part(rows), isa),
                Some(Rounded::Ranges(all, isa)) => {
                    let row = all.arrangement.row_words(columns);
                    let words = &all.words[rows.start * row..rows.end * row];
                    Input::Bf16(Bf16Rows::new(words, n_rows, columns, all.arrangement, all.min_magnitude), isa)
                }
                None => unreachable!("the conversions of all matrices were asked for"),
            },
            Conversion::Integers(form) => {
                let buffer = self.integers.iter().flatten().find(|(of, _)| *of == form);
                let (_, words) = buffer.expect("a buffer for each form of the matrices");
                let row = form.row_words(columns);
                let words = &words[rows.start * row..rows.end * row];
                Input::Integers(QuantizedRows { words, rows: n_rows, columns, form })
            }
        }
    }
}

/// Columns of a block of outputs: panels by turns only where memory is the limit, and in pieces that leave work for
/// every thread.
fn block_columns(backend: Backend, rows: usize) -> usize {
    let panels =
        if rows <= FEW_ROWS { backend.isa_of(rows).streaming().panels.clamp(1, Streaming::MAX_PANELS) } else { 1 };
    panels * WIDTH
}

/// Rows of the longest range.
fn longest(ranges: &[Range<usize>]) -> usize {
    ranges.iter().map(Range::len).max().unwrap_or(1)
}

/// Rounds `x` to bf16, as the kernels take it in `words`, or `gemm` in `rounded`.
fn to_bf16<'a>(
    backend: Backend,
    team: &mut Team,
    x: &[f32],
    columns: usize,
    ranges: Option<&[Range<usize>]>,
    words: &'a mut [u32],
    rounded: &'a mut [f32],
) -> Rounded<'a> {
    let rows = x.len() / columns;
    if backend.gemm {
        let rounded = &mut rounded[..x.len()];
        team.for_rows(rounded, columns, |row, rounded| {
            for (rounded, &x) in rounded.iter_mut().zip(&x[row * columns..]) {
                *rounded = f32::from_bits(u32::from(round_to_bf16(x)) << 16);
            }
        });
        return Rounded::F32(rounded);
    }
    let room = words.len().saturating_sub(ALIGNMENT_WORDS);
    let has_room = |isa: &Isa| rows * isa.arrangement().row_words(columns) <= room;
    let isa = Some(backend.isa_of(ranges.map_or(rows, longest))).filter(has_room).unwrap_or(backend.isa);
    let arrangement = isa.arrangement();
    let row_words = arrangement.row_words(columns);
    let words = aligned(words, rows * row_words);
    let min_magnitude = AtomicU32::new(u32::MAX);
    // Of a group, which stays one, or of a whole range.
    let round = |first: usize, words: &mut [u32]| {
        let rows = words.len() / row_words;
        let (x, group_rows) = (&x[first * columns..][..rows * columns], arrangement.group_rows(rows));
        let groups = x.chunks(group_rows * columns).zip(words.chunks_mut(group_rows * row_words));
        for (x, words) in groups {
            let smallest = isa.run(RoundGroup { x, columns, arrangement, words });
            min_magnitude.fetch_min(smallest, Ordering::Relaxed);
        }
    };
    match ranges {
        None => team.for_row_groups(words, row_words, arrangement.group_rows(rows), round),
        Some(ranges) => team.for_row_ranges(words, row_words, ranges, round),
    }
    let all = Bf16Rows::new(words, rows, columns, arrangement, min_magnitude.into_inner());
    if ranges.is_some() { Rounded::Ranges(all, isa) } else { Rounded::Words(all, isa) }
}

/// Rounds `x` to integers, in the form that the kernels take.
fn to_integers(backend: Backend, team: &mut Team, x: &[f32], columns: usize, form: Form, words: &mut [u32]) {
    let row_words = form.row_words(columns);
    let words = &mut words[..x.len() / columns * row_words];
    team.for_row_groups(words, row_words, 1, |row, words| {
        backend.isa.run(QuantizeRow { x: &x[row * columns..][..columns], form, words });
    });
}

/// Activations in the form that the kernels take.
#[derive(Clone, Copy)]
enum Input<'a> {
    F32 {
        x: &'a [f32],
        stride: usize,
    },
    /// With the instruction set that they are arranged for.
    Bf16(Bf16Rows<'a>, Isa),
    Integers(QuantizedRows<'a>),
}

/// The panels of a block of outputs, whose columns are the panels' rows; `input` has the rows of the block.
fn multiply_panels(backend: Backend, matrix: &Matrix, input: &Input, out: &mut OutputBlock) {
    let (first, n) = (out.first_column() / WIDTH, out.columns().div_ceil(WIDTH));
    let steps = matrix.shape.panel_elements() / matrix.shape.dtype.columns_per_step();
    if let Input::Bf16(x, isa) = input {
        let panel = |index: usize| match matrix.panels {
            Panels::Bf16(panels) => Bf16Panel::Plain(&panels[index * steps..][..steps]),
            Panels::Bf12(panels) => Bf16Panel::Bf12(panels.panel(index)),
            Panels::F32(_) | Panels::Quantized(_) => unreachable!("their activations are not bf16"),
        };
        let panels: [Bf16Panel; Streaming::MAX_PANELS] =
            std::array::from_fn(|i| if i < n { panel(first + i) } else { Bf16Panel::Plain(&[]) });
        let safe = no_subnormals(matrix.min_magnitude, x.min_magnitude);
        return isa.product_bf16(&panels[..n], x, out, safe);
    }
    if let (Input::Integers(x), Panels::Quantized(matrix)) = (input, matrix.panels) {
        // A panel that is not there is never read: the first one in its place.
        let panels: [QuantizedPanel; Streaming::MAX_PANELS] =
            std::array::from_fn(|i| matrix.panel(if i < n { first + i } else { first }));
        return backend.isa.product_quantized(&panels[..n], x, out);
    }
    for index in 0..n {
        let columns = index * WIDTH..out.columns().min((index + 1) * WIDTH);
        multiply_exactly(backend, matrix, first + index, input, &mut out.part(0..out.rows(), columns));
    }
}

/// Panel `panel` times activations as they are.
fn multiply_exactly(backend: Backend, matrix: &Matrix, panel: usize, input: &Input, out: &mut OutputBlock) {
    let shape = &matrix.shape;
    let steps = shape.panel_elements() / shape.dtype.columns_per_step();
    let &Input::F32 { x, stride } = input else { unreachable!("`multiply_panels` has taken the others") };
    match matrix.panels {
        Panels::F32(panels) => {
            backend.product_f32(&panels[panel * steps..][..steps], WIDTH, x, stride, out, false);
        }
        Panels::Bf16(panels) => {
            let pieces = panels[panel * steps..][..steps].chunks(WIDEN_STEPS * WIDTH);
            multiply_widened(backend, pieces, shape.columns, x, stride, out, |pairs, out| {
                backend.isa.run(Widen { pairs, out });
            });
        }
        Panels::Bf12(panels) => {
            let panel = panels.panel(panel);
            let mut decoded = [0; WIDEN_STEPS * WIDTH];
            multiply_widened(backend, panel.chunks(WIDEN_STEPS), shape.columns, x, stride, out, |piece, out| {
                let pairs = &mut decoded[..piece.n_steps() * WIDTH];
                backend.isa.decode(&piece, pairs);
                backend.isa.run(Widen { pairs, out });
            });
        }
        Panels::Quantized(panels) => {
            let panel = panels.panel(panel);
            let pieces = (0..panel.n_blocks()).step_by(2 * WIDEN_STEPS / BLOCK_COLUMNS);
            multiply_widened(backend, pieces, shape.columns, x, stride, out, |block, out| {
                widen_blocks(&panel, block, out);
            });
        }
    }
}

/// A panel times activations as they are: widens the panel piece by piece, each of twice [`WIDEN_STEPS`] columns but the
/// last.
fn multiply_widened<P>(
    backend: Backend,
    pieces: impl Iterator<Item = P>,
    columns: usize,
    x: &[f32],
    stride: usize,
    out: &mut OutputBlock,
    mut widen: impl FnMut(P, &mut [f32]),
) {
    thread_local! {
        // There from the beginning, because a thread may take its first item at any token.
        static WIDENED: RefCell<[f32; 2 * WIDEN_STEPS * WIDTH]> = const { RefCell::new([0.0; 2 * WIDEN_STEPS * WIDTH]) };
    }
    WIDENED.with_borrow_mut(|widened| {
        for (index, piece) in pieces.enumerate() {
            let first = 2 * index * WIDEN_STEPS;
            // An odd last column is not multiplied with its padding.
            let columns = (columns - first).min(2 * WIDEN_STEPS);
            widen(piece, &mut widened[..2 * columns.div_ceil(2) * WIDTH]);
            backend.product_f32(&widened[..columns * WIDTH], WIDTH, &x[first..], stride, out, index > 0);
        }
    });
}

/// Pairs `[steps][64]` to f32 `[2 * steps][64]`.
struct Widen<'a> {
    pairs: &'a [u32],
    out: &'a mut [f32],
}

impl LaneOp for Widen<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let steps = self.pairs.as_chunks::<WIDTH>().0;
        for (out, pairs) in self.out.as_chunks_mut::<{ 2 * WIDTH }>().0.iter_mut().zip(steps) {
            let (even, odd) = out.split_at_mut(WIDTH);
            for i in 0..WIDTH {
                even[i] = f32::from_bits(pairs[i] << 16);
                odd[i] = f32::from_bits(pairs[i] & 0xffff_0000);
            }
        }
    }
}

/// Whether no product and no sum of products of bf16 numbers with at least these magnitudes can be subnormal, so that
/// plain FMA gives the bits of the flushing dot product.
///
/// A bf16 number of exponent e is a multiple of 2^(e - 7), so every product is a multiple of
/// 2^(e_w + e_x - 14), and so is every rounded sum; with e_w + e_x >= -112 that is a multiple of 2^-126, the smallest
/// normal number. A magnitude of zero or `u32::MAX` means that there are no non-zero numbers: the result is true. With
/// subnormal weights or activations it is false.
pub fn no_subnormals(min_weight: u32, min_activation: u32) -> bool {
    let exponent = |bits: u32| (bits >> 23) as i32 - 127;
    let normal = |bits: u32| bits >> 23 != 0;
    let none = |bits: u32| bits == 0 || bits == u32::MAX;
    if none(min_weight) || none(min_activation) {
        return true;
    }
    normal(min_weight) && normal(min_activation) && exponent(min_weight) + exponent(min_activation) >= -112
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Dtype;
    use crate::format::encodings::quantized::{Quantization, QuantizedPanels, Scales};
    use crate::format::panels::PanelShape;

    #[test]
    fn nothing_is_subnormal_from_the_bound_on() {
        let power = |exponent: i32| f32::powi(2.0, exponent).to_bits();
        for (weight, activation, expected) in [
            (power(-60), power(-52), true),
            (power(-60), power(-53), false),
            (power(-61), power(-52), false),
            // Rounded down to a power of two.
            (power(-60) | 0x007f_0000, power(-53) | 0x007f_0000, false),
            (power(-126), power(14), true),
            (0x0001_0000, power(100), false),
            (power(100), 0x0001_0000, false),
            (0, power(-126), true),
            (0x0001_0000, u32::MAX, true),
        ] {
            assert_eq!(no_subnormals(weight, activation), expected, "{weight:08x} {activation:08x}");
        }
    }

    /// One row for each of several experts: few rows of each, and more than few in all.
    #[test]
    fn single_rows_of_many_matrices_have_room() {
        let ones = [0x3f80_3f80; 16 * WIDTH];
        let shape = PanelShape { rows: WIDTH, columns: 32, dtype: Dtype::Bf16 };
        let matrix = Matrix { shape, panels: Panels::Bf16(&ones), min_magnitude: 1f32.to_bits() };
        let own = crate::kernels::Isa::available().iter().map(|&isa| Backend::of(isa));
        for (backend, n_rows) in own.chain([Backend::best()]).flat_map(|backend| [(backend, 9), (backend, 200)]) {
            let x: Vec<f32> = (0..n_rows * 32).map(|i| (i / 32 + 1) as f32).collect();
            let ranges: Vec<Range<usize>> = (0..n_rows).map(|row| row..row + 1).collect();
            let mut out = vec![0.0; n_rows * WIDTH];
            let mut matmul = Matmul::new(backend, Activations::Auto, [matrix], n_rows, 32).expect("memory");
            let run = |team: &mut Team| matmul.run_grouped(team, &x, &ranges, [&|_| matrix], [&mut out]);
            crate::parallel::team::with_team(2, run).expect("runs");
            for (row, out) in out.chunks_exact(WIDTH).enumerate() {
                assert_eq!(out, [32.0 * (row + 1) as f32; WIDTH], "{backend:?}, row {row} of {n_rows}");
            }
        }
    }

    #[test]
    fn a_size_that_overflows_is_an_error() {
        let shape = PanelShape { rows: 0, columns: 0, dtype: Dtype::Bf16 };
        let bf16 = Matrix { shape, panels: Panels::Bf16(&[]), min_magnitude: 0 };
        let quantization = Quantization { elements: Elements::Int8, scales: Scales::F16 };
        let panels = QuantizedPanels::new(quantization, &shape, [][..].into()).expect("no panels");
        let int8 = Matrix { panels: Panels::Quantized(panels), ..bf16 };
        for isa in crate::kernels::Isa::available() {
            for matrix in [bf16, int8] {
                for (rows, columns) in [(1, usize::MAX), (usize::MAX, 32), (usize::MAX / 80, 33)] {
                    let error = Matmul::new(Backend::of(*isa), Activations::Auto, [matrix], rows, columns).err();
                    assert!(matches!(error, Some(Error::OutOfMemory { .. })), "{isa:?} {rows} {columns}");
                }
            }
        }
    }
}
