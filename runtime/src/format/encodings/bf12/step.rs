//! One step of a bf12 matrix: two columns of 64 rows, and the exponents that have codes.

use crate::format::panels::PANEL_ROWS;

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
    /// Whether this biased exponent has a code.
    #[inline]
    pub fn has_exponent(&self, exponent: u8) -> bool {
        self.0[usize::from(exponent)] != NO_CODE
    }

    /// Encodes both columns of the first `n_rows` rows of a step, or only the even column when `n_columns` is 1. The
    /// rest is padding, and becomes zero bytes and code 0. `None` when an element has an exponent without a code.
    ///
    /// # Panics
    /// For more rows than a step has.
    pub fn encode(&self, step: &Step, n_rows: usize, n_columns: usize) -> Option<[u8; CODED_STEP_BYTES]> {
        assert!(n_rows <= PANEL_ROWS);
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
pub(super) fn decode_row(step: &[u8; CODED_STEP_BYTES], lanes: &[u16; 2 * N_CODES], row: usize) -> u32 {
    let (signs, codes) = step.split_at(SIGNS_BYTES);
    let (codes, _) = codes.as_chunks::<2>();
    let [even, odd] = [0, 1].map(|column| {
        let sign = signs[2 * row + column].cast_signed();
        let code = u16::from_le_bytes(codes[2 * (row % 16) + column]) >> (4 * (row / 16)) & 0xf;
        i16::from(sign).cast_unsigned() & SIGN_AND_MANTISSA | lanes[usize::from(code)]
    });
    u32::from(even) | u32::from(odd) << 16
}

/// Decodes a coded step. Padding becomes positive numbers without effect: its rows are not read, and its column is
/// multiplied by zeros.
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A step of numbers with exponents among `exponents`, and everything else mixed.
    pub fn step(exponents: &Exponents, seed: u32) -> Step {
        std::array::from_fn(|row| {
            let mix = (row as u32 + 1).wrapping_mul(0x9e37_79b1).wrapping_add(seed.wrapping_mul(0x85eb_ca6b));
            let number = |mix: u32| mix & 0x807f | u32::from(exponents.0[(mix >> 8) as usize % N_CODES]) << 7;
            number(mix & 0xffff) | number(mix >> 16) << 16
        })
    }

    pub fn some_exponents() -> Exponents {
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
}
