//! Sessions that are cut back: what follows has the bits of a session that was never longer.

use crate::PACK;
use olmo_infer::Error;
use olmo_infer::KvType;
use olmo_infer::Model;
use olmo_infer::Options;
use olmo_infer::Sampling;
use olmo_infer::Session;
use olmo_infer::internals::file::mapping::Load;
use olmo_tests::{Random, Stored, TempDir, repository, run, small_config, small_olmo3, write_weights};
use std::path::{Path, PathBuf};

fn packed(folder: &TempDir, weights: &Path) -> PathBuf {
    let path = folder.join("m.olmo");
    run(PACK, ["--force".as_ref(), weights.as_os_str(), path.as_os_str()]).ok();
    path
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// The logits after a sequence that is evaluated in a session of its own.
fn fresh(model: &Model, tokens: &[u32]) -> Vec<u32> {
    fresh_with(model, tokens, KvType::F32)
}

fn fresh_with(model: &Model, tokens: &[u32], kv: KvType) -> Vec<u32> {
    let mut session = model.session(Options { kv, ..Options::new(tokens.len()) }).expect("it fits");
    session.prefill(tokens).expect("good tokens");
    bits(session.logits())
}

/// Cuts a session at every length and continues with other tokens, and from there back to the first ones.
fn cut_everywhere(model: &Model, tokens: &[u32], other: &[u32], chunk: usize, kv: KvType) {
    let options = Options { chunk, kv, ..Options::new(tokens.len() + other.len()) };
    let mut session = model.session(options).expect("it fits");
    let all = fresh_with(model, tokens, kv);
    for cut in (0..tokens.len()).rev() {
        session.resume(tokens).expect("good tokens");
        assert_eq!(bits(session.logits()), all, "{kv:?}, chunk {chunk}, cut {cut}: resumed");
        session.truncate(cut);
        assert_eq!((session.tokens(), session.logits()), (&tokens[..cut], &[][..]));
        session.prefill(other).expect("good tokens");
        let expected = fresh_with(model, &[&tokens[..cut], other].concat(), kv);
        assert_eq!(bits(session.logits()), expected, "{kv:?}, chunk {chunk}, cut {cut}");
    }
}

#[test]
fn truncated_session_yields_logits_of_a_new_one() {
    let folder = TempDir::new("truncate-bits");
    let mut random = Random(5);
    let mut windows = small_olmo3();
    // The smallest ring has two blocks of 64 positions: these sequences wrap around it.
    (windows.max_position_embeddings, windows.sliding_window) = (512, 5);
    let mut full = small_config();
    full.max_position_embeddings = 512;
    // Passes and threads: the smallest pass keeps the fewest positions.
    let several = &[(1, 1, KvType::F32), (2, 7, KvType::F32), (1, 512, KvType::F32), (2, 7, KvType::Bf16)][..];
    let one = &[(2, 7, KvType::F32)][..];
    for (name, config, ways) in [("full", full, one), ("windows", windows, several)] {
        let weights = folder.join(name);
        write_weights(&weights, &config, Stored::F32, 7);
        let path = packed(&folder, &weights);
        let mut tokens = |n: usize| (0..n).map(|_| random.below(101) as u32).collect::<Vec<u32>>();
        let (first, other) = (tokens(150), tokens(9));
        for &(n_threads, chunk, kv) in ways {
            let model = Model::open_with(&path, Load::Auto, n_threads).expect("a good file");
            cut_everywhere(&model, &first, &other, chunk, kv);
        }
    }
}

#[test]
fn keys_are_kept_unless_the_ring_overwrote_them() {
    let folder = TempDir::new("truncate-ring");
    let mut config = small_olmo3();
    (config.max_position_embeddings, config.sliding_window) = (512, 5);
    let weights = folder.join("weights");
    write_weights(&weights, &config, Stored::F32, 7);
    let model = Model::open(packed(&folder, &weights)).expect("a good file");
    let tokens: Vec<u32> = (0..300).map(|i| i * 7 % 101).collect();
    // A window of 5 and passes of 8 tokens keep 2 blocks of 64 positions: after 300 tokens those from 172 on.
    let mut session = model.session(Options { chunk: 8, ..Options::new(400) }).expect("it fits");
    for (cut, reused) in [(299, 299), (177, 177), (176, 176), (175, 0), (100, 0)] {
        session.restart();
        session.prefill(&tokens).expect("good tokens");
        assert_eq!(session.resume(&[&tokens[..cut], &[3]].concat()).expect("good tokens"), reused, "{cut}");
    }
    // Positions written after an earlier cut count too.
    session.restart();
    session.prefill(&tokens).expect("good tokens");
    session.resume(&[&tokens[..250], &[3]].concat()).expect("good tokens");
    let last = [&tokens[..170], &[4]].concat();
    assert_eq!(session.resume(&last).expect("good tokens"), 0);
    assert_eq!(bits(session.logits()), fresh(&model, &last));
    // A new sequence has written nothing yet.
    session.restart();
    session.prefill(&tokens[..100]).expect("good tokens");
    assert_eq!(session.resume(&[&tokens[..20], &[3]].concat()).expect("good tokens"), 20);
    // Without windows everything is kept.
    let demo = Model::open(packed(&folder, &repository().join("demo/weights"))).expect("a good file");
    let mut session = demo.session(Options { chunk: 8, ..Options::new(400) }).expect("it fits");
    session.prefill(&tokens).expect("good tokens");
    assert_eq!(session.resume(&tokens).expect("good tokens"), 299, "the last one is evaluated again");
    assert_eq!(session.resume(&tokens[..7]).expect("good tokens"), 6);
}

fn demo(folder: &TempDir) -> Model {
    Model::open(packed(folder, &repository().join("demo/weights"))).expect("a good file")
}

fn spoken(session: &mut Session, n: usize) -> Vec<u32> {
    session.generate(Sampling::GREEDY).take(n).collect::<Result<_, Error>>().expect("finite")
}

#[test]
fn truncated_session_continues() {
    let folder = TempDir::new("truncate-generate");
    let model = demo(&folder);
    let prompt = model.encode("Four score and seven").expect("a tokenizer");
    let mut session = model.session(Options::new(100)).expect("it fits");
    session.prefill(&prompt).expect("a good prompt");
    let first = spoken(&mut session, 12);
    let logits = bits(session.logits());
    // The last token is not evaluated: without it the logits are still those of the end.
    session.truncate(prompt.len() + 11);
    assert_eq!(bits(session.logits()), logits);
    assert_eq!(spoken(&mut session, 1), first[11..]);
    session.truncate(100);
    assert_eq!(session.position(), prompt.len() + 12, "a cut behind the end does nothing");
    session.truncate(prompt.len());
    assert!(session.logits().is_empty());
    assert_eq!(spoken(&mut session, 12), first);
    session.truncate(0);
    assert_eq!(session.position(), 0);
    assert!(session.generate(Sampling::GREEDY).next().expect("an item").is_err(), "an empty session has no logits");
    session.prefill(&prompt).expect("a good prompt");
    assert_eq!(spoken(&mut session, 12), first);
}

#[test]
fn refused_resume_changes_nothing() {
    let folder = TempDir::new("truncate-refused");
    let model = demo(&folder);
    let mut session = model.session(Options::new(24)).expect("it fits");
    session.prefill(&[70, 111, 117]).expect("good tokens");
    let logits = bits(session.logits());
    for (tokens, says) in [
        (&[][..], "no tokens to evaluate, expected at least one"),
        (&[1; 25], "25 tokens, expected at most 24: 24 of 24 positions are left"),
        (&[70, 256], "token 256, the vocabulary has ids 0 to 255"),
    ] {
        assert_eq!(session.resume(tokens).expect_err("refused").to_string(), says);
        assert_eq!((session.tokens(), bits(session.logits())), (&[70, 111, 117][..], logits.clone()));
    }
}

#[test]
fn stopped_resume_keeps_evaluated_tokens() {
    let folder = TempDir::new("truncate-stopped");
    let model = demo(&folder);
    let tokens: Vec<u32> = (0..30).map(|i| 65 + i % 20).collect();
    let mut session = model.session(Options { chunk: 8, ..Options::new(40) }).expect("it fits");
    let mut passes = 0;
    let two = || {
        passes += 1;
        passes <= 2
    };
    let stopped = session.resume_while(&tokens, two).expect("good tokens");
    assert_eq!((stopped.reused, stopped.evaluated, stopped.complete), (0, 16, false));
    assert_eq!((session.tokens(), session.logits()), (&tokens[..16], &[][..]));
    let resumed = session.resume_while(&tokens, || true).expect("good tokens");
    assert_eq!((resumed.reused, resumed.evaluated, resumed.complete), (16, 14, true));
    assert_eq!(bits(session.logits()), fresh(&model, &tokens));
}

#[test]
fn non_finite_values_go_with_their_tokens() {
    let folder = TempDir::new("truncate-nan");
    let config = small_config();
    let weights = folder.join("weights");
    write_weights(&weights, &config, Stored::F32, 7);
    olmo_tests::map_numbers(&weights, "model.embed_tokens.weight", |i, old| {
        // Of the tokens 7 and 9.
        if [7, 9].contains(&(i / config.hidden_size)) { f32::INFINITY } else { old }
    });
    let path = folder.join("m.olmo");
    run(PACK, ["--allow-nonfinite".as_ref(), weights.as_os_str(), path.as_os_str()]).ok();
    let model = Model::open(&path).expect("a good file");
    let mut session = model.session(Options::new(20)).expect("it fits");
    let first = |result: Result<usize, Error>| match result {
        Err(Error::NotFinite { position, first, .. }) => (position, first),
        other => panic!("{other:?}"),
    };
    assert_eq!(first(session.resume(&[3, 4, 7])), (2, Some((2, 0))));
    session.resume(&[3, 4, 5]).expect("finite again");
    assert_eq!(bits(session.logits()), fresh(&model, &[3, 4, 5]));
    assert_eq!(first(session.resume(&[3, 4, 5, 6, 9])), (4, Some((4, 0))), "not where the mark before the cut was");
    // A mark before the cut stays.
    assert_eq!(first(session.resume(&[3, 4, 5, 6, 9, 8])), (5, Some((4, 0))));
    assert_eq!(first(session.resume(&[3, 4, 5, 6, 9, 2])), (5, Some((4, 0))));
    session.truncate(4);
    session.decode(1).expect("finite again");
    assert_eq!(bits(session.logits()), fresh(&model, &[3, 4, 5, 6, 1]));
}
