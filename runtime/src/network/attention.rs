//! Scaled dot-product attention with online softmax: one algorithm for every number of queries and every length.
//!
//! A query visits the blocks of its visible keys in ascending order. Blocks begin at absolute multiples of
//! [`KEY_BLOCK`], and in a block only the visible keys are added, in ascending order. So the result does not depend on
//! the chunk of the query, the other queries of its tile, the other sequences of the batch or the number of threads.
//!
//! Keys (after rotation) and values may be stored in bf16, see `KvType`. A query then sees the rounded numbers, those
//! of its own position included. Queries, scores, weights and sums are f32 in any case, and so are the products: the
//! kernels widen what they load.

use crate::kernels::backend::Backend;
use crate::kernels::grid::{OutputBlock, OutputGrid};
use crate::kernels::lanes::{KEY_BLOCK, SoftmaxBlock, SoftmaxEnd, SoftmaxState};
use crate::network::sequence::{LayerView, Row, Sequence, stretches};
use crate::parallel::team::Team;
use std::cell::RefCell;
use std::ops::Range;

/// Most rows (queries times heads) of a tile, and most elements in them, so that a tile stays in the L1 cache.
const TILE_ROWS: usize = 24;
const TILE_ELEMENTS: usize = 4096;

/// Heads and window of one layer's attention.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Index of the layer.
    pub layer: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Number of query heads.
    pub n_heads: usize,
    /// Query heads that share a key/value head.
    pub heads_per_kv: usize,
    /// Number of visible positions, the query's own included; `None` for all.
    pub window: Option<usize>,
}

impl Attention {
    /// Heads of one tile: a divisor of `heads_per_kv`, so that a tile has one key/value head.
    fn heads_per_tile(&self) -> usize {
        let rows = TILE_ROWS.min(TILE_ELEMENTS / self.head_dim.next_multiple_of(16)).max(1);
        let divisors = (1..=rows.min(self.heads_per_kv)).rev();
        divisors.into_iter().find(|&heads| self.heads_per_kv.is_multiple_of(heads)).unwrap_or(1)
    }

    /// Positions of one tile.
    fn positions_per_tile(&self) -> usize {
        let rows = TILE_ROWS.min(TILE_ELEMENTS / self.head_dim.next_multiple_of(16));
        (rows / self.heads_per_tile()).max(1)
    }

    /// First visible position of the query at `position`.
    fn first_visible(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Attention of the queries of `rows`, each over the keys and values of its own sequence, in one phase of the team.
    ///
    /// `queries` and `out` are `[rows][n_heads * head_dim]`; the queries are rotated and scaled, and the sequences hold
    /// the keys and values up to the last of their rows.
    pub(crate) fn run(
        &self,
        team: &mut Team,
        backend: Backend,
        sequences: &[Sequence],
        rows: &[Row],
        queries: &[f32],
        out: &mut [f32],
    ) {
        let width = self.n_heads * self.head_dim;
        let tile_columns = self.heads_per_tile() * self.head_dim;
        // Rows of a tile are of one sequence. Blocks of more rows than the longest stretch would give less parallelism.
        let longest = stretches(rows).map(|stretch| stretch.len()).max().unwrap_or(1);
        let mut grid = [OutputGrid::new(out, width, self.positions_per_tile().min(longest), tile_columns)];
        team.for_blocks(&mut grid, |_, mut out| {
            let (first, columns) = (out.first_row(), out.columns());
            for stretch in stretches(&rows[first..first + out.rows()]) {
                let row = rows[first + stretch.start];
                let cache = LayerView::new(sequences, row.sequence, self.layer);
                let out = out.part(stretch, 0..columns);
                SCRATCH.with_borrow_mut(|scratch| {
                    Tile::new(self, backend, cache, row.position, queries, &out, scratch).run(out);
                });
            }
        });
    }
}

/// Consecutive queries and some of their heads, which share one key/value head. A row is one head of one query; the
/// rows of a query are adjacent.
struct Tile<'a> {
    attention: &'a Attention,
    backend: Backend,
    cache: LayerView<'a>,
    kv_head: usize,
    heads: usize,
    /// Positions of the queries.
    positions: Range<usize>,
    scratch: &'a mut Scratch,
}

/// The buffers of a tile. Each thread uses one for all its tiles, because a token has hundreds of tiles.
struct Scratch {
    /// `[rows][head_dim]`
    queries: [f32; TILE_ELEMENTS],
    /// Weighted sums of values, `[rows][padded head_dim]`.
    sums: [f32; TILE_ELEMENTS],
    /// `[rows][KEY_BLOCK]`
    scores: [f32; TILE_ROWS * KEY_BLOCK],
    softmax: [SoftmaxState; TILE_ROWS],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const {
        RefCell::new(Scratch {
            queries: [0.0; TILE_ELEMENTS],
            sums: [0.0; TILE_ELEMENTS],
            scores: [0.0; TILE_ROWS * KEY_BLOCK],
            softmax: [SoftmaxState::START; TILE_ROWS],
        })
    };
}

impl<'a> Tile<'a> {
    fn new(
        attention: &'a Attention,
        backend: Backend,
        cache: LayerView<'a>,
        first: usize,
        queries: &[f32],
        out: &OutputBlock,
        scratch: &'a mut Scratch,
    ) -> Tile<'a> {
        let (head_dim, width) = (attention.head_dim, attention.n_heads * attention.head_dim);
        let first_head = out.first_column() / head_dim;
        let (rows, heads) = (out.rows(), out.columns() / head_dim);
        for (row, to) in scratch.queries.chunks_exact_mut(out.columns()).take(rows).enumerate() {
            to.copy_from_slice(&queries[(out.first_row() + row) * width + out.first_column()..][..out.columns()]);
        }
        scratch.sums[..rows * heads * cache.padded_head_dim()].fill(0.0);
        scratch.softmax[..rows * heads].fill(SoftmaxState::START);
        Tile {
            attention,
            backend,
            cache,
            kv_head: first_head / attention.heads_per_kv,
            heads,
            positions: first..first + rows,
            scratch,
        }
    }

    fn run(mut self, mut out: OutputBlock) {
        let last = self.positions.end - 1;
        let blocks = self.attention.first_visible(self.positions.start) / KEY_BLOCK..last / KEY_BLOCK + 1;
        for block in blocks {
            self.visit(block);
        }
        let (head_dim, padded) = (self.attention.head_dim, self.cache.padded_head_dim());
        for row in 0..self.positions.len() * self.heads {
            self.backend.isa.run(SoftmaxEnd {
                values: &self.scratch.sums[row * padded..][..head_dim],
                state: &self.scratch.softmax[row],
                out: &mut out.row(row / self.heads)[row % self.heads * head_dim..][..head_dim],
            });
        }
    }

    /// Visible keys of the query at `position` in block `block`, counted from the first key of the block.
    fn visible(&self, position: usize, block: usize) -> Range<usize> {
        let first = block * KEY_BLOCK;
        let begin = self.attention.first_visible(position).max(first);
        let end = (position + 1).min(first + KEY_BLOCK);
        begin.min(end).max(first) - first..end.max(first) - first
    }

    /// Adds one block of keys to all rows that see at least one of them.
    fn visit(&mut self, block: usize) {
        let head_dim = self.attention.head_dim;
        // Visibility begins and ends later for later positions, so the rows that see something are consecutive.
        let sees = |position: &usize| !self.visible(*position, block).is_empty();
        let Some(first) = self.positions.clone().find(sees) else { return };
        let end = self.positions.clone().rev().find(sees).map_or(first, |last| last + 1);
        let row_of = |position: usize| (position - self.positions.start) * self.heads;
        let rows = row_of(first)..row_of(end);

        let queries = &self.scratch.queries[rows.start * head_dim..rows.end * head_dim];
        let scores = &mut self.scratch.scores[rows.start * KEY_BLOCK..rows.end * KEY_BLOCK];
        let keys = self.cache.keys(self.kv_head, block);
        self.backend.product(keys, KEY_BLOCK, queries, head_dim, &mut OutputBlock::whole(scores, KEY_BLOCK), false);

        // Rows with the same visible keys are multiplied together.
        let mut begin = first;
        while begin < end {
            let visible = self.visible(begin, block);
            let same = (begin..end).take_while(|&position| self.visible(position, block) == visible).count();
            let row_of = |position: usize| (position - self.positions.start) * self.heads;
            self.add(block, row_of(begin)..row_of(begin + same), visible);
            begin += same;
        }
    }

    /// Softmax weights and weighted values of one block, for rows that see the same keys of it.
    fn add(&mut self, block: usize, rows: Range<usize>, visible: Range<usize>) {
        let padded = self.cache.padded_head_dim();
        for row in rows.clone() {
            let scores = self.scratch.scores.as_chunks_mut::<KEY_BLOCK>().0;
            let correction = self.backend.isa.run(SoftmaxBlock {
                scores: &mut scores[row],
                visible: visible.clone(),
                state: &mut self.scratch.softmax[row],
            });
            self.scratch.sums[row * padded..][..padded].iter_mut().for_each(|sum| *sum *= correction);
        }
        let weights = &self.scratch.scores[rows.start * KEY_BLOCK + visible.start..rows.end * KEY_BLOCK];
        let mut sums = OutputBlock::whole(&mut self.scratch.sums[..rows.end * padded], padded);
        for (begin, width, values) in self.cache.values(self.kv_head, block) {
            let values = values.part(visible.start * width..visible.end * width);
            let mut out = sums.part(rows.clone(), begin..begin + width);
            self.backend.product(values, width, weights, KEY_BLOCK, &mut out, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use crate::network::Options;
    use crate::network::kv_cache::tests::config;
    use crate::network::kv_type::KvType;
    use crate::network::sequence::store;
    use crate::parallel::team::with_team;

    const POSITIONS: usize = 200;
    /// Largest relative error of a number that is rounded to bf16.
    const ROUNDING: f32 = 1.0 / 256.0;

    /// Numbers between -2 and 2.
    fn numbers(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| 2.0 * (seed + i as f32 * 0.731).sin()).collect()
    }

    /// The result of all queries, in a cache of that type.
    fn attention(heads: &Attention, isa: Isa, kv: KvType, queries: &[f32], keys: &[f32], values: &[f32]) -> Vec<f32> {
        let rows: Vec<Row> = (0..POSITIONS).map(|position| Row { sequence: 0, position, token: 0 }).collect();
        let mut sequences = [Sequence::without_room()];
        sequences[0].begin(&config(), &Options { kv, ..Options::new(POSITIONS) }, POSITIONS).expect("memory");
        let mut out = vec![0.0; queries.len()];
        with_team(2, |team| {
            store(team, &mut sequences, heads.layer, &rows, keys, values);
            heads.run(team, Backend::of(isa), &sequences, &rows, queries, &mut out);
        })
        .expect("runs");
        out
    }

    /// Rounding moves the score of a key by at most `d = ROUNDING * sum |q k|`, so its weight by a factor of at most
    /// `e^(2 d)`, and its value by `ROUNDING * |v|`: the result moves by at most `(ROUNDING + e^(2 d) - 1) * max |v|`.
    #[test]
    fn bf16_keys_and_values_move_the_result_within_the_bound() {
        let config = config();
        let (dim, kv_width, width) = (config.head_dim, config.kv_width(), config.q_width());
        let scale = (dim as f32).sqrt().recip();
        let queries: Vec<f32> = numbers(POSITIONS * width, 0.3).iter().map(|q| q * scale).collect();
        let (keys, values) = (numbers(POSITIONS * kv_width, 0.1), numbers(POSITIONS * kv_width, 0.2));
        for isa in Isa::available() {
            for (layer, window) in [(0, None), (1, Some(config.sliding_window))] {
                let heads_per_kv = config.heads_per_kv();
                let heads = Attention { layer, head_dim: dim, n_heads: config.n_heads, heads_per_kv, window };
                let result = |kv| attention(&heads, *isa, kv, &queries, &keys, &values);
                let (exact, rounded) = (result(KvType::F32), result(KvType::Bf16));
                assert!(exact != rounded);
                for (i, query) in queries.chunks_exact(dim).enumerate() {
                    let (position, kv_head) = (i / config.n_heads, i % config.n_heads / heads_per_kv);
                    let of = |all: &[f32], seen: usize| -> Vec<f32> {
                        all[seen * kv_width + kv_head * dim..][..dim].to_vec()
                    };
                    let visible = heads.first_visible(position)..position + 1;
                    let magnitude = |seen| query.iter().zip(of(&keys, seen)).map(|(q, k)| (q * k).abs()).sum::<f32>();
                    let moved = ROUNDING * visible.clone().map(magnitude).fold(0.0, f32::max);
                    for d in 0..dim {
                        let largest = visible.clone().map(|seen| of(&values, seen)[d].abs()).fold(0.0, f32::max);
                        // And f32 arithmetic.
                        let bound = (ROUNDING + (2.0 * moved).exp_m1() + 1e-5) * largest;
                        let error = (exact[i * dim + d] - rounded[i * dim + d]).abs();
                        assert!(error <= bound, "{isa:?} layer {layer} query {i}: {error}, expected {bound} at most");
                    }
                }
            }
        }
    }
}
