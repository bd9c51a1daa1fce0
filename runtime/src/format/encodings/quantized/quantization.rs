//! What a record says about a quantized matrix, and the sizes that follow from it.

use crate::format::kinds::BLOCK_COLUMNS;
use crate::format::panels::{PANEL_ROWS, PanelShape};
use crate::format::sizes::{TooLarge, product, sum};

/// Levels of an int4 matrix.
pub const N_LEVELS: usize = 16;
/// What is added to an int8 element to store it.
pub const ELEMENT_OFFSET: u8 = 128;

/// How a matrix is quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantization {
    /// Its elements.
    pub elements: Elements,
    /// What they are multiplied with.
    pub scales: Scales,
}

/// The integers of a quantized matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elements {
    /// -127 to 127.
    Int8,
    /// One of 16 levels.
    Int4(Levels),
}

/// What the integers of a quantized matrix are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scales {
    /// An f16 for each block.
    F16,
    /// An i8 for each block, times an f32 for each row.
    Row32,
    /// An i8 for each half of a block, times an f32 for each row.
    Row16,
}

/// The integers of the codes of an int4 matrix, ascending, -127 to 127.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels([i8; N_LEVELS]);

/// Levels that do not ascend, or with a -128.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLevels;

impl Levels {
    /// Levels as a file has them.
    ///
    /// # Errors
    /// [`BadLevels`].
    pub const fn new(levels: [i8; N_LEVELS]) -> Result<Levels, BadLevels> {
        let mut code = 1;
        while code < N_LEVELS {
            if levels[code.saturating_sub(1)] >= levels[code] {
                return Err(BadLevels);
            }
            code = code.saturating_add(1);
        }
        if levels[0] == i8::MIN { Err(BadLevels) } else { Ok(Levels(levels)) }
    }

    /// As a file has them.
    pub fn get(&self) -> &[i8; N_LEVELS] {
        &self.0
    }

    /// Whether they are from -64 to 63.
    pub fn are_narrow(&self) -> bool {
        self.0[0] >= -64 && self.0[N_LEVELS - 1] < 64
    }
}

impl Quantization {
    /// Bytes before the blocks of a panel: the factors of its rows.
    pub const fn factor_bytes(&self) -> usize {
        match self.scales {
            Scales::F16 => 0,
            Scales::Row32 | Scales::Row16 => 4 * PANEL_ROWS,
        }
    }

    /// Bytes of the scales of a block of a panel; its elements follow.
    pub const fn scale_bytes(&self) -> usize {
        match self.scales {
            Scales::F16 | Scales::Row16 => 2 * PANEL_ROWS,
            Scales::Row32 => PANEL_ROWS,
        }
    }

    /// Bytes of the elements of a block of a panel.
    pub const fn element_bytes(&self) -> usize {
        match self.elements {
            Elements::Int8 => PANEL_ROWS * BLOCK_COLUMNS,
            Elements::Int4(_) => PANEL_ROWS * BLOCK_COLUMNS / 2,
        }
    }

    /// Bytes of a block of a panel.
    pub const fn block_bytes(&self) -> usize {
        self.scale_bytes().saturating_add(self.element_bytes())
    }

    /// Bytes of a panel of `columns` columns.
    ///
    /// # Panics
    /// For more columns than a matrix can have.
    pub fn panel_bytes(&self, columns: usize) -> usize {
        let blocks = columns.div_ceil(BLOCK_COLUMNS).checked_mul(self.block_bytes());
        blocks.and_then(|bytes| bytes.checked_add(self.factor_bytes())).expect("a matrix of a possible size")
    }
}

/// Bytes of a matrix of `shape`.
///
/// # Errors
/// [`TooLarge`].
pub fn matrix_bytes(quantization: &Quantization, shape: &PanelShape) -> Result<u64, TooLarge> {
    let blocks = product([shape.columns.div_ceil(BLOCK_COLUMNS), quantization.block_bytes()])?;
    let panel = sum([blocks, quantization.factor_bytes() as u64])?;
    product([shape.n_panels() as u64, panel])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::kinds::Dtype;

    #[test]
    fn levels_ascend_and_have_no_minus_128() {
        let levels: [i8; 16] = std::array::from_fn(|i| i as i8 - 8);
        assert!(Levels::new(levels).is_ok_and(|levels| levels.are_narrow()));
        let mut equal = levels;
        equal[7] = equal[6];
        assert_eq!(Levels::new(equal), Err(BadLevels));
        let with_first = |first| Levels::new(std::array::from_fn(|i| if i == 0 { first } else { levels[i] }));
        assert_eq!(with_first(-128), Err(BadLevels));
        assert!(with_first(-127).is_ok_and(|levels| !levels.are_narrow()));
        assert!(with_first(-65).is_ok_and(|levels| !levels.are_narrow()));
        assert!(with_first(-64).is_ok_and(|levels| levels.are_narrow()));
    }

    #[test]
    fn a_matrix_has_the_bytes_of_its_panels_or_is_too_large() {
        let levels = Levels::new(std::array::from_fn(|i| i as i8)).expect("ascending");
        for (elements, dtype) in [(Elements::Int8, Dtype::Int8), (Elements::Int4(levels), Dtype::Int4)] {
            for scales in [Scales::F16, Scales::Row32, Scales::Row16] {
                let quantization = Quantization { elements, scales };
                let shape = PanelShape { rows: 65, columns: 33, dtype };
                let bytes = 2 * quantization.panel_bytes(33) as u64;
                assert_eq!(matrix_bytes(&quantization, &shape), Ok(bytes));
                let huge = PanelShape { rows: usize::MAX, columns: usize::MAX, dtype };
                assert_eq!(matrix_bytes(&quantization, &huge), Err(TooLarge));
            }
        }
    }
}
