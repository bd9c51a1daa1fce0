//! The forward pass: from token ids to logits.

use crate::error::Error;
use crate::format::config::{AttentionKind, ModelConfig};
use crate::format::matrix::Matrix;
use crate::kernels::Isa;
use crate::kernels::lanes::{Clip, LayerNorm, RmsNorm, Rotate, SwiGlu};
use crate::network::Network;
use crate::network::activations::LOGITS_CHUNK;
use crate::network::attention::Attention;
use crate::network::batch::Batch;
use crate::network::experts::ExpertBlock;
use crate::network::linear_attention::LinearBlock;
use crate::network::observer::{Hidden, Inputs, Observer};
use crate::network::sequence::store;
use crate::network::weights::{
    AttentionWeights, BlockNorm, ExpertWeights, LayerWeights, LinearWeights, Mixer, Mlp, MlpWeights, Weights,
};
use crate::os::fp_mode;
use crate::parallel::team::Team;
use std::sync::atomic::{AtomicU64, Ordering};

impl Batch {
    /// Evaluates the next tokens of some sequences, each given by its slot, in one pass; at most a chunk of tokens in
    /// all. [`Batch::logits`] then computes what they predict.
    ///
    /// # Errors
    /// [`Error::NoTokens`], [`Error::NoSlot`], [`Error::PassTooLong`] for no tokens of a sequence, or more than its
    /// positions or the chunk have room for, [`Error::UnknownToken`], [`Error::NotRun`] on a thread with a non-default
    /// floating-point mode. Nothing is evaluated then.
    pub fn forward<'t>(
        &mut self,
        team: &mut Team,
        parts: impl IntoIterator<Item = (usize, &'t [u32])>,
    ) -> Result<(), Error> {
        self.forward_observed(team, parts, &mut |_, _, _| ())
    }

    /// As [`Batch::forward`]; `observer` sees what the layers and their matrices get.
    ///
    /// # Errors
    /// Those of [`Batch::forward`].
    pub fn forward_observed<'t>(
        &mut self,
        team: &mut Team,
        parts: impl IntoIterator<Item = (usize, &'t [u32])>,
        observer: &mut Observer<'_>,
    ) -> Result<(), Error> {
        // Its own handle: the steps borrow the whole batch.
        let network = self.network.clone();
        self.pass(team, parts, network.weights(), observer)
    }

    /// As [`Batch::forward`] with the drafts of the model: keys, values and [`Batch::draft_logits`] are guesses.
    ///
    /// # Errors
    /// Those of [`Batch::forward`].
    ///
    /// # Panics
    /// When the model has no drafts.
    pub fn forward_draft<'t>(
        &mut self,
        team: &mut Team,
        parts: impl IntoIterator<Item = (usize, &'t [u32])>,
    ) -> Result<(), Error> {
        let network = self.network.clone();
        self.pass(team, parts, network.draft().expect("drafts"), &mut |_, _, _| ())
    }

    fn pass<'t>(
        &mut self,
        team: &mut Team,
        parts: impl IntoIterator<Item = (usize, &'t [u32])>,
        weights: &Weights,
        observer: &mut Observer<'_>,
    ) -> Result<(), Error> {
        fp_mode::check()?;
        self.give_rows(parts)?;
        let network = self.network.clone();
        self.embed(team, &network);
        self.rotations(team, &network);
        for (index, layer) in weights.layers.iter().enumerate() {
            observer(index, Inputs::Layer, &self.buffers.hidden[..self.rows.len() * network.config().hidden_size]);
            self.mixer_block(team, index, layer, observer);
            self.mlp_block(team, index, layer, observer);
        }
        Ok(())
    }

    /// As [`Batch::forward`] for the next tokens of one sequence; `visit` sees its hidden states of all layers.
    ///
    /// # Errors
    /// Those of [`Batch::forward`]; [`Error::NotFinite`] when a hidden state is not a finite number.
    pub fn forward_hidden(
        &mut self,
        team: &mut Team,
        slot: usize,
        tokens: &[u32],
        visit: &mut dyn FnMut(Hidden<'_>),
    ) -> Result<(), Error> {
        let first = if slot < self.n_slots() { self.position(slot) } else { 0 };
        self.forward_observed(team, [(slot, tokens)], &mut |layer, inputs, rows| {
            if inputs == Inputs::Layer {
                visit(Hidden { layer, position: first, rows, n_rows: tokens.len() });
            }
        })?;
        let (layer, width) = (self.config().n_layers(), self.config().hidden_size);
        let mut bad = None;
        for begin in (0..tokens.len()).step_by(LOGITS_CHUNK) {
            let rows = self.head_input(team, begin..tokens.len().min(begin + LOGITS_CHUNK));
            visit(Hidden { layer, position: first + begin, rows, n_rows: rows.len() / width });
            bad = bad.or_else(|| rows.chunks_exact(width).position(|row| !all_finite(row)).map(|row| begin + row));
        }
        match bad {
            None => Ok(()),
            // The head multiplies them: no logit of this position is finite.
            Some(row) => {
                let (position, first) = (first + row, self.sequences[slot].first_not_finite());
                let first = first.filter(|first| first.0 <= position);
                Err(Error::NotFinite { sequence: slot, position, token: 0, first })
            }
        }
    }

    /// `hidden[t] = embed_tokens[tokens[t]]`
    fn embed(&mut self, team: &mut Team, network: &Network) {
        let (embed_tokens, width) = (&network.weights().embed_tokens, network.config().hidden_size);
        let (rows, hidden) = (&self.rows, &mut self.buffers.hidden[..self.rows.len() * width]);
        team.for_rows(hidden, width, |t, hidden| embed_tokens.copy_row(rows[t].token as usize, hidden));
    }

    /// cos and sin of the rows' positions, for both kinds of layers.
    fn rotations(&mut self, team: &mut Team, network: &Network) {
        if !network.config().has_rope() {
            return;
        }
        let half = network.config().head_dim / 2;
        let rows = &self.rows;
        for (kind, rope) in [&network.rope_full, &network.rope_sliding].into_iter().enumerate() {
            if kind == 1 && network.config().sliding_window == 0 {
                continue;
            }
            let cos = &mut self.buffers.cos[kind][..rows.len() * half];
            let sin = &mut self.buffers.sin[kind][..rows.len() * half];
            team.for_row_pairs(cos, sin, half, |t, cos, sin| rope.angles(rows[t].position, cos, sin));
        }
    }

    /// ```text
    /// pre-norm (OLMo-1, OLMoE, linear layers of Olmo-Hybrid)   hidden += mixer(norm(hidden))
    /// post-norm (all others)                                   hidden += rms_norm(mixer(hidden))
    /// ```
    fn mixer_block(&mut self, team: &mut Team, index: usize, layer: &LayerWeights, observer: &mut Observer<'_>) {
        match &layer.mixer {
            Mixer::Attention(attention) => self.attention(team, index, attention, layer.mixer_norm, observer),
            Mixer::Linear(linear) => self.linear_attention(team, index, linear, layer.mixer_norm, observer),
        }
        self.add_projected(team, index, layer.mixer_norm.after());
    }

    /// With q, k and v the projections of x:
    ///
    /// ```text
    /// OLMo-1                      o_proj(attention(rope(clip(q)), rope(clip(k)), clip(v)))
    /// OLMo-2, Olmo-3, FlexOlmo    o_proj(attention(rope(rms_norm(q)), rope(rms_norm(k)), v))
    /// Olmo-Hybrid                 the same, in the released models without rope
    /// OLMoE                       o_proj(attention(rope(clip(rms_norm(q))), rope(clip(rms_norm(k))), clip(v)))
    /// ```
    fn attention(
        &mut self,
        team: &mut Team,
        index: usize,
        weights: &AttentionWeights,
        norm: BlockNorm,
        observer: &mut Observer<'_>,
    ) {
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

        let x = block_input(team, isa, config, norm, hidden, &mut b.block_input);
        observer(index, Inputs::Attention, x);
        self.matmul.run(team, x, [(&weights.q_proj, q), (&weights.k_proj, k), (&weights.v_proj, v)]);

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
            if config.has_rope() {
                let (cos, sin) = (&cos[t * half..][..half], &sin[t * half..][..half]);
                isa.run(Rotate { x, cos, sin, scale });
            } else {
                x.iter_mut().for_each(|x| *x *= scale);
            }
        };
        // The scores' factor 1 / sqrt(head_dim) is multiplied onto the queries.
        let scale = (1.0 / (config.head_dim as f64).sqrt()) as f32;
        team.for_rows(q, q_width, |t, q| norm_and_rotate(weights.q_norm, scale, t, q));
        team.for_row_pairs(k, v, kv_width, |t, k, v| {
            norm_and_rotate(weights.k_norm, 1.0, t, k);
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

        observer(index, Inputs::AttentionOutput, attention);
        self.matmul.run(team, attention, [(&weights.o_proj, projected)]);
    }

    /// `o_proj(rms_norm(delta_rule(silu(conv1d(q, k, v)))) * silu(g))` with q, k, v and g the projections of x.
    fn linear_attention(
        &mut self,
        team: &mut Team,
        index: usize,
        weights: &LinearWeights,
        norm: BlockNorm,
        observer: &mut Observer<'_>,
    ) {
        let (config, isa, n) = (self.network.config(), self.options.backend.isa, self.rows.len());
        let b = &mut self.buffers;
        let hidden = &b.hidden[..n * config.hidden_size];
        let x = block_input(team, isa, config, norm, hidden, &mut b.block_input);
        observer(index, Inputs::Attention, x);
        let block = LinearBlock {
            linear: config.linear.expect("sizes of its layers"),
            layer: index,
            isa,
            weights,
            rows: &self.rows,
            sequences: &mut self.sequences,
            buffers: &mut b.linear,
        };
        let gated = block.run(team, &mut self.matmul, x);
        observer(index, Inputs::AttentionOutput, gated);
        self.matmul.run(team, gated, [(&weights.o_proj, &mut b.projected[..n * config.hidden_size])]);
    }

    /// ```text
    /// pre-norm (OLMo-1, OLMoE, linear layers of Olmo-Hybrid)   hidden += mlp(norm(hidden))
    /// post-norm (all others)                                   hidden += rms_norm(mlp(hidden))
    /// ```
    fn mlp_block(&mut self, team: &mut Team, index: usize, layer: &LayerWeights, observer: &mut Observer<'_>) {
        match &layer.mlp {
            Mlp::Dense(mlp) => self.mlp(team, index, mlp, layer.mlp_norm, observer),
            Mlp::Experts(experts) => self.experts(team, index, experts, layer.mlp_norm, observer),
        }
        self.add_projected(team, index, layer.mlp_norm.after());
    }

    /// `down_proj(silu(gate_proj(x)) * up_proj(x))`
    fn mlp(
        &mut self,
        team: &mut Team,
        index: usize,
        weights: &MlpWeights,
        norm: BlockNorm,
        observer: &mut Observer<'_>,
    ) {
        let (config, n, isa) = (self.network.config(), self.rows.len(), self.options.backend.isa);
        let (hidden_size, mlp_width) = (config.hidden_size, config.intermediate_size);
        let b = &mut self.buffers;
        let hidden = &b.hidden[..n * hidden_size];
        let (gate, up) = (&mut b.gate[..n * mlp_width], &mut b.up[..n * mlp_width]);
        let projected = &mut b.projected[..n * hidden_size];

        let x = block_input(team, isa, config, norm, hidden, &mut b.block_input);
        observer(index, Inputs::Mlp, x);
        self.matmul.run(team, x, [(&weights.gate_proj, gate), (&weights.up_proj, up)]);
        team.for_rows(gate, mlp_width, |t, gate| {
            isa.run(SwiGlu { gate, up: &up[t * mlp_width..][..mlp_width] });
        });
        observer(index, Inputs::MlpOutput, gate);
        self.matmul.run(team, gate, [(&weights.down_proj, projected)]);
    }

    /// The sum of the likeliest experts of x, each times its probability.
    fn experts(
        &mut self,
        team: &mut Team,
        index: usize,
        weights: &ExpertWeights,
        norm: BlockNorm,
        observer: &mut Observer<'_>,
    ) {
        let (config, isa, n) = (self.network.config(), self.options.backend.isa, self.rows.len());
        let b = &mut self.buffers;
        let hidden = &b.hidden[..n * config.hidden_size];
        let x = block_input(team, isa, config, norm, hidden, &mut b.block_input);
        observer(index, Inputs::Mlp, x);
        let experts = config.experts.expect("the number of experts");
        let mut block = ExpertBlock { experts, isa, weights, buffers: &mut b.experts };
        let needed = block.route(team, &mut self.matmul, x);
        // A draft takes experts that the model may not take.
        if !weights.is_draft {
            self.network.expert_pages.take(team, index, needed);
        }
        let projected = &mut b.projected[..n * config.hidden_size];
        block.run(team, &mut self.matmul, x, projected, |rows| observer(index, Inputs::MlpOutput, rows));
    }

    /// `hidden += rms_norm(projected)`, without the norm if the block has none after it. Records non-finite
    /// activations.
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

    /// `norm(hidden)`, what the head is multiplied with, for some rows of the last forward pass, `[rows, hidden_size]`;
    /// at most [`LOGITS_CHUNK`] of them at a time.
    ///
    /// # Panics
    /// For rows beyond those of the last forward pass, or too many of them.
    pub fn head_input(&mut self, team: &mut Team, rows: impl IntoIterator<Item = usize, IntoIter: Clone>) -> &[f32] {
        let (config, isa) = (self.network.config(), self.options.backend.isa);
        let (width, eps, norm) = (config.hidden_size, config.rms_norm_eps as f32, self.network.weights().norm);
        let rows = rows.into_iter();
        let n = rows.clone().count();
        assert!(n <= LOGITS_CHUNK && rows.clone().all(|row| row < self.rows.len()));
        self.n_logits = 0;
        let b = &mut self.buffers;
        let normed = &mut b.normed[..n * width];
        for (normed, row) in normed.chunks_exact_mut(width).zip(rows) {
            normed.copy_from_slice(&b.hidden[row * width..][..width]);
        }
        team.for_rows(normed, width, |_, x| match norm {
            Some(weight) => isa.run(RmsNorm { x, weight, eps, residual: None }),
            None => isa.run(LayerNorm { x, eps }),
        });
        normed
    }

    /// `lm_head(norm(hidden))` for some rows of the last forward pass, `[rows, vocab_size]`; at most [`LOGITS_CHUNK`]
    /// of them at a time.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when a logit is not a finite number; [`Error::NotRun`] on a thread with a non-default
    /// floating-point mode.
    ///
    /// # Panics
    /// For rows beyond those of the last forward pass, or too many of them.
    pub fn logits(
        &mut self,
        team: &mut Team,
        rows: impl IntoIterator<Item = usize, IntoIter: Clone>,
    ) -> Result<&[f32], Error> {
        let network = self.network.clone();
        self.head(team, rows, &network.weights().lm_head)
    }

    /// As [`Batch::logits`], with the draft of the head after [`Batch::forward_draft`].
    ///
    /// # Errors
    /// Those of [`Batch::logits`].
    ///
    /// # Panics
    /// As [`Batch::logits`], and when the model has no drafts.
    pub fn draft_logits(
        &mut self,
        team: &mut Team,
        rows: impl IntoIterator<Item = usize, IntoIter: Clone>,
    ) -> Result<&[f32], Error> {
        let network = self.network.clone();
        self.head(team, rows, &network.draft().expect("drafts").lm_head)
    }

    fn head(
        &mut self,
        team: &mut Team,
        rows: impl IntoIterator<Item = usize, IntoIter: Clone>,
        lm_head: &Matrix,
    ) -> Result<&[f32], Error> {
        fp_mode::check()?;
        let rows = rows.into_iter();
        let n = self.head_input(team, rows.clone()).len() / self.network.config().hidden_size;
        let (config, b) = (self.network.config(), &mut self.buffers);
        let logits = &mut b.logits[..n * config.vocab_size];
        self.matmul.run(team, &b.normed[..n * config.hidden_size], [(lm_head, &mut *logits)]);
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
}

/// What a block reads: the residual stream `hidden`, or its norm, which is written to `normed`.
fn block_input<'b>(
    team: &mut Team,
    isa: Isa,
    config: &ModelConfig,
    norm: BlockNorm,
    hidden: &'b [f32],
    normed: &'b mut [f32],
) -> &'b [f32] {
    let BlockNorm::Before(weight) = norm else { return hidden };
    let (width, eps) = (config.hidden_size, config.rms_norm_eps as f32);
    let normed = &mut normed[..hidden.len()];
    team.for_rows(normed, width, |t, x| {
        x.copy_from_slice(&hidden[t * width..][..width]);
        match weight {
            Some(weight) => isa.run(RmsNorm { x, weight, eps, residual: None }),
            None => isa.run(LayerNorm { x, eps }),
        }
    });
    normed
}

/// Whether there is no infinity and no NaN. Branch-free for each element, so it takes a fraction of the time of writing
/// them.
fn all_finite(numbers: &[f32]) -> bool {
    // The largest magnitude as bits: infinities and NaN come after every finite number.
    let largest = numbers.iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff));
    largest < f32::INFINITY.to_bits()
}
