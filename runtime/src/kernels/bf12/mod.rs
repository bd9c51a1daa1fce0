//! Decodes bf16 panels that are stored in 12 bits an element.

#![allow(unsafe_code, reason = "calls of code for detected instruction sets")]

#[cfg(target_arch = "x86_64")]
pub mod amx;
#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;

use super::fetch::Fetch;
use super::isa::{Isa, Kind};
use super::tiles::CACHE_LINE;
use crate::format::PANEL_ROWS;
use crate::format::encodings::bf12::{Bf12Panel, CODED_STEP_BYTES, RAW_STEP_BYTES, decode};

impl Isa {
    /// Decodes a panel, or a part of one, into `[steps][64]` pairs, as a plain panel has them. Padding becomes numbers
    /// that are not used.
    ///
    /// # Panics
    /// When `out` has another length.
    pub fn decode(self, panel: &Bf12Panel, out: &mut [u32]) {
        self.decode_and_fetch(panel, out, None);
    }

    /// As [`Isa::decode`]. AVX-512 fetches meanwhile as many cache lines as the panel has.
    pub(super) fn decode_and_fetch(self, panel: &Bf12Panel, out: &mut [u32], mut fetch: Option<Fetch>) {
        assert_eq!(out.len(), panel.n_steps() * PANEL_ROWS);
        debug_assert!(fetch.is_none() || self.suits_bf12());
        let (mut bytes, mut out) = (panel.bytes().for_kernels(), out);
        for (coded, raw) in panel.stretches() {
            let (stretch, rest) = bytes.split_at(coded * CODED_STEP_BYTES);
            let (to, rest_out) = out.split_at_mut(coded * PANEL_ROWS);
            let (steps, to) = (stretch.as_chunks().0, to.as_chunks_mut().0);
            match self.0 {
                // SAFETY: `Isa::available` makes these kinds only where it found AVX-512F and AVX-512BW.
                #[cfg(target_arch = "x86_64")]
                Kind::Amx | Kind::Avx512Bf16 | Kind::Avx512 => unsafe {
                    avx512::decode(steps, panel.exponents(), to, fetch.as_mut());
                },
                // SAFETY: `Isa::available` makes this kind only where it found AVX2 and FMA.
                #[cfg(target_arch = "x86_64")]
                Kind::Avx2 => unsafe { avx2::decode(steps, panel.exponents(), to) },
                _ => to.iter_mut().zip(steps).for_each(|(to, step)| *to = decode(step, panel.exponents())),
            }
            (bytes, out) = (rest, rest_out);
            if raw {
                let (pairs, rest) = bytes.split_at(RAW_STEP_BYTES);
                let (to, rest_out) = out.split_at_mut(PANEL_ROWS);
                for (to, pair) in to.iter_mut().zip(pairs.as_chunks().0) {
                    *to = u32::from_le_bytes(*pair);
                }
                (bytes, out) = (rest, rest_out);
                if let Some(fetch) = &mut fetch {
                    fetch.lines(RAW_STEP_BYTES / CACHE_LINE);
                }
            }
        }
    }
}
