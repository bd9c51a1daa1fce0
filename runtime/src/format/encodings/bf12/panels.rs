//! The panels of a bf12 matrix, walked step by step.

use crate::format::encodings::bf12::step::{CODED_STEP_BYTES, Exponents, RAW_STEP_BYTES, Step, decode, decode_row};
use crate::format::encodings::bf12::table::{Bf12Table, n_steps};
use crate::format::mapped_bytes::MappedBytes;
use crate::format::panels::{PANEL_ROWS, PanelShape};

/// A bf12 matrix: its data and its table.
#[derive(Clone, Copy)]
pub struct Bf12Panels<'a> {
    bytes: MappedBytes<'a>,
    table: &'a Bf12Table,
    shape: PanelShape,
}

impl<'a> Bf12Panels<'a> {
    /// The matrix of `shape` in `bytes`, with the table that was read for it.
    ///
    /// # Panics
    /// When the lengths do not fit together.
    pub fn new(shape: &PanelShape, bytes: MappedBytes<'a>, table: &'a Bf12Table) -> Bf12Panels<'a> {
        assert!(table.fits(shape, bytes.len()), "a table of another matrix");
        Bf12Panels { bytes, table, shape: *shape }
    }

    /// One panel.
    ///
    /// # Panics
    /// When there is no such panel.
    pub fn panel(&self, panel: usize) -> Bf12Panel<'a> {
        Bf12Panel {
            bytes: self.bytes.get(self.table.panel_range(&self.shape, panel)).expect("the table is of these bytes"),
            exponents: self.table.exponents(),
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

/// A copy of a step as stored in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredStep {
    /// In 12 bits a number.
    Coded([u8; CODED_STEP_BYTES]),
    /// As in a plain panel.
    Raw([u8; RAW_STEP_BYTES]),
}

impl StoredStep {
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

/// One panel of a bf12 matrix, or some consecutive steps of one.
#[derive(Clone, Copy)]
pub struct Bf12Panel<'a> {
    bytes: MappedBytes<'a>,
    exponents: &'a Exponents,
    /// Its raw steps, ascending, counted from the panel's first step.
    raw_steps: &'a [u32],
    /// Its own first step, counted likewise.
    first_step: usize,
    n_steps: usize,
}

impl<'a> Bf12Panel<'a> {
    /// Number of steps.
    pub fn n_steps(&self) -> usize {
        self.n_steps
    }

    /// Its exponents.
    pub fn exponents(&self) -> &'a Exponents {
        self.exponents
    }

    /// The data, step after step.
    pub fn bytes(&self) -> MappedBytes<'a> {
        self.bytes
    }

    /// Runs of coded steps, each but the last followed by one raw step: `(coded steps, whether a raw step follows)`.
    ///
    /// # Panics
    /// When the raw steps do not ascend inside the panel; [`Bf12Table::read`] has checked that.
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

    /// Steps before the first raw one, or all steps.
    pub fn coded_steps(&self) -> usize {
        self.raw_steps.first().map_or(self.n_steps, |&raw| (raw as usize - self.first_step).min(self.n_steps))
    }

    /// The steps as stored in the file.
    pub fn steps(&self) -> impl Iterator<Item = StoredStep> + use<'a> {
        let (mut left, mut raw_steps) = (self.bytes.for_kernels(), self.raw_steps);
        (self.first_step..self.first_step + self.n_steps).map(move |step| {
            let is_raw = raw_steps.first().is_some_and(|&raw| raw as usize == step);
            let (bytes, rest) = left.split_at(if is_raw { RAW_STEP_BYTES } else { CODED_STEP_BYTES });
            left = rest;
            raw_steps = &raw_steps[usize::from(is_raw)..];
            match <&[u8; CODED_STEP_BYTES]>::try_from(bytes) {
                Ok(coded) => StoredStep::Coded(*coded),
                Err(_) => StoredStep::Raw(bytes.try_into().expect("the other length")),
            }
        })
    }

    /// The first `steps` steps, and the rest.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn split_at(&self, steps: usize) -> (Bf12Panel<'a>, Bf12Panel<'a>) {
        assert!(steps <= self.n_steps);
        let at = self.first_step + steps;
        let (raw_before, raw_after) =
            self.raw_steps.split_at(self.raw_steps.partition_point(|&raw| (raw as usize) < at));
        let bytes = steps * CODED_STEP_BYTES + raw_before.len() * (RAW_STEP_BYTES - CODED_STEP_BYTES);
        let (before, after) = self.bytes.split_at(bytes).expect("a panel has the bytes of its steps");
        (
            Bf12Panel { bytes: before, raw_steps: raw_before, n_steps: steps, ..*self },
            Bf12Panel { bytes: after, raw_steps: raw_after, first_step: at, n_steps: self.n_steps - steps, ..*self },
        )
    }

    /// Parts of `steps` steps each, the last one shorter when they do not divide.
    pub fn chunks(&self, steps: usize) -> impl Iterator<Item = Bf12Panel<'a>> {
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
            StoredStep::Coded(bytes) => decode_row(&bytes, &lanes, row),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::step::tests::{some_exponents, step};
    use super::*;
    use crate::format::kinds::Dtype;

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
        let table = Bf12Table::new(exponents, raw.into_iter());
        let mut written = Vec::new();
        table.write(&mut written);
        assert_eq!(Bf12Table::bytes(&shape, 4), Ok(written.len() as u64));
        assert_eq!(Bf12Table::read(&mut written.as_slice(), &shape, 4).ok().as_ref(), Some(&table));
        let panels = Bf12Panels::new(&shape, bytes[..].into(), &table);
        for (panel, steps) in steps.chunks(5).enumerate() {
            let panel = panels.panel(panel);
            assert!(panel.steps().map(|step| step.numbers(&exponents)).eq(steps.iter().copied()));
            (0..64).for_each(|row| assert!(panel.row(row).eq(steps.iter().map(|step| step[row])), "{row}"));
        }
        let stretches: Vec<_> = panels.panel(0).stretches().collect();
        assert_eq!(stretches, [(0, true), (2, true), (0, true), (0, false)]);
        assert_eq!(panels.panel(0).coded_steps(), 0);
        let (first, rest) = panels.panel(0).split_at(3);
        assert_eq!((first.coded_steps(), first.split_at(1).1.coded_steps(), rest.coded_steps()), (0, 2, 0));
        assert_eq!(first.stretches().collect::<Vec<_>>(), [(0, true), (2, false)]);
        assert_eq!(rest.stretches().collect::<Vec<_>>(), [(0, true), (0, true), (0, false)]);
        assert_eq!(rest.row(7).collect::<Vec<_>>(), [steps[3][7], steps[4][7]]);
    }

    #[test]
    fn a_table_of_another_matrix_is_never_walked_beyond_the_panel() {
        let shape = PanelShape { rows: 64, columns: 10, dtype: Dtype::Bf16 };
        let bytes = [0; 5 * CODED_STEP_BYTES + (RAW_STEP_BYTES - CODED_STEP_BYTES)];
        let table = Bf12Table::new(some_exponents(), [vec![100]].into_iter());
        let panels = Bf12Panels::new(&shape, bytes[..].into(), &table);
        let first = std::panic::catch_unwind(|| panels.panel(0).stretches().next());
        assert!(first.is_err(), "{first:?}");
    }
}
