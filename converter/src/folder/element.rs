//! The element types of `.npy` files, and their exact conversion to f32 and back.
//!
//! All conversions work on bit patterns, so that NaN payloads, signed zeros and denormals survive: a conversion
//! instruction of the processor would quiet NaNs.

use olmo_infer::internals::format::Dtype;

/// Bits of the magnitude of an f32.
pub const MAGNITUDE: u32 = 0x7fff_ffff;
/// Bits of f32 infinity; larger magnitudes are NaN.
pub const INFINITY: u32 = 0x7f80_0000;

/// Element type of a source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceType {
    /// `<f4`.
    F32,
    /// `<f2`.
    F16,
    /// bf16 in raw 16 bits: `<V2`, `|V2`, or `<u2` with bfloat16 in `config.json`.
    Bf16,
}

impl SourceType {
    /// The code in a `SourceRecord` of the file.
    pub fn code(self) -> u32 {
        match self {
            SourceType::F32 => 1,
            SourceType::F16 => 2,
            SourceType::Bf16 => 3,
        }
    }

    /// The type with this code.
    pub fn from_code(code: u32) -> Option<SourceType> {
        [SourceType::F32, SourceType::F16, SourceType::Bf16].into_iter().find(|source| source.code() == code)
    }

    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            SourceType::F32 => 4,
            SourceType::F16 | SourceType::Bf16 => 2,
        }
    }

    /// The name in messages and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            SourceType::F32 => "f32",
            SourceType::F16 => "f16",
            SourceType::Bf16 => "bf16",
        }
    }

    /// The smallest stored type that represents every value of this type.
    pub fn lossless(self) -> Dtype {
        match self {
            SourceType::Bf16 => Dtype::Bf16,
            SourceType::F32 | SourceType::F16 => Dtype::F32,
        }
    }
}

/// Converts an f16 to f32 bits; exact, and [`f32_to_f16`] inverts it for every pattern.
pub fn f16_to_f32(half: u16) -> u32 {
    let sign = u32::from(half & 0x8000) << 16;
    let exponent = u32::from(half >> 10 & 0x1f);
    let fraction = u32::from(half & 0x3ff);
    match exponent {
        // A denormal: fraction * 2^-24, which f32 holds exactly (2^-24 has the bits 0x3380_0000).
        0 => sign | (fraction as f32 * f32::from_bits(0x3380_0000)).to_bits(),
        31 => sign | INFINITY | fraction << 13,
        _ => sign | (exponent + 112) << 23 | fraction << 13,
    }
}

/// The f16 whose [`f16_to_f32`] is `bits`; `None` if there is none.
pub fn f32_to_f16(bits: u32) -> Option<u16> {
    let sign = (bits >> 16) as u16 & 0x8000;
    let magnitude = bits & MAGNITUDE;
    let half = match magnitude >> 23 {
        255 => 0x7c00 | (bits >> 13) as u16 & 0x3ff,
        exponent @ 113..=142 => (exponent as u16 - 112) << 10 | (bits >> 13) as u16 & 0x3ff,
        // Below 2^-14: a multiple of 2^-24 (2^24 has the bits 0x4b80_0000), or not an f16.
        0..=112 => (f32::from_bits(magnitude) * f32::from_bits(0x4b80_0000)) as u16,
        _ => return None,
    };
    let half = sign | half;
    (f16_to_f32(half) == bits).then_some(half)
}

/// `bits` rounded to bf16, ties to even. A NaN stays a NaN; a finite number can become infinite.
#[inline]
pub fn round_to_bf16(bits: u32) -> u16 {
    if bits & MAGNITUDE > INFINITY {
        // Truncation could leave the pattern of infinity: the quiet bit is set when the upper payload is empty.
        let upper = (bits >> 16) as u16;
        return if upper & 0x7f == 0 { upper | 0x40 } else { upper };
    }
    // No overflow: the largest pattern here is that of infinity.
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// Appends the f32 patterns `bits` as elements of `source`. Returns false if one of them is not a value of that type.
pub fn narrow(source: SourceType, bits: &[u32], out: &mut Vec<u8>) -> bool {
    let mut exact = true;
    match source {
        SourceType::F32 => out.extend(bits.iter().flat_map(|bits| bits.to_le_bytes())),
        SourceType::F16 => out.extend(bits.iter().flat_map(|&bits| {
            let half = f32_to_f16(bits);
            exact &= half.is_some();
            half.unwrap_or(0).to_le_bytes()
        })),
        SourceType::Bf16 => out.extend(bits.iter().flat_map(|&bits| {
            exact &= bits & 0xffff == 0;
            ((bits >> 16) as u16).to_le_bytes()
        })),
    }
    exact
}

/// Appends elements of `source` as f32 bits; [`narrow`] inverts it.
pub fn widen(source: SourceType, bytes: &[u8], out: &mut Vec<u32>) {
    let halves = bytes.as_chunks::<2>().0.iter().map(|&half| u16::from_le_bytes(half));
    match source {
        SourceType::F32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word))),
        SourceType::F16 => out.extend(halves.map(f16_to_f32)),
        SourceType::Bf16 => out.extend(halves.map(|half| u32::from(half) << 16)),
    }
}

/// Whether every element is exactly a bf16 value.
pub fn all_bf16(source: SourceType, bytes: &[u8]) -> bool {
    match source {
        SourceType::Bf16 => true,
        // In blocks, so that a matrix that is not bf16 is detected after a few elements.
        SourceType::F32 => bytes.as_chunks::<4>().0.chunks(1024).all(|block| {
            let lower = block.iter().fold(0, |lower, &bytes| lower | u32::from_le_bytes(bytes));
            lower & 0xffff == 0
        }),
        SourceType::F16 => bytes.as_chunks::<2>().0.chunks(1024).all(|block| {
            let lower = block.iter().fold(0, |lower, &bytes| lower | f16_to_f32(u16::from_le_bytes(bytes)));
            lower & 0xffff == 0
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_round_trips_through_f32() {
        for half in 0..=u16::MAX {
            assert_eq!(f32_to_f16(f16_to_f32(half)), Some(half), "{half:04x}");
        }
        let known = [(0x0001, 5.960_464_5e-8), (0x03ff, 6.097_555e-5), (0x3c00, 1.0), (0xfbff, -65504.0)];
        for (half, value) in known {
            assert_eq!(f32::from_bits(f16_to_f32(half)), value);
        }
        for value in [1.0f32 + f32::EPSILON, 65520.0, 1e-8, 1e10] {
            assert_eq!(f32_to_f16(value.to_bits()), None, "{value}");
        }
    }

    #[test]
    fn round_to_bf16_is_to_nearest_even() {
        let cases = [
            (0x3f80_0000, 0x3f80),
            (0x3f80_8000, 0x3f80),
            (0x3f81_8000, 0x3f82),
            (0x3f80_8001, 0x3f81),
            (0xbf80_ffff, 0xbf81),
            (0x7f7f_ffff, 0x7f80),
            (0x7f80_0000, 0x7f80),
            (0x7f80_0001, 0x7fc0),
            (0xff81_0000, 0xff81),
            (0x8000_0001, 0x8000),
        ];
        for (bits, rounded) in cases {
            assert_eq!(round_to_bf16(bits), rounded, "{bits:08x}");
        }
    }
}
