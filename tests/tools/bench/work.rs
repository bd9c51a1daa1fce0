//! The big files of a run: weights, models, prompts.

use crate::kind::Kind;
use crate::machine;
use crate::packing::{self, Packing};
use crate::programs::Programs;
use crate::results::Packed;
use std::cell::RefCell;
use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Ids of "Four score and seven" in OLMo's vocabulary.
const FOUR_SCORE: [u32; 4] = [28070, 5573, 323, 8254];

/// The model that is measured.
#[derive(Clone)]
pub struct Model {
    /// A shape of `random-weights`.
    pub shape: String,
    /// Another number of layers than the shape has.
    pub layers: Option<usize>,
    /// Type of the folder of weights, `f32` or `bf16`.
    pub dtype: String,
}

impl Model {
    /// Its name in results and paths: `olmoe-1b-7b`, `olmoe-1b-7b-8-layers`.
    pub fn name(&self) -> String {
        match self.layers {
            Some(layers) => format!("{}-{layers}-layers", self.shape),
            None => self.shape.clone(),
        }
    }
}

/// Their paths, and the programs that make them.
pub struct Work {
    /// The programs.
    pub programs: Programs,
    /// What the folder of weights is.
    pub model: Model,
    /// The folder of weights.
    pub weights: PathBuf,
    /// Token files: four ids, and one.
    pub four_score: PathBuf,
    /// The second.
    pub one_token: PathBuf,
    /// All of them are inside.
    pub folder: PathBuf,
    /// What was made, whole or in part, and may have to be removed.
    made: RefCell<Vec<PathBuf>>,
}

impl Work {
    /// Finds the programs and writes the prompts; the folder is `OLMO_BENCH_DIR`, or `usual`.
    pub fn new(model: Model, usual: &Path) -> Result<Work, String> {
        let folder = env::var_os("OLMO_BENCH_DIR").map_or_else(|| usual.to_path_buf(), PathBuf::from);
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let work = Work {
            programs: Programs::next_to_this_one()?,
            weights: folder.join(format!("{}-weights", model.name())),
            four_score: folder.join("fourscore.bin"),
            one_token: folder.join("one-token.bin"),
            folder,
            model,
            made: RefCell::default(),
        };
        for (path, ids) in [(&work.four_score, &FOUR_SCORE[..]), (&work.one_token, &FOUR_SCORE[..1])] {
            let ids = work.ids(ids);
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            work.will_make(path);
            fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(work)
    }

    /// "Four score and seven", or ids instead of it.
    pub fn prompt(&self) -> Vec<u32> {
        self.ids(&FOUR_SCORE)
    }

    /// A small vocabulary has other ids: any will do for the time they take.
    fn ids(&self, ids: &[u32]) -> Vec<u32> {
        let small = self.model.shape.starts_with("tiny");
        ids.iter().map(|&id| if small { id % 500 } else { id }).collect()
    }

    /// The model file of a kind.
    pub fn model_file(&self, kind: &Kind) -> PathBuf {
        self.folder.join(format!("{}-{}.olmo", self.model.name(), kind.name))
    }

    /// A copy of the folder of weights, or what else is as large.
    pub fn copy(&self) -> PathBuf {
        self.folder.join(format!("{}-copy", self.model.name()))
    }

    /// Makes the folder of weights, unless an earlier run left it; returns its length. `folders` is how many times that
    /// will be on the disk at once.
    pub fn generate(&self, folders: f64) -> Result<u64, String> {
        // A folder of holes has the size of this shape and takes no space.
        let copy = self.copy();
        self.will_make(&copy);
        self.programs.random_weights(&self.model, &copy, true)?;
        let bytes = machine::folder_bytes(&copy)?;
        packing::remove_folder(&copy)?;
        self.will_make(&self.weights);
        let there = machine::folder_bytes(&self.weights).unwrap_or(0);
        // A little more, for the file system.
        let needed = (folders * 1.01 * bytes as f64) as u64;
        self.check_disk(needed.saturating_sub(there))?;
        if there != bytes {
            if self.weights.exists() {
                packing::remove_folder(&self.weights)?;
            }
            eprintln!("bench: generating {}", self.weights.display());
            self.programs.random_weights(&self.model, &self.weights, false)?;
        }
        Ok(bytes)
    }

    fn check_disk(&self, needed: u64) -> Result<(), String> {
        let free = machine::free_disk(&self.folder)?;
        eprintln!("bench: needs {:.1} GB of disk, {:.1} GB are free", needed as f64 / 1e9, free as f64 / 1e9);
        match free < needed {
            true => Err(format!("{}: too little disk; OLMO_BENCH_DIR names another folder", self.folder.display())),
            false => Ok(()),
        }
    }

    /// Packs the weights `times` times; with `copies`, each time together with a copy of the folder.
    pub fn pack(&self, kind: &Kind, times: usize, mut copies: Option<&mut Vec<f64>>) -> Result<Vec<Packed>, String> {
        let (copy, model) = (self.copy(), self.model_file(kind));
        self.will_make(&copy);
        self.will_make(&model);
        let packing = Packing { programs: &self.programs, weights: &self.weights, copy: &copy, model: &model };
        let mut packed = Vec::new();
        for number in 1..=times {
            eprintln!("bench: packing {}, {number} of {times}", kind.label);
            if let Some(copies) = &mut copies {
                copies.push(packing.copy()?);
            }
            packed.push(packing.pack(kind)?);
        }
        Ok(packed)
    }

    /// Remembers a file or folder before it is made, so that it is removed even when its maker fails.
    pub fn will_make(&self, path: &Path) {
        let mut made = self.made.borrow_mut();
        if !made.iter().any(|other| other == path) {
            made.push(path.to_path_buf());
        }
    }

    /// Removes all that was made and is still there, with `keep` without the folder of weights.
    pub fn remove_all(&self, keep: bool) -> Result<(), String> {
        let made = self.made.borrow();
        let unwanted = made.iter().filter(|path| !keep || **path != self.weights);
        let problems: Vec<String> = unwanted.filter_map(|path| remove(path).err()).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }
}

/// Removes a file or folder, if it is there.
pub fn remove(path: &Path) -> Result<(), String> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(format!("{}: cannot be removed: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removing_a_missing_file_succeeds() {
        let folder = env::temp_dir().join(format!("olmo-bench-remove-{}", std::process::id()));
        fs::create_dir_all(folder.join("inside")).expect("a folder");
        fs::write(folder.join("file"), "x").expect("written");
        let missing = remove(&folder.join("missing"));
        let failed = remove(&folder.join("file/inside"));
        let removed = remove(&folder);
        assert_eq!((missing, removed), (Ok(()), Ok(())));
        assert!(failed.is_err_and(|problem| problem.contains("file/inside")));
        assert!(!folder.exists());
    }
}
