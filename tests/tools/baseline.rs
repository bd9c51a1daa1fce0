//! `baseline WEIGHTS_FOLDER TOKENS`: what a run costs without the model file. It does what the program did that
//! olmo-infer replaces: it reads every `.npy` file into the heap at every start, an allocation for each tensor, brings
//! the matrices into the order that its products want, and then computes, here with the kernels of olmo-infer. What is
//! left between the two is what the format saves.

use argh::FromArgs;
use npyz::NpyFile;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::matrix::{Matrix, Panels};
use olmo_infer::internals::format::panels::PanelShape;
use olmo_infer::internals::format::tensors::{Role, TensorSpec, tensors_of};
use olmo_infer::internals::format::{Dtype, PANEL_ROWS};
use olmo_infer::internals::generate::{Run, generate};
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::network::weights::{
    AttentionWeights, BlockNorm, LayerWeights, Mixer, Mlp, MlpWeights, Weights,
};
use olmo_infer::internals::network::{Network, Options};
use olmo_infer::internals::parallel::team::{Team, with_team};
use olmo_infer::internals::text::token_file::read_tokens;
use olmo_pack::model::config_json;
use olmo_pack::model::settings::Flags;
use std::fs::{self, File};
use std::io::BufReader;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Errors of the team's threads and of the program.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Columns that are moved at a time, so that a tile of 64 rows stays in the L1 cache.
const TILE_COLUMNS: usize = 16;

/// Read a folder of float32 weights into the heap and evaluate a prompt, as if there were no model file.
#[derive(FromArgs)]
struct Args {
    /// folder of .npy files and config.json
    #[argh(positional)]
    weights: PathBuf,
    /// token file
    #[argh(positional)]
    tokens: PathBuf,
    /// number of positions to evaluate (default 20)
    #[argh(option, default = "20")]
    steps: usize,
    /// number of threads (default and 0: all cores)
    #[argh(option, default = "0")]
    threads: usize,
    /// print one JSON object
    #[argh(switch)]
    json: bool,
}

fn main() -> ExitCode {
    let begun = Instant::now();
    let args: Args = argh::from_env();
    match run(&args, begun) {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("baseline: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args, begun: Instant) -> Result<String, Failure> {
    let settings = config_json::read(&args.weights.join("config.json"), &Flags::default())?;
    let config = settings.config;
    let tokens = read_tokens(&args.tokens, config.vocab_size, config.max_position_embeddings)?;
    let threads = match args.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let specs = tensors_of(&config);
    let mut read = Duration::ZERO;
    let mut heap = Vec::with_capacity(specs.len());
    for spec in &specs {
        let begun = Instant::now();
        heap.push(read_npy(&args.weights, spec)?);
        read += begun.elapsed();
    }
    let loaded = begun.elapsed();
    with_team(threads, |team| {
        let tensors: Vec<Vec<f32>> = specs.iter().zip(heap).map(|(spec, rows)| into_panels(spec, rows, team)).collect();
        let packed = begun.elapsed();
        // They live as long as the program.
        let weights = weights(&config, &specs, tensors.leak());
        let network = Arc::new(Network::from_weights(config.clone(), weights).expect("memory"));
        let mut batch = Batch::new(&network, Options::new(args.steps), 1)?;
        let run = Run { top: 5, visit_prompt: true, ..Run::new(&tokens, args.steps) };
        let timing = generate(&mut batch, team, &[run], |_| {
            Ok::<_, olmo_infer::internals::error::Error>(ControlFlow::Continue(()))
        })?;
        let total = begun.elapsed();
        let seconds = |time: Duration| time.as_secs_f64();
        let token = seconds(timing.decode) / timing.decode_tokens.max(1) as f64;
        Ok(if args.json {
            serde_json::json!({
                "read_s": seconds(read),
                "pack_s": seconds(packed - loaded),
                "prefill_s": seconds(timing.prefill),
                "decode_tokens": timing.decode_tokens,
                "decode_ms_per_token": token * 1e3,
                "total_s": seconds(total),
            })
            .to_string()
        } else {
            format!(
                "load {:.2} s (read {:.2} s, pack {:.2} s), prompt of {} tokens {:.3} s, then {:.1} ms a token; total \
                 {:.2} s for {} positions",
                seconds(packed),
                seconds(read),
                seconds(packed - loaded),
                timing.prefill_tokens,
                seconds(timing.prefill),
                token * 1e3,
                seconds(total),
                timing.prefill_tokens + timing.decode_tokens
            )
        })
    })?
}

/// The numbers of one file, row-major.
fn read_npy(folder: &Path, spec: &TensorSpec) -> Result<Vec<f32>, Failure> {
    let path = folder.join(format!("{}.npy", spec.name()));
    let context = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let file = File::open(&path).map_err(|error| context(&error))?;
    let npy = NpyFile::new(BufReader::with_capacity(1 << 20, file)).map_err(|error| context(&error))?;
    let expected: Vec<u64> = spec.shape().iter().map(|&dimension| dimension as u64).collect();
    if npy.shape() != expected {
        return Err(context(&format_args!("has shape {:?}, expected {expected:?}", npy.shape())).into());
    }
    let bytes = fs::metadata(&path).map_err(|error| context(&error))?.len();
    if bytes < 4 * spec.n_elements() {
        return Err(context(&format_args!("has {bytes} bytes, expected float32 numbers")).into());
    }
    npy.into_vec::<f32>().map_err(|error| context(&error).into())
}

fn shape(spec: &TensorSpec) -> Option<PanelShape> {
    spec.columns.map(|columns| PanelShape { rows: spec.rows, columns, dtype: Dtype::F32 })
}

/// A matrix in panels, a vector as it is; what was read is given back.
fn into_panels(spec: &TensorSpec, rows: Vec<f32>, team: &mut Team) -> Vec<f32> {
    let Some(shape) = shape(spec) else { return rows };
    let columns = shape.columns;
    let mut panels = vec![0.0; shape.n_panels() * shape.panel_elements()];
    team.for_rows(&mut panels, shape.panel_elements(), |index, panel| {
        let first = index * PANEL_ROWS;
        let rows = &rows[first * columns..shape.rows.min(first + PANEL_ROWS) * columns];
        for tile in (0..columns).step_by(TILE_COLUMNS) {
            let tile = tile..columns.min(tile + TILE_COLUMNS);
            let steps = &mut panel[tile.start * PANEL_ROWS..tile.end * PANEL_ROWS];
            for (r, row) in rows.chunks_exact(columns).enumerate() {
                for (step, number) in steps.chunks_exact_mut(PANEL_ROWS).zip(&row[tile.clone()]) {
                    step[r] = *number;
                }
            }
        }
    });
    panels
}

/// Views of the tensors, in the order of [`tensors_of`].
fn weights(config: &ModelConfig, specs: &[TensorSpec], tensors: &'static [Vec<f32>]) -> Weights<'static> {
    let find = |role: Role, layer: Option<usize>| {
        let index = specs.iter().position(|spec| spec.role == role && spec.layer == layer)?;
        Some((&specs[index], tensors[index].as_slice()))
    };
    let vector = |role, layer| find(role, layer).map(|(_, numbers)| numbers);
    let matrix = |role, layer| {
        let (spec, panels) = find(role, layer).expect("tensors_of names every matrix of the model");
        let shape = shape(spec).expect("matrices have columns");
        // The smallest magnitude matters for bf16 only.
        Matrix { shape, panels: Panels::F32(panels), min_magnitude: 0 }
    };
    let layers = (0..config.n_layers()).map(Some).map(|layer| {
        let post_attention_layernorm = vector(Role::PostAttentionLayernorm, layer);
        let norm = |weights: Option<_>| weights.map_or(BlockNorm::Before(None), BlockNorm::After);
        LayerWeights {
            mixer: Mixer::Attention(AttentionWeights {
                q_proj: matrix(Role::QProj, layer),
                k_proj: matrix(Role::KProj, layer),
                v_proj: matrix(Role::VProj, layer),
                q_norm: vector(Role::QNorm, layer),
                k_norm: vector(Role::KNorm, layer),
                o_proj: matrix(Role::OProj, layer),
            }),
            mixer_norm: norm(post_attention_layernorm),
            mlp: Mlp::Dense(MlpWeights {
                gate_proj: matrix(Role::GateProj, layer),
                up_proj: matrix(Role::UpProj, layer),
                down_proj: matrix(Role::DownProj, layer),
            }),
            mlp_norm: norm(vector(Role::PostFeedforwardLayernorm, layer)),
        }
    });
    let head = if config.tie_word_embeddings { Role::EmbedTokens } else { Role::LmHead };
    Weights {
        embed_tokens: matrix(Role::EmbedTokens, None),
        layers: layers.collect(),
        norm: vector(Role::Norm, None),
        lm_head: matrix(head, None),
    }
}
