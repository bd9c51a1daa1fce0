//! Scores of sequences that begin alike are the bits of those of single runs.

use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::generate::{Run, generate};
use olmo_infer::internals::network::batch::Batch;
use olmo_infer::internals::network::{Network, Options};
use olmo_infer::internals::parallel::team::{Team, with_team};
use olmo_infer::internals::score::{Event, Item, TokenScore, score};
use olmo_infer::{Error, KvType};
use olmo_tests::{
    Random, Stored, TempDir, map_numbers, run, small_config, small_hybrid, small_olmo1, small_olmo3, small_olmoe,
    write_weights,
};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

const POSITIONS: usize = 300;

/// The bits of the scores of all tokens but the first, and whether each token is the likeliest.
type Scores = Vec<(u64, bool)>;

fn network(folder: &TempDir, weights: &Path) -> Arc<Network> {
    let model = folder.join("m.olmo");
    run(crate::PACK, ["--force".as_ref(), weights.as_os_str(), model.as_os_str(), "--allow-nonfinite".as_ref()]).ok();
    Arc::new(Network::new(Arc::new(ModelFile::open(&model).expect("a model"))).expect("memory"))
}

/// Scores a sequence by itself, as a run of the generation loop.
fn alone(network: &Arc<Network>, team: &mut Team, options: Options, tokens: &[u32]) -> Scores {
    let mut scores = Vec::new();
    if tokens.len() == 1 {
        return scores;
    }
    let mut batch = Batch::new(network, options, 1).expect("memory");
    generate(&mut batch, team, &[Run::scoring(tokens)], |evaluated| {
        scores.push((evaluated.nll.expect("scored").to_bits(), evaluated.top[0].0 == evaluated.next));
        Ok::<_, Error>(ControlFlow::Continue(()))
    })
    .expect("finite");
    scores
}

/// Scores items together; yields them in their order, and the number of tokens that were evaluated.
fn together(
    network: &Arc<Network>,
    team: &mut Team,
    (options, n_slots): (Options, usize),
    items: &[Item],
) -> (Vec<Result<Scores, String>>, usize) {
    let mut all: Vec<Option<Result<Scores, String>>> = vec![None; items.len()];
    let mut n_tokens = 0;
    let mut batch = Batch::new(network, options, n_slots).expect("memory");
    let bits = |score: &TokenScore| (score.nll.to_bits(), score.is_greedy);
    score(&mut batch, team, items, |event| {
        match event {
            Event::Pass(n) => n_tokens += n,
            Event::Scored(item, scores) => {
                let scores = scores.map(|scores| scores.iter().map(bits).collect()).map_err(|error| error.to_string());
                assert!(all[item].replace(scores).is_none(), "{item} twice");
            }
        }
        Ok::<_, Error>(())
    })
    .expect("scored");
    (all.into_iter().map(|scores| scores.expect("each item")).collect(), n_tokens)
}

/// Sequences that part from each other at random places, some of them equal, some the beginnings of others.
fn sequences(random: &mut Random, vocab_size: usize) -> Vec<Vec<u32>> {
    let mut all: Vec<Vec<u32>> = Vec::new();
    for _ in 0..1 + random.below(25) {
        let mut tokens = Vec::new();
        if !all.is_empty() && random.below(5) > 0 {
            let like = &all[random.below(all.len())];
            tokens.extend(&like[..random.below(like.len() + 1)]);
        }
        let most = [3, 30, 150][random.below(3)];
        let more = random.below(1 + most).min(POSITIONS - tokens.len());
        tokens.extend((0..more).map(|_| random.below(vocab_size) as u32));
        if tokens.is_empty() {
            tokens.push(1);
        }
        all.push(tokens);
    }
    all
}

#[test]
fn scores_have_the_bits_of_single_runs() {
    let folder = TempDir::new("shared-prefixes");
    let mut windows = small_olmo3();
    windows.sliding_window = 70;
    let mut random = Random(11);
    let mut n_shared = 0;
    for (index, mut config) in
        [small_config(), small_olmo1(), windows, small_olmoe(), small_hybrid()].into_iter().enumerate()
    {
        config.max_position_embeddings = 512;
        let weights = folder.join(format!("w{index}"));
        write_weights(&weights, &config, Stored::F32, 7);
        let network = network(&folder, &weights);
        for round in 0..12 {
            let kv = if round % 3 == 0 { KvType::Bf16 } else { KvType::F32 };
            let n_slots = [1, 2, 3, 8, 20][round % 5];
            let options = Options { chunk: [20, 64, 300][round % 3], kv, ..Options::new(POSITIONS) };
            let sequences = sequences(&mut random, config.vocab_size);
            let firsts: Vec<usize> = sequences.iter().map(|tokens| 1 + random.below(tokens.len())).collect();
            let items = sequences.iter().zip(&firsts).map(|(tokens, &first)| Item { tokens, first });
            let items: Vec<Item> = items.collect();
            with_team(1 + round % 2, |team| {
                let (found, n_tokens) = together(&network, team, (options, n_slots), &items);
                for ((item, found), first) in items.iter().zip(found).zip(&firsts) {
                    let expected = alone(&network, team, options, item.tokens).split_off(first - 1);
                    assert_eq!(found, Ok(expected), "{n_slots} slots, from {first} of {} tokens", item.tokens.len());
                }
                let evaluated = items.iter().filter(|item| item.first < item.tokens.len());
                let evaluated: Vec<&[u32]> = evaluated.map(|item| &item.tokens[..item.tokens.len() - 1]).collect();
                let distinct: BTreeSet<&[u32]> =
                    evaluated.iter().flat_map(|tokens| (1..=tokens.len()).map(|n| &tokens[..n])).collect();
                let all: usize = evaluated.iter().map(|tokens| tokens.len()).sum();
                // A path can have more nodes than there are slots; then a part is evaluated again.
                assert!((distinct.len()..=all).contains(&n_tokens) && (n_slots < 20 || n_tokens == distinct.len()));
                n_shared += all - n_tokens;
            })
            .expect("threads");
        }
    }
    assert!(n_shared > 1000, "{n_shared}");
}

#[test]
fn sequences_with_logits_that_are_not_finite_fail_alone() {
    let folder = TempDir::new("shared-not-finite");
    let weights = folder.join("w");
    let config = small_config();
    write_weights(&weights, &config, Stored::F32, 7);
    // Token 5 makes everything after it infinite or NaN.
    map_numbers(&weights, "model.embed_tokens.weight", |i, x| if i / config.hidden_size == 5 { f32::NAN } else { x });
    let network = network(&folder, &weights);
    let sequences: [&[u32]; 6] = [&[1, 2, 3, 4], &[1, 2, 5, 4], &[1, 2, 5, 4, 7], &[1, 2, 3, 5], &[5, 1], &[1, 2]];
    let mut items: Vec<Item> = sequences.iter().map(|tokens| Item::whole(tokens)).collect();
    // It needs no logits but the last ones, before which nothing is scored.
    let later = [1, 2, 3, 6, 5];
    items.push(Item { tokens: &later, first: 4 });
    let options = Options::new(10);
    with_team(1, |team| {
        for n_slots in [1, 2, 6] {
            let (found, _) = together(&network, team, (options, n_slots), &items);
            // A last token of 5 is only predicted.
            for (index, found) in found.iter().enumerate() {
                match index {
                    1 | 2 => assert!(found.as_ref().expect_err("NaN").contains("at position 2 is not"), "{found:?}"),
                    4 => assert!(found.as_ref().expect_err("NaN").contains("at position 0 is not"), "{found:?}"),
                    6 => assert_eq!(*found, Ok(alone(&network, team, options, &later).split_off(3))),
                    _ => assert_eq!(*found, Ok(alone(&network, team, options, sequences[index]))),
                }
            }
        }
    })
    .expect("a thread");
}

#[test]
fn batch_is_as_good_as_new_after_an_error() {
    let folder = TempDir::new("shared-errors");
    let weights = folder.join("w");
    write_weights(&weights, &small_config(), Stored::F32, 7);
    let network = network(&folder, &weights);
    let sequences: [&[u32]; 4] = [&[1, 2, 3, 4], &[1, 2, 5, 4], &[1, 2, 5, 7], &[1]];
    let items: Vec<Item> = sequences.iter().map(|tokens| Item::whole(tokens)).collect();
    let options = Options::new(10);
    let mut batch = Batch::new(&network, options, 3).expect("memory");
    with_team(1, |team| {
        for fails_at in 0.. {
            let mut n_events = 0;
            let result = score(&mut batch, team, &items, |_| {
                n_events += 1;
                if n_events > fails_at { Err(Error::NoTokens) } else { Ok(()) }
            });
            match result {
                Err(error) => assert!(matches!(error, Error::NoTokens)),
                Ok(()) => {
                    assert!(fails_at > 4, "{fails_at}");
                    break;
                }
            }
        }
        let beyond = small_config().vocab_size as u32;
        let unknown = score(&mut batch, team, &[Item::whole(&[1, beyond])], |_| Ok::<_, Error>(()));
        assert!(matches!(unknown, Err(Error::UnknownToken { token, .. }) if token == beyond));
    })
    .expect("a thread");
}

/// Items come in about their order, although those that begin alike are evaluated together.
#[test]
fn first_items_are_done_first() {
    let folder = TempDir::new("shared-order");
    let weights = folder.join("w");
    let mut config = small_config();
    config.max_position_embeddings = 512;
    write_weights(&weights, &config, Stored::F32, 7);
    let network = network(&folder, &weights);
    // The order of their tokens is the reverse one.
    let sequences: Vec<Vec<u32>> = (0..40).map(|i| [vec![80 - i; 50], vec![3; 50]].concat()).collect();
    let items: Vec<Item> = sequences.iter().map(|tokens| Item::whole(tokens)).collect();
    let mut batch = Batch::new(&network, Options { chunk: 100, ..Options::new(100) }, 4).expect("memory");
    let mut done = Vec::new();
    with_team(1, |team| {
        score(&mut batch, team, &items, |event| {
            if let Event::Scored(item, _) = event {
                done.push(item);
            }
            Ok::<_, Error>(())
        })
        .expect("scored");
    })
    .expect("a thread");
    assert!(done.iter().enumerate().all(|(at, &item)| item.abs_diff(at) <= 4), "{done:?}");
}
