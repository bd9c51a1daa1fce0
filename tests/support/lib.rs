//! Shared code of the tests: temporary folders, running the two programs, small weights folders; [`packed`] models, and
//! the bodies of the [`fuzz`] targets.
//!
//! The paths of the programs come from the tests (`env!("CARGO_BIN_EXE_tested-olmo-pack")`): cargo does not pass them
//! to a library.

pub mod catalogue;
pub mod chats;
pub mod commands;
pub mod crafted;
pub mod damage;
pub mod descriptors;
pub mod disks;
pub mod faults;
pub mod fuzz;
pub mod gguf;
pub mod neighbour;
pub mod no_memory;
pub mod packed;
pub mod power;
pub mod readers;
pub mod recording;
pub mod runs;
pub mod safetensors;
pub mod terminals;
pub mod texts;

use olmo_infer::internals::format::config::{
    Architecture, AttentionKind, Experts, LAYER_NORM_EPS, LinearAttention, ModelConfig, Yarn,
};
use olmo_infer::internals::format::tensors::{Role, TensorSpec, tensors_of};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

/// The repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is a folder of it")
}

/// Set for processes of [`own_process`].
const OWN_PROCESS: &str = "OLMO_OWN_PROCESS";

/// The reference cases of this repository and, if they exist, those in `../shared`: folders with `weights` and
/// `expected.json`.
pub fn reference_cases() -> Vec<PathBuf> {
    let mut cases = Vec::new();
    for folder in [repository().join("tests/golden"), repository().join("../shared/golden")] {
        match fs::read_dir(&folder) {
            Ok(entries) => cases.extend(entries.map(|entry| entry.expect("an entry").path())),
            Err(_) => skipped(format_args!("the reference cases of {}, which is not there", folder.display())),
        }
    }
    cases.retain(|case| case.join("expected.json").exists() && case.join("weights").is_dir());
    cases.sort();
    assert!(cases.len() >= 5);
    cases
}

/// Reports a skipped test and the reason, past the test runner, which hides what passing tests print.
pub fn skipped(why: impl Display) {
    writeln!(io::stderr(), "\nSKIPPED: {why}").expect("standard error takes the line");
}

/// A Python that has these modules, for `script`: `.venv/bin/python`, or the one in `OLMO_PYTHON`. Reports what is
/// missing.
pub fn python(script: &str, modules: &str) -> Option<PathBuf> {
    let named = env::var_os("OLMO_PYTHON").map(PathBuf::from);
    let python = named.unwrap_or_else(|| repository().join(".venv/bin/python"));
    let imported = Command::new(&python).args(["-c", &format!("import {modules}")]).output();
    if imported.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    skipped(format_args!(
        "{script} was not tested: {} has no {modules}; make venv makes a Python that has",
        python.display()
    ));
    None
}

/// A folder that goes when the value does.
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes an empty folder; `name` shows in its path.
    pub fn new(name: &str) -> TempDir {
        TempDir::within(&env::temp_dir(), name)
    }

    /// The same in memory, where there is such a place: many small files are made in it many times faster.
    pub fn in_memory(name: &str) -> TempDir {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { TempDir::within(memory, name) } else { TempDir::new(name) }
    }

    fn within(folder: &Path, name: &str) -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("olmo-{name}-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = folder.join(unique);
        fs::create_dir_all(&path).expect("temporary folder");
        TempDir(path)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A path inside.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Names and bytes of the files in a folder; none where there is no folder.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| (entry.file_name().into_string().expect("UTF-8"), fs::read(entry.path()).expect("a file")))
        .collect()
}

/// How a program ended.
#[derive(Debug)]
pub struct Finished {
    /// Exit status; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output, lossy where it is not UTF-8.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
}

impl Finished {
    /// Asserts status 0 and returns standard output.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        &self.stdout
    }

    /// Asserts the exit status, an empty standard output and exactly one error line, and returns that line.
    #[track_caller]
    pub fn refused(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "", "stderr: {}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "not one line: {}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self.stderr.trim_end()
    }
}

/// Lets this thread and those that it starts run on one processor only: programs and pools then take one thread.
pub fn on_one_processor() {
    let now = rustix::thread::sched_getaffinity(None).expect("the processors of this thread");
    let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|&cpu| now.is_set(cpu)).expect("it runs on one");
    let mut one = rustix::thread::CpuSet::new();
    one.set(first);
    rustix::thread::sched_setaffinity(None, &one).expect("one of those it has");
}

/// Runs `program` with `arguments` and an empty standard input.
pub fn run<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> Finished {
    finish(Command::new(program).args(arguments).stdin(Stdio::null()))
}

/// The arguments of `olmo-infer`: the command first, where `words` begin with one, then `files`, then the other words.
pub fn infer_words<'a>(files: &[&'a OsStr], words: &[&'a str]) -> Vec<&'a OsStr> {
    let is_command = |word: &&str| ["chat", "tokenize", "detokenize", "score"].contains(word);
    let (command, rest) = words.split_at(usize::from(words.first().is_some_and(is_command)));
    let as_os = |word: &&'a str| OsStr::new(*word);
    command.iter().map(as_os).chain(files.iter().copied()).chain(rest.iter().map(as_os)).collect()
}

/// Runs a prepared command to its end.
pub fn finish(command: &mut Command) -> Finished {
    let output = command.output().expect("the program starts");
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Whether a process or a child of it has a file in this folder open, with a name or without.
pub fn has_file_in(folder: &Path, process: u32) -> bool {
    let opened = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    if opened.flat_map(|entry| fs::read_link(entry.path())).any(|to| to.parent() == Some(folder)) {
        return true;
    }
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|child| child.parse().ok()).any(|child| has_file_in(folder, child))
}

/// The running test program with one ignored test of a module (`module_path!()`) only, as a process of its own without
/// core dumps.
pub fn own_process(module: &str, test: &str) -> Command {
    let module = module.split_once("::").map_or("", |(_, module)| module);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -c 0 && exec \"$0\" \"$@\""]).arg(env::current_exe().expect("this program"));
    command
        .args(["--exact", &format!("{module}::{test}"), "--ignored", "--nocapture", "--test-threads", "1"])
        .env(OWN_PROCESS, "1")
        .stdin(Stdio::null());
    command
}

/// Whether this process is one of [`own_process`]: not when a user runs all ignored tests.
pub fn is_own_process() -> bool {
    env::var_os(OWN_PROCESS).is_some()
}

/// A small, fast generator of test data (SplitMix64); the same numbers for the same seed everywhere.
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Uniform in [-1, 1).
    pub fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Element type of the `.npy` files of a weights folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// `<f4`, full precision.
    F32,
    /// `<f4` whose values are all bf16 numbers.
    F32OfBf16,
    /// `<f2`.
    F16,
    /// `<V2` holding bf16.
    Bf16,
}

/// The header of an `.npy` file of version 1.0 as numpy writes it.
pub fn npy_header(descr: &str, shape: &[usize]) -> Vec<u8> {
    let dims: Vec<String> = shape.iter().map(usize::to_string).collect();
    let shape = match dims.len() {
        1 => format!("({},)", dims[0]),
        _ => format!("({})", dims.join(", ")),
    };
    npy_header_raw(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"))
}

/// The preamble for any header text: magic, version 1.0, length, the text padded to 64 bytes.
pub fn npy_header_raw(text: &str) -> Vec<u8> {
    let total = (10 + text.len() + 1).next_multiple_of(64);
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(((total - 10) as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.resize(total - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// Writes an `.npy` file.
pub fn write_npy(path: &Path, descr: &str, shape: &[usize], data: &[u8]) {
    let mut bytes = npy_header(descr, shape);
    bytes.extend(data);
    fs::write(path, bytes).expect("written");
}

/// The file of a parameter in a weights folder.
pub fn npy_path(weights: &Path, tensor: &str) -> PathBuf {
    weights.join(format!("{tensor}.npy"))
}

/// A two-layer grouped-query OLMo-2 whose sizes are not multiples of any block size.
pub fn small_config() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Olmo2,
        hidden_size: 36,
        n_heads: 6,
        n_kv_heads: 2,
        head_dim: 6,
        intermediate_size: 71,
        vocab_size: 101,
        max_position_embeddings: 64,
        rms_norm_eps: 1e-6,
        clip_qkv: None,
        rope_theta: 10000.0,
        rope_theta_sliding: 10000.0,
        yarn: None,
        sliding_window: 0,
        layer_types: vec![AttentionKind::Full; 2],
        experts: None,
        linear: None,
        tie_word_embeddings: false,
        eos_token_ids: vec![1],
        bos_token_id: None,
        pad_token_id: Some(0),
    }
}

/// A two-layer OLMo-1 that clips about every third element of its queries, keys and values.
pub fn small_olmo1() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Olmo1,
        rms_norm_eps: LAYER_NORM_EPS,
        clip_qkv: Some(0.75),
        ..small_config()
    }
}

/// A four-layer Olmo-3 with a window and YaRN.
pub fn small_olmo3() -> ModelConfig {
    use AttentionKind::{Full, Sliding};
    ModelConfig {
        architecture: Architecture::Olmo3,
        yarn: Some(Yarn {
            factor: 8.0,
            original_max_position_embeddings: 8,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 1.2079441541679836,
            truncate: true,
        }),
        sliding_window: 5,
        layer_types: vec![Sliding, Sliding, Sliding, Full],
        ..small_config()
    }
}

/// A two-layer OLMoE with five experts, of which a token takes two, that clips.
pub fn small_olmoe() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Olmoe,
        clip_qkv: Some(1.5),
        intermediate_size: 23,
        experts: Some(Experts { n_experts: 5, n_per_token: 2, norm_topk_prob: false }),
        ..small_config()
    }
}

/// A two-layer FlexOlmo with three experts, of which a token takes two.
pub fn small_flex_olmo() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::FlexOlmo,
        clip_qkv: None,
        experts: Some(Experts { n_experts: 3, n_per_token: 2, norm_topk_prob: true }),
        ..small_olmoe()
    }
}

/// A three-layer Olmo-Hybrid without RoPE, with more value heads than key heads, none as wide as a tile of the state.
pub fn small_hybrid() -> ModelConfig {
    use AttentionKind::{Full, Linear};
    ModelConfig {
        architecture: Architecture::OlmoHybrid,
        rope_theta: 0.0,
        rope_theta_sliding: 0.0,
        layer_types: vec![Linear, Full, Linear],
        linear: Some(LinearAttention {
            n_key_heads: 2,
            n_value_heads: 4,
            key_head_dim: 5,
            value_head_dim: 11,
            conv_kernel: 4,
            allow_neg_eigval: true,
        }),
        ..small_config()
    }
}

/// A small model of each family, with its name.
pub fn small_configs() -> [(&'static str, ModelConfig); 6] {
    [
        ("olmo1", small_olmo1()),
        ("olmo2", small_config()),
        ("olmo3", small_olmo3()),
        ("olmoe", small_olmoe()),
        ("flex", small_flex_olmo()),
        ("hybrid", small_hybrid()),
    ]
}

/// Names and shapes of the tensors of a released checkpoint that have the elements of `spec`, in their order.
pub fn released_as(spec: &TensorSpec, config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    match (spec.role, &config.linear) {
        (Role::LinearConv1d, Some(linear)) => {
            let widths = [("q", linear.key_width()), ("k", linear.key_width()), ("v", linear.value_width())];
            let part = |(part, width): (&str, usize)| {
                (spec.name().replace("conv1d", &format!("{part}_conv1d")), vec![width, 1, linear.conv_kernel])
            };
            widths.map(part).to_vec()
        }
        _ => vec![(spec.name(), spec.shape())],
    }
}

/// The keys of `config.json` for experts and linear attention.
pub fn add_other_layers(config: &ModelConfig, json: &mut serde_json::Value) {
    if let Some(experts) = &config.experts {
        json["num_experts"] = experts.n_experts.into();
        json["num_experts_per_tok"] = experts.n_per_token.into();
        json["norm_topk_prob"] = experts.norm_topk_prob.into();
    }
    if let Some(linear) = &config.linear {
        json["linear_num_key_heads"] = linear.n_key_heads.into();
        json["linear_num_value_heads"] = linear.n_value_heads.into();
        json["linear_key_head_dim"] = linear.key_head_dim.into();
        json["linear_value_head_dim"] = linear.value_head_dim.into();
        json["linear_conv_kernel_dim"] = linear.conv_kernel.into();
        json["linear_allow_neg_eigval"] = linear.allow_neg_eigval.into();
    }
    if !config.has_rope() {
        json["rope_theta"] = serde_json::Value::Null;
    }
}

/// The name of a kind of layer in `config.json`.
pub fn layer_type(kind: &AttentionKind) -> &'static str {
    match kind {
        AttentionKind::Full => "full_attention",
        AttentionKind::Sliding => "sliding_attention",
        AttentionKind::Linear => "linear_attention",
    }
}

/// `config` as `config.json` in the spelling of transformers 4.57.
pub fn config_json(config: &ModelConfig) -> serde_json::Value {
    let mut json = serde_json::json!({
        "model_type": config.architecture.name(),
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.n_layers(),
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": null,
        "tie_word_embeddings": config.tie_word_embeddings,
        "eos_token_id": config.eos_token_ids,
        "bos_token_id": config.bos_token_id,
        "pad_token_id": config.pad_token_id,
        "hidden_act": "silu",
        "attention_bias": false,
    });
    if matches!(config.architecture, Architecture::Olmo1 | Architecture::Olmoe) {
        json["clip_qkv"] = config.clip_qkv.into();
    }
    if config.architecture == Architecture::Olmo1 {
        json.as_object_mut().expect("an object").shift_remove("rms_norm_eps");
    }
    if matches!(config.architecture, Architecture::Olmo3 | Architecture::OlmoHybrid) {
        json["layer_types"] = config.layer_types.iter().map(layer_type).collect();
    }
    if config.architecture == Architecture::Olmo3 {
        json["sliding_window"] = config.sliding_window.into();
    }
    add_other_layers(config, &mut json);
    if let Some(yarn) = &config.yarn {
        json["rope_scaling"] = serde_json::json!({
            "rope_type": "yarn",
            "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original_max_position_embeddings,
            "beta_fast": yarn.beta_fast,
            "beta_slow": yarn.beta_slow,
            "attention_factor": yarn.attention_factor,
        });
    }
    json
}

/// Writes random weights for `config` with its `config.json` into a new folder.
pub fn write_weights(folder: &Path, config: &ModelConfig, stored: Stored, seed: u64) {
    fs::create_dir_all(folder).expect("folder");
    let json = serde_json::to_string_pretty(&config_json(config)).expect("json");
    fs::write(folder.join("config.json"), json).expect("config.json");
    let mut random = Random(seed);
    for spec in tensors_of(config) {
        let (center, scale) = match (spec.columns, spec.role) {
            (Some(columns), _) => (0.0, 1.5 / (columns as f32).sqrt()),
            // A state that remembers some positions.
            (None, Role::LinearALog) => (-2.0, 0.25),
            (None, _) => (1.0, 0.25),
        };
        let descr = match stored {
            Stored::F32 | Stored::F32OfBf16 => "<f4",
            Stored::F16 => "<f2",
            Stored::Bf16 => "<V2",
        };
        for (name, shape) in released_as(&spec, config) {
            let mut data = Vec::new();
            for _ in 0..shape.iter().product() {
                let bits = (center + scale * random.float()).to_bits();
                match stored {
                    Stored::F32 => data.extend(bits.to_le_bytes()),
                    Stored::F32OfBf16 => data.extend((bits & 0xffff_0000).to_le_bytes()),
                    Stored::Bf16 => data.extend(((bits >> 16) as u16).to_le_bytes()),
                    Stored::F16 => data.extend(f16_bits(f32::from_bits(bits)).to_le_bytes()),
                }
            }
            write_npy(&npy_path(folder, &name), descr, &shape, &data);
        }
    }
}

/// The elements of a tensor in a folder that may have it under another name, in several tensors or in one of them, as
/// transformers writes and holds them; `read` reads a file.
pub fn source_of<T: Clone>(weights: &Path, spec: &TensorSpec, read: impl Fn(&Path) -> Vec<T>) -> Vec<T> {
    let name = spec.name();
    let path = npy_path(weights, &name);
    if path.exists() {
        return read(&path);
    }
    if spec.role == Role::LinearConv1d {
        let part = |part: &str| npy_path(weights, &name.replace("conv1d", &format!("{part}_conv1d")));
        return ["q", "k", "v"].iter().flat_map(|of| read(&part(of))).collect();
    }
    if let (Some(layer), Some(expert)) = (spec.layer, spec.expert) {
        let is_down = spec.role == Role::ExpertDownProj;
        let fused = if is_down { "down_proj" } else { "gate_up_proj" };
        let all = read(&npy_path(weights, &format!("model.layers.{layer}.mlp.experts.{fused}")));
        let n = spec.n_elements() as usize;
        let at = match spec.role {
            Role::ExpertDownProj => expert * n,
            Role::ExpertGateProj => 2 * expert * n,
            _ => (2 * expert + 1) * n,
        };
        return all[at..at + n].to_vec();
    }
    let renamed = [("input_layernorm", "attention_layer_norm"), ("post_attention_layernorm", "feedforward_layer_norm")];
    let (own, other) = renamed.iter().find(|(own, _)| name.contains(own)).expect("a tensor with two names");
    read(&npy_path(weights, &name.replace(own, other)))
}

/// Replaces the numbers of an f32 file that [`write_weights`] wrote by `number(index, old)`.
pub fn map_numbers(weights: &Path, tensor: &str, number: impl Fn(usize, f32) -> f32) {
    let path = npy_path(weights, tensor);
    let mut bytes = fs::read(&path).expect("a file");
    for (i, word) in bytes[128..].as_chunks_mut::<4>().0.iter_mut().enumerate() {
        *word = number(i, f32::from_le_bytes(*word)).to_le_bytes();
    }
    fs::write(&path, bytes).expect("written");
}

/// A model for bf12 matrices: odd columns; fewer rows than a panel, and more than one panel.
pub fn bf12_config() -> ModelConfig {
    ModelConfig {
        hidden_size: 17,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 2,
        intermediate_size: 5,
        vocab_size: 70,
        layer_types: vec![AttentionKind::Full],
        ..small_config()
    }
}

/// Writes weights for [`bf12_config`]. As bf16 some matrices have raw steps: the embedding steps 1 of panel 0 and 8 of
/// panel 1, `gate_proj` step 2.
pub fn write_bf12_weights(weights: &Path) {
    write_weights(weights, &bf12_config(), Stored::F32, 3);
    for (tensor, columns, outliers) in [
        ("model.embed_tokens.weight", 17, &[(0, 3), (69, 16)][..]),
        ("model.layers.0.mlp.gate_proj.weight", 17, &[(2, 5)]),
        ("model.layers.0.mlp.up_proj.weight", 17, &[]),
    ] {
        // Sixteen exponents, each several times, and one more.
        map_numbers(weights, tensor, |i, _| match outliers.contains(&(i / columns, i % columns)) {
            true => -1.25 * 2f32.powi(-60),
            false => 1.5 * 2f32.powi(-(i as i32 % 16)) * if i % 3 == 0 { -1.0 } else { 1.0 },
        });
    }
}

/// `value`, which is far from the limits of f16, cut to f16 toward zero.
fn f16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    match (bits >> 23 & 0xff).checked_sub(112) {
        Some(exponent @ 1..=30) => sign | (exponent as u16) << 10 | (bits >> 13) as u16 & 0x3ff,
        _ => sign,
    }
}

/// Shape and numbers of an `.npy` file of little-endian f32 in C order.
pub fn read_f32_npy(path: &Path) -> (Vec<usize>, Vec<f32>) {
    let file = fs::File::open(path).expect("an .npy file");
    let npy = npyz::NpyFile::new(std::io::BufReader::new(file)).expect("an .npy header");
    let shape = npy.shape().iter().map(|&dim| dim as usize).collect();
    (shape, npy.into_vec().expect("f32 numbers"))
}
