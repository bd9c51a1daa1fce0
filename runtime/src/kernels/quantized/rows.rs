//! Rows of activations rounded to integers, arranged as the kernels of quantized weights read them.

use crate::format::encodings::quantized::BLOCK_COLUMNS;
use crate::kernels::lanes::LaneOp;
use std::ops::Range;

/// Integers that activations are rounded to, each block of 32 columns with its own scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// -32512 to 32512: 256 times a byte, plus a byte.
    Int16,
    /// -127 to 127.
    Int8,
}

impl Precision {
    /// The largest integer.
    pub fn largest(self) -> f32 {
        match self {
            Precision::Int16 => 32512.0,
            Precision::Int8 => 127.0,
        }
    }
}

/// How the integers of a block are stored after its head, [`HEAD_WORDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// i16, of each quad of columns first 0 and 2, then 1 and 3: `[8][2][2]`.
    Words,
    /// i8, in the order of the columns: `[32]`. Only [`Precision::Int8`].
    Bytes,
    /// The high bytes, then the low ones, which are -128 to 127: `[2][32]`.
    Halves,
}

/// How activations are rounded and stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// To which integers.
    pub precision: Precision,
    /// In which order.
    pub arrangement: Arrangement,
}

/// Words before the integers of a block: its scale, an f32; -64 times the sum of its integers, those of its first half
/// and those of its second half, i32.
pub const HEAD_WORDS: usize = 4;

impl Form {
    /// Words of a block.
    pub fn block_words(self) -> usize {
        HEAD_WORDS
            + match self.arrangement {
                Arrangement::Bytes => BLOCK_COLUMNS / 4,
                Arrangement::Words | Arrangement::Halves => BLOCK_COLUMNS / 2,
            }
    }

    /// Words of a row of `columns` columns; a size that overflows saturates.
    pub fn row_words(self, columns: usize) -> usize {
        columns.div_ceil(BLOCK_COLUMNS).saturating_mul(self.block_words())
    }
}

/// Rows of activations in a form.
#[derive(Clone, Copy)]
pub struct QuantizedRows<'a> {
    /// Row after row, [`Form::row_words`] each.
    pub words: &'a [u32],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    /// How they are stored.
    pub form: Form,
}

impl<'a> QuantizedRows<'a> {
    /// Some of the rows.
    ///
    /// # Panics
    /// When they are not all there.
    pub fn part(&self, rows: Range<usize>) -> QuantizedRows<'a> {
        let row = self.form.row_words(self.columns);
        QuantizedRows { words: &self.words[rows.start * row..rows.end * row], rows: rows.len(), ..*self }
    }

    /// The words of row `row` from block `block` on.
    ///
    /// # Panics
    /// When there is no such row or block.
    pub fn from_block(&self, row: usize, block: usize) -> &'a [u32] {
        let row_words = self.form.row_words(self.columns);
        &self.words[row * row_words..][block * self.form.block_words()..row_words]
    }
}

/// Rounds a row. With m the largest magnitude of a block of 32 columns and L [`Precision::largest`],
///
/// ```text
/// integer = x * (L / m), to nearest even      scale = m / L
/// ```
///
/// A block with m below 1e-30 becomes zeros of scale 0. One with an infinity or NaN becomes zeros of scale NaN.
pub struct QuantizeRow<'a> {
    /// `[columns]`
    pub x: &'a [f32],
    /// How to round and to store it.
    pub form: Form,
    /// [`Form::row_words`] of them.
    pub words: &'a mut [u32],
}

/// Magnitudes below this are zero, so that the reciprocal is finite.
const SMALLEST: f32 = 1e-30;
/// 1.5 * 2^23: adding it rounds to an integer, which is then in the low bits.
const ROUND: f32 = 12_582_912.0;

impl LaneOp for QuantizeRow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        assert!(self.words.len() == self.form.row_words(self.x.len()));
        // Bytes and 16-bit integers do not go together.
        assert!(self.form.arrangement != Arrangement::Bytes || self.form.precision == Precision::Int8);
        let blocks = self.words.chunks_exact_mut(self.form.block_words());
        for (x, words) in self.x.chunks(BLOCK_COLUMNS).zip(blocks) {
            let mut block = [0.0f32; BLOCK_COLUMNS];
            match <&[f32; BLOCK_COLUMNS]>::try_from(x) {
                Ok(whole) => block = *whole,
                Err(_) => block[..x.len()].copy_from_slice(x),
            }
            let (integers, scale) = quantize(&block, self.form.precision.largest());
            let half = |first: usize| {
                let half = &integers[first..first + BLOCK_COLUMNS / 2];
                -64 * half.iter().sum::<i32>()
            };
            let (first, second) = (half(0), half(BLOCK_COLUMNS / 2));
            words[0] = scale.to_bits();
            words[1..HEAD_WORDS].copy_from_slice(&[first + second, first, second].map(i32::cast_unsigned));
            arrange(&integers, self.form.arrangement, &mut words[HEAD_WORDS..]);
        }
    }
}

/// The integers and the scale of a block.
#[inline(always)]
fn quantize(x: &[f32; BLOCK_COLUMNS], most: f32) -> ([i32; BLOCK_COLUMNS], f32) {
    // As bits: infinities and NaN come after every finite number.
    let largest = x.iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff));
    if largest >= f32::INFINITY.to_bits() {
        return ([0; BLOCK_COLUMNS], f32::NAN);
    }
    let largest = f32::from_bits(largest);
    if largest < SMALLEST {
        return ([0; BLOCK_COLUMNS], 0.0);
    }
    let factor = most / largest;
    let integer = |x: f32| (x * factor + ROUND).to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
    let mut integers = [0; BLOCK_COLUMNS];
    for (integer_of, &x) in integers.iter_mut().zip(x) {
        *integer_of = integer(x);
    }
    (integers, largest / most)
}

/// Stores the integers of a block.
#[inline(always)]
fn arrange(integers: &[i32; BLOCK_COLUMNS], arrangement: Arrangement, words: &mut [u32]) {
    let quads = integers.as_chunks::<4>().0;
    let bytes = |quad: &[i32; 4], shift: u32| {
        let byte = |i: usize| (quad[i] >> shift).cast_unsigned() & 0xff;
        byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24
    };
    match arrangement {
        Arrangement::Words => {
            let pair = |a: i32, b: i32| a.cast_unsigned() & 0xffff | b.cast_unsigned() << 16;
            for (words, quad) in words.as_chunks_mut::<2>().0.iter_mut().zip(quads) {
                *words = [pair(quad[0], quad[2]), pair(quad[1], quad[3])];
            }
        }
        Arrangement::Bytes => words.iter_mut().zip(quads).for_each(|(word, quad)| *word = bytes(quad, 0)),
        Arrangement::Halves => {
            let (high, low) = words.split_at_mut(BLOCK_COLUMNS / 4);
            for (quad, (high, low)) in quads.iter().zip(high.iter_mut().zip(low)) {
                *low = bytes(quad, 0);
                // What is left after the low byte, which has a sign.
                *high = bytes(&quad.map(|integer| integer + 128), 8);
            }
        }
    }
}

/// The integers of a block as they are stored; for the oracle and for tests.
pub fn integers_of(words: &[u32], arrangement: Arrangement) -> [i32; BLOCK_COLUMNS] {
    let word = |at: usize, half: usize| i32::from((words[HEAD_WORDS + at] >> (16 * half)) as u16 as i16);
    let byte = |at: usize| i32::from((words[HEAD_WORDS + at / 4] >> (8 * (at % 4))) as u8 as i8);
    std::array::from_fn(|column| match arrangement {
        Arrangement::Words => word(column / 4 * 2 + column % 2, column % 4 / 2),
        Arrangement::Bytes => byte(column),
        Arrangement::Halves => 256 * byte(column) + byte(BLOCK_COLUMNS + column),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;

    const FORMS: [Form; 5] = {
        use {Arrangement::*, Precision::*};
        const fn form(precision: Precision, arrangement: Arrangement) -> Form {
            Form { precision, arrangement }
        }
        [form(Int16, Words), form(Int16, Halves), form(Int8, Words), form(Int8, Bytes), form(Int8, Halves)]
    };

    fn quantized(isa: Isa, x: &[f32], form: Form) -> Vec<u32> {
        let mut words = vec![u32::MAX; form.row_words(x.len())];
        isa.run(QuantizeRow { x, form, words: &mut words });
        words
    }

    #[test]
    fn integers_are_the_nearest_in_every_arrangement() {
        let x: Vec<f32> = (0..77).map(|i| ((i * 37 % 61) as f32 - 30.0) * 0.731).collect();
        for form in FORMS {
            for isa in Isa::available() {
                let words = quantized(*isa, &x, form);
                for (block, x) in words.chunks(form.block_words()).zip(x.chunks(32)) {
                    let m = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                    let most = form.precision.largest();
                    let integers = integers_of(block, form.arrangement);
                    for (i, &integer) in integers.iter().enumerate() {
                        let expected = x.get(i).map_or(0.0, |x| (x * (most / m)).round_ties_even());
                        assert_eq!(integer as f32, expected, "{form:?} {isa:?} {i}");
                    }
                    assert_eq!(f32::from_bits(block[0]), m / most);
                    let sums = [0..32, 0..16, 16..32].map(|range| -64 * integers[range].iter().sum::<i32>());
                    assert_eq!([1, 2, 3].map(|i| block[i].cast_signed()), sums);
                }
            }
        }
    }

    #[test]
    fn the_largest_integers_fit_their_bytes() {
        for form in FORMS {
            for x in [[1.0f32; 32], [-1.0; 32], [3.3e38; 32], [1.1e-30; 32]] {
                let words = quantized(Isa::best(), &x, form);
                let most = form.precision.largest().copysign(x[0]) as i32;
                assert_eq!(integers_of(&words, form.arrangement), [most; 32], "{form:?}");
            }
        }
    }

    #[test]
    fn blocks_without_a_scale_are_zeros_or_not_a_number() {
        for form in FORMS {
            for (odd_one, is_nan) in [(1e-31, false), (f32::NAN, true), (f32::NEG_INFINITY, true), (-0.0, false)] {
                let mut x = [0.0; 64];
                x[5] = odd_one;
                x[40] = 1.0;
                let words = quantized(Isa::best(), &x, form);
                assert_eq!(integers_of(&words, form.arrangement), [0; 32]);
                let scale = f32::from_bits(words[0]);
                assert!(if is_nan { scale.is_nan() } else { scale == 0.0 }, "{form:?} {odd_one}");
                assert!(f32::from_bits(words[form.block_words()]) > 0.0);
            }
        }
    }
}
