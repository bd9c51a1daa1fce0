//! Panels of bf16 matrices in 12 bits an element.

use olmo_infer::internals::format::PANEL_ROWS;
use olmo_infer::internals::format::encodings::bf12::{
    Bf12Panel, Bf12Table, RAW_STEP_BYTES, Step, StoredStep, smallest_magnitude,
};
use olmo_infer::internals::format::panels::PanelShape;

/// Encodes panel `panel` of a matrix from `plain`, its plain layout. `out` has exactly the length of the panel's steps.
/// False when a step that is not raw has an element without a code: the table is then that of other elements.
///
/// # Panics
/// When the lengths do not fit.
pub fn code_panel(table: &Bf12Table, shape: &PanelShape, panel: usize, plain: &[u8], out: &mut [u8]) -> bool {
    let codes = table.exponents().codes();
    let n_rows = n_rows(shape, panel);
    let mut raw_steps = table.raw_steps(panel).iter().peekable();
    let mut left = out;
    let mut put = |bytes: &[u8]| {
        let slot = left.split_off_mut(..bytes.len()).expect("room for the steps of the panel");
        slot.copy_from_slice(bytes);
    };
    for (index, step) in plain.as_chunks::<RAW_STEP_BYTES>().0.iter().enumerate() {
        if raw_steps.next_if(|&&raw| raw as usize == index).is_some() {
            put(step);
            continue;
        }
        let words = step.as_chunks::<4>().0;
        let pairs: Step = std::array::from_fn(|row| u32::from_le_bytes(words[row]));
        match codes.encode(&pairs, n_rows, n_columns(shape, index)) {
            Some(coded) => put(&coded),
            None => return false,
        }
    }
    assert!(left.is_empty(), "the steps fill the panel");
    true
}

/// Appends the steps of a panel in the plain layout; padding can have any value.
pub fn decode_panel(panel: &Bf12Panel, out: &mut Vec<u32>) {
    for step in panel.steps() {
        out.extend(step.numbers(panel.exponents()));
    }
}

/// What `verify` checks in a bf12 panel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Padding that is not zero.
    pub padding: bool,
    /// A raw step whose numbers all have codes.
    pub needless_raw: bool,
    /// The smallest magnitude but zero, as the bits of a bf16 number.
    pub smallest: Option<u16>,
}

/// Looks at panel number `index` of a matrix.
pub fn look_at_panel(panel: &Bf12Panel, shape: &PanelShape, index: usize) -> Look {
    let codes = panel.exponents().codes();
    let n_rows = n_rows(shape, index);
    let mut look = Look::default();
    for (step, stored) in panel.steps().enumerate() {
        let n_columns = n_columns(shape, step);
        let smallest = match stored {
            // Nearly all steps: every bit of them belongs to a number.
            StoredStep::Coded(bytes) if n_rows == PANEL_ROWS && n_columns == 2 => {
                smallest_magnitude(&bytes, panel.exponents())
            }
            _ => {
                let numbers = stored.numbers(panel.exponents());
                let without_padding = clear_padding(numbers, n_rows, n_columns);
                let coded = codes.encode(&numbers, n_rows, n_columns);
                match stored {
                    // Coding again gives the same bytes, unless there is something where padding should be.
                    StoredStep::Coded(bytes) => look.padding |= coded != Some(bytes),
                    StoredStep::Raw(_) => {
                        look.padding |= numbers != without_padding;
                        look.needless_raw |= coded.is_some();
                    }
                }
                let magnitudes = without_padding.iter().flat_map(|&pair| [pair as u16, (pair >> 16) as u16]);
                magnitudes.map(|bits| bits & 0x7fff).filter(|&bits| bits != 0).min()
            }
        };
        look.smallest = look.smallest.into_iter().chain(smallest).min();
    }
    look
}

/// A step with zeros as padding.
fn clear_padding(mut step: Step, n_rows: usize, n_columns: usize) -> Step {
    step[n_rows..].fill(0);
    if n_columns == 1 {
        step.iter_mut().for_each(|pair| *pair &= 0xffff);
    }
    step
}

/// Rows of a panel that are not padding.
fn n_rows(shape: &PanelShape, panel: usize) -> usize {
    (shape.rows - panel * PANEL_ROWS).min(PANEL_ROWS)
}

/// Columns of a step that are not padding.
fn n_columns(shape: &PanelShape, step: usize) -> usize {
    (shape.columns - 2 * step).min(2)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::encode::panels::fill_panel;
    use crate::folder::element::SourceType;
    use olmo_infer::internals::format::Dtype;
    use olmo_infer::internals::format::encodings::bf12::{Bf12Panels, CODED_STEP_BYTES, Exponents};

    /// A matrix in the order of an `.npy` file, and its panels in the plain layout. Exponents are 100 to 115, except at
    /// `outliers`.
    pub fn matrix(shape: &PanelShape, outliers: &[(usize, usize)]) -> (Vec<u8>, Vec<u8>) {
        let mut state = 1u32;
        let mut numbers: Vec<u16> = (0..shape.rows * shape.columns)
            .map(|_| {
                state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                (state >> 16) as u16 & 0x807f | (100 + (state >> 10) as u16 % 16) << 7
            })
            .collect();
        for &(row, column) in outliers {
            numbers[row * shape.columns + column] = 0x3f80;
        }
        let rows: Vec<u8> = numbers.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let mut plain = vec![0; shape.n_panels() * shape.panel_bytes()];
        let rows_of_panels = rows.chunks(PANEL_ROWS * shape.columns * 2);
        for (rows, panel) in rows_of_panels.zip(plain.chunks_mut(shape.panel_bytes())) {
            fill_panel(SourceType::Bf16, rows, shape.columns, Dtype::Bf16, panel);
        }
        (rows, plain)
    }

    #[test]
    fn panels_round_trip_through_bf12() {
        let shape = PanelShape { rows: 70, columns: 15, dtype: Dtype::Bf16 };
        let (_, plain) = matrix(&shape, &[(3, 4), (69, 14)]);
        let exponents = Exponents::from_bytes(std::array::from_fn(|i| 100 + i as u8)).expect("ascending");
        let table = Bf12Table::new(exponents, [vec![2], vec![7]].into_iter());
        let mut coded = vec![0xaa; 14 * CODED_STEP_BYTES + 2 * RAW_STEP_BYTES];
        for (panel, plain) in plain.chunks(shape.panel_bytes()).enumerate() {
            assert!(code_panel(&table, &shape, panel, plain, &mut coded[table.panel_range(&shape, panel)]));
        }
        let panels = Bf12Panels::new(&shape, coded[..].into(), &table);
        for (panel, plain) in plain.chunks(shape.panel_bytes()).enumerate() {
            let stored = panels.panel(panel);
            let back = stored.steps().enumerate().flat_map(|(step, stored)| {
                clear_padding(stored.numbers(&exponents), n_rows(&shape, panel), n_columns(&shape, step))
            });
            assert_eq!(back.flat_map(u32::to_le_bytes).collect::<Vec<u8>>(), plain);
            let numbers = plain.as_chunks::<2>().0.iter().map(|&bytes| u16::from_le_bytes(bytes) & 0x7fff);
            let smallest = numbers.filter(|&bits| bits != 0).min();
            assert!(smallest.is_some());
            let expected = Look { padding: false, needless_raw: false, smallest };
            assert_eq!(look_at_panel(&stored, &shape, panel), expected);
        }
    }

    #[test]
    fn numbers_that_are_not_those_of_the_table_are_found() {
        let shape = PanelShape { rows: 64, columns: 4, dtype: Dtype::Bf16 };
        let (_, plain) = matrix(&shape, &[(3, 2)]);
        let exponents = Exponents::from_bytes(std::array::from_fn(|i| 100 + i as u8)).expect("ascending");
        let mut out = [0; 2 * CODED_STEP_BYTES];
        assert!(!code_panel(&Bf12Table::new(exponents, [vec![]].into_iter()), &shape, 0, &plain, &mut out));
        // Raw without need.
        let table = Bf12Table::new(exponents, [vec![0, 1]].into_iter());
        let mut out = [0; 2 * RAW_STEP_BYTES];
        assert!(code_panel(&table, &shape, 0, &plain, &mut out));
        let panels = Bf12Panels::new(&shape, out[..].into(), &table);
        let look = look_at_panel(&panels.panel(0), &shape, 0);
        assert_eq!((look.padding, look.needless_raw), (false, true));
    }

    #[test]
    fn padding_of_coded_steps_that_is_not_zero_is_found() {
        let shape = PanelShape { rows: 5, columns: 3, dtype: Dtype::Bf16 };
        let (_, plain) = matrix(&shape, &[]);
        let exponents = Exponents::from_bytes(std::array::from_fn(|i| 100 + i as u8)).expect("ascending");
        let table = Bf12Table::new(exponents, [vec![]].into_iter());
        let mut coded = [0; 2 * CODED_STEP_BYTES];
        assert!(code_panel(&table, &shape, 0, &plain, &mut coded));
        let mut n_found = 0;
        for bit in 0..8 * coded.len() {
            let mut damaged = coded;
            damaged[bit / 8] ^= 1 << (bit % 8);
            let panels = Bf12Panels::new(&shape, damaged[..].into(), &table);
            let look = look_at_panel(&panels.panel(0), &shape, 0);
            n_found += usize::from(look.padding);
        }
        // All bits but the twelve of each number.
        assert_eq!(n_found, 8 * coded.len() - 12 * 15);
    }
}
