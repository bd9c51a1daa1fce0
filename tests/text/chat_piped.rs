//! `olmo-infer chat` with lines on standard input.

use crate::{INFER, PACK};
use olmo_tests::chats::{MARKED, PLAIN, demo_chat};
use olmo_tests::{Finished, TempDir, repository, run};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A conversation of these lines.
fn chat(model: &Path, arguments: &[&str], input: impl AsRef<[u8]>) -> Finished {
    let mut command = Command::new(INFER);
    command.arg("chat").arg(model).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("starts");
    // A program that ends early does not read all of it.
    let _read_or_not = child.stdin.take().expect("piped").write_all(input.as_ref());
    let output = child.wait_with_output().expect("ends");
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

fn plain(folder: &TempDir) -> PathBuf {
    demo_chat(PACK, folder, PLAIN)
}

fn saved(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

#[test]
fn each_line_is_a_turn_with_its_answer_on_stdout() {
    let folder = TempDir::new("piped-turns");
    let model = demo_chat(PACK, &folder, MARKED);
    let flags = ["--max-tokens", "12", "--seed", "5"];
    let talked = chat(&model, &[&flags[..], &["--system", "S"]].concat(), "Four\n\nscore\n");
    talked.ok();
    // The prompts that the template renders for these turns. An answer that ends in a newline has only this one.
    let of_prompt = |prompt: String, seed: &str| {
        let arguments = ["--prompt", &prompt, "--max-tokens", "12", "--seed", seed];
        run(INFER, [model.as_os_str()].into_iter().chain(arguments.map(AsRef::as_ref))).ok().to_string()
    };
    let first = of_prompt("[system]S[user]Four[now][assistant]".into(), "5");
    let past = format!("[system]S[user]Four[assistant]{}", first.trim());
    let second = of_prompt(format!("{past}[user]score[now][assistant]"), "6");
    let end = |text: &str| if text.ends_with('\n') { "" } else { "\n" };
    let expected = format!("{first}{}{second}{}", end(&first), end(&second));
    assert_eq!(talked.stdout, expected);
    assert!(talked.stderr.lines().all(|line| line.starts_with("olmo-infer: note: the answer ends at --max-tokens 12")));
    // As --chat answers.
    let arguments = ["--chat", "--prompt", "Four", "--system", "S"].iter().chain(&flags).map(AsRef::as_ref);
    assert_eq!(run(INFER, [model.as_os_str()].into_iter().chain(arguments)).ok(), first);
}

#[test]
fn commands_change_and_save_the_conversation() {
    let folder = TempDir::new("piped-commands");
    let (model, file) = (demo_chat(PACK, &folder, MARKED), folder.join("my messages.json"));
    let name = file.display();
    let input = format!(
        "/system Be\tbrief. \nFour\n/retry\nscore\n/undo\n//and \\\nseven\\\n\n/save {name}\n/help\n/quit\nnot read\n"
    );
    let talked = chat(&model, &["--max-tokens", "3", "--temperature", "1.5", "--seed", "1", "--timing"], &input);
    assert_eq!(talked.code, Some(0), "{}", talked.stderr);
    let messages = saved(&file);
    let roles: Vec<&str> = messages.as_array().expect("a list").iter().filter_map(|m| m["role"].as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
    assert_eq!(messages[0], message("system", "Be\tbrief."));
    assert_eq!((&messages[1]["content"], &messages[3]["content"]), (&json!("Four"), &json!("/and \nseven\n")));
    let seeds: Vec<&str> = talked.stderr.lines().filter_map(|line| line.split_once("; seed ")).map(|p| p.1).collect();
    assert_eq!(seeds, ["1", "2", "3", "4"], "{}", talked.stderr);
    for says in [
        "system message set, from the beginning of the conversation",
        "last turn removed, 1 left",
        "5 messages saved to ",
        "/save! FILE replaces a file",
    ] {
        assert!(talked.stderr.contains(says), "{says}: {}", talked.stderr);
    }
    let answer = messages[2]["content"].as_str().expect("text");
    assert!(talked.stdout.contains(answer), "{}", talked.stdout);
}

#[test]
fn save_replaces_files_only_on_request() {
    let folder = TempDir::new("piped-save");
    let (model, file) = (plain(&folder), folder.join("m.json"));
    let name = file.display();
    let flags = ["--max-tokens", "6"];
    chat(&model, &flags, format!("Four score and seven\n/save {name}\n")).ok();
    let first = json!([message("user", "Four score and seven"), message("assistant", " years")]);
    assert_eq!(saved(&file), first);
    let refused = chat(&model, &flags, format!("Four\n/save {name}\nnot asked\n"));
    assert_eq!((refused.code, saved(&file)), (Some(1), first));
    let says = format!("error: {name}: exists; save under another name, or replace it with /save! {name}\n");
    assert!(refused.stderr.ends_with(&says), "{}", refused.stderr);
    chat(&model, &flags, format!("Four\n/save! {name}\n")).ok();
    assert_eq!(saved(&file)[0], message("user", "Four"));
    for (to, says) in [
        (model.display().to_string(), "chat.olmo: is an input of this run, expected a file name for /save"),
        (folder.path().display().to_string(), ": is a folder, expected a file name for /save"),
        (folder.join("none/m.json").display().to_string(), "none/m.json: cannot create: No such file or directory"),
    ] {
        let refused = chat(&model, &flags, format!("Four\n/save! {to}\n"));
        assert!(refused.code == Some(1) && refused.stderr.contains(says), "{}", refused.stderr);
    }
    let there: Vec<String> = olmo_tests::files(&folder.path().join("weights")).into_keys().collect();
    assert!(there.iter().all(|name| !name.contains(".tmp")));
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 3, "no temporary file is left");
}

#[test]
fn first_failure_ends_the_program() {
    let folder = TempDir::new("piped-failures");
    let model = plain(&folder);
    let flags = ["--positions", "40", "--max-tokens", "10"];
    for (input, n_answers, says) in [
        ("/undo\nHi\n", 0, "there is no turn yet"),
        ("/retry\n", 0, "there is no turn yet"),
        ("/save x\n", 0, "there is nothing to save yet"),
        ("/save\n", 0, "/save needs the name of a file"),
        ("Four\n/save -\n", 1, "/save -: standard output has the answers"),
        ("Four\n/save .\n", 1, ".: is a folder, expected a file name for /save"),
        ("Four\n/save /dev/null\n", 1, "/dev/null: is not a regular file, expected a file name for /save"),
        (
            "/sytem Be brief\nHi\n",
            0,
            "/sytem Be brief: no such command; /help lists them, a line that begins with // is",
        ),
        (
            "Four score and seven\n our fathers brought\nHi\n",
            1,
            "the conversation would have 50 tokens, which leaves no",
        ),
        ("Four score\n\u{ff}ab\n", 2, ""),
    ] {
        let talked = chat(&model, &flags, input);
        let code = if says.is_empty() { 0 } else { 1 };
        assert_eq!((talked.code, talked.stdout.lines().count()), (Some(code), n_answers), "{input} {}", talked.stderr);
        assert!(talked.stderr.contains(says), "{input}: {}", talked.stderr);
    }
    let talked = chat(&model, &flags, b"Four\n\xffab\n");
    assert!(talked.code == Some(1) && talked.stderr.contains("byte 0 of a line is not UTF-8"), "{}", talked.stderr);
    let talked = chat(&model, &flags, "Four score and seven\n our fathers brought\n");
    assert!(talked.stderr.contains("shorten it, make room with /undo, or begin another conversation with /new"));
}

#[test]
fn warns_before_the_context_is_full() {
    let folder = TempDir::new("piped-context");
    let model = plain(&folder);
    let notes = |positions: &str, max_tokens: &str| {
        chat(&model, &["--positions", positions, "--max-tokens", max_tokens], "Four score and seven\n").stderr
    };
    assert!(notes("60", "20").contains("note: 20 of 60 positions are left; make room with /undo or /new"));
    assert!(!notes("60", "5").contains("positions are left"), "35 of 60 are not few");
    assert!(notes("30", "20").contains("note: the answer ends because the context is full"));
    assert!(notes("2000", "2").contains("the answer ends at --max-tokens 2\n"));
    // A conversation begun again has room.
    let talked = chat(&model, &["--positions", "40", "--max-tokens", "10"], "Four score and seven\n/new\nFour score\n");
    assert_eq!((talked.code, talked.stdout.as_str()), (Some(0), " years ago\n and seven\n"));
}

#[test]
fn timing_reports_reused_tokens() {
    let folder = TempDir::new("piped-timing");
    let model = plain(&folder);
    let talked = chat(&model, &["--max-tokens", "6", "--timing"], "Four score and seven\n ago\n");
    assert_eq!(talked.ok(), " years\n our f\n");
    let lines: Vec<&str> = talked.stderr.lines().filter(|line| line.contains("reused")).collect();
    assert!(lines[0].starts_with("olmo-infer: 0 tokens reused; 20 in prefill, "), "{lines:?}");
    // The last token of the answer was not evaluated.
    assert!(lines[1].starts_with("olmo-infer: 25 tokens reused; 5 in prefill, "), "{lines:?}");
}

#[test]
fn answers_are_sampled_as_recommended() {
    let folder = TempDir::new("piped-author");
    plain(&folder);
    let weights = folder.join("weights");
    let author = json!({"do_sample": true, "temperature": 5.0, "top_k": 5});
    fs::write(weights.join("generation_config.json"), author.to_string()).expect("written");
    let model = folder.join("author.olmo");
    run(PACK, [&weights, &model]).ok();
    let of = |flags: &[&str]| {
        chat(&model, &[flags, &["--seed", "2", "--max-tokens", "30", "--timing"]].concat(), "Four score\n")
    };
    let by_author = of(&[]);
    assert!(by_author.stderr.contains("olmo-infer: sampling: temperature 5, top-k 5 (by the model's author)\n"));
    assert_eq!(of(&["--temperature", "5", "--top-k", "5"]).ok(), by_author.ok());
    assert_eq!(of(&["--temperature", "0"]).ok(), " and seven years ago our fathe\n");
    assert_ne!(by_author.ok(), " and seven years ago our fathe\n");
}

#[test]
fn wrong_usage_is_one_line() {
    let folder = TempDir::new("piped-usage");
    let model = plain(&folder);
    for (arguments, says) in [
        (&["--positions", "0"][..], "--positions 0: expected a whole number from 1; see olmo-infer chat --help"),
        (&["--max-tokens=0"], "--max-tokens 0: expected a whole number from 1"),
        (&["--positons=9"], "unknown option --positons (did you mean --positions?)"),
        (&["--stop", ""], "--stop is empty, expected a text"),
        (&["--system", ""], "--system is empty, expected a text; leave it out"),
        (&["--top-p", "2"], "--top-p 2: expected a number from 0 to 1"),
        (&["--isa", "none"], "--isa none"),
        (&["--load", "none"], "--load none: expected auto, mmap or read"),
        (&["tokens.bin"], "tokens.bin"),
        (&["--prompt", "x"], "--prompt"),
    ] {
        let refused = chat(&model, arguments, "");
        assert!(refused.refused(2).contains(says), "{arguments:?}: {}", refused.stderr);
    }
    let refused = chat(&model, &["--positions", "99999"], "");
    assert!(refused.refused(1).contains("--positions 99999: the model has 2048, expected at most these"));
    let refused = chat(&folder.join("none.olmo"), &[], "");
    assert!(refused.refused(1).contains("none.olmo: cannot open: No such file or directory"));
    let none =
        demo_chat(PACK, &folder, "{% for m in messages %}{{ m.content if m.role != 'system' else 1 / 0 }}{% endfor %}");
    let refused = chat(&none, &["--system", "S"], "");
    assert!(refused.refused(2).contains("takes no system message, so --system cannot be used"), "{}", refused.stderr);
    let help = run(INFER, ["chat", "--help"]);
    assert!(help.ok().starts_with("Usage: olmo-infer chat <model> [options]\n") && help.stdout.contains("--positions"));
    assert!(help.stdout.lines().all(|line| line.chars().count() <= 90), "{}", help.stdout);
    let page = run(INFER, ["--man"]);
    assert!(page.ok().contains(".SS \"olmo\\-infer chat\""), "{}", page.stdout);
    for kind in ["bash", "zsh", "fish"] {
        let attached = run(INFER, [format!("--completions={kind}")]);
        assert_eq!(attached.ok(), run(INFER, ["--completions", kind]).ok());
    }
    let refused = run(INFER, ["m.olmo", "--chat", "--prompt", "Hi", "--system", ""]);
    assert!(refused.refused(2).contains("--system is empty, expected a text; leave it out"), "{}", refused.stderr);
}

#[test]
fn json_of_a_turn_ends_with_the_answer() {
    let folder = TempDir::new("piped-json");
    let (model, file) = (plain(&folder), folder.join("m.json"));
    fs::write(&file, "[{\"role\": \"user\", \"content\": \"Four score and seven years ago our f\"}]").expect("written");
    let of = |arguments: &[&str]| {
        let arguments = arguments.iter().map(AsRef::as_ref);
        run(INFER, [model.as_os_str()].into_iter().chain(arguments)).ok().to_string()
    };
    for source in [
        ["--messages", file.to_str().expect("UTF-8")].as_slice(),
        &["--chat", "--prompt", "Four score and seven years ago our f"],
    ] {
        let text = of(source);
        let json = of(&[source, &["--json"]].concat());
        let last: Value = serde_json::from_str(json.lines().last().expect("a line")).expect("JSON");
        assert!(text.len() > 100 && last["text"] == text.as_str(), "{last}");
    }
    // Positions that were asked for stay that.
    let steps = of(&["--chat", "--prompt", "Four", "--json", "--steps", "6"]);
    assert!(steps.lines().count() == 6 && !steps.contains("generated"), "{steps}");
}

#[test]
fn refuses_models_without_chat_format() {
    let folder = TempDir::new("piped-none");
    let base = folder.join("base.olmo");
    run(PACK, [&repository().join("demo/weights"), &base]).ok();
    let broken = demo_chat(PACK, &folder, "{{ nothing.at.all }}");
    for (model, code) in [(base, 2), (broken, 1)] {
        let refused = chat(&model, &[], "Hi\n");
        let line = refused.refused(code).to_string();
        let arguments = ["--chat", "--prompt", "Hi"].map(AsRef::as_ref);
        assert_eq!(line, run(INFER, [model.as_os_str()].into_iter().chain(arguments)).refused(code));
    }
}
