//! Runs OLMo-1, OLMo-2 and Olmo-3 models on CPUs from a memory-mapped `.olmo` file.
//!
//! The way of a token, from the file to the logits:
//!
//! 1. [`model_file`] opens and checks the file, [`mapping`] maps it or reads it, as suits its [`file_system`];
//!    [`format`](mod@format), [`layout`], [`panels`] and [`coded`] say what is in it and where, [`config`] what model it is.
//! 2. [`weights`] are views of the mapping, named as in the checkpoint. Nothing is copied.
//! 3. [`network`] is the forward pass, top to bottom; [`attention`], [`kv_cache`], [`rope`] and [`matmul`] are its parts. A
//!    pass takes tokens of one [`sequence`] or of many; a [`single`] is one by itself.
//! 4. [`kernels`] do the arithmetic for each instruction set, [`threads`] spreads it over the cores, [`grid`] cuts the
//!    outputs into blocks for them, [`gemm_crate`] computes the products where there are no kernels.
//! 5. [`generate`] is the loop over prompts and their continuations, [`sampler`] and [`top_k`] choose the tokens.
//! 6. [`tokens`] are read from files; with the feature `text`, [`encoder`] makes them from text as [`tokenizer`] and [`chat`]
//!    say, [`vocabulary`] and [`text`] make text of them again.
//!
//! What holds everywhere: a result depends on the model and the tokens alone, never on the number of threads, on how a
//! prompt is cut into chunks, on the sequences beside it, or on which of the instruction sets AVX2 and AVX-512 computed
//! it.
//!
//! ```no_run
//! use olmo_infer::network::{Network, Options};
//! use olmo_infer::single::Single;
//! use olmo_infer::model_file::ModelFile;
//! use olmo_infer::{threads::with_team, top_k::top_k};
//!
//! let prompt = [28070, 5573, 323, 8254];
//! let file = ModelFile::open("model.olmo".as_ref())?;
//! let network = Network::new(&file);
//! let top = with_team(2, |team| {
//!     let mut single = Single::new(&network, Options::new(prompt.len()))?;
//!     single.forward(team, &prompt)?;
//!     let logits = single.logits(team, prompt.len() - 1..prompt.len())?;
//!     Ok::<_, olmo_infer::error::Error>(top_k(logits, 5))
//! })?;
//! println!("{top:?}");
//! # Ok::<(), olmo_infer::error::Error>(())
//! ```

#[cfg(not(unix))]
compile_error!(
    "olmo-infer maps files and handles signals as Unix does, and is tested on Linux; on Windows, build it in WSL 2"
);

pub mod attention;
mod barrier;
mod buffers;
#[cfg(feature = "text")]
mod byte_pairs;
pub mod chat;
pub mod coded;
pub mod config;
#[cfg(feature = "text")]
pub mod encoder;
pub mod error;
pub mod file_system;
pub mod format;
pub mod gemm_crate;
pub mod generate;
pub mod grid;
pub mod index;
pub mod kernels;
pub mod kv_cache;
pub mod layout;
#[cfg(feature = "manual")]
pub mod manual;
pub mod mapping;
pub mod matmul;
pub mod memory;
pub mod model_file;
pub mod network;
pub mod panels;
pub mod rope;
mod rounding;
pub mod sampler;
pub mod sequence;
pub mod signals;
pub mod single;
mod sync;
pub mod text;
pub mod threads;
mod tickets;
pub mod tokenizer;
pub mod tokens;
pub mod top_k;
pub mod vocabulary;
pub mod weights;
mod zeros;
