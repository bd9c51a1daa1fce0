//! `olmo-infer score` on texts and JSON lines: what is scored, and what is printed of it.

use crate::{INFER, PACK};
use flate2::Compression;
use flate2::write::GzEncoder;
use olmo_tests::terminals::{pty, screen};
use olmo_tests::{Finished, TempDir, finish, repository, run};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The model of the demo, whose ids are bytes; its start token is 0.
pub struct Demo {
    pub folder: TempDir,
    model: PathBuf,
}

impl Demo {
    pub fn new(name: &str) -> Demo {
        let folder = TempDir::new(name);
        let model = folder.join("m.olmo");
        run(PACK, [repository().join("demo/weights").as_os_str(), model.as_os_str()]).ok();
        Demo { folder, model }
    }

    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, bytes).expect("written");
        path
    }

    fn tokens(&self, name: &str, ids: &[u32]) -> PathBuf {
        self.file(name, ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>())
    }

    pub fn score(&self, files: &[&Path], flags: &[&str]) -> Finished {
        let files = files.iter().map(|file| file.as_os_str());
        let flags = flags.iter().map(OsStr::new);
        run(INFER, ["score".as_ref(), self.model.as_os_str()].into_iter().chain(files).chain(flags))
    }

    /// The negative log-likelihoods of all ids but the first, as they are printed.
    fn nll(&self, ids: &[u32]) -> Vec<Value> {
        let file = self.tokens("ids.bin", ids);
        let found = objects(self.score(&[&file], &["--per-token"]).ok()).remove(0);
        found["nll"].as_array().expect("a list").clone()
    }

    fn ids(&self, text: &str) -> Vec<u32> {
        let words = ["tokenize".as_ref(), self.model.as_os_str(), "--prompt".as_ref(), text.as_ref()];
        let bytes = Command::new(INFER).args(words).output().expect("starts").stdout;
        bytes.as_chunks::<4>().0.iter().map(|id| u32::from_le_bytes(*id)).collect()
    }
}

pub fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

const TEXT: &str = "Four score and seven years ago";

#[test]
fn texts_follow_the_start_token() {
    let demo = Demo::new("score-texts");
    let text = demo.file("a.txt", TEXT);
    let ids = demo.ids(TEXT);
    let after_start = demo.nll(&[&[0], &ids[..]].concat());
    let found = objects(demo.score(&[&text], &["--per-token"]).ok()).remove(0);
    assert_eq!(found["nll"].as_array(), Some(&after_start));
    assert_eq!((&found["tokens"], &found["scored"]), (&json!(ids.len()), &json!(ids.len())));
    // The same from a line, a compressed file and standard input.
    let line = format!("{{\"text\":\"{TEXT}\"}}\n");
    let gz = demo.file("a.TXT.gz", gzip(TEXT.as_bytes()));
    for file in [demo.file("a.jsonl", &line), gz, demo.file("a.json.gz", gzip(line.as_bytes()))] {
        let again = objects(demo.score(&[&file], &["--per-token"]).ok()).remove(0);
        assert_eq!((&again["nll"], &again["sum_nll"]), (&found["nll"], &found["sum_nll"]), "{}", file.display());
    }
    let mut command = Command::new(INFER);
    let words = ["-", "--format", "jsonl", "--per-token"];
    command.arg("score").arg(&demo.model).args(words).stdin(File::open(demo.folder.join("a.jsonl")).expect("there"));
    let piped = objects(finish(&mut command).ok()).remove(0);
    assert_eq!((&piped["file"], &piped["line"], &piped["nll"]), (&json!("-"), &json!(1), &found["nll"]));
    // Any other start token, and none, which no continuation can have before it.
    let nothing = demo.file("nothing.jsonl", "{\"context\":\"\",\"continuation\":\"Four\"}");
    let refused = demo.score(&[&nothing], &["--start", "none"]);
    assert!(refused.stdout.contains("nothing precedes the continuation") && refused.code == Some(1));
    let other = objects(demo.score(&[&text], &["--per-token", "--start", "9"]).ok()).remove(0);
    assert_eq!(other["nll"].as_array(), Some(&demo.nll(&[&[9], &ids[..]].concat())));
    let none = objects(demo.score(&[&text], &["--per-token", "--start", "none"]).ok()).remove(0);
    assert_eq!(none["nll"].as_array(), Some(&demo.nll(&ids)));
    assert_eq!((&none["tokens"], &none["bytes"]), (&json!(ids.len()), &json!(TEXT.len() - 1)));
}

#[test]
fn means_and_perplexities_are_of_their_sums() {
    let demo = Demo::new("score-means");
    let text = demo.file("a.txt", " now we\nare  engaged é");
    let found = objects(demo.score(&[&text], &["--per-token"]).ok()).remove(0);
    let number = |key: &str| found[key].as_f64().expect(key);
    let sum: f64 = found["nll"].as_array().expect("a list").iter().map(|nll| nll.as_f64().expect("a number")).sum();
    assert!((number("sum_nll") - sum).abs() < 1e-4 * sum);
    // By Python: len(text.encode()), len(re.split(r"\s+", text)).
    let (sum, n, bytes, words) = (number("sum_nll"), number("scored"), 23.0, 6.0);
    assert_eq!((number("bytes"), number("words"), number("tokens")), (bytes, words, n));
    for (key, expected) in [
        ("mean_nll", sum / n),
        ("perplexity", (sum / n).exp()),
        ("byte_perplexity", (sum / bytes).exp()),
        ("bits_per_byte", sum / bytes / 2f64.ln()),
        ("word_perplexity", (sum / words).exp()),
    ] {
        assert!((number(key) / expected - 1.0).abs() < 1e-12, "{key}: {} {expected}", number(key));
    }
    assert!(found.get("is_greedy").is_none() && found.get("windows").is_none());
}

#[test]
fn continuations_follow_their_contexts() {
    let demo = Demo::new("score-pairs");
    let pair =
        |context: &str, continuation: &str| json!({"context": context, "continuation": continuation}).to_string();
    let lines = [
        pair("Four score and", " seven years"),
        // White space at the end belongs to the continuation.
        pair("Four score and ", "seven years"),
        pair("Four score and", " eight years"),
        pair("", "Four"),
        pair("\0", "Four"),
        pair("", "\0Four"),
    ];
    let file = demo.file("a.jsonl", lines.join("\n"));
    let finished = demo.score(&[&file], &["--per-token"]);
    let found = objects(finished.ok());
    let ids = demo.ids("Four score and seven years");
    let expected = demo.nll(&ids);
    let n_context = demo.ids("Four score and").len();
    for found in &found[..2] {
        assert_eq!(found["nll"].as_array().map(Vec::as_slice), Some(&expected[n_context - 1..]));
        assert_eq!(found["tokens"], json!(ids.len()));
        assert_eq!(found["scored"], json!(ids.len() - n_context));
    }
    // What is measured is the continuation as it was given.
    assert_eq!((&found[0]["bytes"], &found[1]["bytes"]), (&json!(12), &json!(11)));
    let greedy: Vec<&Value> = found.iter().map(|object| &object["is_greedy"]).collect();
    // The model of the demo has learned one speech by heart.
    assert_eq!(greedy[..3], [&json!(true), &json!(true), &json!(false)]);
    // An empty context is the start token, and is there once.
    assert_eq!(found[3]["nll"], json!(demo.nll(&[&[0], &demo.ids("Four")[..]].concat())));
    assert_eq!((&found[4]["nll"], &found[5]["nll"]), (&found[3]["nll"], &found[3]["nll"]));
    let tokens: Vec<&Value> = found[3..].iter().map(|object| &object["tokens"]).collect();
    assert_eq!(tokens, [&json!(4), &json!(5), &json!(5)]);
    // Nothing changes with the company that an item has.
    for flags in [&["--batch", "1"][..], &["--chunk", "5"], &["--threads", "3"], &["--batch", "2", "--chunk", "2"]] {
        let flags = [&["--per-token"], flags].concat();
        assert_eq!(demo.score(&[&file], &flags).stdout, finished.stdout, "{flags:?}");
    }
}

#[test]
fn long_texts_go_in_windows() {
    let demo = Demo::new("score-windows");
    let text = "It is for us the living, rather, to be dedicated here to the unfinished work";
    let ids = [&[0], &demo.ids(text)[..]].concat();
    let file = demo.file("a.txt", text);
    for (context, stride) in [(16, 16), (16, 5), (7, 1), (40, 40), (62, 62), (63, 2)] {
        let flags = ["--per-token", "--context", &context.to_string(), "--stride", &stride.to_string()];
        let found = objects(demo.score(&[&file], &flags).ok()).remove(0);
        // As the harness defines it: the first window predicts `context` tokens, the others `stride`.
        let (mut expected, mut n_windows, mut done) = (Vec::new(), 0, 0);
        while done < ids.len() - 1 {
            let n = (if done == 0 { context } else { stride }).min(ids.len() - 1 - done);
            let end = done + n;
            let nll = demo.nll(&ids[(end + 1).saturating_sub(context + 1)..=end]);
            expected.extend_from_slice(&nll[nll.len() - n..]);
            (done, n_windows) = (end, n_windows + 1);
        }
        assert_eq!(found["nll"], json!(expected), "{context} {stride}");
        let windows = if n_windows > 1 { json!(n_windows) } else { Value::Null };
        assert_eq!((&found["windows"], &found["scored"]), (&windows, &json!(text.len())));
    }
    // A context loses its beginning, which is reported; a continuation that does not fit is refused.
    let pair = json!({"context": text, "continuation": " but it"}).to_string();
    let file = demo.file("b.jsonl", pair);
    let found = objects(demo.score(&[&file], &["--per-token", "--context", "16"]).ok()).remove(0);
    let ids = demo.ids(&format!("{text} but it"));
    let nll = demo.nll(&ids[ids.len() - 17..]);
    assert_eq!((&found["nll"], &found["left_out"]), (&json!(nll[nll.len() - 7..]), &json!(ids.len() - 17)));
    assert_eq!(found["tokens"], json!(ids.len()));
    let refused = demo.score(&[&file], &["--context", "6"]);
    assert_eq!(refused.code, Some(1));
    let expected = "the continuation has 7 tokens, expected at most 6, the positions; split it";
    assert_eq!(objects(&refused.stdout)[0]["error"], json!(expected));
    assert_eq!(demo.score(&[&file], &["--context", "7", "--batch", "1"]).code, Some(0));
}

#[test]
fn lines_keep_their_order_and_their_ids() {
    let demo = Demo::new("score-lines");
    let lines = "\u{feff}{\"id\":\"x\",\"text\":\"Four score\"}\r\n\n{\"tokens\":[1,70,700]}\n{\"id\":[1],\"context\":\"a\",\
                 \"continuation\":\"\"}\nnonsense\n  {\"id\":{\"k\":1.50},\"tokens\":[5,6]}  \n{\"context\":\" \",\"continuation\":\"a\"}\n\
                 {\"text\":\"a\"}";
    let file = demo.file("a.jsonl", lines);
    let text = demo.file("b.txt", "Four score");
    let finished = demo.score(&[&file, &text], &[]);
    assert_eq!(finished.code, Some(1));
    assert_eq!(finished.stderr, "olmo-infer: error: 4 items could not be scored; see their lines\n");
    let found = objects(&finished.stdout);
    let places: Vec<(Option<u64>, bool)> =
        found.iter().map(|object| (object["line"].as_u64(), object["error"].is_string())).collect();
    let expected = [(1, false), (3, true), (4, true), (5, true), (6, false), (7, true), (8, false)];
    let expected = expected.map(|(line, failed)| (Some(line), failed));
    assert_eq!(places[..7], expected);
    assert_eq!(places[7..], [(None, false)]);
    assert_eq!((&found[0]["id"], &found[2]["id"]), (&json!("x"), &json!([1])));
    assert!(finished.stdout.contains(",\"id\":{\"k\":1.50}}\n"), "{}", finished.stdout);
    for (i, expected) in [
        (1, "token 2 is 700, the vocabulary has ids 0 to 255"),
        (2, "the continuation has no token of its own"),
        (3, "not a request: expected ident at column"),
        (5, "the context has no token"),
    ] {
        assert!(found[i]["error"].as_str().expect("an error").contains(expected), "{}", found[i]);
    }
    // Shards are all items, each once.
    let mut all = vec![""; found.len()];
    let shards: Vec<Finished> = (0..3).map(|k| demo.score(&[&file, &text], &["--shard", &format!("{k}/3")])).collect();
    for (k, shard) in shards.iter().enumerate() {
        shard.stdout.lines().enumerate().for_each(|(i, line)| all[3 * i + k] = line);
    }
    assert_eq!(all.join("\n") + "\n", finished.stdout);
    // An output is continued, wherever it was cut.
    let output = demo.folder.join("o.jsonl");
    let flags = ["--output", output.to_str().expect("UTF-8")];
    let first_line = finished.stdout.find('\n').expect("lines") + 1;
    for cut in (first_line..finished.stdout.len()).step_by(97) {
        fs::write(&output, &finished.stdout[..cut]).expect("written");
        let again = demo.score(&[&file, &text], &flags);
        assert_eq!((again.code, again.stdout.as_str()), (Some(1), ""));
        assert_eq!(fs::read_to_string(&output).expect("read"), finished.stdout, "cut at {cut}");
        assert!(again.stderr.contains("4 items could not be scored"), "{}", again.stderr);
    }
    let shard = ["--output", output.to_str().expect("UTF-8"), "--shard", "2/3"];
    assert_eq!(demo.score(&[&file, &text], &shard).code, Some(1));
    assert_eq!(fs::read_to_string(&output).expect("read"), finished.stdout);
}

/// Row X9: texts and lines that cannot be read.
#[test]
fn files_that_cannot_be_read_have_an_error_each() {
    let demo = Demo::new("score-unreadable");
    let good = "{\"text\":\"Four\"}\n".repeat(2000);
    let whole = gzip(good.as_bytes());
    let mut flipped = whole.clone();
    let at = flipped.len() / 2;
    flipped[at] ^= 0x55;
    let long = [&b"{\"text\":\"a\"}\n{\"text\":\""[..], &vec![b'a'; 64 << 20], b"\"}\n{}\n"].concat();
    for (file, n_good, says) in [
        (demo.folder.join("absent.txt"), 0, "No such file"),
        (demo.folder.join("absent.jsonl"), 0, "No such file"),
        (demo.file("latin.txt", b"caf\xe9"), 0, "byte 3 is not UTF-8; expected text in UTF-8, convert it with iconv"),
        (demo.file("latin.jsonl", b"{\"text\":\"a\"}\n{\"text\":\"\xe9\"}\n"), 1, "byte 9 of the line is not UTF-8"),
        (demo.file("cut.jsonl.gz", &whole[..whole.len() - 4]), 2000, "cannot be decompressed"),
        (demo.file("empty.jsonl.gz", ""), 0, "0 bytes, expected a gzip file; fetch it again"),
        (demo.file("no.txt.gz", [0x1f, 0x8b, 9]), 0, "cannot be decompressed"),
        (demo.file("long.jsonl", long), 1, "a line of more than 64 MiB; the lines after it are not read; split it"),
        (demo.file("long.txt.gz", gzip(&vec![b'a'; (64 << 20) + 1])), 0, "more than 64 MiB of text"),
        (demo.file("word.txt", vec![b'a'; 2 << 20]), 0, "of more than 1048576 bytes"),
    ] {
        let finished = demo.score(&[&file], &[]);
        assert_eq!(finished.code, Some(1), "{}", file.display());
        let found = objects(&finished.stdout);
        let errors: Vec<&str> = found.iter().filter_map(|object| object["error"].as_str()).collect();
        assert_eq!((found.len(), errors.len()), (n_good + 1, 1), "{}: {errors:?}", file.display());
        assert!(errors[0].contains(says), "{}: {}", file.display(), errors[0]);
    }
    let file = demo.file("flipped.jsonl.gz", flipped);
    let finished = demo.score(&[&file], &[]);
    let found = objects(&finished.stdout);
    assert!(finished.code == Some(1) && found.last().expect("a line")["error"].is_string(), "{}", finished.stderr);
    let folder = demo.folder.join("folder.jsonl");
    fs::create_dir(&folder).expect("a folder");
    let finished = demo.score(&[&folder], &[]);
    assert!(finished.stdout.contains("s a directory") && finished.code == Some(1), "{}", finished.stdout);
}

/// Row X9.
#[test]
fn a_file_that_cannot_be_read_moves_no_item_of_another() {
    let demo = Demo::new("score-shards");
    let lines: String = (0..4).map(|i| format!("{{\"tokens\":[5,{i}]}}\n")).collect();
    let (a, b) = (demo.file("a.jsonl", &lines), demo.file("b.jsonl", &lines));
    let places = |finished: &Finished| -> Vec<(String, Option<u64>, bool)> {
        let place = |object: &Value| {
            let name = object["file"].as_str().expect("a name").rsplit('/').next().expect("a name").to_string();
            (name, object["line"].as_u64(), object["error"].is_string())
        };
        objects(&finished.stdout).iter().map(place).collect()
    };
    let of = |name: &str, lines: [u64; 2]| lines.map(|line| (name.to_string(), Some(line), false));
    let shard = |k: &str| demo.score(&[&a, &b], &["--shard", k]);
    assert_eq!(places(&shard("0/2")), [of("a.jsonl", [1, 3]), of("b.jsonl", [2, 4])].concat());
    fs::remove_file(&a).expect("removed");
    // Every shard reports it, and has the same items of the other file.
    for (k, lines) in [("0/2", [2, 4]), ("1/2", [1, 3])] {
        let finished = shard(k);
        assert_eq!(finished.code, Some(1));
        let absent = vec![("a.jsonl".to_string(), None, true)];
        assert_eq!(places(&finished), [absent, of("b.jsonl", lines).to_vec()].concat());
    }
    // So does a file that ends early.
    let whole = gzip(lines.as_bytes());
    fs::write(demo.folder.join("a.jsonl"), &whole[..whole.len() - 4]).expect("written");
    for k in ["0/2", "1/2"] {
        let found = places(&shard(k));
        assert_eq!((found.len(), &found[2]), (5, &("a.jsonl".to_string(), Some(5), true)), "{found:?}");
    }
}

/// Row X9.
#[test]
fn lines_of_other_items_are_not_continued() {
    let demo = Demo::new("score-other");
    let file = demo.file("a.jsonl", "{\"tokens\":[1,2]}\n{\"tokens\":[3,4]}\n");
    let text = demo.file("b.txt", TEXT);
    let output = demo.folder.join("o.jsonl");
    let to = ["--output", output.to_str().expect("UTF-8")];
    demo.score(&[&file, &text], &to).ok();
    let before = fs::read(&output).expect("read");
    let refused = |files: &[&Path], flags: &[&str], item: &str| {
        let finished = demo.score(files, &[&to, flags].concat());
        let line = finished.refused(1);
        let says = format!("{item} had another content, model or options before; give --output another file");
        assert!(line.contains(&says), "{line}");
        assert_eq!(fs::read(&output).expect("read"), before);
    };
    for flags in [&["--start", "9"][..], &["--context", "9"], &["--kv", "bf16"], &["--activations", "f32"]] {
        refused(&[&text], flags, "b.txt");
    }
    // What changes no score does not matter.
    demo.score(&[&file, &text], &[&to, &["--threads", "1", "--chunk", "3", "--batch", "1"][..]].concat()).ok();
    fs::write(&text, TEXT.replace("Four", "Five")).expect("written");
    refused(&[&text], &[], "b.txt");
    fs::write(&file, "{\"tokens\":[1,2]}\n{\"tokens\":[3,5]}\n").expect("written");
    refused(&[&file], &[], "a.jsonl");
    // Standard input, too.
    let pipe = |bytes: &str| {
        let mut command = Command::new(INFER);
        command.arg("score").arg(&demo.model).args(["-", "--format", "jsonl"]).args(to);
        finish(command.stdin(File::open(demo.file("in", bytes)).expect("there")))
    };
    pipe("{\"tokens\":[7,8]}\n").ok();
    let once = fs::read(&output).expect("read");
    pipe("{\"tokens\":[7,8]}\n").ok();
    assert_eq!(fs::read(&output).expect("read"), once);
    assert!(pipe("{\"tokens\":[7,9]}\n").refused(1).contains("line 1 of standard input had another content"));
}

/// Row X9.
#[test]
fn refuses_an_output_among_the_listed_files() {
    let demo = Demo::new("score-listed");
    let output = demo.file("o.jsonl", "");
    let mut command = Command::new(INFER);
    command.arg("score").arg(&demo.model).arg("--output").arg(&output);
    let list = demo.file("list", format!("{}\n", output.display()));
    let refused = finish(command.stdin(File::open(list).expect("there")));
    assert!(refused.refused(1).contains("is an input of this run"), "{}", refused.stderr);
}

#[test]
fn gzip_is_known_on_a_slow_pipe() {
    let demo = Demo::new("score-slow");
    let bytes = gzip(b"{\"tokens\":[5,6]}\n");
    let mut command = Command::new(INFER);
    command.arg("score").arg(&demo.model).args(["-", "--format", "jsonl"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("starts");
    let mut input = child.stdin.take().expect("piped");
    for piece in [&bytes[..1], &bytes[1..]] {
        input.write_all(piece).expect("reads its input");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    drop(input);
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success() && output.stdout.starts_with(b"{\"file\":\"-\",\"line\":1,"));
}

/// Row X9.
#[test]
fn options_that_do_not_fit_are_refused() {
    let demo = Demo::new("score-options");
    let file = demo.file("a.txt", TEXT);
    for (flags, says) in [
        (&["--context", "2049"][..], "--context 2049: expected at most 2048, the positions of the model"),
        (&["--context", "0"], "--context 0: expected a whole number from 1"),
        (&["--context", "8", "--stride", "9"], "--stride 9: expected at most 8, what a window has"),
        (&["--start", "256"], "--start 256: the vocabulary has ids 0 to 255"),
        (&["--start", "eos"], "--start eos: expected a token id, or none"),
        (&["--shard", "2/2"], "--shard 2/2: expected K/N with K from 0 to N - 1"),
        (&["--shard", "1"], "--shard 1: expected K/N"),
        (&["--format", "csv"], "--format csv: expected text, jsonl or tokens"),
        (&["--token-type", "u16"], "--token-type is of token files, and none is named"),
        (&["--json"], "--json is of the summary, with --tasks"),
        (&["--tasks", "--per-token"], "--per-token is of the items"),
    ] {
        let refused = demo.score(&[&file], flags);
        assert!(refused.refused(2).contains(says), "{flags:?}: {}", refused.stderr);
    }
    // JSON lines where a list of files is expected.
    let mut command = Command::new(INFER);
    command
        .arg("score")
        .arg(&demo.model)
        .stdin(Stdio::from(File::open(demo.file("b.jsonl", "{\"text\":\"a\"}\n")).expect("there")));
    let refused = finish(&mut command);
    assert!(refused.refused(2).contains("name it, as - with --format jsonl"), "{}", refused.stderr);
}

#[test]
fn progress_is_shown_on_a_terminal_only() {
    let demo = Demo::new("score-progress");
    let lines: String = (0..400).map(|i| format!("{{\"text\":\"{} {i}\"}}\n", TEXT.repeat(8))).collect();
    let file = demo.file("a.jsonl", lines);
    let (master, line) = pty();
    let screen = screen(master);
    let mut command = Command::new(INFER);
    command.arg("score").arg(&demo.model).arg(&file).env("TERM", "xterm");
    let output = command.stderr(line).stdout(Stdio::piped()).output().expect("starts");
    // The command holds the other end of the terminal.
    drop(command);
    let screen = String::from_utf8(screen.join().expect("read")).expect("UTF-8");
    assert!(output.status.success(), "{screen}");
    assert!(screen.contains(" items, ") && screen.contains(" tokens/s, ") && screen.contains(" left"), "{screen:?}");
    // The results are those of a run without a terminal, which prints nothing there.
    let finished = demo.score(&[&file], &[]);
    assert_eq!(finished.ok().as_bytes(), output.stdout);
    assert_eq!(finished.stderr, "");
}
