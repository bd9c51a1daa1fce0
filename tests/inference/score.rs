//! `olmo-infer score` on token files, and its output.

use crate::{INFER, PACK};
use olmo_tests::{Finished, Stored, TempDir, map_numbers, reference_cases, run, small_config, write_weights};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

struct Fixture {
    folder: TempDir,
    model: PathBuf,
}

/// A small model of random weights.
fn fixture(name: &str) -> Fixture {
    let folder = TempDir::new(name);
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F32, 1);
    run(PACK, [&weights, &model]).ok();
    Fixture { folder, model }
}

impl Fixture {
    fn tokens(&self, name: &str, ids: &[u32]) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>()).expect("written");
        path
    }

    fn score(&self, files: &[&Path], flags: &[&str]) -> Finished {
        let files = files.iter().map(|file| file.as_os_str());
        let flags = flags.iter().map(|flag| flag.as_ref());
        run(INFER, ["score".as_ref(), self.model.as_os_str()].into_iter().chain(files).chain(flags))
    }
}

fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The numbers of a list.
fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|number| number.as_f64().expect("a number")).collect()
}

#[test]
fn mean_matches_the_reference() {
    let mut n_cases = 0;
    for case in reference_cases() {
        let expected = fs::read(case.join("expected.json")).expect("read");
        let expected: Value = serde_json::from_slice(&expected).expect("JSON");
        let folder = TempDir::new("score-golden");
        let model = folder.join("m.olmo");
        run(PACK, [case.join("weights").as_os_str(), model.as_os_str(), "--dtype".as_ref(), "f32".as_ref()]).ok();
        let finished = run(
            INFER,
            ["score".as_ref(), model.as_os_str(), case.join("tokens.bin").as_os_str(), "--per-token".as_ref()],
        );
        let found = objects(finished.ok()).remove(0);
        let (mean, wanted) = (found["mean_nll"].as_f64(), expected["mean_nll"].as_f64().expect("a mean"));
        assert!((mean.expect("a mean") - wanted).abs() < 1e-4, "{}: {mean:?} {wanted}", case.display());
        let nll = numbers(&found["nll"]);
        assert_eq!(json!(nll.len() + 1), found["tokens"]);
        assert!((nll.iter().sum::<f64>() / nll.len() as f64 - wanted).abs() < 1e-4);
        assert!((found["perplexity"].as_f64().expect("a number").ln() - wanted).abs() < 1e-4);
        n_cases += 1;
    }
    assert!(n_cases >= 5);
}

/// Row X8: files to score: absent, malformed, too long, empty, of one token; empty lists; an output that is not a score
/// file or was truncated.
#[test]
fn prints_an_object_per_file_in_order() {
    let fixture = fixture("score-files");
    let long: Vec<u32> = (0..60).map(|i| i * 7 % 50).collect();
    let files = [
        fixture.tokens("long.bin", &long),
        fixture.tokens("one.bin", &[3]),
        fixture.tokens("short.bin", &long[..9]),
        fixture.folder.join("absent.bin"),
        fixture.tokens("bad.bin", &[1, 1 << 30]),
        fixture.tokens("too-long.bin", &vec![1; 1 << 16]),
        fixture.tokens("empty.bin", &[]),
    ];
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let finished = fixture.score(&files, &["--per-token"]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.ends_with("error: 3 items could not be scored; see their lines\n"), "{}", finished.stderr);
    let found = objects(&finished.stdout);
    let names: Vec<&str> = found.iter().map(|object| object["file"].as_str().expect("a name")).collect();
    assert_eq!(names, files.iter().map(|file| file.to_str().expect("UTF-8")).collect::<Vec<_>>());
    assert_eq!((&found[0]["tokens"], numbers(&found[0]["nll"]).len()), (&json!(60), 59));
    let expected = json!({
        "file": names[1], "digest": found[1]["digest"], "tokens": 1, "scored": 0, "sum_nll": 0, "mean_nll": null,
        "perplexity": null, "nll": [],
    });
    assert_eq!(found[1], expected);
    // A shorter text has the same scores, regardless of the other texts.
    assert_eq!(numbers(&found[2]["nll"]), numbers(&found[0]["nll"])[..8]);
    for (i, says) in [(3, "No such file"), (4, "token 1 is 1073741824"), (6, "no tokens")] {
        let problem = found[i]["error"].as_str().expect("an error");
        assert!(problem.contains(says), "{problem}");
        assert_eq!(found[i].as_object().expect("an object").len(), 2);
    }
    // One at a time, in small pieces, with any number of threads: the same lines.
    assert_eq!(found[5]["tokens"], json!(1 << 16));
    assert!(found[5]["windows"].as_u64().expect("windows") > 1, "{}", found[5]["windows"]);
    for flags in [&["--batch", "1"][..], &["--chunk", "7"], &["--threads", "3"]] {
        let flags = [&["--per-token"], flags].concat();
        assert_eq!(fixture.score(&files, &flags).stdout, finished.stdout, "{flags:?}");
    }
}

#[test]
fn scores_match_the_logits() {
    let fixture = fixture("score-logits");
    let ids = [5, 17, 3, 44, 8];
    let tokens = fixture.tokens("t.bin", &ids);
    let logits = fixture.folder.join("l.npy");
    let arguments = [fixture.model.as_os_str(), tokens.as_os_str(), "--logits".as_ref(), logits.as_os_str()];
    run(INFER, arguments.into_iter().chain(["--steps".as_ref(), "5".as_ref()])).ok();
    let (shape, logits) = olmo_tests::read_f32_npy(&logits);
    let found = objects(fixture.score(&[&tokens], &["--per-token"]).ok()).remove(0);
    for (position, nll) in numbers(&found["nll"]).into_iter().enumerate() {
        let row: Vec<f64> = logits[position * shape[1]..][..shape[1]].iter().map(|&x| f64::from(x)).collect();
        let expected = row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[ids[position + 1] as usize];
        assert!((nll - expected).abs() < 1e-5, "{nll} {expected}");
    }
}

/// Row X8.
#[test]
fn rerun_skips_files_in_the_output() {
    let fixture = fixture("score-output");
    let files: Vec<PathBuf> = (1..5).map(|i| fixture.tokens(&format!("\"{i}\".bin"), &[i, 2 * i, 3])).collect();
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let output = fixture.folder.join("scores.jsonl");
    let flags = ["--output", output.to_str().expect("UTF-8")];
    assert_eq!(fixture.score(&files[..2], &flags).ok(), "");
    let first = fs::read_to_string(&output).expect("written");
    assert_eq!(first.lines().count(), 2);
    // A truncated line is computed again, and nothing else.
    let line = fixture.score(&files[2..3], &[]).ok().to_string();
    for cut in [0, 1, 5, 9, 30, line.len() - 1] {
        fs::write(&output, first.clone() + &line[..cut]).expect("written");
        fixture.score(&files[..3], &flags).ok();
        assert_eq!(fs::read_to_string(&output).expect("read"), first.clone() + &line, "cut at {cut}");
    }
    fixture.score(&files, &flags).ok();
    assert_eq!(fs::read_to_string(&output).expect("read"), fixture.score(&files, &[]).ok());
    // A file that failed before counts as failed again, with a note.
    let absent = fixture.folder.join("absent.bin");
    assert_eq!(fixture.score(&[&absent], &flags).code, Some(1));
    let with_error = fs::read(&output).expect("read");
    let again = fixture.score(&[files[0], &absent], &flags);
    assert_eq!((again.code, again.stdout.as_str()), (Some(1), ""));
    let (note, error) = again.stderr.split_once('\n').expect("two lines");
    assert!(
        note.ends_with("scores.jsonl already and were left out") && note.contains("note: 2 of 2 items were in "),
        "{note}"
    );
    assert!(error.contains("one item could not be scored"), "{error}");
    assert_eq!(fs::read(&output).expect("read"), with_error);
    // A failed file counts only in a run that names it.
    assert_eq!(fixture.score(&[files[0]], &flags).ok(), "");
    // A file that is named twice is scored once.
    let twice = fixture.score(&[files[0], files[0]], &[]);
    assert_eq!(twice.ok().lines().count(), 1);
    let says = "olmo-infer: note: 1 of 2 names are of files named before, which are scored once\n";
    assert_eq!(twice.stderr, says);
    // A file of something else is not touched.
    for other in [
        "{\"file\":\"x\",\"important\":1}",
        "{",
        "{\"tokens\":1}\n",
        "notes\n",
        "notes",
        "{\"file\":\"a\",\"tokens\":1}\n\n",
    ] {
        fs::write(&output, other).expect("written");
        let refused = fixture.score(&files, &flags);
        assert!(
            refused.refused(1).contains("is not a score, expected the output of olmo-infer score"),
            "{}",
            refused.stderr
        );
        assert_eq!(fs::read_to_string(&output).expect("read"), other);
    }
    for input in [fixture.model.as_path(), files[0]] {
        let refused = fixture.score(&files, &["--output", input.to_str().expect("UTF-8")]);
        assert!(refused.refused(1).contains("is an input of this run"), "{}", refused.stderr);
    }
}

/// Row X8.
#[test]
fn scores_go_to_regular_files_only() {
    let fixture = fixture("score-devices");
    let tokens = fixture.tokens("t.bin", &[1, 2, 3]);
    let path = |name: &str| fixture.folder.join(name).to_str().expect("UTF-8").to_string();
    let (pipe, folder, huge) = (path("pipe"), path("folder"), path("huge"));
    run("mkfifo", [&pipe]).ok();
    fs::create_dir(&folder).expect("a folder");
    // None of them is read, or waited for.
    for (output, says) in [
        ("/dev/null", "/dev/null: is not a regular file, expected a file name for --output"),
        ("/dev/full", "/dev/full: is not a regular file"),
        // A pipe in a test.
        ("/dev/stdout", "/dev/stdout: is not a regular file"),
        (&pipe, "pipe: is not a regular file"),
        (&folder, "folder: is a folder"),
        ("", "\"\": no name, expected a file name for --output"),
    ] {
        let refused = fixture.score(&[&tokens], &["--output", output]);
        assert!(refused.refused(1).contains(says), "{output}: {}", refused.stderr);
    }
    // Nor is what no line of a score can be, however long: there is no such memory.
    for head in ["", "{\"file\":\"", "{\"file\":\"a\",\"tokens\":3,\"scored\":2,\"sum_nll\":1,"] {
        fs::write(&huge, head).expect("written");
        fs::OpenOptions::new().write(true).open(&huge).expect("there").set_len(1 << 40).expect("longer");
        let refused = fixture.score(&[&tokens], &["--output", &huge]);
        assert!(
            refused.refused(1).contains("line 1 is not a score, expected the output of olmo-infer score"),
            "{head}"
        );
        assert_eq!(fs::metadata(&huge).expect("there").len(), 1 << 40);
    }
}

/// Row X8.
#[test]
fn two_runs_do_not_write_to_one_file() {
    let fixture = fixture("score-two");
    let tokens = fixture.tokens("t.bin", &[1, 2, 3]);
    let output = fixture.folder.join("scores.jsonl");
    let flags = ["--output", output.to_str().expect("UTF-8")];
    // As a run does it.
    let file = fs::File::create(&output).expect("created");
    file.lock().expect("not locked");
    let second = fixture.score(&[&tokens], &flags);
    assert!(second.refused(1).contains("another run writes to it"), "{}", second.stderr);
    drop(file);
    fixture.score(&[&tokens], &flags).ok();
    assert_eq!(fs::read_to_string(&output).expect("written"), fixture.score(&[&tokens], &[]).ok());
}

/// Row X8.
#[test]
fn whole_lines_are_never_truncated() {
    let fixture = fixture("score-grown");
    let tokens = fixture.tokens("t.bin", &[1, 2, 3]);
    let output = fixture.folder.join("scores.jsonl");
    let flags = ["--output", output.to_str().expect("UTF-8")];
    fixture.score(&[&tokens], &flags).ok();
    // Not even truncated to its own length, which would change its time.
    let before = fs::metadata(&output).expect("there").modified().expect("a time");
    std::thread::sleep(Duration::from_millis(20));
    fixture.score(&[&tokens], &flags).ok();
    assert_eq!(fs::metadata(&output).expect("there").modified().expect("a time"), before);
}

#[test]
fn non_finite_scores_are_errors_of_their_file() {
    let folder = TempDir::new("score-not-finite");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F32, 1);
    let hidden = small_config().hidden_size;
    // One token has an infinite embedding.
    map_numbers(&weights, "model.embed_tokens.weight", |i, x| if i / hidden == 7 { f32::INFINITY } else { x });
    let flags = ["--allow-nonfinite".as_ref(), "--dtype".as_ref(), "f32".as_ref()];
    run(PACK, [weights.as_os_str(), model.as_os_str()].into_iter().chain(flags)).ok();
    let fixture = Fixture { folder, model };
    let files = [
        fixture.tokens("a.bin", &[1, 2, 3, 4]),
        fixture.tokens("bad.bin", &[1, 7, 3]),
        fixture.tokens("c.bin", &[1, 2, 3]),
        fixture.tokens("bad-too.bin", &[7, 3]),
    ];
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let finished = fixture.score(&files, &[]);
    assert!(finished.stderr.ends_with("error: 2 items could not be scored; see their lines\n"), "{}", finished.stderr);
    let found = objects(&finished.stdout);
    let has_error: Vec<bool> = found.iter().map(|object| object["error"].is_string()).collect();
    assert_eq!(has_error, [false, true, false, true]);
    assert!(found[1]["error"].as_str().expect("text").contains("is not a finite number"));
    assert_eq!(fixture.score(&[files[2]], &[]).ok().trim(), finished.stdout.lines().nth(2).expect("a line"));
}

/// Row X8.
#[test]
fn reads_file_list_from_standard_input() {
    let fixture = fixture("score-list");
    let files: Vec<PathBuf> = (1..700).map(|i| fixture.tokens(&format!("{i}.bin"), &[i % 40, 7, i % 9])).collect();
    let list: String = files.iter().map(|file| format!("{}\n", file.display())).collect();
    let score = |list: &[u8]| {
        let mut command = Command::new(INFER);
        command.arg("score").arg(&fixture.model).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("starts");
        child.stdin.take().expect("piped").write_all(list).expect("reads its input");
        let output = child.wait_with_output().expect("ends");
        (output.status.code(), String::from_utf8(output.stdout).expect("UTF-8"), output.stderr)
    };
    let (code, out, _) = score(list.as_bytes());
    assert_eq!(code, Some(0));
    let all: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    assert_eq!(out, fixture.score(&all, &[]).ok());
    // As editors and other systems write lists.
    let first = score(files[0].to_str().expect("UTF-8").as_bytes()).1;
    let list = format!("\u{feff}{}\r\n\r\n", files[0].display());
    assert_eq!(score(list.as_bytes()).1, first);
    let (code, _, error) = score(b"");
    assert_eq!(code, Some(2));
    assert!(String::from_utf8_lossy(&error).contains("no files to score"));
    // An invalid path is reported with its line.
    let long = [b"a\n\nb\n", &b"x".repeat(4097)[..]].concat();
    for (bad, says) in [
        (&b"a\nb\xff\nc\xff\n"[..], "line 2 of the list of files is not UTF-8"),
        (&long, "line 4 "),
        (b"a\0b\0", "line 1 of the list of files holds a NUL byte, as after find -print0, expected a path per line"),
    ] {
        let (code, out, error) = score(bad);
        assert_eq!((code, out.as_str()), (Some(1), ""));
        assert!(String::from_utf8_lossy(&error).contains(says), "{}", String::from_utf8_lossy(&error));
    }
}
