//! Values that different threads write at the same time.

/// A value on its own cache lines, which avoids false sharing.
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);
