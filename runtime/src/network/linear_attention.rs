//! Linear attention: a causal convolution, and the gated delta rule in its recurrent form for any number of positions.

use crate::error::Error;
use crate::format::config::{LinearAttention, ModelConfig};
use crate::kernels::Isa;
use crate::kernels::delta_rule::{Convolve, DeltaRule, L2Norm, STATE_COLUMNS, decay_and_rate};
use crate::kernels::lanes::{RmsNorm, SwiGlu};
use crate::network::linear_state::tiles_per_head;
use crate::network::sequence::{Row, Sequence, stretches};
use crate::network::weights::LinearWeights;
use crate::os::zeroed::ZeroedBuffer;
use crate::parallel::matmul::Matmul;
use crate::parallel::team::Team;

/// Epsilon of `o_norm`, regardless of the model's (`OlmoHybridRMSNormGated` in `modeling_olmo_hybrid.py`).
const O_NORM_EPS: f32 = 1e-5;

/// Activations of the linear-attention layers, for the rows of a pass; n of them are in use.
pub(crate) struct LinearBuffers {
    q: ZeroedBuffer<f32>,         // [n, key_width]
    k: ZeroedBuffer<f32>,         // [n, key_width]
    v: ZeroedBuffer<f32>,         // [n, value_width]
    convolved: ZeroedBuffer<f32>, // [n, n_channels]: q, k and v after the convolution
    decay: ZeroedBuffer<f32>,     // [n, n_value_heads], a_proj before
    rate: ZeroedBuffer<f32>,      // [n, n_value_heads], b_proj before
    gate: ZeroedBuffer<f32>,      // [n, value_width], then what o_proj gets
    found: ZeroedBuffer<f32>,     // for each stretch of rows [tile][rows of it][STATE_COLUMNS]
}

impl LinearBuffers {
    /// Elements of each buffer, in the order of the fields.
    fn sizes(config: &ModelConfig, rows: usize) -> [usize; 8] {
        let Some(linear) = config.linear else { return [0; 8] };
        let (keys, values, heads) = (linear.key_width(), linear.value_width(), linear.n_value_heads);
        let tiles = heads.saturating_mul(tiles_per_head(&linear)).saturating_mul(STATE_COLUMNS);
        [keys, keys, values, linear.n_channels(), heads, heads, values, tiles].map(|width| rows.saturating_mul(width))
    }

    /// Bytes of the buffers for passes of at most `rows` rows.
    pub fn bytes(config: &ModelConfig, rows: usize) -> u64 {
        let bytes = LinearBuffers::sizes(config, rows).map(|elements| 4u64.saturating_mul(elements as u64));
        bytes.into_iter().fold(0, u64::saturating_add)
    }

    /// Buffers for passes of at most `rows` rows.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(config: &ModelConfig, rows: usize) -> Result<LinearBuffers, Error> {
        let mut sizes = LinearBuffers::sizes(config, rows).into_iter();
        let mut next = || ZeroedBuffer::new(sizes.next().expect("a size for each buffer"), "the activations");
        Ok(LinearBuffers {
            q: next()?,
            k: next()?,
            v: next()?,
            convolved: next()?,
            decay: next()?,
            rate: next()?,
            gate: next()?,
            found: next()?,
        })
    }
}

/// The linear attention of a layer, for the rows of a pass.
pub(crate) struct LinearBlock<'a> {
    pub linear: LinearAttention,
    pub layer: usize,
    pub isa: Isa,
    pub weights: &'a LinearWeights<'a>,
    pub rows: &'a [Row],
    pub sequences: &'a mut [Sequence],
    pub buffers: &'a mut LinearBuffers,
}

impl<'a> LinearBlock<'a> {
    /// What `o_proj` gets, `[n, value_width]`, of the rows `x`. The states of the sequences move on.
    pub fn run(self, team: &mut Team, matmul: &mut Matmul, x: &[f32]) -> &'a [f32] {
        let LinearBlock { linear, layer, isa, weights: w, rows, sequences, buffers } = self;
        let n = rows.len();
        let (key_width, value_width, heads) = (linear.key_width(), linear.value_width(), linear.n_value_heads);
        let (q, k) = (&mut buffers.q[..n * key_width], &mut buffers.k[..n * key_width]);
        let (v, gate) = (&mut buffers.v[..n * value_width], &mut buffers.gate[..n * value_width]);
        let (decay, rate) = (&mut buffers.decay[..n * heads], &mut buffers.rate[..n * heads]);
        matmul.run(
            team,
            x,
            [
                (&w.q_proj, &mut *q),
                (&w.k_proj, &mut *k),
                (&w.v_proj, &mut *v),
                (&w.g_proj, &mut *gate),
                (&w.a_proj, &mut *decay),
                (&w.b_proj, &mut *rate),
            ],
        );
        team.for_row_pairs(decay, rate, heads, |_, decay, rate| {
            for (head, (a, b)) in decay.iter_mut().zip(rate).enumerate() {
                (*a, *b) = decay_and_rate(*a, *b, w.a_log[head], w.dt_bias[head], linear.allow_neg_eigval);
            }
        });

        let convolved = &mut buffers.convolved[..n * linear.n_channels()];
        let projected = Projected { linear: &linear, layer, rows, sequences, q, k, v };
        team.for_rows(convolved, linear.n_channels(), |t, out| projected.convolve(isa, w.conv1d, t, out));
        keep_history(&linear, layer, rows, sequences, [q, k, v]);

        // A piece of work is a tile of the state of one sequence, over its rows.
        let (per_head, share) = (tiles_per_head(&linear), linear.n_value_heads / linear.n_key_heads);
        let (tile_width, n_tiles) = (linear.key_head_dim * STATE_COLUMNS, heads * per_head);
        let found = &mut buffers.found[..n * n_tiles * STATE_COLUMNS];
        for stretch in stretches(rows) {
            let state = &mut sequences[rows[stretch.start].sequence].states_mut().layer_mut(layer).state;
            let out = &mut found[stretch.start * n_tiles * STATE_COLUMNS..stretch.end * n_tiles * STATE_COLUMNS];
            team.for_rows_of_two((state, tile_width), (out, stretch.len() * STATE_COLUMNS), |tile, state, out| {
                let (head, first) = (tile / per_head, tile % per_head * STATE_COLUMNS);
                let columns = STATE_COLUMNS.min(linear.value_head_dim - first);
                let (key, value) = (head / share * linear.key_head_dim, head * linear.value_head_dim + first);
                for (t, out) in stretch.clone().zip(out.as_chunks_mut::<STATE_COLUMNS>().0) {
                    if rows[t].position == 0 {
                        state.fill(0.0);
                    }
                    let row = &convolved[t * linear.n_channels()..][..linear.n_channels()];
                    let mut of_value = [0.0; STATE_COLUMNS];
                    of_value[..columns].copy_from_slice(&row[2 * key_width + value..][..columns]);
                    isa.run(DeltaRule {
                        state: &mut *state,
                        query: &row[key..][..linear.key_head_dim],
                        key: &row[key_width + key..][..linear.key_head_dim],
                        value: &of_value,
                        decay: decay[t * heads + head],
                        rate: rate[t * heads + head],
                        out,
                    });
                }
            });
        }

        // v holds the projections no more: it takes the results in the order of the rows.
        let of_rows = |t: usize| stretches(rows).find(|stretch| stretch.contains(&t)).expect("a row of a stretch");
        team.for_row_pairs(gate, v, value_width, |t, gate, v| {
            let stretch = of_rows(t);
            let found = &found[stretch.start * n_tiles * STATE_COLUMNS..];
            for (head, out) in v.chunks_exact_mut(linear.value_head_dim).enumerate() {
                for (tile, out) in out.chunks_mut(STATE_COLUMNS).enumerate() {
                    let at = (head * per_head + tile) * stretch.len() + (t - stretch.start);
                    out.copy_from_slice(&found[at * STATE_COLUMNS..][..out.len()]);
                }
                isa.run(RmsNorm { x: out, weight: w.o_norm, eps: O_NORM_EPS, residual: None });
            }
            isa.run(SwiGlu { gate, up: v });
        });
        gate
    }
}

/// The projections of the rows of a pass, before the convolution.
struct Projected<'a> {
    linear: &'a LinearAttention,
    layer: usize,
    rows: &'a [Row],
    sequences: &'a [Sequence],
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
}

impl Projected<'_> {
    /// The convolution of row `t`, `[n_channels]`, with its queries and keys normalized.
    fn convolve(&self, isa: Isa, weights: &[f32], t: usize, out: &mut [f32]) {
        let (linear, kernel) = (self.linear, self.linear.conv_kernel);
        let (key_width, value_width) = (linear.key_width(), linear.value_width());
        let row = self.rows[t];
        // Earlier positions are in this pass, in rows before this one, or in the history.
        let n_rows = kernel.min(row.position + 1);
        let history = &self.sequences[row.sequence].states().layer(self.layer).history;
        let mut channel = 0;
        for (z, width) in [(self.q, key_width), (self.k, key_width), (self.v, value_width)] {
            let earlier = |back: usize| {
                let position = row.position - back;
                let is_it = |of: &Row| of.sequence == row.sequence && of.position == position;
                match self.rows[..=t].iter().rposition(is_it) {
                    Some(t) => &z[t * width..][..width],
                    None => &history[position % (kernel - 1) * linear.n_channels() + channel..][..width],
                }
            };
            isa.run(Convolve {
                weights: &weights[channel * kernel..(channel + width) * kernel],
                kernel,
                rows: (0..n_rows).rev().map(earlier),
                out: &mut out[channel..channel + width],
            });
            channel += width;
        }
        let scale = (1.0 / (linear.key_head_dim as f64).sqrt()) as f32;
        let (queries, keys) = out[..2 * key_width].split_at_mut(key_width);
        queries.chunks_exact_mut(linear.key_head_dim).for_each(|x| isa.run(L2Norm { x, scale }));
        keys.chunks_exact_mut(linear.key_head_dim).for_each(|x| isa.run(L2Norm { x, scale: 1.0 }));
    }
}

/// Keeps the projections of the last positions of each sequence.
fn keep_history(linear: &LinearAttention, layer: usize, rows: &[Row], sequences: &mut [Sequence], z: [&[f32]; 3]) {
    let kept = linear.conv_kernel - 1;
    let widths = [linear.key_width(), linear.key_width(), linear.value_width()];
    for stretch in stretches(rows) {
        let history = &mut sequences[rows[stretch.start].sequence].states_mut().layer_mut(layer).history;
        for t in stretch.end.saturating_sub(kept).max(stretch.start)..stretch.end {
            let mut out = &mut history[rows[t].position % kept * linear.n_channels()..][..linear.n_channels()];
            for (z, width) in z.into_iter().zip(widths) {
                let part = out.split_off_mut(..width).expect("channels of q, k and v");
                part.copy_from_slice(&z[t * width..][..width]);
            }
        }
    }
}
