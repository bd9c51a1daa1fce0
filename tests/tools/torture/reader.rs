//! The file reader: all damage of some kinds to small files, and random flips in a large one.

use crate::Effort;
use crate::figure::Figure;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::section;
use olmo_infer::internals::format::sizes::Extent;
use olmo_pack::commands::sources::section_name;
use olmo_pack::commands::verify;
use olmo_pack::error::Error;
use olmo_tests::Random;
use olmo_tests::damage::{Damage, Report, Thoroughness};
use olmo_tests::packed::Packed;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, process};

/// Flips in the large file.
const FLIPS: u64 = 1000;
/// Room for the weights of a model of one billion numbers in bf16, and for the file made of them.
const NEEDED_BYTES: u64 = 7 << 30;
/// Names the folder for large files, in place of the one that holds this program.
const FOLDER: &str = "OLMO_TORTURE_DIR";

/// Every bit, every length, every window and every block of small files.
pub fn run(_effort: &Effort) -> Vec<Figure> {
    let files = Packed::all().map(Damage::to);
    let of_all = |what: &str, wanted: u64, part: &dyn Fn(&Damage, Report<'_>)| {
        let mut figure = Figure::new(what, wanted);
        files.iter().for_each(|damage| part(damage, &mut |result| figure.add(result)));
        figure
    };
    let bytes: u64 = files.iter().map(|damage| damage.packed().bytes.len() as u64).sum();
    let mut flips = of_all("every bit of small files flipped", 8 * bytes, &|damage, report| {
        damage.flips(Thoroughness::Whole, report);
    });
    flips.note(format!("{} files, {bytes} bytes", files.len()));
    vec![
        flips,
        of_all("every other length", bytes + 2 * 4096 * files.len() as u64, &Damage::lengths),
        of_all("windows of 8 bytes at boundary values", bytes / 8 * 9, &|damage, report| {
            damage.windows(Thoroughness::Whole, report);
        }),
        of_all("blocks of 512 and 4096 bytes zeroed or exchanged", bytes / 512, &Damage::blocks),
    ]
}

/// Random single bits of a file of a billion numbers, each found by `verify` and its place named.
pub fn flips_in_a_large_file(effort: &Effort) -> Vec<Figure> {
    let mut figure = Figure::new("random bits of a 1B file flipped", effort.times(FLIPS));
    let made = LargeFile::new();
    match &made {
        Ok(file) => file.flip_bits(effort, &mut figure),
        Err(reason) => figure.add(Err(reason.clone())),
    }
    vec![figure]
}

/// A large model file in a folder of its own, which goes with it.
struct LargeFile {
    folder: PathBuf,
}

impl Drop for LargeFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("torture: {}: not removed: {error}", self.folder.display());
        }
    }
}

impl LargeFile {
    /// Makes random weights in the shape of OLMo-2 1B, packs them and removes them.
    fn new() -> Result<LargeFile, String> {
        let programs = env::current_exe().map_err(|error| format!("this program's folder: {error}"))?;
        let programs = programs.parent().ok_or("this program is in no folder")?;
        let parent = env::var_os(FOLDER).map_or_else(|| programs.to_path_buf(), PathBuf::from);
        let file = LargeFile { folder: parent.join(format!("torture-flips-{}", process::id())) };
        fs::create_dir_all(&file.folder).map_err(|error| format!("{}: {error}", file.folder.display()))?;
        let free = rustix::fs::statvfs(&file.folder).map_err(|error| format!("{}: {error}", parent.display()))?;
        let free = free.f_bavail * free.f_frsize;
        if free < NEEDED_BYTES {
            return Err(format!(
                "{}: {} GiB of disk are free, {} are needed; {FOLDER} names another folder",
                parent.display(),
                free >> 30,
                NEEDED_BYTES >> 30
            ));
        }
        let weights = file.folder.join("weights");
        let shape = ["--shape", "olmo2-1b", "--dtype", "bf16"].map(AsRef::as_ref);
        program(&programs.join("random-weights"), &[&[weights.as_ref()], &shape[..]].concat())?;
        program(&programs.join("olmo-pack"), &[weights.as_ref(), file.path().as_ref()])?;
        fs::remove_dir_all(&weights).map_err(|error| format!("{}: {error}", weights.display()))?;
        Ok(file)
    }

    fn path(&self) -> PathBuf {
        self.folder.join("model.olmo")
    }

    /// Flips bits one after the other in place, and verifies the file each time.
    fn flip_bits(&self, effort: &Effort, figure: &mut Figure) {
        let path = self.path();
        let places = match Places::of(&path) {
            Ok(places) => places,
            Err(error) => return figure.add(Err(error)),
        };
        let mut random = Random(effort.seed);
        for _ in 0..effort.times(FLIPS) {
            let (at, bit) = (random.bits() % places.file_bytes, random.below(8));
            let found = flipped(&path, at, bit, || verify::run(&path));
            figure.add(found.and_then(|found| {
                places
                    .judge(at, found)
                    .map_err(|error| format!("seed {}: bit {bit} of byte {at}: {error}", effort.seed))
            }));
        }
        // Each flip was undone: the file is good again.
        if let Err(error) = verify::run(&path) {
            figure.add(Err(format!("after the last flip: {error}")));
        }
        figure.note(format!("seed {}, {} bytes", effort.seed, places.file_bytes));
    }
}

/// Runs a program to its end.
fn program(path: &Path, arguments: &[&std::ffi::OsStr]) -> Result<(), String> {
    let mut command = Command::new(path);
    let output = command.args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{}: {error}; make torture builds it", path.display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", path.display(), String::from_utf8_lossy(&output.stderr).trim()))
}

/// The result of `look` while a bit of the file is flipped.
fn flipped<T>(path: &Path, at: u64, bit: usize, look: impl FnOnce() -> T) -> Result<T, String> {
    let cannot = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = File::options().read(true).write(true).open(path).map_err(cannot)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).map_err(cannot)?;
    file.write_all_at(&[byte[0] ^ 1 << bit], at).map_err(cannot)?;
    let found = look();
    file.write_all_at(&byte, at).map_err(cannot)?;
    Ok(found)
}

/// The layout of the good file.
struct Places {
    /// Extents and what an error about them must contain; `None` where opening must refuse the file.
    extents: Vec<(Extent, Option<String>)>,
    file_bytes: u64,
}

impl Places {
    fn of(path: &Path) -> Result<Places, String> {
        let model = ModelFile::open(path).map_err(|error| error.to_string())?;
        let layout = model.layout();
        let mut extents = vec![(Extent { offset: 0, bytes: layout.index.end() }, None)];
        for (record, &extent) in model.sections().iter().zip(&layout.sections) {
            let kind = record.kind.get();
            let says = format!(": {}: its digest is wrong; ", section_name(kind));
            extents.push((extent, Some(says).filter(|_| kind != section::BF12)));
        }
        for (spec, &extent) in model.specs().iter().zip(&layout.tensors) {
            extents.push((extent, Some(format!(": {}: its digest is wrong; ", spec.name()))));
        }
        Ok(Places { extents, file_bytes: layout.file_bytes })
    }

    /// Whether `found` is the expected error about a flip of byte `at`, and nothing else.
    fn judge(&self, at: u64, found: Result<String, Error>) -> Result<(), String> {
        let error = found.err().ok_or("not found")?;
        let within = |extent: &Extent| (extent.offset..extent.end()).contains(&at);
        let says = match self.extents.iter().find(|(extent, _)| within(extent)) {
            Some((_, None)) if matches!(error, Error::Model(_)) => return Ok(()),
            Some((_, None)) => return Err(format!("opened, and then {error}")),
            Some((_, Some(says))) => says.clone(),
            None => format!(": byte {at}: padding that is not zero; "),
        };
        let line = error.to_string();
        if line.contains(&says) && line.lines().count() == 1 { Ok(()) } else { Err(line) }
    }
}
