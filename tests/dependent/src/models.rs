//! Models that are open, their sessions and their batches.

use crate::sizes::{bad_configurations, tiny};
use crate::{Calls, EXTREMES, pairs, shown};
use olmo_infer::Error;
use olmo_infer::Evaluated;
use olmo_infer::Model;
use olmo_infer::Sampling;
use olmo_infer::internals::file::mapping::Load;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::Dtype;
use olmo_infer::internals::format::matrix::{Matrix, Panels};
use olmo_infer::internals::format::panels::PanelShape;
use olmo_infer::internals::generate::batch_size::{batch_size, context_size};
use olmo_infer::internals::generate::{Run, generate};
use olmo_infer::internals::kernels::Isa;
use olmo_infer::internals::kernels::backend::Backend;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::network::weights::{
    AttentionWeights, BlockNorm, ExpertWeights, LayerWeights, LinearWeights, Mixer, Mlp, MlpWeights, Weights,
};
use olmo_infer::internals::network::{Network, Options};
use olmo_infer::internals::parallel::team::with_team;
use olmo_infer::internals::text::chat::{Message, Role};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

pub fn models(calls: &mut Calls, path: &Path) {
    for n_threads in [0, 1, 2, usize::MAX] {
        calls.call(|| Model::open_with(path, Load::Read, n_threads).map(shown));
    }
    let model = Model::open_with(path, Load::Auto, 2).expect("a good file");
    for (positions, chunk) in pairs(&EXTREMES, &EXTREMES) {
        for isa in Isa::available() {
            let backend = Backend::of(*isa);
            let options = Options { chunk, backend, ..Options::new(positions) };
            calls.call(|| {
                let mut session = model.session(options).map_err(|error| error.to_string()).expect("it may fit");
                let result = session.prefill(&[1, 2]);
                (result.is_ok(), session.logits().len(), session.left())
            });
        }
    }
    let mut session = model.session(Options::new(64)).expect("it fits");
    for n in EXTREMES {
        calls.call(|| session.prefill(&[5, 6]));
        calls.call(|| session.truncate(n));
        calls.call(|| session.decode(n as u32));
        calls.call(|| session.prefill(&vec![3; n.min(100)]));
        calls.call(|| session.resume(&vec![7; n.min(60)]));
        let sampling = Sampling { temperature: 1.0, top_k: Some(n), repetition_penalty: 1.1, ..Sampling::GREEDY };
        calls.call(|| session.generate(sampling).take(2).collect::<Result<Vec<u32>, Error>>());
        calls.call(|| model.decode_text(&[n as u32]));
        calls.call(|| model.session_bytes(&Options::new(n)));
        for positions in EXTREMES {
            calls.call(|| {
                let run = Run { top: n, score: true, ..Run::new(&[1, 2, 3], positions) };
                let visit = |_: Evaluated| Ok::<_, Error>(ControlFlow::Continue(()));
                model.generate(&[run, run], Options::new(n), Some(n.min(2)), visit)
            });
        }
        let file = model.file();
        calls.call(|| file.tensor_bytes(n).len());
        calls.call(|| file.bf12_table(n).is_some());
        calls.call(|| file.section_bytes(n as u32).map(|bytes| bytes.len()));
        calls.call(|| file.checked_section(n as u32).map(|_| ()));
        calls.call(|| model.vocabulary().map(|vocabulary| vocabulary.map(|it| it.bytes(n as u32).map(<[u8]>::len))));
    }
    for text in ["", "a", "\0\u{10ffff}", &"ab ".repeat(1000)] {
        calls.call(|| model.encode(text));
        calls.call(|| model.encode_messages(&[Message::new(Role::System, text), Message::new(Role::User, text)]));
        calls.call(|| model.encode_messages(&[Message::new(Role::Assistant, text)]));
    }
}

pub fn batches(calls: &mut Calls, path: &Path) {
    let file = Arc::new(ModelFile::open(path).expect("a good file"));
    let network = Arc::new(Network::new(file.clone()).expect("memory"));
    for (a, b) in pairs(&EXTREMES, &EXTREMES) {
        let options = Options { chunk: b, ..Options::new(a) };
        calls.call(|| batch_size(Some(a), &file, &network, &options, &[b, a]));
        calls.call(|| batch_size(None, &file, &network, &options, &[b]));
        calls.call(|| batch_size(Some(a), &file, &network, &options, &[]));
        calls.call(|| context_size(Some(a), &file, &network, &options));
        calls.call(|| context_size(None, &file, &network, &options));
        calls.call(|| Batch::new(&network, Options::new(2), a).map(|batch| batch.n_slots()));
        calls.call(|| Batch::new(&network, options, 3).map(|batch| batch.options().chunk));
        calls.call(|| Batch::of_one(&network, options).map(|batch| batch.position(0)));
        calls.call(|| {
            let mut batch = Batch::new(&network, Options::new(8), 2).expect("it fits");
            batch.begin(0, 8).expect("it fits");
            let begun = batch.begin(a, b).is_ok();
            with_team(2, |team| {
                let good = batch.forward(team, [(0, &[1, 2][..])]).is_ok();
                let bad = batch.forward(team, [(0, &[1][..]), (a, &[b as u32])]).is_ok();
                (begun, good, bad, batch.logits(team, [0, b]).map(<[f32]>::len))
            })
        });
        calls.call(|| {
            let mut batch = Batch::new(&network, Options::new(8), 2).expect("it fits");
            (batch.truncate(a, b), batch.position(a))
        });
        calls.call(|| {
            let mut batch = Batch::new(&network, Options::new(8), 2).expect("it fits");
            let run = Run { top: b, score: true, visit_prompt: true, ..Run::new(&[1, 2, 3], a) };
            with_team(1, |team| generate(&mut batch, team, &[run], |_| Ok::<_, Error>(ControlFlow::Continue(()))))
        });
    }
    // Tensors that are not those of the configuration.
    let numbers: &'static [f32] = vec![0.5; 4096].leak();
    for config in bad_configurations().into_iter().chain([tiny()]) {
        for shape in [(2, 2), (64, 64), (config.q_width(), config.hidden_size), (usize::MAX, usize::MAX)] {
            let shape = PanelShape { rows: shape.0, columns: shape.1, dtype: Dtype::F32 };
            let matrix = Matrix { shape, panels: Panels::F32(numbers), min_magnitude: 0 };
            let norm = Some(&numbers[..2]);
            let mlp = MlpWeights { gate_proj: matrix, up_proj: matrix, down_proj: matrix };
            let layer = LayerWeights {
                mixer: Mixer::Attention(AttentionWeights {
                    q_proj: matrix,
                    k_proj: matrix,
                    v_proj: matrix,
                    q_norm: norm,
                    k_norm: norm,
                    o_proj: matrix,
                }),
                mixer_norm: BlockNorm::After(&numbers[..2]),
                mlp: Mlp::Dense(mlp),
                mlp_norm: BlockNorm::Before(None),
            };
            let experts = ExpertWeights { router: matrix, n_per_token: 1, is_draft: false, experts: vec![mlp; 2] };
            let linear = LinearWeights {
                q_proj: matrix,
                k_proj: matrix,
                v_proj: matrix,
                conv1d: &numbers[..2],
                a_proj: matrix,
                b_proj: matrix,
                a_log: &numbers[..2],
                dt_bias: &numbers[..2],
                g_proj: matrix,
                o_norm: &numbers[..2],
                o_proj: matrix,
            };
            let other = LayerWeights { mixer: Mixer::Linear(linear), mlp: Mlp::Experts(experts), ..layer.clone() };
            let weights = Weights { embed_tokens: matrix, layers: vec![layer, other], norm, lm_head: matrix };
            calls.call(|| weights.bytes_per_token());
            calls.call(|| {
                let network = Arc::new(Network::from_weights(config.clone(), weights.clone()).expect("memory"));
                let mut batch = Batch::of_one(&network, Options::new(2)).expect("it may fit");
                with_team(1, |team| {
                    batch.forward(team, [(0, &[1][..])]).expect("a good token");
                    batch.logits(team, 0..1).map(<[f32]>::len)
                })
            });
        }
    }
}
