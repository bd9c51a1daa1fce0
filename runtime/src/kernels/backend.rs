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
    /// That of products of bf16 weights with up to [`Backend::FEW_ROWS`] rows of activations. Every instruction set
    /// computes the same bits.
    pub few: Isa,
    /// Whether the `gemm` crate computes the products.
    pub gemm: bool,
}

impl Backend {
    /// Most rows that are few: with more, tiles are faster.
    pub const FEW_ROWS: usize = 2;

    /// The kernels of an instruction set, or `gemm` where it has none.
    pub fn of(isa: Isa) -> Backend {
        Backend { isa, few: isa, gemm: !isa.has_products() }
    }

    /// The fastest kernels of this machine.
    pub fn best() -> Backend {
        let isa = Isa::best();
        Backend { few: isa.for_few_rows(), ..Backend::of(isa) }
    }

    /// The instruction set for bf16 weights and this number of rows.
    pub fn isa_of(self, rows: usize) -> Isa {
        if rows <= Backend::FEW_ROWS { self.few } else { self.isa }
    }

    /// The backend with an instruction set of [`Isa::named`], the fastest by default, and with products by its `own`
    /// kernels or by `gemm`.
    ///
    /// # Errors
    /// [`BackendError`].
    pub fn named(isa: Option<&str>, products: Option<&str>) -> Result<Backend, BackendError> {
        let backend = match isa {
            None => Backend::best(),
            Some(name) => {
                let isa = Isa::named(name).ok_or_else(|| BackendError::UnknownIsa { name: name.into() })?;
                Backend::of(isa)
            }
        };
        match products {
            None => Ok(backend),
            Some("gemm") => Ok(Backend { gemm: true, ..backend }),
            Some("own") if backend.isa.has_products() => Ok(Backend { gemm: false, ..backend }),
            Some("own") => Err(BackendError::NoKernels { isa: backend.isa }),
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
