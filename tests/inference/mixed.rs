//! A model of several encodings computes each matrix as a model that is wholly in its encoding does.

use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::encodings::quantized::{Elements, Quantization, Scales};
use olmo_infer::internals::kernels::Isa;
use olmo_infer::internals::kernels::backend::Backend;
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::network::weights::{AttentionWeights, LayerWeights, Mixer, Mlp, MlpWeights, Weights};
use olmo_infer::internals::network::{Network, Options};
use olmo_infer::internals::os::disk::SystemDisk;
use olmo_infer::internals::parallel::matmul::{Activations, Matmul};
use olmo_infer::internals::parallel::team::with_team;
use olmo_pack::commands::pack::{self, DtypeChoice, EncodingChoice, Request};
use olmo_pack::encode::levels::LEVELS;
use olmo_pack::write::wanted::Wanted;
use olmo_tests::{Random, Stored, TempDir, small_config, write_weights};
use std::path::Path;
use std::sync::Arc;

/// The encodings of a whole model.
const WHOLE: [(DtypeChoice, EncodingChoice); 5] = [
    (DtypeChoice::F32, EncodingChoice::Plain),
    (DtypeChoice::Bf16, EncodingChoice::Plain),
    (DtypeChoice::Bf12, EncodingChoice::Auto),
    (DtypeChoice::Int8, EncodingChoice::Auto),
    // Its embedding and its head are int8.
    (DtypeChoice::Int4, EncodingChoice::Auto),
];

/// The encoding that models of these types use.
fn quantized(elements: Elements) -> Wanted {
    Wanted::Quantized(Quantization { elements, scales: Scales::Row32 })
}

type Choices = Vec<(String, Wanted)>;

fn packed(
    folder: &TempDir,
    name: &str,
    (dtype, encoding): (DtypeChoice, EncodingChoice),
    tensors: Choices,
    drafts: Choices,
) -> ModelFile {
    let model = folder.join(name);
    let weights = folder.join("w");
    let request = Request { weights, model: model.clone(), dtype, encoding, tensors, drafts, ..Request::default() };
    let packed = pack::prepare(&request).and_then(|prepared| prepared.write(&SystemDisk, &|_, _| ()));
    packed.unwrap_or_else(|error| panic!("{name}: {error}"));
    ModelFile::open(&model).expect("a good file")
}

/// Weights of one layer, with elements that bf16 does not hold, in bf12 without raw steps.
fn write(weights: &Path) {
    write_weights(weights, &small_config(), Stored::F32, 11);
    for spec in olmo_infer::internals::format::tensors::tensors_of(&small_config()) {
        if spec.columns.is_some() {
            olmo_tests::map_numbers(weights, &spec.name(), |i, old| {
                f32::from_bits(old.to_bits() & 0x803f_ffff | (124 - i as u32 % 16) << 23)
            });
        }
    }
}

/// The bits of the last logits of a few tokens, evaluated in chunks.
fn logits(network: &Arc<Network>, backend: Backend, activations: Activations, chunk: usize) -> Vec<u32> {
    let mut random = Random(3);
    let tokens: Vec<u32> = (0..40).map(|_| random.below(101) as u32).collect();
    let options = Options { chunk, backend, activations, ..Options::new(tokens.len()) };
    with_team(2, |team| {
        let mut batch = Batch::of_one(network, options).expect("it fits");
        let mut bits = Vec::new();
        for chunk in tokens.chunks(chunk) {
            batch.forward(team, [(0, chunk)]).expect("good tokens");
            let last = chunk.len() - 1..chunk.len();
            bits.extend(batch.logits(team, last).expect("finite").iter().map(|logit| logit.to_bits()));
        }
        bits
    })
    .expect("runs")
}

fn backends() -> Vec<Backend> {
    let own = Isa::available().iter().filter(|isa| isa.has_products()).map(|&isa| Backend::of(isa));
    own.chain([Backend { gemm: true, ..Backend::best() }]).collect()
}

#[test]
fn mixed_model_equals_the_composition_of_whole_ones() {
    let folder = TempDir::new("mixed-logits");
    write(&folder.join("w"));
    // Networks of weights from several files borrow them for `'static`.
    let whole: Vec<&'static ModelFile> = WHOLE
        .iter()
        .enumerate()
        .map(|(i, &choice)| &*Box::leak(Box::new(packed(&folder, &format!("{i}.olmo"), choice, vec![], vec![]))))
        .collect();
    let layers = small_config().n_layers();
    let in_layer = |layer: usize, name: &str| format!("model.layers.{layer}.{name}.weight");
    // An f32 head over bf12 layers, a bf16 head over f32 ones, and all of them in each layer: q, k and v, and gate and
    // up are multiplied in one pass each.
    let head = |wanted| vec![("lm_head.weight".to_string(), wanted)];
    let everywhere: Choices = (0..layers)
        .flat_map(|layer| {
            [
                ("self_attn.q_proj", Wanted::Bf16),
                ("self_attn.k_proj", Wanted::F32),
                ("mlp.up_proj", Wanted::F32),
                ("mlp.down_proj", Wanted::Bf16),
            ]
            .map(|(name, wanted)| (in_layer(layer, name), wanted))
        })
        .collect();
    let integers: Choices = (0..layers)
        .flat_map(|layer| {
            [
                ("self_attn.q_proj", quantized(Elements::Int4(LEVELS))),
                ("self_attn.k_proj", quantized(Elements::Int8)),
                ("mlp.up_proj", quantized(Elements::Int8)),
                ("mlp.down_proj", quantized(Elements::Int4(LEVELS))),
            ]
            .map(|(name, wanted)| (in_layer(layer, name), wanted))
        })
        .collect();
    let embedding = vec![("model.embed_tokens.weight".to_string(), Wanted::F32)];
    let drafts = vec![("lm_head.weight".to_string(), Wanted::Bf16), (in_layer(0, "mlp.up_proj"), Wanted::F32)];
    let cases = [
        (2, head(Wanted::F32), vec![]),
        (0, head(Wanted::Bf16), vec![]),
        (2, everywhere.clone(), vec![]),
        (2, integers, vec![]),
        (4, everywhere, vec![]),
        (1, embedding, vec![]),
        (2, vec![], drafts),
    ];
    for (number, (base, tensors, drafts)) in cases.into_iter().enumerate() {
        let mixed = packed(&folder, &format!("mixed-{number}.olmo"), WHOLE[base], tensors.clone(), drafts);
        let views: Vec<Weights> = whole.iter().map(|file| Weights::new(file).expect("memory")).collect();
        let of = |name: &str| {
            let wanted = tensors.iter().find(|(of, _)| of == name).map(|(_, wanted)| *wanted);
            let index = wanted.map_or(base, |wanted| match wanted {
                Wanted::F32 => 0,
                Wanted::Bf16 => 1,
                Wanted::Bf12 => 2,
                Wanted::Quantized(Quantization { elements: Elements::Int8, .. }) => 3,
                Wanted::Quantized(Quantization { elements: Elements::Int4(_), .. }) => 4,
            });
            &views[index]
        };
        let composed = Weights {
            embed_tokens: of("model.embed_tokens.weight").embed_tokens,
            layers: (0..layers)
                .map(|layer| {
                    let of = |name: &str| of(&in_layer(layer, name)).layers[layer].clone();
                    let attention = |name: &str| match of(name).mixer {
                        Mixer::Attention(attention) => attention,
                        Mixer::Linear(_) => unreachable!("an OLMo-2"),
                    };
                    let mlp = |name: &str| match of(name).mlp {
                        Mlp::Dense(mlp) => mlp,
                        Mlp::Experts(_) => unreachable!("an OLMo-2"),
                    };
                    LayerWeights {
                        mixer: Mixer::Attention(AttentionWeights {
                            k_proj: attention("self_attn.k_proj").k_proj,
                            v_proj: attention("self_attn.v_proj").v_proj,
                            o_proj: attention("self_attn.o_proj").o_proj,
                            ..attention("self_attn.q_proj")
                        }),
                        mlp: Mlp::Dense(MlpWeights {
                            gate_proj: mlp("mlp.gate_proj").gate_proj,
                            up_proj: mlp("mlp.up_proj").up_proj,
                            down_proj: mlp("mlp.down_proj").down_proj,
                        }),
                        ..views[base].layers[layer].clone()
                    }
                })
                .collect(),
            norm: views[base].norm,
            lm_head: of("lm_head.weight").lm_head,
        };
        let composed = Arc::new(Network::from_weights(mixed.config().clone(), composed).expect("memory"));
        let network = Arc::new(Network::new(Arc::new(mixed)).expect("memory"));
        for backend in backends() {
            for activations in [Activations::Auto, Activations::Int8, Activations::F32] {
                let expected = logits(&composed, backend, activations, 40);
                for chunk in [40, 1, 7] {
                    let found = logits(&network, backend, activations, chunk);
                    let last = found.len() - expected.len();
                    assert!(found[last..] == expected, "case {number} {backend:?} {activations:?} chunk {chunk}");
                }
            }
        }
    }
}

#[test]
fn matrices_in_one_pass_are_computed_each_as_alone() {
    let folder = TempDir::new("mixed-matmul");
    write(&folder.join("w"));
    let whole: Vec<ModelFile> = WHOLE
        .iter()
        .enumerate()
        .map(|(i, &choice)| packed(&folder, &format!("{i}.olmo"), choice, vec![], vec![]))
        .collect();
    let views: Vec<Weights> = whole.iter().map(|file| Weights::new(file).expect("memory")).collect();
    let columns = small_config().hidden_size;
    let mut random = Random(7);
    let x: Vec<f32> = (0..3 * columns).map(|_| random.float() - 0.5).collect();
    for backend in backends() {
        for activations in [Activations::Auto, Activations::F32] {
            for [a, b, c] in [[0, 1, 2], [2, 0, 1], [1, 2, 0], [0, 0, 1], [3, 4, 1], [4, 0, 3], [2, 3, 3]] {
                let attention = |index: usize| match &views[index].layers[0].mixer {
                    Mixer::Attention(attention) => attention,
                    Mixer::Linear(_) => unreachable!("an OLMo-2"),
                };
                let matrices = [&attention(a).q_proj, &attention(b).k_proj, &attention(c).v_proj];
                let mut outputs = matrices.map(|matrix| vec![0f32; 3 * matrix.shape.rows]);
                let mut matmul =
                    Matmul::new(backend, activations, matrices.map(|matrix| *matrix), 3, columns).expect("memory");
                let mut alone = outputs.clone();
                with_team(2, |team| {
                    for (matrix, out) in matrices.iter().zip(&mut alone) {
                        matmul.run(team, &x, [(*matrix, out.as_mut_slice())]);
                    }
                    let [qs, ks, vs] = &mut outputs;
                    matmul.run(team, &x, [(matrices[0], qs), (matrices[1], ks), (matrices[2], vs)]);
                })
                .expect("runs");
                let bits =
                    |all: &[Vec<f32>; 3]| all.clone().map(|out| out.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
                assert_eq!(bits(&outputs), bits(&alone), "{backend:?} {activations:?} {a} {b} {c}");
            }
        }
    }
    // With activations as they are, and weights that bf16 holds, every encoding gives the same bits.
    let network = |file: ModelFile| Arc::new(Network::new(Arc::new(file)).expect("memory"));
    let backend = Backend { gemm: false, ..Backend::best() };
    let [_, bf16, bf12, ..] = <[ModelFile; 5]>::try_from(whole).ok().expect("five").map(network);
    if backend.isa.has_products() {
        assert_eq!(logits(&bf16, backend, Activations::F32, 7), logits(&bf12, backend, Activations::F32, 7));
    }
}
