//! The output of `olmo-infer`: the right numbers, the same bits.

mod batch;
mod batch_bits;
mod branches;
mod demo;
mod golden;
mod hidden;
mod known_answers;
mod load;
mod mixed;
mod not_finite;
mod same_bits;
mod score;
mod score_requests;
mod score_tasks;
mod shared_prefixes;
mod speculation;
mod tile_products;
mod truncate;

const PACK: &str = env!("CARGO_BIN_EXE_tested-olmo-pack");
const INFER: &str = env!("CARGO_BIN_EXE_tested-olmo-infer");
