//! The element types of GGUF tensors, by their numbers in a file.

use crate::folder::element::SourceType;
use crate::folder::gguf::blocks::BlockType;

/// What a weight can be read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readable {
    /// Single elements.
    Elements(SourceType),
    /// Blocks of elements with a common scale.
    Blocks(BlockType),
}

/// An element type of a GGUF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorType {
    /// Its number.
    pub code: u32,
    /// Its name in llama.cpp.
    pub name: &'static str,
    /// Elements of a block; a row consists of whole blocks.
    pub block_elements: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
}

/// Every type, so that the place of each tensor can be checked, also of one whose type is not read.
const TYPES: [TensorType; 33] = [
    new(0, "F32", 1, 4),
    new(1, "F16", 1, 2),
    new(2, "Q4_0", 32, 18),
    new(3, "Q4_1", 32, 20),
    new(6, "Q5_0", 32, 22),
    new(7, "Q5_1", 32, 24),
    new(8, "Q8_0", 32, 34),
    new(10, "Q2_K", 256, 84),
    new(11, "Q3_K", 256, 110),
    new(12, "Q4_K", 256, 144),
    new(13, "Q5_K", 256, 176),
    new(14, "Q6_K", 256, 210),
    new(15, "Q8_K", 256, 292),
    new(16, "IQ2_XXS", 256, 66),
    new(17, "IQ2_XS", 256, 74),
    new(18, "IQ3_XXS", 256, 98),
    new(19, "IQ1_S", 256, 50),
    new(20, "IQ4_NL", 32, 18),
    new(21, "IQ3_S", 256, 110),
    new(22, "IQ2_S", 256, 82),
    new(23, "IQ4_XS", 256, 136),
    new(24, "I8", 1, 1),
    new(25, "I16", 1, 2),
    new(26, "I32", 1, 4),
    new(27, "I64", 1, 8),
    new(28, "F64", 1, 8),
    new(29, "IQ1_M", 256, 56),
    new(30, "BF16", 1, 2),
    new(34, "TQ1_0", 256, 54),
    new(35, "TQ2_0", 256, 66),
    new(39, "MXFP4", 32, 17),
    new(40, "NVFP4", 64, 36),
    new(41, "Q1_0", 128, 18),
];

const fn new(code: u32, name: &'static str, block_elements: u64, block_bytes: u64) -> TensorType {
    TensorType { code, name, block_elements, block_bytes }
}

impl TensorType {
    /// The type with this number.
    pub fn with_code(code: u32) -> Option<TensorType> {
        TYPES.into_iter().find(|kind| kind.code == code)
    }

    /// What its weights are read as; `None` for a type that weights of a model file cannot come from.
    pub fn readable(self) -> Option<Readable> {
        Some(match self.code {
            0 => Readable::Elements(SourceType::F32),
            1 => Readable::Elements(SourceType::F16),
            30 => Readable::Elements(SourceType::Bf16),
            2 => Readable::Blocks(BlockType::Q4_0),
            8 => Readable::Blocks(BlockType::Q8_0),
            20 => Readable::Blocks(BlockType::Iq4Nl),
            14 => Readable::Blocks(BlockType::Q6K),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_the_sizes_of_their_types() {
        let mut n_blocks = 0;
        for kind in TYPES {
            assert_eq!(TensorType::with_code(kind.code), Some(kind));
            match kind.readable() {
                Some(Readable::Elements(element)) => {
                    assert_eq!((kind.block_elements, kind.block_bytes), (1, element.bytes() as u64), "{kind:?}");
                }
                Some(Readable::Blocks(block)) => {
                    n_blocks += 1;
                    let sizes = (block.elements() as u64, block.bytes() as u64);
                    assert_eq!((kind.block_elements, kind.block_bytes), sizes, "{kind:?}");
                    assert_eq!(kind.name, block.name());
                }
                None => {}
            }
        }
        assert_eq!(n_blocks, 4);
    }
}
