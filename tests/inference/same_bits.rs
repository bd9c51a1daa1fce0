//! Same input, same bits: threads, chunks, one token at a time, and instruction sets never change a logit.

use crate::PACK;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::tensors::tensors_of;
use olmo_infer::internals::kernels::Isa;
use olmo_infer::internals::kernels::backend::Backend;
use olmo_infer::internals::network::activations::LOGITS_CHUNK;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::network::kv_type::KvType;
use olmo_infer::internals::network::speculate::Speculate;
use olmo_infer::internals::network::{Network, Options};
use olmo_infer::internals::parallel::matmul::Activations;
use olmo_infer::internals::parallel::team::with_team;
use olmo_tests::{
    Random, Stored, TempDir, map_numbers, run, skipped, small_config, small_configs, small_olmo3, write_weights,
};
use std::path::Path;
use std::sync::Arc;

/// Those of every instruction set that has products, and what a program takes by itself.
fn backends() -> impl Iterator<Item = Backend> {
    let own = Isa::available().iter().filter(|isa| isa.has_products()).map(|&isa| Backend::of(isa));
    own.chain([Backend { gemm: false, ..Backend::best() }].into_iter().filter(|best| best.isa.has_products()))
}

fn isa(name: &str) -> Option<Isa> {
    let found = Isa::named(name);
    if found.is_none() {
        skipped(format_args!("this machine has no {name}"));
    }
    found
}

/// What products take and caches keep: with f32 and with bf16 numbers.
#[derive(Clone, Copy, Debug)]
struct Types {
    activations: Activations,
    kv: KvType,
}

/// The bits of all logits, evaluated in chunks of that size.
fn logits(model: &Path, tokens: &[u32], backend: Backend, types: Types, threads: usize, chunk: usize) -> Vec<u32> {
    let file = ModelFile::open(model).expect("a good file");
    let network = Arc::new(Network::new(Arc::new(file)).expect("memory"));
    let Types { activations, kv } = types;
    let options = Options { positions: tokens.len(), chunk, backend, activations, kv, speculate: Speculate::OFF };
    with_team(threads, |team| {
        let mut batch = Batch::of_one(&network, options).expect("it fits");
        let mut bits = Vec::new();
        // A sequence that was given up leaves no trace.
        batch.forward(team, [(0, &[1][..])]).expect("a good token");
        batch.restart(0);
        for chunk in tokens.chunks(chunk) {
            batch.forward(team, [(0, chunk)]).expect("good tokens");
            for first in (0..chunk.len()).step_by(LOGITS_CHUNK) {
                let rows = first..chunk.len().min(first + LOGITS_CHUNK);
                bits.extend(batch.logits(team, rows).expect("finite").iter().map(|logit| logit.to_bits()));
            }
        }
        bits
    })
    .expect("runs")
}

/// Row E15, every instruction set.
#[test]
fn threads_chunks_and_isas_give_the_same_bits() {
    let folder = TempDir::new("bits");
    let mut random = Random(3);
    // Long enough for several blocks of keys and rings of the sliding window that wrap around.
    let tokens: Vec<u32> = (0..210).map(|_| random.below(101) as u32).collect();
    let scalar = Backend::of(isa("scalar").expect("always there"));
    for (name, mut config) in small_configs() {
        config.max_position_embeddings = 512;
        let weights = folder.join(name);
        write_weights(&weights, &config, Stored::F32, 11);
        for spec in tensors_of(&config).iter().filter(|spec| spec.has_choice()) {
            // Sixteen exponents and a few outliers, for raw steps. Rounding to bf16 leaves them.
            map_numbers(&weights, &spec.name(), |i, old| {
                let exponent = if i % 1009 == 100 { 87 } else { 124 - i as u32 % 16 };
                f32::from_bits(old.to_bits() & 0x803f_ffff | exponent << 23)
            });
        }
        let pack = |dtype: &str, encoding: &str| {
            let model = folder.join(format!("{name}-{dtype}-{encoding}.olmo"));
            let arguments = [weights.as_os_str(), model.as_os_str()];
            let flags = ["--dtype", dtype, "--encoding", encoding].map(AsRef::as_ref);
            run(PACK, arguments.iter().chain(&flags)).ok();
            model
        };
        let quantized = |all: &str, head: &str| {
            let model = folder.join(format!("{name}-{all}-{head}.olmo"));
            let arguments = [weights.as_os_str(), model.as_os_str()];
            let (all, head) = (format!("*={all}"), format!("lm_head={head}"));
            let flags = ["--dtype", "int8", "--tensor", &all, "--tensor", &head].map(AsRef::as_ref);
            run(PACK, arguments.iter().chain(&flags)).ok();
            vec![model]
        };
        let all = [Activations::Auto, Activations::F32, Activations::Int16, Activations::Int8];
        let models = [
            (vec![pack("f32", "auto")], &all[..2]),
            (vec![pack("bf16", "plain"), pack("bf16", "auto")], &all[..2]),
            (quantized("int8", "int8-f16"), &all[..]),
            (quantized("int4", "int8-16"), &all[..]),
            (quantized("int4-16", "int4-f16"), &all[..]),
        ];
        for (models, activations) in models {
            if let Some(coded) = models.get(1) {
                let file = ModelFile::open(coded).expect("a good file");
                let tables: Vec<_> = (0..file.specs().len()).filter_map(|index| file.bf12_table(index)).collect();
                let n = tensors_of(&config).iter().filter(|spec| spec.has_choice()).count();
                assert_eq!(tables.len(), n, "all matrices are bf12");
                assert!(tables.iter().all(|table| table.n_raw_steps() > 0), "and have raw steps");
            }
            let mut results = Vec::new();
            let with_f32 = activations.iter().map(|&activations| (activations, KvType::F32));
            for (activations, kv) in with_f32.chain([(Activations::Auto, KvType::Bf16)]) {
                let types = Types { activations, kv };
                let expected = logits(&models[0], &tokens, scalar, types, 1, tokens.len());
                let compare = |backend: Backend, threads, chunk| {
                    for model in &models {
                        let found = logits(model, &tokens, backend, types, threads, chunk);
                        let model = model.display();
                        assert!(found == expected, "{model} {types:?} {backend:?} {threads} threads, chunk {chunk}");
                    }
                };
                for backend in backends() {
                    for (threads, chunk) in [(1, 210), (2, 64), (3, 7), (2, 1), (16, 100)] {
                        compare(backend, threads, chunk);
                    }
                }
                results.push(expected);
            }
            assert!(results.first() != results.last(), "{name}: keys and values are rounded");
        }
    }
}

#[test]
fn head_shapes_and_windows_give_the_same_bits() {
    let folder = TempDir::new("shapes");
    let scalar = Backend::of(isa("scalar").expect("always there"));
    let tokens: Vec<u32> = (0..150).map(|i| i * 7 % 101).collect();
    // (head_dim, heads, key/value heads, hidden_size, window): heads of several panels of values and of a fraction of
    // one, tiles that hold some of the heads of a key/value head, windows around the size of a block of keys.
    for (head_dim, n_heads, n_kv_heads, hidden_size, window) in [
        (84, 30, 1, 40, 0),
        (2, 29, 1, 1, 0),
        (336, 2, 2, 7, 0),
        (1024, 1, 1, 16, 0),
        (6, 4, 2, 12, 1),
        (6, 4, 2, 12, 63),
        (6, 4, 2, 12, 64),
        (6, 4, 2, 12, 65),
    ] {
        let mut config = if window == 0 { small_config() } else { small_olmo3() };
        (config.head_dim, config.n_heads, config.n_kv_heads) = (head_dim, n_heads, n_kv_heads);
        (config.hidden_size, config.sliding_window, config.max_position_embeddings) = (hidden_size, window, 256);
        let name = format!("{head_dim}-{n_heads}-{window}");
        let (weights, model) = (folder.join(&name), folder.join(format!("{name}.olmo")));
        write_weights(&weights, &config, Stored::F32, 4);
        run(PACK, [&weights, &model]).ok();
        for kv in [KvType::F32, KvType::Bf16] {
            let types = Types { activations: Activations::Auto, kv };
            let expected = logits(&model, &tokens, scalar, types, 1, tokens.len());
            for backend in backends() {
                for (threads, chunk) in [(2, 150), (1, 1), (3, 61)] {
                    let found = logits(&model, &tokens, backend, types, threads, chunk);
                    assert!(found == expected, "{name} {kv:?} {backend:?} {threads} threads, chunk {chunk}");
                }
            }
        }
        // Matrices of every shape, plain and bf12.
        let pack = |encoding: &str| {
            let arguments = [weights.as_os_str(), model.as_os_str()];
            let flags = ["--force", "--dtype", "bf16", "--encoding", encoding].map(AsRef::as_ref);
            run(PACK, arguments.iter().chain(&flags)).ok();
        };
        pack("plain");
        let types = Types { activations: Activations::Auto, kv: KvType::F32 };
        let expected = logits(&model, &tokens, scalar, types, 1, tokens.len());
        pack("auto");
        for backend in backends() {
            for (threads, chunk) in [(2, 150), (3, 61)] {
                let found = logits(&model, &tokens, backend, types, threads, chunk);
                assert!(found == expected, "{name} bf12 {backend:?} {threads} threads, chunk {chunk}");
            }
        }
    }
}
