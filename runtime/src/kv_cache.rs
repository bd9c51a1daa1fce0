//! Keys and values of the positions seen so far, laid out as the panels that the products read.
//!
//! Positions are grouped in blocks of [`KEY_BLOCK`], at absolute multiples. A layer with a sliding window keeps a ring of
//! as many blocks as its window and one chunk of a prompt can touch.

use crate::config::{AttentionKind, ModelConfig};
use crate::error::Error;
use crate::kernels::LANES;
use crate::kernels::lanes::KEY_BLOCK;
use crate::threads::Team;

/// Widest part of a value that one product yields.
const VALUE_PANEL: usize = 64;

/// The cache of all layers of one sequence, in f32.
#[derive(Default)]
pub struct KvCache {
    layers: Vec<LayerCache>,
}

/// The cache of one layer.
pub struct LayerCache {
    shape: Shape,
    /// `[n_kv_heads][block][head_dim][KEY_BLOCK]`
    keys: Vec<f32>,
    /// `[n_kv_heads][part of the head][position][width of the part]`, see [`Shape::value_parts`].
    values: Vec<f32>,
}

/// Sizes of one layer's cache.
#[derive(Clone, Copy, Debug)]
struct Shape {
    n_kv_heads: usize,
    head_dim: usize,
    /// `head_dim` with the padding of the last part of a value.
    padded_head_dim: usize,
    /// Blocks kept; position p is in block `p / KEY_BLOCK % n_blocks`.
    n_blocks: usize,
}

impl Shape {
    /// For `positions` in all, at most `chunk` of them added at a time.
    fn new(config: &ModelConfig, kind: AttentionKind, positions: usize, chunk: usize) -> Shape {
        let all = positions.div_ceil(KEY_BLOCK).max(1);
        let n_blocks = match kind {
            AttentionKind::Full => all,
            // The first query of a chunk sees `window` positions, the last one `chunk - 1` later; both ends may lie
            // inside a block.
            AttentionKind::Sliding => all.min((config.sliding_window + chunk - 1).div_ceil(KEY_BLOCK) + 1),
        };
        Shape {
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            padded_head_dim: config.head_dim.next_multiple_of(LANES),
            n_blocks,
        }
    }

    fn positions(&self) -> usize {
        self.n_blocks * KEY_BLOCK
    }

    fn key_elements(&self) -> usize {
        self.n_kv_heads * self.positions() * self.head_dim
    }

    fn value_elements(&self) -> usize {
        self.n_kv_heads * self.positions() * self.padded_head_dim
    }
}

/// Sizes for every layer of a model.
fn shapes(config: &ModelConfig, positions: usize, chunk: usize) -> impl Iterator<Item = Shape> {
    config.layer_types.iter().map(move |&kind| Shape::new(config, kind, positions, chunk))
}

impl KvCache {
    /// Bytes of a cache for `positions` positions, added in chunks of at most `chunk`.
    pub fn bytes(config: &ModelConfig, positions: usize, chunk: usize) -> u64 {
        shapes(config, positions, chunk).map(|s| 4 * (s.key_elements() as u64 + s.value_elements() as u64)).sum()
    }

    /// An empty cache.
    ///
    /// # Errors
    /// [`Error::Request`] when the system does not give the memory.
    pub fn new(config: &ModelConfig, positions: usize, chunk: usize) -> Result<KvCache, Error> {
        let layer = |shape: Shape| {
            let keys = zeros(shape.key_elements(), "KV cache")?;
            Ok(LayerCache { shape, keys, values: zeros(shape.value_elements(), "KV cache")? })
        };
        Ok(KvCache { layers: shapes(config, positions, chunk).map(layer).collect::<Result<_, Error>>()? })
    }

    /// The cache of a layer.
    ///
    /// # Panics
    /// When there is no such layer.
    pub fn layer(&self, layer: usize) -> &LayerCache {
        &self.layers[layer]
    }

    /// The same, to store something in it.
    ///
    /// # Panics
    /// When there is no such layer.
    pub fn layer_mut(&mut self, layer: usize) -> &mut LayerCache {
        &mut self.layers[layer]
    }
}

/// A buffer of zeros that the system has not had to fill yet.
///
/// # Errors
/// [`Error::Request`] when the system does not give the memory.
pub(crate) fn zeros<T: Clone + Default>(elements: usize, what: &str) -> Result<Vec<T>, Error> {
    // Asking first turns a refusal into an error: allocating zeros would abort.
    let probe = Vec::<T>::new().try_reserve_exact(elements);
    probe.map_err(|_| Error::Request {
        problem: format!(
            "the system does not give {} bytes of memory for the {what}; ask for fewer positions or a smaller --chunk",
            (elements as u64).saturating_mul(size_of::<T>() as u64)
        ),
    })?;
    Ok(vec![T::default(); elements])
}

impl LayerCache {
    /// Stores keys and values, both `[n][n_kv_heads * head_dim]`, of the positions from `first` on.
    pub fn store(&mut self, first: usize, keys: &[f32], values: &[f32]) {
        let shape = self.shape;
        let keys_of_heads = self.keys.chunks_exact_mut(shape.positions() * shape.head_dim);
        let values_of_heads = self.values.chunks_exact_mut(shape.positions() * shape.padded_head_dim);
        for (head, (key_cache, value_cache)) in keys_of_heads.zip(values_of_heads).enumerate() {
            shape.store_keys(key_cache, head, first, keys);
            shape.store_values(value_cache, head, first, values);
        }
    }

    /// As [`LayerCache::store`], the heads shared by the threads of the team.
    pub fn store_in_parallel(&mut self, team: &mut Team, first: usize, keys: &[f32], values: &[f32]) {
        let shape = self.shape;
        team.for_rows(&mut self.keys, shape.positions() * shape.head_dim, |head, cache| {
            shape.store_keys(cache, head, first, keys);
        });
        team.for_rows(&mut self.values, shape.positions() * shape.padded_head_dim, |head, cache| {
            shape.store_values(cache, head, first, values);
        });
    }

    /// `head_dim` with the padding of [`LayerCache::values`].
    pub fn padded_head_dim(&self) -> usize {
        self.shape.padded_head_dim
    }

    /// Keys of a head in block `block` of the sequence, `[head_dim][KEY_BLOCK]`.
    pub fn keys(&self, head: usize, block: usize) -> &[f32] {
        let size = self.shape.head_dim * KEY_BLOCK;
        &self.keys[(head * self.shape.n_blocks + block % self.shape.n_blocks) * size..][..size]
    }

    /// Values of a head in block `block` of the sequence, part by part: first dimension, width, and
    /// `[KEY_BLOCK][width]`.
    pub fn values(&self, head: usize, block: usize) -> impl Iterator<Item = (usize, usize, &[f32])> {
        let shape = self.shape;
        let head = &self.values[head * shape.positions() * shape.padded_head_dim..];
        shape.value_parts().map(move |(begin, width)| {
            let at = begin * shape.positions() + block % shape.n_blocks * KEY_BLOCK * width;
            (begin, width, &head[at..at + KEY_BLOCK * width])
        })
    }
}

impl Shape {
    /// Stores one head of `keys`, `[n][n_kv_heads * head_dim]`, in that head's part of the cache.
    fn store_keys(self, cache: &mut [f32], head: usize, first: usize, keys: &[f32]) {
        let head_dim = self.head_dim;
        for (i, row) in keys.chunks_exact(self.n_kv_heads * head_dim).enumerate() {
            let slot = (first + i) % self.positions();
            let block = &mut cache[slot / KEY_BLOCK * head_dim * KEY_BLOCK..][..head_dim * KEY_BLOCK];
            let column = slot % KEY_BLOCK;
            for (d, &key) in row[head * head_dim..][..head_dim].iter().enumerate() {
                block[d * KEY_BLOCK + column] = key;
            }
        }
    }

    /// Stores one head of `values`, `[n][n_kv_heads * head_dim]`, in that head's part of the cache.
    fn store_values(self, cache: &mut [f32], head: usize, first: usize, values: &[f32]) {
        let head_dim = self.head_dim;
        for (i, row) in values.chunks_exact(self.n_kv_heads * head_dim).enumerate() {
            let slot = (first + i) % self.positions();
            let value = &row[head * head_dim..][..head_dim];
            for (begin, width) in self.value_parts() {
                let used = width.min(head_dim - begin);
                let at = begin * self.positions() + slot * width;
                cache[at..at + used].copy_from_slice(&value[begin..begin + used]);
            }
        }
    }

    /// The parts of a value that one product each yields: first dimension and width, a multiple of [`LANES`].
    fn value_parts(self) -> impl Iterator<Item = (usize, usize)> {
        let padded = self.padded_head_dim;
        (0..padded).step_by(VALUE_PANEL).map(move |begin| (begin, VALUE_PANEL.min(padded - begin)))
    }
}
