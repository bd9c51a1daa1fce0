//! The model file: what goes where, and the way there.

pub mod grade;
pub mod model_output;
pub mod pattern;
pub mod pipeline;
pub mod plan;
pub mod recipe;
pub mod wanted;
