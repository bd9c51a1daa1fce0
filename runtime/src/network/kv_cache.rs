//! The KV cache: keys and values of the evaluated positions, in the panel layout that the products read.
//!
//! Positions are grouped in blocks of [`KEY_BLOCK`], at absolute multiples. The values of a block follow its keys, in
//! the order in which attention reads them, so that each head is one stream of memory. A layer with a sliding window
//! keeps a ring of blocks, enough for its window and one chunk of a prompt.

use crate::error::Error;
use crate::format::config::{AttentionKind, ModelConfig};
use crate::kernels::LANES;
use crate::kernels::bf16::round_to_bf16;
use crate::kernels::lanes::KEY_BLOCK;
use crate::kernels::numbers::Numbers;
use crate::network::kv_type::KvType;
use crate::os::memory;
use crate::os::zeroed::ZeroedBuffer;
use crate::parallel::team::Team;
use std::ops::Range;

/// Most columns of a value that one product computes.
const VALUE_PANEL: usize = 64;

/// The cache of all layers of one sequence.
#[derive(Default)]
pub struct KvCache {
    layers: Vec<LayerCache>,
}

/// The cache of one layer.
pub struct LayerCache {
    shape: Shape,
    /// `[n_kv_heads][block]`, and in a block `[head_dim][KEY_BLOCK]` keys, then the parts of the values,
    /// `[KEY_BLOCK][width of the part]` each, see [`Shape::value_parts`].
    data: Data,
}

/// The numbers of a layer, in the type that was asked for.
enum Data {
    F32(ZeroedBuffer<f32>),
    Bf16(ZeroedBuffer<u16>),
}

impl Data {
    fn new(kv: KvType, elements: usize) -> Result<Data, Error> {
        const WHAT: &str = "the KV cache";
        Ok(match kv {
            KvType::F32 => Data::F32(ZeroedBuffer::new(elements, WHAT)?),
            KvType::Bf16 => Data::Bf16(ZeroedBuffer::new(elements, WHAT)?),
        })
    }
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
            AttentionKind::Full | AttentionKind::Linear => all,
            // A chunk touches `window + chunk - 1` positions, and both ends may be inside a block.
            AttentionKind::Sliding => {
                all.min(config.sliding_window.saturating_add(chunk.max(1) - 1).div_ceil(KEY_BLOCK) + 1)
            }
        };
        Shape {
            // Linear attention has no keys.
            n_kv_heads: if kind == AttentionKind::Linear { 0 } else { config.n_kv_heads },
            head_dim: config.head_dim,
            padded_head_dim: config.head_dim.checked_next_multiple_of(LANES).unwrap_or(usize::MAX),
            n_blocks,
            window: (kind == AttentionKind::Sliding).then_some(config.sliding_window),
        }
    }

    /// Whether the cache still has every position that a query at `next` sees, after `written` positions were stored.
    fn holds(&self, next: usize, written: usize) -> bool {
        // Without a window nothing is overwritten.
        let Some(window) = self.window else { return true };
        let first = next.saturating_add(1).saturating_sub(window);
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
    pub fn bytes(config: &ModelConfig, kv: KvType, positions: usize, chunk: usize) -> u64 {
        shapes(config, positions, chunk).fold(0, |sum: u64, shape| {
            let bytes = |elements: usize| kv.bytes().saturating_mul(elements as u64);
            sum.saturating_add(shape.elements().map_or(u64::MAX, bytes))
        })
    }

    /// An empty cache.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(config: &ModelConfig, kv: KvType, positions: usize, chunk: usize) -> Result<KvCache, Error> {
        let mut layers = memory::room_for(config.n_layers(), "the KV cache")?;
        for shape in shapes(config, positions, chunk) {
            let data = Data::new(kv, shape.elements().unwrap_or(usize::MAX))?;
            layers.push(LayerCache { shape, data });
        }
        Ok(KvCache { layers })
    }

    /// Whether the sequence can continue at position `next` after `written` positions were stored: whether all layers
    /// still have the keys and values that `next` and later positions see.
    pub fn holds(&self, next: usize, written: usize) -> bool {
        self.layers.iter().all(|layer| layer.shape.holds(next, written))
    }

    /// A copy of the blocks that have the first `written` positions.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn copied(
        &self,
        config: &ModelConfig,
        kv: KvType,
        [positions, chunk]: [usize; 2],
        written: usize,
    ) -> Result<KvCache, Error> {
        let mut copy = KvCache::new(config, kv, positions, chunk)?;
        for (to, from) in copy.layers.iter_mut().zip(&self.layers) {
            let n_blocks = written.div_ceil(KEY_BLOCK).min(from.shape.n_blocks);
            (0..n_blocks).for_each(|block| to.copy_block(block, from, block));
        }
        Ok(copy)
    }

    /// The first position that all layers have after `written` positions were stored.
    pub fn first_held(&self, written: usize) -> usize {
        let rings = self.layers.iter().filter(|layer| layer.shape.window.is_some());
        rings.map(|layer| written.saturating_sub(layer.shape.positions())).max().unwrap_or(0)
    }

    /// The number of positions after which [`KvCache::first_held`] is `first`.
    pub fn written_when_first_is(&self, first: usize) -> usize {
        let rings = self.layers.iter().filter(|layer| layer.shape.window.is_some());
        rings.map(|layer| first + layer.shape.positions()).max().filter(|_| first > 0).unwrap_or(0)
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
        let size = shape.head_elements();
        match &mut self.data {
            Data::F32(data) => {
                for (head, cache) in data.chunks_exact_mut(size).enumerate() {
                    shape.store(cache, head, first, keys, values, |x| x);
                }
            }
            Data::Bf16(data) => {
                for (head, cache) in data.chunks_exact_mut(size).enumerate() {
                    shape.store(cache, head, first, keys, values, round_to_bf16);
                }
            }
        }
    }

    /// As [`LayerCache::store`], the heads shared by the threads of the team.
    pub fn store_in_parallel(&mut self, team: &mut Team, first: usize, keys: &[f32], values: &[f32]) {
        let shape = self.shape;
        let size = shape.head_elements();
        match &mut self.data {
            Data::F32(data) => team.for_rows(data, size, |head, cache| {
                shape.store(cache, head, first, keys, values, |x| x);
            }),
            Data::Bf16(data) => team.for_rows(data, size, |head, cache| {
                shape.store(cache, head, first, keys, values, round_to_bf16);
            }),
        }
    }

    /// Appends keys and values of `positions`, all in one block, as they are stored: for each position first the keys,
    /// then the values, both `[n_kv_heads * head_dim]`, little-endian.
    pub fn append_bytes(&self, positions: Range<usize>, out: &mut Vec<u8>) {
        let block = positions.start / KEY_BLOCK;
        for position in positions {
            let column = position % KEY_BLOCK;
            for head in 0..self.shape.n_kv_heads {
                let keys = self.keys(head, block);
                (0..self.shape.head_dim).for_each(|dim| append_number(keys, dim * KEY_BLOCK + column, out));
            }
            for head in 0..self.shape.n_kv_heads {
                for (begin, width, values) in self.values(head, block) {
                    let used = width.min(self.shape.head_dim - begin);
                    (0..used).for_each(|dim| append_number(values, column * width + dim, out));
                }
            }
        }
    }

    /// Whether the layer has a sliding window.
    pub fn is_ring(&self) -> bool {
        self.shape.window.is_some()
    }

    /// Copies block `from_block` of another cache of this layer, which holds the same type, to block `block`.
    pub fn copy_block(&mut self, block: usize, from: &LayerCache, from_block: usize) {
        let (to_shape, from_shape) = (self.shape, from.shape);
        match (&mut self.data, &from.data) {
            (Data::F32(to), Data::F32(from)) => to_shape.copy_block(to, block, from_shape, from, from_block),
            (Data::Bf16(to), Data::Bf16(from)) => to_shape.copy_block(to, block, from_shape, from, from_block),
            _ => unreachable!("all sequences of a batch have one type"),
        }
    }

    /// `head_dim` with the padding of [`LayerCache::values`].
    pub fn padded_head_dim(&self) -> usize {
        self.shape.padded_head_dim
    }

    /// Keys of a head in block `block` of the sequence, `[head_dim][KEY_BLOCK]`.
    pub fn keys(&self, head: usize, block: usize) -> Numbers<'_> {
        self.block(head, block).part(0..self.shape.head_dim * KEY_BLOCK)
    }

    /// Values of a head in block `block` of the sequence, part by part: first dimension, width, and
    /// `[KEY_BLOCK][width]`.
    pub fn values(&self, head: usize, block: usize) -> impl Iterator<Item = (usize, usize, Numbers<'_>)> {
        let (block, first) = (self.block(head, block), self.shape.head_dim * KEY_BLOCK);
        self.shape.value_parts().map(move |(begin, width)| {
            let part = first + begin * KEY_BLOCK..first + (begin + width) * KEY_BLOCK;
            (begin, width, block.part(part))
        })
    }

    fn block(&self, head: usize, block: usize) -> Numbers<'_> {
        let (shape, size) = (self.shape, self.shape.block_elements());
        let begin = head * shape.head_elements() + block % shape.n_blocks * size;
        let numbers = match &self.data {
            Data::F32(data) => Numbers::F32(data),
            Data::Bf16(data) => Numbers::Bf16(data),
        };
        numbers.part(begin..begin + size)
    }
}

impl Shape {
    /// Copies a block of all heads from a cache of another number of blocks.
    fn copy_block<T: Copy>(self, to: &mut [T], block: usize, from_shape: Shape, from: &[T], from_block: usize) {
        let size = self.block_elements();
        let heads = to.chunks_exact_mut(self.head_elements()).zip(from.chunks_exact(from_shape.head_elements()));
        for (to, from) in heads {
            let from = &from[from_block % from_shape.n_blocks * size..][..size];
            to[block % self.n_blocks * size..][..size].copy_from_slice(from);
        }
    }

    /// Stores one head of `keys` and `values`, both `[n][n_kv_heads * head_dim]`, in that head's part of the cache, as
    /// `stored` makes them.
    fn store<T>(
        self,
        cache: &mut [T],
        head: usize,
        first: usize,
        keys: &[f32],
        values: &[f32],
        stored: impl Fn(f32) -> T,
    ) {
        let (head_dim, kv_width) = (self.head_dim, self.n_kv_heads * self.head_dim);
        for (i, (key, value)) in keys.chunks_exact(kv_width).zip(values.chunks_exact(kv_width)).enumerate() {
            let (key, value) = (&key[head * head_dim..][..head_dim], &value[head * head_dim..][..head_dim]);
            let slot = (first + i) % self.positions();
            let (block, column) = (slot / KEY_BLOCK, slot % KEY_BLOCK);
            let block = &mut cache[block * self.block_elements()..][..self.block_elements()];
            let (keys, values) = block.split_at_mut(head_dim * KEY_BLOCK);
            for (to, &key) in keys.iter_mut().skip(column).step_by(KEY_BLOCK).zip(key) {
                *to = stored(key);
            }
            for (begin, width) in self.value_parts() {
                let used = width.min(head_dim - begin);
                let at = begin * KEY_BLOCK + column * width;
                let numbers = value[begin..begin + used].iter();
                values[at..at + used].iter_mut().zip(numbers).for_each(|(to, &value)| *to = stored(value));
            }
        }
    }

    /// The parts of a value that one product each yields: first dimension and width, a multiple of [`LANES`].
    fn value_parts(self) -> impl Iterator<Item = (usize, usize)> {
        let padded = self.padded_head_dim;
        (0..padded).step_by(VALUE_PANEL).map(move |begin| (begin, VALUE_PANEL.min(padded - begin)))
    }
}

fn append_number(numbers: Numbers<'_>, index: usize, out: &mut Vec<u8>) {
    match numbers {
        Numbers::F32(numbers) => out.extend(numbers[index].to_le_bytes()),
        Numbers::Bf16(numbers) => out.extend(numbers[index].to_le_bytes()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::format::config::Architecture;
    use crate::kernels::numbers::widened;

    /// A full and a sliding layer, with a head that is not a whole number of vectors.
    pub(in crate::network) fn config() -> ModelConfig {
        ModelConfig {
            architecture: Architecture::Olmo3,
            hidden_size: 40,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 84,
            intermediate_size: 40,
            vocab_size: 100,
            max_position_embeddings: 4096,
            rms_norm_eps: 1e-6,
            clip_qkv: None,
            rope_theta: 1e4,
            rope_theta_sliding: 1e4,
            yarn: None,
            sliding_window: 70,
            layer_types: vec![AttentionKind::Full, AttentionKind::Sliding],
            experts: None,
            linear: None,
            tie_word_embeddings: false,
            eos_token_ids: vec![0],
            bos_token_id: None,
            pad_token_id: None,
        }
    }

    /// The widened numbers.
    fn f32s(numbers: Numbers) -> Vec<f32> {
        match numbers {
            Numbers::F32(numbers) => numbers.to_vec(),
            Numbers::Bf16(numbers) => numbers.iter().map(|&bits| widened(bits)).collect(),
        }
    }

    #[test]
    fn bf16_takes_half_the_memory_and_the_bytes_that_are_stated() {
        let allocated = |kv| {
            let cache = KvCache::new(&config(), kv, 1000, 32).expect("memory");
            let bytes = cache.layers.iter().map(|layer| match &layer.data {
                Data::F32(data) => size_of_val::<[f32]>(data),
                Data::Bf16(data) => size_of_val::<[u16]>(data),
            });
            bytes.sum::<usize>() as u64
        };
        for kv in [KvType::F32, KvType::Bf16] {
            assert_eq!(allocated(kv), KvCache::bytes(&config(), kv, 1000, 32), "{kv:?}");
        }
        assert_eq!(allocated(KvType::F32), 2 * allocated(KvType::Bf16));
        // 16 blocks of all positions, and 3 for a window of 70 and a chunk of 32.
        assert_eq!(allocated(KvType::Bf16), (16 + 3) * 64 * (84 + 96) * 2 * 2);
    }

    #[test]
    fn bf16_numbers_are_rounded_to_nearest_even_when_they_are_stored() {
        let width = config().kv_width();
        let number = |bits: u32| f32::from_bits(bits);
        // Ties to the even neighbour below and above, what is beyond a tie, a subnormal number, the largest that stays
        // finite.
        let some = [
            (0x3f80_8000, 0x3f80_0000),
            (0x3f81_8000, 0x3f82_0000),
            (0xbf80_8001, 0xbf81_0000),
            (0x8040_0000, 0x8000_0000),
            (0x7f7f_7fff, 0x7f7f_0000),
        ];
        let numbers: Vec<f32> = (0..2 * width).map(|i| number(some[i % some.len()].0)).collect();
        let values: Vec<f32> = numbers.iter().rev().copied().collect();
        let rounded = |x: f32| some.iter().find(|some| some.0 == x.to_bits()).map(|some| some.1);
        for (kv, first) in [(KvType::Bf16, 0), (KvType::Bf16, 63), (KvType::F32, 63)] {
            let mut cache = KvCache::new(&config(), kv, 200, 2).expect("memory");
            for layer in 0..2 {
                cache.layer_mut(layer).store(first, &numbers, &values);
                for i in 0..2 * width {
                    let (token, head, dim) = (i / width, i % width / 84, i % 84);
                    let (block, column) = ((first + token) / KEY_BLOCK, (first + token) % KEY_BLOCK);
                    let layer = cache.layer(layer);
                    let key = f32s(layer.keys(head, block))[dim * KEY_BLOCK + column];
                    let part = layer.values(head, block).find(|&(begin, width, _)| dim < begin + width);
                    let (begin, part_width, part) = part.expect("a part of every dimension");
                    let value = f32s(part)[column * part_width + dim - begin];
                    let expected = |x: f32| if kv == KvType::F32 { Some(x.to_bits()) } else { rounded(x) };
                    assert_eq!(Some(key.to_bits()), expected(numbers[i]), "{kv:?} {first} key {i}");
                    assert_eq!(Some(value.to_bits()), expected(values[i]), "{kv:?} {first} value {i}");
                }
            }
        }
    }
}
