//! What a tensor's record says of its elements: their type, their order and their encoding.

/// Element type of stored numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE binary32.
    F32,
    /// The upper half of a binary32.
    Bf16,
}

impl Dtype {
    /// The code in a [`super::TensorRecord`].
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

    /// Consecutive columns that lie side by side in a panel: what one step of the product consumes.
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

/// How the elements of a tensor lie in its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorLayout {
    /// Consecutive elements: the norm vectors.
    Vector,
    /// Panels of [`super::PANEL_ROWS`] rows, see `panels.rs`: every matrix.
    Panels64,
}

impl TensorLayout {
    /// The code in a [`super::TensorRecord`].
    pub fn code(self) -> u32 {
        match self {
            TensorLayout::Vector => 1,
            TensorLayout::Panels64 => 2,
        }
    }
}

/// Encoding of a tensor: the elements as they are.
pub const ENCODING_PLAIN: u32 = 0;
/// Encoding of a bf16 matrix: 12 bits an element, see `coded.rs`. It comes with [`super::FEATURE_BF12`].
pub const ENCODING_BF12: u32 = 1;

/// How the bits of a tensor's elements are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Plain,
    /// In 12 bits each, see `coded.rs`.
    Coded {
        /// Steps that are stored as they are.
        n_raw_steps: u32,
    },
}

impl Encoding {
    /// The code in a [`super::TensorRecord`].
    pub fn code(self) -> u32 {
        match self {
            Encoding::Plain => ENCODING_PLAIN,
            Encoding::Bf12 { .. } => ENCODING_BF12,
        }
    }

    /// Steps stored raw; 0 when plain.
    pub fn n_raw_steps(self) -> u32 {
        match self {
            Encoding::Plain => 0,
            Encoding::Bf12 { n_raw_steps } => n_raw_steps,
        }
    }
}
