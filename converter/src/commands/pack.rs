//! The converter's main path: look at the folder, choose the stored type and the encodings, plan, fill, write, give it
//! its name.

use crate::commands::mistaken;
use crate::encode::bf12_choice;
use crate::encode::is_bf16;
use crate::encode::pool::thread_pool;
use crate::error::Error;
use crate::folder::listing::{self, Listing};
use crate::model::checkpoint::Checkpoint;
use crate::model::settings::Flags;
use crate::text::Text;
use crate::write::model_output::{Output, Target};
use crate::write::pipeline::{self, Outcome};
use crate::write::plan::Plan;
use olmo_infer::internals::format::Dtype;
use olmo_infer::internals::format::encodings::bf12::CodedTable;
use olmo_infer::internals::os::disk::Disk;
use std::path::PathBuf;
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
}

impl DtypeChoice {
    /// As it is written in `--dtype`.
    pub fn name(self) -> &'static str {
        match self {
            DtypeChoice::Auto => "auto",
            DtypeChoice::F32 => "f32",
            DtypeChoice::Bf16 => "bf16",
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
    /// The weights folder.
    pub weights: PathBuf,
    /// The file to write.
    pub model: PathBuf,
    /// Stored type of the matrices.
    pub dtype: DtypeChoice,
    /// Encoding of bf16 matrices.
    pub encoding: EncodingChoice,
    /// A vocabulary other than the folder's: a `vocab.txt` or a `tokenizer.json`.
    pub vocab: Option<PathBuf>,
    /// The program `olmo-pack`, which runs a chat template in a process of its own: without one, none can be used.
    pub program: Option<PathBuf>,
    /// Replace an existing file.
    pub force: bool,
    /// Leave out what is no tensor of the model.
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
    request: Request,
}

/// What a finished pack has to tell.
#[derive(Clone, Debug)]
pub struct Packed {
    /// Stored type of the matrices.
    pub matrices: Dtype,
    /// How many matrices there are.
    pub n_matrices: usize,
    /// How many of them are coded.
    pub n_coded: usize,
    /// Bits that a number of the matrices takes in the file; those of the padding inside panels count as numbers.
    pub bits_per_weight: f64,
    /// Length of the file.
    pub file_bytes: u64,
    /// Bytes of numbers read.
    pub source_bytes: u64,
    /// What was seen in the numbers.
    pub outcome: Outcome,
}

/// Checks the folder, what it says about text, and the target.
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
    for name in ["config.json", "generation_config.json", listing::INDEX] {
        target.refuse_replacing(&request.weights.join(name))?;
    }
    let (vocab, program) = (request.vocab.as_deref(), request.program.as_deref());
    let text = Text::read(&listing.folder, vocab, program, &checkpoint.settings, &target)?;
    Ok(Prepared { checkpoint, text, target, request: request.clone() })
}

impl Prepared {
    /// What the user should know before anything is written, a line each.
    pub fn warnings(&self) -> Vec<String> {
        [self.checkpoint.warnings.as_slice(), &self.text.warnings].concat()
    }

    /// The stored type, if it can be known without reading numbers.
    pub fn known_dtype(&self) -> Option<Dtype> {
        match self.request.dtype {
            DtypeChoice::F32 => Some(Dtype::F32),
            DtypeChoice::Bf16 => Some(Dtype::Bf16),
            DtypeChoice::Auto => is_bf16::known_without_reading(&self.checkpoint.sources),
        }
    }

    /// Whether matrices stored as `matrices` may be coded.
    fn may_be_coded(&self, matrices: Dtype) -> bool {
        matrices == Dtype::Bf16 && self.request.encoding == EncodingChoice::Auto
    }

    /// The plan for a stored type without coded matrices.
    ///
    /// # Errors
    /// The file would be larger than the format admits.
    pub fn plain_plan(&self, matrices: Dtype) -> Result<Plan<'_>, Error> {
        self.plan(matrices, vec![None; self.checkpoint.sources.len()])
    }

    /// The plan of the smallest file that coding can give; `None` when it is not asked for.
    ///
    /// # Errors
    /// The file would be larger than the format admits.
    pub fn least_plan(&self, matrices: Dtype) -> Result<Option<Plan<'_>>, Error> {
        let plan = || self.plan(matrices, bf12_choice::least_tables(&self.checkpoint.sources));
        self.may_be_coded(matrices).then(plan).transpose()
    }

    /// The plan for a stored type and the tables of coded matrices.
    fn plan(&self, matrices: Dtype, tables: Vec<Option<CodedTable>>) -> Result<Plan<'_>, Error> {
        let provenance = provenance(&self.request, &self.checkpoint);
        Plan::new(&self.checkpoint, matrices, tables, &self.text, provenance, &self.request.weights)
    }

    /// Reads the numbers and writes the file. `progress` is told how many bytes of how many are written.
    ///
    /// # Errors
    /// A file cannot be read, changed meanwhile or holds numbers that are not accepted; the target cannot be written.
    /// The target is then as it was.
    pub fn write(self, disk: &dyn Disk, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Packed, Error> {
        let pool = thread_pool(self.request.threads)?;
        // Before anything is read: a folder that cannot be written to should not cost the reading of all numbers.
        let output = self.target.clone().create(disk)?;
        let matrices = match self.known_dtype() {
            Some(matrices) => matrices,
            None if is_bf16::all_bf16(&pool, &self.checkpoint.sources)? => Dtype::Bf16,
            None => Dtype::F32,
        };
        let plan = match self.least_plan(matrices)? {
            None => self.plain_plan(matrices)?,
            Some(least) => {
                // Where even that finds no room, two passes over all numbers would be in vain.
                self.target.check_free_space(least.layout.file_bytes)?;
                // It holds the sections, as the next one will.
                drop(least);
                self.plan(matrices, bf12_choice::tables(&pool, &self.checkpoint.sources)?)?
            }
        };
        self.target.check_free_space(plan.layout.file_bytes)?;
        output.allocate(plan.layout.file_bytes)?;
        let outcome = pipeline::data(&plan, &output, &pool, self.request.allow_nonfinite, progress)?;
        finish(&plan, output, &outcome)?;
        Ok(Packed {
            matrices,
            n_matrices: plan.sources.iter().filter(|source| source.spec.columns.is_some()).count(),
            n_coded: plan.tables.iter().flatten().count(),
            bits_per_weight: plan.bits_per_weight(),
            file_bytes: plan.layout.file_bytes,
            source_bytes: self.checkpoint.sources.iter().map(|source| source.tensor.bytes).sum(),
            outcome,
        })
    }
}

/// Index and sections, then the header page that makes it a model, each brought to the disk before the next; then the
/// name.
fn finish(plan: &Plan<'_>, output: Output<'_>, outcome: &Outcome) -> Result<(), Error> {
    let (head, header) = plan.head(&outcome.written);
    output.write_at(&head, size_of_val(&header) as u64)?;
    output.sync()?;
    output.write_at(header.as_bytes(), 0)?;
    output.sync()?;
    output.publish()
}

/// How the file was made; no time, host or path, so that the same input gives the same bytes.
fn provenance(request: &Request, checkpoint: &Checkpoint) -> String {
    let mut lines = format!("writer=olmo-pack {}\ndtype={}\n", env!("CARGO_PKG_VERSION"), request.dtype.name());
    if !checkpoint.is_npy {
        lines += "weights=safetensors\n";
    }
    for (key, origin) in &checkpoint.settings.origins.0 {
        lines += &format!("{key}={}\n", origin.name());
    }
    lines
}
