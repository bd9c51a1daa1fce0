//! Borrowed views of the tensors in a model file, named as in the checkpoint. Nothing is copied.

use crate::error::Error;
use crate::file::model_file::ModelFile;
use crate::format::matrix::Matrix;
use crate::format::tensors::Role;
use crate::os::memory;
use std::ops::Range;

/// The tensors of one layer. OLMo-1 has no norms after its projections and blocks, and no weights in those before them.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields are the checkpoint's names, with their shapes")]
pub struct LayerWeights<'a> {
    pub q_proj: Matrix<'a>,                            // [n_heads * head_dim, hidden_size]
    pub k_proj: Matrix<'a>,                            // [n_kv_heads * head_dim, hidden_size]
    pub v_proj: Matrix<'a>,                            // [n_kv_heads * head_dim, hidden_size]
    pub q_norm: Option<&'a [f32]>,                     // [n_heads * head_dim]
    pub k_norm: Option<&'a [f32]>,                     // [n_kv_heads * head_dim]
    pub o_proj: Matrix<'a>,                            // [hidden_size, n_heads * head_dim]
    pub post_attention_layernorm: Option<&'a [f32]>,   // [hidden_size]
    pub gate_proj: Matrix<'a>,                         // [intermediate_size, hidden_size]
    pub up_proj: Matrix<'a>,                           // [intermediate_size, hidden_size]
    pub down_proj: Matrix<'a>,                         // [hidden_size, intermediate_size]
    pub post_feedforward_layernorm: Option<&'a [f32]>, // [hidden_size]
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
        Weights::of(Tensors { file, next: 0, drafts: file.specs().len()..file.specs().len() })
    }

    /// As [`Weights::new`], with the drafts of the file in place of their matrices, except for the embedding, of which a
    /// token reads a row; `None` when the file has no draft.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn draft(file: &'a ModelFile) -> Result<Option<Weights<'a>>, Error> {
        let drafts = file.model_specs().len()..file.specs().len();
        if drafts.is_empty() { Ok(None) } else { Weights::of(Tensors { file, next: 0, drafts }).map(Some) }
    }

    fn of(mut tensors: Tensors<'a>) -> Result<Weights<'a>, Error> {
        let file = tensors.file;
        let (embed_tokens, of_head) = tensors.with_draft(Role::EmbedTokens);
        let layers = (0..file.config().n_layers()).map(|_| LayerWeights {
            q_proj: tensors.matrix(Role::QProj),
            k_proj: tensors.matrix(Role::KProj),
            v_proj: tensors.matrix(Role::VProj),
            q_norm: tensors.norm(Role::QNorm),
            k_norm: tensors.norm(Role::KNorm),
            o_proj: tensors.matrix(Role::OProj),
            post_attention_layernorm: tensors.norm(Role::PostAttentionLayernorm),
            gate_proj: tensors.matrix(Role::GateProj),
            up_proj: tensors.matrix(Role::UpProj),
            down_proj: tensors.matrix(Role::DownProj),
            post_feedforward_layernorm: tensors.norm(Role::PostFeedforwardLayernorm),
        });
        let layers = memory::collected(layers, "the list of layers")?;
        let norm = tensors.norm(Role::Norm);
        let lm_head = if file.config().tie_word_embeddings { of_head } else { tensors.matrix(Role::LmHead) };
        Ok(Weights { embed_tokens, layers, norm, lm_head })
    }

    /// The matrices that are multiplied.
    pub fn matrices(&self) -> impl Iterator<Item = Matrix<'a>> {
        let of_layer =
            |l: &LayerWeights<'a>| [l.q_proj, l.k_proj, l.v_proj, l.o_proj, l.gate_proj, l.up_proj, l.down_proj];
        self.layers.iter().flat_map(of_layer).chain([self.lm_head])
    }

    /// Bytes of weights that decoding one token reads: all except the embedding, of which it reads one row.
    pub fn bytes_per_token(&self) -> u64 {
        let norm = |weights: Option<&[f32]>| weights.map_or(0, |weights| size_of_val(weights) as u64);
        let layer = |l: &LayerWeights| {
            let matrices = [&l.q_proj, &l.k_proj, &l.v_proj, &l.o_proj, &l.gate_proj, &l.up_proj, &l.down_proj];
            let norms = [l.q_norm, l.k_norm, l.post_attention_layernorm, l.post_feedforward_layernorm];
            matrices.map(|m| m.bytes()).iter().sum::<u64>() + norms.map(norm).iter().sum::<u64>()
        };
        self.layers.iter().map(layer).sum::<u64>() + norm(self.norm) + self.lm_head.bytes()
    }
}

/// Reads the tensors in the order of the file, which is the order of the fields above. `tensors_of` defines which norms
/// a model has.
struct Tensors<'a> {
    file: &'a ModelFile,
    next: usize,
    /// The drafts to take, which are in the order of their matrices.
    drafts: Range<usize>,
}

impl<'a> Tensors<'a> {
    fn take(&mut self, role: Role) -> usize {
        let index = self.next;
        assert_eq!(self.file.specs()[index].role, role, "the order of tensors_of");
        self.next += 1;
        index
    }

    /// The weights of a norm; `None` if the model has no such norm or no weights for it.
    fn norm(&mut self, role: Role) -> Option<&'a [f32]> {
        self.file.specs().get(self.next).filter(|spec| spec.role == role)?;
        let bytes = self.file.tensor_bytes(self.take(role));
        Some(bytes.f32s().expect("the layout aligns and sizes tensors"))
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
