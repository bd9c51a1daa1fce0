//! `bench`, what `make bench` runs: makes a model of random weights in a published shape and measures all of its way,
//! from the folder to the last token, beside what it would have been without the model file.
//!
//! Whatever is compared is measured by turns in the same run: `cp` of the folder and `olmo-pack` of it, the shares of
//! `olmo-bench` and the ceilings beside them. One Markdown table comes out, on standard output and in
//! `target/bench/report.md`.

#[path = "bench/machine.rs"]
mod machine;
#[path = "bench/packing.rs"]
mod packing;
#[path = "bench/programs.rs"]
mod programs;
#[path = "bench/table.rs"]
mod table;

use argh::FromArgs;
use machine::Machine;
use packing::{Packed, Packing};
use programs::Programs;
use serde_json::Value;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use table::{OfType, Results};

/// Ids of "Four score and seven" in OLMo's vocabulary.
const FOUR_SCORE: [u32; 4] = [28070, 5573, 323, 8254];
/// Whole runs whose median counts.
const RUNS: usize = 5;
/// Runs of the baseline, each of them many seconds.
const BASELINE_RUNS: usize = 2;
/// Times that the folder is copied and packed by turns.
const PACKINGS: usize = 3;

/// Generate a model of random weights, pack it, and measure packing, start-up, decode and prefill.
#[derive(FromArgs)]
struct Args {
    /// shape of the model (default olmo2-1b), see random-weights --help
    #[argh(option, default = "String::from(\"olmo2-1b\")")]
    shape: String,
    /// types to measure (default f32,bf16)
    #[argh(option, default = "String::from(\"f32,bf16\")")]
    types: String,
    /// few rounds, one packing, one run of each program
    #[argh(switch)]
    quick: bool,
    /// all contexts and prompt lengths of olmo-bench: many minutes
    #[argh(switch)]
    full: bool,
    /// leave the folder and the models where they are
    #[argh(switch)]
    keep: bool,
}

fn main() -> ExitCode {
    let args: Args = argh::from_env();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("bench: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let types: Vec<&str> = args.types.split(',').collect();
    if let Some(unknown) = types.iter().find(|name| !["f32", "bf16"].contains(name)) {
        return Err(format!("--types {unknown}: expected f32, bf16 or both"));
    }
    let report_folder = PathBuf::from("target/bench");
    let work = Work::new(args, env::var_os("OLMO_BENCH_DIR").map_or_else(|| report_folder.clone(), PathBuf::from))?;
    let results = measure(args, &types, &work);
    if !args.keep {
        work.remove();
    }
    let report = results?.markdown();
    print!("{report}");
    let path = report_folder.join("report.md");
    let written = fs::create_dir_all(&report_folder).and_then(|()| fs::write(&path, &report));
    written.map_err(|error| format!("{}: cannot write the report: {error}", path.display()))?;
    eprintln!("bench: written to {}", path.display());
    Ok(())
}

/// The big files.
struct Work {
    programs: Programs,
    /// The folder of weights.
    weights: PathBuf,
    /// A copy of it.
    copy: PathBuf,
    /// The model of the moment.
    model: PathBuf,
    /// Two token files: four ids and one.
    four_score: PathBuf,
    one_token: PathBuf,
    folder: PathBuf,
}

impl Work {
    fn new(args: &Args, folder: PathBuf) -> Result<Work, String> {
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let work = Work {
            programs: Programs::beside_this_one()?,
            weights: folder.join(format!("{}-weights", args.shape)),
            copy: folder.join(format!("{}-copy", args.shape)),
            model: folder.join(format!("{}.olmo", args.shape)),
            four_score: folder.join("fourscore.bin"),
            one_token: folder.join("one-token.bin"),
            folder,
        };
        for (path, ids) in [(&work.four_score, &FOUR_SCORE[..]), (&work.one_token, &FOUR_SCORE[..1])] {
            // A small vocabulary has other ids: any will do for the time they take.
            let small = args.shape == "tiny";
            let bytes: Vec<u8> = ids.iter().flat_map(|&id| if small { id % 500 } else { id }.to_le_bytes()).collect();
            fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(work)
    }

    /// Makes the folder of weights, unless an earlier run left it; returns its length.
    fn generate(&self, args: &Args) -> Result<u64, String> {
        // Only a folder of holes says how large this shape is before it takes any space.
        self.programs.random_weights(&args.shape, &self.copy, true)?;
        let bytes = machine::folder_bytes(&self.copy)?;
        packing::remove_folder(&self.copy)?;
        let there = machine::folder_bytes(&self.weights).unwrap_or(0);
        // The folder, its copy and the model; a little for the file system.
        let needed = (3 * bytes).saturating_sub(there) / 100 * 101;
        let free = machine::free_disk(&self.folder)?;
        eprintln!("bench: needs {:.1} GB of disk, {:.1} GB are free", needed as f64 / 1e9, free as f64 / 1e9);
        if free < needed {
            return Err(format!("{}: too little disk; OLMO_BENCH_DIR names another folder", self.folder.display()));
        }
        if there != bytes {
            if self.weights.exists() {
                packing::remove_folder(&self.weights)?;
            }
            eprintln!("bench: generating {}", self.weights.display());
            self.programs.random_weights(&args.shape, &self.weights, false)?;
        }
        Ok(bytes)
    }

    fn remove(&self) {
        for folder in [&self.weights, &self.copy] {
            let _not_there = fs::remove_dir_all(folder);
        }
        for file in [&self.model, &self.four_score, &self.one_token] {
            let _not_there = fs::remove_file(file);
        }
    }
}

fn measure(args: &Args, types: &[&str], work: &Work) -> Result<Results, String> {
    let weights_bytes = work.generate(args)?;
    let machine = Machine::read();
    if machine.memory_bytes < 5 * weights_bytes / 2 {
        eprintln!("bench: this memory does not hold folder, heap and model together: some figures will be the disk's");
    }
    let mut results = Results {
        machine,
        shape: args.shape.clone(),
        weights_bytes,
        copies: Vec::new(),
        types: Vec::new(),
        baseline: None,
    };
    for &name in types {
        let packing =
            Packing { programs: &work.programs, weights: &work.weights, copy: &work.copy, model: &work.model };
        let mut packed = Vec::new();
        // The copy has the bytes of the f32 file, so only that one is compared with it.
        let n_packings = if args.quick || name != "f32" { 1 } else { PACKINGS };
        for number in 1..=n_packings {
            eprintln!("bench: packing {name}, {number} of {n_packings}");
            if name == "f32" {
                results.copies.push(packing.copy()?);
            }
            packed.push(packing.pack(name)?);
        }
        results.types.push(measure_type(args, work, name, packed)?);
        if name == "f32" {
            let runs = if args.quick { 1 } else { BASELINE_RUNS };
            for number in 1..=runs {
                eprintln!("bench: baseline, {number} of {runs}");
                let run = work.programs.baseline(&work.weights, &work.four_score)?;
                results.baseline.get_or_insert_default().push(run);
            }
        }
    }
    Ok(results)
}

/// Everything about one model file.
fn measure_type(args: &Args, work: &Work, name: &str, packed: Vec<Packed>) -> Result<OfType, String> {
    eprintln!("bench: olmo-bench, {name}");
    let options: &[&str] = match (args.quick, args.full) {
        (true, _) => &["--quick"],
        (false, false) => &["--prefill", "2,8,32,128,512"],
        (false, true) => &[],
    };
    let bench: Value = work.programs.olmo_bench(&work.model, options)?;
    eprintln!("bench: olmo-infer, {name}");
    let runs = if args.quick { 1 } else { RUNS };
    let times = |tokens: &Path, steps: &str| -> Result<Vec<f64>, String> {
        (0..runs).map(|_| work.programs.olmo_infer(&work.model, tokens, steps)).collect()
    };
    let one_token = times(&work.one_token, "1")?;
    let four_score = times(&work.four_score, "20")?;
    Ok(OfType { name: name.to_string(), packed, bench, one_token, four_score })
}
