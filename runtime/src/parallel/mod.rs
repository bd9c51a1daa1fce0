//! Work spread over the cores: the team of threads, and the matrix products that it computes.

pub mod barrier;
pub mod matmul;
mod padded;
mod strength;
mod sync;
pub mod team;
pub mod turns;
pub mod work_ranges;
