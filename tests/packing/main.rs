//! The results of `olmo-pack` for weights folders and for model files.

mod bf12;
mod calibrate;
mod config_json;
mod copy;
mod diff;
mod drafts;
mod duplicate_settings;
mod families;
mod gguf;
mod inspect;
mod mixed;
mod quantized;
mod random_weights;
mod safetensors;
mod shapes;
mod unpack;
mod unpack_gguf;
mod values;
mod verify_against;

const PACK: &str = env!("CARGO_BIN_EXE_tested-olmo-pack");
const INFER: &str = env!("CARGO_BIN_EXE_tested-olmo-infer");
