//! Borrowed views of the tensors in a model file, named as in the checkpoint. Nothing is copied.

use crate::error::Error;
use crate::file::model_file::ModelFile;
use crate::format::config::AttentionKind;
use crate::format::matrix::Matrix;
use crate::format::tensors::Role;
use crate::os::memory;
use std::ops::Range;

/// The tensors of one layer: two blocks, each with a norm.
#[derive(Clone)]
pub struct LayerWeights<'a> {
    /// What lets a position see earlier ones.
    pub mixer: Mixer<'a>,
    /// The norm of that block.
    pub mixer_norm: BlockNorm<'a>,
    /// What is computed of each position by itself.
    pub mlp: Mlp<'a>,
    /// The norm of that block.
    pub mlp_norm: BlockNorm<'a>,
}

/// The norm of a block.
#[derive(Clone, Copy, Debug)]
pub enum BlockNorm<'a> {
    /// The block reads the norm of the residual stream, with weights `[hidden_size]`, or the LayerNorm of OLMo-1 without.
    Before(Option<&'a [f32]>),
    /// The norm of what the block computes is added to the residual stream, with weights `[hidden_size]`.
    After(&'a [f32]),
}

impl<'a> BlockNorm<'a> {
    /// The weights of the norm after the block.
    pub fn after(self) -> Option<&'a [f32]> {
        match self {
            BlockNorm::Before(_) => None,
            BlockNorm::After(weights) => Some(weights),
        }
    }

    fn weights(self) -> Option<&'a [f32]> {
        match self {
            BlockNorm::Before(weights) => weights,
            BlockNorm::After(weights) => Some(weights),
        }
    }
}

/// The first block of a layer.
#[derive(Clone, Copy)]
#[expect(clippy::large_enum_variant, reason = "a model has some dozens")]
pub enum Mixer<'a> {
    /// Softmax attention over the keys of a layer, or of its window.
    Attention(AttentionWeights<'a>),
    /// Linear attention: the gated delta rule.
    Linear(LinearWeights<'a>),
}

/// The tensors of softmax attention. OLMo-1 has no norms of queries and keys.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields are the checkpoint's names, with their shapes")]
pub struct AttentionWeights<'a> {
    pub q_proj: Matrix<'a>,        // [n_heads * head_dim, hidden_size]
    pub k_proj: Matrix<'a>,        // [n_kv_heads * head_dim, hidden_size]
    pub v_proj: Matrix<'a>,        // [n_kv_heads * head_dim, hidden_size]
    pub q_norm: Option<&'a [f32]>, // [n_heads * head_dim]
    pub k_norm: Option<&'a [f32]>, // [n_kv_heads * head_dim]
    pub o_proj: Matrix<'a>,        // [hidden_size, n_heads * head_dim]
}

/// The tensors of linear attention.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields are the checkpoint's names, with their shapes")]
pub struct LinearWeights<'a> {
    pub q_proj: Matrix<'a>, // [key_width, hidden_size]
    pub k_proj: Matrix<'a>, // [key_width, hidden_size]
    pub v_proj: Matrix<'a>, // [value_width, hidden_size]
    pub conv1d: &'a [f32],  // [n_channels, conv_kernel], the channels of q, k and v
    pub a_proj: Matrix<'a>, // [n_value_heads, hidden_size]
    pub b_proj: Matrix<'a>, // [n_value_heads, hidden_size]
    pub a_log: &'a [f32],   // [n_value_heads]
    pub dt_bias: &'a [f32], // [n_value_heads]
    pub g_proj: Matrix<'a>, // [value_width, hidden_size]
    pub o_norm: &'a [f32],  // [value_head_dim]
    pub o_proj: Matrix<'a>, // [hidden_size, value_width]
}

/// The second block of a layer.
#[derive(Clone)]
pub enum Mlp<'a> {
    /// One for all tokens.
    Dense(MlpWeights<'a>),
    /// Several, of which each token takes some.
    Experts(ExpertWeights<'a>),
}

/// The tensors of an MLP, or of one expert.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields are the checkpoint's names, with their shapes")]
pub struct MlpWeights<'a> {
    pub gate_proj: Matrix<'a>, // [intermediate_size, hidden_size]
    pub up_proj: Matrix<'a>,   // [intermediate_size, hidden_size]
    pub down_proj: Matrix<'a>, // [hidden_size, intermediate_size]
}

/// The experts of a layer and their router.
#[derive(Clone)]
pub struct ExpertWeights<'a> {
    /// `mlp.gate`, `[n_experts, hidden_size]`, f32 in every file.
    pub router: Matrix<'a>,
    /// Experts that a token takes.
    pub n_per_token: usize,
    /// Whether these are the drafts of the model, as far as it has some.
    pub is_draft: bool,
    /// The experts.
    pub experts: Vec<MlpWeights<'a>>,
}

/// All tensors of a model.
#[derive(Clone)]
#[allow(missing_docs, reason = "the fields are the checkpoint's names, with their shapes")]
pub struct Weights<'a> {
    pub embed_tokens: Matrix<'a>, // [vocab_size, hidden_size]
    pub layers: Vec<LayerWeights<'a>>,
    pub norm: Option<&'a [f32]>, // [hidden_size]
    pub lm_head: Matrix<'a>,     // [vocab_size, hidden_size], the embedding when tied
}

impl<'a> Weights<'a> {
    /// Views of the tensors of `file`, which has checked their presence and their offsets.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(file: &'a ModelFile) -> Result<Weights<'a>, Error> {
        let drafts = file.specs().len()..file.specs().len();
        Weights::of(Tensors { file, next: 0, drafts, is_draft: false })
    }

    /// As [`Weights::new`], with the drafts of the file in place of their matrices, except for the embedding, of which a
    /// token reads a row; `None` when the file has no draft.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn draft(file: &'a ModelFile) -> Result<Option<Weights<'a>>, Error> {
        let drafts = file.model_specs().len()..file.specs().len();
        if drafts.is_empty() {
            Ok(None)
        } else {
            Weights::of(Tensors { file, next: 0, drafts, is_draft: true }).map(Some)
        }
    }

    fn of(mut tensors: Tensors<'a>) -> Result<Weights<'a>, Error> {
        let file = tensors.file;
        let (embed_tokens, of_head) = tensors.with_draft(Role::EmbedTokens);
        let mut layers = memory::room_for(file.config().n_layers(), "the list of layers")?;
        for layer in 0..file.config().n_layers() {
            layers.push(tensors.layer(layer)?);
        }
        let norm = tensors.vector_if(Role::Norm);
        let lm_head = if file.config().tie_word_embeddings { of_head } else { tensors.matrix(Role::LmHead) };
        Ok(Weights { embed_tokens, layers, norm, lm_head })
    }

    /// The matrices that are multiplied.
    pub fn matrices(&self) -> impl Iterator<Item = Matrix<'a>> {
        self.layers.iter().flat_map(LayerWeights::matrices).chain([self.lm_head])
    }

    /// Bytes of weights that passes read: all but the embedding, of which they read some rows.
    pub fn bytes(&self) -> u64 {
        let of_layer = |layer: &LayerWeights| {
            let vectors: u64 = layer.vectors().map(|vector| size_of_val(vector) as u64).sum();
            layer.matrices().map(|matrix| matrix.bytes()).sum::<u64>() + vectors
        };
        let norm = self.norm.map_or(0, |norm| size_of_val(norm) as u64);
        self.layers.iter().map(of_layer).sum::<u64>() + norm + self.lm_head.bytes()
    }

    /// Bytes of weights that decoding one token reads: all but the embedding, of which it reads one row, and but the
    /// experts that it does not take.
    pub fn bytes_per_token(&self) -> u64 {
        let bytes = |weights: &[f32]| size_of_val(weights) as u64;
        let of_layer = |layer: &LayerWeights| {
            let experts = match &layer.mlp {
                Mlp::Dense(_) => 0,
                Mlp::Experts(mlp) => {
                    let all: u64 = mlp.experts.iter().flat_map(MlpWeights::matrices).map(|matrix| matrix.bytes()).sum();
                    all / (mlp.experts.len() as u64).max(1) * mlp.n_per_token as u64
                }
            };
            let matrices: u64 = layer.matrices_of_all_tokens().map(|matrix| matrix.bytes()).sum();
            matrices + experts + layer.vectors().map(bytes).sum::<u64>()
        };
        self.layers.iter().map(of_layer).sum::<u64>() + self.norm.map_or(0, bytes) + self.lm_head.bytes()
    }
}

impl<'a> LayerWeights<'a> {
    /// Its matrices.
    fn matrices(&self) -> impl Iterator<Item = Matrix<'a>> {
        let experts = match &self.mlp {
            Mlp::Dense(_) => &[][..],
            Mlp::Experts(mlp) => &mlp.experts,
        };
        self.matrices_of_all_tokens().chain(experts.iter().flat_map(MlpWeights::matrices))
    }

    /// Its matrices but those of experts.
    fn matrices_of_all_tokens(&self) -> impl Iterator<Item = Matrix<'a>> + use<'a> {
        let mixer = match self.mixer {
            Mixer::Attention(w) => [Some(w.q_proj), Some(w.k_proj), Some(w.v_proj), Some(w.o_proj), None, None, None],
            Mixer::Linear(w) => [w.q_proj, w.k_proj, w.v_proj, w.a_proj, w.b_proj, w.g_proj, w.o_proj].map(Some),
        };
        let mlp = match &self.mlp {
            Mlp::Dense(mlp) => mlp.matrices().map(Some),
            Mlp::Experts(mlp) => [Some(mlp.router), None, None],
        };
        mixer.into_iter().chain(mlp).flatten()
    }

    /// Its vectors.
    fn vectors(&self) -> impl Iterator<Item = &'a [f32]> {
        let mixer = match self.mixer {
            Mixer::Attention(w) => [w.q_norm, w.k_norm, None, None],
            Mixer::Linear(w) => [w.conv1d, w.a_log, w.dt_bias, w.o_norm].map(Some),
        };
        mixer.into_iter().chain([self.mixer_norm.weights(), self.mlp_norm.weights()]).flatten()
    }
}

impl<'a> MlpWeights<'a> {
    /// Its matrices.
    pub fn matrices(&self) -> [Matrix<'a>; 3] {
        [self.gate_proj, self.up_proj, self.down_proj]
    }
}

/// Reads the tensors in the order of the file, which is the order of the fields above. `tensors_of` defines which a model
/// has.
struct Tensors<'a> {
    file: &'a ModelFile,
    next: usize,
    /// The drafts to take, which are in the order of their matrices.
    drafts: Range<usize>,
    is_draft: bool,
}

impl<'a> Tensors<'a> {
    fn take(&mut self, role: Role) -> usize {
        let index = self.next;
        assert_eq!(self.file.specs()[index].role, role, "the order of tensors_of");
        self.next += 1;
        index
    }

    /// The next layer.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    fn layer(&mut self, layer: usize) -> Result<LayerWeights<'a>, Error> {
        let config = self.file.config();
        let input_layernorm = self.vector_if(Role::InputLayernorm);
        let mixer = match config.layer_types[layer] {
            AttentionKind::Full | AttentionKind::Sliding => Mixer::Attention(AttentionWeights {
                q_proj: self.matrix(Role::QProj),
                k_proj: self.matrix(Role::KProj),
                v_proj: self.matrix(Role::VProj),
                q_norm: self.vector_if(Role::QNorm),
                k_norm: self.vector_if(Role::KNorm),
                o_proj: self.matrix(Role::OProj),
            }),
            AttentionKind::Linear => Mixer::Linear(LinearWeights {
                q_proj: self.matrix(Role::LinearQProj),
                k_proj: self.matrix(Role::LinearKProj),
                v_proj: self.matrix(Role::LinearVProj),
                conv1d: self.vector(Role::LinearConv1d),
                a_proj: self.matrix(Role::LinearAProj),
                b_proj: self.matrix(Role::LinearBProj),
                a_log: self.vector(Role::LinearALog),
                dt_bias: self.vector(Role::LinearDtBias),
                g_proj: self.matrix(Role::LinearGProj),
                o_norm: self.vector(Role::LinearONorm),
                o_proj: self.matrix(Role::LinearOProj),
            }),
        };
        let post_attention_layernorm = self.vector_if(Role::PostAttentionLayernorm);
        let mut mlp = match config.experts {
            None => Mlp::Dense(self.mlp([Role::GateProj, Role::UpProj, Role::DownProj])),
            Some(experts) => Mlp::Experts(ExpertWeights {
                router: self.matrix(Role::Router),
                n_per_token: experts.n_per_token,
                is_draft: self.is_draft,
                experts: memory::room_for(experts.n_experts, "the list of experts")?,
            }),
        };
        let post_feedforward_layernorm = self.vector_if(Role::PostFeedforwardLayernorm);
        if let (Mlp::Experts(mlp), Some(experts)) = (&mut mlp, config.experts) {
            mlp.experts.extend((0..experts.n_experts).map(|_| self.mlp(Role::EXPERT)));
        }
        let [mixer_norm, mlp_norm] = match (post_attention_layernorm, post_feedforward_layernorm) {
            // In these models it precedes the MLP.
            (before_mlp, None) => [BlockNorm::Before(input_layernorm), BlockNorm::Before(before_mlp)],
            (after_attention, Some(after_mlp)) => {
                [BlockNorm::After(after_attention.expect("both or none")), BlockNorm::After(after_mlp)]
            }
        };
        Ok(LayerWeights { mixer, mixer_norm, mlp, mlp_norm })
    }

    /// An MLP of matrices of these roles.
    fn mlp(&mut self, [gate, up, down]: [Role; 3]) -> MlpWeights<'a> {
        MlpWeights { gate_proj: self.matrix(gate), up_proj: self.matrix(up), down_proj: self.matrix(down) }
    }

    /// A vector; `None` if the model has none of this role here.
    fn vector_if(&mut self, role: Role) -> Option<&'a [f32]> {
        self.file.specs().get(self.next).filter(|spec| spec.role == role)?;
        Some(self.vector(role))
    }

    /// A vector.
    fn vector(&mut self, role: Role) -> &'a [f32] {
        let bytes = self.file.tensor_bytes(self.take(role));
        bytes.f32s().expect("the layout aligns and sizes tensors")
    }

    /// A matrix, or its draft.
    fn matrix(&mut self, role: Role) -> Matrix<'a> {
        self.with_draft(role).1
    }

    /// A matrix, and its draft, or the matrix itself where there is none.
    fn with_draft(&mut self, role: Role) -> (Matrix<'a>, Matrix<'a>) {
        let index = self.take(role);
        let (specs, next) = (self.file.specs(), self.drafts.clone().next());
        let draft = next.filter(|&draft| Some(specs[draft]) == specs[index].draft());
        self.drafts.start += usize::from(draft.is_some());
        let matrix = |index: usize| self.file.matrix(index).expect("matrices have columns");
        (matrix(index), matrix(draft.unwrap_or(index)))
    }
}
