//! `olmo-infer` as a user runs it: its output, its inputs, and its error messages.

use crate::{INFER, PACK};
use olmo_tests::{
    Finished, Stored, TempDir, finish, has_file_in, infer_words, repository, run, small_config, write_weights,
};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// The demo model, packed, and a prompt of three ids.
struct Fixture {
    folder: TempDir,
    model: PathBuf,
    tokens: PathBuf,
}

fn fixture() -> Fixture {
    let folder = TempDir::new("infer-cli");
    let (model, tokens) = (folder.join("m.olmo"), folder.join("t.bin"));
    run(PACK, [&repository().join("demo/weights"), &model]).ok();
    fs::write(&tokens, ids(b"Fou")).expect("written");
    Fixture { folder, model, tokens }
}

fn ids(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|&byte| u32::from(byte).to_le_bytes()).collect()
}

impl Fixture {
    fn infer(&self, flags: &[&str]) -> Finished {
        let files = [self.model.as_os_str(), self.tokens.as_os_str()];
        run(INFER, infer_words(&files, flags))
    }

    /// With the tokens on standard input.
    fn infer_stdin(&self, arguments: &[&str], input: &[u8]) -> Finished {
        let mut command = Command::new(INFER);
        command.arg(&self.model).args(arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        // A program that refuses early does not read its input.
        let _refused_early = child.stdin.take().expect("piped").write_all(input);
        let output = child.wait_with_output().expect("ends");
        Finished {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

#[test]
fn prints_a_line_per_position_in_the_old_format() {
    let fixture = fixture();
    let finished = fixture.infer(&[]);
    let lines: Vec<&str> = finished.ok().lines().collect();
    assert_eq!(lines.len(), 20);
    assert!(lines[0].starts_with("0: token 70 (\"F\") Top 5 next tokens: 111 (\"o\") "), "{}", lines[0]);
    assert!(lines[2].starts_with("2: token 117 (\"u\") Top 5 next tokens: 114 (\"r\") "), "{}", lines[2]);
    assert!(lines[3].starts_with("3: token 114 (\"r\") "), "the most likely token comes next: {}", lines[3]);
    assert!(lines.iter().all(|line| !line.ends_with(' ') && !line.contains("  ")), "{lines:#?}");
    assert_eq!(finished.stderr, "");
}

#[test]
fn steps_and_top_set_the_counts() {
    let fixture = fixture();
    let finished = fixture.infer(&["--steps", "5", "--top", "2"]);
    let lines: Vec<&str> = finished.ok().lines().collect();
    assert_eq!(lines.len(), 5);
    assert!(lines[0].contains("Top 2 next tokens: 111 (\"o\") "));
    assert_eq!(fixture.infer(&["--steps", "2"]).ok().lines().count(), 2);
    let long = fixture.folder.join("long.bin");
    fs::write(&long, ids(&[b'a'; 30])).expect("written");
    assert_eq!(run(INFER, [&fixture.model, &long]).ok().lines().count(), 30);
}

#[test]
fn tokens_come_from_file_dash_or_standard_input() {
    let fixture = fixture();
    let expected = fixture.infer(&[]).ok().to_string();
    assert_eq!(fixture.infer_stdin(&[], &ids(b"Fou")).ok(), expected);
    assert_eq!(fixture.infer_stdin(&["-"], &ids(b"Fou")).ok(), expected);
    assert_eq!(fixture.infer_stdin(&["/dev/stdin"], &ids(b"Fou")).ok(), expected);
}

/// Row E1.
#[test]
fn short_options_equal_long_options() {
    let fixture = fixture();
    let expected = fixture.infer(&["--json", "--max-tokens", "3", "--stop", "-x", "--threads", "1"]);
    assert_eq!(expected.ok().lines().count(), 6);
    for flags in [
        &["--json", "-n", "3", "--stop=-x", "-t1"][..],
        &["--json", "-n3", "--stop", "-x", "-t", "1"],
        &["-n=3", "--stop=-x", "--threads=1", "--json"],
    ] {
        assert_eq!(fixture.infer(flags).ok(), expected.stdout, "{flags:?}");
    }
    let continued = run(INFER, [fixture.model.to_str().expect("UTF-8"), "-p", "Fou", "-n", "2"]);
    assert_eq!(continued.ok(), "r ");
    assert_eq!(run(INFER, [fixture.model.to_str().expect("UTF-8"), "-p=Fou", "-n2"]).ok(), "r ");
    assert!(fixture.infer(&["-V"]).ok().starts_with("olmo-infer "));
    let help = run(INFER, ["-h"]);
    for short in ["  -p, --prompt ", "  -n, --max-tokens ", "  -t, --threads ", "  -V, --version "] {
        assert!(help.ok().contains(short), "{short}: {}", help.stdout);
    }
    assert!(run(INFER, ["score", "-h"]).ok().contains("  -o, --output "));
    // Help is printed regardless of the arguments behind it.
    assert_eq!(fixture.infer(&["--help", "--nonsense"]).ok(), help.stdout);
}

/// Row E1.
#[test]
fn json_ends_with_the_generated_text() {
    let fixture = fixture();
    let objects = |flags: &[&str]| -> Vec<serde_json::Value> {
        let finished = fixture.infer(&[&["--json", "--top", "1"], flags].concat());
        finished.ok().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let text = |text: &str, end: &str| {
        let ids: Vec<u32> = text.bytes().map(u32::from).collect();
        serde_json::json!({"generated": ids, "text": text, "end": end})
    };
    // The last generated token is not evaluated, as with --text.
    let found = objects(&["--max-tokens", "4"]);
    assert_eq!((found.len(), &found[6]), (7, &text("r sc", "length")));
    assert_eq!((&found[5]["pos"], &found[5]["text"]), (&5.into(), &"s".into()));
    let found = objects(&["--max-tokens", "1"]);
    assert_eq!((found.len(), &found[3]), (4, &text("r", "length")));
    let found = objects(&["--stop", " and"]);
    assert_eq!(found.last().expect("an object")["text"], "r score");
    assert_eq!((&found.last().expect("an object")["end"], found.len()), (&"stop".into(), 3 + 10 + 1));
    // Without a number of tokens nothing is added.
    assert!(objects(&[]).iter().all(|object| object.get("generated").is_none()));
    // A whole speech ends by itself.
    let last = objects(&["--max-tokens", "2000"]).pop().expect("an object");
    assert_eq!(last["end"], "eos");
    assert_eq!(last["text"], fixture.infer(&["--text", "--max-tokens", "2000"]).ok());
    // Of several files each has its object, with its name.
    let other = fixture.folder.join("o.bin");
    fs::write(&other, ids(b"Four")).expect("written");
    let files = [fixture.model.as_os_str(), fixture.tokens.as_os_str(), other.as_os_str()];
    let finished = run(INFER, files.into_iter().chain(["--json", "-n2"].map(AsRef::as_ref)));
    let generated: Vec<&str> = finished.ok().lines().filter(|line| line.contains("\"generated\"")).collect();
    assert_eq!(generated.len(), 2);
    assert!(
        generated[0].starts_with("{\"file\":") && generated[0].contains("t.bin\",\"generated\":[114,32],\"text\":")
    );
    assert!(generated[1].contains("o.bin\",\"generated\":[32,115],"), "{}", generated[1]);
}

/// Row E1.
#[test]
fn dash_writes_logits_and_scores_to_stdout() {
    let fixture = fixture();
    let file = fixture.folder.join("l.npy");
    let to_stdout = |flags: &[&str]| {
        let mut command = Command::new(INFER);
        command.args([&fixture.model, &fixture.tokens]).args(flags).stdin(Stdio::null());
        command.output().expect("starts")
    };
    for flags in [&[][..], &["--steps", "2"], &["--steps", "7", "--json"]] {
        fixture.infer(&[&["--logits", file.to_str().expect("UTF-8")], flags].concat()).ok();
        let output = to_stdout(&[&["--logits", "-"], flags].concat());
        assert_eq!((output.status.code(), output.stdout), (Some(0), fs::read(&file).expect("there")), "{flags:?}");
    }
    for flags in [&["--text"][..], &["--json", "--max-tokens", "3"]] {
        let refused = fixture.infer(&[&["--logits", "-"], flags].concat());
        assert!(refused.refused(2).contains("--logits - begins with the number of positions"), "{}", refused.stderr);
    }
    // A closed pipe is not an error; a full standard output is one.
    let mut command = Command::new(INFER);
    command.args([&fixture.model, &fixture.tokens]).args(["--logits", "-", "--steps", "1500"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
    let mut command = Command::new(INFER);
    command.args([&fixture.model, &fixture.tokens]).args(["--logits", "-"]).stdin(Stdio::null());
    command.stdout(fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device"));
    let failed = finish(&mut command);
    assert_eq!(failed.code, Some(1));
    assert!(failed.stderr.contains("cannot write the results to standard output"), "{}", failed.stderr);
    let scored = fixture.infer(&["score", "--output", "-"]);
    assert_eq!(scored.ok(), fixture.infer(&["score"]).ok());
    assert!(!fixture.folder.join("-").exists() && !PathBuf::from("-").exists());
}

/// Row E1.
#[test]
fn run_reports_ignored_options() {
    let fixture = fixture();
    let notes = |flags: &[&str]| {
        let finished = fixture.infer(flags);
        finished.ok();
        finished.stderr
    };
    let says = "olmo-infer: note: --steps 2 ends inside the prompt, which has 3 tokens\n";
    assert_eq!(notes(&["--steps", "2"]), says);
    assert_eq!(notes(&["--steps", "3"]), "");
    let says = "olmo-infer: note: --stop a\\nb has a backslash and an n; a newline is given as in --stop $'a\\nb'\n";
    assert_eq!(notes(&["--text", "--stop", "a\\nb"]), says);
    assert_eq!(notes(&["--text", "--stop", "a\nb"]), "");
    // 2048 positions take less than 256 tokens after these.
    let long = fixture.folder.join("long.bin");
    fs::write(&long, ids(&[b'a'; 2000])).expect("written");
    let cut = |flags: &[&str]| {
        let files = [fixture.model.as_os_str(), long.as_os_str()];
        let finished = run(INFER, files.into_iter().chain(flags.iter().map(|flag| flag.as_ref())));
        finished.ok();
        finished.stderr
    };
    let says = "olmo-infer: note: the text ends because the 2048 positions of the model are full\n";
    assert_eq!(cut(&["--text"]), says);
    assert_eq!(cut(&["--json", "--stop", "zzz"]), says);
    assert_eq!(cut(&["--text", "--max-tokens", "49"]), "", "as many as were asked for");
    assert_eq!(cut(&["--json"]), "");
}

#[test]
fn json_lines_match_text_lines() {
    let fixture = fixture();
    let finished = fixture.infer(&["--json", "--top", "3"]);
    let lines: Vec<&str> = finished.ok().lines().collect();
    assert_eq!(lines.len(), 20);
    let first: serde_json::Value = serde_json::from_str(lines[0]).expect("JSON");
    assert_eq!((&first["pos"], &first["token"], &first["text"]), (&0.into(), &70.into(), &"F".into()));
    let top = first["top"].as_array().expect("a list");
    assert_eq!(top.len(), 3);
    assert_eq!((&top[0]["token"], &top[0]["text"]), (&111.into(), &"o".into()));
    assert!(top[0]["logit"].as_f64() > top[1]["logit"].as_f64());
    assert!(
        lines[0].starts_with("{\"pos\":0,\"token\":70,\"text\":\"F\",\"top\":[{\"token\":111,\"logit\":"),
        "{}",
        lines[0]
    );
}

#[test]
fn text_prints_the_continuation_only() {
    let fixture = fixture();
    assert_eq!(fixture.infer(&["--text", "--max-tokens", "17"]).ok(), "r score and seven");
    assert!(fixture.infer(&["--text"]).ok().starts_with("r score and seven years ago"));
    assert_eq!(fixture.infer(&["--text"]).stdout.len(), 256);
}

#[test]
fn text_is_refused_without_vocabulary() {
    let folder = TempDir::new("no-vocabulary");
    let (weights, model, tokens) = (folder.join("w"), folder.join("m.olmo"), folder.join("t.bin"));
    write_weights(&weights, &small_config(), Stored::F32, 1);
    run(PACK, [&weights, &model]).ok();
    fs::write(&tokens, ids(&[5, 6])).expect("written");
    let finished = run(INFER, [&model, &tokens]);
    let first = finished.ok().lines().next().expect("a line");
    assert!(first.starts_with("0: token 5 Top 5 next tokens: ") && !first.contains('('), "{first}");
    let refused = run(INFER, [model.as_os_str(), tokens.as_os_str(), "--text".as_ref()]);
    assert!(refused.refused(2).contains("no vocabulary"));
}

#[test]
fn timing_is_one_line_on_stderr() {
    let fixture = fixture();
    let finished = fixture.infer(&["--timing", "--threads", "2"]);
    assert_eq!(finished.stdout, fixture.infer(&[]).stdout);
    assert_eq!((finished.code, finished.stderr.lines().count()), (Some(0), 1));
    for part in [
        "open and map",
        "page-in",
        "first token after",
        "prefill 3 tokens",
        "decode 17 tokens",
        "2 threads",
        "anonymous",
    ] {
        assert!(finished.stderr.contains(part), "{part}: {}", finished.stderr);
    }
}

#[test]
fn timing_recommends_plain_file_where_faster() {
    let fixture = fixture();
    let weights = repository().join("demo/weights");
    let (coded, plain) = (fixture.folder.join("coded.olmo"), fixture.folder.join("plain.olmo"));
    for (model, encoding) in [(&coded, "auto"), (&plain, "plain")] {
        let flags = ["--dtype", "bf16", "--encoding", encoding].map(AsRef::as_ref);
        run(PACK, [weights.as_os_str(), model.as_os_str()].into_iter().chain(flags)).ok();
    }
    for (model, expected) in [(coded, true), (plain, false)] {
        let flags = ["--isa", "portable", "--timing"].map(AsRef::as_ref);
        let finished = run(INFER, [model.as_os_str(), fixture.tokens.as_os_str()].into_iter().chain(flags));
        finished.ok();
        assert_eq!(finished.stderr.contains("--encoding plain"), expected, "{}", finished.stderr);
    }
}

#[test]
fn logits_file_appears_whole_or_not_at_all() {
    let fixture = fixture();
    let logits = fixture.folder.join("l.npy");
    fixture.infer(&["--logits", logits.to_str().expect("UTF-8"), "--steps", "7"]).ok();
    assert_eq!(olmo_tests::read_f32_npy(&logits).0, [7, 256]);
    // The run fails after the file was begun: the old one stays, nothing else does.
    let before = fs::read(&logits).expect("there");
    let mut command = Command::new(INFER);
    command.args([&fixture.model, &fixture.tokens]).arg("--logits").arg(&logits);
    command.stdin(Stdio::null()).stdout(fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device"));
    let failed = finish(&mut command);
    assert_eq!(failed.code, Some(1));
    assert!(failed.stderr.contains("cannot write the results to standard output: No space left"), "{}", failed.stderr);
    assert_eq!(fs::read(&logits).expect("still there"), before);
    assert_eq!(fs::read_dir(fixture.folder.path()).expect("folder").count(), 3);
    let nowhere = fixture.infer(&["--logits", "/no/such/folder/l.npy"]);
    assert!(nowhere.refused(1).contains("/no/such/folder/l.npy: cannot create"));
}

#[test]
fn hidden_states_go_to_a_file_or_to_stdout() {
    let fixture = fixture();
    let (hidden, logits) = (fixture.folder.join("h.npy"), fixture.folder.join("l.npy"));
    let (to_hidden, to_logits) = (hidden.to_str().expect("UTF-8"), logits.to_str().expect("UTF-8"));
    for layer in ["0", "3"] {
        fixture.infer(&["--hidden", to_hidden, "--layer", layer, "--steps", "7"]).ok();
        assert_eq!(olmo_tests::read_f32_npy(&hidden).0, [7, 128]);
        let mut command = Command::new(INFER);
        command.args([&fixture.model, &fixture.tokens]).args(["--hidden", "-", "--layer", layer, "--steps", "7"]);
        let output = command.stdin(Stdio::null()).output().expect("starts");
        assert_eq!((output.status.code(), output.stdout), (Some(0), fs::read(&hidden).expect("there")), "{layer}");
    }
    let before = fs::read(&hidden).expect("there");
    for (flags, code, problem) in [
        (&["--hidden", to_hidden][..], 2, "--hidden needs --layer"),
        (&["--layer", "1"], 2, "--layer belongs to --hidden"),
        (&["--hidden", to_hidden, "--layer", "4"], 2, "--layer 4: "),
        (&["--hidden", to_hidden, "--layer", "4"], 2, "has layers 0 to 3"),
        (&["--hidden", to_hidden, "--layer", "1", "--logits", to_hidden], 2, "--logits and --hidden both name"),
        (&["--hidden", "-", "--layer", "1", "--logits", "-"], 2, "--logits and --hidden both name standard output"),
        (&["--hidden", "-", "--layer", "1", "--text"], 2, "--hidden - begins with the number of positions"),
        (&["--hidden", "/no/such/folder/h.npy", "--layer", "1"], 1, "/no/such/folder/h.npy: cannot create"),
        (&["--hidden", fixture.model.to_str().expect("UTF-8"), "--layer", "1"], 1, "is an input of this run"),
        (&["--hidden", to_hidden, "--layer", "1", "b.bin"], 2, "--hidden takes one token file"),
    ] {
        let finished = fixture.infer(flags);
        assert!(finished.refused(code).contains(problem), "{flags:?}: {}", finished.stderr);
    }
    // The same file by another path.
    let other = fixture.folder.join("./h.npy");
    let flags = ["--hidden", to_hidden, "--layer", "1", "--logits", other.to_str().expect("UTF-8")];
    assert!(fixture.infer(&flags).refused(2).contains("--logits and --hidden both name"));
    assert_eq!(fs::read(&hidden).expect("still there"), before);
    // Both in one run, with a text that ends where it likes.
    fixture.infer(&["--hidden", to_hidden, "--layer", "2", "--logits", to_logits, "--text", "--max-tokens", "5"]).ok();
    let rows = |path| olmo_tests::read_f32_npy(path).0[0];
    // Three tokens of the prompt, and four that were generated before the last one.
    assert_eq!((rows(&hidden), rows(&logits)), (7, 7));
}

#[test]
fn closed_pipe_ends_run_silently() {
    let fixture = fixture();
    let mut command = Command::new(INFER);
    command.args([&fixture.model, &fixture.tokens]).args(["--steps", "1500"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut line = String::new();
    BufReader::with_capacity(64, child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let output = child.wait_with_output().expect("ends");
    assert_eq!((output.status.code(), output.stderr), (Some(0), vec![]));
}

#[test]
fn activations_decide_about_the_logits_of_quantized_models() {
    let fixture = fixture();
    run(
        PACK,
        [&repository().join("demo/weights"), &fixture.model]
            .map(|path| path.as_os_str())
            .into_iter()
            .chain(["--force", "--dtype", "int8"].map(AsRef::as_ref)),
    )
    .ok();
    let logits = |activations: &str| {
        let path = fixture.folder.join(format!("{activations}.npy"));
        let flags = ["--activations", activations, "--logits", path.to_str().expect("UTF-8")];
        fixture.infer(&flags).ok();
        fs::read(path).expect("logits")
    };
    let [auto, int16, int8, f32] = ["auto", "int16", "int8", "f32"].map(logits);
    assert!(auto == int16 && int16 != int8 && int8 != f32 && f32 != int16);
}

/// Row E1.
#[test]
fn wrong_usage_ends_with_status_2_and_one_line() {
    let fixture = fixture();
    for (flags, problem) in [
        (&["--no-such-flag"][..], "--no-such-flag"),
        (&["--steps", "0"], "--steps 0: expected a whole number from 1; see"),
        (&["--top", "0"], "--top 0: expected a whole number from 1; see"),
        (&["--steps", "many"], "--steps many: expected a whole number from 1; see"),
        (&["--threads", "-1"], "--threads -1: expected a whole number from 0; see"),
        (&["-t", "two"], "--threads two: expected a whole number from 0; see"),
        (&["--threads="], "--threads \"\": expected a whole number from 0; see"),
        (&["--seed", "18446744073709551616"], "--seed 18446744073709551616: expected a smaller number; see"),
        (&["--temperature", "0,7"], "--temperature 0,7: expected a number, as in 0.5; see"),
        (&["--threads", "1", "-t=2"], "--threads 2: --threads is given twice, expected once; see"),
        (&["--temprature", "1"], "unknown option --temprature (did you mean --temperature?); see"),
        (&["-temperature", "1"], "unknown option -temperature (did you mean --temperature?); see"),
        (&["--max_tokens=1"], "unknown option --max_tokens (did you mean --max-tokens?); see"),
        (&["temperature", "1"], "temperature: no such file (did you mean --temperature?); see"),
        (&["--json=yes"], "--json=yes: --json takes no value; see"),
        (
            &["--logits", "--json"],
            "--logits needs a value before --json; if --json is the value, write --logits=--json",
        ),
        (&["--text", "--top", "3"], "--top lists next tokens"),
        (&["--json", "--steps", "3", "--max-tokens", "3"], "--steps and --max-tokens exclude each other"),
        (&["score", "--top", "3"], "unknown option --top (an option of olmo-infer); see olmo-infer score --help"),
        (&["-o", "x"], "unknown option -o (an option of olmo-infer score); redirect standard output: > FILE; see"),
        (&["tokenize", "-o", "x"], "unknown option -o (an option of olmo-infer score); redirect standard output"),
        (&["--tokenise"], "unknown option --tokenise (did you mean olmo-infer tokenize?); see olmo-infer --help"),
        (&["--token-type", "f32"], "--token-type f32: expected u16, u32, i32, u64 or i64"),
        (
            &["tokenize", "--token-type", "u16"],
            "unknown option --token-type (an option of olmo-infer); see olmo-infer tokenize --help",
        ),
        (&["--text", "--json"], "exclude each other"),
        (&["--text", "--steps", "3"], "--max-tokens"),
        (&["--max-tokens", "3"], "--steps"),
        (&["--isa", "avx9000"], "this machine has"),
        (&["--isa", "portable", "--matmul", "own"], "no own kernels"),
        (&["--matmul", "blas"], "expected own or gemm"),
        (&["--activations", "f16"], "expected auto, int16, int8 or f32"),
        (&["--kv", "f16"], "--kv f16: expected f32 or bf16; see olmo-infer --help"),
        (&["--kv", ""], "--kv \"\": expected f32 or bf16; see olmo-infer --help"),
        (&["score", "--kv", "q8"], "--kv q8: expected f32 or bf16; see olmo-infer score --help"),
        (&["--activations", "int8"], "m.olmo has no int8 or int4 matrices; leave the option out"),
        (&["score", "--activations", "int16"], "--activations int16: "),
        (&["--isa", "a\nb"], "--isa a\\nb"),
        (&["--isa", "-"], "--isa -:"),
    ] {
        let finished = fixture.infer(flags);
        assert!(finished.refused(2).contains(problem), "{flags:?}: {}", finished.stderr);
    }
    assert!(run(INFER, [""; 0]).refused(2).contains("model"));
    let help = run(INFER, ["--help"]);
    assert!(help.ok().contains("--steps") && help.ok().contains("olmo-infer model.olmo tokens.bin"));
    assert!(run(INFER, ["--version"]).ok().starts_with("olmo-infer "));
}

#[test]
fn bad_files_end_with_status_1_and_one_line() {
    let fixture = fixture();
    let path = |name: &str, content: &[u8]| {
        let path = fixture.folder.join(name);
        fs::write(&path, content).expect("written");
        path
    };
    let model = fs::read(&fixture.model).expect("the model");
    let mut flipped = model.clone();
    flipped[200] ^= 1;
    let mut newer = model.clone();
    newer[8] = 2;
    let mut long = model.clone();
    long.push(0);
    for (path, parts) in [
        (fixture.folder.join("absent"), ["absent: cannot open", "No such file"]),
        (fixture.folder.path().to_path_buf(), ["is a folder", "olmo-pack weights/ model.olmo"]),
        ("/dev/null".into(), ["is a device", "expected a regular file"]),
        (path("empty", b""), ["an empty file", "olmo-pack"]),
        (path("g.gguf", b"GGUF\x03\0\0\0"), ["a GGUF file", "olmo-pack"]),
        (path("lfs", b"version https://git-lfs.github.com/spec/v1\noid"), ["a git-lfs pointer", "git lfs pull"]),
        (path("crlf", b"\x89OLMO\n\x1a and so on"), ["text-mode", "binary"]),
        (path("s.safetensors", b"\x20\0\0\0\0\0\0\0{\"a\":1}"), ["a safetensors checkpoint", "olmo-pack"]),
        (path("cut", &model[..model.len() - 1]), ["truncated", "copy or pack it again"]),
        (path("page", &model[..5000]), ["truncated", "has 5000 bytes"]),
        (path("head", &model[..100]), ["truncated", "has 100 bytes"]),
        (path("long", &long), ["too long", "copy or pack it again"]),
        (path("flip", &flipped), ["header digest", "damaged"]),
        (path("newer", &newer), ["needs format 2.0", "this program reads format 1.0"]),
    ] {
        let finished = run(INFER, [&path, &fixture.tokens]);
        let line = finished.refused(1);
        assert!(line.starts_with("olmo-infer: error: ") && parts.iter().all(|part| line.contains(part)), "{line}");
    }
    for (content, part) in [
        (&b""[..], "no tokens"),
        (b"abc", "3 bytes, expected a multiple of 4"),
        (&ids(&[1, 2])[..7], "7 bytes, expected a multiple of 4"),
        (&[0, 1, 0, 0], "token 0 is 256, the vocabulary has ids 0 to 255"),
        (&[70, 0, 111, 0, 117, 0, 114, 0], "(it looks like 16-bit ids)"),
        (&[70, 0, 0, 0, 0, 0, 0, 0], "(it looks like 64-bit ids)"),
        (&[0; 4 * 2049], "2049 tokens, expected at most 2048, the positions of the model"),
    ] {
        let finished = run(INFER, [&fixture.model, &path("tokens", content)]);
        assert!(finished.refused(1).contains(part), "{}", finished.stderr);
    }
    assert!(fixture.infer_stdin(&[], &[0; 4 * 5000]).refused(1).contains("more than 2048 tokens"));
    let swapped = run(INFER, [&fixture.tokens, &fixture.model]);
    assert!(swapped.refused(1).contains("are the arguments swapped?"), "{}", swapped.stderr);
    let twice = run(INFER, [&fixture.model, &fixture.model]);
    assert!(twice.refused(1).contains("looks like a model file: are the arguments swapped?"), "{}", twice.stderr);
    assert!(fixture.infer(&["--steps", "2049"]).refused(1).contains("the model has 2048"));
    assert!(fixture.infer(&["--text", "--max-tokens", "9999"]).refused(1).contains("the model has 2048"));
}

/// Row E14.
#[test]
fn accepts_large_top_and_thread_counts() {
    let fixture = fixture();
    let expected = fixture.infer(&["--steps", "3"]).ok().to_string();
    let processors = std::thread::available_parallelism().expect("a number").get();
    for threads in [0, 1, processors, processors + 1, 300_000] {
        let finished = fixture.infer(&["--steps", "3", "--threads", &threads.to_string()]);
        assert_eq!(finished.ok(), expected, "{threads} threads");
        // Threads beyond the number of processors are not started, which a note reports.
        let note =
            finished.stderr.starts_with(&format!("olmo-infer: note: --threads {threads}: this process may use "));
        assert_eq!((note, finished.stderr.lines().count()), (threads > processors, usize::from(threads > processors)));
    }
    for top in ["256", "257", "18446744073709551615"] {
        let finished = fixture.infer(&["--steps", "3", "--top", top]);
        assert!(finished.ok().starts_with("0: token 70 (\"F\") Top 256 next tokens: 111 "), "{}", finished.stdout);
    }
}

#[test]
fn logits_replace_no_input_and_no_special_file() {
    let fixture = fixture();
    let before = (fs::read(&fixture.model).expect("there"), fs::read(&fixture.tokens).expect("there"));
    let link = fixture.folder.join("link");
    std::os::unix::fs::symlink(&fixture.model, &link).expect("a link");
    let text = |path: &PathBuf| path.to_str().expect("UTF-8").to_string();
    for (path, problem) in [
        (text(&fixture.model), "is an input of this run"),
        (text(&fixture.tokens), "is an input of this run"),
        (text(&link), "is an input of this run"),
        ("/dev/null".into(), "is not a regular file"),
        (text(&fixture.folder.path().to_path_buf()), "is a folder"),
        (text(&fixture.folder.join("new/")), "no such folder"),
        (String::new(), "\"\": no name"),
    ] {
        let finished = fixture.infer(&["--logits", &path]);
        assert!(finished.refused(1).contains(problem), "{path}: {}", finished.stderr);
    }
    assert_eq!((fs::read(&fixture.model).expect("there"), fs::read(&fixture.tokens).expect("there")), before);
}

#[test]
fn signal_or_out_of_memory_leaves_no_partial_logits() {
    let fixture = fixture();
    let out = fixture.folder.join("out");
    fs::create_dir(&out).expect("a folder");
    let logits = out.join("l.npy");
    let left = || fs::read_dir(&out).expect("a folder").count();
    for signal in ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "XCPU", "ALRM", "VTALRM", "PROF", "ABRT"] {
        // Independent of the signals that the caller ignores. The program waits for a reader of its output.
        let mut command = Command::new("env");
        command.arg("--default-signal").arg(INFER).args([&fixture.model, &fixture.tokens]);
        command.args(["--steps", "2000", "--top", "200", "--logits"]).arg(&logits);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("starts");
        while !has_file_in(&out, child.id()) {
            assert!(child.try_wait().expect("a child").is_none(), "{signal}: it ended");
            thread::sleep(Duration::from_millis(1));
        }
        finish(Command::new("kill").args(["-s", signal, &child.id().to_string()])).ok();
        let output = child.wait_with_output().expect("ends");
        assert!(output.status.signal().is_some() && output.stderr.is_empty(), "{signal}: {output:?}");
        assert_eq!(left(), 0, "{signal}");
    }
    // One that is ignored stays ignored.
    let mut command = Command::new("env");
    command.arg("--ignore-signal=USR1").arg(INFER).arg(&fixture.model).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("starts");
    thread::sleep(Duration::from_millis(200));
    finish(Command::new("kill").args(["-s", "USR1", &child.id().to_string()])).ok();
    drop(child.stdin.take());
    assert_eq!(child.wait_with_output().expect("ends").status.code(), Some(1));
    let (model, tokens) = (fixture.model.display(), fixture.tokens.display());
    // Some of these limits are met when the file has been begun.
    let mut refused = 0;
    for kib in (4000..16000).step_by(250) {
        let limited = format!(
            "ulimit -c 0; ulimit -v {kib}; exec {INFER} {model} {tokens} --logits {} --threads 1",
            logits.display()
        );
        let finished = run("sh", ["-c", &limited]);
        refused += usize::from(finished.code == Some(1));
        let complete = usize::from(finished.code == Some(0));
        assert_eq!(left(), complete, "{kib} KiB: {finished:?}");
        if complete == 1 {
            fs::remove_file(&logits).expect("written");
        }
    }
    assert!(refused > 0);
}

#[test]
fn starts_fewer_threads_when_address_space_is_short() {
    let fixture = fixture();
    let (model, tokens) = (fixture.model.display(), fixture.tokens.display());
    let expected = fixture.infer(&["--steps", "3"]).ok().to_string();
    // More of them in `threads.rs`.
    for kib in (20_000..160_000).step_by(3511) {
        let limited = format!("ulimit -c 0; ulimit -v {kib}; exec {INFER} {model} {tokens} --steps 3");
        assert_eq!(run("sh", ["-c", &limited]).ok(), expected, "{kib} KiB");
    }
}

#[test]
fn writes_logits_after_stdout_is_closed() {
    let fixture = fixture();
    let logits = fixture.folder.join("l.npy");
    let mut command = Command::new(INFER);
    command.args([&fixture.model, &fixture.tokens]).args(["--steps", "600", "--logits"]).arg(&logits);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    drop(child.stdout.take());
    assert_eq!(child.wait_with_output().expect("ends").status.code(), Some(0));
    assert_eq!(olmo_tests::read_f32_npy(&logits).0, [600, 256]);
}

#[test]
fn full_stderr_keeps_exit_status() {
    let fixture = fixture();
    for (model, code) in [(fixture.folder.join("absent"), 1), (fixture.model.clone(), 0)] {
        let mut command = Command::new(INFER);
        command.args([&model, &fixture.tokens]).arg("--timing").stdin(Stdio::null());
        command.stderr(fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device"));
        assert_eq!(finish(&mut command).code, Some(code));
    }
}

/// Row E13.
#[test]
fn refuses_run_that_exceeds_memory_before_it_begins() {
    let folder = TempDir::new("memory");
    let mut config = small_config();
    // 2^24 positions of a wide model take more than any machine has.
    (config.max_position_embeddings, config.n_heads, config.n_kv_heads, config.head_dim) = (1 << 24, 64, 64, 1024);
    (config.hidden_size, config.intermediate_size) = (2, 2);
    let (weights, model, tokens) = (folder.join("w"), folder.join("m.olmo"), folder.join("t.bin"));
    write_weights(&weights, &config, Stored::F32, 1);
    run(PACK, [&weights, &model]).ok();
    fs::write(&tokens, ids(&[1])).expect("written");
    let files = [model.as_os_str(), tokens.as_os_str()];
    let refused = run(INFER, files.into_iter().chain(["--steps".as_ref(), "16777216".as_ref()]));
    assert!(refused.refused(1).contains("16777216 positions need"), "{}", refused.stderr);
    // With a limit on the address space the buffers are refused, not aborted on.
    let script =
        format!("ulimit -v 400000; exec {INFER} {} {} --steps 4000 --threads 1", model.display(), tokens.display());
    let limited = run("sh", ["-c", &script]);
    assert!(limited.refused(1).contains("cannot allocate"), "{}", limited.stderr);
}
