//! `Model::score`: the bits of sessions that are evaluated one by one.

use crate::PACK;
use olmo_infer::Error;
use olmo_infer::Load;
use olmo_infer::Model;
use olmo_infer::NotRun;
use olmo_infer::Options;
use olmo_infer::ScoreEvent;
use olmo_infer::ScoreItem;
use olmo_infer::TokenScore;
use olmo_tests::packed::tiny_config;
use olmo_tests::{Random, Stored, TempDir, map_numbers, run, small_config, small_hybrid, small_olmo3, write_weights};
use std::path::{Path, PathBuf};

fn packed(folder: &TempDir, weights: &Path) -> PathBuf {
    let path = folder.join("m.olmo");
    run(PACK, ["--force".as_ref(), weights.as_os_str(), path.as_os_str(), "--allow-nonfinite".as_ref()]).ok();
    path
}

type Scores = Vec<Result<Vec<TokenScore>, String>>;

/// The scores of items, in their order.
fn scores(model: &Model, items: &[ScoreItem], options: Options, at_once: Option<usize>) -> Result<Scores, Error> {
    let mut all = vec![None; items.len()];
    model.score(items, options, at_once, |event| {
        if let ScoreEvent::Scored(index, scores) = event {
            let scores = scores.map_err(|error| error.to_string());
            assert!(all[index].replace(scores).is_none(), "{index} twice");
        }
        Ok::<_, Error>(())
    })?;
    Ok(all.into_iter().map(|scores| scores.expect("all items are reported")).collect())
}

/// How well the logits of a session predict a token.
fn score(logits: &[f32], token: u32) -> (f64, bool) {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
    let is_greedy = logits.iter().position(|&logit| logit == most) == Some(token as usize);
    (sum.ln() + f64::from(most) - f64::from(logits[token as usize]), is_greedy)
}

#[test]
fn scores_are_those_of_sessions_one_by_one() {
    let folder = TempDir::new("library-score");
    let mut random = Random(9);
    for (name, config) in [("full", small_config()), ("windows", small_olmo3()), ("states", small_hybrid())] {
        let weights = folder.join(name);
        write_weights(&weights, &config, Stored::F32, 7);
        let path = packed(&folder, &weights);
        let mut tokens = |n: usize| (0..n).map(|_| 2 + random.below(99) as u32).collect::<Vec<u32>>();
        let stem = tokens(20);
        let all: Vec<Vec<u32>> = (0..12).map(|i| [&stem[..20 - i], &tokens(i * 3)].concat()).collect();
        let mut items: Vec<ScoreItem> = all.iter().map(|tokens| ScoreItem::whole(tokens)).collect();
        items.extend(all.iter().map(|tokens| ScoreItem { tokens, first: 18 }));
        items.push(ScoreItem { tokens: &all[3], first: 500 });
        let model = Model::open(&path).expect("a good file");
        let alone: Scores = items
            .iter()
            .map(|item| scores(&model, &[*item], Options::new(64), Some(1)).expect("good items").remove(0))
            .collect();
        for (item, alone) in items.iter().zip(&alone) {
            let alone = alone.as_ref().expect("finite");
            let mut session = model.session(Options::new(64)).expect("it fits");
            let mut expected = Vec::new();
            for (position, &token) in item.tokens.iter().enumerate() {
                if position >= item.first {
                    expected.push(score(session.logits(), token));
                }
                session.decode(token).expect("a good token");
            }
            assert_eq!(alone.len(), expected.len());
            for (found, (nll, is_greedy)) in alone.iter().zip(expected) {
                // The sum of exponentials is computed in another order.
                assert!((found.nll - nll).abs() < 1e-5 && found.is_greedy == is_greedy, "{found:?}, expected {nll}");
            }
        }
        for (n_threads, at_once, chunk) in [(1, None, 512), (2, Some(1), 512), (2, Some(3), 7), (1, Some(64), 64)] {
            let model = Model::open_with(&path, Load::Auto, n_threads).expect("a good file");
            // More positions than the items need.
            let options = Options { chunk, ..Options::new(1 << 40) };
            let together = scores(&model, &items, options, at_once).expect("good items");
            assert!(together == alone, "{name}, {at_once:?}, chunk {chunk}");
        }
    }
}

#[test]
fn errors_of_score_can_be_matched_on() {
    let folder = TempDir::new("library-score-errors");
    let weights = folder.join("w");
    write_weights(&weights, &tiny_config(), Stored::F32, 7);
    // The row of token 5 of the embedding.
    map_numbers(&weights, "model.embed_tokens.weight", |i, number| if i / 3 == 5 { f32::INFINITY } else { number });
    let model = Model::open(packed(&folder, &weights)).expect("a good file");
    let refused = |items: &[ScoreItem], positions| {
        let found = scores(&model, items, Options::new(positions), None);
        found.map(|_| ()).expect_err("an error")
    };
    let good = ScoreItem::whole(&[1, 2, 3]);
    assert!(matches!(refused(&[good, ScoreItem::whole(&[])], 60), Error::NoTokens));
    assert!(matches!(refused(&[good, ScoreItem { first: 0, ..good }], 60), Error::NoTokens));
    assert!(matches!(refused(&[good, ScoreItem::whole(&[1, 7])], 60), Error::UnknownToken { token: 7, vocab_size: 7 }));
    // A token that is only predicted, too.
    assert!(matches!(refused(&[ScoreItem { tokens: &[1, 7], first: 5 }], 60), Error::UnknownToken { token: 7, .. }));
    let long = [1; 66];
    assert!(matches!(refused(&[ScoreItem::whole(&long[..64])], 60), Error::TooManyPositions { asked: 63, most: 60 }));
    assert!(matches!(refused(&[ScoreItem::whole(&long)], 100), Error::TooManyPositions { asked: 65, most: 64 }));
    assert_eq!(scores(&model, &[], Options::new(0), None).expect("nothing to do"), []);

    // One item is not finite: the others are scored.
    let items =
        [good, ScoreItem::whole(&[1, 5, 2]), ScoreItem::whole(&[1, 2, 5]), ScoreItem { tokens: &[5, 1], first: 2 }];
    let found = scores(&model, &items, Options::new(60), None).expect("good items");
    assert_eq!(found[0], scores(&model, &[good], Options::new(60), None).expect("good")[0]);
    let text = found[1].as_ref().expect_err("not finite");
    assert!(text.contains("at position 1 is not a finite number"), "{text}");
    assert_eq!(found[2].as_ref().map(Vec::len), Ok(2));
    assert_eq!(found[3].as_ref().map(Vec::len), Ok(0));

    // The callback ends the run with its own error, and cannot compute.
    let ended = model.score(&[good], Options::new(60), None, |_| Err::<(), _>(Error::NothingEvaluated));
    assert!(matches!(ended, Err(Error::NothingEvaluated)));
    let nested = model.score(&[good], Options::new(60), None, |_| {
        let mut session = model.session(Options::new(1))?;
        session.prefill(&[1])
    });
    assert!(matches!(nested, Err(Error::NotRun { why: NotRun::Nested })), "{nested:?}");
}
