//! Numbers that are f32 or bf16 in memory.

use std::ops::Range;

/// Numbers in memory.
#[derive(Clone, Copy)]
pub enum Numbers<'a> {
    /// f32.
    F32(&'a [f32]),
    /// Bits of bf16.
    Bf16(&'a [u16]),
}

impl<'a> Numbers<'a> {
    /// How many there are.
    pub(super) fn len(self) -> usize {
        match self {
            Numbers::F32(numbers) => numbers.len(),
            Numbers::Bf16(numbers) => numbers.len(),
        }
    }

    /// Some of them.
    ///
    /// # Panics
    /// When there are fewer.
    #[must_use]
    pub fn part(self, range: Range<usize>) -> Numbers<'a> {
        match self {
            Numbers::F32(numbers) => Numbers::F32(&numbers[range]),
            Numbers::Bf16(numbers) => Numbers::Bf16(&numbers[range]),
        }
    }

    /// Bytes of a number.
    pub(super) fn number_bytes(self) -> usize {
        match self {
            Numbers::F32(_) => size_of::<f32>(),
            Numbers::Bf16(_) => size_of::<u16>(),
        }
    }

    /// Where they begin.
    pub(super) fn begin(self) -> *const i8 {
        match self {
            Numbers::F32(numbers) => numbers.as_ptr().cast(),
            Numbers::Bf16(numbers) => numbers.as_ptr().cast(),
        }
    }
}

/// The number with these bits of bf16.
#[inline(always)]
pub fn widened(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use crate::kernels::backend::Backend;
    use crate::kernels::grid::OutputBlock;

    /// Some of them longer than the pieces that are widened for `gemm`.
    #[test]
    fn bf16_panels_give_the_bits_of_the_same_numbers_in_f32() {
        for &isa in Isa::available().iter().filter(|isa| isa.has_products()) {
            for (width, steps) in [(16, 257), (32, 2), (48, 1), (48, 300), (64, 64), (64, 1100)] {
                for (rows, accumulate) in
                    [(1, false), (2, true), (3, false), (4, true), (5, false), (6, true), (43, true)]
                {
                    // Every bit pattern but infinities and NaN, subnormal numbers too.
                    let bits = |i: usize| (i * 40_503 % 65_536) as u16;
                    let number = |i: usize| if bits(i) & 0x7f80 == 0x7f80 { 0x8001 } else { bits(i) };
                    let numbers: Vec<u16> = (0..steps * width).map(number).collect();
                    let wide: Vec<f32> = numbers.iter().map(|&bits| widened(bits)).collect();
                    let x: Vec<f32> = (0..rows * steps).map(|i| (i as f32 * 0.7).sin() * 1e-6).collect();
                    let product = |panel| {
                        let mut out = vec![0.5; rows * width];
                        isa.product(panel, width, &x, steps, &mut OutputBlock::whole(&mut out, width), accumulate);
                        out.iter().map(|sum: &f32| sum.to_bits()).collect::<Vec<_>>()
                    };
                    let expected = product(Numbers::F32(&wide));
                    assert!(
                        product(Numbers::Bf16(&numbers)) == expected,
                        "{isa:?} {width} {steps} {rows} {accumulate}"
                    );
                }
            }
        }
    }

    #[test]
    fn gemm_multiplies_bf16_panels_of_any_length() {
        for (width, steps) in [(16, 300), (64, 64), (64, 200)] {
            let numbers: Vec<u16> = (0..steps * width).map(|i| 0x3f80 + (i % 61) as u16).collect();
            let wide: Vec<f32> = numbers.iter().map(|&bits| widened(bits)).collect();
            let x: Vec<f32> = (0..7 * steps).map(|i| (i as f32 * 0.7).sin()).collect();
            for accumulate in [false, true] {
                let product = |panel| {
                    let mut out = vec![0.5; 7 * width];
                    let backend = Backend { gemm: true, ..Backend::best() };
                    backend.product(panel, width, &x, steps, &mut OutputBlock::whole(&mut out, width), accumulate);
                    out
                };
                for (found, expected) in product(Numbers::Bf16(&numbers)).iter().zip(product(Numbers::F32(&wide))) {
                    assert!((found - expected).abs() < 1e-3, "{width} {steps} {accumulate}: {found} {expected}");
                }
            }
        }
    }
}
