//! Sessions that are forked, saved and loaded: what follows has the bits of one session, and no damaged file is loaded.

use crate::PACK;
use olmo_infer::Activations;
use olmo_infer::Error;
use olmo_infer::KvType;
use olmo_infer::Model;
use olmo_infer::Options;
use olmo_infer::Sampling;
use olmo_infer::SavedSessionError;
use olmo_infer::Session;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::digest as digest_of;
use olmo_tests::packed::tiny_config;
use olmo_tests::{
    Random, Stored, TempDir, map_numbers, run, small_config, small_hybrid, small_olmo1, small_olmo3, small_olmoe,
    write_weights,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

const HEADER_BYTES: usize = 128;
const HOT: Sampling = Sampling { temperature: 1.5, seed: 3, repetition_penalty: 1.1, ..Sampling::GREEDY };

fn packed(folder: &TempDir, name: &str, config: &ModelConfig) -> PathBuf {
    let (weights, path) = (folder.join(name), folder.join(format!("{name}.olmo")));
    write_weights(&weights, config, Stored::F32, 7);
    run(PACK, [weights.as_os_str(), path.as_os_str(), "--allow-nonfinite".as_ref()]).ok();
    path
}

/// Models with and without windows, whose rings wrap around, of the other block, with experts and with states.
fn configs() -> [(&'static str, ModelConfig); 5] {
    let with_room = |config| ModelConfig { max_position_embeddings: 512, ..config };
    [
        ("full", with_room(small_config())),
        ("windows", with_room(small_olmo3())),
        ("olmo1", with_room(small_olmo1())),
        ("experts", with_room(small_olmoe())),
        ("states", with_room(small_hybrid())),
    ]
}

fn tokens(n: usize, seed: u64) -> Vec<u32> {
    let mut random = Random(seed);
    (0..n).map(|_| 2 + random.below(99) as u32).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// What a session computes from here: its logits, those after more tokens, what is generated, and the same after a cut.
fn continued(session: &mut Session) -> Vec<Vec<u32>> {
    let mut found = vec![session.tokens().to_vec(), bits(session.logits())];
    session.prefill(&tokens(9, 5)).expect("good tokens");
    found.push(bits(session.logits()));
    found.push(session.generate(HOT).take(7).collect::<Result<_, _>>().expect("finite"));
    found.push(bits(session.logits()));
    session.truncate(session.position() - 16);
    session.decode(4).expect("a good token");
    found.push(bits(session.logits()));
    session.truncate(3);
    session.prefill(&[5, 6]).expect("good tokens");
    found.push(bits(session.logits()));
    found
}

/// Sessions in every state, by name: new, evaluated, with a generated token that is not evaluated, cut, cut beyond what
/// a ring keeps, and continued after a cut.
fn states(model: &Model, options: Options) -> Vec<(&'static str, Session)> {
    let new = || model.session(options).expect("it fits");
    let evaluated = |n: usize| {
        let mut session = new();
        session.prefill(&tokens(n, 1)).expect("good tokens");
        session
    };
    let mut generated = evaluated(150);
    generated.generate(HOT).take(3).for_each(|token| assert!(token.is_ok()));
    let [mut cut, mut cut_far, mut cut_and_continued] = [150, 300, 190].map(evaluated);
    cut.truncate(145);
    cut_far.truncate(20);
    cut_and_continued.truncate(185);
    cut_and_continued.prefill(&[7]).expect("a good token");
    vec![
        ("short", evaluated(20)),
        ("block", evaluated(64)),
        ("evaluated", evaluated(150)),
        ("long", evaluated(300)),
        ("generated", generated),
        ("cut", cut),
        ("cut far", cut_far),
        ("cut and continued", cut_and_continued),
    ]
}

#[test]
fn fork_and_saved_session_continue_with_the_same_bits() {
    let folder = TempDir::new("saved-bits");
    for (name, config) in configs() {
        let model = Model::open(packed(&folder, name, &config)).expect("a good file");
        for (chunk, kv) in [(512, KvType::F32), (7, KvType::F32), (7, KvType::Bf16)] {
            let options = Options { chunk, kv, ..Options::new(400) };
            for (state, mut session) in states(&model, options) {
                let place = format!("{name}, {state}, chunk {chunk}, {kv:?}");
                let path = folder.join("s.session");
                session.save(&path).expect("saved");
                let mut fork = session.fork().expect("memory");
                let mut loaded = model.load_session(&path).expect("a good file");
                assert_eq!((loaded.options().kv, loaded.options().positions), (kv, 400), "{place}");
                let mut again = loaded.fork().expect("memory");
                // The fork of a loaded one, saved again, is the same file.
                again.save(folder.join("t.session")).expect("saved");
                if state != "cut and continued" {
                    assert!(
                        fs::read(&path).expect("there") == fs::read(folder.join("t.session")).expect("there"),
                        "{place}"
                    );
                }
                // On another thread.
                let of_fork = thread::spawn(move || continued(&mut fork)).join().expect("no panic");
                let of_loaded = thread::spawn(move || continued(&mut loaded)).join().expect("no panic");
                let expected = continued(&mut session);
                assert!(of_fork == expected, "{place}: forked");
                assert!(of_loaded == expected, "{place}: loaded");
                assert!(continued(&mut again) == expected, "{place}: forked again");
            }
        }
    }
}

#[test]
fn new_session_is_forked_saved_and_loaded() {
    let folder = TempDir::new("saved-new");
    let model = Model::open(packed(&folder, "m", &tiny_config())).expect("a good file");
    let options = Options { activations: Activations::F32, ..Options::new(40) };
    let session = model.session(options).expect("it fits");
    session.save(folder.join("s")).expect("saved");
    for mut empty in [session.fork().expect("memory"), model.load_session(folder.join("s")).expect("a good file")] {
        assert_eq!((empty.position(), empty.left(), empty.logits().len()), (0, 40, 0));
        assert_eq!(empty.options().activations, Activations::F32);
        assert!(matches!(empty.generate(HOT).next(), Some(Err(Error::NothingEvaluated))));
        empty.prefill(&[3]).expect("a good token");
    }
}

#[test]
fn fork_does_not_change_the_session() {
    let folder = TempDir::new("saved-fork");
    let model = Model::open(packed(&folder, "m", &configs()[1].1)).expect("a good file");
    let mut session = model.session(Options::new(200)).expect("it fits");
    session.prefill(&tokens(100, 1)).expect("good tokens");
    let mut forks = [(); 3].map(|()| session.fork().expect("memory"));
    let expected = continued(&mut session.fork().expect("memory"));
    for (n, fork) in (1..).zip(&mut forks) {
        fork.prefill(&tokens(n * 20, n as u64)).expect("good tokens");
    }
    assert_eq!(session.position(), 100);
    assert!(continued(&mut session) == expected);
    assert_eq!(forks.map(|fork| fork.position()), [120, 140, 160]);
}

/// A tiny model with a window, and a saved session of it.
fn saved(folder: &TempDir) -> (Model, PathBuf, Vec<u8>) {
    let ModelConfig { layer_types, .. } = small_olmo3();
    let config = ModelConfig { layer_types: layer_types[2..].to_vec(), sliding_window: 3, ..tiny_config() };
    let ModelConfig { architecture, yarn, .. } = small_olmo3();
    let model =
        Model::open(packed(folder, "tiny", &ModelConfig { architecture, yarn, ..config })).expect("a good file");
    let mut session = model.session(Options::new(30)).expect("it fits");
    session.prefill(&[1, 2, 3, 4, 5, 6, 2, 1]).expect("good tokens");
    let path = folder.join("s.session");
    session.save(&path).expect("saved");
    let bytes = fs::read(&path).expect("there");
    (model, path, bytes)
}

#[track_caller]
fn refused(model: &Model, path: &Path) -> SavedSessionError {
    match model.load_session(path) {
        Err(Error::SavedSession { path: found, source }) => {
            assert_eq!(found, path);
            source
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_flipped_byte_and_every_cut_is_refused() {
    let folder = TempDir::new("saved-damage");
    let (model, path, bytes) = saved(&folder);
    assert!(bytes.len() < 1000, "{} bytes", bytes.len());
    for at in 0..bytes.len() {
        // All bits of the header, and one of each byte after it.
        for bit in if at < HEADER_BYTES { 0..8 } else { at % 8..at % 8 + 1 } {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << bit;
            fs::write(&path, bytes).expect("written");
            refused(&model, &path);
        }
    }
    for length in 0..bytes.len() {
        fs::write(&path, &bytes[..length]).expect("written");
        match refused(&model, &path) {
            SavedSessionError::NotASession => assert_eq!(length, 0),
            SavedSessionError::Length { found, .. } => assert_eq!(found, length as u64),
            other => panic!("{length}: {other}"),
        }
    }
    fs::write(&path, [&bytes[..], &[0]].concat()).expect("written");
    let (found, expected) = (bytes.len() as u64 + 1, bytes.len() as u64);
    assert_eq!(refused(&model, &path), SavedSessionError::Length { found, expected });
    fs::write(&path, &bytes).expect("written");
    model.load_session(&path).expect("a good file");
}

/// Puts a number into the header, and right digests into the file.
fn repaired(bytes: &[u8], at: usize, number: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + number.len()].copy_from_slice(number);
    let digest = digest_of(&bytes[..HEADER_BYTES - 8], 0);
    bytes[HEADER_BYTES - 8..HEADER_BYTES].copy_from_slice(&digest.to_le_bytes());
    let end = bytes.len() - 8;
    let digest = digest_of(&bytes[HEADER_BYTES..end], digest);
    bytes[end..].copy_from_slice(&digest.to_le_bytes());
    bytes
}

/// The offsets are those of docs/sessions.md.
#[test]
fn impossible_values_with_right_digests_are_refused() {
    let folder = TempDir::new("saved-crafted");
    let (model, path, bytes) = saved(&folder);
    let u64s = [0, 1, 2, 5, 6, 7, 9, 29, 31, 64, 65, 1 << 20, 1 << 31, 1 << 32, 1 << 40, 1 << 62, 1 << 63, u64::MAX];
    let damaged = |places: &[&str], at: usize, good: &[u64], width: usize| {
        for number in u64s.iter().filter(|number| !good.contains(number)) {
            fs::write(&path, repaired(&bytes, at, &number.to_le_bytes()[..width])).expect("written");
            match refused(&model, &path) {
                SavedSessionError::Damaged { place, .. } => {
                    assert!(places.contains(&place), "{places:?}, {number}: {place}")
                }
                // A possible number, with another length.
                SavedSessionError::Length { found, expected } => assert!(found != expected, "{places:?}, {number}"),
                other => panic!("{places:?}, {number}: {other}"),
            }
        }
    };
    let (n_tokens, n_evaluated, first) = ("number of tokens", "number of evaluated tokens", "first kept position");
    damaged(&["flags"], 12, &[1, 1 << 32, 1 << 40, 1 << 62, 1 << 63], 4);
    damaged(&["type of keys"], 16, &[1], 4);
    damaged(&["activations"], 20, &[1, 2], 4);
    // A number that is possible by itself may not go with the others.
    damaged(&["positions", n_tokens], 40, &[9, 29, 31, 64], 8);
    damaged(&[n_tokens, n_evaluated], 48, &[], 8);
    damaged(&[n_evaluated, first], 56, &[], 8);
    damaged(&[first], 64, &[5], 8);
    damaged(&["non-finite position", "non-finite layer"], 72, &[u64::MAX], 8);
    damaged(&["non-finite position", "non-finite layer"], 80, &[u64::MAX], 8);
    damaged(&["flags"], 88, &[0], 8);
    // Tokens and logits, which the digest covers.
    for (at, number, place) in [(128, 7, "token"), (160, f32::NAN.to_bits(), "logit"), (160, 0x7f80_0000, "logit")] {
        fs::write(&path, repaired(&bytes, at, &number.to_le_bytes())).expect("written");
        let found = refused(&model, &path);
        assert!(matches!(found, SavedSessionError::Damaged { place: found, .. } if found == place), "{found}");
    }
    let version = |number: u32| repaired(&bytes, 8, &number.to_le_bytes());
    fs::write(&path, version(2)).expect("written");
    assert_eq!(refused(&model, &path), SavedSessionError::Version { found: 2, supported: 1 });
    fs::write(&path, b"[{\"role\": \"user\"}]").expect("written");
    assert_eq!(refused(&model, &path), SavedSessionError::NotASession);
    // What it was made of is still good.
    fs::write(&path, version(1)).expect("written");
    model.load_session(&path).expect("a good file");
}

#[test]
fn session_of_another_model_is_refused() {
    let folder = TempDir::new("saved-other");
    let (model, path, _) = saved(&folder);
    let config = ModelConfig { eos_token_ids: vec![2], ..model.config().try_clone().expect("memory") };
    let other_config = Model::open(packed(&folder, "config", &config)).expect("a good file");
    map_numbers(&folder.join("tiny"), "model.norm.weight", |_, weight| weight + 0.5);
    run(PACK, [folder.join("tiny"), folder.join("weights.olmo")]).ok();
    let other_weights = Model::open(folder.join("weights.olmo")).expect("a good file");
    for other in [&other_config, &other_weights] {
        let found = refused(other, &path);
        assert!(matches!(found, SavedSessionError::OtherModel { .. }), "{found}");
    }
    // Keys do not depend on the texts of a model.
    write_weights(&folder.join("texts"), model.config(), Stored::F32, 7);
    fs::write(folder.join("texts/vocab.txt"), "0\ta\n1\tbc\n").expect("written");
    run(PACK, [folder.join("texts"), folder.join("texts.olmo")]).ok();
    let with_texts = Model::open(folder.join("texts.olmo")).expect("a good file");
    with_texts.load_session(&path).expect("the same weights");
}

#[test]
fn save_replaces_no_model_and_leaves_nothing_behind() {
    let folder = TempDir::new("saved-files");
    let (model, path, bytes) = saved(&folder);
    let mut session = model.load_session(&path).expect("a good file");
    let entries = || {
        let mut names: Vec<PathBuf> =
            fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
        names.sort();
        names
    };
    let before = (entries(), fs::read(model.path()).expect("there"), bytes.clone());
    for path in [model.path(), &folder.join("tiny"), Path::new("/dev/null")] {
        let error = session.save(path).expect_err("no place for a session").to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
    }
    assert!(matches!(session.save(folder.join("none/s")), Err(Error::Io { action: "create", .. })));
    let after = (entries(), fs::read(model.path()).expect("there"), fs::read(&path).expect("there"));
    assert!(after == before);
    session.prefill(&[1]).expect("a good token");
    session.save(&path).expect("replaced");
    assert!(fs::read(&path).expect("there") != bytes);
    assert_eq!(entries(), before.0);
    assert!(matches!(model.load_session(folder.path()), Err(Error::NotAFile { .. })));
    assert!(matches!(model.load_session(folder.join("none")), Err(Error::Io { action: "open", .. })));
}

#[test]
fn non_finite_session_stays_non_finite() {
    let folder = TempDir::new("saved-not-finite");
    let weights = folder.join("w");
    write_weights(&weights, &tiny_config(), Stored::F32, 7);
    // The row of token 5 of the embedding.
    map_numbers(&weights, "model.embed_tokens.weight", |i, number| if i / 3 == 5 { f32::INFINITY } else { number });
    run(PACK, [weights.as_os_str(), folder.join("m.olmo").as_os_str(), "--allow-nonfinite".as_ref()]).ok();
    let model = Model::open(folder.join("m.olmo")).expect("a good file");
    let mut session = model.session(Options::new(20)).expect("it fits");
    let texts = |session: &mut Session| {
        let error = session.prefill(&[1]).expect_err("not finite").to_string();
        session.truncate(2);
        session.prefill(&[3]).expect("finite");
        (error, bits(session.logits()))
    };
    session.prefill(&[1, 2, 5, 4]).expect_err("not finite");
    session.save(folder.join("s")).expect("saved");
    let mut fork = session.fork().expect("memory");
    let mut loaded = model.load_session(folder.join("s")).expect("a good file");
    let expected = texts(&mut session);
    assert!(expected.0.contains("the first ones were computed at position 2 in layer 0"), "{}", expected.0);
    assert_eq!(texts(&mut fork), expected);
    assert_eq!(texts(&mut loaded), expected);
}
