//! The levels of int4 matrices.

use olmo_infer::internals::format::encodings::quantized::Levels;

/// The levels of a matrix that is quantized here, in the middle close together, as the numbers of trained matrices are.
pub const LEVELS: Levels = match Levels::new([-63, -52, -40, -31, -23, -16, -10, -4, 1, 6, 12, 18, 25, 32, 41, 55]) {
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
