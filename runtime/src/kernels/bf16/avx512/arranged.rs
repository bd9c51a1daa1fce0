//! Blocks of weights as the kernels for many rows take them.

#![allow(unsafe_code, reason = "intrinsics on raw pointers")]

use super::multiply::{By, Dot, Fma, Multiply, REGISTERS, load, parts};
use crate::format::PANEL_ROWS;
use crate::format::encodings::bf12::{CODED_STEP_BYTES, RAW_STEP_BYTES};
use crate::kernels::bf12::avx512::Decoder;
use crate::kernels::bf16::dot::BLOCK_STEPS;
use crate::kernels::bf16::panel::Bf16Panel;
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Arranges some steps of a panel in the blocks of a group.
///
/// # Safety
/// The CPU must have AVX-512F and AVX-512BW.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn fill(by: By, panel: &Bf16Panel, blocks: &mut [u32]) {
    assert!(blocks.len() == panel.n_steps().div_ceil(BLOCK_STEPS) * by.block_words());
    // SAFETY: the attribute enables the features, and the assertion above shows the blocks.
    unsafe {
        match by {
            By::Fma { .. } => fill_for::<Fma<false>>(panel, blocks),
            By::Dot { .. } => fill_for::<Dot<false>>(panel, blocks),
        }
    }
}

/// # Safety
/// The CPU must have AVX-512F and AVX-512BW, and the blocks must have room for the steps of the panel.
#[inline(always)]
unsafe fn fill_for<M: Multiply>(panel: &Bf16Panel, blocks: &mut [u32]) {
    // SAFETY: `# Safety` demands a place for each step. A plain panel is read by whole steps of 64 pairs;
    // `Bf12Panel::stretches` asserts that its runs and raw steps are those of the panel, and `Bf12Panels::new` and
    // `split_at` that it has their bytes.
    unsafe {
        let mut out = Arranged::<M>::new(blocks);
        match panel {
            Bf16Panel::Plain(pairs) => {
                for step in pairs.as_chunks::<PANEL_ROWS>().0 {
                    let w = load(step.as_ptr().cast());
                    out.put(w);
                }
            }
            Bf16Panel::Bf12(panel) => {
                let decoder = Decoder::new(panel.exponents());
                let mut bytes = panel.bytes().for_kernels().as_ptr();
                for (n_bf12, raw) in panel.stretches() {
                    for _ in 0..n_bf12 {
                        out.put(decoder.step(bytes, None));
                        bytes = bytes.add(CODED_STEP_BYTES);
                    }
                    if raw {
                        out.put(load(bytes));
                        bytes = bytes.add(RAW_STEP_BYTES);
                    }
                }
            }
        }
        out.end();
    }
}

/// Where the next step goes.
struct Arranged<'b, M> {
    blocks: &'b mut [u32],
    step: usize,
    /// The step before, if its number is even.
    first: [__m512i; REGISTERS],
    multiply: PhantomData<M>,
}

impl<'b, M: Multiply> Arranged<'b, M> {
    /// # Safety
    /// The CPU must have AVX-512F.
    #[inline(always)]
    unsafe fn new(blocks: &'b mut [u32]) -> Self {
        // SAFETY: `# Safety`.
        let first = unsafe { [_mm512_setzero_si512(); REGISTERS] };
        Arranged { blocks, step: 0, first, multiply: PhantomData }
    }

    /// # Safety
    /// There must be a place for this step in the blocks, and the CPU must have AVX-512F and AVX-512BW.
    #[inline(always)]
    unsafe fn put(&mut self, pairs: [__m512i; REGISTERS]) {
        if self.step.is_multiple_of(2) {
            self.first = pairs;
        } else {
            // SAFETY: `# Safety`.
            unsafe { self.store(pairs) };
        }
        self.step += 1;
    }

    /// Stores the step that is left without a second one, with weights of +0.
    ///
    /// # Safety
    /// As [`Arranged::put`].
    #[inline(always)]
    unsafe fn end(mut self) {
        if self.step % 2 == 1 {
            // SAFETY: `# Safety`.
            unsafe { self.store([_mm512_setzero_si512(); REGISTERS]) };
        }
    }

    /// # Safety
    /// As [`Arranged::put`].
    #[inline(always)]
    unsafe fn store(&mut self, second: [__m512i; REGISTERS]) {
        let (block, pair) = (self.step / BLOCK_STEPS, self.step % BLOCK_STEPS / 2);
        // A pair of steps is one or two steps of a chain.
        let at = (2 * block * M::CHAIN_STEPS + pair * M::CHAIN_STEPS / (BLOCK_STEPS / 2)) * PANEL_ROWS;
        // SAFETY: block, part and step of the chain are inside `[2][CHAIN_STEPS][64]` of a block that is there.
        unsafe {
            let even = self.blocks.as_mut_ptr().add(at);
            for part in 0..parts::<M>() {
                for r in 0..REGISTERS {
                    let (evens, odds) = M::unpack(self.first[r], second[r], part);
                    let even = even.add(part * PANEL_ROWS + 16 * r);
                    _mm512_storeu_si512(even.cast(), evens);
                    _mm512_storeu_si512(even.add(M::CHAIN_STEPS * PANEL_ROWS).cast(), odds);
                }
            }
        }
    }
}
