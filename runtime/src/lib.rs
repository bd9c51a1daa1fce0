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
//! They are for callers that take a token at a time: each pass wakes the threads of the model, some tens of
//! microseconds.
//!
//! What holds everywhere: a result depends on the model and the tokens alone, never on the number of threads, on how a
//! prompt is cut into chunks, on the sequences beside it, or on which of the instruction sets AVX2 and AVX-512 computed
//! it.

#![cfg_attr(
    not(feature = "internals"),
    allow(dead_code, unused_imports, reason = "the programs of the workspace use it")
)]

#[cfg(not(unix))]
compile_error!(
    "olmo-infer maps files and handles signals as Unix does, and is tested on Linux; on Windows, build it in WSL 2"
);

#[cfg(feature = "manual")]
mod cli;
mod continuation;
#[cfg(feature = "text")]
mod conversation;
mod error;
mod file;
mod format;
mod generate;
mod kernels;
mod model;
mod network;
mod os;
mod parallel;
mod session;
mod text;

/// The rooms of this crate, for the programs and tests of its own workspace. No version promises anything of them.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    #[cfg(feature = "manual")]
    pub mod cli {
        pub use crate::cli::*;
    }
    pub mod error {
        pub use crate::error::*;
    }
    pub mod file {
        pub use crate::file::*;
    }
    pub mod format {
        pub use crate::format::*;
    }
    pub mod generate {
        pub use crate::generate::*;
    }
    pub mod kernels {
        pub use crate::kernels::*;
    }
    pub mod network {
        pub use crate::network::*;
    }
    pub mod os {
        pub use crate::os::*;
    }
    pub mod parallel {
        pub use crate::parallel::*;
    }
    pub mod text {
        pub use crate::text::*;
    }
    pub mod continuation {
        pub use crate::continuation::*;
    }
    #[cfg(feature = "text")]
    pub mod conversation {
        pub use crate::conversation::*;
    }
    pub mod model {
        pub use crate::model::*;
    }
    pub mod session {
        pub use crate::session::*;
    }
}

pub use error::Error;
pub use file::sampling::Sampling;
pub use model::Model;
pub use network::Options;
pub use session::Session;
