//! What a caller can see of a forward pass.

/// Rows that layers and their matrices get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Inputs {
    /// Of the layer: the residual stream before it, `[n, hidden_size]`.
    Layer,
    /// Of `q_proj`, `k_proj` and `v_proj`, `[n, hidden_size]`.
    Attention,
    /// Of `o_proj`, `[n, q_width]`, or `[n, value_width]` of linear attention.
    AttentionOutput,
    /// Of `gate_proj` and `up_proj`, `[n, hidden_size]`.
    Mlp,
    /// Of `down_proj`, `[n, intermediate_size]`; of experts a row for each that a token takes, in parts.
    MlpOutput,
}

/// Gets the number of a layer, and rows of it: row t belongs to the token in row t of the pass, except for what experts
/// get, [`Inputs::MlpOutput`].
pub type Observer<'a> = dyn FnMut(usize, Inputs, &[f32]) + 'a;

/// Hidden states: the residual stream at some adjacent positions of a sequence.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Hidden<'a> {
    /// Where, as transformers numbers `hidden_states`: 0 is the embedding, `i` the stream after `i` layers, and the
    /// number of layers the stream after the last one and the final norm, which the head multiplies.
    pub layer: usize,
    /// Position of the first row.
    pub position: usize,
    /// `[n, hidden_size]`
    pub rows: &'a [f32],
    /// Number of rows.
    pub n_rows: usize,
}
