//! The encodings that a user can ask for.

use crate::encode::levels::LEVELS;
use olmo_infer::internals::format::Encoding;
use olmo_infer::internals::format::encodings::quantized::{Elements, Quantization, Scales};

/// The encoding to store a matrix in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// f32.
    F32,
    /// bf16, rounded to nearest even.
    Bf16,
    /// bf16 in 12 bits where that pays, else plain bf16.
    Bf12,
    /// int8 or int4.
    Quantized(Quantization),
}

impl Wanted {
    /// The names of [`Wanted::named`].
    pub const NAMES: &str = "f32, bf16, bf12, int8, int8-16, int8-f16, int4, int4-16 or int4-f16";

    /// The encoding of this name.
    pub fn named(name: &str) -> Option<Wanted> {
        let of_elements = |elements| {
            let scales = [Scales::Row32, Scales::Row16, Scales::F16];
            scales.map(|scales| Wanted::Quantized(Quantization { elements, scales }))
        };
        let quantized = [Elements::Int8, Elements::Int4(LEVELS)].into_iter().flat_map(of_elements);
        let mut all = [Wanted::F32, Wanted::Bf16, Wanted::Bf12].into_iter().chain(quantized);
        all.find(|wanted| wanted.name() == name)
    }

    /// Bits of an element with its share of the scales of its block; factors of a row and exceptions are left out.
    pub fn bits(self) -> f64 {
        match self {
            Wanted::F32 => 32.0,
            Wanted::Bf16 => 16.0,
            Wanted::Bf12 => 12.0,
            Wanted::Quantized(quantization) => {
                let of_scales = match quantization.scales {
                    Scales::F16 => 16.0 / 32.0,
                    Scales::Row32 => 8.0 / 32.0,
                    Scales::Row16 => 8.0 / 16.0,
                };
                Encoding::Quantized(quantization).dtype().bits() as f64 + of_scales
            }
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Wanted::F32 => "f32",
            Wanted::Bf16 => "bf16",
            Wanted::Bf12 => "bf12",
            Wanted::Quantized(quantization) => Encoding::Quantized(quantization).name(),
        }
    }
}
