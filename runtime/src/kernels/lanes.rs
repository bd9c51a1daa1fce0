//! Everything that is not a product, written once over 16 virtual lanes and compiled for each instruction set.
//!
//! Sums run in a stated order: lane i adds elements i, i + 16, i + 32, ..., and the lanes are added as a tree, 16 to 8
//! to 4 to 2 to 1. No operation depends on the system's libm.

/// Number of virtual lanes.
pub const LANES: usize = 16;
/// Keys of one block of attention.
pub const KEY_BLOCK: usize = 64;

type Lanes = [f32; LANES];

/// Work over 16 virtual lanes that is compiled once for each instruction set.
pub trait LaneOp {
    /// What it yields.
    type Output;
    /// The work. `FUSED`: multiply and add in one rounding. Implementations are `#[inline(always)]`, so that they are
    /// compiled with the features of the caller.
    fn run<const FUSED: bool>(self) -> Self::Output;
}

/// `a * b + c`, in one rounding or in two.
#[inline(always)]
pub(super) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Sum of the lanes, as a tree.
#[inline(always)]
fn sum_lanes(mut lanes: Lanes) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Reduces a row to one number in the stated order: every lane begins at 0 and takes `step(lane, x)` of its elements.
#[inline(always)]
pub(super) fn reduce(x: &[f32], step: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = step(lanes[i], chunk[i]);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = step(*lane, x);
    }
    sum_lanes(lanes)
}

/// e^x to about one unit in the last place; 0 below -87.3, infinity above 88.7, NaN for NaN.
///
/// x is split into n * ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts, so that r is exact enough), e^r is its Taylor
/// polynomial of degree 7, and 2^n is multiplied on in two halves, so that neither overflows by itself.
#[inline(always)]
pub(super) fn exp<const FUSED: bool>(x: f32) -> f32 {
    const LOWEST: f32 = -87.336_54;
    const HIGHEST: f32 = 88.722_84;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // 1.5 * 2^23: adding it rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const TAYLOR: [f32; 8] = [1.0, 1.0, 0.5, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5040.0];
    let clamped = if x < LOWEST { LOWEST } else { x };
    let clamped = if clamped > HIGHEST { HIGHEST } else { clamped };
    let shifted = multiply_add::<FUSED>(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = multiply_add::<FUSED>(n, -LN2_HIGH, clamped);
    let r = multiply_add::<FUSED>(n, -LN2_LOW, r);
    let mut p = TAYLOR[7];
    for i in (0..7).rev() {
        p = multiply_add::<FUSED>(p, r, TAYLOR[i]);
    }
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23) as u32);
    let result = p * power(half) * power(n.wrapping_sub(half));
    let result = if x < LOWEST { 0.0 } else { result };
    if x > HIGHEST { f32::INFINITY } else { result }
}

/// RMSNorm (Zhang and Sennrich 2019; `Olmo2RMSNorm` in `modeling_olmo2.py`):
///
/// ```text
/// out = x * (1 / sqrt(mean(x^2) + eps)) * weight
/// ```
///
/// in place, or added to `residual`.
pub struct RmsNorm<'a> {
    /// The row, `[width]`; holds the result when there is no residual.
    pub x: &'a mut [f32],
    /// `[width]`
    pub weight: &'a [f32],
    /// The norm's epsilon.
    pub eps: f32,
    /// `[width]`; the result is added here when given, and `x` stays.
    pub residual: Option<&'a mut [f32]>,
}

impl LaneOp for RmsNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let squares = reduce(self.x, |sum, x| multiply_add::<FUSED>(x, x, sum));
        let scale = 1.0 / (squares / self.x.len() as f32 + self.eps).sqrt();
        match self.residual {
            None => self.x.iter_mut().zip(self.weight).for_each(|(x, weight)| *x = *x * scale * weight),
            Some(residual) => {
                for ((out, x), weight) in residual.iter_mut().zip(self.x).zip(self.weight) {
                    *out += *x * scale * weight;
                }
            }
        }
    }
}

/// LayerNorm (Ba et al. 2016, arXiv 1607.06450) without weight and bias, as `OlmoLayerNorm` in `modeling_olmo.py`:
///
/// ```text
/// out = (x - mean(x)) * (1 / sqrt(mean((x - mean(x))^2) + eps))
/// ```
///
/// in place. The mean is known before the squares are summed: no digits cancel.
pub struct LayerNorm<'a> {
    /// The row, `[width]`; holds the result.
    pub x: &'a mut [f32],
    /// The norm's epsilon.
    pub eps: f32,
}

impl LaneOp for LayerNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let width = self.x.len() as f32;
        let mean = reduce(self.x, |sum, x| sum + x) / width;
        let squares = reduce(self.x, |sum, x| multiply_add::<FUSED>(x - mean, x - mean, sum));
        let scale = 1.0 / (squares / width + self.eps).sqrt();
        self.x.iter_mut().for_each(|x| *x = (*x - mean) * scale);
    }
}

/// `clip_qkv` of OLMo-1 and OLMoE: `x = min(max(x, -limit), limit)`, in place. NaN stays NaN.
pub struct Clip<'a> {
    /// `[width]`
    pub x: &'a mut [f32],
    /// Largest magnitude of the result.
    pub limit: f32,
}

impl LaneOp for Clip<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let limit = self.limit;
        for x in self.x {
            let clipped = if *x > limit { limit } else { *x };
            *x = if clipped < -limit { -limit } else { clipped };
        }
    }
}

/// SwiGLU (Shazeer 2020, arXiv 2002.05202): `gate = gate / (1 + e^-gate) * up`.
pub struct SwiGlu<'a> {
    /// `[width]`, holds the result.
    pub gate: &'a mut [f32],
    /// `[width]`
    pub up: &'a [f32],
}

impl LaneOp for SwiGlu<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let (gates, gates_rest) = self.gate.as_chunks_mut::<LANES>();
        let (ups, ups_rest) = self.up.as_chunks::<LANES>();
        let silu = |gate: f32| gate / (1.0 + exp::<FUSED>(-gate));
        for (gate, up) in gates.iter_mut().zip(ups) {
            for i in 0..LANES {
                gate[i] = silu(gate[i]) * up[i];
            }
        }
        for (gate, up) in gates_rest.iter_mut().zip(ups_rest) {
            *gate = silu(*gate) * up;
        }
    }
}

/// Rotary embedding of the heads of one row (Su et al. 2021; `apply_rotary_pos_emb` in `modeling_olmo2.py`),
/// half-split:
///
/// ```text
/// out[i]       = x[i] * cos[i] - x[i + d/2] * sin[i]
/// out[i + d/2] = x[i + d/2] * cos[i] + x[i] * sin[i]      each product and sum rounded
/// ```
///
/// then multiplied by `scale`.
pub struct Rotate<'a> {
    /// `[heads * head_dim]`
    pub x: &'a mut [f32],
    /// `[head_dim / 2]`
    pub cos: &'a [f32],
    /// `[head_dim / 2]`
    pub sin: &'a [f32],
    /// Factor on the result.
    pub scale: f32,
}

impl LaneOp for Rotate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let half = self.cos.len();
        for head in self.x.chunks_exact_mut(2 * half) {
            let (low, high) = head.split_at_mut(half);
            for ((low, high), (cos, sin)) in low.iter_mut().zip(high).zip(self.cos.iter().zip(self.sin)) {
                let (a, b) = (*low, *high);
                *low = (a * cos - b * sin) * self.scale;
                *high = (b * cos + a * sin) * self.scale;
            }
        }
    }
}

/// What the online softmax of one query carries from block to block.
#[derive(Clone, Copy)]
pub struct SoftmaxState {
    max: f32,
    sums: Lanes,
}

impl SoftmaxState {
    /// Before the first block.
    pub const START: SoftmaxState = SoftmaxState { max: f32::NEG_INFINITY, sums: [0.0; LANES] };
}

/// One block of the online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867): turns the scores of the visible
/// keys into weights relative to the largest score so far, exact zeros for the others, and yields the factor for
/// everything accumulated before.
pub struct SoftmaxBlock<'a> {
    /// Scores in, weights out, `[KEY_BLOCK]`.
    pub scores: &'a mut [f32; KEY_BLOCK],
    /// Visible keys of the block; not empty.
    pub visible: std::ops::Range<usize>,
    /// Carried along.
    pub state: &'a mut SoftmaxState,
}

impl LaneOp for SoftmaxBlock<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<const FUSED: bool>(self) -> f32 {
        self.scores[..self.visible.start].fill(f32::NEG_INFINITY);
        self.scores[self.visible.end..].fill(f32::NEG_INFINITY);
        let groups = self.scores.as_chunks_mut::<LANES>().0;
        let mut maxima = [self.state.max; LANES];
        for group in groups.iter() {
            for i in 0..LANES {
                maxima[i] = if group[i] > maxima[i] { group[i] } else { maxima[i] };
            }
        }
        let max = maxima.into_iter().fold(f32::NEG_INFINITY, |max, x| if x > max { x } else { max });
        let correction = exp::<FUSED>(self.state.max - max);
        let sums = &mut self.state.sums;
        sums.iter_mut().for_each(|sum| *sum *= correction);
        for group in groups {
            for i in 0..LANES {
                group[i] = exp::<FUSED>(group[i] - max);
                sums[i] += group[i];
            }
        }
        self.state.max = max;
        correction
    }
}

/// The end of the online softmax: divides the accumulated row by the sum of the weights.
pub struct SoftmaxEnd<'a> {
    /// Weighted sum of values, `[head_dim]`.
    pub values: &'a [f32],
    /// As the last block left it.
    pub state: &'a SoftmaxState,
    /// `[head_dim]`
    pub out: &'a mut [f32],
}

impl LaneOp for SoftmaxEnd<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let scale = 1.0 / sum_lanes(self.state.sums);
        self.out.iter_mut().zip(self.values).for_each(|(out, value)| *out = value * scale);
    }
}

/// The logarithm of the sum of the exponentials of a row that is not empty and finite: what the logarithm of a
/// probability is a logit less.
pub struct LogSumExp<'a>(pub &'a [f32]);

/// What [`LogSumExp`] finds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summed {
    /// The logarithm of the sum.
    pub log_sum_exp: f64,
    /// The largest element.
    pub max: f32,
}

impl LaneOp for LogSumExp<'_> {
    type Output = Summed;
    #[inline(always)]
    fn run<const FUSED: bool>(self) -> Summed {
        let (groups, rest) = self.0.as_chunks::<LANES>();
        let mut maxima = [f32::NEG_INFINITY; LANES];
        for group in groups {
            for i in 0..LANES {
                maxima[i] = if group[i] > maxima[i] { group[i] } else { maxima[i] };
            }
        }
        let max = maxima.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
        // A vocabulary has a hundred thousand tokens: sums in f32 would lose the small ones.
        let mut sums = [0.0f64; LANES];
        for group in groups {
            for i in 0..LANES {
                sums[i] += f64::from(exp::<FUSED>(group[i] - max));
            }
        }
        let sum: f64 = sums.iter().sum::<f64>() + rest.iter().map(|x| f64::from(exp::<FUSED>(x - max))).sum::<f64>();
        Summed { log_sum_exp: f64::from(max) + libm::log(sum), max }
    }
}

/// e^x of every element, for the tests of [`exp`].
#[cfg(test)]
pub struct Exp<'a>(pub &'a mut [f32]);

#[cfg(test)]
impl LaneOp for Exp<'_> {
    type Output = ();
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        self.0.iter_mut().for_each(|x| *x = exp::<FUSED>(*x));
    }
}
