//! Log-likelihoods of many sequences. What several of them begin with is evaluated once, and the tokens of many share a
//! pass. Their results are the bits of single runs.

mod item;
mod scorer;
mod tree;
mod windows;

pub use item::{Event, Item, TokenScore, cache_positions};
pub use scorer::score;
pub use windows::{Window, windows};

/// Most sequences at a time: short ones that follow a common beginning fill a pass together.
pub const MOST_SEQUENCES: usize = 64;
