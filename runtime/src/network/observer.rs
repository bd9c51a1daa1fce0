//! What a caller can see of a forward pass.

/// Rows that matrices are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Inputs {
    /// Of `q_proj`, `k_proj` and `v_proj`, `[n, hidden_size]`.
    Attention,
    /// Of `o_proj`, `[n, q_width]`.
    AttentionOutput,
    /// Of `gate_proj` and `up_proj`, `[n, hidden_size]`.
    Mlp,
    /// Of `down_proj`, `[n, intermediate_size]`.
    MlpOutput,
}

/// Gets the number of a layer, and rows of it: row t belongs to the token in row t of the pass.
pub type Observer<'a> = dyn FnMut(usize, Inputs, &[f32]) + 'a;
