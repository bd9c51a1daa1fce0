//! Inputs to begin with: good ones, and some at the edges.

use super::tokenizer_sections;
use crate::packed::Packed;
use crate::safetensors::{self, Tensor};
use crate::{config_json, npy_header, small_config, small_olmo1, small_olmo3};

/// Inputs for a target to begin with.
///
/// # Panics
/// When there is no such target.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "npy_header" => npy_headers(),
        "safetensors_header" => safetensors_headers(),
        "shard_index" => shard_indexes(),
        "gguf_header" => super::gguf::seeds(),
        "config_json" => configs(),
        "vocab_txt" => vocabularies(),
        "tokenizer_json" => tokenizers(),
        "tokenizer_section" => {
            let (_, section) = tokenizer_sections();
            let texts = ["Four score", " \r\n\n x  e\u{301}té", "<|endoftext|>    12345's"];
            texts.map(|text| [&[text.len() as u8], text.as_bytes(), &section].concat()).to_vec()
        }
        "index_raw" => {
            Packed::all().iter().map(|packed| packed.bytes[..packed.layout.data_offset as usize].to_vec()).collect()
        }
        // Each file unchanged, and rebuilt, as it is and as bf12.
        "index_repaired" => {
            (0..7).flat_map(|base| [base, base | 0x80, base | 0xc0]).map(|choice| vec![choice]).collect()
        }
        "tokens" => tokens(),
        "chat_template" => super::chat::seeds(),
        // Each file as it is, with one to four tokens.
        "forward" => (0..28)
            .map(|i| [&[(i % 7) | ((i / 7) << 4) | 0x80][..], &[1, 2, 3, 4][..1 + i as usize / 7]].concat())
            .collect(),
        _ => panic!("no fuzz target {target}"),
    }
}

/// Tokenizers of the bytes alone, with a merge and an added token, and in other spellings.
fn tokenizers() -> Vec<Vec<u8>> {
    let bytes = std::fs::read(crate::repository().join("demo/weights/tokenizer.json")).expect("the demo's tokenizer");
    let plain: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    let mut merges = plain.clone();
    merges["model"]["vocab"]["ab"] = 256.into();
    merges["model"]["merges"] = serde_json::json!([["a", "b"]]);
    merges["added_tokens"] = serde_json::json!([{"id": 257, "content": "<|end|>", "special": true}]);
    let mut old = merges.clone();
    old["model"]["merges"] = serde_json::json!(["a b"]);
    old["normalizer"] = serde_json::json!({"type": "NFC"});
    [plain, merges, old].map(|json| json.to_string().into_bytes()).to_vec()
}

fn npy_headers() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (descr, element) in [("<f4", 4), ("<f2", 2), ("<V2", 2), ("|V2", 2), ("<u2", 2)] {
        for shape in [&[5usize][..], &[3, 4]] {
            let header = npy_header(descr, shape);
            let length = header.len() + element * shape.iter().product::<usize>();
            all.push([&(length as u64).to_le_bytes()[..], &header].concat());
        }
    }
    for number in [u64::MAX, 1 << 32, 0] {
        all.push([&number.to_le_bytes()[..], &npy_header("<f4", &[number as usize, 2])].concat());
    }
    all
}

fn safetensors_headers() -> Vec<Vec<u8>> {
    let tensor = |name: &str, dtype, shape: &[u64], bytes: usize| Tensor {
        name: name.into(),
        dtype,
        shape: shape.to_vec(),
        data: vec![0; bytes],
    };
    let (a, b, c) = (tensor("a", "F32", &[3, 4], 48), tensor("b", "BF16", &[5], 10), tensor("c", "F16", &[0, 1], 0));
    let other = tensor("model.norm.weight", "I64", &[1], 8);
    let sets = [vec![], vec![&a], vec![&b, &a], vec![&a, &b, &c], vec![&other, &c, &b]];
    let file = |tensors: Vec<&Tensor>| safetensors::file(&tensors.into_iter().cloned().collect::<Vec<_>>());
    let mut all: Vec<Vec<u8>> = sets.map(|tensors| [&[0; 8], file(tensors).as_slice()].concat()).into();
    // Other numbers are written verbatim, also wrong ones.
    let huge = u64::MAX.to_string();
    for (shape, from, to) in
        [("[2]", "0", "8"), ("[2]", "4", "12"), ("[2]", "8", "0"), (&format!("[{huge}]"), "0", &huge)]
    {
        let header = format!("{{\"a\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[{from},{to}]}}}}  ");
        let file = safetensors::raw(header.as_bytes(), &[0; 8]);
        all.push([&[0; 8], file.as_slice()].concat());
        all.push([&(1u64 << 40).to_le_bytes(), file.as_slice()].concat());
    }
    all
}

fn shard_indexes() -> Vec<Vec<u8>> {
    let good = r#"{"metadata": {"total_size": 96}, "weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors",
        "model.norm.weight": "model-00002-of-00002.safetensors"}}"#;
    let bare = r#"{"weight_map": {"a": "b.safetensors"}, "metadata": null}"#;
    let outside = r#"{"metadata": {}, "weight_map": {"a": "../b.safetensors", "a": "/etc/passwd"}}"#;
    let total =
        r#"{"metadata": {"total_size": 1.5e300, "total_size": -1}, "weight_map": {"\u00e9": "\ud83d.safetensors"}}"#;
    let arrays = r#"[{"total_size": 96}, {"a": "b.safetensors"}]"#;
    let array = r#"{"metadata": [96], "weight_map": {"a": "b.safetensors"}}"#;
    [good, bare, outside, total, arrays, array].map(|text| text.as_bytes().to_vec()).to_vec()
}

fn configs() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for config in [small_config(), small_olmo3(), small_olmo1()] {
        let old = config_json(&config);
        let mut new = old.clone();
        let object = new.as_object_mut().expect("an object");
        let theta = object.remove("rope_theta").expect("there");
        let mut rope = match object.remove("rope_scaling") {
            Some(serde_json::Value::Object(scaling)) => serde_json::Value::Object(scaling),
            _ => serde_json::json!({"rope_type": "default"}),
        };
        rope["rope_theta"] = theta.clone();
        new["rope_parameters"] = rope.clone();
        let mut nested = new.clone();
        nested["rope_parameters"] = serde_json::json!({
            "full_attention": rope,
            "sliding_attention": {"rope_type": "default", "rope_theta": theta},
        });
        for json in [&old, &new, &nested] {
            let text = serde_json::to_vec(json).expect("a value");
            all.push([&[0], text.as_slice()].concat());
            all.push(text);
        }
        // Flags for what is not there.
        let mut short = old.clone();
        let object = short.as_object_mut().expect("an object");
        for key in ["rope_theta", "max_position_embeddings", "head_dim", "rope_scaling"] {
            object.remove(key);
        }
        all.push([&[7], serde_json::to_vec(&short).expect("a value").as_slice()].concat());
        if config.clip_qkv.is_some() {
            let mut short = old.clone();
            short.as_object_mut().expect("an object").remove("clip_qkv");
            all.push([&[6], serde_json::to_vec(&short).expect("a value").as_slice()].concat());
        }
    }
    all
}

fn vocabularies() -> Vec<Vec<u8>> {
    let texts = ["0\ta\n", "0\t!\n1\tĠof\n3\t\\\\\n5\tâĢ\r\n4\t<|end of text|>\n6\tĊ\n7\t\\n\n", "16777215\ta\n"];
    texts.iter().flat_map(|text| [1, 2, 255].map(|choice| [&[choice], text.as_bytes()].concat())).collect()
}

fn tokens() -> Vec<Vec<u8>> {
    let ids = [&[1u32, 99, 100_351][..], &[100_352], &[65_536, 131_072], &[0x0100_0000], &[u32::MAX]];
    let files = ids.iter().map(|ids| ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>());
    let files = files.chain([b"Four score".to_vec(), b"\x93NUMPY\x01\x00".to_vec(), b"\x89OLMO\r\n\x1a".to_vec()]);
    files.flat_map(|file| [[2, 2], [1, 0], [3, 3]].map(|choice| [&choice[..], &file].concat())).collect()
}
