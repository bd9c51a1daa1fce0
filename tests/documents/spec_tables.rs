//! `format-spec.md` agrees with the code: every table of the document is read and compared with the structs, constants
//! and functions that define the format.

use olmo_infer::internals::format::config::{self, Architecture, AttentionKind, Experts, LinearAttention, ModelConfig};
use olmo_infer::internals::format::encodings::bf12::{
    Bf12Table, CODED_STEP_BYTES, Exponents, N_CODES, RAW_STEP_BYTES, STEPS_PER_RAW_STEP, decode,
};
use olmo_infer::internals::format::encodings::quantized::{
    self, BLOCK_COLUMNS, ELEMENT_OFFSET, Elements, Levels, N_LEVELS, Quantization, QuantizedPanels, Scales,
};
use olmo_infer::internals::format::layout;
use olmo_infer::internals::format::panels::PanelShape;
use olmo_infer::internals::format::tensors::{self, Role, TensorSpec, tensors_of};
use olmo_infer::internals::format::{
    self, AddedToken, ChatHead, ChatStyle, ConfigBlock, Dtype, Encoding, FILE_NAMES, FileRecord, FilesHead, GgufHead,
    Header, Merge, SamplingBlock, SectionRecord, SourceRecord, SpellingHead, SpellingPart, SpellingRecord,
    TensorLayout, TensorRecord, TokenizerHead, VocabularyHead, section,
};
use olmo_pack::folder::gguf::names;
use olmo_pack::folder::gguf::tensor_type::TensorType;
use olmo_tests::repository;
use std::collections::BTreeSet;
use std::fs;
use std::mem::offset_of;

/// A field of a struct as the compiler lays it out.
#[derive(Debug, PartialEq)]
struct Field {
    name: String,
    offset: usize,
    bytes: usize,
}

/// Size of the field that `get` returns.
fn bytes_of<S, F>(_get: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

/// The fields of a struct, in the order given.
macro_rules! fields {
    ($struct:ty: $($field:ident),* $(,)?) => {
        vec![$(Field {
            name: stringify!($field).to_string(),
            offset: offset_of!($struct, $field),
            bytes: bytes_of(|s: &$struct| &s.$field),
        }),*]
    };
}

/// The text of the document.
fn document() -> String {
    fs::read_to_string(repository().join("format-spec.md")).expect("format-spec.md")
}

/// The text of the document as one line: sentences may continue on the next line.
fn prose() -> String {
    document().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The rows of the table whose header line begins with these column names, after the heading; cells without backticks.
#[track_caller]
fn table(heading: &str, columns: &[&str]) -> Vec<Vec<String>> {
    let document = document();
    let start = document.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading:?}"));
    let cells = |line: &str| -> Vec<String> {
        let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
        inner.split('|').map(|cell| cell.trim().replace('`', "")).collect()
    };
    let mut lines = document[start..].lines().skip_while(|line| !line.starts_with('|') || cells(line) != columns);
    assert!(lines.next().is_some(), "no table {columns:?} after {heading:?}");
    let rows: Vec<_> = lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect();
    assert!(rows.iter().all(|row| row.len() == columns.len()), "a row of {heading:?} has missing or extra cells");
    rows
}

#[track_caller]
fn number(cell: &str) -> u64 {
    let parsed = match cell.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => cell.parse(),
    };
    parsed.unwrap_or_else(|_| panic!("{cell:?} is not a number"))
}

/// Bytes of a type as the tables write it; `None` for a struct.
#[track_caller]
fn type_bytes(text: &str) -> Option<usize> {
    let (element, count) = match text.split_once('[') {
        Some((element, count)) => (element, number(count.trim_end_matches(']')) as usize),
        None => (text, 1),
    };
    let bytes = match element {
        "u8" | "i8" => 1,
        "u16" => 2,
        "u32" => 4,
        "u64" | "f64" => 8,
        "struct" => return None,
        other => panic!("unknown type {other:?}"),
    };
    Some(bytes * count)
}

/// Compares the table under the struct's heading with its fields.
#[track_caller]
fn assert_struct(name: &str, struct_bytes: usize, fields: Vec<Field>) {
    let heading = format!("### `{name}` ({struct_bytes} bytes)");
    let rows = table(&heading, &["offset", "size", "type", "name", "meaning", "rule"]);
    let mut end = 0;
    let documented: Vec<Field> = rows
        .iter()
        .map(|row| {
            let field =
                Field { name: row[3].clone(), offset: number(&row[0]) as usize, bytes: number(&row[1]) as usize };
            assert_eq!(field.offset, end, "{name}.{}: the fields follow each other without holes", field.name);
            end += field.bytes;
            let of_type = type_bytes(&row[2]);
            assert_eq!(of_type.unwrap_or(field.bytes), field.bytes, "{name}.{}: type and size", field.name);
            field
        })
        .collect();
    assert_eq!(end, struct_bytes, "{name}: the fields fill the struct");
    assert_eq!(documented, fields, "{name}");
}

#[test]
fn struct_tables_match_the_structs() {
    let fields = fields!(Header:
        magic, version_major, version_minor, byte_order, file_bytes, required_features, optional_features, header_bytes,
        n_tensors, n_sections, reserved_a, index_bytes, index_digest, data_offset, data_bytes, reserved_b, config,
        reserved_c, header_digest,
    );
    assert_struct("Header", size_of::<Header>(), fields);
    let fields = fields!(ConfigBlock:
        architecture, n_layers, hidden_size, n_heads, n_kv_heads, head_dim, intermediate_size, vocab_size,
        max_position_embeddings, sliding_window, tie_word_embeddings, rope_type, rms_norm_eps, rope_theta,
        rope_theta_sliding, yarn_factor, yarn_beta_fast, yarn_beta_slow, yarn_attention_factor,
        yarn_original_max_position_embeddings, yarn_truncate, bos_token_id, pad_token_id, n_eos_token_ids, reserved,
        eos_token_ids, sliding_layers, clip_qkv, n_experts, n_experts_per_tok, norm_topk_prob, linear_num_key_heads,
        linear_num_value_heads, linear_key_head_dim, linear_value_head_dim, linear_conv_kernel_dim,
        linear_allow_neg_eigval, reserved_2, linear_layers,
    );
    assert_struct("ConfigBlock", size_of::<ConfigBlock>(), fields);
    let fields = fields!(TensorRecord:
        role, layer, dtype, layout, encoding, n_raw_steps, rows, columns, offset, bytes, digest, min_magnitude,
        rounded, levels, expert, reserved,
    );
    assert_struct("TensorRecord", size_of::<TensorRecord>(), fields);
    let fields = fields!(SectionRecord: kind, flags, offset, bytes, digest, reserved);
    assert_struct("SectionRecord", size_of::<SectionRecord>(), fields);
    assert_struct(
        "VocabularyHead",
        size_of::<VocabularyHead>(),
        fields!(VocabularyHead: n_tokens, reserved, text_bytes),
    );
    assert_struct("SourceRecord", size_of::<SourceRecord>(), fields!(SourceRecord: dtype, header_bytes, digest));
    let fields = fields!(TokenizerHead: kind, pre_tokenizer, normalizer, n_merges, n_added, prefix_space, reserved);
    assert_struct("TokenizerHead", size_of::<TokenizerHead>(), fields);
    assert_struct("Merge", size_of::<Merge>(), fields!(Merge: left, right, id));
    assert_struct("AddedToken", size_of::<AddedToken>(), fields!(AddedToken: id, flags));
    let fields = fields!(ChatHead: kind, flags, n_reserved_texts, reason_bytes, think_end_bytes, reserved);
    assert_struct("ChatHead", size_of::<ChatHead>(), fields);
    let fields = fields!(ChatStyle: rules, text_bytes, one_turn_bytes);
    assert_struct("ChatStyle", size_of::<ChatStyle>(), fields);
    assert_struct("FilesHead", size_of::<FilesHead>(), fields!(FilesHead: n_files, reserved));
    assert_struct("GgufHead", size_of::<GgufHead>(), fields!(GgufHead: file_bytes));
    assert_struct("FileRecord", size_of::<FileRecord>(), fields!(FileRecord: name, bytes));
    let fields = fields!(SamplingBlock: temperature, top_p, min_p, repetition_penalty, top_k, reserved);
    assert_struct("SamplingBlock", size_of::<SamplingBlock>(), fields);
    assert_struct("SpellingHead", size_of::<SpellingHead>(), fields!(SpellingHead: n_tensors, reserved));
    let fields = fields!(SpellingRecord: name_bytes, header_bytes, rank, n_parts, shape);
    assert_struct("SpellingRecord", size_of::<SpellingRecord>(), fields);
    let fields = fields!(SpellingPart: tensor, reserved, first, n);
    assert_struct("SpellingPart", size_of::<SpellingPart>(), fields);
    let names: Vec<_> = table("### `FileRecord` (8 bytes)", &["code", "file"]);
    let names: Vec<_> = names.iter().map(|row| (number(&row[0]) as usize, row[1].as_str())).collect();
    assert_eq!(names, (1..).zip(FILE_NAMES).collect::<Vec<_>>());
}

#[test]
fn magic_matches_the_code() {
    let hex: Vec<String> = format::MAGIC.iter().map(|byte| format!("{byte:02X}")).collect();
    let heading = format!("### `Header` ({} bytes)", format::HEADER_BYTES);
    let rows = table(&heading, &["offset", "size", "type", "name", "meaning", "rule"]);
    assert_eq!(rows[0][4], hex.join(" "));
}

#[test]
fn constants_match_the_code() {
    let expected = [
        ("VERSION_MAJOR", u64::from(format::VERSION_MAJOR)),
        ("VERSION_MINOR", u64::from(format::VERSION_MINOR)),
        ("BYTE_ORDER_MARK", u64::from(format::BYTE_ORDER_MARK)),
        ("HEADER_BYTES", format::HEADER_BYTES as u64),
        ("TENSOR_RECORD_BYTES", format::TENSOR_RECORD_BYTES as u64),
        ("SECTION_RECORD_BYTES", format::SECTION_RECORD_BYTES as u64),
        ("SECTION_ALIGNMENT", format::SECTION_ALIGNMENT),
        ("TENSOR_ALIGNMENT", format::TENSOR_ALIGNMENT),
        ("LARGE_DATA_BYTES", format::LARGE_DATA_BYTES),
        ("LARGE_DATA_ALIGNMENT", format::LARGE_DATA_ALIGNMENT),
        ("SMALL_DATA_ALIGNMENT", format::SMALL_DATA_ALIGNMENT),
        ("LARGE_GROUP_ALIGNMENT", format::LARGE_GROUP_ALIGNMENT),
        ("SMALL_GROUP_ALIGNMENT", format::SMALL_GROUP_ALIGNMENT),
        ("PANEL_ROWS", format::PANEL_ROWS as u64),
        ("MAX_SECTIONS", format::MAX_SECTIONS as u64),
        ("MAX_LAYERS", config::MAX_LAYERS as u64),
        ("MAX_EXPERTS", config::MAX_EXPERTS as u64),
        ("MAX_TENSORS", config::MAX_TENSORS as u64),
        ("MAX_EOS_TOKENS", config::MAX_EOS_TOKENS as u64),
        ("NONE", u64::from(format::NONE)),
        ("SECTION_REQUIRED", u64::from(format::SECTION_REQUIRED)),
        ("FEATURE_BF12", format::FEATURE_BF12),
        ("FEATURE_DRAFTS", format::FEATURE_DRAFTS),
        ("FEATURE_QUANTIZED", format::FEATURE_QUANTIZED),
        ("FEATURE_EXPERTS", format::FEATURE_EXPERTS),
        ("FEATURE_LINEAR", format::FEATURE_LINEAR),
        ("DRAFT_ROLE", u64::from(tensors::DRAFT_ROLE)),
        ("N_CODES", N_CODES as u64),
        ("CODED_STEP_BYTES", CODED_STEP_BYTES as u64),
        ("RAW_STEP_BYTES", RAW_STEP_BYTES as u64),
        ("STEPS_PER_RAW_STEP", STEPS_PER_RAW_STEP),
        ("BLOCK_COLUMNS", BLOCK_COLUMNS as u64),
        ("N_LEVELS", N_LEVELS as u64),
        ("ELEMENT_OFFSET", u64::from(ELEMENT_OFFSET)),
    ];
    let rows = table("## Conventions", &["constant", "value", "meaning"]);
    let documented: Vec<_> = rows.iter().map(|row| (row[0].as_str(), number(&row[1]))).collect();
    assert_eq!(documented, expected);
    let features = expected.iter().filter(|(name, _)| name.starts_with("FEATURE_"));
    assert_eq!(features.fold(0, |bits, (_, bit)| bits | bit), format::KNOWN_FEATURES);
    let sentence = "Version 1.0 defines five bits of `required_features`";
    assert!(format::KNOWN_FEATURES.count_ones() == 5 && prose().contains(sentence), "no {sentence:?}");
}

/// Experts of the models that have some.
const N_EXPERTS: usize = 7;

/// A model of this architecture. Its sizes are all different, so that no two shapes can be confused. Layer 5 of an
/// Olmo-Hybrid has linear attention, layer 7 full attention.
fn model_of(architecture: Architecture) -> ModelConfig {
    let is_hybrid = architecture == Architecture::OlmoHybrid;
    let kind = |layer| if is_hybrid && layer % 4 != 3 { AttentionKind::Linear } else { AttentionKind::Full };
    let linear = LinearAttention {
        n_key_heads: 3,
        n_value_heads: 9,
        key_head_dim: 5,
        value_head_dim: 11,
        conv_kernel: 4,
        allow_neg_eigval: true,
    };
    let experts = Experts { n_experts: N_EXPERTS, n_per_token: 2, norm_topk_prob: false };
    ModelConfig {
        architecture,
        n_heads: 6,
        n_kv_heads: 2,
        head_dim: 4,
        layer_types: (0..16).map(kind).collect(),
        experts: architecture.has_experts().then_some(experts),
        linear: is_hybrid.then_some(linear),
        ..olmo2_1b()
    }
}

#[test]
fn roles_match_the_code() {
    let specs: Vec<TensorSpec> =
        Architecture::ALL.into_iter().flat_map(|architecture| tensors_of(&model_of(architecture))).collect();
    let rows = table("## Tensors", &["code", "role", "name in a checkpoint", "shape"]);
    let roles: BTreeSet<u64> = specs.iter().map(|spec| spec.role.code().into()).collect();
    assert!(rows.iter().map(|row| number(&row[0])).eq(roles));
    let config = model_of(Architecture::Olmo2);
    for row in &rows {
        let is_role = |spec: &&TensorSpec| {
            let is_code = u64::from(spec.role.code()) == number(&row[0]);
            is_code && spec.layer.unwrap_or(5) == 5 && spec.expert.unwrap_or(3) == 3
        };
        let spec = specs.iter().find(is_role).unwrap_or_else(|| panic!("no tensor with role {}", row[0]));
        assert_eq!(format!("{:?}", spec.role), row[1]);
        assert_eq!(spec.name(), row[2].replace(".N.", ".5.").replace(".M.", ".3."));
        let sizes: Vec<usize> = row[3]
            .trim_matches(['[', ']'])
            .split(", ")
            .map(|size| match size {
                "h" => config.hidden_size,
                "q" => 24,
                "kv" => 8,
                "f" => config.intermediate_size,
                "V" => config.vocab_size,
                "E" => N_EXPERTS,
                "lk" => 15,
                "lv" => 99,
                "lh" => 9,
                "ld" => 11,
                "lc" => (2 * 15 + 99) * 4,
                other => panic!("unknown size {other:?}"),
            })
            .collect();
        assert_eq!(spec.shape(), sizes, "{}", row[1]);
    }
    let always_f32 = specs.iter().filter(|spec| spec.columns.is_some() && !spec.has_choice());
    assert!(always_f32.clone().all(|spec| spec.draft().is_none()));
    let always_f32: BTreeSet<u32> = always_f32.map(|spec| spec.role.code()).collect();
    assert!(always_f32.into_iter().eq([16, 24, 25]));
    for sentence in ["So are the matrices of the roles 16, 24 and 25,", "except those of the roles 16, 24 and 25;"] {
        assert!(prose().contains(sentence), "no {sentence:?}");
    }
    let head = tensors_of(&config).pop().expect("tensors");
    let draft = head.draft().expect("the head is a matrix");
    let sentence = format!("for example {} for the draft of the head", draft.role_code());
    assert!(prose().contains(&sentence), "no {sentence:?}");
    assert_eq!(draft.name(), "draft.lm_head.weight");
}

/// The codes in a cell such as "15, 2 to 4, then of each expert 17 to 19".
fn codes(cell: &str) -> Vec<u32> {
    let listed = |cell: &str| -> Vec<u32> {
        let span = |span: &str| {
            let (first, last) = span.split_once(" to ").unwrap_or((span, span));
            number(first) as u32..=number(last) as u32
        };
        cell.split(", ").flat_map(span).collect()
    };
    match cell.split_once(", then of each expert ") {
        None => listed(cell),
        Some((layer, expert)) => [listed(layer), listed(expert).repeat(N_EXPERTS)].concat(),
    }
}

#[test]
fn canonical_order_matches_the_code() {
    let rows = table("## Tensors", &["layer", "codes", "tensors"]);
    // Rows, and the layers that they describe.
    let cases = [
        (0, Architecture::Olmo1, 5),
        (1, Architecture::Olmo2, 5),
        (1, Architecture::Olmo3, 5),
        (1, Architecture::OlmoHybrid, 7),
        (2, Architecture::Olmoe, 5),
        (3, Architecture::FlexOlmo, 5),
        (4, Architecture::OlmoHybrid, 5),
    ];
    assert_eq!(rows.len(), 5);
    for (row, architecture, layer) in cases {
        let row = &rows[row];
        let mut specs = tensors_of(&model_of(architecture));
        specs.retain(|spec| spec.layer == Some(layer));
        let found: Vec<u32> = specs.iter().map(|spec| spec.role.code()).collect();
        assert_eq!(found, codes(&row[1]), "{architecture:?}");
        let n_tensors = match row[2].split_once(" + 3 E") {
            None => number(&row[2]) as usize,
            Some((n, _)) => number(n) as usize + 3 * N_EXPERTS,
        };
        assert_eq!(specs.len(), n_tensors, "{architecture:?}");
        let of_experts = specs.iter().filter_map(|spec| spec.expert);
        let n_experts = if architecture.has_experts() { N_EXPERTS } else { 0 };
        assert!(of_experts.eq((0..n_experts).flat_map(|expert| [expert; 3])), "{architecture:?}");
    }
    // The embedding, the layers, the norm if it has weights, and the head unless it is tied.
    for config in Architecture::ALL.map(model_of) {
        let specs = tensors_of(&config);
        let outside = specs.iter().filter(|spec| spec.layer.is_none()).map(|spec| spec.role);
        let norm = config.architecture.has_norm_weights().then_some(Role::Norm);
        assert!(outside.eq([Some(Role::EmbedTokens), norm, Some(Role::LmHead)].into_iter().flatten()));
        assert!(specs[0].role == Role::EmbedTokens && specs[1..].is_sorted_by_key(TensorSpec::layer_code));
        let tied = tensors_of(&ModelConfig { tie_word_embeddings: true, ..config });
        assert_eq!(tied, specs[..specs.len() - 1]);
    }
    let olmo2 = tensors_of(&olmo2_1b());
    assert_eq!(olmo2.len(), 11 * 16 + 3);
    // Numbers of tensors, and the limit.
    let of_experts = |n_experts, n_layers| {
        let experts = Some(Experts { n_experts, n_per_token: 2, norm_topk_prob: false });
        ModelConfig { experts, layer_types: vec![AttentionKind::Full; n_layers], ..model_of(Architecture::Olmoe) }
    };
    assert_eq!(tensors_of(&of_experts(64, 16)).len(), 3219);
    let limit = (config::MAX_TENSORS - 3) / (18 + 3 * 16);
    assert!(of_experts(16, limit).validate().is_ok() && of_experts(16, limit + 1).validate().is_err());
    for sentence in [
        "So an OLMo-2 has 11 `n_layers` + 3 tensors, one fewer when tied.",
        "`n_layers` x (18 + 3 E) + 3 is at most 65536.",
        "23 KB in OLMo-2 1B, 412 KB in OLMoE 1B-7B with its 3219 tensors",
    ] {
        assert!(prose().contains(sentence), "no {sentence:?}");
    }
}

#[test]
fn architectures_match_the_code() {
    let rows = table("## Architectures", &["code", "architecture", "model_type", "reference"]);
    assert_eq!(rows.len(), Architecture::ALL.len());
    for row in rows {
        let architecture = Architecture::ALL.into_iter().find(|architecture| architecture.name() == row[2]);
        let config = ModelConfig { architecture: architecture.expect("a known model_type"), ..olmo2_1b() };
        assert_eq!(u64::from(ConfigBlock::new(&config).architecture.get()), number(&row[0]), "{row:?}");
    }
}

#[test]
fn record_codes_match_the_code() {
    let rows = table("### `TensorRecord` (128 bytes)", &["offset", "size", "type", "name", "meaning", "rule"]);
    let meaning = |name: &str| rows.iter().find(|row| row[3] == name).expect("a row")[4].clone();
    let types = [Dtype::F32, Dtype::Bf16, Dtype::Int8, Dtype::Int4];
    let types = types.map(|dtype| format!("{} {}", dtype.code(), dtype.name())).join(", ");
    assert_eq!(meaning("dtype"), format!("stored element type: {types}"));
    let (vector, panels) = (TensorLayout::Vector.code(), TensorLayout::Panels64.code());
    assert_eq!(meaning("layout"), format!("{vector} vector, {panels} panels of {} rows", format::PANEL_ROWS));
    let rows = table("## Encodings", &["encoding", "name", "meaning"]);
    let documented: Vec<_> = rows.iter().map(|row| (number(&row[0]) as u32, row[1].as_str())).collect();
    let expected = [
        (format::ENCODING_PLAIN, "ENCODING_PLAIN"),
        (format::ENCODING_BF12, "ENCODING_BF12"),
        (format::ENCODING_F16_SCALES, "ENCODING_F16_SCALES"),
        (format::ENCODING_ROW_SCALES_32, "ENCODING_ROW_SCALES_32"),
        (format::ENCODING_ROW_SCALES_16, "ENCODING_ROW_SCALES_16"),
    ];
    assert_eq!(documented, expected);
}

#[test]
fn bf12_steps_and_tables_match_the_code() {
    let exponents = Exponents::from_bytes(std::array::from_fn(|i| 100 + 2 * i as u8)).expect("ascending");
    let rows = table("### bf12 matrices", &["row", "column", "sign and mantissa", "code"]);
    assert!(rows.len() >= 5);
    for row in rows {
        let (at, column) = (number(&row[0]) as usize, number(&row[1]) as usize);
        // A byte, and four bits of a u16: "160, bits 4 to 7".
        let byte = number(&row[2]) as usize;
        let (entry, bits) = row[3].split_once(", bits ").expect("a byte and bits");
        let (low, high) = bits.split_once(" to ").expect("two bits");
        assert_eq!(number(high), number(low) + 3, "{row:?}");
        let mut step = [0; CODED_STEP_BYTES];
        step[byte] = 0x81;
        let entry = number(entry) as usize;
        let code = 7u16 << number(low);
        step[entry..entry + 2].copy_from_slice(&code.to_le_bytes());
        let numbers = decode(&step, &exponents);
        let number = (numbers[at] >> (16 * column)) as u16;
        assert_eq!(number, 0x8001 | 114 << 7, "{row:?}");
    }
    let shape = PanelShape { rows: 100, columns: 5, dtype: Dtype::Bf16 };
    let coded = Bf12Table::new(exponents, [vec![1], vec![]].into_iter());
    let mut written = Vec::new();
    coded.write(&mut written);
    assert_eq!(Bf12Table::bytes(&shape, 1), Ok(written.len() as u64));
    let document = prose();
    let sentence = format!("takes {} bytes in `BF12`", written.len());
    assert!(document.contains(&sentence), "no {sentence:?}");
    let numbers: Vec<String> =
        written[N_CODES..].as_chunks::<4>().0.iter().map(|&bytes| u32::from_le_bytes(bytes).to_string()).collect();
    let sentence = format!("the numbers {}", numbers.join(", "));
    assert!(document.contains(&sentence), "no {sentence:?}");
}

/// Every way to quantize a matrix.
fn quantizations() -> impl Iterator<Item = (Encoding, Quantization)> {
    let levels = Levels::new(std::array::from_fn(|i| 5 * i as i8 - 40)).expect("ascending");
    let all = [Elements::Int8, Elements::Int4(levels)]
        .map(|elements| [Scales::F16, Scales::Row32, Scales::Row16].map(|scales| Quantization { elements, scales }));
    all.into_iter().flatten().map(|quantization| (Encoding::Quantized(quantization), quantization))
}

#[test]
fn sizes_of_quantized_matrices_match_the_code() {
    let heads = ["dtype", "encoding", "bytes of factors of a panel", "bytes of scales of a block"];
    let heads = [&heads[..], &["bytes of elements of a block", "bits an element"]].concat();
    let rows = table("### int8 and int4 matrices", &heads);
    let expected: Vec<Vec<String>> = quantizations()
        .map(|(encoding, of)| {
            let bits = 8.0 * of.block_bytes() as f64 / (format::PANEL_ROWS * BLOCK_COLUMNS) as f64;
            let sizes = [of.factor_bytes(), of.scale_bytes(), of.element_bytes()].map(|bytes| bytes.to_string());
            let code = encoding.codes().encoding.to_string();
            [&[encoding.dtype().name().to_string(), code][..], &sizes, &[bits.to_string()]].concat()
        })
        .collect();
    assert_eq!(rows, expected);
    // The example: which bytes decide about the element of row 65 and column 38.
    let (_, quantization) = quantizations().find(|(encoding, _)| encoding.name() == "int4").expect("int4");
    let shape = PanelShape { rows: 100, columns: 40, dtype: Dtype::Int4 };
    let mut bytes = vec![0u8; quantized::matrix_bytes(&quantization, &shape).expect("small") as usize];
    bytes[2436..2440].copy_from_slice(&0.5f32.to_le_bytes());
    bytes[3777] = 3;
    bytes[3846] = 0x90;
    let panels = QuantizedPanels::new(quantization, &shape, bytes[..].into()).expect("its length");
    let mut row = [0.0; 40];
    panels.panel(1).copy_row(1, &mut row);
    assert_eq!(row[38], 5.0 * 3.0 * 0.5);
    let document = prose();
    for place in ["the f32 at 2436", "the i8 at 3777", "bits 4 to 7 of byte 3840 + 4 + 2 = 3846"] {
        assert!(document.contains(place), "no {place:?}");
    }
}

#[test]
fn sections_match_the_code() {
    let expected = [
        (section::SOURCES, "SOURCES"),
        (section::VOCABULARY, "VOCABULARY"),
        (section::CONFIG_JSON, "CONFIG_JSON"),
        (section::PROVENANCE, "PROVENANCE"),
        (section::BF12, "BF12"),
        (section::TOKENIZER, "TOKENIZER"),
        (section::CHAT, "CHAT"),
        (section::FILES, "FILES"),
        (section::SAMPLING, "SAMPLING"),
        (section::GGUF, "GGUF"),
        (section::SPELLING, "SPELLING"),
    ];
    let expected: Vec<_> =
        expected.iter().map(|&(kind, name)| (u64::from(kind), name.to_string(), section::max_bytes(kind))).collect();
    let rows = table("## Sections", &["kind", "name", "content", "most bytes"]);
    let documented: Vec<_> = rows.iter().map(|row| (number(&row[0]), row[1].clone(), number(&row[3]))).collect();
    assert_eq!(documented, expected);
    let unknown = format!("Kinds without a row here are limited to {} bytes.", section::max_bytes(1000));
    assert!(prose().contains(&unknown), "no sentence {unknown:?}");
}

#[test]
fn gguf_types_and_names_match_the_code() {
    let heading = "### `GgufHead` (8 bytes)";
    let mut documented = Vec::new();
    for row in table(heading, &["types", "elements", "bytes"]) {
        let bytes: Vec<&str> = row[2].split(", ").collect();
        let types: Vec<&str> = row[0].split(", ").collect();
        for (index, kind) in types.iter().enumerate() {
            let (code, name) = kind.split_once(' ').expect("a code and a name");
            let bytes = if bytes.len() == 1 { bytes[0] } else { bytes[index] };
            documented.push((number(code), name.to_string(), number(&row[1]), number(bytes)));
        }
    }
    documented.sort();
    let codes = (0..1000).filter_map(TensorType::with_code);
    let expected: Vec<_> =
        codes.map(|of| (u64::from(of.code), of.name.to_string(), of.block_elements, of.block_bytes)).collect();
    assert_eq!(documented, expected);
    // Tensors outside the layers, and those of a layer in the order of their roles.
    let specs = tensors_of(&olmo2_1b());
    let in_file = |spec: &TensorSpec| names::of_gguf(&spec.name()).expect("a name");
    let [first, norm, head] = [0, specs.len() - 2, specs.len() - 1].map(|index| in_file(&specs[index]));
    assert!(prose().contains(&format!("The names are `{first}`, `{norm}` and `{head}`, and in layer `N`")));
    let layer: Vec<String> = specs[1..12].iter().map(|spec| in_file(spec).replace("blk.0.", "")).collect();
    let (last, others) = layer.split_last().expect("tensors");
    assert!(prose().contains(&format!("`{}` and `{last}`, in the order of the roles", others.join("`, `"))));
}

#[test]
fn panel_example_matches_the_code() {
    let shape = |dtype| PanelShape { rows: 66, columns: 3, dtype };
    let bytes = |dtype| shape(dtype).n_panels() * shape(dtype).panel_bytes();
    let sentence =
        format!("= {} bytes in f32 and 2 x 64 x 4 x 2 = {} bytes in bf16", bytes(Dtype::F32), bytes(Dtype::Bf16));
    assert!(prose().contains(&sentence), "no {sentence:?}");
    let rows = table("## Panels", &["row", "column", "number in f32", "number in bf16"]);
    assert!(rows.len() >= 7);
    for row in rows {
        let cells: Vec<usize> = row.iter().map(|cell| number(cell) as usize).collect();
        assert_eq!(shape(Dtype::F32).element(cells[0], cells[1]), cells[2], "f32 {row:?}");
        assert_eq!(shape(Dtype::Bf16).element(cells[0], cells[1]), cells[3], "bf16 {row:?}");
    }
}

#[test]
fn layout_example_matches_the_code() {
    let rows = table("## Layout", &["stored type", "data_offset", "data_bytes"]);
    let specs = tensors_of(&olmo2_1b());
    let quantized = |name| quantizations().find(|(encoding, _)| encoding.name() == name).expect("a name").0;
    let cases = [
        ("f32", Encoding::F32),
        ("bf16", Encoding::Bf16),
        ("bf12, no raw step", Encoding::Bf12 { n_raw_steps: 0 }),
        ("int8, encoding 3", quantized("int8")),
        ("int4, encoding 3", quantized("int4")),
    ];
    let expected: Vec<Vec<String>> = cases
        .into_iter()
        .map(|(name, matrices)| {
            let encodings = layout::uniform(&specs, matrices);
            let layout = layout::layout(&specs, &encodings, &[1000, 1 << 20, 0, 7]);
            let layout = layout.expect("a possible size");
            let data_bytes = layout.file_bytes - layout.data_offset;
            vec![name.to_string(), layout.data_offset.to_string(), data_bytes.to_string()]
        })
        .collect();
    assert_eq!(rows, expected);
}

/// The shape of OLMo-2-0425-1B.
fn olmo2_1b() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Olmo2,
        hidden_size: 2048,
        n_heads: 16,
        n_kv_heads: 16,
        head_dim: 128,
        intermediate_size: 8192,
        vocab_size: 100352,
        max_position_embeddings: 4096,
        rms_norm_eps: 1e-6,
        clip_qkv: None,
        rope_theta: 500000.0,
        rope_theta_sliding: 500000.0,
        yarn: None,
        sliding_window: 0,
        layer_types: vec![AttentionKind::Full; 16],
        experts: None,
        linear: None,
        tie_word_embeddings: false,
        eos_token_ids: vec![100257],
        bos_token_id: None,
        pad_token_id: Some(100277),
    }
}
