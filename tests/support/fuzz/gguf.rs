//! The target for headers of GGUF files, and what follows from them: the configuration and the tokenizer.

use crate::gguf::{Gguf, Meta, Tensor, keys};
use crate::{repository, small_config, small_olmo1, small_olmo3};
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::tensors::tensors_of;
use olmo_infer::internals::text::tokenizer::Tokenizer;
use olmo_infer::internals::text::vocabulary::Vocabulary;
use olmo_pack::commands::verify;
use olmo_pack::folder::gguf::header::{self, Header};
use olmo_pack::folder::gguf::{GgufFile, kept, names};
use olmo_pack::folder::source_file::SourceFile;
use olmo_pack::model::gguf_config;
use olmo_pack::model::settings::Flags;
use olmo_pack::text::gguf_tokenizer::{self, Found};
use std::path::Path;
use std::sync::OnceLock;

/// The first bytes of a GGUF file, behind eight bytes with the length of the file. All others are zeros.
///
/// # Panics
/// When tensors of an accepted header overlap or are not in the file, or what follows from the header is not valid.
pub fn gguf_header(input: &[u8]) {
    let Some((length, start)) = input.split_first_chunk::<8>() else { return };
    let file_bytes = u64::from_le_bytes(*length).max(start.len() as u64);
    assert_section(input);
    let Ok(Some(header)) = header::check(Path::new("fuzz"), start, file_bytes) else { return };
    assert_places(&header, start.len(), file_bytes);
    let Ok(Some(gguf)) = GgufFile::of_start(any_file(), start.to_vec(), file_bytes) else { return };
    for name in gguf.names() {
        let Some(Ok(tensor)) = gguf.tensor(name) else { continue };
        let n_elements: u64 = tensor.shape.iter().product();
        assert_eq!(tensor.bytes, n_elements * tensor.element.bytes() as u64, "{name}");
    }
    let Ok((settings, _)) = gguf_config::read(&gguf, &Flags::default()) else { return };
    settings.config.validate().expect("a configuration that is accepted");
    let rows = settings.config.vocab_size;
    let Ok(Found::Tokenizer(read)) = gguf_tokenizer::read(&gguf.metadata, rows, settings.config.architecture) else {
        return;
    };
    let tokens = read.vocabulary.section();
    assert_eq!(verify::vocabulary(&tokens, rows), Ok(()));
    let vocabulary = Vocabulary::in_section(&tokens).expect("a section of its own length");
    if let Ok(section) = read.tokenizer {
        Tokenizer::in_section(&section, &vocabulary).expect("a section that the runtime takes");
    }
}

/// Reads the input as a section `GGUF`, which is made of the same bytes.
fn assert_section(input: &[u8]) {
    let Ok(kept) = kept::in_section(Path::new("fuzz"), input) else { return };
    assert_eq!((kept.start, kept.header.data), (&input[8..], kept.start.len() as u64));
    assert_places(&kept.header, kept.start.len(), kept.file_bytes);
    let begin = kept.header.tensors.values().map(|info| info.range.start).min();
    assert!(begin.is_none_or(|begin| begin == kept.header.data), "{begin:?}");
}

/// Checks that the tensors follow each other inside the file.
fn assert_places(header: &Header, start_bytes: usize, file_bytes: u64) {
    assert!(header.keys_end <= start_bytes && header.keys_end as u64 <= file_bytes);
    let mut tensors: Vec<_> = header.tensors.values().collect();
    tensors.sort_by_key(|info| info.range.start);
    let mut end = header.keys_end as u64;
    for info in tensors {
        assert!(info.range.start >= end && info.range.end > info.range.start, "{info:?} behind {end}");
        end = info.range.end;
        let n_elements: u128 = info.shape.iter().map(|&size| u128::from(size)).product();
        let bytes = n_elements / u128::from(info.kind.block_elements) * u128::from(info.kind.block_bytes);
        assert_eq!(bytes, u128::from(info.range.end - info.range.start), "{info:?}");
    }
    assert!(end <= file_bytes, "{end} of {file_bytes}");
}

/// A file in place of the one with the header: none of its bytes are read.
fn any_file() -> &'static SourceFile {
    static FILE: OnceLock<SourceFile> = OnceLock::new();
    FILE.get_or_init(|| SourceFile::look_at(&repository().join("Cargo.toml")).expect("there"))
}

/// Headers of a model of one layer of each architecture, with a tokenizer and without, of several types.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (i, config) in [small_config(), small_olmo1(), small_olmo3()].into_iter().enumerate() {
        let layer_types = config.layer_types[..1].to_vec();
        let config = ModelConfig { layer_types, hidden_size: 64, head_dim: 16, n_heads: 4, ..config };
        for matrices in [0, 1, 8] {
            let mut gguf = Gguf::new(keys(&config));
            for spec in tensors_of(&config) {
                let shape: Vec<u64> = spec.shape().iter().map(|&size| size as u64).collect();
                // A row of 71 elements has no whole blocks.
                let kind = if shape.len() == 1 || shape[1] != 64 { 0 } else { matrices };
                let n_elements: u64 = shape.iter().product();
                let n_bytes = match kind {
                    8 => n_elements / 32 * 34,
                    1 => n_elements * 2,
                    _ => n_elements * 4,
                };
                let name = names::of_gguf(&spec.name()).expect("a tensor of OLMo");
                gguf.tensors.push(Tensor { name, kind, shape, data: vec![0; n_bytes as usize], offset: None });
            }
            if matrices == 0 {
                let list = |texts: &[&str]| Meta::Texts(texts.iter().map(|text| text.to_string()).collect());
                gguf.set("tokenizer.ggml.model", "gpt2");
                gguf.set("tokenizer.ggml.pre", if i == 1 { "olmo" } else { "dbrx" });
                gguf.set("tokenizer.ggml.tokens", list(&["a", "b", "ab", "<|end|>", "[PAD4]"]));
                gguf.set("tokenizer.ggml.token_type", Meta::I32s(vec![1, 1, 1, 3, 5]));
                gguf.set("tokenizer.ggml.merges", list(&["a b"]));
                gguf.set("general.alignment", Meta::U32(32));
            }
            let (whole, header) = (gguf.bytes().len() as u64, gguf.header());
            all.push([&whole.to_le_bytes()[..], &header].concat());
            // Short enough for a fuzzer: the first tensors alone.
            gguf.tensors.truncate(2);
            let whole = gguf.bytes().len() as u64;
            all.push([&whole.to_le_bytes()[..], &gguf.header()].concat());
            gguf.keys.truncate(2);
            all.push([&(gguf.bytes().len() as u64).to_le_bytes()[..], &gguf.header()].concat());
        }
    }
    all
}
