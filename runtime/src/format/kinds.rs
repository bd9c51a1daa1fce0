//! The codes in a tensor's record: type, order and encoding of its elements.

/// Columns of a block of an int8 or int4 matrix.
pub const BLOCK_COLUMNS: usize = 32;

/// Element type of stored numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE binary32.
    F32,
    /// The upper half of a binary32.
    Bf16,
    /// Integers from -127 to 127, with scales.
    Int8,
    /// One of 16 integers, with scales.
    Int4,
}

impl Dtype {
    /// The code in a [`crate::format::header::TensorRecord`].
    pub fn code(self) -> u32 {
        match self {
            Dtype::F32 => 1,
            Dtype::Bf16 => 2,
            Dtype::Int8 => 3,
            Dtype::Int4 => 4,
        }
    }

    /// The type with this code.
    pub fn from_code(code: u32) -> Option<Dtype> {
        [Dtype::F32, Dtype::Bf16, Dtype::Int8, Dtype::Int4].into_iter().find(|dtype| dtype.code() == code)
    }

    /// Bits of one element, without scales.
    pub fn bits(self) -> usize {
        match self {
            Dtype::F32 => 32,
            Dtype::Bf16 => 16,
            Dtype::Int8 => 8,
            Dtype::Int4 => 4,
        }
    }

    /// A panel has a multiple of this many columns: what one step of the product consumes.
    pub fn columns_per_step(self) -> usize {
        match self {
            Dtype::F32 => 1,
            Dtype::Bf16 => 2,
            Dtype::Int8 | Dtype::Int4 => BLOCK_COLUMNS,
        }
    }

    /// Whether the elements are integers with scales.
    pub fn is_quantized(self) -> bool {
        matches!(self, Dtype::Int8 | Dtype::Int4)
    }

    /// Name for people and for JSON.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::Int8 => "int8",
            Dtype::Int4 => "int4",
        }
    }
}

/// The order of a tensor's elements in its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorLayout {
    /// Consecutive elements: the norm vectors.
    Vector,
    /// Panels of [`crate::format::panels::PANEL_ROWS`] rows, see `panels.rs`: every matrix.
    Panels64,
}

impl TensorLayout {
    /// The code in a [`crate::format::header::TensorRecord`].
    pub fn code(self) -> u32 {
        match self {
            TensorLayout::Vector => 1,
            TensorLayout::Panels64 => 2,
        }
    }
}

/// [`crate::format::header::TensorRecord::encoding`]: the elements as they are.
pub const ENCODING_PLAIN: u32 = 0;
/// [`crate::format::header::TensorRecord::encoding`]: bf16 elements in 12 bits each.
pub const ENCODING_BF12: u32 = 1;
/// [`crate::format::header::TensorRecord::encoding`]: integers, and an f16 for each block.
pub const ENCODING_F16_SCALES: u32 = 2;
/// [`crate::format::header::TensorRecord::encoding`]: integers, an i8 for each block, and an f32 for each row.
pub const ENCODING_ROW_SCALES_32: u32 = 3;
/// [`crate::format::header::TensorRecord::encoding`]: integers, an i8 for each 16 columns, and an f32 for each row.
pub const ENCODING_ROW_SCALES_16: u32 = 4;
