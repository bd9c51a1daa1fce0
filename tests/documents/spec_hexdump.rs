//! The hexdump in `format-spec.md` is that of the file it describes. After a change of the format or of the version,
//! `OLMO_BLESS=1 cargo test --workspace --test documents spec_hexdump` writes the new bytes into the document.

use crate::PACK;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_tests::{TempDir, npy_path, repository, run, write_npy};
use std::fmt::Write;
use std::fs;

/// The heading of the hexdump.
const HEADING: &str = "\n## A whole file\n";
/// The configuration, as the document shows it.
const CONFIG: &str = r#"{"model_type":"olmo2","hidden_size":2,"num_hidden_layers":1,"num_attention_heads":1,
"num_key_value_heads":1,"intermediate_size":3,"vocab_size":4,"max_position_embeddings":16,"rms_norm_eps":1e-6,
"rope_theta":500000.0,"tie_word_embeddings":true,"eos_token_id":3,"dtype":"float32"}
"#;
/// The vocabulary, as the document describes it.
const VOCAB: &str = "0\ta\n1\tbc\n3\tĠ\n";
/// Names and shapes in the order of the file: number i of tensor t is t + i / 16.
const TENSORS: [(&str, &[usize]); 13] = [
    ("model.embed_tokens.weight", &[4, 2]),
    ("model.layers.0.self_attn.q_proj.weight", &[2, 2]),
    ("model.layers.0.self_attn.k_proj.weight", &[2, 2]),
    ("model.layers.0.self_attn.v_proj.weight", &[2, 2]),
    ("model.layers.0.self_attn.q_norm.weight", &[2]),
    ("model.layers.0.self_attn.k_norm.weight", &[2]),
    ("model.layers.0.self_attn.o_proj.weight", &[2, 2]),
    ("model.layers.0.post_attention_layernorm.weight", &[2]),
    ("model.layers.0.mlp.gate_proj.weight", &[3, 2]),
    ("model.layers.0.mlp.up_proj.weight", &[3, 2]),
    ("model.layers.0.mlp.down_proj.weight", &[2, 3]),
    ("model.layers.0.post_feedforward_layernorm.weight", &[2]),
    ("model.norm.weight", &[2]),
];

/// The file that the document describes.
fn whole_file() -> Vec<u8> {
    let folder = TempDir::new("hexdump");
    let (weights, model) = (folder.join("weights"), folder.join("model.olmo"));
    fs::create_dir(&weights).expect("folder");
    fs::write(weights.join("config.json"), CONFIG).expect("written");
    fs::write(weights.join("vocab.txt"), VOCAB).expect("written");
    for (t, (name, shape)) in TENSORS.iter().enumerate() {
        let n = shape.iter().product::<usize>();
        let data: Vec<u8> = (0..n).flat_map(|i| (t as f32 + i as f32 / 16.0).to_le_bytes()).collect();
        write_npy(&npy_path(&weights, name), "<f4", shape, &data);
    }
    run(PACK, [&weights, &model]).ok();
    ModelFile::open(&model).expect("a model");
    fs::read(&model).expect("read")
}

/// 16 bytes as `hexdump -C` shows them.
fn hexdump_line(offset: usize, bytes: &[u8]) -> String {
    let mut line = format!("{offset:08x} ");
    for (i, byte) in bytes.iter().enumerate() {
        let _ = write!(line, "{}{byte:02x}", if i == 8 { "  " } else { " " });
    }
    let text: String = bytes.iter().map(|&b| if (0x20..0x7f).contains(&b) { char::from(b) } else { '.' }).collect();
    format!("{line:<60}|{text}|")
}

/// The offset at the beginning of a line of a hexdump.
fn offset_of(line: &str) -> Option<usize> {
    let (digits, rest) = line.split_at_checked(8)?;
    let is_dump = rest.is_empty() || rest.starts_with(' ');
    usize::from_str_radix(digits, 16).ok().filter(|offset| is_dump && offset % 16 == 0)
}

#[test]
fn hexdump_matches_the_file() {
    let path = repository().join("format-spec.md");
    let document = fs::read_to_string(&path).expect("format-spec.md");
    let (before, dump) = document.split_once(HEADING).expect("a hexdump");
    let file = whole_file();
    let mut n_lines = 0;
    let expected: String = dump
        .lines()
        .map(|line| match offset_of(line) {
            Some(offset) => {
                n_lines += 1;
                hexdump_line(offset, &file[offset..offset + 16]) + "\n"
            }
            None => line.to_string() + "\n",
        })
        .collect();
    assert!(n_lines >= 40, "{n_lines} lines");
    if std::env::var_os("OLMO_BLESS").is_some() {
        fs::write(&path, format!("{before}{HEADING}{expected}")).expect("written");
    } else {
        for (found, expected) in dump.lines().zip(expected.lines()) {
            assert_eq!(found, expected, "see the head of this test");
        }
    }
    assert!(dump.contains(CONFIG), "the document shows another config.json");
    let length = format!("{} bytes", file.len());
    assert!(dump.contains(&length), "the document does not state {length:?}");
}
