//! How weights that are read once come from memory, by the kind of processor.

#[cfg(all(target_arch = "x86_64", not(miri)))]
use std::sync::OnceLock;

/// How a kernel reads weights that it needs once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streaming {
    /// Panels that a thread reads by turns: streams of memory.
    pub panels: usize,
    /// Bytes fetched ahead of each plain bf16 panel with one row, of panels of integers, and of what tiles multiply. With
    /// vectors, several rows take twice as many, bf12 as [`Streaming::bf12_is_far`] states, and f32 a quarter.
    pub ahead_bytes: usize,
}

impl Streaming {
    /// Most panels.
    pub const MAX_PANELS: usize = 8;

    /// What measured best on processors like this one, as the sweep of `olmo-bench` shows.
    pub fn of_this_cpu() -> Streaming {
        // Miri has no such instruction.
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if super::x86_64::cpuid::is_made_by(b"GenuineIntel") {
            // Emerald Rapids: 1 KiB leaves some of the memory's rate unused, with vectors and with tiles.
            return Streaming { panels: 1, ahead_bytes: 8192 };
        }
        // Zen 3, one row of bf16: 2 and 3 KiB are the fastest, each in some runs, and a tenth faster than 1 and 4 KiB.
        // Zen 4: 1 to 3 KiB are about as fast, and 8 KiB an eighth to a quarter slower.
        Streaming { panels: 1, ahead_bytes: 3072 }
    }

    /// Whether one row of bf12 is fetched twice as far ahead as plain bf16, with AVX-512. On Zen 4 that reads 75 to 100 %
    /// of what memory delivers in place of 50 to 67 %. With AVX2 it always is.
    pub fn bf12_is_far() -> bool {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            static IS_FAR: OnceLock<bool> = OnceLock::new();
            *IS_FAR.get_or_init(|| !super::x86_64::cpuid::is_made_by(b"GenuineIntel"))
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        true
    }
}
