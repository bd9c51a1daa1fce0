//! NaN and infinity that a run meets: one line with the position and the layer where they began.

use crate::{INFER, PACK};
use olmo_infer::internals::format::config::ModelConfig;
use olmo_tests::{
    Finished, Stored, TempDir, map_numbers, npy_path, run, small_config, small_olmo1, write_npy, write_weights,
};
use std::fs;
use std::path::Path;

/// Packs a folder and runs six tokens of it, the last three generated, in chunks of two.
fn packed_run(folder: &TempDir, weights: &Path) -> Finished {
    let model = folder.join("m.olmo");
    let paths = [weights, &model].map(|path| path.to_str().expect("UTF-8").to_string());
    run(PACK, paths.iter().map(String::as_str).chain(["--force", "--allow-nonfinite"])).ok();
    let tokens: Vec<u8> = [5u32, 9, 7].iter().flat_map(|token| token.to_le_bytes()).collect();
    fs::write(folder.join("t.bin"), tokens).expect("written");
    let tokens = folder.join("t.bin").to_str().expect("UTF-8").to_string();
    run(INFER, [paths[1].as_str(), &tokens, "--steps", "6", "--chunk", "2"])
}

/// The error line about weights that `spoil` has changed.
fn error_about(spoil: impl Fn(&Path)) -> String {
    error_about_model(&small_config(), spoil)
}

/// The same for another model.
fn error_about_model(config: &ModelConfig, spoil: impl Fn(&Path)) -> String {
    let folder = TempDir::new("not-finite");
    let weights = folder.join("w");
    write_weights(&weights, config, Stored::F32, 1);
    spoil(&weights);
    let finished = packed_run(&folder, &weights);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert_eq!(finished.stderr.lines().count(), 1, "{finished:?}");
    finished.stderr
}

/// Replaces the whole vector of a norm.
fn fill_vector(weights: &Path, tensor: &str, value: f32) {
    let data: Vec<u8> = (0..36).flat_map(|_| value.to_le_bytes()).collect();
    write_npy(&npy_path(weights, tensor), "<f4", &[36], &data);
}

#[test]
fn reports_nan_with_its_layer() {
    for layer in [0, 1] {
        let norm = format!("model.layers.{layer}.post_feedforward_layernorm.weight");
        let line = error_about(|weights| fill_vector(weights, &norm, f32::NAN));
        let says = format!(
            "at position 0 is not a finite number, the first ones were computed at position 0 in layer {layer};"
        );
        assert!(line.contains(&says), "{line}");
        assert!(line.contains("m.olmo: logit of token ") && line.contains("olmo-pack verify"), "{line}");
    }
}

#[test]
fn reports_nan_of_olmo1_in_attention_and_mlp() {
    for (layer, matrix) in [(1, "self_attn.v_proj"), (0, "mlp.down_proj")] {
        let tensor = format!("model.layers.{layer}.{matrix}.weight");
        let spoil = |weights: &Path| map_numbers(weights, &tensor, |i, old| if i == 40 { f32::NAN } else { old });
        let line = error_about_model(&small_olmo1(), spoil);
        let says = format!("the first ones were computed at position 0 in layer {layer};");
        assert!(line.contains(&says), "{line}");
    }
}

#[test]
fn reports_infinity_with_its_position() {
    let width = small_config().hidden_size;
    let line = error_about(|weights| {
        map_numbers(weights, "model.embed_tokens.weight", |i, old| if i / width == 9 { f32::INFINITY } else { old });
    });
    assert!(
        line.contains("at position 1 is not a finite number, the first ones were computed at position 1"),
        "{line}"
    );
}

#[test]
fn reports_overflow_in_the_head() {
    let line = error_about(|weights| fill_vector(weights, "model.norm.weight", f32::INFINITY));
    assert!(line.contains("which comes from the last norm or the head"), "{line}");
}
