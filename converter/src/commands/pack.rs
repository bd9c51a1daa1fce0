//! The converter's main path: look at the folder, choose the stored type and the encodings, plan, fill, write, give it
//! its name.

use crate::calibrate;
use crate::calibrate::passages::Passages;
use crate::commands::counted::counted;
use crate::commands::mistaken;
use crate::commands::read_back;
use crate::commands::role_losses::{self, RoleLoss};
use crate::encode::importance::Importance;
use crate::encode::is_bf16;
use crate::encode::pool::thread_pool;
use crate::error::{Error, Problem};
use crate::folder::listing::{self, Container, Listing};
use crate::model::checkpoint::Checkpoint;
use crate::model::settings::Flags;
use crate::text::{self, Text};
use crate::write::grade::Grade;
use crate::write::model_output::{Output, Target};
use crate::write::pipeline::{self, Outcome};
use crate::write::plan::Plan;
use crate::write::recipe::{Planned, Recipe, Stored};
use crate::write::wanted::Wanted;
use olmo_infer::internals::format::{Dtype, Encoding};
use olmo_infer::internals::os::disk::Disk;
use rayon::ThreadPool;
use std::path::{Path, PathBuf};
use zerocopy::IntoBytes;

/// How the stored type of the matrices is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DtypeChoice {
    /// bf16 when that loses nothing, else f32.
    #[default]
    Auto,
    /// f32.
    F32,
    /// bf16, rounding to the nearest, ties to even.
    Bf16,
    /// bf16 in 12 bits, where that pays.
    Bf12,
    /// [`Grade::Int8`].
    Int8,
    /// [`Grade::Int4`].
    Int4,
}

impl DtypeChoice {
    /// All of them.
    pub const ALL: [DtypeChoice; 6] = [
        DtypeChoice::Auto,
        DtypeChoice::F32,
        DtypeChoice::Bf16,
        DtypeChoice::Bf12,
        DtypeChoice::Int8,
        DtypeChoice::Int4,
    ];

    /// As it is written in `--dtype`.
    pub fn name(self) -> &'static str {
        match self {
            DtypeChoice::Auto => "auto",
            DtypeChoice::F32 => "f32",
            DtypeChoice::Bf16 => "bf16",
            DtypeChoice::Bf12 => "bf12",
            DtypeChoice::Int8 => "int8",
            DtypeChoice::Int4 => "int4",
        }
    }
}

/// Whether bf16 matrices may be stored in 12 bits a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EncodingChoice {
    /// Those for which it pays; no bit is lost.
    #[default]
    Auto,
    /// None.
    Plain,
}

impl EncodingChoice {
    /// As it is written in `--encoding`.
    pub fn name(self) -> &'static str {
        match self {
            EncodingChoice::Auto => "auto",
            EncodingChoice::Plain => "plain",
        }
    }
}

/// What to pack and how.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The weights folder, or a GGUF file.
    pub weights: PathBuf,
    /// The file to write.
    pub model: PathBuf,
    /// Stored type of the matrices.
    pub dtype: DtypeChoice,
    /// Encoding of bf16 matrices.
    pub encoding: EncodingChoice,
    /// Encodings of the matrices that a pattern names, instead of those that `dtype` and `encoding` choose; the last
    /// pattern wins.
    pub tensors: Vec<(String, Wanted)>,
    /// Encoding of the drafts of all matrices that a token is multiplied with, but those that are stored so anyway. A
    /// draft is a second copy of a matrix.
    pub draft: Option<Wanted>,
    /// Encodings of drafts, by the names of their matrices; they come before that of `draft`.
    pub drafts: Vec<(String, Wanted)>,
    /// A text to run the model over, so that the scales of quantized matrices suit the columns that matter there.
    pub calibrate: Option<PathBuf>,
    /// A vocabulary other than the folder's: a `vocab.txt` or a `tokenizer.json`.
    pub vocab: Option<PathBuf>,
    /// The program `olmo-pack`, which runs a chat template in a process of its own: without one, none can be used.
    pub program: Option<PathBuf>,
    /// Replace an existing file.
    pub force: bool,
    /// Leave out tensors that the model does not have.
    pub allow_extra: bool,
    /// Accept NaN and infinity.
    pub allow_nonfinite: bool,
    /// Values of the configuration.
    pub flags: Flags,
    /// Threads; 0 for all that the process may use.
    pub threads: usize,
}

/// A folder that was found good, before any number is read.
pub struct Prepared {
    /// The folder.
    pub checkpoint: Checkpoint,
    /// Its tokens, its tokenizer and the format of conversations.
    pub text: Text,
    /// Where the model goes.
    pub target: Target,
    /// The parts of the text to calibrate with.
    pub passages: Option<Passages>,
    request: Request,
}

/// The results of a finished pack.
#[derive(Clone, Debug)]
pub struct Packed {
    /// Type of the elements of the matrices; `None` when they have several.
    pub matrices: Option<Dtype>,
    /// How many matrices there are.
    pub n_matrices: usize,
    /// How many of them are bf12.
    pub n_bf12: usize,
    /// Names of the encodings, with the number of matrices of each.
    pub encodings: Vec<(&'static str, usize)>,
    /// What quantized matrices lost, role by role.
    pub losses: Vec<RoleLoss>,
    /// Bits that a number of the matrices takes in the file; those of the padding inside panels count as numbers.
    pub bits_per_weight: f64,
    /// The text that the model was calibrated with: the numbers of tokens used and present.
    pub calibrated: Option<(usize, usize)>,
    /// Length of the file.
    pub file_bytes: u64,
    /// Bytes of numbers read.
    pub source_bytes: u64,
    /// What was seen in the numbers.
    pub outcome: Outcome,
}

/// Checks the folder, its text files, and the target.
///
/// # Errors
/// What is wrong with them. Costs a header of each file, no numbers.
pub fn prepare(request: &Request) -> Result<Prepared, Error> {
    let listing =
        Listing::read(&request.weights).map_err(|error| mistaken::explain(&request.weights, &request.model, error))?;
    let target = Target::new(&request.model, request.force)?;
    target.refuse_inside(&request.weights)?;
    let checkpoint = Checkpoint::check(&listing, &request.flags, request.allow_extra)?;
    for source in &checkpoint.sources {
        target.refuse_same(&source.tensor.file.path, source.tensor.file.identity.inode)?;
    }
    let (vocab, program) = (request.vocab.as_deref(), request.program.as_deref());
    let refuse_same = |path: &Path, inode| target.refuse_same(path, inode);
    let text = match listing.gguf() {
        Some(gguf) => Text::of_gguf(&gguf.metadata, vocab, program, &checkpoint.settings, &refuse_same)?,
        None => {
            for name in ["config.json", "generation_config.json", listing::INDEX] {
                target.refuse_replacing(&request.weights.join(name))?;
            }
            Text::read(&listing.folder, vocab, program, &checkpoint.settings, &refuse_same)?
        }
    };
    let config = &checkpoint.settings.config;
    let read = |path: &PathBuf| {
        text::not_the_target(path, &refuse_same)?;
        Passages::read(path, &text, config.vocab_size, config.max_position_embeddings)
    };
    let passages = request.calibrate.as_ref().map(read).transpose()?;
    let prepared = Prepared { checkpoint, text, target, passages, request: request.clone() };
    prepared.refuse_useless_text()?;
    Ok(prepared)
}

impl Prepared {
    /// Warnings, a line each, before anything is written.
    pub fn warnings(&self) -> Vec<String> {
        [self.checkpoint.warnings.as_slice(), &self.text.warnings].concat()
    }

    /// The stored type, if it can be known without reading numbers.
    pub fn known_dtype(&self) -> Option<Dtype> {
        match self.request.dtype {
            DtypeChoice::F32 => Some(Dtype::F32),
            DtypeChoice::Bf16 | DtypeChoice::Bf12 => Some(Dtype::Bf16),
            DtypeChoice::Int8 => Some(Dtype::Int8),
            DtypeChoice::Int4 => Some(Dtype::Int4),
            DtypeChoice::Auto => is_bf16::known_without_reading(&self.checkpoint.sources),
        }
    }

    /// The encodings when most matrices are stored as `matrices` unless a pattern names them.
    fn recipe(&self, matrices: Dtype) -> Recipe<'_> {
        let grade = match (matrices, self.request.encoding) {
            (Dtype::F32, _) => Grade::All(Wanted::F32),
            (Dtype::Bf16, EncodingChoice::Plain) => Grade::All(Wanted::Bf16),
            (Dtype::Bf16, EncodingChoice::Auto) => Grade::All(Wanted::Bf12),
            (Dtype::Int8, _) => Grade::Int8,
            (Dtype::Int4, _) => Grade::Int4,
        };
        let config = &self.checkpoint.settings.config;
        let keeps_blocks = self.request.dtype == DtypeChoice::Auto;
        let Request { tensors, draft, drafts, .. } = &self.request;
        Recipe { grade, keeps_blocks, config, tensors, draft: *draft, drafts }
    }

    /// The plan for a stored type in which bf12 matrices are plain bf16.
    ///
    /// # Errors
    /// The file would be larger than the format admits.
    pub fn plain_plan(&self, matrices: Dtype) -> Result<Plan<'_>, Error> {
        self.plan(self.recipe(matrices).plain(&self.request.weights, &self.checkpoint.sources)?)
    }

    /// The plan of the smallest file that bf12 can give; `None` when no matrix is to be bf12.
    ///
    /// # Errors
    /// The file would be larger than the format admits.
    pub fn least_plan(&self, matrices: Dtype) -> Result<Option<Plan<'_>>, Error> {
        let tensors = self.recipe(matrices).least(&self.request.weights, &self.checkpoint.sources)?;
        tensors.map(|tensors| self.plan(tensors)).transpose()
    }

    /// Refuses a text to calibrate with where no scale is to be found.
    fn refuse_useless_text(&self) -> Result<(), Error> {
        let Some(passages) = &self.passages else { return Ok(()) };
        let plan = self.plain_plan(self.known_dtype().unwrap_or(Dtype::Bf16))?;
        let is_searched = |tensor: &Planned| match tensor.stored {
            Stored::Quantized(quantization) if Importance::has(&tensor.spec, &self.checkpoint.settings.config) => {
                pipeline::kept_blocks(&self.checkpoint.sources[tensor.source], quantization).is_none()
            }
            _ => false,
        };
        if plan.tensors.iter().any(is_searched) {
            return Ok(());
        }
        let problem = Problem::new(&passages.path, "nothing to calibrate: no matrix is rounded to int8 or int4");
        Err(problem.advice("pass --dtype int4 or leave --calibrate out").into())
    }

    /// The plan of the copy that is run to calibrate.
    ///
    /// # Errors
    /// The file would be larger than the format admits.
    pub fn copy_plan(&self) -> Result<Plan<'_>, Error> {
        let config = &self.checkpoint.settings.config;
        let recipe = Recipe {
            grade: Grade::All(Wanted::Bf16),
            keeps_blocks: true,
            config,
            tensors: &[],
            draft: None,
            drafts: &[],
        };
        self.plan(recipe.plain(&self.request.weights, &self.checkpoint.sources)?)
    }

    /// How much the errors in the columns of the matrices count, if there is a text to calibrate with.
    fn importance(
        &self,
        disk: &dyn Disk,
        pool: &ThreadPool,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Option<Importance>, Error> {
        let Some(passages) = &self.passages else { return Ok(None) };
        let plan = self.copy_plan()?;
        self.target.check_free_space(plan.layout.file_bytes)?;
        let copy = self.target.clone().create_scratch(disk)?;
        let allow_nonfinite = self.request.allow_nonfinite;
        calibrate::run::importance(&plan, copy, passages, pool, allow_nonfinite, progress).map(Some)
    }

    /// The plan of the file with these tensors.
    fn plan(&self, tensors: Vec<Planned>) -> Result<Plan<'_>, Error> {
        let provenance = provenance(&self.request, &self.checkpoint, self.passages.as_ref());
        Plan::new(&self.checkpoint, tensors, &self.text, provenance, &self.request.weights)
    }

    /// Reads the weights and writes the file. `progress` gets how many bytes of how many are written.
    ///
    /// # Errors
    /// A file cannot be read, changed meanwhile or holds numbers that are not accepted; the target cannot be written.
    /// The target is then as it was.
    pub fn write(self, disk: &dyn Disk, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Packed, Error> {
        let pool = thread_pool(self.request.threads)?;
        // Before anything is read: a folder that cannot be written to should not cost the reading of all numbers.
        let output = self.target.clone().create(disk)?;
        if let (Some(_), Some(matrices)) = (&self.passages, self.known_dtype()) {
            // Before the run, which takes long.
            self.target.check_free_space(self.plain_plan(matrices)?.layout.file_bytes)?;
        }
        let importance = self.importance(disk, &pool, progress)?;
        let matrices = match self.known_dtype() {
            Some(matrices) => matrices,
            None if is_bf16::all_bf16(&pool, &self.checkpoint.sources)? => Dtype::Bf16,
            None => Dtype::F32,
        };
        let mut plan = match self.least_plan(matrices)? {
            None => self.plain_plan(matrices)?,
            Some(least) => {
                // Where even that finds no room, two passes over all numbers would be in vain.
                self.target.check_free_space(least.layout.file_bytes)?;
                // It holds the sections, as the next one will.
                drop(least);
                self.plan(self.recipe(matrices).tensors(&pool, &self.request.weights, &self.checkpoint.sources)?)?
            }
        };
        self.target.check_free_space(plan.layout.file_bytes)?;
        output.allocate(plan.layout.file_bytes)?;
        plan.importance = importance;
        let outcome = pipeline::data(&plan, &output, &pool, self.request.allow_nonfinite, progress)?;
        finish(&plan, output, &outcome)?;
        Ok(Packed {
            matrices: plan.matrices_dtype(),
            n_matrices: plan.matrices().count(),
            n_bf12: plan.matrices().filter(|(_, encoding, _)| matches!(encoding, Encoding::Bf12 { .. })).count(),
            encodings: encoding_counts(&plan),
            losses: losses(&plan, &outcome),
            bits_per_weight: plan.bits_per_weight(),
            calibrated: self.passages.as_ref().map(|passages| (passages.n_used(), passages.n_tokens)),
            file_bytes: plan.layout.file_bytes,
            source_bytes: self.checkpoint.sources.iter().map(|source| source.tensor.stored_bytes()).sum(),
            outcome,
        })
    }
}

/// The names of the encodings of the model's matrices, with the number of matrices of each.
pub(crate) fn encoding_counts(plan: &Plan<'_>) -> Vec<(&'static str, usize)> {
    counted(plan.matrices().map(|(_, encoding, _)| encoding.name()))
}

/// What the quantized matrices lost. Drafts do not count: the model is the other copy.
fn losses(plan: &Plan<'_>, outcome: &Outcome) -> Vec<RoleLoss> {
    let is_lossy = |tensor: &Planned| tensor.stored.encoding().dtype().is_quantized() && !tensor.spec.is_draft;
    let of_tensors = plan.tensors.iter().zip(&outcome.losses).filter(|(tensor, _)| is_lossy(tensor));
    role_losses::of_roles(of_tensors.map(|(tensor, loss)| (&tensor.spec, *loss)))
}

/// Index and sections, then the header page that makes it a model, with an fsync before each next step; then the name.
fn finish(plan: &Plan<'_>, output: Output<'_>, outcome: &Outcome) -> Result<(), Error> {
    let (head, header) = plan.head(&outcome.written);
    output.write_at(&head, size_of_val(&header) as u64)?;
    output.sync()?;
    output.write_at(header.as_bytes(), 0)?;
    output.sync()?;
    output.publish(read_back::check)
}

/// How the file was made; no time, host or path, so that the same input gives the same bytes.
fn provenance(request: &Request, checkpoint: &Checkpoint, passages: Option<&Passages>) -> String {
    let mut lines = format!("writer=olmo-pack {}\ndtype={}\n", env!("CARGO_PKG_VERSION"), request.dtype.name());
    for (pattern, wanted) in &request.tensors {
        lines += &format!("tensor={pattern}={}\n", wanted.name());
    }
    if let Some(draft) = request.draft {
        lines += &format!("draft={}\n", draft.name());
    }
    if let Some(passages) = passages {
        lines += &format!("calibrated=text {:016x}, {} tokens\n", passages.digest, passages.n_used());
    }
    if checkpoint.container != Container::Npy {
        lines += &format!("weights={}\n", checkpoint.container.name());
    }
    for (key, origin) in &checkpoint.settings.origins.0 {
        lines += &format!("{key}={}\n", origin.name());
    }
    lines
}
