//! The levels of int4 matrices.

use olmo_infer::internals::format::encodings::quantized::Levels;

/// The levels of a matrix that is quantized here, in the middle close together, as the numbers of trained matrices are.
pub const LEVELS: Levels = match Levels::new([-63, -50, -39, -30, -22, -15, -9, -4, 1, 6, 11, 17, 24, 31, 40, 53]) {
    Ok(levels) => levels,
    Err(_) => panic!("they ascend"),
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_fit_into_seven_bits() {
        assert!(LEVELS.are_narrow());
    }
}
