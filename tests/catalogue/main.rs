//! The catalogue of bad inputs. `CATALOGUE.md` lists its rows and their tests.

mod environment;
mod folders;
mod gguf;
mod model_files;
mod safetensors;
mod text;
mod tokens;

const PACK: &str = env!("CARGO_BIN_EXE_tested-olmo-pack");
const INFER: &str = env!("CARGO_BIN_EXE_tested-olmo-infer");
const BENCH: &str = env!("CARGO_BIN_EXE_tested-olmo-bench");
