//! The instruction sets of this machine.

#![allow(unsafe_code, reason = "a call of code for a detected instruction set")]

use super::streaming::Streaming;
use std::sync::OnceLock;

/// An instruction set that this machine has, and how it reads weights from memory. They all come from
/// [`Isa::available`], which asks the CPU; the first call also asks Linux for the permission to use AMX, if there is
/// any, and has it for the whole process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(pub(super) Kind, pub(super) Streaming);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The tiles of AMX for bf16, and AVX-512.
    Amx,
    /// AVX-512 with the bf16 dot product.
    Avx512Bf16,
    /// AVX-512 without it.
    Avx512,
    Avx2,
    Portable,
    Scalar,
}

impl Isa {
    /// Every instruction set that this machine has. Each has what the ones after it need; `scalar` is the last.
    pub fn available() -> &'static [Isa] {
        static ALL: OnceLock<Vec<Isa>> = OnceLock::new();
        ALL.get_or_init(|| {
            let isa = |kind| Isa(kind, Streaming::of_this_cpu());
            detected().chain([Kind::Portable, Kind::Scalar]).map(isa).collect()
        })
    }

    /// The fastest instruction set of this machine.
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            let is_slow = |isa: &&Isa| isa.0 == Kind::Avx512Bf16 && !dot_is_fast();
            *Isa::available().iter().find(|isa| !is_slow(isa)).expect("scalar is always there")
        })
    }

    /// The one that multiplies bf16 weights with few rows the fastest: tiles take as long for one row as for 16, and read
    /// plain weights a little more slowly than vectors do.
    pub fn for_few_rows(self) -> Isa {
        match self.0 {
            Kind::Amx => Isa(Kind::Avx512, self.1),
            _ => self,
        }
    }

    /// The instruction set of a name of [`Isa::name`], if this machine has it.
    pub fn named(name: &str) -> Option<Isa> {
        Isa::available().iter().find(|isa| isa.name() == name).copied()
    }

    /// `amx`, `avx512-bf16`, `avx512`, `avx2`, `portable` or `scalar`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Amx => "amx",
            Kind::Avx512Bf16 => "avx512-bf16",
            Kind::Avx512 => "avx512",
            Kind::Avx2 => "avx2",
            Kind::Portable => "portable",
            Kind::Scalar => "scalar",
        }
    }

    /// How it reads weights from memory.
    pub fn streaming(self) -> Streaming {
        self.1
    }

    /// Bytes fetched ahead of an f32 panel that is read once, in one go. It is read in order, which processors see by
    /// themselves; fetching far ahead costs a fifth of the rate on Zen 3 and less on an Intel Xeon with AMX.
    pub(super) fn f32_ahead_bytes(self) -> usize {
        self.1.ahead_bytes / 4
    }

    /// The same, reading weights in another way. Changes no result.
    #[must_use]
    pub fn with_streaming(self, streaming: Streaming) -> Isa {
        Isa(self.0, streaming)
    }

    /// Whether this decodes bf12 panels as fast as memory delivers them.
    pub fn suits_bf12(self) -> bool {
        matches!(self.0, Kind::Amx | Kind::Avx512Bf16 | Kind::Avx512)
    }

    /// Whether f32 and bf16 products come from the kernels here; otherwise they come from the `gemm` crate.
    pub fn has_products(self) -> bool {
        self.0 != Kind::Portable
    }

    /// How often a tile of an f32 product of `rows` rows reads its panel: AVX2 has registers for 16 outputs of several
    /// rows at a time.
    pub(super) fn strips(self, rows: usize, width: usize) -> usize {
        match self.0 {
            Kind::Avx2 if rows > 1 || width != 64 => width / 16,
            _ => 1,
        }
    }
}

/// The kinds for which there are microkernels here.
#[cfg(target_arch = "x86_64")]
fn detected() -> impl Iterator<Item = Kind> {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
    let dot = avx512 && is_x86_feature_detected!("avx512bf16");
    // In the order of `Isa::available`: a processor with tiles has the dot product too.
    let amx = dot && super::x86_64::amx_detection::is_available();
    let kinds = [(amx, Kind::Amx), (dot, Kind::Avx512Bf16), (avx512, Kind::Avx512), (avx2, Kind::Avx2)];
    kinds.into_iter().filter_map(|(is_there, kind)| is_there.then_some(kind))
}

#[cfg(not(target_arch = "x86_64"))]
fn detected() -> impl Iterator<Item = Kind> {
    std::iter::empty()
}

/// Whether the bf16 dot product takes less time here than the two FMAs in its place. On an Emerald Rapids
/// processor it takes twice as long.
#[cfg(target_arch = "x86_64")]
fn dot_is_fast() -> bool {
    // SAFETY: `Isa::best` asks about `Kind::Avx512Bf16`, which `detected` yields only where the CPU has it.
    unsafe { super::x86_64::dot_speed::dot_is_fast() }
}

#[cfg(not(target_arch = "x86_64"))]
fn dot_is_fast() -> bool {
    false
}
