//! The encodings of matrices: each has the bytes of a matrix, a view of them, and a row as f32.

pub mod bf12;
pub mod bf16;
pub mod f32;
pub mod quantized;
