//! Blocks of elements with a common scale, and their numbers.
//!
//! A number of Q8_0, Q4_0 and IQ4_NL is the product of an f16 and a whole number of 8 bits, which is exact in f32. A
//! number of Q6_K has a second factor of 8 bits, and is rounded to f32 once, as llama.cpp rounds it.

use crate::folder::element::f16_to_f32;
use olmo_infer::internals::format::encodings::quantized::{
    BLOCK_COLUMNS, ELEMENT_OFFSET, Elements, Levels, Quantization, Scales,
};

/// The sixteen levels of IQ4_NL.
const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// A kind of block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockType {
    /// An f16 scale, then 32 i8.
    Q8_0,
    /// An f16 scale, then 32 codes of 4 bits that count from -8.
    Q4_0,
    /// An f16 scale, then 32 codes of 4 bits that choose one of sixteen levels.
    Iq4Nl,
    /// 256 codes of 6 bits, 16 i8 scales, then an f16 scale of those.
    Q6K,
}

impl BlockType {
    /// Elements of a block.
    pub fn elements(self) -> usize {
        match self {
            BlockType::Q8_0 | BlockType::Q4_0 | BlockType::Iq4Nl => 32,
            BlockType::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            BlockType::Q8_0 => 34,
            BlockType::Q4_0 | BlockType::Iq4Nl => 18,
            BlockType::Q6K => 210,
        }
    }

    /// The name in messages and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            BlockType::Q8_0 => "Q8_0",
            BlockType::Q4_0 => "Q4_0",
            BlockType::Iq4Nl => "IQ4_NL",
            BlockType::Q6K => "Q6_K",
        }
    }

    /// The encoding that stores such blocks as they are; `None` where there is none.
    pub fn quantization(self) -> Option<Quantization> {
        let int4 = |levels| Elements::Int4(Levels::new(levels).expect("ascending"));
        let elements = match self {
            BlockType::Q8_0 => Elements::Int8,
            BlockType::Q4_0 => int4(std::array::from_fn(|code| code as i8 - 8)),
            BlockType::Iq4Nl => int4(LEVELS),
            BlockType::Q6K => return None,
        };
        Some(Quantization { elements, scales: Scales::F16 })
    }

    /// The f16 scale of a block that an encoding stores as it is, and its elements as that encoding has them: integers
    /// plus 128, or codes.
    ///
    /// # Panics
    /// When it is not such a block.
    pub fn scale_and_codes(self, block: &[u8]) -> ([u8; 2], [u8; BLOCK_COLUMNS]) {
        assert!(block.len() == self.bytes() && self.quantization().is_some());
        let (scale, bytes) = ([block[0], block[1]], &block[2..]);
        (
            scale,
            std::array::from_fn(|i| match self {
                BlockType::Q8_0 => bytes[i] ^ ELEMENT_OFFSET,
                _ => bytes[i % 16] >> (4 * (i / 16)) & 15,
            }),
        )
    }

    /// Appends a block with this scale and these elements: the way back of [`BlockType::scale_and_codes`].
    ///
    /// # Panics
    /// When no encoding stores such blocks.
    pub fn append(self, scale: [u8; 2], codes: &[u8; BLOCK_COLUMNS], out: &mut Vec<u8>) {
        assert!(self.quantization().is_some());
        out.extend(scale);
        match self {
            BlockType::Q8_0 => out.extend(codes.iter().map(|code| code ^ ELEMENT_OFFSET)),
            _ => {
                let (lower, upper) = codes.split_at(BLOCK_COLUMNS / 2);
                out.extend(lower.iter().zip(upper).map(|(lower, upper)| lower | upper << 4));
            }
        }
    }

    /// Appends the numbers of whole blocks as little-endian f32.
    pub fn widen(self, blocks: &[u8], out: &mut Vec<u8>) {
        match self {
            BlockType::Q8_0 => blocks.as_chunks::<34>().0.iter().for_each(|block| {
                let scale = scale([block[0], block[1]]);
                out.extend(block[2..].iter().flat_map(|&code| (scale * f32::from(code as i8)).to_le_bytes()));
            }),
            BlockType::Q4_0 => nibbles(blocks, out, |code| code as i8 - 8),
            BlockType::Iq4Nl => nibbles(blocks, out, |code| LEVELS[usize::from(code)]),
            BlockType::Q6K => blocks.as_chunks::<210>().0.iter().for_each(|block| widen_q6_k(block, out)),
        }
    }
}

/// The scale at the beginning of a block.
fn scale(bytes: [u8; 2]) -> f32 {
    f32::from_bits(f16_to_f32(u16::from_le_bytes(bytes)))
}

/// Appends the numbers of blocks of 4-bit codes: the first 16 elements are in the lower halves of the bytes, the others
/// in the upper ones.
fn nibbles(blocks: &[u8], out: &mut Vec<u8>, level: impl Fn(u8) -> i8) {
    for block in blocks.as_chunks::<18>().0 {
        let scale = scale([block[0], block[1]]);
        let codes = block[2..].iter().map(|byte| byte & 15).chain(block[2..].iter().map(|byte| byte >> 4));
        out.extend(codes.flat_map(|code| (scale * f32::from(level(code))).to_le_bytes()));
    }
}

/// Appends the numbers of a block of Q6_K. Each half of it has 128 elements in four groups of 32: a group has the lower
/// or upper 4 bits of its codes in 32 of 64 bytes, and the upper 2 bits in a place of its own in 32 bytes that the four
/// groups share. Each 16 elements have a scale.
fn widen_q6_k(block: &[u8; 210], out: &mut Vec<u8>) {
    let (lower, rest) = block.split_at(128);
    let (upper, rest) = rest.split_at(64);
    let (scales, whole) = rest.split_at(16);
    let whole = scale([whole[0], whole[1]]);
    for half in 0..2 {
        let (lower, upper) = (&lower[64 * half..][..64], &upper[32 * half..][..32]);
        for group in 0..4 {
            for i in 0..32 {
                let low = lower[32 * (group % 2) + i] >> (4 * (group / 2)) & 15;
                let high = upper[i] >> (2 * group) & 3;
                let code = (low | high << 4) as i8 - 32;
                let scale = scales[8 * half + 2 * group + i / 16] as i8;
                out.extend((whole * f32::from(scale) * f32::from(code)).to_le_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widened(kind: BlockType, block: &[u8]) -> Vec<f32> {
        let mut out = Vec::new();
        kind.widen(block, &mut out);
        out.as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect()
    }

    /// 1.5 as f16.
    const SCALE: [u8; 2] = 0x3e00u16.to_le_bytes();

    #[test]
    fn products_of_scale_and_code_are_exact() {
        let codes: Vec<u8> = (0..32).map(|i| (i * 8 - 128) as i8 as u8).collect();
        let block = [&SCALE[..], &codes].concat();
        let expected: Vec<f32> = (0..32).map(|i| 1.5 * (i * 8 - 128) as f32).collect();
        assert_eq!(widened(BlockType::Q8_0, &block), expected);
        // The smallest and the largest f16 times every code.
        for half in [0x0001u16, 0x8001, 0x03ff, 0x7bff, 0xfbff] {
            for code in i8::MIN..=i8::MAX {
                let block = [&half.to_le_bytes()[..], &[code as u8; 32]].concat();
                let exact = f64::from(f32::from_bits(f16_to_f32(half))) * f64::from(code);
                assert_eq!(f64::from(widened(BlockType::Q8_0, &block)[7]), exact, "{half:04x} {code}");
            }
        }
    }

    #[test]
    fn lower_halves_come_before_upper_halves() {
        let codes: Vec<u8> = (0..16).map(|i| i | (15 - i) << 4).collect();
        let block = [&SCALE[..], &codes].concat();
        let order = (0..16).chain((0..16).rev());
        let expected: Vec<f32> = order.clone().map(|code| 1.5 * (code as f32 - 8.0)).collect();
        assert_eq!(widened(BlockType::Q4_0, &block), expected);
        let expected: Vec<f32> = order.map(|code: usize| 1.5 * f32::from(LEVELS[code])).collect();
        assert_eq!(widened(BlockType::Iq4Nl, &block), expected);
    }

    #[test]
    fn scale_and_codes_give_their_block() {
        for kind in [BlockType::Q8_0, BlockType::Q4_0, BlockType::Iq4Nl] {
            let block: Vec<u8> = (0..kind.bytes()).map(|i| (i * 73 + 5) as u8).collect();
            let (scale, codes) = kind.scale_and_codes(&block);
            let mut back = Vec::new();
            kind.append(scale, &codes, &mut back);
            assert_eq!(back, block, "{kind:?}");
        }
    }

    #[test]
    fn several_blocks_follow_each_other() {
        let block = |first: u8| [&SCALE[..], &[first; 32]].concat();
        let both = widened(BlockType::Q8_0, &[block(1), block(2)].concat());
        assert_eq!((both.len(), both[31], both[32]), (64, 1.5, 3.0));
    }
}
