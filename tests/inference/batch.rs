//! `olmo-infer` with several token files.

use crate::{INFER, PACK};
use olmo_infer::internals::format::config::ModelConfig;
use olmo_tests::{
    Finished, Random, Stored, TempDir, finish, repository, run, small_config, small_olmo3, write_weights,
};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn ids(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.to_le_bytes()).collect()
}

/// Runs in the folder, so that names are as short as they are typed.
fn infer(folder: &Path, arguments: &[&str]) -> Finished {
    finish(Command::new(INFER).current_dir(folder).args(arguments).stdin(Stdio::null()))
}

fn infer_stdin(folder: &Path, arguments: &[&str], input: &[u8]) -> Finished {
    let mut command = Command::new(INFER);
    command.current_dir(folder).args(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    child.stdin.take().expect("piped").write_all(input).expect("read");
    let output = child.wait_with_output().expect("ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Finished { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// The demo model as `m.olmo`, with prompts of different lengths.
fn demo() -> TempDir {
    let folder = TempDir::new("infer-batch");
    run(PACK, [&repository().join("demo/weights"), &folder.join("m.olmo")]).ok();
    for (name, text) in
        [("a.bin", "Four score"), ("b.bin", "T"), ("c.bin", "It is for us the living, rather, to be de")]
    {
        fs::write(folder.join(name), ids(&text.bytes().map(u32::from).collect::<Vec<_>>())).expect("written");
    }
    folder
}

/// What the files yield one by one, each under its name.
fn one_by_one(folder: &Path, model: &str, files: &[&str], flags: &[&str]) -> String {
    let results = files.iter().map(|file| {
        let finished = infer(folder, &[&[model, file], flags].concat());
        format!("==> {file} <==\n{}", finished.ok())
    });
    results.collect::<Vec<_>>().join("\n")
}

#[test]
fn results_keep_order_and_names_of_arguments() {
    let folder = demo();
    let files = ["c.bin", "a.bin", "b.bin", "a.bin"];
    for flags in [&[][..], &["--steps", "3"], &["--text", "--max-tokens", "30"], &["--top", "2", "--steps", "50"]] {
        let expected = one_by_one(folder.path(), "m.olmo", &files, flags);
        for how in [
            &[][..],
            &["--batch", "1"],
            &["--batch", "2", "--threads", "2"],
            &["--batch", "3", "--chunk", "7"],
            &["--batch", "100", "--chunk", "1"],
        ] {
            let finished = infer(folder.path(), &[&["m.olmo"], &files[..], flags, how].concat());
            assert!(finished.ok() == expected, "{flags:?} {how:?}: {}", finished.stdout);
            let note = match flags {
                ["--steps", "3"] => "olmo-infer: note: --steps 3 ends inside 3 of 4 prompts\n",
                _ => "",
            };
            // A machine with one processor notes that it has no second one.
            let of_threads = "olmo-infer: note: --threads 2: ";
            let others = finished.stderr.split_inclusive('\n').filter(|line| !line.starts_with(of_threads));
            assert_eq!(others.collect::<String>(), note);
        }
    }
    // One file is what it was without the others: no name.
    assert!(infer(folder.path(), &["m.olmo", "a.bin"]).ok().starts_with("0: token 70 "));
}

#[test]
fn json_names_the_file_in_every_object() {
    let folder = demo();
    fs::copy(folder.join("a.bin"), folder.join("\"a\\\".bin")).expect("copied");
    let files = ["a.bin", "b.bin", "\"a\\\".bin"];
    let flags = ["--json", "--steps", "24"];
    let finished = infer(folder.path(), &[&["m.olmo"], &files[..], &flags].concat());
    let mut lines = finished.ok().lines();
    for file in files {
        let alone = infer(folder.path(), &[&["m.olmo", file], &flags[..]].concat());
        for expected in alone.ok().lines() {
            let line = lines.next().expect("the same number of lines");
            let mut object: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(object.as_object_mut().expect("an object").remove("file"), Some(file.into()));
            let expected: serde_json::Value = serde_json::from_str(expected).expect("JSON");
            assert!(object == expected && expected.get("file").is_none(), "{line}");
        }
    }
    assert_eq!(lines.next(), None);
    assert!(finished.stdout.starts_with("{\"file\":\"a.bin\",\"pos\":0,"), "{}", finished.stdout);
}

#[test]
fn batch_prints_what_single_runs_print() {
    let folder = TempDir::new("batch-models");
    let mut random = Random(5);
    let lengths = [1, 90, 7, 64, 33];
    for (index, length) in lengths.into_iter().enumerate() {
        let tokens: Vec<u32> = (0..length).map(|_| random.below(101) as u32).collect();
        fs::write(folder.join(format!("{index}.bin")), ids(&tokens)).expect("written");
    }
    let files = ["0.bin", "1.bin", "2.bin", "3.bin", "4.bin"];
    for (name, config) in [("olmo2", small_config()), ("olmo3", small_olmo3())] {
        let config = ModelConfig { max_position_embeddings: 200, ..config };
        write_weights(&folder.join(name), &config, Stored::F32, 6);
        for dtype in ["f32", "bf16"] {
            let model = format!("{name}-{dtype}.olmo");
            let weights = folder.join(name);
            run(PACK, [weights.as_os_str(), folder.join(&model).as_os_str(), "--dtype".as_ref(), dtype.as_ref()]).ok();
            // JSON has every digit of the logits.
            let flags = ["--json", "--steps", "120"];
            let expected: String = files
                .iter()
                .map(|file| {
                    let alone = infer(folder.path(), &[&[model.as_str(), file], &flags[..]].concat());
                    alone.ok().replace("{\"pos\"", &format!("{{\"file\":\"{file}\",\"pos\""))
                })
                .collect();
            for rest in [&["--batch", "2"][..], &["--batch", "3", "--chunk", "10"], &["--threads", "3"]] {
                let finished = infer(folder.path(), &[&[model.as_str()], &files[..], &flags, rest].concat());
                assert!(finished.ok() == expected, "{model} {rest:?}");
            }
        }
    }
}

#[test]
fn standard_input_may_be_one_of_the_files() {
    let folder = demo();
    let input = fs::read(folder.join("b.bin")).expect("there");
    let finished = infer_stdin(folder.path(), &["m.olmo", "a.bin", "-", "--steps", "12"], &input);
    let expected = one_by_one(folder.path(), "m.olmo", &["a.bin", "b.bin"], &["--steps", "12"]);
    assert_eq!(finished.ok(), expected.replace("b.bin", "standard input"));
    let json = infer_stdin(folder.path(), &["m.olmo", "-", "a.bin", "--json"], &input);
    assert!(json.ok().starts_with("{\"file\":\"-\",\"pos\":0,\"token\":84,"), "{}", json.stdout);
    let twice = infer(folder.path(), &["m.olmo", "-", "a.bin", "-"]);
    assert!(twice.refused(2).contains("standard input can be read only once"));
}

#[test]
fn reports_every_bad_file_and_computes_nothing() {
    let folder = demo();
    fs::write(folder.join("half.bin"), b"abc").expect("written");
    fs::write(folder.join("big.bin"), ids(&[70, 256])).expect("written");
    let finished = infer(folder.path(), &["m.olmo", "a.bin", "absent.bin", "half.bin", "b.bin", "big.bin"]);
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(1), ""));
    let lines: Vec<&str> = finished.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    for (line, part) in lines.iter().zip(["absent.bin: cannot open", "half.bin: 3 bytes", "big.bin: token 1 is 256"]) {
        assert!(line.starts_with("olmo-infer: error: ") && line.contains(part), "{line}");
    }
    let long = infer(folder.path(), &["m.olmo", "a.bin", "b.bin", "--text", "--max-tokens", "2040"]);
    assert!(long.refused(1).contains("a.bin: 2049 positions were asked for (the prompt has 10)"), "{}", long.stderr);
    for (flags, problem) in [
        (&["--logits", "l.npy"][..], "--logits takes one token file"),
        (&["--batch", "0"], "--batch 0: expected a whole number from 1"),
        (&["--batch", "-"], "--batch"),
    ] {
        let refused = infer(folder.path(), &[&["m.olmo", "a.bin", "b.bin"], flags].concat());
        assert!(refused.refused(2).contains(problem), "{}", refused.stderr);
    }
    assert!(!folder.join("l.npy").exists());
    assert!(infer(folder.path(), &["--help"]).ok().contains("--batch"));
}

#[test]
fn reports_non_finite_values_with_their_file() {
    let folder = TempDir::new("batch-nan");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &small_config(), Stored::F32, 1);
    // The embedding of token 9 overflows everything that is computed from it.
    let embedding = weights.join("model.embed_tokens.weight.npy");
    let mut bytes = fs::read(&embedding).expect("there");
    let width = 4 * small_config().hidden_size;
    let first = bytes.len() - (101 - 9) * width;
    bytes[first..first + width].chunks_exact_mut(4).for_each(|x| x.copy_from_slice(&f32::MAX.to_le_bytes()));
    fs::write(&embedding, bytes).expect("written");
    run(PACK, [&weights, &model]).ok();
    for (name, tokens) in [("a.bin", [1, 2, 3]), ("b.bin", [4, 5, 9]), ("c.bin", [6, 7, 8])] {
        fs::write(folder.join(name), ids(&tokens)).expect("written");
    }
    let finished = infer(folder.path(), &["m.olmo", "a.bin", "b.bin", "c.bin", "--steps", "3"]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.starts_with("olmo-infer: error: b.bin: logit of token "), "{}", finished.stderr);
    assert!(finished.stderr.contains("at position 2 is not a finite number"), "{}", finished.stderr);
}

/// Processor time that a child has taken, in ticks of the clock: at its end too, until it is waited for.
fn processor_time(child: &Child) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("Linux");
    // The name before this parenthesis may hold spaces; fields 14 and 15 in all are user and system time.
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum()
}

#[test]
fn prints_the_first_file_while_computing() {
    let folder = TempDir::new("batch-first");
    // Enough to compute for a while, so that a few lines take a small part of the time.
    let config = ModelConfig {
        hidden_size: 512,
        n_heads: 8,
        n_kv_heads: 8,
        head_dim: 64,
        intermediate_size: 2048,
        max_position_embeddings: 512,
        ..small_config()
    };
    write_weights(&folder.join("w"), &config, Stored::F32, 3);
    run(PACK, [&folder.join("w"), &folder.join("m.olmo")]).ok();
    for (name, token) in [("a.bin", 7), ("b.bin", 8), ("c.bin", 9)] {
        fs::write(folder.join(name), ids(&[token])).expect("written");
    }
    let mut command = Command::new(INFER);
    command.current_dir(folder.path()).args(["m.olmo", "a.bin", "b.bin", "c.bin", "--steps", "400", "--top", "1"]);
    command.args(["--batch", "3", "--threads", "1"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("starts");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut first = String::new();
    for _ in 0..5 {
        out.read_line(&mut first).expect("a line");
    }
    let at_first = processor_time(&child);
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("text");
    let in_all = processor_time(&child);
    assert!(child.wait().expect("ends").success());
    assert!(first.starts_with("==> a.bin <==\n0: token 7 Top 1 next tokens: "), "{first}");
    assert_eq!(first.lines().chain(rest.lines()).count(), 3 * 401 + 2);
    // A pipe takes this much without a reader: nothing but the printing itself holds the lines back.
    assert!(first.len() + rest.len() < 64 << 10, "{} bytes", first.len() + rest.len());
    assert!(in_all >= 10, "{in_all} ticks are too few to compare");
    assert!(2 * at_first < in_all, "the first lines came after {at_first} of {in_all} ticks");
}

#[test]
fn timing_counts_all_sequences() {
    let folder = demo();
    let finished = infer(folder.path(), &["m.olmo", "a.bin", "b.bin", "c.bin", "--steps", "50", "--timing"]);
    finished.ok();
    assert_eq!(finished.stderr.lines().count(), 1);
    for part in ["prefill 52 tokens", "decode 98 tokens in 49 passes", "3 sequences, 150 tokens", "tok/s in all"] {
        assert!(finished.stderr.contains(part), "{part}: {}", finished.stderr);
    }
}

#[test]
fn memory_bounds_the_active_sequences() {
    let folder = TempDir::new("batch-memory");
    let config = ModelConfig {
        max_position_embeddings: 1 << 24,
        n_heads: 64,
        n_kv_heads: 64,
        head_dim: 256,
        hidden_size: 2,
        intermediate_size: 2,
        ..small_config()
    };
    write_weights(&folder.join("w"), &config, Stored::F32, 1);
    run(PACK, [&folder.join("w"), &folder.join("m.olmo")]).ok();
    fs::write(folder.join("a.bin"), ids(&[1])).expect("written");
    // A position takes 256 KiB, so that half of the memory is one sequence and three do not fit.
    let meminfo = fs::read_to_string("/proc/meminfo").expect("Linux");
    let line = meminfo.lines().find(|line| line.starts_with("MemAvailable:")).expect("there");
    let kilobytes: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    let steps = (kilobytes / 2 / 256).to_string();
    let command = ["m.olmo", "a.bin", "a.bin", "a.bin", "--steps", &steps, "--batch", "3"];
    let refused = infer(folder.path(), &command);
    assert!(refused.refused(1).contains("3 sequences at a time need"), "{}", refused.stderr);
    assert!(refused.stderr.contains("a smaller --batch"), "{}", refused.stderr);
}
