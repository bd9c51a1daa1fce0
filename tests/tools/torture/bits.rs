//! Same input, same bits: logits over threads, chunks, instruction sets, ways to load, repeats and builds; model files
//! over runs, threads, order of the folder, umask and locale.

use crate::Effort;
use crate::figure::Figure;
use crate::programs::{describe_run, good, middling_config, packed, program, write_tokens};
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::kernels::Isa;
use olmo_tests::{Random, Stored, TempDir, write_weights};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

/// Locales in which numbers, cases or the order of letters are others, and those without any.
const LOCALES: [&str; 5] = ["C", "C.UTF-8", "POSIX", "de_DE.UTF-8", "tr_TR.UTF-8"];
/// Positions of a run whose logits are compared.
const POSITIONS: usize = 90;

/// See the top.
pub fn run(effort: &Effort) -> Vec<Figure> {
    let mut figures = Vec::new();
    for stored in [Stored::F32, Stored::Bf16] {
        figures.push(logits(effort, stored));
    }
    figures.push(model_files(effort));
    figures
}

/// A model whose logits of many runs can be compared in minutes.
fn config() -> ModelConfig {
    ModelConfig { hidden_size: 128, n_heads: 4, n_kv_heads: 2, intermediate_size: 320, ..middling_config() }
}

/// Compares the logits of every way to compute them with those of one thread of the oracle.
fn logits(effort: &Effort, stored: Stored) -> Figure {
    let kind = if stored == Stored::F32 { "f32" } else { "bf16 in 12 bits" };
    let all = variants(effort);
    let mut figure = Figure::new(format!("runs with the same logits bit for bit, {kind}"), all.len() as u64);
    let folder = TempDir::new("torture-bits");
    let expected = folder.join("expected.npy");
    let prepared = packed(&folder, "m.olmo", &config(), stored, 1).and_then(|model| {
        write_tokens(&folder.join("tokens.bin"), POSITIONS)?;
        let scalar = Variant { flags: words("--isa scalar --threads 1"), program: program("olmo-infer") };
        scalar.logits(&model, &folder, &expected)?;
        let expected = fs::read(&expected).map_err(|error| format!("{}: {error}", expected.display()))?;
        Ok((model, expected))
    });
    let (model, expected) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            figure.add(Err(error));
            return figure;
        }
    };
    let found = folder.join("found.npy");
    for variant in &all {
        let result = variant.logits(&model, &folder, &found).and_then(|()| match fs::read(&found) {
            Ok(found) if found == expected => Ok(()),
            Ok(_) => Err(format!("other bits with {}", variant.flags.join(" "))),
            Err(error) => Err(error.to_string()),
        });
        figure.add(result);
    }
    figure.note(format!("{} positions compared", all.len() * POSITIONS));
    figure
}

/// A way to compute the logits.
struct Variant {
    flags: Vec<String>,
    program: PathBuf,
}

impl Variant {
    fn logits(&self, model: &Path, folder: &TempDir, to: &Path) -> Result<(), String> {
        let mut command = Command::new(&self.program);
        command.arg(model).arg(folder.join("tokens.bin")).arg("--logits").arg(to).args(&self.flags);
        let output = command.args(["--steps", &POSITIONS.to_string()]).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("{}: {error}", self.program.display()))?;
        if output.status.success() { Ok(()) } else { Err(describe_run(&self.flags.join(" "), &output)) }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(String::from).collect()
}

fn variants(effort: &Effort) -> Vec<Variant> {
    let release = |flags: String| Variant { flags: words(&flags), program: program("olmo-infer") };
    // The program starts no more threads than there are processors; `infer_same_bits.rs` has more.
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let threads = (1..=processors.min(64)).chain([1000]);
    let mut all: Vec<Variant> = threads.map(|threads| release(format!("--threads {threads}"))).collect();
    for chunk in [1, 7, 64, POSITIONS] {
        // The portable code does not fuse multiplication and addition: it has bits of its own, which infer_golden holds
        // to a tolerance.
        for isa in ["amx", "avx512-bf16", "avx512", "avx2", "scalar"].iter().filter(|isa| Isa::named(isa).is_some()) {
            all.push(release(format!("--chunk {chunk} --isa {isa} --threads 2")));
        }
    }
    for load in ["mmap", "read", "auto"] {
        all.push(release(format!("--load {load}")));
    }
    all.extend((0..effort.times(100)).map(|_| release("--threads 2".into())));
    // The build without optimisation, where there is one.
    let debug = program("../debug/olmo-infer");
    if debug.is_file() {
        for threads in [1, 3] {
            all.push(Variant { flags: words(&format!("--threads {threads}")), program: debug.clone() });
        }
    } else {
        all.push(Variant { flags: Vec::new(), program: debug });
    }
    all
}

/// Packs one folder in many ways and compares the files.
fn model_files(effort: &Effort) -> Figure {
    let times = effort.times(20);
    let threads = [1, 2, 3, 8, 16];
    let mut figure = Figure::new("packs with the same bytes", times * threads.len() as u64);
    // On a disk a folder lists its files by hashes of their names, in memory as they came.
    let folder = TempDir::in_memory("torture-pack");
    let weights = folder.join("weights");
    write_weights(&weights, &config(), Stored::F32OfBf16, 3);
    let model = folder.join("m.olmo");
    let expected = good("olmo-pack", [&weights, &model]).and_then(|_| read(&model));
    let expected = match expected {
        Ok(expected) => expected,
        Err(error) => {
            figure.add(Err(error));
            return figure;
        }
    };
    let mut random = Random(effort.seed);
    let locales = locales();
    let mut orders = BTreeSet::new();
    for i in 0..times {
        for threads in threads {
            let packed = shuffled(&folder, &weights, &mut random).and_then(|order| {
                orders.insert(order);
                pack_differently(&folder, threads, i as usize, &locales)
            });
            figure.add(packed.and_then(|bytes| {
                if bytes == expected { Ok(()) } else { Err(format!("other bytes: run {i}, {threads} threads")) }
            }));
        }
    }
    if orders.len() < 2 {
        figure.add(Err("the folder listed its files in the same order in all runs".into()));
    }
    figure.note(format!(
        "threads 1 to 16, {} orders of the folder, umasks, time zones, locales {}",
        orders.len(),
        locales.join(" ")
    ));
    figure
}

/// The installed [`LOCALES`], as the system spells them: an unknown locale has no effect.
fn locales() -> Vec<String> {
    let known =
        Command::new("locale").arg("-a").stderr(Stdio::null()).output().map_or(Vec::new(), |known| known.stdout);
    let plain = |name: &str| name.to_lowercase().replace('-', "");
    let is_wanted = |name: &&str| LOCALES.iter().any(|wanted| plain(wanted) == plain(name));
    let known: Vec<String> = String::from_utf8_lossy(&known).lines().filter(is_wanted).map(String::from).collect();
    // This one is always there, also without the program that lists them.
    if known.is_empty() { vec!["C".into()] } else { known }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Puts the same files into `folder/shuffled` in another order; returns that in which it lists them.
fn shuffled(folder: &TempDir, weights: &Path, random: &mut Random) -> Result<Vec<OsString>, String> {
    let shuffled = folder.join("shuffled");
    let problem = |error: std::io::Error| format!("{}: {error}", shuffled.display());
    fs::create_dir(&shuffled).map_err(problem)?;
    let list = |folder: &Path| -> std::io::Result<Vec<OsString>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
    };
    let mut names = list(weights).map_err(problem)?;
    for end in (1..names.len()).rev() {
        names.swap(end, random.below(end + 1));
    }
    for name in &names {
        fs::hard_link(weights.join(name), shuffled.join(name)).map_err(problem)?;
    }
    list(&shuffled).map_err(problem)
}

/// Packs `folder/shuffled` with other threads, umasks and surroundings, and removes it.
fn pack_differently(folder: &TempDir, threads: usize, i: usize, locales: &[String]) -> Result<Vec<u8>, String> {
    let (shuffled, model) = (folder.join("shuffled"), folder.join("again.olmo"));
    let problem = |error: std::io::Error| format!("{}: {error}", shuffled.display());
    let umask = ["000", "022", "077", "027"][i % 4];
    let mut command = Command::new("sh");
    command.args(["-c", "umask $0 && exec \"$@\"", umask]).arg(program("olmo-pack")).arg(&shuffled).arg(&model);
    command.args(["--force", "--threads", &threads.to_string()]);
    command.env("LC_ALL", &locales[i % locales.len()]).env("TZ", ["UTC", "Asia/Tokyo"][i % 2]);
    let output = command.stdin(Stdio::null()).output().map_err(problem)?;
    fs::remove_dir_all(&shuffled).map_err(problem)?;
    if output.status.success() { read(&model) } else { Err(describe_run("olmo-pack", &output)) }
}
