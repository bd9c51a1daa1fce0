//! Sizes, layouts, configurations, tokens, and everything that reads bytes.

use crate::{Calls, EXTREMES, pairs, shown};
use olmo_infer::Sampling;
use olmo_infer::internals::error::shown::quoted;
use olmo_infer::internals::file::index::Index;
use olmo_infer::internals::file::mapping::Load;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::file::sampling::AuthorSampling;
use olmo_infer::internals::format::config::{Architecture, AttentionKind, ModelConfig, Yarn};
use olmo_infer::internals::format::layout::{self, Layout};
use olmo_infer::internals::format::panels::PanelShape;
use olmo_infer::internals::format::sizes::{Cursor, Extent, in_memory, product, sum};
use olmo_infer::internals::format::tensors::{Role, TensorSpec, tensors_of};
use olmo_infer::internals::format::{self, Dtype, Encoding, section};
use olmo_infer::internals::generate::sampler::Sampler;
use olmo_infer::internals::generate::top_k::{top_k, top_k_into};
use olmo_infer::internals::network::Options;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::os::memory;
use olmo_infer::internals::text::chat::{Chat, Past, Rule};
use olmo_infer::internals::text::stream::TextStream;
use olmo_infer::internals::text::token_file::{self, TokenType};
use olmo_infer::internals::text::tokenizer::Tokenizer;
use olmo_infer::internals::text::vocabulary::Vocabulary;
use std::path::Path;

pub fn layouts(calls: &mut Calls, _: &Path) {
    for (rows, columns) in pairs(&EXTREMES, &EXTREMES) {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let shape = PanelShape { rows, columns, dtype };
            calls.call(|| shape.n_panels());
            calls.call(|| shape.padded_columns());
            calls.call(|| shape.panel_elements());
            calls.call(|| shape.panel_bytes());
            calls.call(|| shape.element(columns, rows));
            for columns in [None, Some(columns)] {
                let spec = TensorSpec {
                    role: Role::QProj,
                    layer: Some(rows),
                    expert: None,
                    rows,
                    columns,
                    is_draft: columns == Some(rows),
                };
                calls.call(|| spec.n_elements());
                calls.call(|| (spec.layer_code(), spec.name(), spec.shape(), spec.panel_shape(dtype)));
                for encoding in [Encoding::plain(dtype).expect("f32 or bf16"), Encoding::Bf12 { n_raw_steps: u32::MAX }]
                {
                    calls.call(|| layout::tensor_bytes(&spec, encoding));
                    calls.call(|| layout::table_bytes(&spec, encoding));
                }
            }
        }
    }
}

/// A model in which every number is a small possible one.
pub fn tiny() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Olmo3,
        hidden_size: 2,
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 2,
        intermediate_size: 2,
        vocab_size: 2,
        max_position_embeddings: 2,
        rms_norm_eps: 1e-6,
        clip_qkv: None,
        rope_theta: 10000.0,
        rope_theta_sliding: 10000.0,
        yarn: None,
        sliding_window: 2,
        layer_types: vec![AttentionKind::Full, AttentionKind::Sliding],
        experts: None,
        linear: None,
        tie_word_embeddings: true,
        eos_token_ids: Vec::new(),
        bos_token_id: None,
        pad_token_id: None,
    }
}

/// Configurations with one or two numbers of the worst.
pub fn bad_configurations() -> Vec<ModelConfig> {
    type Set = fn(&mut ModelConfig, usize);
    let sets: [Set; 9] = [
        |config, n| config.hidden_size = n,
        |config, n| config.n_heads = n,
        |config, n| config.n_kv_heads = n,
        |config, n| config.head_dim = n,
        |config, n| config.intermediate_size = n,
        |config, n| config.vocab_size = n,
        |config, n| config.max_position_embeddings = n,
        |config, n| config.sliding_window = n,
        |config, n| {
            config.yarn = Some(Yarn {
                factor: n as f64,
                original_max_position_embeddings: n,
                beta_fast: f64::NAN,
                beta_slow: n as f64,
                attention_factor: f64::INFINITY,
                truncate: true,
            });
        },
    ];
    let one_or_two = pairs(&sets, &sets).flat_map(|(a, b)| EXTREMES.map(|n| (a, b, n)));
    let with = |(a, b, n): (Set, Set, usize)| {
        let mut config = tiny();
        a(&mut config, n);
        b(&mut config, n);
        config
    };
    one_or_two.map(with).collect()
}

pub fn configurations(calls: &mut Calls, _: &Path) {
    for config in bad_configurations() {
        calls.call(|| config.validate().map_err(|error| error.to_string()));
        calls.call(|| (config.q_width(), config.kv_width(), config.n_layers()));
        calls.call(|| config.heads_per_kv());
        calls.call(|| config.n_parameters());
        let specs = tensors_of(&config);
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let encodings = layout::uniform(&specs, Encoding::plain(dtype).expect("f32 or bf16"));
            calls.call(|| layout::layout(&specs, &encodings, &[u64::MAX]));
            calls.call(|| layout::layout(&specs, &encodings, &[1]).map(|layout| layout.data_bytes()));
            calls.call(|| layout::layout(&specs, &[], &[]));
        }
        for positions in [1, usize::MAX / 3 + 1, usize::MAX] {
            for chunk in [0, 1, usize::MAX] {
                let options = Options { chunk, ..Options::new(positions) };
                calls.call(|| Batch::bytes(&config, &options, &[positions]));
                calls.call(|| Batch::bytes(&config, &options, &[positions, positions, 1]));
                calls.call(|| Batch::bytes(&config, &options, &[]));
            }
        }
    }
}

pub fn sizes(calls: &mut Calls, _: &Path) {
    for (a, b) in pairs(&EXTREMES, &EXTREMES) {
        calls.call(|| (product([a, b]), sum([a, b]), in_memory(a as u64)));
        let extent = Extent { offset: a as u64, bytes: b as u64 };
        calls.call(|| extent.end());
        calls.call(|| {
            let mut cursor = Cursor::default();
            let taken = (cursor.take(a as u64), cursor.align(b as u64), cursor.take(b as u64));
            (taken, cursor.position())
        });
        let layout = Layout {
            index: extent,
            sections: Vec::new(),
            tensors: Vec::new(),
            data_offset: a as u64,
            file_bytes: b as u64,
        };
        calls.call(|| layout.data_bytes());
        calls.call(|| Past::of(a, b));
        calls.call(|| memory::check_weights(a as u64, Some(b as u64)).map_err(|error| error.to_string()));
    }
    for n in 0..=u16::MAX {
        calls.call(|| Rule::with_code(n).map(|rule| rule.apply(" a\n", "</think>").len()));
        calls.call(|| (section::max_bytes(n.into()), section::name(n.into()), Dtype::from_code(n.into())));
    }
    calls.call(|| format::digest(&[], u64::MAX));
}

pub fn tokens(calls: &mut Calls, model: &Path) {
    let types = [None, TokenType::named("u16"), TokenType::named("i64"), TokenType::named("u64")];
    for (vocab_size, most) in pairs(&EXTREMES, &EXTREMES) {
        for bytes in [&[][..], &[1], &[0; 8], &[0xff; 16], &[1, 0, 0, 0]] {
            calls.call(|| token_file::parse("t".as_ref(), bytes, vocab_size, most).map_err(|error| error.to_string()));
        }
        for token_type in types {
            calls.call(|| token_file::read_tokens_as("/dev/null".as_ref(), token_type, vocab_size, most));
        }
    }
    for vocab_size in EXTREMES {
        calls.call(|| token_file::read_text_ids(model, None, vocab_size));
        calls.call(|| token_file::read_tokens(model, vocab_size, vocab_size));
    }
    for logits in [&[][..], &[0.0], &[f32::NAN; 3], &[1.0; 1000]] {
        for k in EXTREMES {
            calls.call(|| top_k(logits, k));
            calls.call(|| top_k_into(logits, k, &mut vec![(7, 7.0); 3]));
        }
    }
}

pub fn sampling(calls: &mut Calls, _: &Path) {
    let reals = [0.0, 1.0, -1.0, 1e300, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE];
    for (vocab_size, real) in pairs(&EXTREMES, &reals) {
        for k in [None, Some(0), Some(1), Some(usize::MAX)] {
            let sampling = Sampling {
                temperature: real,
                top_k: k,
                top_p: real,
                min_p: real,
                repetition_penalty: real,
                seed: vocab_size as u64,
            };
            calls.call(|| sampling.check().map_err(|error| error.to_string()));
            calls.call(|| AuthorSampling::of(sampling).map(|author| author.block().top_k.get()));
            for logits in [&[][..], &[1.0, 2.0, 3.0], &[f32::NAN; 2], &[f32::MAX, f32::MIN]] {
                calls.call(|| {
                    let Ok(mut sampler) = Sampler::new(sampling, vocab_size) else { return None };
                    [0, 1, u32::MAX].into_iter().for_each(|token| sampler.observe(token));
                    Some((sampler.choose(logits, vocab_size), sampler.guess(logits, vocab_size, &[1]).token))
                });
            }
        }
    }
}

pub fn bytes(calls: &mut Calls, model: &Path) {
    let model = std::fs::read(model).expect("a model");
    // The file itself, and every part of it that could be taken for a section.
    for (length, begin) in pairs(&[0, 1, 16, 64, 100, 4096, usize::MAX], &[0, 8, 4096, 4097, 5888]) {
        let bytes = &model[begin..(begin + length.min(1 << 20)).min(model.len())];
        calls.call(|| ModelFile::from_bytes("m".as_ref(), bytes).map(|_| ()).map_err(|error| error.to_string()));
        for claimed in EXTREMES {
            calls.call(|| Index::read("m".as_ref(), bytes, claimed as u64).map(|_| ()));
        }
        calls.call(|| Chat::in_section(bytes).is_ok());
        calls.call(|| AuthorSampling::in_section(bytes).is_some());
        calls.call(|| shown(quoted(bytes)));
        calls.call(|| Vocabulary::in_section(bytes).map(|vocabulary| vocabulary.bytes(u32::MAX).map(<[u8]>::len)));
        calls.call(|| {
            let vocabulary = Vocabulary::in_section(bytes).expect("it may be one");
            Tokenizer::in_section(bytes, &vocabulary).is_ok()
        });
        calls.call(|| {
            let (mut stream, mut out) = (TextStream::new(&["\u{fffd}".into(), String::new()]), Vec::new());
            let ended = stream.push(bytes, &mut out);
            stream.finish(&mut out);
            (ended, out)
        });
    }
    for name in ["", "mmap", "\0"] {
        calls.call(|| Load::named(name));
    }
}
