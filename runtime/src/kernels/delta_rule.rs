//! The gated delta rule of linear attention in its recurrent form (Yang et al. 2024, arXiv 2412.06464;
//! `torch_recurrent_gated_delta_rule` in `modeling_olmo_hybrid.py`), over the lanes of [`super::lanes`].
//!
//! Column j of a state depends on element j of the values alone. So [`STATE_COLUMNS`] columns are a piece of work that
//! stays in the L1 cache for all positions of a pass, and every sum is one chain over ascending rows: the results do
//! not depend on chunks or threads.

use super::lanes::{LaneOp, exp, multiply_add, reduce};

/// Columns of a state that are updated together.
pub const STATE_COLUMNS: usize = 64;
/// What is added to the sum of squares of a query or key (`l2norm` in `modeling_olmo_hybrid.py`).
const L2_EPS: f32 = 1e-6;

/// The causal convolution of some channels at one position, and SiLU:
///
/// ```text
/// acc = fma(weights[c][j], z[t - (kernel - 1) + j][c], acc) for ascending j from +0      out[c] = acc / (1 + e^-acc)
/// ```
///
/// Positions before the first are left out.
pub struct Convolve<'a, R> {
    /// `[channels][kernel]`
    pub weights: &'a [f32],
    /// Length of the kernel.
    pub kernel: usize,
    /// The channels at the positions up to the current one, from the earliest on, at most `kernel`: each `[channels]`.
    pub rows: R,
    /// `[channels]`
    pub out: &'a mut [f32],
}

impl<'r, R: ExactSizeIterator<Item = &'r [f32]>> LaneOp for Convolve<'_, R> {
    type Output = ();
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let first = self.kernel - self.rows.len();
        self.out.fill(0.0);
        for (j, row) in self.rows.enumerate() {
            let weights = self.weights[first + j..].iter().step_by(self.kernel);
            for ((out, z), weight) in self.out.iter_mut().zip(row).zip(weights) {
                *out = multiply_add::<FUSED>(*weight, *z, *out);
            }
        }
        self.out.iter_mut().for_each(|x| *x /= 1.0 + exp::<FUSED>(-*x));
    }
}

/// `x = x * (1 / sqrt(sum(x^2) + 1e-6)) * scale`, in place.
pub struct L2Norm<'a> {
    /// `[key_head_dim]`
    pub x: &'a mut [f32],
    /// Factor on the result.
    pub scale: f32,
}

impl LaneOp for L2Norm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let factor = 1.0 / (reduce(self.x, |sum, x| multiply_add::<FUSED>(x, x, sum)) + L2_EPS).sqrt();
        let scale = self.scale;
        self.x.iter_mut().for_each(|x| *x = *x * factor * scale);
    }
}

/// One position of [`STATE_COLUMNS`] columns of a state S:
///
/// ```text
/// S = S * decay      delta = (value - S^T key) * rate      S = S + key delta^T      out = S^T query
/// ```
///
/// Each sum is one chain of fused operations over ascending rows of S, from +0.
pub struct DeltaRule<'a> {
    /// `[key_head_dim][STATE_COLUMNS]`
    pub state: &'a mut [f32],
    /// `[key_head_dim]`
    pub key: &'a [f32],
    /// `[key_head_dim]`
    pub query: &'a [f32],
    /// These columns of the value.
    pub value: &'a [f32; STATE_COLUMNS],
    /// Factor on the state.
    pub decay: f32,
    /// Factor on the difference.
    pub rate: f32,
    /// These columns of the result.
    pub out: &'a mut [f32; STATE_COLUMNS],
}

impl LaneOp for DeltaRule<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let rows = self.state.as_chunks_mut::<STATE_COLUMNS>().0;
        let mut found = [0.0; STATE_COLUMNS];
        for (row, &key) in rows.iter_mut().zip(self.key) {
            for i in 0..STATE_COLUMNS {
                row[i] *= self.decay;
                found[i] = multiply_add::<FUSED>(row[i], key, found[i]);
            }
        }
        let mut delta = [0.0; STATE_COLUMNS];
        for i in 0..STATE_COLUMNS {
            delta[i] = (self.value[i] - found[i]) * self.rate;
        }
        let mut out = [0.0; STATE_COLUMNS];
        for ((row, &key), &query) in rows.iter_mut().zip(self.key).zip(self.query) {
            for i in 0..STATE_COLUMNS {
                row[i] = multiply_add::<FUSED>(key, delta[i], row[i]);
                out[i] = multiply_add::<FUSED>(row[i], query, out[i]);
            }
        }
        *self.out = out;
    }
}

/// By how much a state decays at a position, and at what rate it changes:
///
/// ```text
/// decay = e^(-e^a_log * softplus(a + dt_bias))      rate = 1 / (1 + e^-b), times 2 with `allow_neg_eigval`
/// ```
///
/// In f64 except for `a + dt_bias`, each rounded once at the end; `softplus(x)` is `log(1 + e^x)`, and x above 20.
pub fn decay_and_rate(a: f32, b: f32, a_log: f32, dt_bias: f32, allow_neg_eigval: bool) -> (f32, f32) {
    let x = f64::from(a + dt_bias);
    let softplus = if x > 20.0 { x } else { libm::log1p(libm::exp(x)) };
    let decay = libm::exp(-libm::exp(f64::from(a_log)) * softplus);
    let rate = 1.0 / (1.0 + libm::exp(-f64::from(b)));
    (decay as f32, (if allow_neg_eigval { 2.0 * rate } else { rate }) as f32)
}
