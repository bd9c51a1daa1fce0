//! The command lines of the programs: usage, messages, manual pages.

mod bench;
mod infer;
mod manual;
mod messages;
mod mistaken_paths;
mod pack;

const PACK: &str = env!("CARGO_BIN_EXE_tested-olmo-pack");
const INFER: &str = env!("CARGO_BIN_EXE_tested-olmo-infer");
