//! The experts of a layer: a router gives each row its likeliest experts, the rows of each expert are multiplied
//! together, and the results of a row are added in the order of its experts.
//!
//! No result depends on the other rows: every product is summed as in any other matrix, and every row adds its experts
//! by ascending number, from +0, each in one rounding.

use crate::error::Error;
use crate::format::config::{Experts, ModelConfig};
use crate::kernels::Isa;
use crate::kernels::lanes::SwiGlu;
use crate::kernels::routing::{AddScaled, Softmax};
use crate::network::weights::ExpertWeights;
use crate::os::memory;
use crate::os::zeroed::ZeroedBuffer;
use crate::parallel::matmul::Matmul;
use crate::parallel::team::Team;
use std::ops::Range;

/// Most pairs of a row and one of its experts that are multiplied at a time. More would take more memory.
const MOST_PAIRS: usize = 1024;
const WHAT: &str = "the rows of the experts";

/// An expert that a row takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Taken {
    /// Number of the expert.
    expert: usize,
    /// Factor on its result.
    factor: f32,
}

/// Which experts the rows of a pass take, and the activations of these pairs of row and expert.
pub(crate) struct ExpertBuffers {
    scores: ZeroedBuffer<f32>, // [n, n_experts]
    taken: Vec<Taken>,         // [n, n_per_token], those of a row by ascending number
    rows: Vec<usize>,          // [n * n_per_token], the row of each pair, in the order of experts, then of rows
    places: Vec<usize>,        // [n, n_per_token], where each pair of `taken` is in that order
    begins: Vec<usize>,        // [n_experts + 1], the first pair of each expert
    ranges: Vec<Range<usize>>, // of the pairs that are multiplied at a time, those of one expert each
    of_range: Vec<usize>,      // the expert of each range
    needed: Vec<usize>,        // the experts that a row takes, once each
    x: ZeroedBuffer<f32>,      // [pairs, hidden_size]
    gate: ZeroedBuffer<f32>,   // [pairs, intermediate_size]
    up: ZeroedBuffer<f32>,     // [pairs, intermediate_size]
    down: ZeroedBuffer<f32>,   // [pairs, hidden_size]
}

impl ExpertBuffers {
    /// Elements of `scores`, `taken` and the others by pairs, of a group of pairs by hidden and by intermediate size.
    fn sizes(config: &ModelConfig, rows: usize) -> [usize; 4] {
        let Some(Experts { n_experts, n_per_token, .. }) = config.experts else { return [0; 4] };
        let n_pairs = rows.saturating_mul(n_per_token);
        let at_a_time = most_pairs(config, rows);
        let of_pairs = |width: usize| at_a_time.saturating_mul(width);
        [rows.saturating_mul(n_experts), n_pairs, of_pairs(config.hidden_size), of_pairs(config.intermediate_size)]
    }

    /// Bytes of the buffers for passes of at most `rows` rows.
    pub fn bytes(config: &ModelConfig, rows: usize) -> u64 {
        let [scores, pairs, hidden, intermediate] = ExpertBuffers::sizes(config, rows).map(|size| size as u64);
        let floats = scores.saturating_add(hidden.saturating_mul(2)).saturating_add(intermediate.saturating_mul(2));
        floats.saturating_mul(4).saturating_add(pairs.saturating_mul(size_of::<Taken>() as u64 + 16))
    }

    /// Buffers for passes of at most `rows` rows.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(config: &ModelConfig, rows: usize) -> Result<ExpertBuffers, Error> {
        let [scores, n_pairs, hidden, intermediate] = ExpertBuffers::sizes(config, rows);
        let n_experts = config.experts.map_or(0, |experts| experts.n_experts);
        // A group has a range for each of its experts, and more where one has many rows: at least 8 of each.
        let n_ranges = n_experts.min(n_pairs) + most_pairs(config, rows) / 8 + 1;
        let zeroed = |elements| ZeroedBuffer::new(elements, WHAT);
        Ok(ExpertBuffers {
            scores: zeroed(scores)?,
            taken: memory::collected((0..n_pairs).map(|_| Taken::default()), WHAT)?,
            rows: memory::collected((0..n_pairs).map(|_| 0), WHAT)?,
            places: memory::collected((0..n_pairs).map(|_| 0), WHAT)?,
            begins: memory::collected((0..n_experts + 1).map(|_| 0), WHAT)?,
            ranges: memory::room_for(n_ranges, WHAT)?,
            of_range: memory::room_for(n_ranges, WHAT)?,
            needed: memory::room_for(n_experts, WHAT)?,
            x: zeroed(hidden)?,
            gate: zeroed(intermediate)?,
            up: zeroed(intermediate)?,
            down: zeroed(hidden)?,
        })
    }
}

/// Most pairs that are multiplied at a time, in passes of at most `rows` rows.
pub(crate) fn most_pairs(config: &ModelConfig, rows: usize) -> usize {
    config.experts.map_or(0, |experts| rows.saturating_mul(experts.n_per_token).min(MOST_PAIRS))
}

/// The experts of a layer, for the rows of a pass.
pub(crate) struct ExpertBlock<'a> {
    pub experts: Experts,
    pub isa: Isa,
    pub weights: &'a ExpertWeights<'a>,
    pub buffers: &'a mut ExpertBuffers,
}

impl ExpertBlock<'_> {
    /// Gives the rows `x`, `[n, hidden_size]`, their experts: by the softmax over all of them, the likeliest first and
    /// of equal ones the first. Returns the experts that a row takes, in their order.
    pub fn route(&mut self, team: &mut Team, matmul: &mut Matmul, x: &[f32]) -> &mut Vec<usize> {
        let (Experts { n_experts, n_per_token, norm_topk_prob }, isa) = (self.experts, self.isa);
        let n = x.len() / self.weights.router.shape.columns;
        let b = &mut *self.buffers;
        let (scores, taken) = (&mut b.scores[..n * n_experts], &mut b.taken[..n * n_per_token]);
        matmul.run(team, x, [(&self.weights.router, scores)]);
        team.for_rows_of_two((scores, n_experts), (taken, n_per_token), |_, scores, taken| {
            isa.run(Softmax(scores));
            choose(scores, taken, norm_topk_prob);
        });
        // A stable counting sort by expert.
        b.begins.fill(0);
        b.needed.clear();
        taken.iter().for_each(|taken| b.begins[taken.expert + 1] += 1);
        for expert in 0..n_experts {
            if b.begins[expert + 1] > 0 {
                b.needed.push(expert);
            }
            b.begins[expert + 1] += b.begins[expert];
        }
        for (pair, taken) in taken.iter().enumerate() {
            let place = b.begins[taken.expert];
            b.begins[taken.expert] += 1;
            (b.rows[place], b.places[pair]) = (pair / n_per_token, place);
        }
        // Each begin has moved to the next one.
        b.begins.rotate_right(1);
        b.begins[0] = 0;
        &mut b.needed
    }

    /// `out = sum over the experts e of a row, by ascending number, of factor_e * down_e(silu(gate_e x) * (up_e x))`,
    /// `[n, hidden_size]`, of the rows that [`ExpertBlock::route`] got. `observe` sees what `down_proj` gets.
    pub fn run(
        self,
        team: &mut Team,
        matmul: &mut Matmul,
        x: &[f32],
        out: &mut [f32],
        mut observe: impl FnMut(&[f32]),
    ) {
        let (n_per_token, isa) = (self.experts.n_per_token, self.isa);
        let width = self.weights.router.shape.columns;
        let (b, experts) = (self.buffers, &self.weights.experts);
        let mlp_width = experts[0].gate_proj.shape.rows;
        let n_pairs = x.len() / width * n_per_token;
        for first in (0..n_pairs).step_by(MOST_PAIRS) {
            let pairs = first..n_pairs.min(first + MOST_PAIRS);
            b.ranges.clear();
            b.of_range.clear();
            for expert in 0..experts.len() {
                let of_expert = b.begins[expert].max(pairs.start)..b.begins[expert + 1].min(pairs.end);
                let mut begin = of_expert.start;
                while begin < of_expert.end {
                    let end = of_expert.end.min(begin.saturating_add(matmul.most_group_rows()));
                    b.ranges.push(begin - first..end - first);
                    b.of_range.push(expert);
                    begin = end;
                }
            }
            let (gathered, down) = (&mut b.x[..pairs.len() * width], &mut b.down[..pairs.len() * width]);
            let (gate, up) = (&mut b.gate[..pairs.len() * mlp_width], &mut b.up[..pairs.len() * mlp_width]);
            let rows = &b.rows[pairs.clone()];
            team.for_rows(gathered, width, |pair, to| to.copy_from_slice(&x[rows[pair] * width..][..width]));
            let of_range = &b.of_range;
            matmul.run_grouped(
                team,
                gathered,
                &b.ranges,
                [&|range| experts[of_range[range]].gate_proj, &|range| experts[of_range[range]].up_proj],
                [&mut *gate, &mut *up],
            );
            team.for_rows(gate, mlp_width, |pair, gate| {
                isa.run(SwiGlu { gate, up: &up[pair * mlp_width..][..mlp_width] });
            });
            observe(gate);
            matmul.run_grouped(team, gate, &b.ranges, [&|range| experts[of_range[range]].down_proj], [&mut *down]);
            let (taken, places) = (&b.taken, &b.places);
            team.for_rows(out, width, |t, sum| {
                if pairs.start == 0 {
                    sum.fill(0.0);
                }
                for pair in t * n_per_token..(t + 1) * n_per_token {
                    if pairs.contains(&places[pair]) {
                        let x = &down[(places[pair] - pairs.start) * width..][..width];
                        isa.run(AddScaled { sum, x, factor: taken[pair].factor });
                    }
                }
            });
        }
    }
}

/// The likeliest experts, of equal ones the first, by ascending number.
fn choose(scores: &[f32], taken: &mut [Taken], norm_topk_prob: bool) {
    let mut order = [0; crate::format::config::MAX_EXPERTS];
    let order = &mut order[..scores.len()];
    order.iter_mut().enumerate().for_each(|(expert, slot)| *slot = expert);
    let likelier = |&a: &usize, &b: &usize| scores[b].total_cmp(&scores[a]).then(a.cmp(&b));
    let n = taken.len();
    if n < order.len() {
        order.select_nth_unstable_by(n, likelier);
    }
    order[..n].sort_unstable();
    for (taken, &expert) in taken.iter_mut().zip(&order[..n]) {
        *taken = Taken { expert, factor: scores[expert] };
    }
    if norm_topk_prob {
        let sum = taken.iter().fold(0.0, |sum, taken| sum + taken.factor);
        taken.iter_mut().for_each(|taken| taken.factor /= sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likeliest_experts_are_taken_and_of_equal_ones_the_first() {
        let chosen = |scores: &[f32], n: usize, norm: bool| {
            let mut taken = vec![Taken::default(); n];
            choose(scores, &mut taken, norm);
            taken.iter().map(|taken| (taken.expert, taken.factor)).collect::<Vec<_>>()
        };
        assert_eq!(chosen(&[0.125, 0.5, 0.125, 0.25], 2, false), [(1, 0.5), (3, 0.25)]);
        assert_eq!(chosen(&[0.25, 0.25, 0.25, 0.25], 3, false), [(0, 0.25), (1, 0.25), (2, 0.25)]);
        assert_eq!(chosen(&[0.125, 0.25, 0.375, 0.25], 2, false), [(1, 0.25), (2, 0.375)]);
        assert_eq!(chosen(&[0.125, 0.25, 0.5, 0.125], 2, true), [(1, 0.25 / 0.75), (2, 0.5 / 0.75)]);
        assert_eq!(chosen(&[1.0], 1, false), [(0, 1.0)]);
        let with_nan = chosen(&[f32::NAN; 4], 2, false);
        assert_eq!(with_nan.iter().map(|(expert, _)| *expert).collect::<Vec<_>>(), [0, 1]);
    }
}
