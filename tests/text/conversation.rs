//! Conversations: what the model evaluates in every turn is what one prefill of the whole conversation would be.

use crate::PACK;
use olmo_infer::Error;
use olmo_infer::Model;
use olmo_infer::Options;
use olmo_infer::Sampling;
use olmo_infer::chat::{Answer, Answering, ChatError, Conversation, End, Message, Role, Unanswered};
use olmo_infer::internals::text::chat::{Chat, Style};
use olmo_tests::chats::{MARKED, PLAIN, THINKING, add_text, demo_chat};
use olmo_tests::{Stored, TempDir, repository, run, small_olmo3, write_weights};
use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Sampling that takes unlikely tokens, too.
const HOT: Sampling = Sampling { temperature: 3.0, seed: 3, ..Sampling::GREEDY };

fn chat(model: &Model) -> Chat {
    Chat::new(model.file()).expect("good").expect("a chat format")
}

fn conversation(model: &Model, positions: usize, answering: Answering) -> Conversation {
    let options = Options { chunk: 16, ..Options::new(positions) };
    Conversation::new(model, options, answering).expect("it fits")
}

fn answering(sampling: Sampling, max_tokens: Option<usize>) -> Answering {
    Answering { sampling, max_tokens, stops: Vec::new() }
}

/// A listener that collects the text of an answer.
fn collect(text: &mut String) -> impl FnMut(&str) -> ControlFlow<()> {
    |piece| {
        *text += piece;
        ControlFlow::Continue(())
    }
}

fn ask(conversation: &mut Conversation, user: &str) -> (Answer, String) {
    let mut text = String::new();
    let answer = conversation.ask(user, &mut collect(&mut text)).expect("an answer");
    assert_eq!(conversation.messages().last(), Some(&Message::new(Role::Assistant, &text)), "the printed text is kept");
    (answer, text)
}

/// The content of the last message.
fn last(conversation: &Conversation) -> String {
    conversation.messages().last().expect("a message").content.clone()
}

/// A model with sliding windows, whose rings wrap around soon, and random weights.
fn with_windows(folder: &TempDir, template: &str) -> PathBuf {
    let mut config = small_olmo3();
    (config.vocab_size, config.max_position_embeddings, config.sliding_window) = (256, 1024, 5);
    let (weights, model) = (folder.join("windows"), folder.join("windows.olmo"));
    write_weights(&weights, &config, Stored::F32, 7);
    add_text(&weights, template);
    run(PACK, ["--force".as_ref(), weights.as_os_str(), model.as_os_str()]).ok();
    model
}

/// Compares the state after an answer with that of a new session.
fn check(model: &Model, conversation: &Conversation, answer: &Answer, what: &str) {
    let (tokens, messages) = (conversation.session().tokens(), conversation.messages());
    let ids = model.encode_messages(&messages[..messages.len() - 1]).expect("it renders");
    assert!(tokens.starts_with(&ids), "{what}: the conversation is what the chat format makes of the messages");
    assert_eq!(answer.reused + answer.evaluated, ids.len(), "{what}");
    assert_eq!(tokens.len(), ids.len() + answer.generated, "{what}");
    // The last token of an answer that the model did not end is not evaluated.
    let evaluated = tokens.len() - usize::from(answer.end != End::Model);
    let mut fresh = model.session(Options::new(evaluated)).expect("it fits");
    fresh.prefill(&tokens[..evaluated]).expect("good tokens");
    let bits = |logits: &[f32]| logits.iter().map(|logit| logit.to_bits()).collect::<Vec<u32>>();
    assert_eq!(bits(conversation.session().logits()), bits(fresh.logits()), "{what}");
}

#[test]
fn every_turn_has_the_logits_of_one_prefill() {
    for (template, name) in [(PLAIN, "plain"), (MARKED, "marked"), (THINKING, "thinking")] {
        let folder = TempDir::new("conversation-bits");
        for path in [demo_chat(PACK, &folder, template), with_windows(&folder, template)] {
            let model = Model::open(&path).expect("a good file");
            let mut conversation = conversation(&model, 900, answering(HOT, Some(30)));
            let mut reused = Vec::new();
            for turn in 0..7 {
                let what = format!("{name}, {}, turn {turn}", path.display());
                let answer = match turn {
                    // The answer of turn 3 again, and of turn 1 after the others are gone.
                    4 => conversation.retry(&mut |_| ControlFlow::Continue(())).expect("an answer"),
                    5 => {
                        assert!(conversation.undo() && conversation.undo());
                        conversation.retry(&mut |_| ControlFlow::Continue(())).expect("an answer")
                    }
                    6 if chat(&model).takes_system() => {
                        conversation.set_system(Some("Four score".into())).expect("it is taken");
                        ask(&mut conversation, "and").0
                    }
                    _ => ask(&mut conversation, ["Four score", " and seven", " years ago"][turn % 3]).0,
                };
                check(&model, &conversation, &answer, &what);
                reused.push(answer.reused);
            }
            assert!(reused[1] > 0, "{name}: {reused:?}");
        }
    }
}

#[test]
fn follows_templates_that_rewrite_earlier_turns() {
    let folder = TempDir::new("conversation-rewrites");
    let model = Model::open(demo_chat(PACK, &folder, THINKING)).expect("a good file");
    let mut conversation = conversation(&model, 900, answering(Sampling::GREEDY, Some(9)));
    let (_, first) = ask(&mut conversation, "Four");
    assert!(first.starts_with("<think></think>"), "an answer begins with what the prompt does: {first}");
    let before = conversation.session().tokens().len();
    let (answer, _) = ask(&mut conversation, "score");
    let text = model.decode_text(conversation.session().tokens()).expect("text");
    let said = first.strip_prefix("<think></think>").expect("a prefix");
    assert!(text.starts_with(&format!("Q:Four;A:{said};Q:score;A:<think></think>")), "{text}");
    assert_eq!(answer.reused, "Q:Four;A:".len(), "up to the thought that is dropped, of {before} tokens");
}

#[test]
fn retry_uses_next_seed_and_undo_removes_turn() {
    let folder = TempDir::new("conversation-retry");
    let model = Model::open(demo_chat(PACK, &folder, PLAIN)).expect("a good file");
    let mut conversation = conversation(&model, 300, answering(HOT, Some(30)));
    assert!(!conversation.undo());
    let nothing = conversation.retry(&mut |_| ControlFlow::Continue(()));
    assert!(matches!(nothing, Err(Unanswered::NoTurn)));
    let (first, text) = ask(&mut conversation, "Four score");
    let second = conversation.retry(&mut |_| ControlFlow::Continue(())).expect("an answer");
    assert_eq!((first.seed, second.seed, conversation.n_turns()), (3, 4, 1));
    assert_eq!((second.reused, second.evaluated), ("Four scor".len(), 1), "the turn is there already");
    assert_ne!(last(&conversation), text);
    ask(&mut conversation, " and");
    assert!(conversation.undo() && conversation.n_turns() == 1);
    conversation.clear();
    assert!(conversation.messages().is_empty());
    // The seeds of a new conversation are the same.
    let mut other = self::conversation(&model, 300, answering(Sampling { seed: 4, ..HOT }, Some(30)));
    let (_, text) = ask(&mut other, "Four score");
    let mut again = self::conversation(&model, 300, answering(HOT, Some(30)));
    ask(&mut again, "Four score");
    again.retry(&mut |_| ControlFlow::Continue(())).expect("an answer");
    assert_eq!(last(&again), text);
}

#[test]
fn answers_end_at_stops_limits_context_and_callback() {
    let folder = TempDir::new("conversation-ends");
    let model = Model::open(demo_chat(PACK, &folder, PLAIN)).expect("a good file");
    let greedy = |max_tokens| answering(Sampling::GREEDY, max_tokens);
    let mut stopped = conversation(&model, 300, Answering { stops: vec!["brought".into()], ..greedy(None) });
    let (answer, text) = ask(&mut stopped, "Four score and seven");
    assert_eq!((answer.end, text.as_str()), (End::Stop, " years ago our fathers "));
    let mut limited = conversation(&model, 300, greedy(Some(6)));
    let (answer, text) = ask(&mut limited, "Four score and seven");
    assert_eq!((answer.end, answer.generated, text.as_str()), (End::MaxTokens, 6, " years"));
    let mut small = conversation(&model, 30, greedy(None));
    let (answer, text) = ask(&mut small, "Four score and seven");
    assert_eq!((answer.end, answer.generated, text.as_str()), (End::Full, 10, " years ago"));
    assert_eq!(small.session().left(), 0);
    let mut ended = conversation(&model, 2000, greedy(None));
    let speech = fs::read_to_string(repository().join("demo/speech.txt")).expect("the speech");
    let (answer, text) = ask(&mut ended, &speech[..speech.len() - 20]);
    assert_eq!((answer.end, text.as_str()), (End::Model, &speech[speech.len() - 20..]));
    let mut left = conversation(&model, 300, greedy(None));
    let mut text = String::new();
    let listen = &mut |piece: &str| {
        text += piece;
        if text.ends_with("years") { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let answer = left.ask("Four score and seven", listen).expect("an answer");
    assert_eq!((answer.end, last(&left).as_str()), (End::Listener, " years"), "the printed text is kept");
    let (_, text) = ask(&mut left, " ago our");
    assert!(text.starts_with(" fathers"), "{text}");
}

#[test]
fn failed_turns_leave_the_conversation_unchanged() {
    let folder = TempDir::new("conversation-undone");
    let model = Model::open(demo_chat(PACK, &folder, PLAIN)).expect("a good file");
    let mut conversation = conversation(&model, 100, answering(Sampling::GREEDY, Some(10)));
    ask(&mut conversation, "Four score and seven");
    let before = conversation.messages().to_vec();
    // In the first pass of three, before any, and before the first token.
    for calls in 0..5 {
        let mut n = 0;
        let listen = &mut |_: &str| {
            n += 1;
            if n > calls { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let unanswered = conversation.ask(" our fathers brought forth on this continent", listen);
        match unanswered {
            Err(Unanswered::Listener) => assert_eq!(conversation.messages(), before, "{calls}"),
            Ok(Answer { end: End::Listener, .. }) => {
                assert!(calls > 2, "{calls}");
                conversation.undo();
            }
            other => panic!("{other:?}"),
        }
    }
    let unanswered = conversation.retry(&mut |_| ControlFlow::Break(()));
    assert!(matches!(unanswered, Err(Unanswered::Listener)));
    assert_eq!(conversation.messages(), before, "the old answer stays");
    let unanswered = conversation.ask("x".repeat(70), &mut |_| ControlFlow::Continue(()));
    let says = "the conversation would have 100 tokens, which leaves no room for an answer in 100 positions";
    assert_eq!(unanswered.expect_err("too long").to_string(), says);
    let unanswered = conversation.ask("x".repeat(1 << 20), &mut |_| ControlFlow::Continue(()));
    assert!(unanswered.expect_err("too long").to_string().contains("would have 1048606 bytes of text"));
    assert_eq!(conversation.messages(), before);
    let (answer, text) = ask(&mut conversation, " our");
    assert_eq!(text, " fathers b");
    assert_eq!(answer.reused, "Four score and seve".len(), "the session was cut back for the answer that did not come");
}

#[test]
fn accepts_system_messages_where_the_format_has_them() {
    let folder = TempDir::new("conversation-system");
    let none = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ \
                m.content }}{% endfor %}";
    let model = Model::open(demo_chat(PACK, &folder, none)).expect("a good file");
    let mut refusing = conversation(&model, 100, answering(Sampling::GREEDY, Some(3)));
    assert_eq!(refusing.set_system(Some("Hi".into())), Err(ChatError::NoSystem));
    assert_eq!(refusing.set_system(None), Ok(()));
    let model = Model::open(demo_chat(PACK, &folder, MARKED)).expect("a good file");
    let mut taking = conversation(&model, 100, answering(Sampling::GREEDY, Some(3)));
    ask(&mut taking, "a");
    taking.set_system(Some("S".into())).expect("a place");
    taking.set_system(Some("T".into())).expect("a place");
    let (answer, _) = ask(&mut taking, "b");
    assert_eq!(answer.reused, 1, "the first byte of a mark");
    let text = model.decode_text(taking.session().tokens()).expect("text");
    assert!(text.starts_with("[system]T[user]a[assistant]"), "{text}");
    taking.set_system(None).expect("no need");
    assert_eq!(taking.messages()[0].role, Role::User);
    assert_eq!(taking.n_turns(), 2);
}

#[test]
fn refuses_conversations_beyond_the_cost_limit() {
    let long = "x".repeat(1 << 20);
    let style = Style { next: std::array::from_fn(|_| long.clone()), ..Style::default() };
    let chat = Chat { alone: Some(style), ..Chat::default() };
    let turns = |n: usize| -> Vec<Message> {
        let roles = [Role::User, Role::Assistant].into_iter().cycle();
        roles.take(2 * n - 1).map(|role| Message::new(role, "a")).collect()
    };
    assert_eq!(chat.render(&turns(60)).expect("some text").len(), (59 << 20) + 119);
    let refused = chat.render(&turns(66)).expect_err("too long");
    let says =
        "the conversation is too long for the model's chat format, expected less than 64 MiB of text; shorten it";
    assert_eq!((refused.to_string().as_str(), refused), (says, ChatError::TooLong));
    // A million texts are looked for in each message.
    let reserved = vec!["never".to_string(); 1 << 20];
    let chat = Chat { alone: Some(Style::default()), reserved, ..Chat::default() };
    assert!(chat.render(&turns(1)).is_ok());
    assert_eq!(chat.render(&[Message::new(Role::User, "a".repeat(1 << 20))]), Err(ChatError::TooLong));
}

#[test]
fn refuses_models_without_text() {
    let folder = TempDir::new("conversation-refused");
    let model = Model::open(demo_chat(PACK, &folder, PLAIN)).expect("a good file");
    let bad = answering(Sampling { top_p: 2.0, ..HOT }, None);
    let refused = Conversation::new(&model, Options::new(10), bad).map(|_| ());
    assert!(matches!(refused, Err(Error::Sampling { name: "top_p", value: 2.0, low: 0.0, high: 1.0 })));
    let bare = folder.join("bare.olmo");
    for name in ["tokenizer.json", "vocab.txt", "chat_template.jinja"] {
        fs::remove_file(folder.join("weights").join(name)).expect("removed");
    }
    run(PACK, [&folder.join("weights"), &bare]).ok();
    let without = Model::open(&bare).expect("a good file");
    let refused = Conversation::with_chat(&without, chat(&model), Options::new(10), answering(HOT, None)).map(|_| ());
    assert!(refused.expect_err("no text").to_string().ends_with("has no vocabulary"));
    let refused = Conversation::new(&without, Options::new(10), answering(HOT, None)).map(|_| ());
    assert!(matches!(refused, Err(Error::NoChatTemplate { path }) if path == bare));
}
