//! The cost of refusing crafted, expensive files and of accepting expensive texts: processor time and memory of the
//! programs as they are shipped.

use crate::Effort;
use crate::figure::Figure;
use crate::programs::{good, program};
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::layout;
use olmo_infer::internals::format::tensors::tensors_of;
use olmo_infer::internals::format::{Encoding, MAX_TOKENS_BEYOND, section};
use olmo_tests::catalogue::{Run, measured};
use olmo_tests::crafted::{
    claimed, repair_digests, vocabulary, with_sections, write_holes_that_are_tables, write_with_holes,
};
use olmo_tests::packed::Packed;
use olmo_tests::safetensors::raw;
use olmo_tests::{
    Stored, TempDir, bf12_config, config_json, npy_path, repository, small_config, texts, write_npy, write_weights,
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
/// Bytes of the texts that are accepted, most time for each of them and for a run that has nothing to do, and how
/// often.
const TEXT_BYTES: usize = 16 << 20;
const MAX_NANOSECONDS: u64 = 500;
const ACCEPTED_ROUNDS: u64 = 3;
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
    vec![figure, accepted(&folder, effort)]
}

/// Texts that become ids.
fn accepted(folder: &TempDir, effort: &Effort) -> Figure {
    let (weights, model, path) = (folder.join("texts"), folder.join("texts.olmo"), folder.join("text"));
    write_weights(&weights, &ModelConfig { vocab_size: texts::N_ROWS, ..small_config() }, Stored::F32, 1);
    good("olmo-pack", [&weights, &model]).expect("packed");
    let sections = texts::doubling();
    let sections = sections.each_ref().map(|(kind, bytes)| (*kind, bytes.as_slice()));
    fs::write(&model, with_sections(&fs::read(&model).expect("a model"), &sections)).expect("written");
    // Older than two seconds, as above.
    sleep(Duration::from_millis(2100));
    let rounds = effort.times(ACCEPTED_ROUNDS);
    let texts = texts::costly();
    let what =
        format!("costly texts to ids in {MAX_NANOSECONDS} ns of a processor and 16 bytes for each of their bytes");
    let mut figure = Figure::new(what, rounds * texts.len() as u64);
    let most_time = MAX_TIME + Duration::from_nanos(MAX_NANOSECONDS * TEXT_BYTES as u64);
    let most_bytes = texts::most_bytes(TEXT_BYTES) + MAX_BYTES;
    let (mut slowest, mut largest) = ((Duration::ZERO, ""), (0, ""));
    for (what, piece) in texts {
        fs::write(&path, piece.repeat(TEXT_BYTES / piece.len())).expect("written");
        for _ in 0..rounds {
            let mut command = measured(program("olmo-infer").to_str().expect("UTF-8"));
            let run = Run::new(command.arg("tokenize").arg(&model).arg(&path));
            let judged = run.and_then(|run| {
                let used = run.used.ok_or("its memory and time are not known")?;
                (slowest, largest) = (slowest.max((used.time, what)), largest.max((used.peak_bytes, what)));
                match run.status.success() && used.time <= most_time && used.peak_bytes <= most_bytes {
                    true => Ok(()),
                    false => Err(format!("{}, {used:?} {}", run.status, run.stderr.trim_end())),
                }
            });
            figure.add(judged.map_err(|failure| format!("{what}: {failure}")));
        }
    }
    let (time, bytes) = (slowest.0.as_nanos() / TEXT_BYTES as u128, largest.0 / TEXT_BYTES as u64);
    figure.note(format!("at most {time} ns ({}) and {bytes} bytes ({}), with all else", slowest.1, largest.1));
    figure
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

/// `piece` repeated up to `mib` MiB, between a beginning and an end.
fn long(mib: usize, begin: &str, piece: &str, end: &str) -> String {
    format!("{begin}{}{end}", piece.repeat((mib << 20) / piece.len() - 1))
}

/// A list of `entry` for 0 to `n`, with commas between.
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
        (
            "400,000 tokens, an id too high",
            "tokenizer.json",
            vocab(&format!("\"x\":{}", ROWS + MAX_TOKENS_BEYOND)).into(),
        ),
        ("400,000 tokens, a fraction as an id", "tokenizer.json", vocab("\"x\":1.5").into()),
        ("vocab.txt with an incomplete line", "vocab.txt", (lines + "x").into()),
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

/// Model files: tables of bf12 matrices that are valid holes under a wrong digest, and an index that is wrong at its
/// end.
fn models(folder: &TempDir) -> Vec<Case> {
    let good = Packed::plain_bf16().bytes;
    let layer = bf12_config().layer_types[0];
    let holes = folder.join("holes.olmo");
    write_holes_that_are_tables(&holes, &good);

    let config = ModelConfig { layer_types: vec![layer; 1024], ..bf12_config() };
    let encodings = layout::uniform(&tensors_of(&config), Encoding::Bf16);
    let (mut bytes, layout) = claimed(&good, &config, &encodings);
    let last = bytes.len() - 1;
    bytes[last] = 1;
    repair_digests(&mut bytes);
    let wrong = folder.join("wrong.olmo");
    fs::write(&wrong, &bytes).expect("written");
    lengthen(&wrong, layout.file_bytes);

    // Sections and tensors that are holes.
    let tokens = folder.join("tokens.olmo");
    let holes_in_text = vocabulary(&[b"a", &vec![0; 100 << 20], b"b"]);
    write_with_holes(&tokens, &with_sections(&good, &[(section::VOCABULARY, &holes_in_text)]));
    let of = |what, path: &PathBuf| {
        let inspect = Case(what, "olmo-pack", vec!["inspect".into(), path.clone()]);
        [Case(what, "olmo-infer", vec![path.clone(), folder.join("none.bin")]), inspect]
    };
    let both = of("tables that are holes", &holes).into_iter().chain(of("an index of 1024 layers", &wrong));
    both.chain(of("a token that is a hole", &tokens)).collect()
}

/// Token files and texts for a good model.
fn inputs(folder: &TempDir) -> Vec<Case> {
    let (model, tokens) = (folder.join("good.olmo"), folder.join("long.bin"));
    good("olmo-pack", [repository().join("demo/weights"), model.clone()]).expect("packed");
    fs::write(&tokens, "").expect("written");
    lengthen(&tokens, 1 << 40);
    // Older than two seconds: a file that is newer is read once.
    sleep(Duration::from_millis(2100));
    let with = |command: &str| vec![command.into(), model.clone(), tokens.clone()];
    let (sparse, wrong) = (folder.join("sparse.bin"), folder.join("wrong.bin"));
    let mut ids = vec![0; 200 << 20];
    ids.extend(u32::MAX.to_le_bytes());
    write_with_holes(&sparse, &ids);
    fs::write(&wrong, vec![0xff; 200 << 20]).expect("written");
    let of_ids = |ids: PathBuf| vec!["detokenize".into(), model.clone(), ids];
    vec![
        Case("a token file of 1 TB", "olmo-infer", vec![model.clone(), tokens.clone()]),
        Case("a text of 1 TB", "olmo-infer", with("tokenize")),
        Case("ids of 1 TB", "olmo-infer", with("detokenize")),
        Case("ids that are holes", "olmo-infer", of_ids(sparse)),
        Case("wrong ids of 200 MiB", "olmo-infer", of_ids(wrong)),
    ]
}
