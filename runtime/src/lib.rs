//! Runs OLMo-1, OLMo-2, Olmo-3, OLMoE, FlexOlmo and Olmo-Hybrid models on CPUs from a memory-mapped `.olmo` file.
//!
//! # The main path
//!
//! A [`Model`] is an open file and the threads that compute with it. A [`Session`] of it is one sequence with its KV
//! cache: [`Session::prefill`] evaluates a prompt, [`Session::generate`] appends tokens that it chooses, and
//! [`Session::decode`] one that the caller chooses after [`Session::logits`]. [`Model::generate`] evaluates many
//! sequences at once, and [`Model::score`] computes the log-likelihoods of many. Errors are an [`Error`], whose text is
//! one line for a user.
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
//!     model.check_unchanged()?; // The mapped file was not written to meanwhile.
//!     println!("{}", model.decode_text(&answer)?);
//!     Ok(())
//! }
//! ```
//!
//! `Model` and `Session` own what they use: a struct can hold them, and a session can outlive the caller's `Model`. What
//! lives for one call borrows: [`Run`] its prompt, [`Evaluated`] the logits, [`Continuation`] the session.
//! `Model` is `Send` and `Sync`, `Session` is `Send`: threads share one model, and each has its own session. In the
//! folder `examples`, `generate` prints text as it is generated, `embed_in_a_thread` serves several threads, and
//! `score` evaluates a file of tokens.
//!
//! A result depends on the model and the tokens alone: not on the number of threads, the chunks of a prompt, the other
//! sequences of a pass, or which of the instruction sets AVX2, AVX-512 and AMX
//! computed it.
//!
//! # Features
//!
//! `compute` is everything that runs a model, `text` the tokenizer and chat templates. The default, `cli`, is both and
//! the features of the programs, with `internals`: every room of the crate, which no version keeps stable. A dependency
//! therefore sets `default-features = false, features = ["compute", "text"]`.

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
#[cfg(all(feature = "compute", feature = "text"))]
mod conversation;
mod error;
mod file;
mod format;
#[cfg(feature = "compute")]
mod generate;
#[cfg(feature = "compute")]
mod kernels;
#[cfg(feature = "compute")]
mod model;
#[cfg(feature = "compute")]
mod network;
mod os;
#[cfg(feature = "compute")]
mod parallel;
#[cfg(feature = "compute")]
mod score;
#[cfg(feature = "compute")]
mod session;
mod text;

#[cfg(feature = "compute")]
pub use compute::*;
pub use error::{ChatError, ConfigError, Error, NotRun, SavedSessionError};
pub use file::mapping::Load;
pub use file::sampling::{Sampling, SamplingWishes};
pub use text::stream::TextStream;
pub use text::vocabulary::Vocabulary;

/// The public names of the rooms that run a model.
#[cfg(feature = "compute")]
mod compute {
    pub use crate::generate::speculation::Speculated;
    pub use crate::generate::{Evaluated, Run, Timing};
    pub use crate::model::Model;
    pub use crate::network::Options;
    pub use crate::network::kv_type::KvType;
    pub use crate::network::observer::Hidden;
    pub use crate::network::speculate::Speculate;
    pub use crate::parallel::matmul::Activations;
    pub use crate::score::{Event as ScoreEvent, Item as ScoreItem, TokenScore};
    pub use crate::session::{Chooser, Continuation, Resumed, Session};
}

/// Conversations: messages, and a session that has evaluated them.
#[cfg(all(feature = "compute", feature = "text"))]
pub mod chat {
    pub use crate::conversation::{Answer, Answering, Conversation, End, Unanswered};
    pub use crate::text::chat::{ChatError, Message, Role};
}

/// The rooms of this crate, for the programs and tests of its own workspace. No version promises anything of them.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    #[cfg(feature = "manual")]
    pub mod cli {
        pub use crate::cli::*;
    }
    #[cfg(all(feature = "compute", feature = "text"))]
    pub mod conversation {
        pub use crate::conversation::*;
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
    #[cfg(feature = "compute")]
    pub mod generate {
        pub use crate::generate::*;
    }
    #[cfg(feature = "compute")]
    pub mod kernels {
        pub use crate::kernels::*;
    }
    #[cfg(feature = "compute")]
    pub mod network {
        pub use crate::network::*;
    }
    pub mod os {
        pub use crate::os::*;
    }
    #[cfg(feature = "compute")]
    pub mod parallel {
        pub use crate::parallel::*;
    }
    #[cfg(feature = "compute")]
    pub mod score {
        pub use crate::score::*;
    }
    pub mod text {
        pub use crate::text::*;
    }
}
