//! Views of weights together with the file that they borrow from.
//!
//! The views are made and checked once, so that the forward pass only follows them, and a session can outlive the
//! caller's [`Model`](crate::model::Model).

#![allow(unsafe_code, reason = "the macro of self_cell expands to it")]

use crate::error::Error;
use crate::file::model_file::ModelFile;
use crate::network::weights::Weights;
use self_cell::self_cell;
use std::sync::Arc;

self_cell! {
    /// The file is `None` for weights that live as long as the program.
    pub(crate) struct OwnedWeights {
        owner: Option<Arc<ModelFile>>,
        #[covariant]
        dependent: Copies,
    }
}

/// The weights of a model, and those that are partly its drafts, if it has any.
pub(crate) struct Copies<'a> {
    pub model: Weights<'a>,
    pub draft: Option<Weights<'a>>,
}

impl OwnedWeights {
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn of_file(file: Arc<ModelFile>) -> Result<OwnedWeights, Error> {
        OwnedWeights::try_new(Some(file), |file| {
            let file = file.as_ref().expect("given above");
            Ok(Copies { model: Weights::new(file)?, draft: Weights::draft(file)? })
        })
    }

    pub fn of_static(weights: Weights<'static>) -> OwnedWeights {
        OwnedWeights::new(None, |_| Copies { model: weights, draft: None })
    }
}
