//! Runs OLMo-1, OLMo-2 and Olmo-3 models on CPUs from a memory-mapped `.olmo` file.
//!
//! # The main path
//!
//! A [`Model`] is an open file and the threads that compute with it. A [`Session`] of it is one sequence with its KV
//! cache: it takes in a prompt by [`Session::prefill`], and goes on with the tokens that [`Session::generate`] chooses
//! or that the caller does, by [`Session::decode`] after a look at [`Session::logits`]. Everything that can go wrong is
//! an [`Error`], whose text is one line for a user.
//!
//! ```no_run
//! use olmo_infer::{Error, Model, Options, Sampling};
//!
//! fn main() -> Result<(), Error> {
//!     let model = Model::open("model.olmo")?;
//!     let prompt = [28070, 5573, 323, 8254]; // With the feature `text`: model.encode("Four score and seven")?
//!     let mut session = model.session(Options::new(prompt.len() + 20))?;
//!     session.prefill(&prompt)?;
//!     let answer = session.generate(Sampling::GREEDY).collect::<Result<Vec<u32>, Error>>()?;
//!     model.file().check_unchanged()?; // Nobody has written to the mapped file meanwhile.
//!     println!("{}", model.decode_text(&answer)?);
//!     Ok(())
//! }
//! ```
//!
//! `Model` is `Send` and `Sync`, `Session` is `Send`: threads share one model, and each has a session of its own. In
//! the folder `examples`, `generate` shows text as it comes, `embed_in_a_thread` serves several threads, and `score`
//! goes below these two types.
//!
//! They are for callers that take a token at a time. Each pass wakes the threads of the model, some tens of
//! microseconds. Whole runs, and many sequences that share each pass over the weights, are [`generate::generate`] with
//! a [`Batch`](network::Batch), inside [`threads::with_team`]: what the program `olmo-infer` does. The results are the
//! same bits.
//!
//! # The way of a token
//!
//! From the file to the logits:
//!
//! 1. [`model_file`] opens and checks the file, [`mapping`] maps it or reads it, as suits its [`file_system`];
//!    [`format`](mod@format), [`layout`], [`panels`] and [`coded`] say what is in it and where, [`config`] what model
//!    it is, and [`sizes`] computes with what a file states.
//! 2. [`weights`] are views of the mapping, named as in the checkpoint. Nothing is copied.
//! 3. [`network`] is the forward pass, top to bottom; `attention`, `kv_cache`, `rope` and [`matmul`] are its
//!    parts. A pass takes tokens of one [`sequence`] or of many; a [`single`] is one by itself.
//! 4. [`kernels`] do the arithmetic for each instruction set, [`threads`] spreads it over the cores, [`kernels::grid`] cuts the
//!    outputs into blocks for them, `kernels::gemm` computes the products where there are no kernels.
//! 5. [`generate`] is the loop over prompts and their continuations, [`sampler`] and [`top_k`] choose the tokens as
//!    [`sampling`] says.
//! 6. [`tokens`] are read from files; with the feature `text`, [`encoder`] makes them from text as [`tokenizer`] and
//!    [`chat`] say, [`vocabulary`] and [`text`] make text of them again.
//! 7. [`model`], [`session`] and [`continuation`] put a model, its threads and a sequence together for other programs;
//!    with the feature `text`, [`conversation`] keeps a session and the messages of a chat in step.
//!
//! What holds everywhere: a result depends on the model and the tokens alone, never on the number of threads, on how a
//! prompt is cut into chunks, on the sequences beside it, or on which of the instruction sets AVX2 and AVX-512 computed
//! it.

#[cfg(not(unix))]
compile_error!(
    "olmo-infer maps files and handles signals as Unix does, and is tested on Linux; on Windows, build it in WSL 2"
);

pub mod allocator;
mod attention;
mod barrier;
pub mod batch_size;
mod buffers;
pub mod byte_pairs;
#[cfg(feature = "chat")]
pub mod chat;
pub mod coded;
#[cfg(feature = "manual")]
pub mod command_line;
pub mod config;
pub mod continuation;
#[cfg(feature = "text")]
pub mod conversation;
#[cfg(feature = "files")]
pub mod disk;
#[cfg(feature = "text")]
pub mod encoder;
pub mod error;
pub mod file_system;
#[cfg(feature = "files")]
pub mod folder;
pub mod format;
pub mod generate;
mod holes;
pub mod index;
pub mod kernels;
mod kv_cache;
pub mod layout;
#[cfg(feature = "manual")]
pub mod manual;
pub mod mapped_bytes;
pub mod mapping;
pub mod matmul;
pub mod memory;
pub mod model;
pub mod model_file;
pub mod network;
pub mod panels;
#[cfg(feature = "files")]
pub mod pending;
mod rope;
mod rounding;
pub mod sampler;
pub mod sampling;
pub mod sequence;
pub mod session;
pub mod shown;
pub mod signals;
pub mod single;
pub mod sizes;
mod sync;
pub mod text;
pub mod threads;
mod tickets;
mod token_guess;
pub mod tokenizer;
pub mod tokens;
pub mod top_k;
mod turns;
pub mod vocabulary;
pub mod weights;
mod zeros;

pub use error::Error;
pub use model::Model;
pub use network::Options;
pub use sampler::Sampling;
pub use session::Session;
