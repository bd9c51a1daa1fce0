//! Numbers of a checkpoint to the panels of a model file, and back.

pub mod bf12;
pub mod bf12_choice;
pub mod buffer;
pub mod importance;
pub mod is_bf16;
pub mod kept_blocks;
pub mod levels;
pub mod loss;
pub mod nearest;
pub mod nearest_level;
pub mod numbers;
pub mod panels;
pub mod pool;
pub mod quantized;
pub mod quantized_look;
pub mod scale_search;
pub mod sums;
