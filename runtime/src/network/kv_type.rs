//! The type of the numbers in the KV cache.

/// What keys and values are stored as. It changes results, but not what they depend on: with either type they are the
/// same bits for every instruction set, number of threads, chunk and batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// As they are computed, the default.
    #[default]
    F32,
    /// Rounded to bf16, in half the memory: to nearest, ties to even; subnormal numbers become zeros of their sign,
    /// numbers from 2^128 - 2^119 on infinite.
    Bf16,
}

impl KvType {
    /// The type of that name, `f32` or `bf16`.
    pub fn named(name: &str) -> Option<KvType> {
        match name {
            "f32" => Some(KvType::F32),
            "bf16" => Some(KvType::Bf16),
            _ => None,
        }
    }

    /// Its name, as [`KvType::named`] takes it.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::Bf16 => "bf16",
        }
    }

    /// Bytes of a number.
    pub fn bytes(self) -> u64 {
        match self {
            KvType::F32 => 4,
            KvType::Bf16 => 2,
        }
    }
}
