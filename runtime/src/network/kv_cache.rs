//! The KV cache: keys and values of the evaluated positions, in the panel layout that the products read.
//!
//! Positions are grouped in blocks of [`KEY_BLOCK`], at absolute multiples. The values of a block follow its keys, in
//! the order in which attention reads them, so that each head is one stream of memory. A layer with a sliding window
//! keeps a ring of blocks, enough for its window and one chunk of a prompt.

use crate::error::Error;
use crate::format::config::{AttentionKind, ModelConfig};
use crate::kernels::LANES;
use crate::kernels::lanes::KEY_BLOCK;
use crate::os::memory;
use crate::os::zeroed::ZeroedBuffer;
use crate::parallel::team::Team;

/// Most columns of a value that one product computes.
const VALUE_PANEL: usize = 64;

/// The cache of all layers of one sequence, in f32.
#[derive(Default)]
pub struct KvCache {
    layers: Vec<LayerCache>,
}

/// The cache of one layer.
pub struct LayerCache {
    shape: Shape,
    /// `[n_kv_heads][block]`, and in a block `[head_dim][KEY_BLOCK]` keys, then the parts of the values,
    /// `[KEY_BLOCK][width of the part]` each, see [`Shape::value_parts`].
    data: ZeroedBuffer<f32>,
}

/// Sizes of one layer's cache.
#[derive(Clone, Copy, Debug)]
struct Shape {
    n_kv_heads: usize,
    head_dim: usize,
    /// `head_dim` rounded up to whole vectors.
    padded_head_dim: usize,
    /// Blocks kept; position p is in block `p / KEY_BLOCK % n_blocks`.
    n_blocks: usize,
    /// Number of visible positions, the query's own included; `None` for all.
    window: Option<usize>,
}

impl Shape {
    /// The shape for at most `positions` positions, added in chunks of at most `chunk`.
    fn new(config: &ModelConfig, kind: AttentionKind, positions: usize, chunk: usize) -> Shape {
        let all = positions.div_ceil(KEY_BLOCK).max(1);
        let n_blocks = match kind {
            AttentionKind::Full => all,
            // A chunk touches `window + chunk - 1` positions, and both ends may be inside a block.
            AttentionKind::Sliding => {
                all.min(config.sliding_window.saturating_add(chunk.max(1) - 1).div_ceil(KEY_BLOCK) + 1)
            }
        };
        Shape {
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            padded_head_dim: config.head_dim.checked_next_multiple_of(LANES).unwrap_or(usize::MAX),
            n_blocks,
            window: (kind == AttentionKind::Sliding).then_some(config.sliding_window),
        }
    }

    /// Whether the cache still has every position that a query at `next` sees, after `written` positions were stored.
    fn holds(&self, next: usize, written: usize) -> bool {
        let first = self.window.map_or(0, |window| next.saturating_add(1).saturating_sub(window));
        written <= first.saturating_add(self.positions())
    }

    fn positions(&self) -> usize {
        self.n_blocks * KEY_BLOCK
    }

    /// Elements of a block: keys and values.
    fn block_elements(&self) -> usize {
        KEY_BLOCK * (self.head_dim + self.padded_head_dim)
    }

    /// Elements of all blocks of a head.
    fn head_elements(&self) -> usize {
        self.n_blocks * self.block_elements()
    }

    /// Elements of the cache; `None` on overflow, in which case the sizes above are wrong.
    fn elements(&self) -> Option<usize> {
        let in_block = self.head_dim.checked_add(self.padded_head_dim)?.checked_mul(KEY_BLOCK)?;
        in_block.checked_mul(self.n_blocks)?.checked_mul(self.n_kv_heads)
    }
}

/// Sizes for every layer of a model.
fn shapes(config: &ModelConfig, positions: usize, chunk: usize) -> impl Iterator<Item = Shape> {
    config.layer_types.iter().map(move |&kind| Shape::new(config, kind, positions, chunk))
}

impl KvCache {
    /// Bytes of a cache for `positions` positions, added in chunks of at most `chunk`.
    pub fn bytes(config: &ModelConfig, positions: usize, chunk: usize) -> u64 {
        shapes(config, positions, chunk).fold(0, |sum: u64, shape| {
            sum.saturating_add(shape.elements().map_or(u64::MAX, |elements| 4u64.saturating_mul(elements as u64)))
        })
    }

    /// An empty cache.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(config: &ModelConfig, positions: usize, chunk: usize) -> Result<KvCache, Error> {
        let mut layers = memory::room_for(config.n_layers(), "the KV cache")?;
        for shape in shapes(config, positions, chunk) {
            let data = ZeroedBuffer::new(shape.elements().unwrap_or(usize::MAX), "the KV cache")?;
            layers.push(LayerCache { shape, data });
        }
        Ok(KvCache { layers })
    }

    /// Whether the sequence can continue at position `next` after `written` positions were stored: whether all layers
    /// still have the keys and values that `next` and later positions see.
    pub fn holds(&self, next: usize, written: usize) -> bool {
        self.layers.iter().all(|layer| layer.shape.holds(next, written))
    }

    /// The cache of a layer.
    ///
    /// # Panics
    /// When there is no such layer.
    pub fn layer(&self, layer: usize) -> &LayerCache {
        &self.layers[layer]
    }

    /// The cache of a layer, mutably.
    ///
    /// # Panics
    /// When there is no such layer.
    pub fn layer_mut(&mut self, layer: usize) -> &mut LayerCache {
        &mut self.layers[layer]
    }
}

impl LayerCache {
    /// Stores keys and values, both `[n][n_kv_heads * head_dim]`, of the positions from `first` on.
    pub fn store(&mut self, first: usize, keys: &[f32], values: &[f32]) {
        let shape = self.shape;
        for (head, cache) in self.data.chunks_exact_mut(shape.head_elements()).enumerate() {
            shape.store(cache, head, first, keys, values);
        }
    }

    /// As [`LayerCache::store`], the heads shared by the threads of the team.
    pub fn store_in_parallel(&mut self, team: &mut Team, first: usize, keys: &[f32], values: &[f32]) {
        let shape = self.shape;
        team.for_rows(&mut self.data, shape.head_elements(), |head, cache| {
            shape.store(cache, head, first, keys, values);
        });
    }

    /// `head_dim` with the padding of [`LayerCache::values`].
    pub fn padded_head_dim(&self) -> usize {
        self.shape.padded_head_dim
    }

    /// Keys of a head in block `block` of the sequence, `[head_dim][KEY_BLOCK]`.
    pub fn keys(&self, head: usize, block: usize) -> &[f32] {
        &self.block(head, block)[..self.shape.head_dim * KEY_BLOCK]
    }

    /// Values of a head in block `block` of the sequence, part by part: first dimension, width, and
    /// `[KEY_BLOCK][width]`.
    pub fn values(&self, head: usize, block: usize) -> impl Iterator<Item = (usize, usize, &[f32])> {
        let shape = self.shape;
        let values = &self.block(head, block)[shape.head_dim * KEY_BLOCK..];
        shape.value_parts().map(move |(begin, width)| (begin, width, &values[begin * KEY_BLOCK..][..width * KEY_BLOCK]))
    }

    fn block(&self, head: usize, block: usize) -> &[f32] {
        let (shape, size) = (self.shape, self.shape.block_elements());
        &self.data[head * shape.head_elements() + block % shape.n_blocks * size..][..size]
    }
}

impl Shape {
    /// Stores one head of `keys` and `values`, both `[n][n_kv_heads * head_dim]`, in that head's part of the cache.
    fn store(self, cache: &mut [f32], head: usize, first: usize, keys: &[f32], values: &[f32]) {
        let (head_dim, kv_width) = (self.head_dim, self.n_kv_heads * self.head_dim);
        for (i, (key, value)) in keys.chunks_exact(kv_width).zip(values.chunks_exact(kv_width)).enumerate() {
            let (key, value) = (&key[head * head_dim..][..head_dim], &value[head * head_dim..][..head_dim]);
            let slot = (first + i) % self.positions();
            let (block, column) = (slot / KEY_BLOCK, slot % KEY_BLOCK);
            let block = &mut cache[block * self.block_elements()..][..self.block_elements()];
            let (keys, values) = block.split_at_mut(head_dim * KEY_BLOCK);
            for (to, &key) in keys.iter_mut().skip(column).step_by(KEY_BLOCK).zip(key) {
                *to = key;
            }
            for (begin, width) in self.value_parts() {
                let used = width.min(head_dim - begin);
                let at = begin * KEY_BLOCK + column * width;
                values[at..at + used].copy_from_slice(&value[begin..begin + used]);
            }
        }
    }

    /// The parts of a value that one product each yields: first dimension and width, a multiple of [`LANES`].
    fn value_parts(self) -> impl Iterator<Item = (usize, usize)> {
        let padded = self.padded_head_dim;
        (0..padded).step_by(VALUE_PANEL).map(move |begin| (begin, VALUE_PANEL.min(padded - begin)))
    }
}
