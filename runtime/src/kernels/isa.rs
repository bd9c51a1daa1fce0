//! The instruction sets of this machine.

/// An instruction set that this machine has. Only [`Isa::best`], [`Isa::named`] and [`Isa::available`] make one, after
/// asking the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(pub(super) Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// AVX-512 with the bf16 dot product.
    Avx512Bf16,
    /// AVX-512 without it.
    Avx512,
    Avx2,
    Portable,
    Scalar,
}

impl Isa {
    /// Every instruction set that this machine has, the fastest first; `scalar` is the last.
    pub fn available() -> &'static [Isa] {
        // Each has what the ones after it need.
        #[cfg(target_arch = "x86_64")]
        {
            static ALL: [Isa; 5] =
                [Isa(Kind::Avx512Bf16), Isa(Kind::Avx512), Isa(Kind::Avx2), Isa(Kind::Portable), Isa(Kind::Scalar)];
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
            let first = match (avx2, avx512) {
                (_, true) if is_x86_feature_detected!("avx512bf16") => 0,
                (_, true) => 1,
                (true, false) => 2,
                (false, false) => 3,
            };
            &ALL[first..]
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            static ALL: [Isa; 2] = [Isa(Kind::Portable), Isa(Kind::Scalar)];
            &ALL
        }
    }

    /// The fastest instruction set of this machine.
    pub fn best() -> Isa {
        Isa::available()[0]
    }

    /// The best available set of a family: `avx512`, `avx2`, `portable` or `scalar`.
    pub fn named(name: &str) -> Option<Isa> {
        let family = |isa: &&Isa| isa.name().strip_suffix("+bf16").unwrap_or(isa.name()) == name;
        Isa::available().iter().find(family).copied()
    }

    /// Name for people: `avx512+bf16`, `avx512`, `avx2`, `portable` or `scalar`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Avx512Bf16 => "avx512+bf16",
            Kind::Avx512 => "avx512",
            Kind::Avx2 => "avx2",
            Kind::Portable => "portable",
            Kind::Scalar => "scalar",
        }
    }

    /// Whether this decodes bf12 panels as fast as memory delivers them.
    pub fn suits_bf12(self) -> bool {
        matches!(self.0, Kind::Avx512Bf16 | Kind::Avx512)
    }

    /// Whether products come from the kernels here; otherwise they come from the `gemm` crate.
    pub fn has_products(self) -> bool {
        self.0 != Kind::Portable
    }

    /// How often a tile of a product of `rows` rows reads its panel: AVX2 has registers for 16 outputs of several rows
    /// at a time.
    pub(super) fn strips(self, rows: usize, width: usize) -> usize {
        match self.0 {
            Kind::Avx2 if rows > 1 || width != 64 => width / 16,
            _ => 1,
        }
    }
}
