//! A folder with two values of one setting is packed when they agree, and refused with both keys when they do not.
//! Equal values give the same file as one value, except for the kept text and the origins.

use crate::{INFER, PACK};
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::section;
use olmo_tests::{TempDir, read_f32_npy, repository, run, skipped};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// A copy of a reference case's weights with its `config.json`.
struct Case {
    folder: TempDir,
    config: Value,
}

impl Case {
    fn of(name: &str) -> Case {
        let folder = TempDir::new("said-twice");
        let source = repository().join("tests/golden").join(name).join("weights");
        fs::create_dir(folder.join("w")).expect("a folder");
        for entry in fs::read_dir(source).expect("a reference case") {
            let path = entry.expect("an entry").path();
            fs::copy(&path, folder.join("w").join(path.file_name().expect("a name"))).expect("copied");
        }
        let config = serde_json::from_slice(&fs::read(folder.join("w/config.json")).expect("read")).expect("JSON");
        Case { folder, config }
    }

    /// Packs with another `config.json`; the file, or the one line of the refusal.
    fn packed(&self, config: &Value) -> Result<PathBuf, String> {
        fs::write(self.folder.join("w/config.json"), config.to_string()).expect("written");
        let model = self.folder.join("m.olmo");
        let finished = run(PACK, [self.folder.join("w").as_os_str(), model.as_os_str(), "--force".as_ref()]);
        match finished.code {
            Some(0) => Ok(model),
            _ => Err(finished.refused(1).to_string()),
        }
    }

    /// The same with an object for each attention type, as 5.13 and later write it.
    fn nested(mut self) -> Case {
        let json = self.config.as_object_mut().expect("an object");
        if !json.contains_key("rope_parameters") {
            let [theta, scaling] = ["rope_theta", "rope_scaling"].map(|key| json.remove(key).expect("as 4.x has it"));
            assert_eq!(scaling, Value::Null);
            let rope = json!({"rope_type": "default", "rope_theta": theta});
            json.insert("rope_parameters".into(), json!({"full_attention": rope, "sliding_attention": rope}));
        }
        self
    }

    /// `config` with `change` done to it.
    fn with(&self, change: impl FnOnce(&mut Value)) -> Value {
        let mut config = self.config.clone();
        change(&mut config);
        config
    }
}

/// Everything of a file that decides about results: configuration and tensors.
fn content(path: &Path) -> (Vec<u8>, Vec<Vec<u8>>) {
    use zerocopy::IntoBytes;
    let model = ModelFile::open(path).expect("a model");
    assert!(model.section_bytes(section::CONFIG_JSON).is_some());
    let tensors = (0..model.specs().len()).map(|index| model.tensor_bytes(index).copied().expect("memory")).collect();
    (model.header().config.as_bytes().to_vec(), tensors)
}

#[test]
fn packs_equal_duplicates_like_one_setting() {
    for name in ["olmo3-swa", "olmo3-yarn"] {
        let case = Case::of(name);
        let plain = content(&case.packed(&case.config).expect("packed"));
        let case = case.nested();
        assert!(content(&case.packed(&case.config).expect("packed")) == plain);
        let full = case.config["rope_parameters"]["full_attention"].clone();
        let theta = full["rope_theta"].clone();
        let scaling = |json: &Value| {
            let mut scaling = json.clone();
            scaling.as_object_mut().expect("an object").remove("rope_theta");
            scaling
        };
        let doubled = [
            // As 5.13 and later save a flat file again.
            case.with(|json| {
                let flat = full.as_object().expect("an object").clone();
                json["rope_parameters"].as_object_mut().expect("an object").extend(flat);
            }),
            case.with(|json| json["rope_parameters"]["rope_theta"] = theta.clone()),
            case.with(|json| json["rope_theta"] = theta.clone()),
            case.with(|json| json["rope_scaling"] = scaling(&full)),
            case.with(|json| json["rope_scaling"] = full.clone()),
            case.with(|json| {
                json["rope_scaling"] = scaling(&full);
                json["rope_theta"] = theta.clone();
                json["rope_parameters"]["type"] = full["rope_type"].clone();
                json["rope_parameters"]
                    .as_object_mut()
                    .expect("an object")
                    .extend(full.as_object().expect("an object").clone());
            }),
            // A factor that one states and the other leaves to be computed.
            case.with(|json| {
                let mut flat = full.as_object().expect("an object").clone();
                flat.insert("attention_factor".into(), json!(0.1 * 4f64.ln() + 1.0));
                json["rope_parameters"].as_object_mut().expect("an object").extend(flat);
            }),
            case.with(|json| {
                json["torch_dtype"] = json["dtype"].clone();
                json["head_dim"] = json!(16);
                json["sliding_window_pattern"] = json!(4);
            }),
            case.with(|json| json["torch_dtype"] = json!(null)),
            case.with(|json| json["torch_dtype"] = format!("torch.{}", json["dtype"].as_str().expect("text")).into()),
        ];
        for json in doubled {
            // The widths of a head are those of the case.
            let heads =
                json["hidden_size"].as_u64().expect("a width") / json["num_attention_heads"].as_u64().expect("n");
            let json = if json.get("head_dim").is_some() {
                let mut json = json;
                json["head_dim"] = heads.into();
                json
            } else {
                json
            };
            let found = case.packed(&json).unwrap_or_else(|line| panic!("{name}: {line}\n{json}"));
            assert!(content(&found) == plain, "{name}: {json}");
        }
    }
}

#[test]
fn refuses_contradictory_duplicates_by_both_keys() {
    let case = Case::of("olmo3-yarn");
    let full = case.config["rope_parameters"]["full_attention"].clone();
    let flat = |changes: Value| {
        case.with(|json| {
            let mut flat = full.as_object().expect("an object").clone();
            flat.extend(changes.as_object().expect("an object").clone());
            json["rope_parameters"].as_object_mut().expect("an object").extend(flat);
        })
    };
    let default = json!({"rope_type": "default", "rope_theta": 10000.0});
    let in_nested = |key: &'static str, value: Value| {
        let mut json = flat(json!({}));
        json["rope_parameters"][key] = value;
        json
    };
    let cases = [
        (
            flat(json!({"rope_theta": 5e5})),
            "rope_parameters.rope_theta is 500000 and rope_parameters.full_attention.rope_theta is 10000, expected the same",
        ),
        (
            in_nested("sliding_attention", json!({"rope_type": "default", "rope_theta": 77})),
            "rope_parameters.rope_theta is 10000 and rope_parameters.sliding_attention.rope_theta is 77",
        ),
        // 5.13 and later lose the YaRN of 5.0 to 5.12.
        (
            in_nested("full_attention", default.clone()),
            "rope_parameters.rope_type is yarn and rope_parameters.full_attention.rope_type is default",
        ),
        (
            flat(json!({"rope_type": "default"})),
            "rope_parameters.rope_type is default and rope_parameters.full_attention.rope_type is yarn",
        ),
        (flat(json!({"factor": 2.0})), "rope_parameters.full_attention.rope_type is yarn with other values"),
        // No base where transformers takes its own and not the outer one.
        (in_nested("full_attention", json!({"rope_type": "default"})), "no rope_parameters.full_attention.rope_theta"),
        (
            case.with(|json| {
                drop(json["rope_parameters"].as_object_mut().expect("an object").remove("sliding_attention"))
            }),
            "no rope_parameters.sliding_attention.rope_theta",
        ),
        (
            case.with(|json| json["rope_theta"] = json!(5e5)),
            "rope_theta is 500000 at the top level and 10000 in rope_parameters",
        ),
        (
            case.with(|json| {
                json["rope_theta"] = json!(1e4);
                json["rope_scaling"] = json!({"rope_type": "default", "rope_theta": 5e5});
            }),
            "rope_theta is 10000 and rope_scaling.rope_theta is 500000",
        ),
        (
            // transformers 5 computes with this one.
            case.with(|json| json["rope_scaling"] = json!({"rope_type": "default", "rope_theta": 3.0})),
            "rope_theta is 3 in rope_scaling and 10000 in rope_parameters",
        ),
        (case.with(|json| json["rope_scaling"] = json["rope_parameters"].clone()), "rope_scaling.full_attention is {"),
        (case.with(|json| json["rope_scaling"] = default.clone()), "rope_scaling (default) and rope_parameters (yarn)"),
        (case.with(|json| json["torch_dtype"] = json!("bfloat16")), "torch_dtype is \"bfloat16\", expected float32"),
        (case.with(|json| json["compression_config"] = json!({"bits": 8})), "compression_config is {\"bits\":8}"),
    ];
    for (json, says) in cases {
        let line = case.packed(&json).expect_err(says);
        assert!(line.contains(says), "{line}\nwants {says}");
    }
    // The forms of 5.x for each attention type are not read for a model that has one.
    let case = Case::of("olmo2-gqa-odd");
    let rope = case.config["rope_parameters"].clone();
    let nested = case.with(|json| json["rope_parameters"] = json!({"full_attention": rope}));
    let line = case.packed(&nested).expect_err("no attention types");
    assert!(
        line.contains("rope_parameters has full_attention, expected no attention types in an olmo2 model"),
        "{line}"
    );
}

#[test]
fn packs_tied_model_under_any_of_its_names() {
    let case = Case::of("olmo1-tied");
    let plain = content(&case.packed(&case.config).expect("packed"));
    let names = ["model.embed_tokens.weight.npy", "lm_head.weight.npy"];
    let [embedding, head] = names.map(|name| case.folder.join("w").join(name));
    fs::copy(&embedding, &head).expect("copied");
    let model = case.packed(&case.config).expect("packed");
    assert!(content(&model) == plain);
    let against = |expected: i32| {
        let weights = case.folder.join("w");
        let finished = run(PACK, ["verify".as_ref(), model.as_os_str(), "--against".as_ref(), weights.as_os_str()]);
        assert_eq!(finished.code, Some(expected), "{}", finished.stderr);
    };
    against(0);
    // Some tools keep the head's name alone.
    fs::remove_file(&embedding).expect("removed");
    assert!(content(&case.packed(&case.config).expect("packed")) == plain);
    against(0);
    // One bit of the last number.
    fs::copy(&head, &embedding).expect("copied");
    let mut bytes = fs::read(&head).expect("read");
    let last = bytes.len() - 4;
    bytes[last] ^= 1;
    fs::write(&head, bytes).expect("written");
    let line = case.packed(&case.config).expect_err("two heads");
    assert!(line.contains("not equal to the embedding"), "{line}");
    against(1);
}

#[test]
fn reported_folders_match_transformers() {
    for name in ["07-rope-flat-and-nested", "08-index-total-size"] {
        let case = repository().join("../shared/reported").join(name);
        if !case.is_dir() {
            skipped(format_args!("the reported case {name}, which this checkout lacks"));
            continue;
        }
        let folder = TempDir::new("reported");
        let (model, logits) = (folder.join("m.olmo"), folder.join("l.npy"));
        run(PACK, [case.join("weights").as_os_str(), model.as_os_str()]).ok();
        let tokens = case.join("tokens.bin");
        let arguments = [model.as_os_str(), tokens.as_os_str(), "--steps".as_ref(), "10".as_ref(), "--logits".as_ref()];
        run(INFER, arguments.into_iter().chain([logits.as_os_str()])).ok();
        let (found, expected) = (read_f32_npy(&logits), read_f32_npy(&case.join("expected_logits.npy")));
        assert_eq!(found.1.len(), expected.1.len());
        for (found, expected) in found.1.iter().zip(&expected.1) {
            assert!((found - expected).abs() <= 2e-4, "{name}: {found}, expected {expected}");
        }
    }
}
