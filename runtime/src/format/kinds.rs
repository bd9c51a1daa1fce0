//! The codes in a tensor's record: type, order and encoding of its elements.

/// Element type of stored numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE binary32.
    F32,
    /// The upper half of a binary32.
    Bf16,
}

impl Dtype {
    /// The code in a [`crate::format::header::TensorRecord`].
    pub fn code(self) -> u32 {
        match self {
            Dtype::F32 => 1,
            Dtype::Bf16 => 2,
        }
    }

    /// The type with this code.
    pub fn from_code(code: u32) -> Option<Dtype> {
        [Dtype::F32, Dtype::Bf16].into_iter().find(|dtype| dtype.code() == code)
    }

    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 => 2,
        }
    }

    /// Consecutive columns that are adjacent in a panel: what one step of the product consumes.
    pub fn columns_per_step(self) -> usize {
        match self {
            Dtype::F32 => 1,
            Dtype::Bf16 => 2,
        }
    }

    /// Name for people and for JSON.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
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
