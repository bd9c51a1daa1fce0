//! `olmo-pack verify --against`: whether a model file holds the numbers of a weights folder.

use crate::PACK;
use olmo_tests::{
    Stored, TempDir, config_json, finish, map_numbers, npy_path, run, small_config, write_npy, write_weights,
};
use std::path::Path;
use std::process::Command;

#[test]
fn compares_the_weights_of_a_folder() {
    let folder = TempDir::new("verify-against");
    let weights = folder.join("w");
    write_weights(&weights, &small_config(), Stored::F32, 1);
    for dtype in ["f32", "bf16"] {
        let model = folder.join(format!("{dtype}.olmo"));
        run(PACK, [weights.as_os_str(), model.as_os_str(), "--dtype".as_ref(), dtype.as_ref()]).ok();
        let against = |weights: &Path| {
            run(PACK, ["verify".as_ref(), model.as_os_str(), "--against".as_ref(), weights.as_os_str()])
        };
        let rounded = if dtype == "bf16" { " rounded to bf16" } else { "" };
        let says = format!(": ok, the numbers of {}{rounded}, ", weights.display());
        assert!(against(&weights).ok().contains(&says), "{says}");
        // As where no thread can be started: the stack that is asked for is larger than any address space.
        let mut command = Command::new(PACK);
        command.arg("verify").arg(&model).arg("--against").arg(&weights).env("RUST_MIN_STACK", "99999999999999");
        assert!(finish(&mut command).ok().contains(&says));
        // A number, a tensor, a shape and the configuration.
        let other = folder.join(format!("other-{dtype}"));
        write_weights(&other, &small_config(), Stored::F32, 1);
        map_numbers(&other, "model.norm.weight", |i, x| if i == 3 { x + 0.5 } else { x });
        let refused = against(&other);
        let line = refused.refused(1);
        assert!(line.contains("model.norm.weight: 1 of its 36 numbers are others, expected what "), "{line}");
        std::fs::remove_file(npy_path(&other, "model.norm.weight")).expect("removed");
        assert!(against(&other).refused(1).contains("model.norm.weight: is not in the weights folder"));
        write_npy(&npy_path(&other, "model.norm.weight"), "<f4", &[2], &[0; 8]);
        assert!(against(&other).refused(1).contains("model.norm.weight: has the shape [36], not [2]"));
        std::fs::copy(npy_path(&weights, "model.norm.weight"), npy_path(&other, "model.norm.weight")).expect("copied");
        std::fs::copy(npy_path(&weights, "model.norm.weight"), npy_path(&other, "model.layers.9.mlp.up_proj.weight"))
            .expect("copied");
        assert!(against(&other).refused(1).contains("model.layers.9.mlp.up_proj.weight.npy: is not in the model file"));
        std::fs::remove_file(npy_path(&other, "model.layers.9.mlp.up_proj.weight")).expect("removed");
        std::fs::write(other.join("config.json"), "{}").expect("written");
        let refused = against(&other).refused(1).to_string();
        let says =
            "has the numbers of this folder, but was packed with another config.json, and not with what is there: ";
        assert!(refused.contains(says) && refused.contains("config.json: no model_type"), "{refused}");
        // The text may differ, its meaning may not.
        let mut config = config_json(&small_config());
        config["transformers_version"] = "4.57.1".into();
        std::fs::write(other.join("config.json"), config.to_string()).expect("written");
        let note = "; the text of config.json differs and means the same";
        assert!(against(&other).ok().trim_end().ends_with(note));
        config["rope_theta"] = 5e5.into();
        std::fs::write(other.join("config.json"), config.to_string()).expect("written");
        let says = "has the numbers of this folder, but was packed with another configuration: rope_theta is 10000.0, \
            expected 500000.0 as ";
        assert!(against(&other).refused(1).contains(says));
        assert!(against(&folder.join("absent")).refused(1).contains("no such folder"));
    }
}
