//! The native part of the Python package `olmo_infer`. It names only the public names of the library.
//!
//! Every call that computes lets other Python threads run meanwhile, and comes back for signals: Ctrl-C ends it between
//! two passes. Results are handed out only after a check that the model file has not changed.

mod arrays;
mod errors;
mod generate_many;
mod generation;
mod model;
mod score;
mod session;
mod settings;
mod signals;

use pyo3::prelude::*;

/// The module `olmo_infer._native`.
#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::generation::Generation;
    #[pymodule_export]
    use crate::model::Model;
    #[pymodule_export]
    use crate::score::Score;
    #[pymodule_export]
    use crate::session::Session;
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
