//! Text in and text out, as users meet it.

use crate::{INFER, PACK};
use olmo_infer::internals::error::shown;
use olmo_infer::internals::format::section;
use olmo_tests::crafted::{vocabulary, with_sections};
use olmo_tests::terminals::{pty, screen};
use olmo_tests::{Finished, TempDir, finish, infer_words, repository, run, skipped};
use serde_json::{Value, json};
use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The demo model, which knows a speech by heart.
fn demo(folder: &TempDir) -> PathBuf {
    let model = folder.join("demo.olmo");
    run(PACK, [&repository().join("demo/weights"), &model]).ok();
    model
}

/// The weights of the demo in a folder where other files can be added.
fn demo_weights(folder: &TempDir) -> PathBuf {
    let weights = folder.join("weights");
    fs::create_dir(&weights).expect("created");
    for (name, bytes) in olmo_tests::files(&repository().join("demo/weights")) {
        fs::write(weights.join(name), bytes).expect("copied");
    }
    weights
}

fn infer(model: &Path, arguments: &[&str]) -> Finished {
    run(INFER, infer_words(&[model.as_os_str()], arguments))
}

/// With this on standard input; yields standard output as bytes.
fn piped(model: &Path, arguments: &[&str], input: &[u8]) -> (Option<i32>, Vec<u8>, String) {
    let mut command = Command::new(INFER);
    command.args(infer_words(&[model.as_os_str()], arguments));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("starts");
    child.stdin.take().expect("piped").write_all(input).expect("reads its input");
    let output = child.wait_with_output().expect("ends");
    (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn speech() -> String {
    fs::read_to_string(repository().join("demo/speech.txt")).expect("the speech")
}

#[test]
fn prompt_is_continued_to_the_end_of_text() {
    let folder = TempDir::new("text-prompt");
    let model = demo(&folder);
    let rest = speech().strip_prefix("Four score and seven").expect("begins so").to_string();
    assert_eq!(infer(&model, &["--prompt", "Four score and seven", "--max-tokens", "2000"]).ok(), rest);
    assert_eq!(infer(&model, &["--prompt", "Four score and seven", "--max-tokens", "6"]).ok(), " years");
    let (code, out, _) = piped(&model, &["--prompt", "-", "--max-tokens", "6"], b"Four score and seven");
    assert_eq!((code, out.as_slice()), (Some(0), &b" years"[..]));
    // The lines of positions are there too.
    let lines = infer(&model, &["--prompt", "Four", "--json", "--steps", "5"]);
    let last: Value = serde_json::from_str(lines.ok().lines().last().expect("lines")).expect("JSON");
    assert_eq!((&last["pos"], &last["text"]), (&json!(4), &json!(" ")));
}

#[test]
fn tokenize_and_detokenize_round_trip() {
    let folder = TempDir::new("text-tokenize");
    let model = demo(&folder);
    let text = "Four score – \u{1f600}\n".as_bytes();
    let (code, ids, _) = piped(&model, &["tokenize"], text);
    assert_eq!(code, Some(0));
    assert_eq!(ids, text.iter().flat_map(|&byte| u32::from(byte).to_le_bytes()).collect::<Vec<u8>>());
    let (code, back, _) = piped(&model, &["detokenize"], &ids);
    assert_eq!((code, back.as_slice()), (Some(0), text));
    // From files, and a prompt.
    let (of_text, of_ids) = (folder.join("t.txt"), folder.join("t.bin"));
    fs::write(&of_text, text).expect("written");
    fs::write(&of_ids, &ids).expect("written");
    let path = |path: &Path| path.to_str().expect("UTF-8").to_string();
    assert_eq!(piped(&model, &["tokenize", &path(&of_text)], b"").1, ids);
    assert_eq!(infer(&model, &["detokenize", &path(&of_ids)]).ok().as_bytes(), text);
    assert_eq!(infer(&model, &["tokenize", "--prompt", "Fo"]).ok(), "F\0\0\0o\0\0\0");
    assert_eq!(piped(&model, &["tokenize"], b""), (Some(0), Vec::new(), String::new()));
    // Invalid UTF-8 is reported with its position.
    let (code, out, error) = piped(&model, &["tokenize"], b"abc\xff");
    assert_eq!((code, out.len()), (Some(1), 0));
    assert!(error.contains("byte 3 is not UTF-8") && error.lines().count() == 1, "{error}");
}

/// Row X6.
#[test]
fn prompt_file_is_the_prompt_byte_for_byte() {
    let folder = TempDir::new("text-file");
    let model = demo(&folder);
    let path = folder.join("p.txt");
    let name = path.to_str().expect("UTF-8");
    let prompted = |text: &[u8], flags: &[&str]| {
        fs::write(&path, text).expect("written");
        match flags {
            ["tokenize"] => infer(&model, &["tokenize", "--prompt-file", name]),
            flags => infer(&model, &[&["--prompt-file", name], flags].concat()),
        }
    };
    assert_eq!(prompted(b"Four score and seven", &["-n", "6"]).ok(), " years");
    for text in ["a\n", "a\r\nb\r\n", "\n", "--chat", "-5", "a\0b"] {
        let expected: Vec<u8> = text.bytes().flat_map(|byte| u32::from(byte).to_le_bytes()).collect();
        let found = prompted(text.as_bytes(), &["tokenize"]);
        assert_eq!(found.ok().as_bytes(), expected, "{text:?}");
        assert_eq!(found.stderr, "");
    }
    assert_eq!(piped(&model, &["--prompt-file=-", "-n6"], b"Four score and seven").1, b" years");
    // A byte order mark, as some editors add it, is reported.
    let marked = prompted("\u{feff}Fo".as_bytes(), &["tokenize"]);
    assert!(marked.ok().ends_with("F\0\0\0o\0\0\0") && marked.stdout.matches("\0\0\0").count() == 5);
    assert!(marked.stderr.contains("note: ") && marked.stderr.contains("p.txt: begins with a byte order mark"));
    for (text, code, says) in [
        (&b""[..], 2, "the prompt is empty"),
        (b"\xff\xfeF\0o\0", 1, "p.txt: text in UTF-16, expected UTF-8; convert it with iconv -f UTF-16 -t UTF-8"),
        (b"F\0o\0u\0", 1, "p.txt: text in UTF-16"),
        (b"\0F\0o", 1, "p.txt: text in UTF-16"),
        (b"abc\xff", 1, "p.txt: not text: byte 3 is not UTF-8"),
        (&[b'a'; 5000], 1, "the prompt has 5000 tokens, expected at most 2048"),
    ] {
        let refused = prompted(text, &[]);
        assert!(refused.refused(code).contains(says), "{}", refused.stderr);
    }
    let absent = infer(&model, &["--prompt-file", "/no/such"]);
    assert!(absent.refused(1).contains("/no/such: cannot open: No such file"), "{}", absent.stderr);
    let logits = prompted(b"Fo", &["--logits", name]);
    assert!(logits.refused(1).contains("p.txt: is an input of this run"), "{}", logits.stderr);
    let phrase = infer(&model, &["Why is the sky blue?"]);
    assert!(phrase.refused(1).ends_with("No such file or directory; to give text use --prompt"), "{}", phrase.stderr);
}

#[test]
fn refuses_long_texts_with_little_memory() {
    let folder = TempDir::new("text-long");
    let (model, text) = (demo(&folder), folder.join("t.txt"));
    fs::File::create(&text).expect("a file").set_len(1 << 40).expect("a sparse file");
    let limited = |arguments: &str| {
        let arguments = arguments.replace('M', &model.display().to_string());
        run("sh", ["-c", &format!("ulimit -v 1000000; exec {INFER} {arguments}")])
    };
    // Of a file the length is known, so that nothing of it is read.
    let refused =
        run("sh", ["-c", &format!("ulimit -v 40000; exec {INFER} tokenize {} {}", model.display(), text.display())]);
    assert!(refused.refused(1).contains("more than 64 MiB of text, expected less; split it"), "{}", refused.stderr);
    let refused = limited("detokenize M /dev/zero");
    let says =
        "more than 67108864 tokens, expected at most 67108864, the most that are detokenized at once; split the file";
    assert!(refused.refused(1).contains(says), "{}", refused.stderr);
    let refused = limited("M --prompt - < /dev/zero");
    let says = "standard input: more than 1048576 bytes, too many for the 2048 positions of the model";
    assert!(refused.refused(1).contains(says), "{}", refused.stderr);
}

#[test]
fn text_ends_at_a_character_boundary() {
    // This model generates every byte of a text as a token.
    let folder = TempDir::new("text-characters");
    let model = demo(&folder);
    let mut n_replaced = 0;
    for n in 1..40 {
        let flags = ["--prompt", "Four score", "--temperature", "9", "--seed", "1", "--max-tokens", &n.to_string()];
        let (code, text, _) = piped(&model, &flags, b"");
        assert_eq!(code, Some(0));
        // Invalid bytes in the middle pass, an unfinished character at the end does not.
        let last = text.utf8_chunks().last().map_or(&[][..], |chunk| chunk.invalid());
        assert!(
            str::from_utf8(last).is_ok_and(str::is_empty) || str::from_utf8(last).unwrap_err().error_len().is_some()
        );
        n_replaced += usize::from(text.ends_with("\u{fffd}".as_bytes()));
    }
    assert!(n_replaced > 3, "{n_replaced}");
}

#[test]
fn stop_text_ends_the_answer_unprinted() {
    let folder = TempDir::new("text-stop");
    let model = demo(&folder);
    let prompt = ["--prompt", "Four score and seven"];
    let with = |more: &[&str]| infer(&model, &[&prompt, more].concat()).ok().to_string();
    assert_eq!(with(&["--stop", " ago"]), " years");
    assert_eq!(with(&["--stop", "brought", "--stop", "our fathers"]), " years ago ");
    assert_eq!(with(&["--stop", "yeti", "--max-tokens", "4"]), " yea");
    assert_eq!(with(&["--stop", " "]), "");
}

#[test]
fn seed_gives_the_same_text_for_any_thread_count() {
    let folder = TempDir::new("text-seed");
    let model = demo(&folder);
    let draw = |more: &[&str]| {
        let flags = ["--prompt", "Four score", "--temperature", "2.5", "--max-tokens", "100", "--stop", "zzz"];
        infer(&model, &[&flags, more].concat()).ok().to_string()
    };
    let first = draw(&["--seed", "1"]);
    for threads in ["1", "2", "3", "8"] {
        assert_eq!(draw(&["--seed", "1", "--threads", threads]), first);
    }
    assert_ne!(draw(&["--seed", "2"]), first);
    assert_ne!(draw(&["--seed", "1", "--top-k", "2"]), first);
    assert_ne!(draw(&[]), draw(&[]), "without a seed the text is another one each time");
    // A certain token is always sampled, and a penalty prevents its repetition.
    let certain = infer(&model, &["--prompt", "Four score", "--top-p", "0", "--max-tokens", "10"]);
    assert_eq!(certain.ok(), " and seven");
    let penalty = ["--prompt", "Four score", "--repetition-penalty", "1000", "--max-tokens", "10"];
    assert_ne!(infer(&model, &penalty).ok(), " and seven");
    let timing = infer(&model, &["--prompt", "Four", "--seed", "77", "--timing", "--max-tokens", "2"]);
    assert!(timing.stderr.contains("; seed 77"), "{}", timing.stderr);
}

#[test]
fn chat_samples_as_recommended() {
    let folder = TempDir::new("text-author");
    let weights = demo_weights(&folder);
    fs::write(weights.join("chat_template.jinja"), "{% for m in messages %}{{ m.content }}{% endfor %}")
        .expect("written");
    let model = folder.join("m.olmo");
    let pack = |generation: Value| {
        fs::write(weights.join("generation_config.json"), generation.to_string()).expect("written");
        let packed = run(PACK, [weights.as_os_str(), model.as_os_str(), "--force".as_ref()]);
        [packed.ok(), &packed.stderr].concat()
    };
    let chat = |flags: &[&str]| {
        let turn = ["--chat", "--prompt", "Four score and seven", "--max-tokens", "30", "--timing"];
        infer(&model, &[&turn[..], flags].concat())
    };
    let said = pack(json!({"do_sample": true, "temperature": 9.0, "top_p": 0.99, "top_k": 60, "num_beams": 3}));
    assert!(
        said.contains("  sampling    temperature 9, top-k 60, top-p 0.99, from generation_config.json\n"),
        "{said}"
    );
    assert!(
        said.contains("olmo-pack: warning: generation_config.json has num_beams, which is not supported"),
        "{said}"
    );
    let greedy = " years ago our fathers brought";
    let drawn = chat(&["--seed", "1"]);
    assert!(!drawn.ok().starts_with(" years") && drawn.stdout != chat(&["--seed", "2"]).stdout, "{}", drawn.stdout);
    assert_eq!(chat(&["--seed", "1"]).stdout, drawn.stdout);
    assert!(
        drawn.stderr.contains("; temperature 9, top-k 60, top-p 0.99 (by the model's author); seed 1"),
        "{}",
        drawn.stderr
    );
    // A flag overrides its value: the same text as all flags without an author give.
    let flags = ["--temperature", "2", "--seed", "7"];
    let plain = ["--prompt", "Four score and seven", "--max-tokens", "30", "--top-k", "60", "--top-p", "0.99"];
    let changed = chat(&flags);
    assert_eq!(changed.stdout, infer(&model, &[&plain[..], &flags].concat()).stdout);
    assert!(changed.stderr.contains("(flags, the rest by the model's author)"), "{}", changed.stderr);
    let cold = chat(&["--temperature", "0"]);
    assert_eq!(cold.ok(), greedy);
    // Continuing a text stays greedy.
    let prompt = infer(&model, &["--prompt", "Four score and seven", "--max-tokens", "30", "--timing"]);
    assert_eq!(prompt.stdout, cold.stdout);
    assert!(prompt.stderr.contains("; greedy (default)"), "{}", prompt.stderr);
    // An author who does not draw, with a penalty that greedy has too.
    pack(json!({"do_sample": false, "temperature": 9.0, "repetition_penalty": 1000.0}));
    let penalized = chat(&[]);
    assert!(
        penalized.stderr.contains("; greedy, repetition penalty 1000 (by the model's author)"),
        "{}",
        penalized.stderr
    );
    assert_ne!(penalized.stdout, cold.stdout);
    // Settings that transformers cannot generate with do not make the model invalid.
    let said = pack(json!({"do_sample": true, "temperature": -1.0}));
    assert!(
        said.contains("olmo-pack: warning: generation_config.json: temperature is -1.0, expected a number from"),
        "{said}"
    );
    assert_eq!(chat(&[]).stdout, cold.stdout);
    let inspected = run(PACK, ["inspect".as_ref(), model.as_os_str(), "--json".as_ref()]);
    let inspected: Value = serde_json::from_str(inspected.ok()).expect("JSON");
    assert_eq!(inspected["sampling"], Value::Null);
    pack(json!({"do_sample": true, "min_p": 0.5}));
    let inspected = run(PACK, ["inspect".as_ref(), model.as_os_str(), "--json".as_ref()]);
    let inspected: Value = serde_json::from_str(inspected.ok()).expect("JSON");
    let wanted = json!({"do_sample": true, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.5,
        "repetition_penalty": 1.0});
    assert_eq!(inspected["sampling"], wanted);
    let names: Vec<&str> =
        inspected["files"].as_array().expect("files").iter().filter_map(|file| file["name"].as_str()).collect();
    assert!(names.ends_with(&["chat_template.jinja", "generation_config.json"]), "{names:?}");
    let table = run(PACK, ["inspect".as_ref(), model.as_os_str()]);
    assert!(table.ok().contains("temperature 1, top-k 50, min-p 0.5\n"), "{}", table.stdout);
}

#[test]
fn chat_uses_the_format_of_the_model() {
    let folder = TempDir::new("text-chat");
    let weights = demo_weights(&folder);
    let template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}";
    let config = json!({"chat_template": template, "bos_token": "!", "eos_token": null});
    fs::write(weights.join("tokenizer_config.json"), config.to_string()).expect("written");
    let model = folder.join("chat.olmo");
    let packed = run(PACK, [&weights, &model]);
    assert!(packed.ok().contains("  chat        tokenizer_config.json\n"), "{}", packed.stdout);
    run(PACK, ["verify".as_ref(), model.as_os_str()]).ok();
    let ids = |arguments: &[&str]| infer(&model, &[&["tokenize", "--chat"], arguments].concat()).ok().replace('\0', "");
    assert_eq!(ids(&["--prompt", "Hi"]), "![user]Hi");
    assert_eq!(ids(&["--prompt", "Hi", "--system", "Be brief."]), "![system]Be brief.[user]Hi");
    assert_eq!(infer(&model, &["--chat", "--prompt", "Four", "--max-tokens", "3"]).ok().len(), 3);
    // Whole conversations.
    let messages = folder.join("messages.json");
    let conversation = |messages: &Path, json: Value| {
        fs::write(messages, json.to_string()).expect("written");
        infer(&model, &["tokenize", "--messages", messages.to_str().expect("UTF-8")])
    };
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    let turns = json!([message("user", "Hi"), message("assistant", "Ho"), message("user", "Ha")]);
    assert_eq!(conversation(&messages, turns).ok().replace('\0', ""), "![user]Hi[assistant]Ho[user]Ha");
    for (json, status, says) in [
        (
            json!([message("user", "Hi"), message("user", "Hi")]),
            1,
            "message 1 is of the role user, expected an assistant",
        ),
        (
            json!([message("user", "Hi"), message("assistant", "Ho")]),
            1,
            "the conversation ends after 2 messages, expected a user message at the end; add a user message",
        ),
        (json!([message("system", "Hi")]), 1, "the conversation ends after 1 message, expected"),
        (json!([["user", "Hi"]]), 1, "not a conversation: invalid type: sequence, expected an object"),
        (json!([message("tool", "Hi")]), 1, "message 0 has the role \"tool\""),
    ] {
        let refused = conversation(&messages, json);
        assert!(refused.refused(status).contains(&format!("messages.json: {says}")), "{}", refused.stderr);
    }
    let marked = format!("\u{feff}{}", json!([message("user", "Hi")]));
    fs::write(&messages, marked).expect("written");
    let read = infer(&model, &["tokenize", "--messages", messages.to_str().expect("UTF-8")]);
    assert_eq!((read.ok().replace('\0', "").as_str(), read.stderr.as_str()), ("![user]Hi", ""));
    fs::write(&messages, "").expect("written");
    let refused = infer(&model, &["--messages", messages.to_str().expect("UTF-8")]);
    assert!(refused.refused(1).contains("messages.json: not a conversation: EOF"), "{}", refused.stderr);
    let refused = infer(&model, &["--messages", "m.json", "t.bin"]);
    assert!(refused.refused(2).contains("--messages and token files exclude each other; t.bin is one"));
    for word in ["caht", "Chat"] {
        let refused = run(INFER, [word.as_ref(), model.as_os_str()]);
        assert!(refused.refused(1).contains("did you mean olmo-infer chat /"), "{}", refused.stderr);
    }
    let refused = run(INFER, ["--threads".as_ref(), "2".as_ref(), "chat".as_ref(), model.as_os_str()]);
    assert!(refused.refused(1).contains("did you mean olmo-infer chat /"), "{}", refused.stderr);
    for flags in [&["--prompt", "Hi"][..], &["--chat"], &["--prompt-file", "x"]] {
        let refused = infer(&model, &[&["--messages", "m.json"], flags].concat());
        assert!(refused.refused(2).contains("--messages is the whole conversation"), "{}", refused.stderr);
    }
    // A file of its own takes precedence, and a template that cannot be used is reported and does no harm.
    fs::write(weights.join("chat_template.jinja"), "{{ nothing.at.all }}").expect("written");
    let packed = run(PACK, ["--force".as_ref(), weights.as_os_str(), model.as_os_str()]);
    assert!(packed.ok().contains("  chat        none: its chat template cannot be used"), "{}", packed.stdout);
    let refused = infer(&model, &["--chat", "--prompt", "Hi"]);
    let says = "chat.olmo: its chat template cannot be used: undefined value";
    assert!(refused.refused(1).contains(says), "{}", refused.stderr);
    let told = "olmo-pack: warning: no chat format: its chat template cannot be used: undefined value";
    assert!(packed.stderr.contains(told), "{}", packed.stderr);
}

#[test]
fn unknown_tokenizer_disables_only_text() {
    let folder = TempDir::new("text-unknown");
    let weights = demo_weights(&folder);
    let json = fs::read_to_string(weights.join("tokenizer.json")).expect("read");
    let mut json: Value = serde_json::from_str(&json).expect("JSON");
    json["normalizer"] = json!({"type": "Lowercase"});
    fs::write(weights.join("tokenizer.json"), json.to_string()).expect("written");
    let model = folder.join("m.olmo");
    let packed = run(PACK, [&weights, &model]);
    assert!(packed.ok().contains("  tokenizer   none: its normalizer is Lowercase\n"), "{}", packed.stdout);
    let refused = infer(&model, &["--prompt", "Hi"]);
    let says = "olmo-pack does not support its tokenizer: its normalizer is Lowercase, so --prompt cannot be used";
    assert!(refused.refused(1).contains(says), "{}", refused.stderr);
    run(PACK, ["verify".as_ref(), model.as_os_str()]).ok();
    let inspected = run(PACK, ["inspect".as_ref(), model.as_os_str()]);
    assert!(inspected.ok().contains("not known: its normalizer is Lowercase"), "{}", inspected.stdout);
    assert_eq!(piped(&model, &["detokenize"], b"H\0\0\0").1, b"H");
    // A vocabulary alone does not define how text is split, either.
    fs::remove_file(weights.join("tokenizer.json")).expect("removed");
    let packed = run(PACK, ["--force".as_ref(), weights.as_os_str(), model.as_os_str()]);
    assert!(packed.ok().contains("add the model's tokenizer.json"), "{}", packed.stdout);
    fs::remove_file(weights.join("vocab.txt")).expect("removed");
    run(PACK, ["--force".as_ref(), weights.as_os_str(), model.as_os_str()]).ok();
    let refused = infer(&model, &["--prompt", "Hi"]);
    assert!(refused.refused(2).contains("has no vocabulary, which --prompt needs"), "{}", refused.stderr);
}

/// A pad token that a fine-tune added without a row for it: no text needs it.
#[test]
fn packs_no_tokenizer_that_the_reader_refuses() {
    let folder = TempDir::new("text-limits");
    let (weights, model) = (demo_weights(&folder), folder.join("m.olmo"));
    let json = fs::read_to_string(weights.join("tokenizer.json")).expect("read");
    let mut json: Value = serde_json::from_str(&json).expect("JSON");
    let long = |c: &str| c.repeat(1 << 20);
    json["added_tokens"] = json!([{"id": 256, "content": long("x")}, {"id": 257, "content": long("y")}]);
    fs::write(weights.join("tokenizer.json"), json.to_string()).expect("written");
    fs::remove_file(weights.join("vocab.txt")).expect("removed");
    let packed = run(PACK, [&weights, &model]);
    assert!(packed.ok().contains("  tokenizer   none: it has 2 added tokens of 2097152 bytes"), "{}", packed.stdout);
    run(PACK, ["verify".as_ref(), model.as_os_str()]).ok();
    let refused = infer(&model, &["--prompt", "Four"]);
    assert!(refused.refused(1).contains("it has 2 added tokens of 2097152 bytes"), "{}", refused.stderr);
}

/// Row X1.
#[test]
fn packs_tokens_beyond_rows_and_refuses_their_text() {
    let folder = TempDir::new("text-beyond");
    let (weights, model) = (demo_weights(&folder), folder.join("m.olmo"));
    let json = fs::read_to_string(weights.join("tokenizer.json")).expect("read");
    let mut json: Value = serde_json::from_str(&json).expect("JSON");
    json["added_tokens"] = json!([{"id": 256, "content": "<pad>", "special": true}]);
    fs::write(weights.join("tokenizer.json"), json.to_string()).expect("written");
    fs::write(weights.join("tokenizer_config.json"), json!({"pad_token": "<pad>"}).to_string()).expect("written");
    fs::remove_file(weights.join("vocab.txt")).expect("removed");
    let warning = "tokenizer.json has token \"<pad>\" beyond the 256 rows of the embedding: other text works, text \
                   with it is refused";
    let packed = run(PACK, [&weights, &model]);
    assert!(!packed.ok().contains("warning"), "{}", packed.stdout);
    assert_eq!(packed.stderr, format!("olmo-pack: warning: {warning}\n"));
    let flags = ["--json", "--force"].map(AsRef::as_ref);
    let packed = run(PACK, flags.into_iter().chain([weights.as_os_str(), model.as_os_str()]));
    let object: Value = serde_json::from_str(packed.ok()).expect("one object");
    assert_eq!((&object["warnings"], packed.stderr.lines().count()), (&json!([warning]), 1));
    run(PACK, ["verify".as_ref(), model.as_os_str()]).ok();
    assert_eq!(infer(&model, &["--prompt", "Four score and seven", "--max-tokens", "6"]).ok(), " years");
    let refused = infer(&model, &["--prompt", "Four <pad> score"]);
    let says =
        "the text has the token \"<pad>\" with id 256, beyond the 256 rows of the model's embedding; leave it out";
    assert!(refused.refused(1).contains(says), "{}", refused.stderr);
    assert!(infer(&model, &["tokenize", "--prompt", "<pad>"]).refused(1).contains(says));
    // The same in a vocab.txt alone, which gives text for ids.
    fs::copy(repository().join("demo/weights/vocab.txt"), weights.join("vocab.txt")).expect("copied");
    let mut lines = fs::read_to_string(weights.join("vocab.txt")).expect("read");
    lines += "256\t<pad>\n";
    fs::write(weights.join("vocab.txt"), lines).expect("written");
    run(PACK, ["--force".as_ref(), weights.as_os_str(), model.as_os_str()]).ok();
    fs::remove_file(weights.join("tokenizer.json")).expect("removed");
    let packed = run(PACK, ["--force".as_ref(), weights.as_os_str(), model.as_os_str()]);
    packed.ok();
    assert!(packed.stderr.contains("warning: vocab.txt has token \"<pad>\" beyond the 256 rows"), "{}", packed.stderr);
    assert_eq!(piped(&model, &["detokenize"], b"H\0\0\0").1, b"H");
}

/// Row X1, next to a `vocab.txt` that contradicts it.
#[test]
fn refuses_contradictory_vocabularies() {
    let folder = TempDir::new("text-contradiction");
    let weights = demo_weights(&folder);
    let text = fs::read_to_string(weights.join("vocab.txt")).expect("read").replace("\n65\tA\n", "\n65\tAA\n");
    fs::write(weights.join("vocab.txt"), text).expect("written");
    let refused = run(PACK, [&weights, &folder.join("m.olmo")]);
    let line = refused.refused(1);
    assert!(
        line.contains("vocab.txt: id 65 is \"AA\", expected \"A\" as in ") && line.contains("tokenizer.json"),
        "{line}"
    );
    // A file that is named goes before the folder's.
    let json = repository().join("demo/weights/tokenizer.json");
    let arguments = [weights.as_os_str(), folder.join("m.olmo").as_os_str(), "--vocab".as_ref(), json.as_os_str()]
        .map(|a| a.to_os_string());
    run(PACK, arguments).ok();
}

/// Row X6, wrong usage.
#[test]
fn wrong_usage_is_one_line() {
    let folder = TempDir::new("text-usage");
    let model = demo(&folder);
    for (arguments, says) in [
        (&["--prompt", ""][..], "the prompt is empty"),
        (&["--prompt", "Hi", "t.bin"], "--prompt and token files exclude each other"),
        (&["--prompt", "Hi", "--steps", "3"], "use --max-tokens"),
        (&["--prompt", "Hi", "--text", "--json"], "--text and --json exclude each other"),
        (&["--system", "Hi"], "--system belongs to --chat"),
        (&["--stop", "x"], "--stop belongs to --text and --prompt"),
        (&["--prompt", "Hi", "--stop", ""], "--stop is empty"),
        (&["--prompt", "Hi", "--temperature", "-1"], "--temperature -1: expected a number from 0"),
        (&["--prompt", "Hi", "--temperature", "NaN"], "--temperature NaN: expected a number from 0"),
        (&["--prompt", "Hi", "--top-p", "1.5"], "--top-p 1.5: expected a number from 0 to 1"),
        (&["--prompt", "Hi", "--min-p", "-0.1"], "--min-p -0.1: expected"),
        (&["--prompt", "Hi", "--repetition-penalty", "0"], "--repetition-penalty 0: expected"),
        (&["--prompt", "Hi", "--top-k", "0"], "--top-k 0: expected a whole number from 1"),
        (&["--tokenize"], "unknown option --tokenize (did you mean olmo-infer tokenize?); see olmo-infer --help"),
        (&["--detokenize", "t.bin"], "unknown option --detokenize (did you mean olmo-infer detokenize?)"),
        (&["--score", "t.bin"], "unknown option --score (did you mean olmo-infer score?)"),
        (
            &["tokenize", "--seed", "3"],
            "unknown option --seed (an option of olmo-infer); see olmo-infer tokenize --help",
        ),
        (
            &["detokenize", "--prompt", "Hi"],
            "unknown option --prompt (an option of olmo-infer); see olmo-infer detokenize --help",
        ),
        (&["tokenize", "a", "b"], "one file at a time"),
        (&["tokenize", "a", "--prompt", "b"], "--prompt, --messages and a file exclude each other; a is a file"),
        (&["tokenize", "--chat"], "--chat takes the text from --prompt; use --prompt - for standard input"),
        (&["--output", "x"], "unknown option --output (an option of olmo-infer score)"),
        (&["--chat", "Hi, it's me"], "--chat takes no value; use --chat --prompt 'Hi, it'\\''s me'"),
        (&["--chat=Hi"], "--chat=Hi: --chat takes no value"),
        (&["--chat", "--prompt", ""], "the prompt is empty, expected a text"),
        (&["--prompt", "Hi", "--prompt-file", "x"], "--prompt and --prompt-file exclude each other"),
        (&["--prompt-file", "x", "t.bin"], "--prompt and token files exclude each other"),
        (&["--prompt", "--chat"], "--prompt needs a value before --chat"),
        (&["--prompt", "Hi", "--token-type", "u16"], "--token-type is of token files"),
        (&["--chat", "--prompt", "Hi"], "has no chat format"),
    ] {
        let refused = infer(&model, arguments);
        assert!(refused.refused(2).contains(says), "{arguments:?}: {}", refused.stderr);
    }
    let continued = infer(&model, &["--stop=--version", "--prompt=--version", "--max-tokens", "1"]);
    assert!(!continued.ok().starts_with("olmo-infer"));
    assert!(infer(&model, &["--", "--version"]).refused(1).contains("--version: cannot open"));
    let long = "x".repeat(5000);
    let refused = infer(&model, &["--prompt", &long]);
    assert!(refused.refused(1).contains("the prompt has 5000 tokens, expected at most"), "{}", refused.stderr);
}

/// A pipe of which one page is left, and how many bytes of filling are in it, all but `room`.
fn small_pipe(room: usize) -> (PipeReader, PipeWriter, usize) {
    let (out, mut end) = std::io::pipe().expect("a pipe");
    let capacity = rustix::pipe::fcntl_setpipe_size(&end, 4096).expect("a smaller pipe");
    end.write_all(&vec![b'.'; capacity - room]).expect("has place");
    (out, end, capacity - room)
}

/// The program with default signal actions, generating a speech.
fn generating(model: &Path, threads: &str) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(INFER).arg(model).args(["--prompt", "Four score and seven"]);
    command.args(["--max-tokens", "1400", "--threads", threads]);
    command
}

/// Sends a signal, and waits for the end by it.
#[track_caller]
fn end_by(mut child: Child, signal: &str, number: i32) {
    finish(Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()])).ok();
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if begun.elapsed() > Duration::from_secs(10) {
            child.kill().and_then(|()| child.wait()).expect("killed");
            panic!("SIG{signal} does not end it");
        }
        thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.signal(), Some(number));
}

#[test]
fn interrupt_ends_the_program_by_the_signal() {
    let folder = TempDir::new("text-interrupt");
    let model = demo(&folder);
    // A pipe with no place for all of the text, so that the program cannot be done before it is interrupted.
    let (mut out, end, filling) = small_pipe(600);
    let mut command = generating(&model, "1");
    let mut child = command.stdout(end).spawn().expect("starts");
    // The command holds the writing end, which would keep the pipe open.
    drop(command);
    let waiting = || rustix::io::ioctl_fionread(&out).expect("a pipe") as usize - filling;
    while waiting() < 100 {
        assert!(child.try_wait().expect("a child").is_none(), "it ended");
        thread::sleep(Duration::from_millis(1));
    }
    end_by(child, "INT", 2);
    let mut text = Vec::new();
    out.read_to_end(&mut text).expect("the rest");
    let spoken = str::from_utf8(&text[filling..]).expect("whole characters");
    assert!(speech().contains(spoken) && spoken.len() < 1200, "{spoken}");
    assert!(!spoken.ends_with('\n'), "what reads a pipe gets the text alone");
}

/// Row E11.
#[test]
fn interrupt_ends_the_line_on_a_terminal() {
    let folder = TempDir::new("text-terminal");
    let model = demo(&folder);
    for is_stopped in [false, true] {
        let (mut keyboard, line) = pty();
        let mut command = generating(&model, "1");
        let child = command.stdin(Stdio::null()).stdout(Stdio::from(line)).spawn().expect("starts");
        drop(command);
        let mut begin = [0; 20];
        keyboard.read_exact(&mut begin).expect("some text");
        // It continues when the signal has been sent.
        let id = child.id().to_string();
        finish(Command::new("kill").args(["-STOP", &id])).ok();
        if is_stopped {
            // Ctrl-S: nothing is written until Ctrl-Q.
            keyboard.write_all(b"\x13").expect("typed");
        }
        finish(Command::new("kill").args(["-INT", &id])).ok();
        let reader = screen(keyboard);
        end_by(child, "CONT", 2);
        let screen = String::from_utf8([&begin[..], &reader.join().expect("no panic")].concat()).expect("text");
        let spoken = screen.strip_suffix("\r\n").unwrap_or(&screen);
        assert!(speech().contains(spoken) && spoken.len() < 1200, "{spoken}");
        assert_eq!(screen.ends_with("\r\n"), !is_stopped, "{screen}");
    }
}

/// Row E11, a full pipe.
#[test]
fn full_pipe_delays_no_signal() {
    let folder = TempDir::new("text-full");
    let model = demo(&folder);
    for threads in ["1", "2"] {
        for (signal, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
            // Each character is a write of its own, so that no room is left.
            let (out, end, _) = small_pipe(50);
            let mut command = generating(&model, threads);
            let mut child = command.stdout(end).spawn().expect("starts");
            drop(command);
            while rustix::io::ioctl_fionread(&out).expect("a pipe") < 4096 {
                assert!(child.try_wait().expect("a child").is_none(), "it ended");
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(Duration::from_millis(20));
            end_by(child, signal, number);
            // The pipe of its message is full too.
            let (_unread, end, _) = small_pipe(0);
            let mut command = generating(&model, threads);
            command.args(["--prompt-file", "/no/such/file"]).stdout(Stdio::null()).stderr(end);
            let child = command.spawn().expect("starts");
            drop(command);
            thread::sleep(Duration::from_millis(100));
            end_by(child, signal, number);
        }
    }
}

#[test]
fn error_is_one_write() {
    let folder = TempDir::new("text-write");
    let model = demo(&folder);
    let usage = ["--prompt", "Hi", "--nonsense"];
    let runs: [(&str, &[&str]); 4] = [
        (INFER, &["/no/such\n\u{202e}model", "t.bin"]),
        (INFER, &[&[model.to_str().expect("UTF-8")], &usage[..]].concat()),
        (PACK, &["/no/such\n\u{202e}folder", "m.olmo"]),
        (PACK, &["verify", "/no/such\n\u{202e}model"]),
    ];
    for (program, arguments) in runs {
        // Every write is a message of its own.
        let (ours, theirs) = UnixDatagram::pair().expect("sockets");
        let mut command = Command::new(program);
        let end = Stdio::from(OwnedFd::from(theirs));
        let status = command.args(arguments).stdin(Stdio::null()).stderr(end).status().expect("starts");
        drop(command);
        let mut message = [0; 4096];
        let n = ours.recv(&mut message).expect("a message");
        let line = str::from_utf8(&message[..n]).expect("text");
        assert!(!status.success() && line.ends_with('\n') && line.contains(": error: "), "{line:?}");
        assert_eq!(line.lines().count(), 1, "{line:?}");
        assert!(!line.contains('\u{202e}') && (line.contains("/no/such\\n\\u{202e}") || line.contains("nonsense")));
        ours.set_nonblocking(true).expect("a mode");
        assert!(ours.recv(&mut message).is_err(), "{arguments:?}: more than one write");
    }
}

/// A demo whose every token has a display control, by a vocabulary of the same length.
fn with_display_controls(folder: &TempDir) -> PathBuf {
    let model = demo(folder);
    let good = fs::read(&model).expect("a model");
    let texts = ["a\u{1b}[2J", "b\u{202e}c", "d\u{200d}\n", "\u{9b}m", "e\u{2066}", "\u{2028}"];
    let tokens: Vec<&[u8]> = (0..256).map(|id| texts[id % texts.len()].as_bytes()).collect();
    fs::write(&model, with_sections(&good, &[(section::VOCABULARY, &vocabulary(&tokens))])).expect("written");
    model
}

#[test]
fn no_mode_prints_control_sequences_to_a_terminal() {
    let folder = TempDir::new("text-steers");
    let (model, ids) = (with_display_controls(&folder), folder.join("t.bin"));
    fs::write(&ids, (0..12u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).expect("written");
    let steers = |c: char| shown::is_display_control(c) && !matches!(c, '\n' | '\t' | '\r');
    let ids = ids.to_str().expect("UTF-8");
    let modes: [(&[&str], bool); 5] = [
        (&[ids], false),
        (&[ids, "--json"], false),
        (&[ids, "--json", "--max-tokens", "4"], false),
        // What other programs read are the bytes of the text.
        (&[ids, "--text", "--max-tokens", "20"], true),
        (&["detokenize", ids], true),
    ];
    for (arguments, is_exact) in modes {
        let piped = infer(&model, arguments);
        assert_eq!(piped.ok().contains(steers), is_exact, "{arguments:?}: {:?}", piped.stdout);
        let (keyboard, line) = pty();
        let reader = screen(keyboard);
        let mut command = Command::new(INFER);
        command.args(infer_words(&[model.as_os_str()], arguments)).stdin(Stdio::null()).stdout(Stdio::from(line));
        assert!(command.status().expect("starts").success(), "{arguments:?}");
        drop(command);
        let screen = String::from_utf8(reader.join().expect("no panic")).expect("text");
        assert!(!screen.contains(steers) && !screen.is_empty(), "{arguments:?}: {screen:?}");
        let shown = screen.replace("\r\n", "\n");
        let expected: String = piped.stdout.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect();
        assert_eq!(shown.trim_end(), expected.trim_end(), "{arguments:?}");
    }
}

#[test]
fn reported_prompts_have_the_ids_of_transformers() {
    let reported = repository().join("../shared/reported");
    let Ok(entries) = fs::read_dir(&reported) else {
        skipped(format_args!("the reported cases of {}, which is not there", reported.display()));
        return;
    };
    let mut n_prompts = 0;
    for case in entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir()) {
        let expected = fs::read(case.join("expected.json")).expect("expected values");
        let expected: Value = serde_json::from_slice(&expected).expect("JSON");
        let folder = TempDir::new("reported");
        let model = folder.join("m.olmo");
        let packed = run(PACK, [case.join("weights").as_os_str(), model.as_os_str()]);
        packed.ok();
        let message = |role: &str, content: &str| json!({"role": role, "content": content});
        let turns = [message("user", "Hi"), message("assistant", "Hello."), message("user", "And now?")];
        let messages = folder.join("messages.json");
        fs::write(&messages, json!(turns).to_string()).expect("written");
        let text = expected["text"].as_str().unwrap_or("2023 1234");
        let chat = ["--chat", "--prompt", "Hi"];
        let prompts: [(&str, &[&str]); 6] = [
            ("ids_user", &chat),
            ("ids_system+user", &["--chat", "--prompt", "Hi", "--system", "Be brief."]),
            ("ids_three turns", &["--messages", messages.to_str().expect("UTF-8")]),
            ("ids", if expected["user"].is_string() { &chat } else { &["--prompt", text] }),
            ("as_the_file_says", &["--prompt", text]),
            ("as_the_base_model_was_trained", &[]),
        ];
        for (key, arguments) in prompts {
            // Cases of weights have the ids that are generated.
            if expected[key].is_null() || !expected["logits"].is_null() {
                continue;
            }
            if arguments.is_empty() {
                assert!(packed.stderr.contains("olmo-pack: warning: "), "{}: {}", case.display(), packed.stderr);
                continue;
            }
            let model = model.to_str().expect("UTF-8");
            let run = Command::new(INFER).args(["tokenize", model]).args(arguments).output().expect("run");
            let found: Vec<u32> = run.stdout.as_chunks::<4>().0.iter().map(|&id| u32::from_le_bytes(id)).collect();
            let stderr = String::from_utf8_lossy(&run.stderr);
            assert_eq!(json!(found), expected[key], "{} {key}: {stderr}", case.display());
            n_prompts += 1;
        }
    }
    assert!(n_prompts >= 13, "{n_prompts}");
}
