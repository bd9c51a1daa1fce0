//! Which tensors a model has and where everything lies in its file: a pure function of the configuration, the stored
//! type of the matrices, their encodings and the lengths of the sections. The converter writes what it says; the reader
//! computes it again and refuses a file that differs, so overlaps, holes and wrong alignments cannot be expressed.

#![deny(clippy::arithmetic_side_effects, reason = "its operands come from files that anybody can have written")]

use crate::format::config::ModelConfig;
use crate::format::encodings::bf12::{Bf12Table, bf12_bytes};
use crate::format::panels::PanelShape;
use crate::format::sizes::{Cursor, product, sum};
pub use crate::format::sizes::{Extent, TooLarge};
use crate::format::{self, Dtype, Encoding, NONE, PANEL_ROWS, TensorLayout};

/// What a tensor is for. The discriminant is its code in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
#[allow(missing_docs, reason = "the variants are the checkpoint's names")]
pub enum Role {
    EmbedTokens = 1,
    QProj = 2,
    KProj = 3,
    VProj = 4,
    QNorm = 5,
    KNorm = 6,
    OProj = 7,
    PostAttentionLayernorm = 8,
    GateProj = 9,
    UpProj = 10,
    DownProj = 11,
    PostFeedforwardLayernorm = 12,
    Norm = 13,
    LmHead = 14,
}

impl Role {
    /// All that a layer can have, in the order of the file, which is the order of use.
    pub const LAYER: [Role; 11] = [
        Role::QProj,
        Role::KProj,
        Role::VProj,
        Role::QNorm,
        Role::KNorm,
        Role::OProj,
        Role::PostAttentionLayernorm,
        Role::GateProj,
        Role::UpProj,
        Role::DownProj,
        Role::PostFeedforwardLayernorm,
    ];

    /// The code in the file.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The name in a checkpoint, without the layer's prefix.
    fn suffix(self) -> &'static str {
        match self {
            Role::EmbedTokens => "model.embed_tokens.weight",
            Role::QProj => "self_attn.q_proj.weight",
            Role::KProj => "self_attn.k_proj.weight",
            Role::VProj => "self_attn.v_proj.weight",
            Role::QNorm => "self_attn.q_norm.weight",
            Role::KNorm => "self_attn.k_norm.weight",
            Role::OProj => "self_attn.o_proj.weight",
            Role::PostAttentionLayernorm => "post_attention_layernorm.weight",
            Role::GateProj => "mlp.gate_proj.weight",
            Role::UpProj => "mlp.up_proj.weight",
            Role::DownProj => "mlp.down_proj.weight",
            Role::PostFeedforwardLayernorm => "post_feedforward_layernorm.weight",
            Role::Norm => "model.norm.weight",
            Role::LmHead => "lm_head.weight",
        }
    }
}

/// One tensor that a model of a given configuration must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// What it is for.
    pub role: Role,
    /// Its layer, when it belongs to one.
    pub layer: Option<usize>,
    /// Rows: outputs of the product; the length of a vector.
    pub rows: usize,
    /// Columns: inputs of the product; `None` for a vector.
    pub columns: Option<usize>,
}

impl TensorSpec {
    /// The parameter's name in a checkpoint, for example `model.layers.3.self_attn.q_proj.weight`.
    pub fn name(&self) -> String {
        match self.layer {
            Some(layer) => format!("model.layers.{layer}.{}", self.role.suffix()),
            None => self.role.suffix().to_string(),
        }
    }

    /// Row-major shape as in the checkpoint.
    pub fn shape(&self) -> Vec<usize> {
        std::iter::once(self.rows).chain(self.columns).collect()
    }

    /// Number of elements, padding not counted.
    ///
    /// # Panics
    /// When they are more than a tensor of a checked configuration can have.
    pub fn n_elements(&self) -> u64 {
        product([self.rows, self.columns.unwrap_or(1)]).expect("a configuration has limits")
    }

    /// `layer` as the file stores it.
    pub fn layer_code(&self) -> u32 {
        self.layer.map_or(NONE, |layer| layer as u32)
    }

    /// Layout in the file: matrices in panels, vectors as they are.
    pub fn layout(&self) -> TensorLayout {
        match self.columns {
            Some(_) => TensorLayout::Panels64,
            None => TensorLayout::Vector,
        }
    }

    /// Type in the file: that of the matrices, or f32 for vectors.
    pub fn dtype(&self, matrices: Dtype) -> Dtype {
        match self.columns {
            Some(_) => matrices,
            None => Dtype::F32,
        }
    }

    /// Geometry of a matrix; `None` for a vector.
    pub fn panel_shape(&self, matrices: Dtype) -> Option<PanelShape> {
        self.columns.map(|columns| PanelShape { rows: self.rows, columns, dtype: matrices })
    }
}

/// Every tensor of the model, in the order of the file: the embedding, the layers, the final norm, the head.
/// Where norms have no weights there are only matrices: all vectors are norms.
pub fn tensors(config: &ModelConfig) -> Vec<TensorSpec> {
    let hidden = config.hidden_size;
    let (q_width, kv_width, mlp_width) = (config.q_width(), config.kv_width(), config.intermediate_size);
    let spec = |role, layer| {
        let (rows, columns) = match role {
            Role::EmbedTokens | Role::LmHead => (config.vocab_size, Some(hidden)),
            Role::QProj => (q_width, Some(hidden)),
            Role::KProj | Role::VProj => (kv_width, Some(hidden)),
            Role::QNorm => (q_width, None),
            Role::KNorm => (kv_width, None),
            Role::OProj => (hidden, Some(q_width)),
            Role::GateProj | Role::UpProj => (mlp_width, Some(hidden)),
            Role::DownProj => (hidden, Some(mlp_width)),
            Role::PostAttentionLayernorm | Role::PostFeedforwardLayernorm | Role::Norm => (hidden, None),
        };
        TensorSpec { role, layer, rows, columns }
    };
    let layers = (0..config.n_layers()).flat_map(|layer| Role::LAYER.map(|role| spec(role, Some(layer))));
    let head = (!config.tie_word_embeddings).then(|| spec(Role::LmHead, None));
    let all = std::iter::once(spec(Role::EmbedTokens, None)).chain(layers).chain([spec(Role::Norm, None)]).chain(head);
    all.filter(|spec| spec.columns.is_some() || config.architecture.has_norm_weights()).collect()
}

/// Where everything lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The index, after the header.
    pub index: Extent,
    /// The sections, in the order given.
    pub sections: Vec<Extent>,
    /// The tensors, in the order of [`tensors`].
    pub tensors: Vec<Extent>,
    /// Where the data begins.
    pub data_offset: u64,
    /// Exact length of the file.
    pub file_bytes: u64,
}

impl Layout {
    /// Length of the tensor data, up to the end of the file.
    pub fn data_bytes(&self) -> u64 {
        // A cursor that only moves forward has been at both.
        self.file_bytes.saturating_sub(self.data_offset)
    }
}

/// Bytes of a tensor in the file, padding inside panels included.
///
/// # Errors
/// [`TooLarge`] when they leave the range of file sizes.
///
/// # Panics
/// When the tensor is coded and no bf16 matrix.
pub fn tensor_bytes(spec: &TensorSpec, matrices: Dtype, encoding: Encoding) -> Result<u64, TooLarge> {
    let dtype = spec.dtype(matrices);
    match (spec.columns, encoding) {
        (None, Encoding::Plain) => product([spec.rows, dtype.bytes()]),
        (Some(columns), Encoding::Plain) => {
            let columns = columns.checked_next_multiple_of(dtype.columns_per_step()).ok_or(TooLarge)?;
            product([spec.rows.div_ceil(PANEL_ROWS), PANEL_ROWS, columns, dtype.bytes()])
        }
        (_, Encoding::Bf12 { n_raw_steps }) => bf12_bytes(&bf12_shape(spec, matrices), n_raw_steps).ok_or(TooLarge),
    }
}

/// Geometry of a coded matrix.
fn bf12_shape(spec: &TensorSpec, matrices: Dtype) -> PanelShape {
    let shape = spec.panel_shape(matrices).filter(|shape| shape.dtype == Dtype::Bf16);
    shape.expect("only bf16 matrices are coded")
}

/// Bytes of the tables of coded tensors, which the section [`format::section::BF12`] holds one after the other: those
/// of each tensor, 0 for plain ones.
///
/// # Errors
/// [`TooLarge`] when they leave the range of file sizes.
///
/// # Panics
/// As [`tensor_bytes`].
pub fn table_bytes(spec: &TensorSpec, matrices: Dtype, encoding: Encoding) -> Result<u64, TooLarge> {
    match encoding {
        Encoding::Plain => Ok(0),
        Encoding::Bf12 { n_raw_steps } => {
            Bf12Table::bytes(&bf12_shape(spec, matrices), n_raw_steps).map(|bytes| bytes as u64).ok_or(TooLarge)
        }
    }
}

/// Places the index, sections of the given lengths and the tensors of `config` in their encodings.
///
/// # Errors
/// [`TooLarge`] when a sum or product leaves the range of file offsets.
///
/// # Panics
/// When there is not one encoding for each tensor, or as [`tensor_bytes`].
pub fn layout(
    config: &ModelConfig,
    matrices: Dtype,
    encodings: &[Encoding],
    section_bytes: &[u64],
) -> Result<Layout, TooLarge> {
    let specs = tensors(config);
    assert_eq!(encodings.len(), specs.len());
    let mut cursor = Cursor::default();
    cursor.take(format::HEADER_BYTES as u64)?;
    let tensor_records = product([specs.len(), format::TENSOR_RECORD_BYTES])?;
    let section_records = product([section_bytes.len(), format::SECTION_RECORD_BYTES])?;
    let index = cursor.take(sum([tensor_records, section_records])?)?;
    let mut sections = Vec::with_capacity(section_bytes.len());
    for &bytes in section_bytes {
        cursor.align(format::SECTION_ALIGNMENT)?;
        sections.push(cursor.take(bytes)?);
    }

    let mut total = Cursor::default();
    for (spec, &encoding) in specs.iter().zip(encodings) {
        total.take(tensor_bytes(spec, matrices, encoding)?)?;
        total.align(format::TENSOR_ALIGNMENT)?;
    }
    let (data_alignment, group_alignment) = if total.position() >= format::LARGE_DATA_BYTES {
        (format::LARGE_DATA_ALIGNMENT, format::LARGE_GROUP_ALIGNMENT)
    } else {
        (format::SMALL_DATA_ALIGNMENT, format::SMALL_GROUP_ALIGNMENT)
    };
    cursor.align(data_alignment)?;
    let data_offset = cursor.position();
    let mut placed = Vec::with_capacity(specs.len());
    let mut group = None;
    for (spec, &encoding) in specs.iter().zip(encodings) {
        // The embedding, each layer, and what follows them are groups.
        cursor.align(if group == Some(spec.layer) { format::TENSOR_ALIGNMENT } else { group_alignment })?;
        group = Some(spec.layer);
        placed.push(cursor.take(tensor_bytes(spec, matrices, encoding)?)?);
    }
    cursor.align(group_alignment)?;
    Ok(Layout { index, sections, tensors: placed, data_offset, file_bytes: cursor.position() })
}
