//! The table of a bf12 matrix: its exponents, and which steps are raw.

use crate::format::encodings::bf12::step::{CODED_STEP_BYTES, Exponents, N_CODES, RAW_STEP_BYTES};
use crate::format::kinds::Dtype;
use crate::format::panels::PanelShape;
use crate::format::sizes::{TooLarge, in_memory, product, sum};
use crate::os::memory;
use std::io::{self, Read};
use std::ops::Range;

/// At most one step in this many is raw. With more, the smaller file does not pay for the search for raw steps: the
/// matrix is stored as plain bf16.
pub const STEPS_PER_RAW_STEP: u64 = 8;

/// What is not in the data of a bf12 matrix: its exponents, and which steps are raw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bf12Table {
    exponents: Exponents,
    /// Raw steps before each panel, and in all; `[n_panels + 1]`, from 0.
    raw_before: Vec<u32>,
    /// The raw steps of each panel, ascending, counted from the panel's first.
    raw_steps: Vec<u32>,
}

impl Bf12Table {
    /// A table of a matrix whose panels have these raw steps, each list ascending.
    ///
    /// # Panics
    /// When there are 2^32 raw steps or more.
    pub fn new(exponents: Exponents, panels: impl Iterator<Item = Vec<u32>>) -> Bf12Table {
        let mut table = Bf12Table { exponents, raw_before: vec![0], raw_steps: Vec::new() };
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
    #[expect(clippy::arithmetic_side_effects, reason = "raw_before has an entry more than there are panels")]
    pub fn raw_steps(&self, panel: usize) -> &[u32] {
        &self.raw_steps[self.raw_before[panel] as usize..self.raw_before[panel + 1] as usize]
    }

    /// The range of a panel's steps in the bytes of the matrix.
    ///
    /// # Panics
    /// When there is no such panel.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "Bf12Panels::new has compared the last end with the bytes of the matrix"
    )]
    pub fn panel_range(&self, shape: &PanelShape, panel: usize) -> Range<usize> {
        let begin = |panel: usize| {
            let raw = self.raw_before[panel] as usize * (RAW_STEP_BYTES - CODED_STEP_BYTES);
            panel * n_steps(shape) * CODED_STEP_BYTES + raw
        };
        begin(panel)..begin(panel + 1)
    }

    /// Bytes of the table in the file.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn bytes(shape: &PanelShape, n_raw_steps: u32) -> Result<u64, TooLarge> {
        let numbers = sum([shape.n_panels() as u64, n_raw_steps.into()])?;
        let bytes = sum([product([numbers, 4])?, N_CODES as u64])?;
        in_memory(bytes).map(|_| bytes)
    }

    /// Whether it describes a matrix of `shape` whose data has `bytes` bytes.
    pub(super) fn fits(&self, shape: &PanelShape, bytes: usize) -> bool {
        let n_raw = u32::try_from(self.raw_steps.len());
        let n_panels = self.raw_before.len().checked_sub(1);
        let stated = n_raw.ok().and_then(|n_raw| matrix_bytes(shape, n_raw).ok());
        n_panels == Some(shape.n_panels()) && stated == Some(bytes as u64)
    }

    /// Appends the table as stored in a file.
    #[expect(clippy::arithmetic_side_effects, reason = "raw_before ascends")]
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.exponents.to_bytes());
        let counts = self.raw_before.windows(2).map(|ends| ends[1] - ends[0]);
        out.extend(counts.chain(self.raw_steps.iter().copied()).flat_map(u32::to_le_bytes));
    }

    /// Reads and checks the table of a matrix of `shape` with `n_raw_steps` raw steps from `source`, which has
    /// [`Bf12Table::bytes`] of it. Memory grows with what was read and found valid, not with what the numbers claim.
    ///
    /// # Errors
    /// [`BadTable`].
    pub fn read(source: &mut impl Read, shape: &PanelShape, n_raw_steps: u32) -> Result<Bf12Table, BadTable> {
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
        Ok(Bf12Table { exponents, raw_before, raw_steps })
    }
}

/// Appends to `out` what `number` makes of the next `n` numbers of `source`, which is read in small pieces, and of how
/// many there are in `out` before each.
#[expect(clippy::arithmetic_side_effects, reason = "at most what is left is read, in pieces of a fixed size")]
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
        memory::asking(|| out.try_reserve(bytes.len() / 4)).map_err(|_| BadTable::Memory(n.saturating_mul(4)))?;
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
    /// Its memory, this many bytes, cannot be allocated.
    Memory(usize),
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
pub(super) fn n_steps(shape: &PanelShape) -> usize {
    shape.columns.div_ceil(Dtype::Bf16.columns_per_step())
}

/// Bytes of the data of a matrix with `n_raw_steps` raw steps.
///
/// # Errors
/// [`TooLarge`].
pub fn matrix_bytes(shape: &PanelShape, n_raw_steps: u32) -> Result<u64, TooLarge> {
    let coded = product([shape.n_panels(), n_steps(shape), CODED_STEP_BYTES])?;
    let more_of_raw = product([n_raw_steps as usize, RAW_STEP_BYTES - CODED_STEP_BYTES])?;
    sum([coded, more_of_raw])
}

/// Whether a matrix with `n_raw_steps` raw steps is stored as bf12, or as plain bf16.
pub fn pays(shape: &PanelShape, n_raw_steps: u64) -> bool {
    let steps = product([shape.n_panels(), n_steps(shape)]);
    u32::try_from(n_raw_steps).is_ok() && steps.is_ok_and(|steps| n_raw_steps <= steps / STEPS_PER_RAW_STEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_invalid_table() {
        let shape = PanelShape { rows: 65, columns: 6, dtype: Dtype::Bf16 };
        let ascending: [u8; N_CODES] = std::array::from_fn(|i| i as u8);
        let table = |exponents: [u8; N_CODES], numbers: &[u32]| {
            let numbers = numbers.iter().flat_map(|number| number.to_le_bytes());
            exponents.into_iter().chain(numbers).collect::<Vec<u8>>()
        };
        assert!(Bf12Table::read(&mut table(ascending, &[1, 1, 2, 0]).as_slice(), &shape, 2).is_ok());
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
            match Bf12Table::read(&mut bytes.as_slice(), &shape, n_raw) {
                Err(BadTable::Wrong { found, .. }) => assert!(found.starts_with(expected), "{found}, not {expected}"),
                other => panic!("{other:?}, expected {expected}"),
            }
        }
        let whole = table(ascending, &[1, 1, 2, 0]);
        for length in 0..whole.len() {
            let read = Bf12Table::read(&mut &whole[..length], &shape, 2);
            assert!(
                matches!(&read, Err(BadTable::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof),
                "{read:?}"
            );
        }
    }

    #[test]
    fn sizes_are_checked() {
        let shape = PanelShape { rows: 128, columns: 2048, dtype: Dtype::Bf16 };
        assert_eq!(matrix_bytes(&shape, 0), Ok(2 * 1024 * 192));
        assert_eq!(matrix_bytes(&shape, 7), Ok(2 * 1024 * 192 + 7 * 64));
        assert!(pays(&shape, 256) && !pays(&shape, 257));
        let huge = PanelShape { rows: usize::MAX, columns: usize::MAX, dtype: Dtype::Bf16 };
        assert_eq!(matrix_bytes(&huge, 0), Err(TooLarge));
    }
}
