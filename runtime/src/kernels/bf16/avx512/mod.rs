//! bf16 products with AVX-512, by FMA or by the bf16 dot product: the same bits. The weights of a group of blocks are
//! widened to f32 or regrouped, and then multiplied.

mod arranged;
mod few;
mod many;
mod multiply;

pub use arranged::fill;
pub use few::{BF12_ROWS, few, few_bf12};
pub use many::multiply;
pub use multiply::By;
