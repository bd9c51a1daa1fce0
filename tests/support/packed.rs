//! Small models that are packed in this process, and their layouts.

use crate::crafted::repair_header_digest;
use crate::{Stored, TempDir, small_config, small_hybrid, small_olmo1, small_olmo3, write_bf12_weights, write_weights};
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::config::{Architecture, AttentionKind, Experts, ModelConfig};
use olmo_infer::internals::format::layout::Layout;
use olmo_infer::internals::format::sizes::Extent;
use olmo_infer::internals::format::tensors::TensorSpec;
use olmo_infer::internals::format::{self, HEADER_BYTES};
use olmo_infer::internals::os::disk::SystemDisk;
use olmo_pack::commands::pack::{self, DtypeChoice, EncodingChoice, Request};
use olmo_pack::write::wanted::Wanted;
use std::fs;
use std::ops::Range;
use std::path::Path;

/// The offset of the digest in a tensor record.
const DIGEST_IN_TENSOR_RECORD: usize = 56;
/// The offset of the digest in a section record.
const DIGEST_IN_SECTION_RECORD: usize = 24;

/// A model file in memory.
pub struct Packed {
    /// What it shows, for messages.
    pub name: &'static str,
    /// All of the file.
    pub bytes: Vec<u8>,
    /// Its layout.
    pub layout: Layout,
    /// Its tensors.
    pub specs: Vec<TensorSpec>,
    /// Kinds of its sections.
    pub kinds: Vec<u32>,
}

impl Packed {
    /// An f32 model with odd sizes whose head is its embedding: the file ends with a vector, and so with padding.
    pub fn plain_f32() -> Packed {
        let config = ModelConfig { tie_word_embeddings: true, ..tiny_config() };
        Packed::of("plain f32, tied", DtypeChoice::F32, |folder| write_weights(folder, &config, Stored::F32, 3))
    }

    /// A bf16 model with odd sizes and a head of its own.
    pub fn plain_bf16() -> Packed {
        Packed::of("plain bf16", DtypeChoice::Bf16, |folder| write_weights(folder, &tiny_config(), Stored::F32, 3))
    }

    /// A plain bf16 Olmo-3 of two layers, one of them with a window, and YaRN.
    pub fn olmo3() -> Packed {
        let layer_types = vec![AttentionKind::Sliding, AttentionKind::Full];
        let config = ModelConfig { layer_types, sliding_window: 3, ..tiny_config() };
        let config = ModelConfig { architecture: small_olmo3().architecture, yarn: small_olmo3().yarn, ..config };
        Packed::of("Olmo-3, plain bf16", DtypeChoice::Bf16, |folder| write_weights(folder, &config, Stored::Bf16, 4))
    }

    /// An f32 OLMo-1 that clips, and is tied: its file ends with the last layer.
    pub fn olmo1() -> Packed {
        let ModelConfig { architecture, rms_norm_eps, clip_qkv, .. } = small_olmo1();
        let config = ModelConfig { architecture, rms_norm_eps, clip_qkv, tie_word_embeddings: true, ..tiny_config() };
        Packed::of("OLMo-1, plain f32, tied", DtypeChoice::F32, |folder| write_weights(folder, &config, Stored::F32, 5))
    }

    /// An OLMoE with three experts, in plain bf16.
    pub fn olmoe() -> Packed {
        let experts = Some(Experts { n_experts: 3, n_per_token: 2, norm_topk_prob: true });
        let config = ModelConfig { architecture: Architecture::Olmoe, experts, ..tiny_config() };
        Packed::of("OLMoE, plain bf16", DtypeChoice::Bf16, |folder| write_weights(folder, &config, Stored::F32, 6))
    }

    /// An Olmo-Hybrid of two layers, in plain bf16.
    pub fn hybrid() -> Packed {
        let ModelConfig { architecture, rope_theta, rope_theta_sliding, linear, .. } = small_hybrid();
        let layer_types = vec![AttentionKind::Linear, AttentionKind::Full];
        let config = ModelConfig { architecture, rope_theta, rope_theta_sliding, linear, layer_types, ..tiny_config() };
        Packed::of("Olmo-Hybrid, plain bf16", DtypeChoice::Bf16, |folder| {
            write_weights(folder, &config, Stored::F32, 7);
        })
    }

    /// A bf12 model, with raw steps.
    pub fn bf12() -> Packed {
        Packed::of("bf12", DtypeChoice::Bf16, write_bf12_weights)
    }

    /// A model of f32, bf16 and bf12 matrices, with drafts in each of these encodings.
    pub fn mixed() -> Packed {
        Packed::of("mixed", DtypeChoice::Bf16, write_bf12_weights)
    }

    /// A model of int8 and int4 matrices with scales of each kind, and a quantized draft.
    pub fn quantized() -> Packed {
        Packed::of("quantized", DtypeChoice::Int4, |folder| write_weights(folder, &tiny_config(), Stored::F32, 3))
    }

    /// One of each kind.
    pub fn all() -> [Packed; 7] {
        [
            Packed::plain_f32(),
            Packed::plain_bf16(),
            Packed::olmo3(),
            Packed::bf12(),
            Packed::olmo1(),
            Packed::mixed(),
            Packed::quantized(),
        ]
    }

    fn of(name: &'static str, dtype: DtypeChoice, write: impl FnOnce(&Path)) -> Packed {
        let folder = TempDir::new("packed");
        let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
        write(&weights);
        fs::write(weights.join("vocab.txt"), "0\ta\n1\tbc\n4\td\n").expect("written");
        let encoding = if name == "bf12" { EncodingChoice::Auto } else { EncodingChoice::Plain };
        let mut request = Request { weights, model: model.clone(), dtype, encoding, threads: 1, ..Request::default() };
        match name {
            "mixed" => [request.tensors, request.drafts] = mix(),
            "quantized" => [request.tensors, request.drafts] = quantized_mix(),
            _ => {}
        }
        let packed = pack::prepare(&request).and_then(|prepared| prepared.write(&SystemDisk, &|_, _| ()));
        packed.unwrap_or_else(|error| panic!("{name}: {error}"));
        Packed::read(name, &model)
    }

    /// The model file at `model`.
    pub fn read(name: &'static str, model: &Path) -> Packed {
        let file = ModelFile::open(model).unwrap_or_else(|error| panic!("{name}: {error}"));
        Packed {
            name,
            bytes: file.bytes().copied().expect("memory"),
            layout: file.layout().clone(),
            specs: file.specs().to_vec(),
            kinds: file.sections().iter().map(|record| record.kind.get()).collect(),
        }
    }

    /// Sets the digests of tensors, sections, index and header to those of `bytes`, which has the layout of this model.
    pub fn repair_all(&self, bytes: &mut [u8]) {
        let records = HEADER_BYTES + self.specs.len() * format::TENSOR_RECORD_BYTES;
        for (index, &extent) in self.layout.tensors.iter().enumerate() {
            let digest = format::digest(&bytes[range(extent)], index as u64);
            put_u64(bytes, HEADER_BYTES + index * format::TENSOR_RECORD_BYTES + DIGEST_IN_TENSOR_RECORD, digest);
        }
        for ((index, &extent), &kind) in self.layout.sections.iter().enumerate().zip(&self.kinds) {
            let digest = format::digest(&bytes[range(extent)], kind.into());
            put_u64(bytes, records + index * format::SECTION_RECORD_BYTES + DIGEST_IN_SECTION_RECORD, digest);
        }
        repair_index(bytes, range(self.layout.index));
    }
}

/// Encodings of single matrices of [`crate::bf12_config`], of which the others are bf16, and of drafts.
pub fn mix() -> [Vec<(String, Wanted)>; 2] {
    let list = |list: &[(&str, Wanted)]| list.iter().map(|(name, wanted)| (name.to_string(), *wanted)).collect();
    let tensors = [
        ("model.embed_tokens.weight", Wanted::F32),
        ("model.layers.0.self_attn.k_proj.weight", Wanted::F32),
        ("model.layers.0.self_attn.v_proj.weight", Wanted::Bf12),
        ("model.layers.0.mlp.gate_proj.weight", Wanted::Bf12),
    ];
    let drafts = [
        ("model.layers.0.mlp.gate_proj.weight", Wanted::F32),
        ("model.layers.0.mlp.up_proj.weight", Wanted::Bf12),
        ("model.embed_tokens.weight", Wanted::Bf12),
        ("lm_head.weight", Wanted::Bf12),
        ("model.layers.0.self_attn.k_proj.weight", Wanted::Bf16),
    ];
    [list(&tensors), list(&drafts)]
}

/// Every encoding of quantized matrices once, where the others are those of the grade int4, and a draft.
pub fn quantized_mix() -> [Vec<(String, Wanted)>; 2] {
    let named = |(name, encoding): &(&str, &str)| (name.to_string(), Wanted::named(encoding).expect("an encoding"));
    let tensors = [
        ("q_proj", "int8-16"),
        ("k_proj", "int8-f16"),
        ("v_proj", "int4-f16"),
        ("gate_proj", "int4-16"),
        ("up_proj", "f32"),
    ];
    [tensors.iter().map(named).collect(), [("lm_head.weight", "int4")].iter().map(named).collect()]
}

/// The smallest model that has everything: odd columns, rows that fill no panel.
pub fn tiny_config() -> ModelConfig {
    ModelConfig {
        hidden_size: 3,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 2,
        intermediate_size: 5,
        vocab_size: 7,
        layer_types: vec![AttentionKind::Full],
        ..small_config()
    }
}

/// The range of an extent that is in memory.
pub fn range(extent: Extent) -> Range<usize> {
    extent.offset as usize..extent.end() as usize
}

/// Makes the digests of index and header right.
pub fn repair_index(bytes: &mut [u8], index: Range<usize>) {
    put_u64(bytes, 64, format::digest(&bytes[index], 0));
    repair_header_digest(bytes);
}

/// Writes a little-endian number.
pub fn put_u64(bytes: &mut [u8], at: usize, number: u64) {
    bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
}

/// Reads one.
pub fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("eight bytes"))
}
