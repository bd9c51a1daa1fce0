//! How weights that are read once come from memory, by the kind of processor.

/// How a kernel reads weights that it needs once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streaming {
    /// Panels that a thread reads by turns: streams of memory.
    pub panels: usize,
    /// Bytes fetched ahead of each plain bf16 panel with one row. Several rows, and bf12 with AVX2, take twice as many, and
    /// f32 a quarter.
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
            // Emerald Rapids: 1 KiB leaves a tenth of the memory's rate unused, with vectors and with tiles.
            return Streaming { panels: 1, ahead_bytes: 8192 };
        }
        // Zen 3, one row of bf16: 2 and 3 KiB are the fastest, each in some runs, and a tenth faster than 1 and 4 KiB.
        Streaming { panels: 1, ahead_bytes: 3072 }
    }
}
