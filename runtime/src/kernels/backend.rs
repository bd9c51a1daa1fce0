//! Which code computes the products.

use super::gemm;
use super::grid::OutputBlock;
use super::isa::Isa;
use super::numbers::Numbers;
use std::fmt;

/// The kernels of an instruction set, or the `gemm` crate in their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Instruction set of the kernels, and of everything but products.
    pub isa: Isa,
    /// Whether the `gemm` crate computes the products.
    pub gemm: bool,
}

impl Backend {
    /// The kernels of an instruction set, or `gemm` where it has none.
    pub fn of(isa: Isa) -> Backend {
        Backend { isa, gemm: !isa.has_products() }
    }

    /// The backend with an instruction set of [`Isa::named`], the fastest by default, and with products by its `own`
    /// kernels or by `gemm`.
    ///
    /// # Errors
    /// [`BackendError`].
    pub fn named(isa: Option<&str>, products: Option<&str>) -> Result<Backend, BackendError> {
        let isa = match isa {
            None => Isa::best(),
            Some(name) => Isa::named(name).ok_or_else(|| BackendError::UnknownIsa { name: name.into() })?,
        };
        match products {
            None => Ok(Backend::of(isa)),
            Some("gemm") => Ok(Backend { isa, gemm: true }),
            Some("own") if isa.has_products() => Ok(Backend { isa, gemm: false }),
            Some("own") => Err(BackendError::NoKernels { isa }),
            Some(name) => Err(BackendError::UnknownProducts { name: name.into() }),
        }
    }

    /// See [`Isa::product`].
    pub fn product(
        &self,
        panel: Numbers,
        width: usize,
        x: &[f32],
        x_stride: usize,
        out: &mut OutputBlock,
        accumulate: bool,
    ) {
        match panel {
            Numbers::Bf16(panel) if self.gemm => gemm::product_bf16(panel, width, x, x_stride, out, accumulate),
            Numbers::F32(panel) if self.gemm => gemm::product_f32(panel, width, x, x_stride, out, accumulate),
            _ => self.isa.product(panel, width, x, x_stride, out, accumulate),
        }
    }

    /// As [`Backend::product`] for f32.
    pub fn product_f32(
        &self,
        panel: &[f32],
        width: usize,
        x: &[f32],
        x_stride: usize,
        out: &mut OutputBlock,
        accumulate: bool,
    ) {
        self.product(Numbers::F32(panel), width, x, x_stride, out, accumulate);
    }
}

/// Why a backend cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendError {
    /// This machine has no instruction set of that name.
    UnknownIsa {
        /// The name.
        name: String,
    },
    /// There are no products of that name.
    UnknownProducts {
        /// The name.
        name: String,
    },
    /// The instruction set has no kernels.
    NoKernels {
        /// The instruction set.
        isa: Isa,
    },
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BackendError::UnknownIsa { name } => {
                let names: Vec<&str> = Isa::available().iter().map(|isa| isa.name()).collect();
                write!(f, "{name}: this machine has {}", names.join(", "))
            }
            BackendError::UnknownProducts { name } => write!(f, "{name}: expected own or gemm"),
            BackendError::NoKernels { isa } => write!(f, "own: there are no own kernels for {}", isa.name()),
        }
    }
}

impl std::error::Error for BackendError {}
