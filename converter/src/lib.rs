//! Turns a folder of OLMo weights, `.npy` or safetensors, into one `.olmo` file that `olmo-infer` maps and runs.
//!
//! The way of a folder, a file per step:
//!
//! 1. `listing`: which tensors are there, in which kind of files. `npy` with `npy_header` reads the headers of `.npy`
//!    files; `shards` with `shard_index` and `safetensors_header` those of safetensors files; `file_kind` names what is
//!    neither. Both give a `stored_tensor`, a range of a `source_file`, and from here on nothing cares which it was.
//!    `checkpoint`: whether they are exactly the tensors of the model. Its configuration comes from `config_json` with
//!    `rope` and `strict_json`, or from shapes and flags by `infer_config`, and from `generation_config`; `settings`
//!    holds the flags and remembers where each value came from. `text` has the tokens, of `vocab` or `tokenizer_json`
//!    with `tokenizer_section`, `tokenizer_parts`, `tokenizer_settings`, `split_check` and `dolma2`, the conversations,
//!    of `chat_files` with `special_tokens` and `chat_child`, a process that runs `chat_template`, `chat_probes`,
//!    `chat_section` and `jinja` (with `template_source`, `python_text`, `python_json`), and the files themselves, as
//!    `kept_files`.
//! 2. `scan`: whether bf16 holds every matrix exactly; `coding`: which of them are stored in 12 bits a number.
//! 3. `plan`: what goes where, without I/O.
//! 4. `write`: fills batches of panels in parallel (`fill`, on the bits of `element`) while another thread writes.
//! 5. `output`: the file without a name until it is whole, and was read by `read_back` as its readers will; `disk`, of
//!    olmo-infer: the calls that change the disk, and nothing else makes them.
//!
//! `pack` is these steps in order, `summary` and `progress` tell about them. The other way round: `inspect` with
//! `inspect_table`, `verify` with `against`, `diff` and `unpack` with `numbers`, with `sources` for what the file
//! remembers of its folder; `copy` writes a model file anew. `units` are numbers for people, `buffer` is memory that
//! may be refused, and `error` everything that can go wrong, `mistaken` and `hub_cache` what was meant instead.
//!
//! The definition of the format is the runtime's; this crate uses its `config`, `format`, `layout`, `byte_pairs`,
//! `panels`, `coded`, `tokenizer`, `vocabulary`, `chat`, `sampling` and `model_file` and nothing else of it; the program, its
//! `manual` and `command_line`.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "olmo-pack writes files with calls that only Linux has (O_TMPFILE, linkat); pack there, and copy the .olmo file"
);

pub mod against;
mod buffer;
pub mod chat_child;
mod chat_files;
mod chat_probes;
pub mod chat_section;
pub mod chat_template;
pub mod checkpoint;
pub mod coding;
pub mod config_json;
pub mod copy;
pub mod diff;
pub mod dolma2;
pub mod element;
pub mod error;
mod file_kind;
pub mod fill;
pub mod generation_config;
mod hub_cache;
pub mod infer_config;
pub mod inspect;
mod inspect_table;
pub mod jinja;
pub mod kept_files;
pub mod listing;
mod mistaken;
pub mod npy;
mod npy_header;
pub mod numbers;
pub mod output;
pub mod pack;
pub mod plan;
pub mod progress;
mod python_json;
mod python_text;
mod read_back;
pub mod rope;
pub mod safetensors_header;
pub mod scan;
pub mod settings;
pub mod shard_index;
pub mod shards;
pub mod source_file;
pub mod sources;
pub mod special_tokens;
mod split_check;
pub mod stored_tensor;
pub mod strict_json;
pub mod summary;
mod template_source;
pub mod text;
mod threads;
pub mod tokenizer_json;
mod tokenizer_parts;
mod tokenizer_section;
pub mod tokenizer_settings;
mod units;
pub mod unpack;
pub mod verify;
pub mod vocab;
pub mod write;

pub use olmo_infer::disk;
