//! Rows W2 to W5: tensors that are missing, too many, of other shapes, or do not fit each other.

use super::{Case, EMBEDDING, FLAGS, HEAD, NORM, O_PROJ, UP_PROJ, resize, set, spoiled, typed, write_header};
use olmo_tests::catalogue::{Refusal, Report};
use olmo_tests::{finish, small_config, write_npy};
use serde_json::json;
use std::fs;

/// Row W2: missing tensors.
#[test]
fn w2_reports_missing_tensors() {
    let mut report = Report::new("W2");
    let removed = |tensor: &str, words: &[&str]| spoiled(tensor, words, |path| fs::remove_file(path).expect("removed"));
    report.add("embedding", removed(EMBEDDING, &["missing, expected a tensor [101, 36]", "export the whole model"]));
    report.add("in a layer", removed(O_PROJ, &["missing (layer 1 of 2)"]));
    report.add("last norm", removed(NORM, &["missing"]));
    report.add("head", removed(HEAD, &["missing", "tie_word_embeddings"]));
    let case = Case::new();
    fs::remove_file(case.config()).expect("removed");
    fs::remove_file(case.file(EMBEDDING)).expect("removed");
    report.add(
        "embedding, without config.json",
        case.refusal(format!("{}: ", case.file(EMBEDDING).display()), &["missing", "config.json"], &FLAGS),
    );
}

/// The names of the tensors in the order of the model file.
fn tensor_names() -> Vec<String> {
    olmo_infer::internals::format::tensors::tensors_of(&small_config()).iter().map(|spec| spec.name()).collect()
}

/// Row W2.
#[test]
fn w2_reports_ten_problems_and_counts_the_rest() {
    let mut report = Report::new("W2");
    let names = tensor_names();
    for removed in [2, 9, 10, 11, 12, names.len() - 1] {
        let case = Case::new();
        for name in &names[..removed] {
            fs::remove_file(case.file(name)).expect("removed");
        }
        let line = |name: &String| vec![format!("{}: missing", case.file(name).display())];
        let lines = names[..removed.min(10)].iter().map(line).collect();
        let refusal = Refusal { program: "olmo-pack", status: 1, lines, more: removed.saturating_sub(10) };
        report.add(removed, refusal.check(case.folder.path(), || case.pack(&case.weights, &[])));
    }
    // Different ones together, in the order of the model; what is too much comes last.
    let case = Case::new();
    fs::remove_file(case.file(EMBEDDING)).expect("removed");
    resize(&case.file(UP_PROJ), -1);
    write_npy(&case.file(O_PROJ), "<f4", &[36, 35], &[0; 36 * 35 * 4]);
    write_header(&case.file(NORM), &typed("'<f8'"), 288);
    write_npy(&case.file("more"), "<f4", &[1], &[0; 4]);
    let line = |tensor: &str, word: &str| vec![format!("{}: ", case.file(tensor).display()), word.to_string()];
    let lines = vec![
        line(EMBEDDING, "missing"),
        line(UP_PROJ, "truncated?"),
        line(O_PROJ, "shape [36, 35]"),
        line(NORM, "float64"),
        line("more", "not a parameter"),
    ];
    let refusal = Refusal { program: "olmo-pack", status: 1, lines, more: 0 };
    report.add("five kinds", refusal.check(case.folder.path(), || case.pack(&case.weights, &[])));
}

/// Row W3: extra `.npy` files, a layer beyond the configuration, a head next to a tied model.
#[test]
fn w3_refuses_extra_tensors() {
    let mut report = Report::new("W3");
    let names = [
        "model.layers.2.mlp.up_proj.weight",
        "model.layers.00.mlp.up_proj.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "extra",
        "",
    ];
    for name in names {
        let case = Case::new();
        write_npy(&case.file(name), "<f4", &[1], &[0; 4]);
        report.add(name, case.refused(case.file(name), &["not a parameter of this model", "--allow-extra"]));
        for flags in [&["--allow-extra", "--dry-run"][..], &["--allow-extra"]] {
            let finished = finish(&mut case.pack(&case.weights, flags));
            let told = finished.code == Some(0) && finished.stdout.contains("left out ");
            report.holds(format_args!("{name} {flags:?}"), told && finished.stdout.contains(name), finished.stdout);
        }
    }
    // Files other than .npy do not matter.
    let case = Case::new();
    for name in ["README.md", ".DS_Store", "extra.npy.txt", "npy", "extra.NPY"] {
        fs::write(case.weights.join(name), "x").expect("written");
    }
    fs::create_dir(case.weights.join("folder")).expect("folder");
    report.add("no .npy", case.packed(&[]));
}

/// Row W3.
#[test]
fn w3_refuses_head_of_tied_model() {
    let mut report = Report::new("W3");
    let case = Case::new();
    set(&case, json!({"tie_word_embeddings": true}));
    let head = case.file(HEAD);
    report.add(
        "other numbers",
        case.refused(&head, &["sets tie_word_embeddings", "not equal to the embedding", "--allow-extra"]),
    );
    report.add("other numbers, allowed", case.packed(&["--allow-extra"]));
    fs::write(&case.model, "old").expect("written");
    let of_head = fs::read(&head).expect("a head");
    fs::write(&head, "x").expect("written");
    report.add("no array", case.refused(&head, &["text, expected an .npy file"]));
    fs::write(&head, of_head).expect("written");
    fs::copy(case.file(EMBEDDING), &head).expect("copied");
    report.add("same numbers", case.packed(&[]));
}

/// Row W4: wrong shapes, transposed matrices, other ranks.
#[test]
fn w4_refuses_wrong_shapes() {
    let mut report = Report::new("W4");
    let cases: [(&str, &[usize], &[&str]); 12] = [
        (UP_PROJ, &[36, 71], &["[36, 71], expected [71, 36]", "config.json", "transposed", "np.ascontiguousarray"]),
        (UP_PROJ, &[71, 37], &["[71, 37], expected [71, 36]"]),
        (UP_PROJ, &[72, 36], &["[72, 36], expected [71, 36]"]),
        (UP_PROJ, &[71 * 36], &["[2556], expected [71, 36]"]),
        (UP_PROJ, &[1, 71, 36], &["[1, 71, 36], expected [71, 36]"]),
        (UP_PROJ, &[71, 36, 1], &["[71, 36, 1], expected [71, 36]"]),
        (NORM, &[35], &["[35], expected [36]"]),
        (NORM, &[1, 36], &["[1, 36], expected [36]"]),
        (NORM, &[36, 1], &["[36, 1], expected [36]"]),
        (EMBEDDING, &[102, 36], &["[102, 36], expected [101, 36]"]),
        (EMBEDDING, &[36, 101], &["transposed"]),
        (HEAD, &[100, 36], &["[100, 36], expected [101, 36]"]),
    ];
    for (tensor, shape, words) in cases {
        let bytes = vec![0; shape.iter().product::<usize>() * 4];
        let outcome = spoiled(tensor, words, |path| write_npy(path, "<f4", shape, &bytes));
        report.add(format_args!("{tensor} {shape:?}"), outcome);
    }
}

/// Row W5: files that contradict each other.
///
/// Note on W5: With a `config.json`, that one decides, and the row is W4.
#[test]
fn w5_refuses_inconsistent_files() {
    let mut report = Report::new("W5");
    let cases: [(&str, &[usize], &str, &[&str]); 5] = [
        (HEAD, &[99, 36], HEAD, &["shape [99, 36], expected [101, 36]", EMBEDDING]),
        (NORM, &[35], NORM, &["shape [35], expected [36]", EMBEDDING]),
        (
            "model.layers.1.self_attn.k_proj.weight",
            &[18, 36],
            "model.layers.1.self_attn.k_proj.weight",
            &["shape [18, 36], expected [12, 36]", "layers.0", "k_proj"],
        ),
        (UP_PROJ, &[70, 36], UP_PROJ, &["shape [70, 36], expected [71, 36]", "gate_proj"]),
        (
            "model.layers.0.self_attn.q_norm.weight",
            &[6],
            "model.layers.0.self_attn.q_norm.weight",
            &["shape [6] for q_proj of 36 rows", "a norm for each head"],
        ),
    ];
    for (tensor, shape, named, words) in cases {
        let case = Case::new();
        fs::remove_file(case.config()).expect("removed");
        write_npy(&case.file(tensor), "<f4", shape, &vec![0; shape.iter().product::<usize>() * 4]);
        let outcome = case.refusal(format!("{}: ", case.file(named).display()), words, &FLAGS);
        report.add(format_args!("{tensor} {shape:?}"), outcome);
    }
    // The rows of all projections of a kind together, which only the heads contradict.
    for (kind, rows, says) in [("q_proj", 35, "q_proj is 35 wide"), ("k_proj", 13, "k_proj is 13 wide")] {
        let case = Case::new();
        fs::remove_file(case.config()).expect("removed");
        for layer in 0..2 {
            let tensor = format!("model.layers.{layer}.self_attn.{kind}.weight");
            write_npy(&case.file(&tensor), "<f4", &[rows, 36], &vec![0; rows * 36 * 4]);
            let norm = format!("model.layers.{layer}.self_attn.{}_norm.weight", &kind[..1]);
            write_npy(&case.file(&norm), "<f4", &[rows], &vec![0; rows * 4]);
        }
        let begins = format!("{}: ", case.weights.display());
        report.add(kind, case.refusal(begins, &[says, "a multiple of head_dim 6", "--head-dim"], &FLAGS));
    }
}
