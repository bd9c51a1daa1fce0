//! `Model` and `Session`, as another program uses them: the bits and tokens are those of `olmo-infer`.

use crate::{INFER, PACK};
use olmo_infer::Error;
use olmo_infer::Evaluated;
use olmo_infer::KvType;
use olmo_infer::Load;
use olmo_infer::Model;
use olmo_infer::NotRun;
use olmo_infer::Options;
use olmo_infer::Run;
use olmo_infer::Sampling;
use olmo_infer::Session;
use olmo_infer::Vocabulary;
use olmo_infer::chat::{Answering, ChatError, Conversation, Message, Role};
use olmo_tests::chats::{MARKED, demo_chat};
use olmo_tests::{TempDir, read_f32_npy, repository, run};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::thread;

/// Sampling that takes unlikely tokens, too.
const HOT: Sampling = Sampling { temperature: 1.5, seed: 3, repetition_penalty: 1.1, ..Sampling::GREEDY };

// Threads may share a model, and sessions may move between them; a struct or a static can hold both.
const fn is_shared<T: Send + Sync + 'static>() {}
const fn is_sent<T: Send + 'static>() {}
const _: () = is_shared::<Model>();
const _: () = is_shared::<Error>();
const _: () = is_shared::<Vocabulary>();
const _: () = is_sent::<Session>();
const _: () = is_sent::<Conversation>();

/// Packs the demo model.
fn packed(folder: &TempDir) -> PathBuf {
    let path = folder.join("demo.olmo");
    run(PACK, [&repository().join("demo/weights"), &path]).ok();
    path
}

fn open(path: &Path) -> Model {
    Model::open(path).expect("a good file")
}

/// The prompt of the demo.
fn prompt() -> Vec<u32> {
    let bytes = fs::read(repository().join("demo/prompt.tokens.bin")).expect("the prompt");
    bytes.as_chunks::<4>().0.iter().map(|&id| u32::from_le_bytes(id)).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn logits_match_the_program() {
    let folder = TempDir::new("library-logits");
    let (path, npy, prompt) = (packed(&folder), folder.join("l.npy"), prompt());
    let tokens = repository().join("demo/prompt.tokens.bin");
    run(INFER, [path.as_os_str(), tokens.as_os_str(), "--logits".as_ref(), npy.as_os_str()]).ok();
    let (shape, expected) = read_f32_npy(&npy);
    let expected: Vec<Vec<u32>> = expected.chunks_exact(shape[1]).map(bits).collect();
    for (load, n_threads, chunk) in [(Load::Auto, 2, 512), (Load::Read, 1, 3), (Load::Mmap, 3, 1)] {
        let model = Model::open_with(&path, load, n_threads).expect("a good file");
        let mut session = model.session(Options { chunk, ..Options::new(prompt.len()) }).expect("it fits");
        assert!(session.logits().is_empty());
        for begin in [1, 7, prompt.len()] {
            session.restart();
            assert!(session.logits().is_empty() && session.position() == 0);
            session.prefill(&prompt[..begin]).expect("a good prompt");
            assert_eq!(bits(session.logits()), expected[begin - 1], "{load:?} chunk {chunk}");
            for (position, &token) in prompt.iter().enumerate().skip(begin) {
                session.decode(token).expect("a good token");
                assert_eq!(bits(session.logits()), expected[position], "{load:?} chunk {chunk}");
            }
            assert_eq!((session.tokens(), session.left()), (prompt.as_slice(), 0));
        }
    }
}

#[test]
fn greedy_generation_gives_the_speech() {
    let folder = TempDir::new("library-speech");
    let model = open(&packed(&folder));
    let prompt = prompt();
    let mut session = model.session(Options::new(2000)).expect("it fits");
    session.prefill(&prompt).expect("a good prompt");
    let spoken = session.generate(Sampling::GREEDY).collect::<Result<Vec<u32>, Error>>().expect("finite");
    let speech = fs::read_to_string(repository().join("demo/speech.txt")).expect("the speech");
    assert_eq!(model.decode_text(&spoken).expect("text"), &speech[prompt.len()..]);
    assert_eq!(session.tokens(), [prompt, spoken].concat());
}

#[test]
fn seed_gives_the_tokens_of_the_program() {
    let folder = TempDir::new("library-seed");
    let path = packed(&folder);
    let tokens = repository().join("demo/prompt.tokens.bin");
    let flags = "--text --max-tokens 60 --temperature 1.5 --repetition-penalty 1.1 --seed 3".split(' ');
    let expected = run(INFER, [path.as_os_str(), tokens.as_os_str()].into_iter().chain(flags.map(str::as_ref)));
    let (model, prompt) = (open(&path), prompt());
    let mut session = model.session(Options::new(prompt.len() + 60)).expect("it fits");
    for _ in 0..2 {
        session.restart();
        session.prefill(&prompt).expect("a good prompt");
        let drawn = session.generate(HOT).collect::<Result<Vec<u32>, Error>>().expect("finite");
        assert_eq!(model.decode_text(&drawn).expect("text"), expected.ok());
    }
}

#[test]
fn generated_tokens_are_part_of_the_sequence() {
    let folder = TempDir::new("library-turns");
    let model = open(&packed(&folder));
    let prompt = prompt();
    let mut session = model.session(Options::new(60)).expect("it fits");
    session.prefill(&prompt).expect("a good prompt");
    let mut taken: Vec<u32> = session.generate(Sampling::GREEDY).take(5).collect::<Result<_, _>>().expect("finite");
    taken.extend(session.generate(Sampling::GREEDY).take(3).collect::<Result<Vec<u32>, _>>().expect("finite"));
    assert_eq!(session.position(), prompt.len() + 8);
    session.prefill(&prompt[..4]).expect("the session continues");

    let mut other = model.session(Options::new(60)).expect("it fits");
    other.prefill(&[&prompt, taken.as_slice(), &prompt[..4]].concat()).expect("the same tokens");
    assert_eq!(session.tokens(), other.tokens());
    assert_eq!(bits(session.logits()), bits(other.logits()));
    // Up to the last position, and no further.
    let left = session.left();
    assert_eq!(session.generate(HOT).filter(Result::is_ok).count(), left);
    assert_eq!((session.left(), session.generate(HOT).count()), (0, 0));
}

#[test]
fn sessions_of_several_threads_share_a_model() {
    let folder = TempDir::new("library-threads");
    let path = packed(&folder);
    for n_threads in [1, 2, 3] {
        let model = Model::open_with(&path, Load::Auto, n_threads).expect("a good file");
        let logits = || {
            let mut session = model.session(Options::new(100)).expect("it fits");
            session.prefill(&prompt()).expect("a good prompt");
            session.generate(HOT).for_each(|token| assert!(token.is_ok()));
            // A session begun in one thread continues in another.
            let session = thread::scope(|scope| {
                let thread = scope.spawn(move || {
                    session.restart();
                    session.prefill(&prompt()).expect("a good prompt");
                    session
                });
                thread.join().expect("no panic")
            });
            bits(session.logits())
        };
        let expected = logits();
        thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(logits)).collect();
            assert!(threads.into_iter().all(|thread| thread.join().expect("no panic") == expected));
        });
    }
}

/// A class of a binding or a server: it has no lifetime.
struct Held {
    session: Session,
    answer: Vec<u32>,
}

#[test]
fn session_outlives_model_in_another_thread() {
    let folder = TempDir::new("library-held");
    let model = open(&packed(&folder));
    let mut session = model.session(Options::new(60)).expect("it fits");
    session.prefill(&prompt()).expect("a good prompt");
    let expected = session.generate(HOT).collect::<Result<Vec<u32>, Error>>().expect("finite");

    let mut held = Held { session: model.clone().session(Options::new(60)).expect("it fits"), answer: Vec::new() };
    held.session.prefill(&prompt()).expect("a good prompt");
    drop(session);
    drop(model);
    let held = thread::spawn(move || {
        held.answer = held.session.generate(HOT).collect::<Result<_, _>>().expect("finite");
        held
    });
    let held = held.join().expect("no panic");
    assert_eq!(held.answer, expected);
    assert_eq!(held.session.tokens(), [prompt(), expected].concat());
}

#[test]
fn many_runs_give_the_tokens_of_single_sessions() {
    let folder = TempDir::new("library-runs");
    let model = open(&packed(&folder));
    let prompt = prompt();
    let prompts: Vec<&[u32]> = (1..=prompt.len()).map(|n| &prompt[..n]).collect();
    let runs: Vec<Run> = prompts.iter().map(|prompt| Run { sampling: HOT, ..Run::new(prompt, 30) }).collect();
    for at_once in [None, Some(1), Some(3)] {
        let mut found = vec![Vec::new(); runs.len()];
        let visit = |evaluated: Evaluated| {
            found[evaluated.run].push(evaluated.next);
            Ok::<_, Error>(ControlFlow::Continue(()))
        };
        let timing = model.generate(&runs, Options::new(30), at_once, visit).expect("good runs");
        assert_eq!(timing.prefill_tokens + timing.decode_tokens, 30 * runs.len());
        for (prompt, found) in prompts.iter().zip(found) {
            let mut session = model.session(Options::new(31)).expect("it fits");
            session.prefill(prompt).expect("a good prompt");
            // The text of the demo does not end before.
            let expected = session.generate(HOT).collect::<Result<Vec<u32>, Error>>().expect("finite");
            assert_eq!(found, expected, "{at_once:?}, {} tokens", prompt.len());
        }
    }
    let refused = |run: Run, options| model.generate(&[run], options, None, |_| Ok::<_, Error>(ControlFlow::Break(())));
    assert!(matches!(refused(Run::new(&[], 5), Options::new(5)), Err(Error::NoTokens)));
    assert!(matches!(refused(Run::new(&[70], 0), Options::new(5)), Err(Error::NoPositions)));
    assert!(matches!(refused(Run::new(&[70], 6), Options::new(5)), Err(Error::TooManyPositions { asked: 6, most: 5 })));
    let unknown = refused(Run::new(&[256], 1), Options::new(5));
    assert!(matches!(unknown, Err(Error::UnknownToken { token: 256, vocab_size: 256 })), "{unknown:?}");
    let bad = Run { sampling: Sampling { top_k: Some(0), ..HOT }, ..Run::new(&[70], 1) };
    assert!(matches!(refused(bad, Options::new(5)), Err(Error::Sampling { name: "top_k", value: 0.0, .. })));
    let none = model.generate(&[], Options::new(0), None, |_| Ok::<_, Error>(ControlFlow::Break(())));
    assert_eq!(none.expect("nothing to do").prefill_tokens, 0);
    // The threads of the model are taken: a session of it cannot compute meanwhile.
    let nested = model.generate(&[Run::new(&[70], 1)], Options::new(1), None, |_| {
        let mut session = model.session(Options::new(1))?;
        session.prefill(&[70]).map(|()| ControlFlow::Continue(()))
    });
    assert!(matches!(nested, Err(Error::NotRun { why: NotRun::Nested })), "{nested:?}");
}

#[test]
fn errors_can_be_matched_on() {
    let folder = TempDir::new("library-errors");
    let path = packed(&folder);
    let model = open(&path);
    assert!(matches!(model.session(Options::new(0)), Err(Error::NoPositions)));
    let most = model.max_positions();
    let refused = model.session(Options::new(most + 1));
    assert!(
        matches!(refused, Err(Error::TooManyPositions { asked, most: found }) if (asked, found) == (most + 1, most))
    );
    let mut session = model.session(Options::new(3)).expect("it fits");
    let refused = session.generate(Sampling::GREEDY).next();
    assert!(matches!(refused, Some(Err(Error::NothingEvaluated))), "{refused:?}");
    assert!(matches!(session.prefill(&[]), Err(Error::NoTokens)));
    assert!(matches!(session.prefill(&[1; 4]), Err(Error::ContextFull { tokens: 4, left: 3, positions: 3 })));
    assert!(matches!(session.prefill(&[300]), Err(Error::UnknownToken { token: 300, vocab_size: 256 })));
    assert!(matches!(model.decode_text(&[999]), Err(Error::NoText { token: 999, .. })));
    assert!(matches!(model.encode_messages(&[]), Err(Error::NoChatTemplate { path: found }) if found == path));
    let io = Model::open(folder.join("none.olmo"));
    assert!(matches!(&io, Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound));
    assert!(matches!(Model::open(folder.join("demo.olmo/x")), Err(Error::Io { .. })));
    assert!(matches!(Model::open(folder.path()), Err(Error::NotAFile { .. })));
}

#[test]
fn model_reports_its_sizes() {
    let folder = TempDir::new("library-sizes");
    let path = packed(&folder);
    let model = open(&path);
    assert_eq!((model.path(), model.vocab_size(), model.max_positions()), (path.as_path(), 256, 2048));
    let session = model.session(Options::new(100)).expect("it fits");
    assert_eq!(session.left(), 100);
    assert!(model.session_bytes(&Options::new(100)) < model.session_bytes(&Options::new(200)));
    let bytes = |positions, kv| model.session_bytes(&Options { kv, ..Options::new(positions) });
    // With a chunk of 512 both have the same activations: the rest is the KV cache of 1,024 positions.
    let cache = |kv| bytes(2048, kv) - bytes(1024, kv);
    assert_eq!(cache(KvType::F32), 2 * cache(KvType::Bf16));
    assert_eq!(model.recommended_sampling().expect("good"), None);
    model.check_complete().expect("it is");
    assert!(model.populate(&|| false).expect("no error") || cfg!(not(target_os = "linux")));
}

/// The text of the error.
#[track_caller]
fn refused<T>(result: Result<T, Error>) -> String {
    result.map(|_| ()).expect_err("an error").to_string()
}

#[test]
fn refused_tokens_change_nothing() {
    let folder = TempDir::new("library-refused");
    let model = open(&packed(&folder));
    assert_eq!(refused(model.session(Options::new(2049))), "2049 positions requested, expected at most 2048");
    assert!(refused(model.session(Options::new(0))).contains("one position"));
    assert!(
        refused(Model::open(folder.join("none.olmo"))).ends_with("none.olmo: cannot open: No such file or directory")
    );

    let mut session = model.session(Options::new(24)).expect("it fits");
    let nothing = "nothing to generate from; evaluate a prompt first";
    let mut tokens = session.generate(Sampling::GREEDY);
    assert_eq!(refused(tokens.next().expect("an item")), nothing);
    assert!(tokens.next().is_none());
    session.prefill(&prompt()).expect("a good prompt");
    let (before, logits) = (session.tokens().to_vec(), bits(session.logits()));
    assert_eq!(refused(session.prefill(&[])), "no tokens to evaluate, expected at least one");
    assert_eq!(refused(session.prefill(&[1; 5])), "5 tokens, expected at most 4: 4 of 24 positions are left");
    assert_eq!(refused(session.prefill(&[1, 256])), "token 256, the vocabulary has ids 0 to 255");
    assert!(refused(session.decode(u32::MAX)).starts_with("token 4294967295"));
    let mut bad = session.generate(Sampling { top_p: f64::NAN, ..HOT });
    assert_eq!(refused(bad.next().expect("an item")), "top_p is NaN, expected a number from 0 to 1");
    assert!(bad.next().is_none());
    assert_eq!((session.tokens(), bits(session.logits())), (before.as_slice(), logits));
    session.prefill(&[1; 4]).expect("room for four");
    assert_eq!(refused(session.decode(1)), "1 tokens, expected at most 0: 0 of 24 positions are left");
}

#[test]
fn encode_and_decode_round_trip() {
    let folder = TempDir::new("library-text");
    let path = packed(&folder);
    let model = open(&path);
    let ids = model.encode("Four score and seven").expect("a tokenizer");
    assert_eq!(ids, prompt());
    assert!(model.encode("").expect("a tokenizer").is_empty());
    assert_eq!(model.eos_ids(), model.config().eos_token_ids);
    assert!(!model.eos_ids().is_empty());
    assert_eq!(model.decode_text(&ids).expect("text"), "Four score and seven");
    assert_eq!(
        refused(model.encode_messages(&[Message::new(Role::User, "Hi")])),
        format!("{}: has no chat template", path.display())
    );
    assert_eq!(refused(model.decode_text(&[70, 999])), format!("{}: has no text for the id 999", path.display()));
}

#[test]
fn unusable_chat_template_error_names_model() {
    let folder = TempDir::new("library-unusable-chat");
    let path = demo_chat(PACK, &folder, "{% for");
    let model = open(&path);
    let begin = format!("{}: its chat template", path.display());
    let error = model.encode_messages(&[Message::new(Role::User, "Hi")]).expect_err("unusable");
    assert!(matches!(error, Error::UnusableChatTemplate { .. }) && error.to_string().starts_with(&begin), "{error}");
    let answering = Answering { sampling: Sampling::GREEDY, max_tokens: None, stops: Vec::new() };
    let error = Conversation::new(&model, Options::new(8), answering).expect_err("unusable").to_string();
    assert!(error.starts_with(&begin), "{error}");
}

#[test]
fn messages_error_holds_its_reason() {
    let folder = TempDir::new("library-messages");
    let model = open(&demo_chat(PACK, &folder, MARKED));
    let error = model.encode_messages(&[Message::new(Role::Assistant, "Hi")]).expect_err("no user message");
    let Error::Messages { source: ChatError::Order { index: 0, found: Some("assistant"), .. } } = error else {
        panic!("{error}");
    };
}
