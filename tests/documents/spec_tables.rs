//! `format-spec.md` agrees with the code: every table of the document is read and compared with the structs, constants
//! and functions that define the format.

use olmo_infer::internals::format::config::{self, Architecture, AttentionKind, ModelConfig};
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
    Header, Merge, SamplingBlock, SectionRecord, SourceRecord, TensorLayout, TensorRecord, TokenizerHead,
    VocabularyHead, section,
};
use olmo_pack::folder::gguf::names;
use olmo_pack::folder::gguf::tensor_type::TensorType;
use olmo_tests::repository;
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
        eos_token_ids, sliding_layers, clip_qkv,
    );
    assert_struct("ConfigBlock", size_of::<ConfigBlock>(), fields);
    let fields = fields!(TensorRecord:
        role, layer, dtype, layout, encoding, n_raw_steps, rows, columns, offset, bytes, digest, min_magnitude,
        rounded, levels, reserved,
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
        ("MAX_EOS_TOKENS", config::MAX_EOS_TOKENS as u64),
        ("NONE", u64::from(format::NONE)),
        ("SECTION_REQUIRED", u64::from(format::SECTION_REQUIRED)),
        ("FEATURE_BF12", format::FEATURE_BF12),
        ("FEATURE_DRAFTS", format::FEATURE_DRAFTS),
        ("FEATURE_QUANTIZED", format::FEATURE_QUANTIZED),
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
}

#[test]
fn roles_match_the_code() {
    // Sizes that are all different, so that no two shapes can be confused.
    let config = ModelConfig { n_heads: 6, n_kv_heads: 2, head_dim: 4, ..olmo2_1b() };
    let (q, kv) = (24, 8);
    let specs = tensors_of(&config);
    let rows = table("## Tensors", &["code", "role", "name in a checkpoint", "shape"]);
    assert_eq!(rows.len(), 14);
    for row in &rows {
        let spec =
            specs.iter().find(|spec| u64::from(spec.role.code()) == number(&row[0]) && spec.layer.unwrap_or(5) == 5);
        let spec = spec.unwrap_or_else(|| panic!("no tensor with role {}", row[0]));
        assert_eq!(format!("{:?}", spec.role), row[1]);
        assert_eq!(spec.name(), row[2].replace(".N.", ".5."));
        let sizes: Vec<usize> = row[3]
            .trim_matches(['[', ']'])
            .split(", ")
            .map(|size| match size {
                "h" => config.hidden_size,
                "q" => q,
                "kv" => kv,
                "f" => config.intermediate_size,
                "V" => config.vocab_size,
                other => panic!("unknown size {other:?}"),
            })
            .collect();
        assert_eq!(spec.shape(), sizes, "{}", row[1]);
    }
    // The canonical order: 1, then 2 to 12 in each layer, 13, 14.
    let codes: Vec<u32> = specs.iter().map(|spec| spec.role.code()).collect();
    let mut expected = vec![1];
    (0..config.n_layers()).for_each(|_| expected.extend(2..=12));
    expected.extend([13, 14]);
    assert_eq!(codes, expected);
    let tied = tensors_of(&ModelConfig { tie_word_embeddings: true, ..config.clone() });
    assert_eq!(tied.len(), specs.len() - 1);
    assert!(tied.iter().all(|spec| spec.role != Role::LmHead));
    // OLMo-1 has the same in the same order, without the norms.
    let olmo1 = tensors_of(&ModelConfig { architecture: Architecture::Olmo1, ..config.clone() });
    let norms = [5, 6, 8, 12, 13];
    let matrices: Vec<_> = specs.iter().filter(|spec| !norms.contains(&spec.role.code())).copied().collect();
    assert_eq!(olmo1, matrices);
    let sentence = "without the codes 5, 6, 8, 12 and 13";
    assert!(prose().contains(sentence), "no {sentence:?}");
    assert_eq!(olmo1.len(), 7 * config.n_layers() + 2);
    let draft = specs.last().and_then(TensorSpec::draft).expect("the head is a matrix");
    let sentence = format!("for example {} for the draft of the head", draft.role_code());
    assert!(document().contains(&sentence), "no {sentence:?}");
    assert_eq!(draft.name(), "draft.lm_head.weight");
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
