//! The main path: a model, a session, and the forward pass from token ids to logits.

use crate::attention::Attention;
use crate::config::{AttentionKind, ModelConfig};
use crate::error::Error;
use crate::format::Dtype;
use crate::kernels::Isa;
use crate::kernels::lanes::{RmsNorm, Rotate, SwiGlu};
use crate::kv_cache::{KvCache, zeros};
use crate::matmul::{Activations, Matmul, Products};
use crate::model_file::ModelFile;
use crate::rope::Rope;
use crate::threads::Team;
use crate::weights::{LayerWeights, Weights};
use std::ops::Range;

/// Most positions whose logits are computed at a time.
pub const LOGITS_CHUNK: usize = 48;

/// A model ready to run: views of the weights and what is derived from the configuration.
pub struct Model<'a> {
    config: &'a ModelConfig,
    weights: Weights<'a>,
    rope_full: Rope,
    rope_sliding: Rope,
}

impl<'a> Model<'a> {
    /// Borrows the tensors of `file`.
    pub fn new(file: &'a ModelFile) -> Model<'a> {
        Model::from_weights(file.config(), Weights::new(file))
    }

    /// A model whose tensors lie anywhere; their shapes must be those of [`crate::layout::tensors`].
    pub fn from_weights(config: &'a ModelConfig, weights: Weights<'a>) -> Model<'a> {
        Model {
            config,
            weights,
            rope_full: Rope::new(config, AttentionKind::Full),
            rope_sliding: Rope::new(config, AttentionKind::Sliding),
        }
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

/// How a session computes.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Positions that the session can hold, prompt and generated tokens together.
    pub positions: usize,
    /// Most tokens evaluated in one forward pass.
    pub chunk: usize,
    /// Which code computes the products.
    pub products: Products,
    /// What bf16 weights are multiplied with.
    pub activations: Activations,
}

impl Options {
    /// The fastest way on this machine for so many positions. The chunk changes speed and memory, never a result.
    pub fn new(positions: usize) -> Options {
        let isa = Isa::best();
        let products = Products { isa, gemm: !isa.has_products() };
        Options { positions, chunk: 512, products, activations: Activations::Bf16 }.clamped()
    }

    /// With a chunk that is no longer than the sequence.
    fn clamped(self) -> Options {
        Options { chunk: self.chunk.min(self.positions.max(1)), ..self }
    }
}

/// Columns of the widest matrix.
fn widest(config: &ModelConfig) -> usize {
    config.hidden_size.max(config.q_width()).max(config.intermediate_size)
}

/// One sequence: its KV cache and the buffers of the forward pass, all allocated at the beginning.
pub struct Session<'m> {
    model: &'m Model<'m>,
    options: Options,
    cache: KvCache,
    matmul: Matmul,
    position: usize,
    n: usize,
    buffers: Buffers,
}

/// Activations of up to `chunk` tokens; n of them are in use.
struct Buffers {
    hidden: Vec<f32>,    // [n, hidden_size], the residual stream
    q: Vec<f32>,         // [n, n_heads * head_dim]
    k: Vec<f32>,         // [n, n_kv_heads * head_dim]
    v: Vec<f32>,         // [n, n_kv_heads * head_dim]
    attention: Vec<f32>, // [n, n_heads * head_dim]
    gate: Vec<f32>,      // [n, intermediate_size]
    up: Vec<f32>,        // [n, intermediate_size]
    projected: Vec<f32>, // [n, hidden_size], what a block adds to the residual stream
    cos: [Vec<f32>; 2],  // [n, head_dim / 2], for full and sliding layers
    sin: [Vec<f32>; 2],  // [n, head_dim / 2]
    normed: Vec<f32>,    // [LOGITS_CHUNK, hidden_size]
    logits: Vec<f32>,    // [LOGITS_CHUNK, vocab_size]
}

impl Buffers {
    /// Elements of each buffer, in the order of the fields.
    fn sizes(config: &ModelConfig, chunk: usize) -> [usize; 14] {
        let half = config.head_dim / 2;
        [
            chunk * config.hidden_size,
            chunk * config.q_width(),
            chunk * config.kv_width(),
            chunk * config.kv_width(),
            chunk * config.q_width(),
            chunk * config.intermediate_size,
            chunk * config.intermediate_size,
            chunk * config.hidden_size,
            chunk * half,
            chunk * half,
            chunk * half,
            chunk * half,
            chunk.min(LOGITS_CHUNK) * config.hidden_size,
            chunk.min(LOGITS_CHUNK) * config.vocab_size,
        ]
    }

    fn new(config: &ModelConfig, chunk: usize) -> Result<Buffers, Error> {
        let sizes = Buffers::sizes(config, chunk).map(|elements| zeros(elements, "activations"));
        let [hidden, q, k, v, attention, gate, up, projected, cos, cos_sliding, sin, sin_sliding, normed, logits] =
            sizes;
        Ok(Buffers {
            hidden: hidden?,
            q: q?,
            k: k?,
            v: v?,
            attention: attention?,
            gate: gate?,
            up: up?,
            projected: projected?,
            cos: [cos?, cos_sliding?],
            sin: [sin?, sin_sliding?],
            normed: normed?,
            logits: logits?,
        })
    }
}

impl<'m> Session<'m> {
    /// Bytes that a session needs: KV cache and activations.
    pub fn bytes(config: &ModelConfig, options: &Options) -> u64 {
        let options = options.clamped();
        let activations: u64 = Buffers::sizes(config, options.chunk).iter().map(|&elements| 4 * elements as u64).sum();
        let converted = 4 * options.chunk as u64 * widest(config) as u64;
        KvCache::bytes(config, options.positions, options.chunk) + activations + converted
    }

    /// An empty session.
    ///
    /// # Errors
    /// [`Error::Request`] for more positions than the model has, no positions, or memory that the system does not give.
    pub fn new(model: &'m Model<'m>, options: Options) -> Result<Session<'m>, Error> {
        let config = model.config();
        if options.positions > config.max_position_embeddings {
            return Err(Error::Request {
                problem: format!(
                    "{} positions were asked for, the model has {}",
                    options.positions, config.max_position_embeddings
                ),
            });
        }
        if options.positions == 0 || options.chunk == 0 {
            return Err(Error::Request { problem: "a session needs at least one position and a chunk of one".into() });
        }
        let options = options.clamped();
        let bf16 = model.weights.embed_tokens.shape.dtype == Dtype::Bf16;
        Ok(Session {
            model,
            options,
            cache: KvCache::new(config, options.positions, options.chunk)?,
            matmul: Matmul::new(options.products, options.activations, bf16, options.chunk, widest(config))?,
            position: 0,
            n: 0,
            buffers: Buffers::new(config, options.chunk)?,
        })
    }

    /// Forgets the sequence; the next tokens begin a new one in the same memory.
    pub fn restart(&mut self) {
        // What the cache holds beyond the position is never looked at.
        (self.position, self.n) = (0, 0);
    }

    /// The model's configuration.
    pub fn config(&self) -> &'m ModelConfig {
        self.model.config()
    }

    /// Number of positions evaluated so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// How this session computes; the chunk is at most the positions.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Evaluates the next tokens of the sequence, at most a chunk of them. [`Session::logits`] then gives what they
    /// predict.
    ///
    /// # Errors
    /// [`Error::Request`] when the tokens are none, more than a chunk, more than there are positions left, or not in the
    /// vocabulary.
    pub fn forward(&mut self, team: &mut Team, tokens: &[u32]) -> Result<(), Error> {
        let config = self.model.config();
        let left = (self.options.positions - self.position).min(self.options.chunk);
        if tokens.is_empty() || tokens.len() > left {
            let problem = format!("{} tokens in one forward pass, there is room for 1 to {left}", tokens.len());
            return Err(Error::Request { problem });
        }
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= config.vocab_size) {
            let problem = format!("token {token}, the vocabulary has ids 0 to {}", config.vocab_size - 1);
            return Err(Error::Request { problem });
        }
        self.n = tokens.len();
        self.embed(team, tokens);
        self.rotations(team);
        for (index, layer) in self.model.weights.layers.iter().enumerate() {
            self.attention_block(team, index, layer);
            self.mlp_block(team, layer);
        }
        self.position += self.n;
        Ok(())
    }

    /// `hidden[t] = embed_tokens[tokens[t]]`
    fn embed(&mut self, team: &mut Team, tokens: &[u32]) {
        let (embed_tokens, width) = (&self.model.weights.embed_tokens, self.model.config().hidden_size);
        let hidden = &mut self.buffers.hidden[..self.n * width];
        team.for_rows(hidden, width, |t, row| embed_tokens.copy_row(tokens[t] as usize, row));
    }

    /// cos and sin of this chunk's positions, for both kinds of layers.
    fn rotations(&mut self, team: &mut Team) {
        let half = self.model.config().head_dim / 2;
        let first = self.position;
        for (kind, rope) in [&self.model.rope_full, &self.model.rope_sliding].into_iter().enumerate() {
            if kind == 1 && self.model.config().sliding_window == 0 {
                continue;
            }
            let cos = &mut self.buffers.cos[kind][..self.n * half];
            let sin = &mut self.buffers.sin[kind][..self.n * half];
            team.for_row_pairs(cos, sin, half, |t, cos, sin| rope.angles(first + t, cos, sin));
        }
    }

    /// `hidden += rms_norm(o_proj(attention(rope(rms_norm(q)), rope(rms_norm(k)), v)))`
    fn attention_block(&mut self, team: &mut Team, index: usize, layer: &LayerWeights) {
        let (config, n) = (self.model.config(), self.n);
        let (hidden_size, q_width, kv_width) = (config.hidden_size, config.q_width(), config.kv_width());
        let kind = config.layer_types[index];
        let b = &mut self.buffers;
        let hidden = &mut b.hidden[..n * hidden_size];
        let (q, k, v) = (&mut b.q[..n * q_width], &mut b.k[..n * kv_width], &mut b.v[..n * kv_width]);
        let attention = &mut b.attention[..n * q_width];
        let projected = &mut b.projected[..n * hidden_size];
        let (cos, sin) = (&b.cos[kind as usize], &b.sin[kind as usize]);

        self.matmul.run(team, hidden, [(&layer.q_proj, q), (&layer.k_proj, k), (&layer.v_proj, v)]);

        let (isa, eps, half) = (self.options.products.isa, config.rms_norm_eps as f32, config.head_dim / 2);
        let norm_and_rotate = |weight: &[f32], scale: f32, t: usize, x: &mut [f32]| {
            isa.run(RmsNorm { x, weight, eps, residual: None });
            let (cos, sin) = (&cos[t * half..][..half], &sin[t * half..][..half]);
            isa.run(Rotate { x, cos, sin, scale });
        };
        // The scores' factor 1 / sqrt(head_dim) is multiplied onto the queries.
        let scale = (1.0 / (config.head_dim as f64).sqrt()) as f32;
        team.for_rows(q, q_width, |t, q| norm_and_rotate(layer.q_norm, scale, t, q));
        team.for_rows(k, kv_width, |t, k| norm_and_rotate(layer.k_norm, 1.0, t, k));
        let cache = self.cache.layer(index);
        cache.store(team, self.position, k, v);

        let heads = Attention {
            head_dim: config.head_dim,
            n_heads: config.n_heads,
            heads_per_kv: config.heads_per_kv(),
            window: (kind == AttentionKind::Sliding).then_some(config.sliding_window),
        };
        heads.run(team, self.options.products, cache, self.position, q, attention);

        self.matmul.run(team, attention, [(&layer.o_proj, projected)]);
        self.add_normed(team, layer.post_attention_layernorm);
    }

    /// `hidden += rms_norm(down_proj(silu(gate_proj(hidden)) * up_proj(hidden)))`
    fn mlp_block(&mut self, team: &mut Team, layer: &LayerWeights) {
        let (config, n, isa) = (self.model.config(), self.n, self.options.products.isa);
        let (hidden_size, mlp_width) = (config.hidden_size, config.intermediate_size);
        let b = &mut self.buffers;
        let hidden = &mut b.hidden[..n * hidden_size];
        let (gate, up) = (&mut b.gate[..n * mlp_width], &mut b.up[..n * mlp_width]);
        let projected = &mut b.projected[..n * hidden_size];

        self.matmul.run(team, hidden, [(&layer.gate_proj, gate), (&layer.up_proj, up)]);
        team.for_rows(gate, mlp_width, |t, gate| {
            isa.run(SwiGlu { gate, up: &up[t * mlp_width..][..mlp_width] });
        });
        self.matmul.run(team, gate, [(&layer.down_proj, projected)]);
        self.add_normed(team, layer.post_feedforward_layernorm);
    }

    /// `hidden += rms_norm(projected)`
    fn add_normed(&mut self, team: &mut Team, weight: &[f32]) {
        let (width, isa) = (self.model.config().hidden_size, self.options.products.isa);
        let eps = self.model.config().rms_norm_eps as f32;
        let hidden = &mut self.buffers.hidden[..self.n * width];
        let projected = &mut self.buffers.projected[..self.n * width];
        team.for_row_pairs(hidden, projected, width, |_, hidden, x| {
            isa.run(RmsNorm { x, weight, eps, residual: Some(hidden) });
        });
    }

    /// `lm_head(rms_norm(hidden))` for some of the tokens of the last forward pass, `[rows, vocab_size]`; at most
    /// [`LOGITS_CHUNK`] of them at a time.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when a logit is not a finite number.
    ///
    /// # Panics
    /// For rows beyond those of the last forward pass, or too many of them.
    pub fn logits(&mut self, team: &mut Team, rows: Range<usize>) -> Result<&[f32], Error> {
        assert!(rows.end <= self.n && rows.len() <= LOGITS_CHUNK);
        let (config, isa) = (self.model.config(), self.options.products.isa);
        let (width, eps, weights) = (config.hidden_size, config.rms_norm_eps as f32, &self.model.weights);
        let b = &mut self.buffers;
        let normed = &mut b.normed[..rows.len() * width];
        let logits = &mut b.logits[..rows.len() * config.vocab_size];
        normed.copy_from_slice(&b.hidden[rows.start * width..rows.end * width]);
        team.for_rows(normed, width, |_, x| isa.run(RmsNorm { x, weight: weights.norm, eps, residual: None }));
        self.matmul.run(team, normed, [(&weights.lm_head, &mut *logits)]);
        for (row, logits) in logits.chunks_exact(config.vocab_size).enumerate() {
            // The largest magnitude as bits: infinities and NaN come after every finite number.
            let largest = logits.iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff));
            if largest >= f32::INFINITY.to_bits() {
                let token = logits.iter().position(|x| !x.is_finite()).unwrap_or(0);
                return Err(Error::NotFinite { position: self.position - self.n + rows.start + row, token });
            }
        }
        Ok(logits)
    }
}
