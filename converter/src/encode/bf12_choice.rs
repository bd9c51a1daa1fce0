//! Which bf16 matrices are stored in 12 bits an element, and with which tables.
//!
//! Two passes over the elements of a matrix come before the one that writes it: the first counts exponents, the most
//! frequent of which get codes; the second finds the steps with an exponent that has no code. Both passes over a matrix
//! run before the next matrix, so that the second pass finds it in the page cache.

use crate::encode::buffer::grow;
use crate::error::Error;
use crate::folder::element::{SourceType, f16_to_f32, round_to_bf16};
use crate::model::checkpoint::Source;
use olmo_infer::internals::format::encodings::bf12::{Bf12Table, Codes, Exponents, pays};
use olmo_infer::internals::format::panels::PanelShape;
use olmo_infer::internals::format::{Dtype, PANEL_ROWS, section};
use rayon::ThreadPool;
use rayon::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes looked at in one go, or one row where that is longer.
const BLOCK: usize = 1 << 20;

/// Occurrences of every biased exponent.
type Counts = [u64; 256];

/// Why the search for raw steps ended early.
enum Stop {
    TooMany,
    Failed(Error),
}

/// The tables of matrices, an entry for each; `None` for those in which too many steps are raw, and for those with the
/// longest tables where all together are longer than a file may have them. The elements are those that a bf16 matrix
/// stores.
///
/// # Errors
/// A file cannot be read or changed meanwhile; out of memory.
pub fn tables(pool: &ThreadPool, matrices: &[&Source]) -> Result<Vec<Option<Bf12Table>>, Error> {
    let shapes: Vec<Option<PanelShape>> = matrices.iter().map(|source| source.spec.panel_shape(Dtype::Bf16)).collect();
    let table = |(source, shape): (&&Source, &Option<PanelShape>)| match shape {
        Some(shape) => pool.install(|| table(source, shape)),
        None => Ok(None),
    };
    let mut tables = matrices.iter().zip(&shapes).map(table).collect::<Result<Vec<_>, _>>()?;
    fit(&shapes, &mut tables, section::max_bytes(section::BF12));
    Ok(tables)
}

/// Removes the longest tables until the others have at most `most` bytes together.
fn fit(shapes: &[Option<PanelShape>], tables: &mut [Option<Bf12Table>], most: u64) {
    let bytes = |shape: &Option<PanelShape>, table: &Option<Bf12Table>| match (shape, table) {
        (Some(shape), Some(table)) => Bf12Table::bytes(shape, table.n_raw_steps() as u32).unwrap_or(u64::MAX),
        _ => 0,
    };
    let mut lengths: Vec<u64> = shapes.iter().zip(&*tables).map(|(shape, table)| bytes(shape, table)).collect();
    while lengths.iter().sum::<u64>() > most {
        let longest = (0..lengths.len()).max_by_key(|&i| lengths[i]).expect("there are some");
        (tables[longest], lengths[longest]) = (None, 0);
    }
}

/// What [`tables`] would be for a matrix without a raw step: that of the smallest possible file. `None` for a vector.
pub fn least_table(source: &Source) -> Option<Bf12Table> {
    let n_panels = source.spec.panel_shape(Dtype::Bf16)?.n_panels();
    Some(Bf12Table::new(Exponents::commonest(&[0; 256]), std::iter::repeat_n(Vec::new(), n_panels)))
}

fn table(source: &Source, shape: &PanelShape) -> Result<Option<Bf12Table>, Error> {
    let exponents = Exponents::commonest(&*counts(source)?);
    match raw_steps(source, shape, &exponents.codes()) {
        Ok(panels) => Ok(Some(Bf12Table::new(exponents, panels.into_iter()))),
        Err(Stop::TooMany) => Ok(None),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// Counts the exponents of a matrix.
fn counts(source: &Source) -> Result<Box<Counts>, Error> {
    let bytes = source.tensor.all_bytes();
    let count = |(mut counts, mut buffer): (Box<Counts>, Vec<u8>), block: u64| {
        let offset = block * BLOCK as u64;
        let length = (bytes - offset).min(BLOCK as u64) as usize;
        grow(&mut buffer, length, &source.tensor.file.path)?;
        source.tensor.read(offset, &mut buffer[..length])?;
        count_exponents(source.tensor.element, &buffer[..length], &mut counts);
        Ok((counts, buffer))
    };
    let nothing = || (Box::new([0; 256]), Vec::new());
    let counted = (0..bytes.div_ceil(BLOCK as u64)).into_par_iter().try_fold(nothing, count);
    let counted = counted.map(|counted| counted.map(|(counts, _)| counts));
    counted.try_reduce(
        || Box::new([0; 256]),
        |mut sum, counts| {
            sum.iter_mut().zip(*counts).for_each(|(sum, count)| *sum += count);
            Ok(sum)
        },
    )
}

/// Adds the exponents of at most 2^32 numbers.
fn count_exponents(source: SourceType, bytes: &[u8], counts: &mut Counts) {
    match source {
        SourceType::F32 => count_elements(bytes, counts, f32_exponent),
        SourceType::F16 => count_elements(bytes, counts, f16_exponent),
        SourceType::Bf16 => count_elements(bytes, counts, bf16_exponent),
    }
}

/// [`count_exponents`] for elements of `N` bytes.
fn count_elements<const N: usize>(bytes: &[u8], counts: &mut Counts, exponent: impl Fn([u8; N]) -> u8) {
    // Neighbours often have the same exponent. With a counter for each of them one addition need not wait for the
    // other.
    let mut lanes = [[0u32; 256]; 4];
    let (groups, rest) = bytes.as_chunks::<N>().0.as_chunks::<4>();
    for group in groups {
        for (lane, &element) in lanes.iter_mut().zip(group) {
            lane[usize::from(exponent(element))] += 1;
        }
    }
    for &element in rest {
        lanes[0][usize::from(exponent(element))] += 1;
    }
    for (i, count) in counts.iter_mut().enumerate() {
        *count += lanes.iter().map(|lane| u64::from(lane[i])).sum::<u64>();
    }
}

/// The exponent of the bf16 number that an f32 is rounded to.
fn f32_exponent(bytes: [u8; 4]) -> u8 {
    (round_to_bf16(u32::from_le_bytes(bytes)) >> 7) as u8
}

/// The exponent of the bf16 number that an f16 is rounded to.
fn f16_exponent(bytes: [u8; 2]) -> u8 {
    (round_to_bf16(f16_to_f32(u16::from_le_bytes(bytes))) >> 7) as u8
}

/// The exponent of a bf16 number.
fn bf16_exponent(bytes: [u8; 2]) -> u8 {
    (u16::from_le_bytes(bytes) >> 7) as u8
}

/// The raw steps of each panel: those with an exponent that has no code.
fn raw_steps(source: &Source, shape: &PanelShape, codes: &Codes) -> Result<Vec<Vec<u32>>, Stop> {
    let row_bytes = shape.columns * source.tensor.element.bytes();
    let rows_per_block = (BLOCK / row_bytes).clamp(1, PANEL_ROWS);
    let n_raw = AtomicU64::new(0);
    let of_panel = |(buffer, is_raw): &mut (Vec<u8>, Vec<bool>), panel: usize| {
        is_raw.clear();
        is_raw.resize(shape.padded_columns() / 2, false);
        let first = panel * PANEL_ROWS;
        let end = shape.rows.min(first + PANEL_ROWS);
        for row in (first..end).step_by(rows_per_block) {
            let length = rows_per_block.min(end - row) * row_bytes;
            grow(buffer, length, &source.tensor.file.path).map_err(Stop::Failed)?;
            let block = &mut buffer[..length];
            source.tensor.read((row * row_bytes) as u64, block).map_err(Stop::Failed)?;
            block.chunks_exact(row_bytes).for_each(|row| mark_raw(source.tensor.element, row, codes, is_raw));
        }
        let steps: Vec<u32> = (0..).zip(&*is_raw).filter(|(_, is_raw)| **is_raw).map(|(step, _)| step).collect();
        let before = n_raw.fetch_add(steps.len() as u64, Ordering::Relaxed);
        if pays(shape, before + steps.len() as u64) { Ok(steps) } else { Err(Stop::TooMany) }
    };
    let panels = (0..shape.n_panels()).into_par_iter();
    panels.map_init(|| (Vec::new(), Vec::new()), of_panel).collect()
}

/// Marks the steps in which a row has a number without a code.
fn mark_raw(source: SourceType, row: &[u8], codes: &Codes, is_raw: &mut [bool]) {
    match source {
        SourceType::F32 => mark_elements(row, codes, is_raw, f32_exponent),
        SourceType::F16 => mark_elements(row, codes, is_raw, f16_exponent),
        SourceType::Bf16 => mark_elements(row, codes, is_raw, bf16_exponent),
    }
}

/// [`mark_raw`] for elements of `N` bytes.
fn mark_elements<const N: usize>(row: &[u8], codes: &Codes, is_raw: &mut [bool], exponent: impl Fn([u8; N]) -> u8) {
    let (pairs, rest) = row.as_chunks::<N>().0.as_chunks::<2>();
    for (is_raw, &[even, odd]) in is_raw.iter_mut().zip(pairs) {
        *is_raw |= !codes.has_exponent(exponent(even)) | !codes.has_exponent(exponent(odd));
    }
    if let (Some(is_raw), &[last]) = (is_raw.last_mut(), rest) {
        *is_raw |= !codes.has_exponent(exponent(last));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::bf12::tests::matrix;

    #[test]
    fn the_longest_tables_are_left_out_where_not_all_fit() {
        let shape = PanelShape { rows: 64, columns: 16, dtype: Dtype::Bf16 };
        let shapes = [Some(shape), None, Some(shape), Some(shape)];
        let table = |n: u32| Bf12Table::new(Exponents::commonest(&[0; 256]), [(0..n).collect()].into_iter());
        // 16 exponents, a panel's number, and 1, 3 and 2 raw steps.
        let lengths = [24, 32, 28];
        let fitted = |most| {
            let mut tables = [Some(table(1)), None, Some(table(3)), Some(table(2))];
            fit(&shapes, &mut tables, most);
            [0, 2, 3].map(|i: usize| tables[i].is_some())
        };
        assert_eq!(fitted(lengths.iter().sum()), [true, true, true]);
        assert_eq!(fitted(83), [true, false, true]);
        assert_eq!(fitted(51), [true, false, false]);
        assert_eq!(fitted(23), [false, false, false]);
    }

    #[test]
    fn exponents_are_counted_and_steps_without_codes_marked() {
        let shape = PanelShape { rows: 70, columns: 15, dtype: Dtype::Bf16 };
        let (rows, _) = matrix(&shape, &[(3, 4), (69, 14)]);
        let mut counts = [0; 256];
        count_exponents(SourceType::Bf16, &rows, &mut counts);
        assert_eq!((counts.iter().sum::<u64>(), counts[127]), (70 * 15, 2));
        let exponents = Exponents::commonest(&counts);
        assert_eq!(exponents.to_bytes(), std::array::from_fn(|i| 100 + i as u8));
        let mut is_raw = [[false; 8]; 2];
        for (row, bytes) in rows.chunks(30).enumerate() {
            mark_raw(SourceType::Bf16, bytes, &exponents.codes(), &mut is_raw[row / 64]);
        }
        let expected = [
            [false, false, true, false, false, false, false, false],
            [false, false, false, false, false, false, false, true],
        ];
        assert_eq!(is_raw, expected);
    }

    #[test]
    fn exponents_are_those_after_rounding() {
        let mut counts = [0; 256];
        let numbers = [1.0f32, 2.0 - f32::EPSILON, -0.75, 1e-40, f32::INFINITY];
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        count_exponents(SourceType::F32, &bytes, &mut counts);
        let found: Vec<(usize, u64)> = counts.into_iter().enumerate().filter(|(_, count)| *count > 0).collect();
        assert_eq!(found, [(0, 1), (126, 1), (127, 1), (128, 1), (255, 1)]);
    }
}
