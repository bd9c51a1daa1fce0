//! The fused oracle: the definition of the products, one operation at a time. For tests; every other instruction set
//! gives the same bits.

use super::bf16::dot::{BLOCK_STEPS, add_step, dot_step, split_pair};
use super::bf16::panel::Bf16Panel;
use super::bf16::rows::Bf16Rows;
use super::grid::OutputBlock;
use super::isa::Isa;
use super::numbers::{Numbers, widened};
use super::tiles::{PanelPart, Rows};
use crate::format::PANEL_ROWS;

/// See [`super::Isa::product`].
pub fn product(weights: &PanelPart, rows: Rows) {
    match weights.panel {
        Numbers::F32(panel) => product_of(panel, |w| w, weights.width, rows),
        Numbers::Bf16(panel) => product_of(panel, widened, weights.width, rows),
    }
}

fn product_of<N: Copy>(panel: &[N], number: impl Fn(N) -> f32, width: usize, mut rows: Rows) {
    for (t, x) in rows.x().enumerate() {
        if !rows.accumulate() {
            rows.outputs(t).fill(0.0);
        }
        for (w, &x) in panel.chunks_exact(width).zip(x) {
            rows.outputs(t).iter_mut().zip(w).for_each(|(acc, &w)| *acc = number(w).mul_add(x, *acc));
        }
    }
}

/// See [`super::Isa::product_bf16`].
pub fn product_bf16(isa: Isa, panels: &[Bf16Panel], x: &Bf16Rows, out: &mut OutputBlock) {
    let n_steps = x.columns.div_ceil(2);
    let mut decoded = vec![0; n_steps * PANEL_ROWS];
    for (index, panel) in panels.iter().enumerate() {
        match panel {
            Bf16Panel::Plain(pairs) => decoded.copy_from_slice(pairs),
            Bf16Panel::Bf12(panel) => isa.decode(panel, &mut decoded),
        }
        for (t, x) in x.words.chunks_exact(n_steps).enumerate() {
            let mut sums = [0.0; PANEL_ROWS];
            for (w, x) in decoded.chunks(BLOCK_STEPS * PANEL_ROWS).zip(x.chunks(BLOCK_STEPS)) {
                add_block(&mut sums, w, x);
            }
            let outputs = out.row(t)[index * PANEL_ROWS..].iter_mut();
            outputs.zip(sums).for_each(|(out, sum)| *out = sum);
        }
    }
}

/// Adds the products of a block: `w` is `[steps][64]`, `x` `[steps]`.
fn add_block(sums: &mut [f32; PANEL_ROWS], w: &[u32], x: &[u32]) {
    let (mut even, mut odd) = ([0.0; PANEL_ROWS], [0.0; PANEL_ROWS]);
    for (w, &x) in w.as_chunks::<PANEL_ROWS>().0.iter().zip(x) {
        let (x_even, x_odd) = split_pair(x);
        for r in 0..PANEL_ROWS {
            let (w_even, w_odd) = split_pair(w[r]);
            even[r] = dot_step(w_even, x_even, even[r]);
            odd[r] = dot_step(w_odd, x_odd, odd[r]);
        }
    }
    for r in 0..PANEL_ROWS {
        sums[r] = add_step(sums[r], add_step(even[r], odd[r]));
    }
}
