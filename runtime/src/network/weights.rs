//! Borrowed views of the tensors in a model file, named as in the checkpoint. Nothing is copied.

use crate::error::Error;
use crate::file::model_file::ModelFile;
use crate::format::encodings::bf12::CodedPanels;
use crate::format::layout::Role;
use crate::format::panels::PanelShape;
use crate::format::{Dtype, PANEL_ROWS};
use crate::os::memory;

/// A matrix `[rows, columns]` in panels.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// Geometry.
    pub shape: PanelShape,
    /// Its numbers.
    pub panels: Panels<'a>,
    /// Bits of the smallest magnitude that is not zero, as f32; 0 when all are zero.
    pub min_magnitude: u32,
}

/// The numbers of a matrix, padding included.
#[derive(Clone, Copy)]
pub enum Panels<'a> {
    /// `[panel][columns][64]`
    F32(&'a [f32]),
    /// `[panel][columns / 2][64]`, each the bf16 numbers of two columns, the even one in the low half.
    Bf16(&'a [u32]),
    /// The same, coded in 12 bits a number.
    Coded(CodedPanels<'a>),
}

impl Matrix<'_> {
    /// Copies row `row` as f32 into `out`, `[columns]`.
    ///
    /// # Panics
    /// When there is no such row, or `out` has another length.
    pub fn copy_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.shape.rows && out.len() == self.shape.columns);
        match self.panels {
            Panels::F32(panels) => {
                for (column, out) in out.iter_mut().enumerate() {
                    *out = panels[self.shape.element(row, column)];
                }
            }
            Panels::Bf16(panels) => {
                let steps = 0..self.shape.columns.div_ceil(2);
                let pairs = steps.map(|step| panels[self.shape.element(row, 2 * step) / 2]);
                widen_pairs(pairs, out);
            }
            Panels::Coded(panels) => {
                let panel = panels.panel(row / PANEL_ROWS);
                widen_pairs(panel.row(row % PANEL_ROWS), out);
            }
        }
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        match self.panels {
            Panels::Coded(panels) => panels.bytes(),
            _ => (self.shape.n_panels() as u64).saturating_mul(self.shape.panel_bytes() as u64),
        }
    }
}

/// Pairs of bf16 numbers as f32, as many as `out` has room for.
fn widen_pairs(pairs: impl Iterator<Item = u32>, out: &mut [f32]) {
    for (out, pair) in out.chunks_mut(2).zip(pairs) {
        out[0] = f32::from_bits(pair << 16);
        if let Some(odd) = out.get_mut(1) {
            *odd = f32::from_bits(pair & 0xffff_0000);
        }
    }
}

/// The tensors of one layer. OLMo-1 has no norms behind its projections and blocks, and no weights in those before.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields are the checkpoint's names; shapes stand beside them")]
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
#[allow(missing_docs, reason = "the fields are the checkpoint's names; shapes stand beside them")]
pub struct Weights<'a> {
    pub embed_tokens: Matrix<'a>, // [vocab_size, hidden_size]
    pub layers: Vec<LayerWeights<'a>>,
    pub norm: Option<&'a [f32]>, // [hidden_size]
    pub lm_head: Matrix<'a>,     // [vocab_size, hidden_size], the embedding when tied
}

impl<'a> Weights<'a> {
    /// Views of the tensors of `file`, which has checked that they are there and lie where they should.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(file: &'a ModelFile) -> Result<Weights<'a>, Error> {
        let mut tensors = Tensors { file, next: 0 };
        let embed_tokens = tensors.matrix(Role::EmbedTokens);
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
        let lm_head = if file.config().tie_word_embeddings { embed_tokens } else { tensors.matrix(Role::LmHead) };
        Ok(Weights { embed_tokens, layers, norm, lm_head })
    }

    /// Bytes of weights that one token of decode reads: everything but the embedding, of which it reads one row.
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

/// Walks over the tensors in the order of the file, which is the order of the fields above. Which of the norms a model
/// has is for `layout.rs` to say.
struct Tensors<'a> {
    file: &'a ModelFile,
    next: usize,
}

impl<'a> Tensors<'a> {
    fn take(&mut self, role: Role) -> usize {
        let index = self.next;
        assert_eq!(self.file.specs()[index].role, role, "the order of layout::tensors");
        self.next += 1;
        index
    }

    /// The weights of a norm, where it has some.
    fn norm(&mut self, role: Role) -> Option<&'a [f32]> {
        self.file.specs().get(self.next).filter(|spec| spec.role == role)?;
        let bytes = self.file.tensor_bytes(self.take(role));
        Some(bytes.f32s().expect("the layout aligns and sizes tensors"))
    }

    fn matrix(&mut self, role: Role) -> Matrix<'a> {
        let index = self.take(role);
        let (spec, bytes) = (&self.file.specs()[index], self.file.tensor_bytes(index));
        let shape = spec.panel_shape(self.file.matrices()).expect("matrices have columns");
        const ALIGNED: &str = "the layout aligns and sizes tensors";
        let panels = match (shape.dtype, self.file.coded_table(index)) {
            (_, Some(table)) => Panels::Coded(CodedPanels::new(&shape, bytes, table)),
            (Dtype::F32, None) => Panels::F32(bytes.f32s().expect(ALIGNED)),
            (Dtype::Bf16, None) => Panels::Bf16(bytes.u32s().expect(ALIGNED)),
        };
        let min_magnitude = self.file.records()[index].min_magnitude.get();
        Matrix { shape, panels, min_magnitude }
    }
}
