//! int8 and int4: matrices whose elements are small integers times scales.
//!
//! The columns of a row are cut into blocks of [`BLOCK_COLUMNS`], the last of which is filled with zeros. A block has
//! one scale, or two. A panel of 64 rows is
//!
//! ```text
//! factors      [64] f32              only with `Scales::Row32` and `Scales::Row16`
//! each block   scales                [64] f16, [64] i8 or [2][64] i8
//!              int8 elements         [8][64][4] u8: quads of columns, the element plus 128
//!              int4 elements         [4][64][4] u8: columns i and i + 4 of an octet, in the low and the high bits
//! ```

#[expect(clippy::arithmetic_side_effects, reason = "positions in panels whose length was compared")]
mod panels;
mod quantization;

pub use crate::format::kinds::BLOCK_COLUMNS;
pub use panels::{QuantizedPanel, QuantizedPanels, f16_to_f32};
pub use quantization::{BadLevels, ELEMENT_OFFSET, Elements, Levels, N_LEVELS, Quantization, Scales, matrix_bytes};
