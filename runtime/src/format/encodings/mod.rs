//! The encodings of matrices.

pub mod bf12;
