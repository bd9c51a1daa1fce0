//! The content of a weights folder: the tensors, in any kind of file, and the other files.

use crate::error::{Error, Problem, shown_path};
use crate::folder::gguf::GgufFile;
use crate::folder::gguf::header::MAGIC as GGUF;
use crate::folder::gguf::names;
use crate::folder::npy::NpyFile;
use crate::folder::safetensors::Shards;
use crate::folder::source_file;
use crate::folder::stored_tensor::StoredTensor;
use olmo_infer::internals::os::directory::names as names_in;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A checkpoint in one file.
const SINGLE: &str = "model.safetensors";
/// The index of a sharded checkpoint.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The files that hold the tensors.
#[derive(Clone, Debug, Default)]
enum Weights {
    /// One `<parameter name>.npy` per tensor.
    #[default]
    Npy,
    /// Safetensors files.
    Safetensors(Shards),
    /// One GGUF file.
    Gguf(Box<GgufFile>),
}

/// The kind of the files that hold the tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// `.npy` files.
    Npy,
    /// Safetensors files.
    Safetensors,
    /// A GGUF file.
    Gguf,
}

impl Container {
    /// The name in JSON and in the provenance.
    pub fn name(self) -> &'static str {
        match self {
            Container::Npy => "npy",
            Container::Safetensors => "safetensors",
            Container::Gguf => "gguf",
        }
    }
}

/// The content of a weights folder.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The folder.
    pub folder: PathBuf,
    /// Names of the tensors, sorted, so that the directory order does not matter.
    pub tensors: BTreeSet<String>,
    /// Weights files that cannot hold a tensor of the model: `.npy` files with names that are not UTF-8, safetensors
    /// files that do not belong to the checkpoint.
    pub strays: Vec<PathBuf>,
    /// Whether `config.json` is there.
    pub has_config_json: bool,
    /// Whether `generation_config.json` is there.
    pub has_generation_config_json: bool,
    weights: Weights,
}

/// The file names of a folder that may be weights.
#[derive(Default)]
struct Names {
    /// Tensors with an `.npy` file.
    npy: BTreeSet<String>,
    /// `.npy` files with names that are not UTF-8.
    nameless: BTreeSet<PathBuf>,
    /// `.safetensors` files.
    safetensors: BTreeSet<PathBuf>,
    has_index: bool,
    /// `.bin` files.
    bin: BTreeSet<PathBuf>,
    /// `.gguf` files.
    gguf: BTreeSet<PathBuf>,
}

impl Names {
    /// Adds the `.npy` file at `path`; `name` is its name if that is UTF-8.
    fn add_npy(&mut self, path: &Path, name: Option<&str>) {
        match name.and_then(|name| name.strip_suffix(".npy")) {
            Some(tensor) => self.npy.extend([tensor.to_string()]),
            None => self.nameless.extend([path.to_path_buf()]),
        }
    }
}

impl Listing {
    /// Lists `folder`, and reads the headers of its safetensors files. It can also be a GGUF file.
    ///
    /// # Errors
    /// It does not exist, is not a folder or not readable, has no weights or two kinds of them, or has safetensors
    /// files that are invalid or do not belong together.
    pub fn read(folder: &Path) -> Result<Listing, Error> {
        let expected = "a folder of .npy or safetensors files, or a GGUF file";
        let metadata = fs::metadata(folder).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::from(Problem::new(folder, "no such folder").expected(expected)),
            _ => Error::io(folder, "cannot read its metadata", error),
        })?;
        if metadata.is_file() && begins_with(folder, &GGUF) {
            return Listing::of_gguf(folder);
        }
        if !metadata.is_dir() {
            return Err(Problem::new(folder, "not a folder").expected(expected).into());
        }
        let mut listing = Listing { folder: folder.to_path_buf(), ..Listing::default() };
        let mut names = Names::default();
        let unreadable = |error| Error::io(folder, "cannot list the folder", error);
        for name in names_in(folder).map_err(unreadable)? {
            let name = name.map_err(unreadable)?;
            let path = || folder.join(&name);
            match name.as_bytes() {
                b"config.json" => listing.has_config_json = true,
                b"generation_config.json" => listing.has_generation_config_json = true,
                bytes if bytes == INDEX.as_bytes() => names.has_index = true,
                bytes if bytes.ends_with(b".npy") => names.add_npy(&path(), name.to_str()),
                bytes if bytes.ends_with(b".safetensors") => names.safetensors.extend([path()]),
                bytes if bytes.ends_with(b".bin") => names.bin.extend([path()]),
                bytes if bytes.ends_with(b".gguf") => names.gguf.extend([path()]),
                _ => {}
            }
        }
        listing.choose(names)?;
        Ok(listing)
    }

    /// The content of a GGUF file.
    fn of_gguf(file: &Path) -> Result<Listing, Error> {
        let gguf = GgufFile::open(file)?;
        let tensors = gguf.names().cloned().collect();
        let folder = file.to_path_buf();
        Ok(Listing { folder, tensors, weights: Weights::Gguf(Box::new(gguf)), ..Listing::default() })
    }

    /// Determines which files are the weights.
    fn choose(&mut self, names: Names) -> Result<(), Error> {
        let (single, index) = (self.folder.join(SINGLE), self.folder.join(INDEX));
        let has_single = names.safetensors.contains(&single);
        let has_npy = !names.npy.is_empty() || !names.nameless.is_empty();
        let safetensors = match names.has_index {
            true => Some(INDEX.to_string()),
            false if has_single => Some(SINGLE.to_string()),
            false => names.safetensors.first().map(|path| shown_name(path)),
        };
        let two = |found: String| {
            let problem = Problem::new(&self.folder, found).expected("the weights of one model in one format");
            problem.advice("keep one of them and move the others to another folder")
        };
        let shards = match safetensors {
            Some(name) if has_npy => return Err(two(format!("both .npy files and {name}")).into()),
            Some(_) if has_single && names.has_index => return Err(two(format!("both {SINGLE} and {INDEX}")).into()),
            Some(_) if names.has_index => Shards::of_index(&index)?,
            Some(_) if has_single => Shards::single(&single)?,
            Some(name) => return Err(self.no_model_safetensors(&name).into()),
            None if names.npy.is_empty() => {
                let in_cache = crate::folder::hub_cache::explain(&self.folder);
                return Err(in_cache.unwrap_or_else(|| self.no_weights(&names)).into());
            }
            None => {
                self.tensors = names.npy;
                self.strays = names.nameless.into_iter().collect();
                return Ok(());
            }
        };
        self.tensors = shards.names().cloned().collect();
        self.strays = names.safetensors.into_iter().filter(|path| !shards.contains(path)).collect();
        self.weights = Weights::Safetensors(shards);
        Ok(())
    }

    /// The error for safetensors files without the names of a checkpoint.
    fn no_model_safetensors(&self, name: &str) -> Problem {
        if name.contains("-of-") {
            let problem = Problem::new(&self.folder, format!("{name} without an index"));
            return problem.expected(format!("{INDEX} next to the shards")).advice("download it too");
        }
        Problem::new(&self.folder, format!("no {SINGLE}, but {name}"))
            .expected(format!("{SINGLE}, or shards with {INDEX}"))
            .advice(format!("if it is the whole model, rename it to {SINGLE}"))
    }

    /// The error for a folder without readable weights.
    fn no_weights(&self, names: &Names) -> Problem {
        if let Some(gguf) = names.gguf.first() {
            let found = format!("no .npy or safetensors files, but {}", shown_name(gguf));
            let problem = Problem::new(&self.folder, found).expected("the weights of a model, or a GGUF file");
            return problem.advice(format!("give the file: {}", shown_path(gguf)));
        }
        let but = names.bin.first().map_or(String::new(), |path| format!(", but {}", shown_name(path)));
        Problem::new(&self.folder, format!("no .npy or safetensors files{but}"))
            .expected(format!("{SINGLE}, or one <parameter name>.npy for each tensor"))
            .advice("save the model with save_pretrained, or each parameter with np.save")
    }

    /// The kind of the files that hold the tensors.
    pub fn container(&self) -> Container {
        match self.weights {
            Weights::Npy => Container::Npy,
            Weights::Safetensors(_) => Container::Safetensors,
            Weights::Gguf(_) => Container::Gguf,
        }
    }

    /// Whether the tensors are in `.npy` files.
    pub fn is_npy(&self) -> bool {
        self.container() == Container::Npy
    }

    /// The file, if the tensors are in a GGUF file.
    pub fn gguf(&self) -> Option<&GgufFile> {
        match &self.weights {
            Weights::Gguf(gguf) => Some(gguf),
            Weights::Npy | Weights::Safetensors(_) => None,
        }
    }

    /// The file that holds a tensor; if it is missing, the file that should hold or list it.
    pub fn path(&self, tensor: &str) -> PathBuf {
        match &self.weights {
            Weights::Npy => self.folder.join(format!("{tensor}.npy")),
            Weights::Safetensors(shards) => shards.place(tensor).to_path_buf(),
            Weights::Gguf(gguf) => gguf.path().to_path_buf(),
        }
    }

    /// The name of a tensor in its file.
    fn own_name(&self, tensor: &str) -> String {
        match self.container() {
            Container::Gguf => names::of_gguf(tensor).unwrap_or_else(|| tensor.into()),
            Container::Npy | Container::Safetensors => tensor.into(),
        }
    }

    /// A problem with a tensor, present or missing.
    pub fn problem(&self, tensor: &str, found: impl Into<String>) -> Problem {
        let problem = Problem::new(self.path(tensor), found);
        if self.is_npy() { problem } else { problem.tensor(self.own_name(tensor)) }
    }

    /// A problem with one of the strays.
    pub fn stray(&self, path: &Path) -> Problem {
        match &self.weights {
            Weights::Npy | Weights::Gguf(_) => Problem::new(path, "not a parameter of this model"),
            Weights::Safetensors(shards) => {
                Problem::new(path, format!("not one of the files of {}", shown_name(shards.root())))
            }
        }
    }

    /// A tensor in one line, for lists.
    pub fn shown(&self, tensor: &str) -> String {
        if self.is_npy() { shown_path(&self.path(tensor)) } else { self.own_name(tensor) }
    }

    /// The shape of a tensor.
    ///
    /// # Errors
    /// It is missing, or its file is damaged.
    pub fn shape(&self, tensor: &str) -> Result<Vec<u64>, Error> {
        match &self.weights {
            Weights::Npy => Ok(NpyFile::check(&self.path(tensor))?.shape),
            Weights::Safetensors(shards) => {
                Ok(shards.shape(tensor).ok_or_else(|| self.problem(tensor, "missing"))?.to_vec())
            }
            Weights::Gguf(gguf) => Ok(gguf.shape(tensor).ok_or_else(|| self.problem(tensor, "missing"))?.to_vec()),
        }
    }

    /// A tensor; `u2_is_bf16`: whether 16-bit integers in an `.npy` file are bf16.
    ///
    /// # Errors
    /// It is missing, its file is invalid, or it has a type that weights cannot have.
    pub fn tensor(&self, tensor: &str, u2_is_bf16: bool) -> Result<StoredTensor, Error> {
        match &self.weights {
            Weights::Npy => Ok(NpyFile::check(&self.path(tensor))?.tensor(u2_is_bf16)?),
            Weights::Safetensors(shards) => {
                Ok(shards.tensor(tensor).ok_or_else(|| self.problem(tensor, "missing"))??)
            }
            Weights::Gguf(gguf) => Ok(gguf.tensor(tensor).ok_or_else(|| self.problem(tensor, "missing"))??),
        }
    }
}

/// Whether the file at `path` begins with these bytes. One that cannot be read does not: its error comes later.
fn begins_with(path: &Path, bytes: &[u8]) -> bool {
    let mut head = Vec::new();
    let read = source_file::open(path).map(|file| file.take(bytes.len() as u64).read_to_end(&mut head));
    read.is_ok() && head == bytes
}

/// The name of a file, for messages about its folder.
fn shown_name(path: &Path) -> String {
    path.file_name().map(Path::new).map(shown_path).unwrap_or_default()
}
