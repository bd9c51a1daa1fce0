//! Hidden states: those of transformers, and the same bits in the program and the library.

use crate::{INFER, PACK};
use olmo_infer::Error;
use olmo_infer::Model;
use olmo_infer::Options;
use olmo_tests::{Stored, TempDir, map_numbers, read_f32_npy, reference_cases, run, small_config, write_weights};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

/// As for logits, whose size is that of the hidden states.
const TOLERANCE: f32 = 2e-4;

fn tokens(path: &Path) -> Vec<u32> {
    let bytes = fs::read(path).expect("tokens");
    bytes.as_chunks::<4>().0.iter().map(|&id| u32::from_le_bytes(id)).collect()
}

/// The hidden states of all layers, `[positions][hidden_size]` each, as bits.
fn hidden(model: &Model, parts: &[&[u32]], options: Options) -> Vec<Vec<u32>> {
    let mut session = model.session(options).expect("it fits");
    let mut all = vec![Vec::new(); model.n_layers() + 1];
    for part in parts {
        let complete = session.prefill_visiting(part, |hidden| {
            let width = model.hidden_size();
            assert_eq!(hidden.rows.len(), hidden.n_rows * width);
            assert_eq!(hidden.position, all[hidden.layer].len() / width);
            all[hidden.layer].extend(hidden.rows.iter().map(|number| number.to_bits()));
            ControlFlow::Continue(())
        });
        assert!(complete.expect("finite"));
    }
    let logits: Vec<u32> = session.logits().iter().map(|logit| logit.to_bits()).collect();
    session.restart();
    session.prefill(&parts.concat()).expect("good tokens");
    assert_eq!(logits, session.logits().iter().map(|logit| logit.to_bits()).collect::<Vec<_>>());
    all
}

#[test]
fn hidden_states_are_those_of_transformers() {
    let cases = reference_cases().into_iter().filter(|case| case.join("hidden.npy").exists());
    let mut n_cases = 0;
    for case in cases {
        n_cases += 1;
        let folder = TempDir::new("hidden");
        let (path, npy, prompt) = (folder.join("m.olmo"), folder.join("h.npy"), case.join("tokens.bin"));
        run(PACK, [case.join("weights").as_os_str(), path.as_os_str(), "--dtype".as_ref(), "f32".as_ref()]).ok();
        let model = Model::open(&path).expect("a good file");
        let ids = tokens(&prompt);
        let (shape, reference) = read_f32_npy(&case.join("hidden.npy"));
        let [n_states, n_last, width] = shape[..] else { panic!("{shape:?}") };
        assert_eq!((n_states, width), (model.n_layers() + 1, model.hidden_size()));

        let whole = hidden(&model, &[&ids], Options::new(ids.len()));
        let (first, rest) = ids.split_at(ids.len() / 3);
        let parts = hidden(&model, &[first, rest], Options { chunk: 7, ..Options::new(ids.len()) });
        assert!(whole == parts, "{}: a chunk changes bits", case.display());
        for (layer, expected) in reference.chunks(n_last * width).enumerate() {
            let last = &whole[layer][whole[layer].len() - expected.len()..];
            let off = last.iter().zip(expected).map(|(&bits, x)| (f32::from_bits(bits) - x).abs()).fold(0.0, f32::max);
            assert!(off <= TOLERANCE, "{} layer {layer}: off by {off}", case.display());

            let layer_flag = layer.to_string();
            let words = ["--hidden".as_ref(), npy.as_os_str(), "--layer".as_ref(), layer_flag.as_ref()];
            let steps = ids.len().to_string();
            let steps = ["--steps".as_ref(), steps.as_ref(), "--chunk".as_ref(), "11".as_ref()];
            run(INFER, [path.as_os_str(), prompt.as_os_str()].into_iter().chain(words).chain(steps)).ok();
            let (shape, found) = read_f32_npy(&npy);
            assert_eq!(shape, [ids.len(), width]);
            let found: Vec<u32> = found.iter().map(|number| number.to_bits()).collect();
            assert!(found == whole[layer], "{} layer {layer}: another one in the program", case.display());
        }
    }
    assert!(n_cases >= 8, "{n_cases}");
}

#[test]
fn program_writes_the_hidden_states_of_generated_positions() {
    let folder = TempDir::new("hidden-generated");
    let weights = folder.join("w");
    write_weights(&weights, &small_config(), Stored::F32, 7);
    let (path, prompt, npy, logits) =
        (folder.join("m.olmo"), folder.join("t.bin"), folder.join("h.npy"), folder.join("l.npy"));
    run(PACK, [&weights, &path]).ok();
    fs::write(&prompt, [5u32, 9, 12].map(u32::to_le_bytes).as_flattened()).expect("written");
    let text = |path: &Path| path.to_str().expect("UTF-8").to_string();
    let flags = ["--steps", "12", "--layer", "1", "--hidden", &text(&npy), "--logits", &text(&logits), "--json"];
    let finished = run(INFER, [&text(&path), &text(&prompt)].into_iter().map(String::as_str).chain(flags));
    let ids: Vec<u32> = finished
        .ok()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["token"].as_u64().expect("an id"))
        .map(|id| id as u32)
        .collect();
    let (shape, found) = read_f32_npy(&npy);
    assert_eq!((ids.len(), shape), (12, vec![12, 36]));
    let model = Model::open(&path).expect("a good file");
    let expected = hidden(&model, &[&ids], Options::new(12));
    assert!(found.iter().map(|number| number.to_bits()).eq(expected[1].iter().copied()));
    assert_eq!(read_f32_npy(&logits).0, [12, 101]);
}

#[test]
fn visitor_ends_the_pass_and_errors_are_those_of_prefill() {
    let folder = TempDir::new("hidden-errors");
    let weights = folder.join("w");
    write_weights(&weights, &small_config(), Stored::F32, 7);
    map_numbers(&weights, "model.embed_tokens.weight", |i, number| if i / 36 == 5 { f32::INFINITY } else { number });
    run(PACK, [weights.as_os_str(), folder.join("m.olmo").as_os_str(), "--allow-nonfinite".as_ref()]).ok();
    let model = Model::open(folder.join("m.olmo")).expect("a good file");
    let mut session = model.session(Options { chunk: 4, ..Options::new(20) }).expect("it fits");
    let mut n_seen = 0;
    let complete = session.prefill_visiting(&[7; 10], |_| {
        n_seen += 1;
        ControlFlow::Break(())
    });
    assert!(!complete.expect("finite"));
    assert_eq!((n_seen, session.tokens(), session.logits().len()), (1, &[7; 4][..], 0));
    let go_on = |_: olmo_infer::Hidden<'_>| ControlFlow::Continue(());
    assert!(matches!(session.prefill_visiting(&[], go_on), Err(Error::NoTokens)));
    assert!(matches!(session.prefill_visiting(&[7; 17], go_on), Err(Error::ContextFull { tokens: 17, left: 16, .. })));
    assert!(matches!(session.prefill_visiting(&[101], go_on), Err(Error::UnknownToken { token: 101, .. })));
    assert_eq!(session.position(), 4);
    // Not finite in the middle of a pass.
    let error = session.prefill_visiting(&[7, 5, 8, 8, 9, 9, 9], go_on).expect_err("not finite");
    assert!(matches!(error, Error::NotFinite { position: 5, .. }), "{error:?}");
    assert_eq!((session.position(), session.logits().len()), (8, 0));
}
