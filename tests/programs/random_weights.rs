//! `random-weights FOLDER --shape olmo2-1b`: a weights folder of random numbers in a published shape, for benchmarks
//! and tests that need the size of a real model and not its sense. Files are byte for byte what `numpy.save` writes.
//!
//! The numbers depend on the tensor and the position alone, so any number of threads gives the same files.

use argh::FromArgs;
use olmo_infer::internals::format::Dtype;
use olmo_infer::internals::format::config::{
    Architecture, AttentionKind, Experts, LAYER_NORM_EPS, LinearAttention, ModelConfig, Yarn,
};
use olmo_infer::internals::format::tensors::{Role, TensorSpec, tensors_of};
use olmo_tests::{add_other_layers, layer_type, released_as};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Bytes that a thread makes and writes at a time.
const CHUNK_BYTES: u64 = 4 << 20;
/// Bytes before the numbers of every file.
const HEADER_BYTES: u64 = 128;
/// Share of the weights that `--outliers` spreads out, in units of 2^-32: 0.03 %.
const OUTLIER_SHARE: u64 = (0.0003 * (1u64 << 32) as f64) as u64;
/// Powers of two over which `--outliers` spreads them: magnitudes of 2^-60 to 1.
const OUTLIER_BINADES: u64 = 60;

/// Write a folder of random weights in the shape of a published model.
#[derive(FromArgs)]
struct Args {
    /// the folder to make
    #[argh(positional)]
    folder: PathBuf,
    /// olmo1-1b, olmo2-1b, olmo2-7b, olmo2-13b, olmo2-32b, olmo3-7b, olmo3-32b, olmoe-1b-7b, flex-7x7b, bar-7b,
    /// bar-5x7b, hybrid-7b, tiny, tiny-olmoe or tiny-hybrid
    #[argh(option)]
    shape: String,
    /// another number of layers than the shape has
    #[argh(option)]
    layers: Option<usize>,
    /// f32 (default), or bf16: raw 16-bit files and a config.json with bfloat16
    #[argh(option, default = "String::from(\"f32\")")]
    dtype: String,
    /// let 0.03 % of the weights have magnitudes spread over 60 powers of two
    #[argh(switch)]
    outliers: bool,
    /// make each token predict the next, and let an int4 draft be right about this share of them, 0.8 to 1
    #[argh(option)]
    predictable: Option<f64>,
    /// true headers and lengths, but no numbers: the files take no space
    #[argh(switch)]
    sparse: bool,
    /// write into a folder that has files already
    #[argh(switch)]
    force: bool,
}

fn main() -> ExitCode {
    let args: Args = argh::from_env();
    match run(&args) {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("random-weights: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<String, String> {
    let mut config = shape(&args.shape).ok_or_else(|| format!("--shape {}: no such shape, see --help", args.shape))?;
    if let Some(n_layers) = args.layers {
        config.layer_types = config.layer_types.iter().copied().cycle().take(n_layers).collect();
    }
    let dtype = [Dtype::F32, Dtype::Bf16].into_iter().find(|dtype| dtype.name() == args.dtype);
    let dtype = dtype.ok_or_else(|| format!("--dtype {}: expected f32 or bf16", args.dtype))?;
    let at = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| format!("{path}: {error}")
    };
    fs::create_dir_all(&args.folder).map_err(at(&args.folder))?;
    if !args.force && fs::read_dir(&args.folder).map_err(at(&args.folder))?.next().is_some() {
        return Err(format!("{}: not empty; --force writes into it", args.folder.display()));
    }
    if args.predictable.is_some_and(|right| config.tie_word_embeddings || !(0.8..=1.0).contains(&right)) {
        return Err("--predictable: expected 0.8 to 1, and a shape whose head is not its embedding".into());
    }
    let predictable = args.predictable.map(|right| Predictable::new(&config, right));
    let specs = tensors_of(&config);
    let mut total_bytes = 0;
    for (position, spec) in specs.iter().enumerate() {
        let mut first = 0;
        for (name, shape) in released_as(spec, &config) {
            let path = args.folder.join(format!("{name}.npy"));
            let n = shape.iter().product::<usize>() as u64;
            let position = position as u64;
            let tensor = Tensor { spec, position, first, n, dtype, outliers: args.outliers, predictable };
            total_bytes += tensor.write(&path, &shape, args.sparse).map_err(at(&path))?;
            first += n;
        }
    }
    let path = args.folder.join("config.json");
    fs::write(&path, config_json(&config, dtype)).map_err(at(&path))?;
    let kind = if args.sparse { "sparse" } else { "random" };
    Ok(format!("{}: {} {kind} tensors, {total_bytes} bytes", args.folder.display(), specs.len()))
}

/// The sizes of a published model (the base models of each release), or of one that takes no time.
fn shape(name: &str) -> Option<ModelConfig> {
    let (architecture, hidden_size, n_layers, n_heads, n_kv_heads, intermediate_size) = match name {
        "olmo1-1b" => (Architecture::Olmo1, 2048, 16, 16, 16, 8192),
        "olmo2-1b" => (Architecture::Olmo2, 2048, 16, 16, 16, 8192),
        "olmo2-7b" => (Architecture::Olmo2, 4096, 32, 32, 32, 11008),
        "olmo2-13b" => (Architecture::Olmo2, 5120, 40, 40, 40, 13824),
        "olmo2-32b" => (Architecture::Olmo2, 5120, 64, 40, 8, 27648),
        "olmo3-7b" => (Architecture::Olmo3, 4096, 32, 32, 32, 11008),
        "olmo3-32b" => (Architecture::Olmo3, 5120, 64, 40, 8, 27648),
        "olmoe-1b-7b" => (Architecture::Olmoe, 2048, 16, 16, 16, 1024),
        "flex-7x7b" => (Architecture::FlexOlmo, 4096, 32, 32, 32, 11008),
        "bar-5x7b" => (Architecture::FlexOlmo, 4096, 32, 32, 32, 11008),
        "bar-7b" => (Architecture::Olmo2, 4096, 32, 32, 32, 11008),
        "hybrid-7b" => (Architecture::OlmoHybrid, 3840, 32, 30, 30, 11008),
        "tiny" => (Architecture::Olmo2, 64, 2, 4, 2, 172),
        "tiny-olmoe" => (Architecture::Olmoe, 64, 2, 4, 2, 32),
        "tiny-hybrid" => (Architecture::OlmoHybrid, 64, 4, 4, 2, 172),
        _ => return None,
    };
    let (olmo1, olmo3) = (architecture == Architecture::Olmo1, architecture == Architecture::Olmo3);
    // Values that depend on the release: rows, positions, and the EOS and padding ids of the tokenizer.
    let (vocab_size, max_position_embeddings, eos, pad) = match (name, architecture) {
        ("tiny" | "tiny-olmoe" | "tiny-hybrid", _) => (503, 4096, 1, 0),
        ("bar-7b" | "bar-5x7b", _) => (100278, 4096, 100257, 100277),
        (_, Architecture::Olmo1) => (50304, 2048, 50279, 1),
        (_, Architecture::Olmo2) => (100352, 4096, 100257, 100277),
        (_, Architecture::Olmo3) => (100278, 65536, 100257, 100277),
        (_, Architecture::Olmoe) => (50304, 4096, 50279, 1),
        (_, Architecture::FlexOlmo) => (100352, 4096, 100257, 100277),
        (_, Architecture::OlmoHybrid) => (100352, 65536, 100257, 100277),
    };
    let rope_theta = match architecture {
        Architecture::Olmo1 | Architecture::Olmoe => 10000.0,
        Architecture::OlmoHybrid => 0.0,
        _ => 500000.0,
    };
    let layer_type = |layer: usize| match architecture {
        Architecture::Olmo3 if !(layer + 1).is_multiple_of(4) => AttentionKind::Sliding,
        Architecture::OlmoHybrid if !(layer + 1).is_multiple_of(4) => AttentionKind::Linear,
        _ => AttentionKind::Full,
    };
    let experts = |n_experts, n_per_token| Some(Experts { n_experts, n_per_token, norm_topk_prob: false });
    Some(ModelConfig {
        architecture,
        hidden_size,
        n_heads,
        n_kv_heads,
        head_dim: hidden_size / n_heads,
        intermediate_size,
        vocab_size,
        max_position_embeddings,
        rms_norm_eps: if olmo1 || architecture == Architecture::Olmoe { LAYER_NORM_EPS } else { 1e-6 },
        clip_qkv: None,
        rope_theta,
        rope_theta_sliding: rope_theta,
        yarn: olmo3.then_some(Yarn {
            factor: 8.0,
            original_max_position_embeddings: 8192,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 1.2079441541679836,
            truncate: true,
        }),
        sliding_window: if olmo3 { 4096 } else { 0 },
        layer_types: (0..n_layers).map(layer_type).collect(),
        experts: match name {
            "olmoe-1b-7b" => experts(64, 8),
            "flex-7x7b" => experts(7, 7),
            "bar-5x7b" => experts(5, 5),
            "tiny-olmoe" => experts(8, 2),
            _ => None,
        },
        linear: (architecture == Architecture::OlmoHybrid).then_some(LinearAttention {
            n_key_heads: n_heads,
            n_value_heads: n_heads,
            key_head_dim: 3 * hidden_size / (4 * n_heads),
            value_head_dim: 6 * hidden_size / (4 * n_heads),
            conv_kernel: 4,
            allow_neg_eigval: true,
        }),
        tie_word_embeddings: olmo1,
        eos_token_ids: vec![eos],
        bos_token_id: None,
        pad_token_id: Some(pad),
    })
}

/// `config.json` as transformers 4.57 writes it.
fn config_json(config: &ModelConfig, dtype: Dtype) -> String {
    let class = match config.architecture {
        Architecture::Olmo1 => "OlmoForCausalLM",
        Architecture::Olmo2 => "Olmo2ForCausalLM",
        Architecture::Olmo3 => "Olmo3ForCausalLM",
        Architecture::Olmoe => "OlmoeForCausalLM",
        Architecture::FlexOlmo => "FlexOlmoForCausalLM",
        Architecture::OlmoHybrid => "OlmoHybridForCausalLM",
    };
    let mut json = serde_json::json!({
        "architectures": [class],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "dtype": if dtype == Dtype::Bf16 { "bfloat16" } else { "float32" },
        "eos_token_id": config.eos_token_ids[0],
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "model_type": config.architecture.name(),
        "num_attention_heads": config.n_heads,
        "num_hidden_layers": config.n_layers(),
        "num_key_value_heads": config.n_kv_heads,
        "pad_token_id": config.pad_token_id,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_scaling": null,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_word_embeddings,
        "transformers_version": "4.57.1",
        "use_cache": true,
        "vocab_size": config.vocab_size,
    });
    if config.architecture == Architecture::Olmo1 {
        json["clip_qkv"] = config.clip_qkv.into();
        json.as_object_mut().expect("an object").shift_remove("rms_norm_eps");
    }
    add_other_layers(config, &mut json);
    if config.architecture == Architecture::OlmoHybrid {
        json["layer_types"] = config.layer_types.iter().map(layer_type).collect();
    }
    if let Some(yarn) = &config.yarn {
        json["layer_types"] = config.layer_types.iter().map(layer_type).collect();
        json["sliding_window"] = config.sliding_window.into();
        json["rope_scaling"] = serde_json::json!({
            "attention_factor": yarn.attention_factor,
            "beta_fast": yarn.beta_fast,
            "beta_slow": yarn.beta_slow,
            "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original_max_position_embeddings,
            "rope_type": "yarn",
        });
    }
    format!("{json:#}\n")
}

/// One file to write.
struct Tensor<'a> {
    spec: &'a TensorSpec,
    /// The elements of the tensor that are in the file.
    first: u64,
    n: u64,
    /// Position in the model; seeds the numbers.
    position: u64,
    dtype: Dtype,
    outliers: bool,
    predictable: Option<Predictable>,
}

/// A model in which each token predicts the next one, all in one long circle, so that no text repeats itself: the row of
/// the head of a token is the embedding of the one before it, and what blocks add to the residual stream is small.
///
/// A draft would always be right. So some tokens have a twin, with the same embedding and nearly the same row of the
/// head: which of the two is the most likely one is a matter of digits that int4 does not have.
#[derive(Clone, Copy)]
struct Predictable {
    hidden_size: u64,
    /// Tokens of the circle; their twins follow.
    n_tokens: u64,
    /// Share of the tokens with a twin, in units of 2^-32.
    twins: u64,
}

/// Positions between a token and the next one in the circle.
const STRIDE: u64 = 4973;
/// How often int4 chooses the other twin, measured with `olmo-pack --draft int4`.
const TWIN_ERRORS: f64 = 0.25;
/// How far the rows of twins are apart, for rows of deviation 0.02.
const TWIN_DISTANCE: f32 = 0.001;
/// What blocks add, for embeddings of deviation 0.02.
const ADDED: f32 = 0.0005;

impl Predictable {
    fn new(config: &ModelConfig, right: f64) -> Predictable {
        // Odd: not a multiple of the stride's factors.
        let n_tokens = (config.vocab_size as u64 / 2 - 1) | 1;
        let twins = ((1.0 - right) / TWIN_ERRORS * (1u64 << 32) as f64) as u64;
        Predictable { hidden_size: config.hidden_size as u64, n_tokens, twins }
    }

    /// Element `i` of the embedding or of the head; `None` for what stays random.
    fn value(&self, spec: &TensorSpec, i: u64) -> Option<f32> {
        let (row, column) = (i / self.hidden_size, i % self.hidden_size);
        let (token, is_twin) = (row % self.n_tokens, row >= self.n_tokens);
        let embedding = |token: u64| 0.02 * normal(mix(token * self.hidden_size + column));
        match spec.role {
            Role::PostAttentionLayernorm | Role::PostFeedforwardLayernorm => Some(ADDED),
            Role::EmbedTokens => Some(embedding(token)),
            Role::LmHead => {
                let before = (token + self.n_tokens - STRIDE % self.n_tokens) % self.n_tokens;
                let of_twin = TWIN_DISTANCE * normal(mix(!i));
                match is_twin {
                    false => Some(embedding(before)),
                    true if row >= 2 * self.n_tokens => None,
                    true if mix(!token) & 0xffff_ffff >= self.twins => None,
                    true => Some(embedding(before) + of_twin),
                }
            }
            _ => None,
        }
    }
}

impl Tensor<'_> {
    /// Writes the file on all cores and returns its length.
    fn write(&self, path: &Path, shape: &[usize], sparse: bool) -> io::Result<u64> {
        let data_bytes = self.n * (self.dtype.bits() / 8) as u64;
        let file = File::create(path)?;
        file.write_all_at(&npy_header(shape, self.dtype), 0)?;
        if sparse {
            file.set_len(HEADER_BYTES + data_bytes)?;
            return Ok(HEADER_BYTES + data_bytes);
        }
        let n_chunks = data_bytes.div_ceil(CHUNK_BYTES);
        let n_threads = thread::available_parallelism().map_or(1, |n| n.get() as u64).min(n_chunks);
        let next = AtomicU64::new(0);
        let work = || -> io::Result<()> {
            let mut buffer = vec![0; CHUNK_BYTES.min(data_bytes) as usize];
            loop {
                let offset = next.fetch_add(1, Ordering::Relaxed) * CHUNK_BYTES;
                if offset >= data_bytes {
                    return Ok(());
                }
                let chunk = &mut buffer[..(data_bytes - offset).min(CHUNK_BYTES) as usize];
                self.fill(chunk, self.first + offset / (self.dtype.bits() / 8) as u64);
                file.write_all_at(chunk, HEADER_BYTES + offset)?;
            }
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("the writers do not panic"))
        })?;
        Ok(HEADER_BYTES + data_bytes)
    }

    /// The bytes of the numbers from element `first` on.
    fn fill(&self, bytes: &mut [u8], first: u64) {
        if self.dtype == Dtype::Bf16 {
            for (i, slot) in bytes.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                *slot = to_bf16(self.value(first + i as u64)).to_le_bytes();
            }
        } else {
            for (i, slot) in bytes.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                *slot = self.value(first + i as u64).to_le_bytes();
            }
        }
    }

    /// Element `i`: normal with deviation 0.02 in matrices, and about 1 in norm vectors.
    #[inline]
    fn value(&self, i: u64) -> f32 {
        if let Some(value) = self.predictable.and_then(|predictable| predictable.value(self.spec, i)) {
            return value;
        }
        let bits = mix((self.position << 40).wrapping_add(i));
        if self.spec.columns.is_none() {
            return 1.0 + 0.1 * normal(bits);
        }
        if self.outliers {
            let choice = mix(!bits);
            if choice & 0xffff_ffff < OUTLIER_SHARE {
                let exponent = 127 - 1 - (choice >> 32) % OUTLIER_BINADES;
                let sign_and_mantissa = bits as u32 & 0x807f_ffff;
                return f32::from_bits((exponent as u32) << 23 | sign_and_mantissa);
            }
        }
        0.02 * normal(bits)
    }
}

/// A bijection of 64 bits without visible pattern: the output function of splitmix64 (Steele, Lea, Flood 2014).
#[inline]
fn mix(counter: u64) -> u64 {
    let z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Roughly normal, deviation 1: the sum of four uniform numbers of 16 bits. Never zero.
#[inline]
fn normal(bits: u64) -> f32 {
    let sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
    // Mean 4 * 32767.5; deviation 65536 * sqrt(4 / 12).
    ((sum as i32 - 131070) as f32 + 0.5) * (1.0 / 37837.227)
}

/// The nearest bf16 number, ties to even. For finite numbers.
#[inline]
fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// The header that `numpy.save` writes for a C-ordered array: version 1.0, padded to a multiple of 64 bytes with room
/// for a longer first dimension.
fn npy_header(shape: &[usize], dtype: Dtype) -> Vec<u8> {
    let descr = if dtype == Dtype::Bf16 { "<u2" } else { "<f4" };
    let shape = match shape {
        [rows] => format!("({rows},)"),
        _ => format!("({})", shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
    };
    let dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let text_bytes = HEADER_BYTES as usize - 10;
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((text_bytes as u16).to_le_bytes());
    header.extend(format!("{dict:<width$}\n", width = text_bytes - 1).bytes());
    assert_eq!(header.len(), HEADER_BYTES as usize, "headers of published shapes fill 128 bytes");
    header
}
