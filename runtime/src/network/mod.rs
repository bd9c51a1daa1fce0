//! The main path: the network of a model, a batch of sequences, and the forward pass from token ids to logits.

mod activations;
mod attention;
mod kv_cache;
mod rope;
pub mod sequence;
pub mod single;
pub mod weights;

use crate::error::Error;
use crate::file::model_file::ModelFile;
use crate::format::config::{AttentionKind, ModelConfig};
use crate::kernels::Isa;
use crate::kernels::backend::Backend;
use crate::kernels::lanes::{Clip, LayerNorm, RmsNorm, Rotate, SwiGlu};
use crate::network::activations::Buffers;
use crate::network::attention::Attention;
use crate::network::kv_cache::KvCache;
use crate::network::rope::Rope;
use crate::network::sequence::{Row, Sequence, store};
use crate::network::weights::{LayerWeights, Weights};
use crate::os::fp_mode;
use crate::os::memory;
use crate::parallel::matmul::{Activations, Matmul};
use crate::parallel::team::Team;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most positions whose logits are computed at a time.
pub const LOGITS_CHUNK: usize = 48;

/// A model ready to run: views of the weights and what is derived from the configuration. A clone is some kilobytes of
/// views, whatever the size of the weights.
#[derive(Clone)]
pub struct Network<'a> {
    config: &'a ModelConfig,
    weights: Weights<'a>,
    rope_full: Rope,
    rope_sliding: Rope,
}

impl<'a> Network<'a> {
    /// Borrows the tensors of `file`.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn new(file: &'a ModelFile) -> Result<Network<'a>, Error> {
        Network::from_weights(file.config(), Weights::new(file)?)
    }

    /// A network whose tensors lie anywhere; their shapes must be those of [`crate::format::tensors::tensors_of`].
    ///
    /// # Errors
    /// [`Error::Memory`].
    ///
    /// # Panics
    /// Here or later, when they are not, or the configuration is one that [`ModelConfig::validate`] refuses.
    pub fn from_weights(config: &'a ModelConfig, weights: Weights<'a>) -> Result<Network<'a>, Error> {
        Ok(Network {
            config,
            weights,
            rope_full: Rope::new(config, AttentionKind::Full)?,
            rope_sliding: Rope::new(config, AttentionKind::Sliding)?,
        })
    }

    /// Its configuration.
    pub fn config(&self) -> &'a ModelConfig {
        self.config
    }

    /// Its tensors.
    pub fn weights(&self) -> &Weights<'a> {
        &self.weights
    }
}

/// How sequences are computed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Most positions that a sequence can hold, prompt and generated tokens together.
    pub positions: usize,
    /// Most tokens evaluated in one forward pass, those of all sequences together.
    pub chunk: usize,
    /// Which code computes the products.
    pub backend: Backend,
    /// What bf16 weights are multiplied with.
    pub activations: Activations,
}

impl Options {
    /// The fastest way on this machine for so many positions. The chunk changes speed and memory, never a result.
    pub fn new(positions: usize) -> Options {
        let isa = Isa::best();
        let backend = Backend::of(isa);
        Options { positions, chunk: 512, backend, activations: Activations::Bf16 }
    }

    /// With a chunk that is no longer than the sequences together, and has a row for each of them.
    fn clamped(self, sequences: usize) -> Options {
        let all = self.positions.saturating_mul(sequences);
        Options { chunk: self.chunk.min(all).max(sequences).max(1), ..self }
    }
}

/// Whether there is no infinity and no NaN. Without a branch a number: it takes a fraction of the time of writing them.
fn all_finite(numbers: &[f32]) -> bool {
    // The largest magnitude as bits: infinities and NaN come after every finite number.
    let largest = numbers.iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff));
    largest < f32::INFINITY.to_bits()
}

/// Columns of the widest matrix.
fn widest(config: &ModelConfig) -> usize {
    config.hidden_size.max(config.q_width()).max(config.intermediate_size)
}

/// What a block reads: the residual stream `hidden`, or in a pre-norm model its norm, which is written to `normed`.
fn block_input<'b>(
    team: &mut Team,
    isa: Isa,
    config: &ModelConfig,
    hidden: &'b [f32],
    normed: &'b mut [f32],
) -> &'b [f32] {
    if !config.architecture.is_pre_norm() {
        return hidden;
    }
    let (width, eps) = (config.hidden_size, config.rms_norm_eps as f32);
    let normed = &mut normed[..hidden.len()];
    team.for_rows(normed, width, |t, x| {
        x.copy_from_slice(&hidden[t * width..][..width]);
        isa.run(LayerNorm { x, eps });
    });
    normed
}

/// Several sequences that share each forward pass: a pass reads every weight once for all of them.
///
/// A sequence has a place, from 0, which [`Batch::begin`] gives to the next one when it has ended. What a sequence
/// yields does not depend on the others, to the last bit.
pub struct Batch<'m> {
    network: Network<'m>,
    options: Options,
    sequences: Vec<Sequence>,
    matmul: Matmul,
    /// The tokens of the pass; row t of every buffer belongs to the token in row t here.
    rows: Vec<Row>,
    buffers: Buffers,
    /// Rows of logits that are computed.
    n_logits: usize,
}

impl<'m> Batch<'m> {
    /// Bytes that a batch needs while it holds sequences of so many positions: KV caches and activations.
    pub fn bytes(config: &ModelConfig, options: &Options, positions: &[usize]) -> u64 {
        let rows = options.clamped(positions.len()).chunk;
        let caches = positions.iter().map(|&positions| KvCache::bytes(config, positions, rows));
        let caches = caches.fold(0, u64::saturating_add);
        let converted = [rows as u64, widest(config) as u64].into_iter().fold(4, u64::saturating_mul);
        caches.saturating_add(Buffers::bytes(config, rows)).saturating_add(converted)
    }

    /// A batch of places for `sequences` sequences, none of which has begun. It keeps a clone of the network, and
    /// borrows the weights alone.
    ///
    /// # Errors
    /// [`Error::Request`] for more positions than the model has, no positions, no sequences, memory that the system
    /// does not give, or a thread whose processor rounds or flushes otherwise than by default.
    pub fn new(network: &Network<'m>, options: Options, sequences: usize) -> Result<Batch<'m>, Error> {
        fp_mode::check()?;
        let config = network.config();
        if options.positions > config.max_position_embeddings {
            return Err(Error::Request {
                problem: format!(
                    "{} positions were asked for, the model has {}",
                    options.positions, config.max_position_embeddings
                ),
            });
        }
        if options.positions == 0 || options.chunk == 0 || sequences == 0 {
            let problem = "at least one sequence, one position and a chunk of one are needed".into();
            return Err(Error::Request { problem });
        }
        let options = options.clamped(sequences);
        let bf16 = network.weights.has_bf16();
        Ok(Batch {
            network: Network::from_weights(network.config, network.weights.try_clone()?)?,
            options,
            sequences: memory::collected((0..sequences).map(|_| Sequence::without_room()), "the sequences")?,
            matmul: Matmul::new(options.backend, options.activations, bf16, options.chunk, widest(config))?,
            rows: memory::room_for(options.chunk, "the rows of a pass")?,
            buffers: Buffers::new(config, options.chunk)?,
            n_logits: 0,
        })
    }

    /// Begins a new sequence of at most `positions` positions in a place; what was there is forgotten. Allocates the KV
    /// cache, unless the place has one that is large enough.
    ///
    /// # Errors
    /// [`Error::Request`] for more positions than [`Options::positions`], or memory that the system does not give.
    ///
    /// # Panics
    /// When there is no such place.
    pub fn begin(&mut self, place: usize, positions: usize) -> Result<(), Error> {
        if positions > self.options.positions {
            let problem = format!("{positions} positions were asked for, the batch has {}", self.options.positions);
            return Err(Error::Request { problem });
        }
        self.forget_rows();
        self.sequences[place].begin(self.network.config(), positions, self.options.chunk)
    }

    /// Forgets the sequence in a place; the next tokens begin a new one in the same memory.
    ///
    /// # Panics
    /// When there is no such place.
    pub fn restart(&mut self, place: usize) {
        self.forget_rows();
        self.sequences[place].restart();
    }

    /// Cuts the sequence in a place back to its first `n` positions, and yields the number of positions that are left:
    /// `n`, or the present number where that is smaller. It is 0 where a layer with a sliding window has overwritten
    /// keys that position `n` sees; the caller evaluates the tokens again. What follows has the bits of a sequence that
    /// was never longer.
    ///
    /// # Panics
    /// When there is no such place.
    pub fn truncate(&mut self, place: usize, n: usize) -> usize {
        if n < self.position(place) {
            self.forget_rows();
            self.sequences[place].truncate(n);
        }
        self.position(place)
    }

    fn forget_rows(&mut self) {
        self.rows.clear();
        self.n_logits = 0;
    }

    /// The model's configuration.
    pub fn config(&self) -> &'m ModelConfig {
        self.network.config()
    }

    /// Number of places.
    pub fn n_places(&self) -> usize {
        self.sequences.len()
    }

    /// Number of positions evaluated so far of the sequence in a place.
    ///
    /// # Panics
    /// When there is no such place.
    pub fn position(&self, place: usize) -> usize {
        self.sequences[place].position()
    }

    /// How this batch computes; the chunk is at most the positions of all sequences, and at least the number of places.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The tokens of the last forward pass.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Evaluates the next tokens of some sequences, each given by its place, in one pass; at most a chunk of tokens in
    /// all. [`Batch::logits`] then gives what they predict.
    ///
    /// # Errors
    /// [`Error::Request`] when there are no tokens for a sequence or for none, more tokens than a chunk or than there
    /// are positions left, a token that is not in the vocabulary, a place that does not exist, or a thread whose
    /// processor rounds or flushes otherwise than by default. Nothing is evaluated then.
    pub fn forward<'t>(
        &mut self,
        team: &mut Team,
        parts: impl IntoIterator<Item = (usize, &'t [u32])>,
    ) -> Result<(), Error> {
        fp_mode::check()?;
        self.give_rows(parts)?;
        self.embed(team);
        self.rotations(team);
        for index in 0..self.config().n_layers() {
            let layer = self.network.weights.layers[index];
            self.attention_block(team, index, &layer);
            self.mlp_block(team, index, &layer);
        }
        Ok(())
    }

    /// Gives every token its row and its position, or none of them.
    fn give_rows<'t>(&mut self, parts: impl IntoIterator<Item = (usize, &'t [u32])>) -> Result<(), Error> {
        self.forget_rows();
        // Takes them back when it is dropped early, also where the iterator panics.
        struct Giving<'b, 'm>(Option<&'b mut Batch<'m>>);
        impl Drop for Giving<'_, '_> {
            fn drop(&mut self) {
                if let Some(batch) = self.0.take() {
                    batch.rows.drain(..).for_each(|row| batch.sequences[row.sequence].step_back());
                }
            }
        }
        let mut giving = Giving(Some(self));
        for (place, tokens) in parts {
            let batch = giving.0.as_mut().expect("until it is done");
            batch.give_rows_to(place, tokens).map_err(|problem| Error::Request { problem })?;
        }
        if giving.0.as_ref().is_some_and(|batch| batch.rows.is_empty()) {
            return Err(Error::Request { problem: "no sequence in a forward pass".into() });
        }
        giving.0 = None;
        Ok(())
    }

    fn give_rows_to(&mut self, place: usize, tokens: &[u32]) -> Result<(), String> {
        let n_places = self.sequences.len();
        let sequence = self.sequences.get_mut(place);
        let sequence = sequence.ok_or_else(|| format!("sequence {place} in a batch of {n_places}"))?;
        let left = sequence.left().min(self.options.chunk - self.rows.len());
        if tokens.is_empty() || tokens.len() > left {
            return Err(format!("{} tokens in one forward pass, there is room for 1 to {left}", tokens.len()));
        }
        let vocab_size = self.network.config().vocab_size;
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(format!("token {token}, the vocabulary has ids 0 to {}", vocab_size - 1));
        }
        let row = |&token| Row { sequence: place, position: sequence.advance(), token };
        self.rows.extend(tokens.iter().map(row));
        Ok(())
    }

    /// `hidden[t] = embed_tokens[tokens[t]]`
    fn embed(&mut self, team: &mut Team) {
        let (embed_tokens, width) = (&self.network.weights.embed_tokens, self.network.config().hidden_size);
        let (rows, hidden) = (&self.rows, &mut self.buffers.hidden[..self.rows.len() * width]);
        team.for_rows(hidden, width, |t, hidden| embed_tokens.copy_row(rows[t].token as usize, hidden));
    }

    /// cos and sin of the rows' positions, for both kinds of layers.
    fn rotations(&mut self, team: &mut Team) {
        let half = self.network.config().head_dim / 2;
        let rows = &self.rows;
        for (kind, rope) in [&self.network.rope_full, &self.network.rope_sliding].into_iter().enumerate() {
            if kind == 1 && self.network.config().sliding_window == 0 {
                continue;
            }
            let cos = &mut self.buffers.cos[kind][..rows.len() * half];
            let sin = &mut self.buffers.sin[kind][..rows.len() * half];
            team.for_row_pairs(cos, sin, half, |t, cos, sin| rope.angles(rows[t].position, cos, sin));
        }
    }

    /// With q, k and v the projections of x:
    ///
    /// ```text
    /// OLMo-2, Olmo-3   x = hidden
    ///                  hidden += rms_norm(o_proj(attention(rope(rms_norm(q)), rope(rms_norm(k)), v)))
    /// OLMo-1           x = layer_norm(hidden)
    ///                  hidden += o_proj(attention(rope(clip(q)), rope(clip(k)), clip(v)))
    /// ```
    fn attention_block(&mut self, team: &mut Team, index: usize, layer: &LayerWeights) {
        let (config, rows, n) = (self.network.config(), &self.rows, self.rows.len());
        let (hidden_size, q_width, kv_width) = (config.hidden_size, config.q_width(), config.kv_width());
        let kind = config.layer_types[index];
        let isa = self.options.backend.isa;
        let b = &mut self.buffers;
        let hidden = &b.hidden[..n * hidden_size];
        let (q, k, v) = (&mut b.q[..n * q_width], &mut b.k[..n * kv_width], &mut b.v[..n * kv_width]);
        let attention = &mut b.attention[..n * q_width];
        let projected = &mut b.projected[..n * hidden_size];
        let (cos, sin) = (&b.cos[kind as usize], &b.sin[kind as usize]);

        let x = block_input(team, isa, config, hidden, &mut b.block_input);
        self.matmul.run(team, x, [(&layer.q_proj, q), (&layer.k_proj, k), (&layer.v_proj, v)]);

        let (eps, half) = (config.rms_norm_eps as f32, config.head_dim / 2);
        let clip = |x: &mut [f32]| {
            if let Some(limit) = config.clip_qkv {
                isa.run(Clip { x, limit: limit as f32 });
            }
        };
        let norm_and_rotate = |norm: Option<&[f32]>, scale: f32, t: usize, x: &mut [f32]| {
            if let Some(weight) = norm {
                isa.run(RmsNorm { x, weight, eps, residual: None });
            }
            clip(x);
            let (cos, sin) = (&cos[t * half..][..half], &sin[t * half..][..half]);
            isa.run(Rotate { x, cos, sin, scale });
        };
        // The scores' factor 1 / sqrt(head_dim) is multiplied onto the queries.
        let scale = (1.0 / (config.head_dim as f64).sqrt()) as f32;
        team.for_rows(q, q_width, |t, q| norm_and_rotate(layer.q_norm, scale, t, q));
        team.for_row_pairs(k, v, kv_width, |t, k, v| {
            norm_and_rotate(layer.k_norm, 1.0, t, k);
            clip(v);
        });
        store(team, &mut self.sequences, index, rows, k, v);

        let heads = Attention {
            layer: index,
            head_dim: config.head_dim,
            n_heads: config.n_heads,
            heads_per_kv: config.heads_per_kv(),
            window: (kind == AttentionKind::Sliding).then_some(config.sliding_window),
        };
        heads.run(team, self.options.backend, &self.sequences, rows, q, attention);

        self.matmul.run(team, attention, [(&layer.o_proj, projected)]);
        self.add_projected(team, index, layer.post_attention_layernorm);
    }

    /// ```text
    /// OLMo-2, Olmo-3   x = hidden
    ///                  hidden += rms_norm(down_proj(silu(gate_proj(x)) * up_proj(x)))
    /// OLMo-1           x = layer_norm(hidden)
    ///                  hidden += down_proj(silu(gate_proj(x)) * up_proj(x))
    /// ```
    fn mlp_block(&mut self, team: &mut Team, index: usize, layer: &LayerWeights) {
        let (config, n, isa) = (self.network.config(), self.rows.len(), self.options.backend.isa);
        let (hidden_size, mlp_width) = (config.hidden_size, config.intermediate_size);
        let b = &mut self.buffers;
        let hidden = &b.hidden[..n * hidden_size];
        let (gate, up) = (&mut b.gate[..n * mlp_width], &mut b.up[..n * mlp_width]);
        let projected = &mut b.projected[..n * hidden_size];

        let x = block_input(team, isa, config, hidden, &mut b.block_input);
        self.matmul.run(team, x, [(&layer.gate_proj, gate), (&layer.up_proj, up)]);
        team.for_rows(gate, mlp_width, |t, gate| {
            isa.run(SwiGlu { gate, up: &up[t * mlp_width..][..mlp_width] });
        });
        self.matmul.run(team, gate, [(&layer.down_proj, projected)]);
        self.add_projected(team, index, layer.post_feedforward_layernorm);
    }

    /// `hidden += rms_norm(projected)`, without the norm where a block has none behind it; takes note of numbers that
    /// are not finite.
    fn add_projected(&mut self, team: &mut Team, layer: usize, norm: Option<&[f32]>) {
        let (width, isa) = (self.network.config().hidden_size, self.options.backend.isa);
        let eps = self.network.config().rms_norm_eps as f32;
        let n = self.rows.len();
        let hidden = &mut self.buffers.hidden[..n * width];
        let projected = &mut self.buffers.projected[..n * width];
        let (rows, sequences) = (&self.rows, &self.sequences);
        team.for_row_pairs(hidden, projected, width, |t, hidden, x| {
            match norm {
                Some(weight) => isa.run(RmsNorm { x, weight, eps, residual: Some(&mut *hidden) }),
                None => hidden.iter_mut().zip(x).for_each(|(hidden, x)| *hidden += *x),
            }
            if !all_finite(hidden) {
                sequences[rows[t].sequence].note_not_finite(rows[t].position, layer);
            }
        });
    }

    /// `lm_head(norm(hidden))` for some rows of the last forward pass, `[rows, vocab_size]`; at most [`LOGITS_CHUNK`]
    /// of them at a time.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when a logit is not a finite number; [`Error::Request`] on a thread whose processor rounds
    /// or flushes otherwise than by default.
    ///
    /// # Panics
    /// For rows beyond those of the last forward pass, or too many of them.
    pub fn logits(
        &mut self,
        team: &mut Team,
        rows: impl IntoIterator<Item = usize, IntoIter: Clone>,
    ) -> Result<&[f32], Error> {
        fp_mode::check()?;
        let (config, isa) = (self.network.config(), self.options.backend.isa);
        let (width, eps, weights) = (config.hidden_size, config.rms_norm_eps as f32, &self.network.weights);
        let rows = rows.into_iter();
        let n = rows.clone().count();
        assert!(n <= LOGITS_CHUNK && rows.clone().all(|row| row < self.rows.len()));
        self.n_logits = 0;
        let b = &mut self.buffers;
        let normed = &mut b.normed[..n * width];
        let logits = &mut b.logits[..n * config.vocab_size];
        for (normed, row) in normed.chunks_exact_mut(width).zip(rows.clone()) {
            normed.copy_from_slice(&b.hidden[row * width..][..width]);
        }
        team.for_rows(normed, width, |_, x| match weights.norm {
            Some(weight) => isa.run(RmsNorm { x, weight, eps, residual: None }),
            None => isa.run(LayerNorm { x, eps }),
        });
        self.matmul.run(team, normed, [(&weights.lm_head, &mut *logits)]);
        // The first bad logit: its row in the high half, its token in the low one.
        let bad = AtomicU64::new(u64::MAX);
        team.for_rows(logits, config.vocab_size, |row, logits| {
            if !all_finite(logits) {
                let token = logits.iter().position(|x| !x.is_finite()).unwrap_or(0);
                bad.fetch_min((row as u64) << 32 | token as u64, Ordering::Relaxed);
            }
        });
        match bad.into_inner() {
            u64::MAX => {
                self.n_logits = n;
                Ok(logits)
            }
            bad => {
                let mut rows = rows;
                let row = rows.nth((bad >> 32) as usize).map(|row| self.rows[row]).expect("one of the rows");
                let (sequence, position) = (row.sequence, row.position);
                let first = self.sequences[sequence].first_not_finite().filter(|first| first.0 <= position);
                Err(Error::NotFinite { sequence, position, token: bad as u32 as usize, first })
            }
        }
    }

    /// What [`Batch::logits`] gave for the last forward pass, `[rows, vocab_size]`; empty when it was not called since,
    /// or failed.
    pub fn computed_logits(&self) -> &[f32] {
        &self.buffers.logits[..self.n_logits * self.config().vocab_size]
    }
}
