//! Matrices of bf16 numbers in 12 bits each, without losing a bit: the encoding `ENCODING_CODED` of `format-spec.md`.
//!
//! The exponents of a trained matrix are few: 16 of the 256 cover nearly all of its numbers. A number is stored as a
//! byte of sign and mantissa and a code of four bits for the exponent. A step of a panel, two columns of 64 rows, is
//!
//! ```text
//! 128 bytes   [64][2]  sign and mantissa of (row, column): bit 7 the sign, bits 0 to 6 the mantissa
//!  64 bytes   [16][2]  u16: bits 4j to 4j + 3 of entry (r, column) are the code of row r + 16 j
//! ```
//!
//! so that a kernel gets 32 numbers by a load that extends the sign, a shift of the codes, a lookup of the exponents
//! and a blend. A step with an exponent that has no code is stored raw, as in a plain panel, 256 bytes. Which steps are
//! raw stands in a [`CodedTable`], which is read into owned memory and checked when the file is opened.

use crate::format::{Dtype, PANEL_ROWS};
use crate::panels::PanelShape;
use std::io::{self, Read};
use std::ops::Range;

/// Bytes of a coded step.
pub const CODED_STEP_BYTES: usize = SIGNS_BYTES + CODES_BYTES;
/// Bytes of a raw step.
pub const RAW_STEP_BYTES: usize = 4 * PANEL_ROWS;
/// Bytes of signs and mantissas of a coded step; the codes follow.
pub const SIGNS_BYTES: usize = 2 * PANEL_ROWS;
/// Bytes of codes of a coded step.
const CODES_BYTES: usize = PANEL_ROWS;
/// Exponents that have a code.
pub const N_CODES: usize = 16;
/// A matrix is coded when at most one step in so many is raw: with more, the smaller file no longer pays for the search
/// for raw steps.
pub const STEPS_PER_RAW_STEP: u64 = 8;

/// Bits of a bf16 number outside the exponent.
const SIGN_AND_MANTISSA: u16 = 0x807f;

/// The numbers of a step as a plain panel has them: rows, each with the even column in the low half.
pub type Step = [u32; PANEL_ROWS];

/// Biased exponent of a bf16 number.
fn exponent(bits: u16) -> u8 {
    (bits >> 7) as u8
}

/// The even and the odd column of a row.
fn halves(pair: u32) -> [u16; 2] {
    [pair as u16, (pair >> 16) as u16]
}

/// The exponents of a matrix that have codes, ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exponents([u8; N_CODES]);

impl Exponents {
    /// Those that occur most often among `counts`, the number of occurrences of every biased exponent; the smaller ones
    /// where there are equals.
    pub fn commonest(counts: &[u64; 256]) -> Exponents {
        let mut order: Vec<u8> = (0..=255).collect();
        order.sort_by_key(|&exponent| std::cmp::Reverse(counts[usize::from(exponent)]));
        let mut exponents = [0; N_CODES];
        exponents.copy_from_slice(&order[..N_CODES]);
        exponents.sort_unstable();
        Exponents(exponents)
    }

    /// Exponents as a file has them; `None` unless they ascend.
    pub fn from_bytes(bytes: [u8; N_CODES]) -> Option<Exponents> {
        bytes.is_sorted_by(|a, b| a < b).then_some(Exponents(bytes))
    }

    /// As a file has them.
    pub fn to_bytes(self) -> [u8; N_CODES] {
        self.0
    }

    /// The exponent of every code, in its place in a bf16 number, twice: what a lookup of 32 lanes takes.
    pub fn lanes(&self) -> [u16; 2 * N_CODES] {
        std::array::from_fn(|lane| u16::from(self.0[lane % N_CODES]) << 7)
    }

    /// The code of every biased exponent.
    pub fn codes(&self) -> Codes {
        let mut codes = [NO_CODE; 256];
        for (code, &exponent) in (0..).zip(&self.0) {
            codes[usize::from(exponent)] = code;
        }
        Codes(codes)
    }
}

/// In [`Codes`]: an exponent that has none.
const NO_CODE: u8 = 0x80;

/// The code of every biased exponent that has one.
pub struct Codes([u8; 256]);

impl Codes {
    /// Whether numbers with this biased exponent can be coded.
    #[inline]
    pub fn has_exponent(&self, exponent: u8) -> bool {
        self.0[usize::from(exponent)] != NO_CODE
    }

    /// Codes a step. Of the first `n_rows` rows, both columns are coded, or only the even one when `n_columns` is 1;
    /// the rest is padding, and becomes zero bytes and code 0. `None` when a number has an exponent without a code.
    pub fn encode(&self, step: &Step, n_rows: usize, n_columns: usize) -> Option<[u8; CODED_STEP_BYTES]> {
        let mut out = [0; CODED_STEP_BYTES];
        let (signs, codes) = out.split_at_mut(SIGNS_BYTES);
        let mut all = [[0u8; 2]; PANEL_ROWS];
        // All rows and columns, so that the loops need no ends of their own; padding is cleared afterwards.
        for (&pair, signs) in step.iter().zip(signs.as_chunks_mut().0) {
            *signs = halves(pair).map(|bits| (bits >> 8) as u8 & 0x80 | bits as u8 & 0x7f);
        }
        for (&pair, codes) in step.iter().zip(&mut all) {
            *codes = halves(pair).map(|bits| self.0[usize::from(exponent(bits))]);
        }
        signs[2 * n_rows..].fill(0);
        all[n_rows..].fill([0; 2]);
        if n_columns == 1 {
            signs.as_chunks_mut::<2>().0.iter_mut().for_each(|signs| signs[1] = 0);
            all.iter_mut().for_each(|codes| codes[1] = 0);
        }
        if all.as_flattened().iter().fold(0, |all, code| all | code) & NO_CODE != 0 {
            return None;
        }
        for (entry, codes) in codes.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            // Row 16 j + entry / 2 of the entry's column.
            let code = |j: usize| all.as_flattened()[32 * j + entry];
            *codes = [code(0) | code(1) << 4, code(2) | code(3) << 4];
        }
        Some(out)
    }
}

/// The pair of row `row` of a coded step; `lanes` are those of its exponents.
fn decode_row(step: &[u8; CODED_STEP_BYTES], lanes: &[u16; 2 * N_CODES], row: usize) -> u32 {
    let (signs, codes) = step.split_at(SIGNS_BYTES);
    let (codes, _) = codes.as_chunks::<2>();
    let [even, odd] = [0, 1].map(|column| {
        let sign = signs[2 * row + column].cast_signed();
        let code = u16::from_le_bytes(codes[2 * (row % 16) + column]) >> (4 * (row / 16)) & 0xf;
        i16::from(sign).cast_unsigned() & SIGN_AND_MANTISSA | lanes[usize::from(code)]
    });
    u32::from(even) | u32::from(odd) << 16
}

/// Decodes a coded step. Padding becomes positive numbers that nobody uses: its rows are not read, and its column meets
/// zeros.
pub fn decode(step: &[u8; CODED_STEP_BYTES], exponents: &Exponents) -> Step {
    let lanes = exponents.lanes();
    std::array::from_fn(|row| decode_row(step, &lanes, row))
}

/// The smallest magnitude but zero of a coded step without padding, as the bits of a bf16 number; `None` when all are
/// zeros. As the exponents ascend, so do code and mantissa together: no number needs to be decoded.
pub fn smallest_magnitude(step: &[u8; CODED_STEP_BYTES], exponents: &Exponents) -> Option<u16> {
    let (signs, codes) = step.split_at(SIGNS_BYTES);
    let codes: [u16; 32] = std::array::from_fn(|entry| u16::from_le_bytes([codes[2 * entry], codes[2 * entry + 1]]));
    // Where 0 is a zero, subtracting 1 makes it the largest number, so that the minimum leaves it out.
    let zero = u16::from(exponents.0[0] == 0);
    let mut smallest = [u16::MAX; 32];
    for (j, signs) in signs.as_chunks::<32>().0.iter().enumerate() {
        for ((smallest, &sign), &codes) in smallest.iter_mut().zip(signs).zip(&codes) {
            let code = codes >> (4 * j) & 0xf;
            *smallest = (*smallest).min((code << 7 | u16::from(sign & 0x7f)).wrapping_sub(zero));
        }
    }
    let smallest = smallest.into_iter().min()?.checked_add(zero)?;
    Some(u16::from(exponents.0[usize::from(smallest >> 7)]) << 7 | smallest & 0x7f)
}

/// What is not in the data of a coded matrix: its exponents, and which steps are raw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodedTable {
    exponents: Exponents,
    /// Raw steps before each panel, and in all; `[n_panels + 1]`, from 0.
    raw_before: Vec<u32>,
    /// The raw steps of each panel, ascending, counted from the panel's first.
    raw_steps: Vec<u32>,
}

impl CodedTable {
    /// A table of a matrix whose panels have these raw steps, each list ascending.
    ///
    /// # Panics
    /// When there are 2^32 raw steps or more.
    pub fn new(exponents: Exponents, panels: impl Iterator<Item = Vec<u32>>) -> CodedTable {
        let mut table = CodedTable { exponents, raw_before: vec![0], raw_steps: Vec::new() };
        for mut steps in panels {
            table.raw_steps.append(&mut steps);
            table.raw_before.push(u32::try_from(table.raw_steps.len()).expect("a matrix has fewer raw steps"));
        }
        table
    }

    /// Number of raw steps.
    pub fn n_raw_steps(&self) -> usize {
        self.raw_steps.len()
    }

    /// The exponents.
    pub fn exponents(&self) -> &Exponents {
        &self.exponents
    }

    /// The raw steps of a panel, ascending.
    pub fn raw_steps(&self, panel: usize) -> &[u32] {
        &self.raw_steps[self.raw_before[panel] as usize..self.raw_before[panel + 1] as usize]
    }

    /// Where a panel's steps lie among the bytes of the matrix.
    ///
    /// # Panics
    /// When there is no such panel.
    pub fn panel_range(&self, shape: &PanelShape, panel: usize) -> Range<usize> {
        let begin = |panel: usize| {
            let raw = self.raw_before[panel] as usize * (RAW_STEP_BYTES - CODED_STEP_BYTES);
            panel * n_steps(shape) * CODED_STEP_BYTES + raw
        };
        begin(panel)..begin(panel + 1)
    }

    /// Bytes of the table in the file; `None` when that is no size.
    pub fn bytes(shape: &PanelShape, n_raw_steps: u32) -> Option<usize> {
        let numbers = shape.n_panels().checked_add(n_raw_steps as usize)?;
        numbers.checked_mul(4)?.checked_add(N_CODES)
    }

    /// Appends the table as the file has it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.exponents.0);
        let counts = self.raw_before.windows(2).map(|ends| ends[1] - ends[0]);
        out.extend(counts.chain(self.raw_steps.iter().copied()).flat_map(u32::to_le_bytes));
    }

    /// Reads and checks the table of a matrix of `shape` with `n_raw_steps` raw steps from `source`, which has
    /// [`CodedTable::bytes`] of it. What is kept grows with what was read and found good, whatever the numbers claim.
    ///
    /// # Errors
    /// [`BadTable`].
    pub fn read(source: &mut impl Read, shape: &PanelShape, n_raw_steps: u32) -> Result<CodedTable, BadTable> {
        let wrong = |found: String, expected| BadTable::Wrong { found, expected };
        let mut exponents = [0; N_CODES];
        source.read_exact(&mut exponents)?;
        let exponents = Exponents::from_bytes(exponents)
            .ok_or_else(|| wrong(format!("exponents {exponents:?}"), "ascending exponents"))?;

        let mut raw_before = vec![0];
        let mut before = 0u32;
        for_numbers(source, shape.n_panels(), &mut raw_before, |count, _| {
            let found = || format!("a panel with {count} raw steps after {before} others");
            let sum = before.checked_add(count).filter(|&sum| sum <= n_raw_steps);
            before = sum.ok_or_else(|| wrong(found(), "the raw steps of the record"))?;
            Ok(before)
        })?;
        if before != n_raw_steps {
            return Err(wrong(format!("{before} raw steps"), "the raw steps of the record"));
        }

        let mut raw_steps = Vec::new();
        let mut ends = raw_before[1..].iter().copied();
        let (mut end, mut previous) = (0, None);
        for_numbers(source, n_raw_steps as usize, &mut raw_steps, |step, so_far| {
            while so_far == end as usize {
                (end, previous) = (ends.next().expect("the counts add up"), None);
            }
            if step as usize >= n_steps(shape) || previous.is_some_and(|previous| previous >= step) {
                let after = previous.map_or(String::new(), |previous| format!(" after {previous}"));
                return Err(wrong(format!("raw step {step}{after}"), "ascending steps of the panel"));
            }
            previous = Some(step);
            Ok(step)
        })?;
        Ok(CodedTable { exponents, raw_before, raw_steps })
    }
}

/// Appends to `out` what `number` makes of the next `n` numbers of `source`, which is read in small pieces, and of how many
/// there are in `out` before each.
fn for_numbers(
    source: &mut impl Read,
    n: usize,
    out: &mut Vec<u32>,
    mut number: impl FnMut(u32, usize) -> Result<u32, BadTable>,
) -> Result<(), BadTable> {
    let mut piece = [0; 1 << 14];
    let mut left = n;
    while left > 0 {
        let bytes = &mut piece[..4 * left.min((1 << 14) / 4)];
        source.read_exact(bytes)?;
        left -= bytes.len() / 4;
        out.try_reserve(bytes.len() / 4).map_err(|_| BadTable::Memory)?;
        for &bytes in bytes.as_chunks().0 {
            out.push(number(u32::from_le_bytes(bytes), out.len())?);
        }
    }
    Ok(())
}

/// Why a table could not be read.
#[derive(Debug)]
pub enum BadTable {
    /// The source failed, or ended early.
    Io(io::Error),
    /// The system does not give the memory for it.
    Memory,
    /// Something in it is not what a table has.
    Wrong {
        /// What was found.
        found: String,
        /// What belongs there.
        expected: &'static str,
    },
}

impl From<io::Error> for BadTable {
    fn from(error: io::Error) -> BadTable {
        BadTable::Io(error)
    }
}

/// Steps of one panel of a bf16 matrix.
fn n_steps(shape: &PanelShape) -> usize {
    shape.columns.div_ceil(Dtype::Bf16.columns_per_step())
}

/// Bytes of a coded matrix; `None` when that is no size.
pub fn coded_bytes(shape: &PanelShape, n_raw_steps: u32) -> Option<u64> {
    let steps = (shape.n_panels() as u64).checked_mul(n_steps(shape) as u64)?;
    let raw = u64::from(n_raw_steps).checked_mul((RAW_STEP_BYTES - CODED_STEP_BYTES) as u64)?;
    steps.checked_mul(CODED_STEP_BYTES as u64)?.checked_add(raw)
}

/// Whether a matrix with so many raw steps is coded or stays plain.
pub fn pays(shape: &PanelShape, n_raw_steps: u64) -> bool {
    let steps = shape.n_panels() as u64 * n_steps(shape) as u64;
    u32::try_from(n_raw_steps).is_ok() && n_raw_steps <= steps / STEPS_PER_RAW_STEP
}

/// A coded matrix: its data and its table.
#[derive(Clone, Copy)]
pub struct CodedPanels<'a> {
    bytes: &'a [u8],
    table: &'a CodedTable,
    shape: PanelShape,
}

impl<'a> CodedPanels<'a> {
    /// The matrix of `shape` in `bytes`, with the table that was read for it.
    ///
    /// # Panics
    /// When the lengths do not fit together.
    pub fn new(shape: &PanelShape, bytes: &'a [u8], table: &'a CodedTable) -> CodedPanels<'a> {
        assert_eq!(table.raw_before.len(), shape.n_panels() + 1);
        let n_raw = u32::try_from(table.raw_steps.len()).expect("as CodedTable has made sure");
        assert_eq!(coded_bytes(shape, n_raw), Some(bytes.len() as u64));
        CodedPanels { bytes, table, shape: *shape }
    }

    /// One panel.
    ///
    /// # Panics
    /// When there is no such panel.
    pub fn panel(&self, panel: usize) -> CodedPanel<'a> {
        CodedPanel {
            bytes: &self.bytes[self.table.panel_range(&self.shape, panel)],
            exponents: &self.table.exponents,
            raw_steps: self.table.raw_steps(panel),
            first_step: 0,
            n_steps: n_steps(&self.shape),
        }
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// A step as it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredStep<'a> {
    /// In 12 bits a number.
    Coded(&'a [u8; CODED_STEP_BYTES]),
    /// As in a plain panel.
    Raw(&'a [u8; RAW_STEP_BYTES]),
}

impl StoredStep<'_> {
    /// Its numbers, as a plain panel has them; see [`decode`] about padding.
    pub fn numbers(&self, exponents: &Exponents) -> Step {
        match self {
            StoredStep::Coded(bytes) => decode(bytes, exponents),
            StoredStep::Raw(bytes) => {
                let pairs = bytes.as_chunks::<4>().0;
                std::array::from_fn(|row| u32::from_le_bytes(pairs[row]))
            }
        }
    }
}

/// One panel of a coded matrix, or some consecutive steps of one.
#[derive(Clone, Copy)]
pub struct CodedPanel<'a> {
    bytes: &'a [u8],
    exponents: &'a Exponents,
    /// Its raw steps, ascending, counted from the panel's first step.
    raw_steps: &'a [u32],
    /// Its own first step, counted likewise.
    first_step: usize,
    n_steps: usize,
}

impl<'a> CodedPanel<'a> {
    /// Number of steps.
    pub fn n_steps(&self) -> usize {
        self.n_steps
    }

    /// Its exponents.
    pub fn exponents(&self) -> &'a Exponents {
        self.exponents
    }

    /// The data, step after step.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Runs of coded steps, each but the last followed by one raw step: `(coded steps, whether a raw step follows)`.
    ///
    /// # Panics
    /// When the raw steps do not ascend inside the panel; [`CodedTable::read`] has checked that.
    pub fn stretches(&self) -> impl Iterator<Item = (usize, bool)> {
        let last = self.first_step + self.n_steps;
        let ends = self.raw_steps.iter().map(|&step| (step as usize, true)).chain([(last, false)]);
        ends.scan(self.first_step, move |next, (end, raw)| {
            // Before a kernel walks over the stretch: it believes every one of them.
            assert!(*next <= end && end + usize::from(raw) <= last);
            let coded = end - *next;
            *next = end + usize::from(raw);
            Some((coded, raw))
        })
    }

    /// The steps as they lie in the file.
    pub fn steps(&self) -> impl Iterator<Item = StoredStep<'a>> + use<'a> {
        let (mut left, mut raw_steps) = (self.bytes, self.raw_steps);
        (self.first_step..self.first_step + self.n_steps).map(move |step| {
            let is_raw = raw_steps.first().is_some_and(|&raw| raw as usize == step);
            let (bytes, rest) = left.split_at(if is_raw { RAW_STEP_BYTES } else { CODED_STEP_BYTES });
            left = rest;
            raw_steps = &raw_steps[usize::from(is_raw)..];
            match bytes.as_array() {
                Some(coded) => StoredStep::Coded(coded),
                None => StoredStep::Raw(bytes.as_array().expect("the other length")),
            }
        })
    }

    /// The first `steps` steps, and the rest.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn split_at(&self, steps: usize) -> (CodedPanel<'a>, CodedPanel<'a>) {
        assert!(steps <= self.n_steps);
        let at = self.first_step + steps;
        let (raw_before, raw_after) =
            self.raw_steps.split_at(self.raw_steps.partition_point(|&raw| (raw as usize) < at));
        let bytes = steps * CODED_STEP_BYTES + raw_before.len() * (RAW_STEP_BYTES - CODED_STEP_BYTES);
        let (before, after) = self.bytes.split_at(bytes);
        (
            CodedPanel { bytes: before, raw_steps: raw_before, n_steps: steps, ..*self },
            CodedPanel { bytes: after, raw_steps: raw_after, first_step: at, n_steps: self.n_steps - steps, ..*self },
        )
    }

    /// Parts of `steps` steps each, the last one shorter when they do not divide.
    pub fn chunks(&self, steps: usize) -> impl Iterator<Item = CodedPanel<'a>> {
        let mut rest = *self;
        std::iter::from_fn(move || {
            let (part, after) = rest.split_at(steps.min(rest.n_steps));
            rest = after;
            (part.n_steps > 0).then_some(part)
        })
    }

    /// The pairs of row `row` of the panel, step after step.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, row: usize) -> impl Iterator<Item = u32> {
        assert!(row < PANEL_ROWS);
        let lanes = self.exponents.lanes();
        self.steps().map(move |step| match step {
            StoredStep::Raw(bytes) => u32::from_le_bytes(bytes.as_chunks().0[row]),
            StoredStep::Coded(bytes) => decode_row(bytes, &lanes, row),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step of numbers with exponents among `exponents`, and everything else mixed.
    fn step(exponents: &Exponents, seed: u32) -> Step {
        std::array::from_fn(|row| {
            let mix = (row as u32 + 1).wrapping_mul(0x9e37_79b1).wrapping_add(seed.wrapping_mul(0x85eb_ca6b));
            let number = |mix: u32| mix & 0x807f | u32::from(exponents.0[(mix >> 8) as usize % N_CODES]) << 7;
            number(mix & 0xffff) | number(mix >> 16) << 16
        })
    }

    fn some_exponents() -> Exponents {
        Exponents(std::array::from_fn(|i| [0, 1, 2, 3, 90, 91, 92, 100, 120, 121, 122, 123, 124, 125, 126, 255][i]))
    }

    #[test]
    fn a_coded_step_comes_back() {
        let exponents = some_exponents();
        for seed in 0..100 {
            let step = step(&exponents, seed);
            let coded = exponents.codes().encode(&step, 64, 2).expect("all exponents have codes");
            assert_eq!(decode(&coded, &exponents), step);
        }
    }

    #[test]
    fn padding_needs_no_code_and_is_zero_bytes() {
        let exponents = Exponents(std::array::from_fn(|i| i as u8 + 100));
        let mut step = step(&exponents, 3);
        step[5..].fill(0);
        step[..5].iter_mut().for_each(|pair| *pair &= 0xffff);
        assert!(exponents.codes().encode(&step, 64, 2).is_none());
        let coded = exponents.codes().encode(&step, 5, 1).expect("what counts has codes");
        for (row, (found, number)) in decode(&coded, &exponents).into_iter().zip(step).enumerate() {
            let expected = if row < 5 { number | 100 << 7 << 16 } else { 100 << 7 << 16 | 100 << 7 };
            assert_eq!(found, expected, "{row}");
        }
        assert!(coded[10..SIGNS_BYTES].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn smallest_magnitudes_are_those_of_the_decoded_numbers() {
        let other = Exponents(std::array::from_fn(|i| i as u8 + 100));
        for exponents in [some_exponents(), other] {
            for seed in 0..100 {
                let mut step = step(&exponents, seed);
                // The smallest number in every place in turn, zeros around it where they have a code.
                if exponents.codes().has_exponent(0) {
                    step.iter_mut().step_by(1 + seed as usize).for_each(|pair| *pair &= 0x8000_8000);
                    step[seed as usize % 64] |= 1 << (16 * (seed & 1));
                }
                let coded = exponents.codes().encode(&step, 64, 2).expect("all exponents have codes");
                let magnitudes = step.iter().flat_map(|&pair| halves(pair)).map(|bits| bits & 0x7fff);
                assert_eq!(smallest_magnitude(&coded, &exponents), magnitudes.filter(|&bits| bits != 0).min());
            }
        }
        let zeros = some_exponents().codes().encode(&[0x8000_0000; 64], 64, 2).expect("zero has a code");
        assert_eq!(smallest_magnitude(&zeros, &some_exponents()), None);
    }

    #[test]
    fn the_commonest_exponents_win_and_ascend() {
        let mut counts = [0; 256];
        counts[100..140].fill(5);
        counts[77] = 6;
        counts[200] = 1000;
        let exponents = Exponents::commonest(&counts).to_bytes();
        assert_eq!(exponents, [77, 100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111, 112, 113, 200]);
    }

    #[test]
    fn raw_steps_are_found_in_their_place() {
        let exponents = some_exponents();
        let shape = PanelShape { rows: 130, columns: 9, dtype: Dtype::Bf16 };
        let raw = [vec![0, 3, 4], vec![], vec![4]];
        let mut bytes = Vec::new();
        let mut steps = Vec::new();
        for (panel, raw) in raw.iter().enumerate() {
            for index in 0..5u32 {
                let mut step = step(&exponents, panel as u32 * 5 + index);
                if raw.contains(&index) {
                    step[17] = 0x4040_3f80;
                    bytes.extend(step.iter().flat_map(|pair| pair.to_le_bytes()));
                } else {
                    bytes.extend(exponents.codes().encode(&step, 64, 2).expect("codes"));
                }
                steps.push(step);
            }
        }
        let table = CodedTable::new(exponents, raw.into_iter());
        let mut written = Vec::new();
        table.write(&mut written);
        assert_eq!(CodedTable::bytes(&shape, 4), Some(written.len()));
        assert_eq!(CodedTable::read(&mut written.as_slice(), &shape, 4).ok().as_ref(), Some(&table));
        let panels = CodedPanels::new(&shape, &bytes, &table);
        for (panel, steps) in steps.chunks(5).enumerate() {
            let panel = panels.panel(panel);
            assert!(panel.steps().map(|step| step.numbers(&exponents)).eq(steps.iter().copied()));
            (0..64).for_each(|row| assert!(panel.row(row).eq(steps.iter().map(|step| step[row])), "{row}"));
        }
        let stretches: Vec<_> = panels.panel(0).stretches().collect();
        assert_eq!(stretches, [(0, true), (2, true), (0, true), (0, false)]);
        let (first, rest) = panels.panel(0).split_at(3);
        assert_eq!(first.stretches().collect::<Vec<_>>(), [(0, true), (2, false)]);
        assert_eq!(rest.stretches().collect::<Vec<_>>(), [(0, true), (0, true), (0, false)]);
        assert_eq!(rest.row(7).collect::<Vec<_>>(), [steps[3][7], steps[4][7]]);
    }

    #[test]
    fn a_table_of_another_matrix_is_never_walked_beyond_the_panel() {
        let shape = PanelShape { rows: 64, columns: 10, dtype: Dtype::Bf16 };
        let bytes = [0; 5 * CODED_STEP_BYTES + (RAW_STEP_BYTES - CODED_STEP_BYTES)];
        let table = CodedTable::new(some_exponents(), [vec![100]].into_iter());
        let panels = CodedPanels::new(&shape, &bytes, &table);
        let first = std::panic::catch_unwind(|| panels.panel(0).stretches().next());
        assert!(first.is_err(), "{first:?}");
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let shape = PanelShape { rows: 65, columns: 6, dtype: Dtype::Bf16 };
        let ascending: [u8; N_CODES] = std::array::from_fn(|i| i as u8);
        let table = |exponents: [u8; N_CODES], numbers: &[u32]| {
            let numbers = numbers.iter().flat_map(|number| number.to_le_bytes());
            exponents.into_iter().chain(numbers).collect::<Vec<u8>>()
        };
        assert!(CodedTable::read(&mut table(ascending, &[1, 1, 2, 0]).as_slice(), &shape, 2).is_ok());
        let mut equal = ascending;
        equal[3] = 2;
        let cases = [
            (table(equal, &[1, 1, 2, 0]), 2, "exponents"),
            (table(ascending, &[2, 1, 2, 0]), 2, "a panel with 1 raw steps after 2 others"),
            (table(ascending, &[u32::MAX, 3, 2, 0]), 2, "a panel with 4294967295 raw steps"),
            (table(ascending, &[0, 1, 2, 0]), 2, "1 raw steps"),
            (table(ascending, &[2, 0, 1, 1]), 2, "raw step 1 after 1"),
            (table(ascending, &[2, 0, 2, 1]), 2, "raw step 1 after 2"),
            (table(ascending, &[1, 1, 3, 0]), 2, "raw step 3"),
        ];
        for (bytes, n_raw, expected) in cases {
            match CodedTable::read(&mut bytes.as_slice(), &shape, n_raw) {
                Err(BadTable::Wrong { found, .. }) => assert!(found.starts_with(expected), "{found}, not {expected}"),
                other => panic!("{other:?}, expected {expected}"),
            }
        }
        let whole = table(ascending, &[1, 1, 2, 0]);
        for length in 0..whole.len() {
            let read = CodedTable::read(&mut &whole[..length], &shape, 2);
            assert!(
                matches!(&read, Err(BadTable::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof),
                "{read:?}"
            );
        }
    }

    #[test]
    fn sizes_are_checked() {
        let shape = PanelShape { rows: 128, columns: 2048, dtype: Dtype::Bf16 };
        assert_eq!(coded_bytes(&shape, 0), Some(2 * 1024 * 192));
        assert_eq!(coded_bytes(&shape, 7), Some(2 * 1024 * 192 + 7 * 64));
        assert!(pays(&shape, 256) && !pays(&shape, 257));
        let huge = PanelShape { rows: usize::MAX, columns: usize::MAX, dtype: Dtype::Bf16 };
        assert_eq!(coded_bytes(&huge, 0), None);
    }
}
