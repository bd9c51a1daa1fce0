//! A panel of bf16 weights, however it is stored.

use crate::format::PANEL_ROWS;
use crate::format::encodings::bf12::{Bf12Panel, CODED_STEP_BYTES};

/// A panel of bf16 weights, or some consecutive steps of one.
#[derive(Clone, Copy)]
pub enum Bf16Panel<'a> {
    /// Pairs of bf16, `[steps][64]`, the even column in the low half.
    Plain(&'a [u32]),
    /// In 12 bits an element.
    Bf12(Bf12Panel<'a>),
}

impl<'a> Bf16Panel<'a> {
    /// Number of steps: pairs of columns.
    pub fn n_steps(&self) -> usize {
        match self {
            Bf16Panel::Plain(pairs) => pairs.len() / PANEL_ROWS,
            Bf16Panel::Bf12(panel) => panel.n_steps(),
        }
    }

    /// The first `steps` steps, and the rest.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn split_at(&self, steps: usize) -> (Bf16Panel<'a>, Bf16Panel<'a>) {
        match self {
            Bf16Panel::Plain(pairs) => {
                let (first, rest) = pairs.split_at(steps * PANEL_ROWS);
                (Bf16Panel::Plain(first), Bf16Panel::Plain(rest))
            }
            Bf16Panel::Bf12(panel) => {
                let (first, rest) = panel.split_at(steps);
                (Bf16Panel::Bf12(first), Bf16Panel::Bf12(rest))
            }
        }
    }

    /// Where the bytes begin. To prefetch from.
    pub(crate) fn begin(&self) -> *const i8 {
        match self {
            Bf16Panel::Plain(pairs) => pairs.as_ptr().cast(),
            Bf16Panel::Bf12(panel) => panel.bytes().for_kernels().as_ptr().cast(),
        }
    }

    /// Bytes of most steps.
    pub(crate) fn step_bytes(&self) -> usize {
        match self {
            Bf16Panel::Plain(_) => PANEL_ROWS * size_of::<u32>(),
            Bf16Panel::Bf12(_) => CODED_STEP_BYTES,
        }
    }
}
