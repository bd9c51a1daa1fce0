//! What it costs to refuse files of strangers that are made to cost much: processor time and memory of the programs as
//! they are shipped.

use crate::Effort;
use crate::figure::Figure;
use crate::programs::{good, program};
use olmo_infer::config::ModelConfig;
use olmo_infer::format::Encoding;
use olmo_infer::layout;
use olmo_tests::catalogue::{Run, measured};
use olmo_tests::crafted::{claimed, repair_digests, write_holes_that_are_tables};
use olmo_tests::packed::Packed;
use olmo_tests::safetensors::raw;
use olmo_tests::{
    Stored, TempDir, coded_config, config_json, npy_path, repository, small_config, write_npy, write_weights,
};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// Most time of a processor that a refusal takes.
const MAX_TIME: Duration = Duration::from_millis(100);
/// Most memory, pages of mapped files that it touches included.
const MAX_BYTES: u64 = 32 << 20;
/// How often each is refused.
const ROUNDS: u64 = 20;
/// Rows of the most that a configuration can claim; the files of its numbers are holes.
const ROWS: usize = 1 << 24;

/// Something that is refused: what it is, and the program with its arguments.
struct Case(&'static str, &'static str, Vec<PathBuf>);

/// Runs the part.
pub fn run(effort: &Effort) -> Vec<Figure> {
    let folder = TempDir::new("costs");
    let cases: Vec<Case> = folders(&folder).into_iter().chain(models(&folder)).chain(inputs(&folder)).collect();
    let rounds = effort.times(ROUNDS);
    let what = "costly files refused in 100 ms of a processor and 32 MiB";
    let mut figure = Figure::new(what, rounds * cases.len() as u64);
    let mut slowest = (Duration::ZERO, "");
    let mut largest = (0, "");
    for Case(what, name, arguments) in &cases {
        for _ in 0..rounds {
            let run = Run::new(measured(program(name).to_str().expect("UTF-8")).args(arguments));
            let judged = run.and_then(|run| judge(&run)).map_err(|failure| format!("{what}: {failure}"));
            figure.add(judged.map(|(time, bytes)| {
                slowest = slowest.max((time, what));
                largest = largest.max((bytes, what));
            }));
        }
    }
    let (most_time, most_bytes) = (slowest.0.as_millis(), largest.0 >> 20);
    figure.note(format!("at most {most_time} ms ({}) and {most_bytes} MiB ({})", slowest.1, largest.1));
    vec![figure]
}

/// A refusal with status 1 within the limits; what it took.
fn judge(run: &Run) -> Result<(Duration, u64), String> {
    let used = run.used.ok_or("its memory and time are not known")?;
    if run.status.code() != Some(1) || !run.stderr.contains(": error: ") {
        return Err(format!("{}: {}", run.status, run.stderr.trim_end()));
    }
    match used.time > MAX_TIME || used.peak_bytes > MAX_BYTES {
        true => Err(format!("{:?} and {} KiB", used.time, used.peak_bytes >> 10)),
        false => Ok((used.time, used.peak_bytes)),
    }
}

/// `piece` again and again up to so many MiB, between a beginning and an end.
fn long(mib: usize, begin: &str, piece: &str, end: &str) -> String {
    format!("{begin}{}{end}", piece.repeat((mib << 20) / piece.len() - 1))
}

/// What `entry` makes of 0 to `n`, with commas between.
fn list(n: usize, entry: impl Fn(usize) -> String) -> String {
    (0..n).map(entry).collect::<Vec<_>>().join(",")
}

/// Folders with one file that is wrong.
fn folders(folder: &TempDir) -> Vec<Case> {
    let tokens = list(400_000, |i| format!("\"t{i}\":{i}"));
    let vocab = |last: &str| format!("{{\"model\":{{\"vocab\":{{{tokens},{last}}}}}}}");
    let lines: String = (0..250_000).map(|i| format!("{}\tt{i}\n", ROWS - 1 - i)).collect();
    let objects = |mib: usize| long(mib, "{\"a\":[", "{\"b\":1},", "1]}");
    let entry = |i: usize| format!("\"{i}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}");
    let index = list(100_000, |i| format!("\"{i}\":1"));
    let files: [(&str, &str, Vec<u8>); 15] = [
        ("config.json of objects", "config.json", objects(1).into()),
        ("config.json of lists in lists", "config.json", "[".repeat(1 << 20).into()),
        ("config.json of a long key", "config.json", long(1, "{\"", "k", "").into()),
        ("generation_config.json of objects", "generation_config.json", objects(1).into()),
        ("tokenizer_config.json of objects", "tokenizer_config.json", objects(3).into()),
        ("merges, cut short", "tokenizer.json", long(11, "{\"model\":{\"merges\":[", "[\"a\",\"b\"],", "").into()),
        ("tokenizer.json of objects", "tokenizer.json", objects(11).into()),
        ("a token of 11 MiB", "tokenizer.json", long(11, "{\"model\":{\"vocab\":{\"", "k", "\":-1}}}").into()),
        ("400,000 tokens, an id too high", "tokenizer.json", vocab(&format!("\"x\":{ROWS}")).into()),
        ("400,000 tokens, a number in the place of an id", "tokenizer.json", vocab("\"x\":1.5").into()),
        ("vocab.txt with a line that is none", "vocab.txt", (lines + "x").into()),
        ("an index of lists", "model.safetensors.index.json", long(1, "[", "[0],", "0]").into()),
        ("an index of tensors", "model.safetensors.index.json", format!("{{\"weight_map\":{{{index}}}}}").into()),
        ("a header of tensors", "model.safetensors", raw(format!("{{{}}}", list(30_000, entry)).as_bytes(), &[])),
        ("a header of lists", "model.safetensors", raw(long(1, "{\"a\":[", "[0],", "0]}").as_bytes(), &[])),
    ];
    let case = |(what, name, bytes): (&'static str, &str, Vec<u8>)| {
        let weights = folder.join(what);
        if name.contains("safetensors") {
            fs::create_dir(&weights).expect("a folder");
            fs::write(weights.join("config.json"), config_json(&small_config()).to_string()).expect("written");
        } else {
            write_holes(&weights);
        }
        fs::write(weights.join(name), bytes).expect("written");
        Case(what, "olmo-pack", vec![weights, folder.join("m.olmo")])
    };
    files.into_iter().map(case).collect()
}

/// A model of as many rows as there can be, of which the disk has next to nothing.
fn write_holes(weights: &Path) {
    write_weights(weights, &small_config(), Stored::F32, 1);
    let config = ModelConfig { vocab_size: ROWS, ..small_config() };
    fs::write(weights.join("config.json"), config_json(&config).to_string()).expect("written");
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let path = npy_path(weights, name);
        write_npy(&path, "<f4", &[ROWS, config.hidden_size], &[]);
        lengthen(&path, fs::metadata(&path).expect("a file").len() + (ROWS * config.hidden_size * 4) as u64);
    }
}

/// Adds a hole up to this length.
fn lengthen(path: &Path, length: u64) -> File {
    let file = File::options().write(true).open(path).expect("open");
    file.set_len(length).expect("a sparse file");
    file
}

/// Model files: tables of coded matrices that are good holes under a wrong digest, and an index that is wrong at its
/// end.
fn models(folder: &TempDir) -> Vec<Case> {
    let good = Packed::plain_bf16().bytes;
    let layer = coded_config().layer_types[0];
    let holes = folder.join("holes.olmo");
    write_holes_that_are_tables(&holes, &good);

    let config = ModelConfig { layer_types: vec![layer; 1024], ..coded_config() };
    let encodings = vec![Encoding::Plain; layout::tensors(&config).len()];
    let (mut bytes, layout) = claimed(&good, &config, &encodings);
    let last = bytes.len() - 1;
    bytes[last] = 1;
    repair_digests(&mut bytes);
    let wrong = folder.join("wrong.olmo");
    fs::write(&wrong, &bytes).expect("written");
    lengthen(&wrong, layout.file_bytes);

    let of = |what, path: &PathBuf| {
        let inspect = Case(what, "olmo-pack", vec!["inspect".into(), path.clone()]);
        [Case(what, "olmo-infer", vec![path.clone(), folder.join("none.bin")]), inspect]
    };
    of("tables that are holes", &holes).into_iter().chain(of("an index of 1024 layers", &wrong)).collect()
}

/// Token files and texts beside a good model.
fn inputs(folder: &TempDir) -> Vec<Case> {
    let (model, tokens) = (folder.join("good.olmo"), folder.join("long.bin"));
    good("olmo-pack", [repository().join("demo/weights"), model.clone()]).expect("packed");
    fs::write(&tokens, "").expect("written");
    lengthen(&tokens, 1 << 40);
    // Older than two seconds: a file that is newer is read once.
    sleep(Duration::from_millis(2100));
    let with = |flag: &str| vec![model.clone(), flag.into(), tokens.clone()];
    vec![
        Case("a token file of 1 TB", "olmo-infer", vec![model.clone(), tokens.clone()]),
        Case("a text of 1 TB", "olmo-infer", with("--tokenize")),
        Case("ids of 1 TB", "olmo-infer", with("--detokenize")),
    ]
}
