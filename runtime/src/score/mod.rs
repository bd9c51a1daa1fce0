//! Log-likelihoods of many sequences. What several of them begin with is evaluated once, and the tokens of many share a
//! pass. Their results are the bits of single runs.

mod item;
mod scorer;
mod tree;

pub use item::{Event, Item, TokenScore};
pub use scorer::score;
