//! The kinds of model files that are measured.

/// One kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name in options and results.
    pub name: &'static str,
    /// Its name for people.
    pub label: &'static str,
    /// The type of the matrices, as `olmo-pack`, `olmo-bench` and the peers name it.
    pub dtype: &'static str,
    /// How `olmo-pack` is asked for it.
    pub pack: &'static [&'static str],
}

/// The types of matrices, in the order of the report.
pub const DTYPES: [&str; 4] = ["f32", "bf16", "int8", "int4"];

/// All kinds, in the order of the report.
pub const KINDS: [Kind; 5] = [
    Kind { name: "f32", label: "f32", dtype: "f32", pack: &["--dtype", "f32"] },
    Kind { name: "bf16-plain", label: "bf16 plain", dtype: "bf16", pack: &["--dtype", "bf16", "--encoding", "plain"] },
    Kind { name: "bf16", label: "bf16 in 12 bits", dtype: "bf16", pack: &["--dtype", "bf16"] },
    Kind { name: "int8", label: "int8", dtype: "int8", pack: &["--dtype", "int8"] },
    Kind { name: "int4", label: "int4", dtype: "int4", pack: &["--dtype", "int4"] },
];

/// The kind of a name in results.
pub fn named(name: &str) -> Option<Kind> {
    KINDS.into_iter().find(|kind| kind.name == name)
}

/// The label of a name in results, or the name itself.
pub fn label(name: &str) -> &str {
    named(name).map_or(name, |kind| kind.label)
}
