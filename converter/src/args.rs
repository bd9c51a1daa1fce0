//! The command line of `olmo-pack`.

use argh::{ArgsInfo, CommandInfoWithArgs, EarlyExit, FromArgValue, FromArgs, SubCommands};
use olmo_infer::internals::cli::command_line::{self, WordKind, count, number, whole_number};
use olmo_infer::internals::cli::manual;
use olmo_pack::commands::pack::{DtypeChoice, EncodingChoice, Request};
use olmo_pack::error::escaped;
use olmo_pack::model::config_json::{architecture_named, named_architectures};
use olmo_pack::model::settings::Flags;
use olmo_pack::text::chat_child;
use std::path::PathBuf;
use std::{fs, io};

/// The program's name.
const PROGRAM: &str = "olmo-pack";

/// What to do.
pub enum Command {
    /// Pack a folder: what is done without the name of a command.
    Pack(Box<Pack>),
    /// What the first word names.
    Named(Named),
    /// Print this and succeed.
    Say(String),
}

/// The commands that are named.
#[derive(ArgsInfo, FromArgs)]
#[argh(subcommand)]
pub enum Named {
    /// Show what is in a file.
    Inspect(Inspect),
    /// Check every bit of a file.
    Verify(Verify),
    /// Compare two files.
    Diff(Diff),
    /// Write a file anew.
    Copy(Copy),
    /// Restore the folder.
    Unpack(Unpack),
}

/// Packs a folder of OLMo weights, as they are published or one .npy file for each parameter, into one file, which
/// olmo-infer runs.
#[derive(ArgsInfo, FromArgs)]
#[argh(
    help_triggers("-h", "--help", "help"),
    usage = "<weights> <model> [options]\n       olmo-pack <command> ...",
    example = "olmo-pack weights/ model.olmo",
    example = "olmo-pack weights/ model.olmo --dry-run",
    example = "olmo-pack weights/ model.olmo --dtype bf16 --force",
    example = "olmo-pack weights/ model.olmo --vocab vocab.txt --arch olmo2",
    note = "The file appears when it is complete, and replaces another one only with --force.",
    note = "Exit status: 0 done, 1 failed, 2 wrong usage."
)]
pub struct Pack {
    /// the folder: model.safetensors, or its shards with their index, or a NAME.npy file for every parameter; beside
    /// them config.json, generation_config.json, and for text tokenizer.json or vocab.txt
    #[argh(positional)]
    weights: PathBuf,
    /// the file to write
    #[argh(positional)]
    model: PathBuf,
    /// stored type of the matrices: auto (the default: bf16 if that loses nothing, else f32), f32, bf16, which rounds,
    /// or bf12 (bf16 in 12 bits, as --encoding auto chooses)
    #[argh(option, default = "Dtype(DtypeChoice::Auto)")]
    dtype: Dtype,
    /// how bf16 matrices are stored: auto (the default: bf12, in 12 bits an element, where that pays; loses nothing) or
    /// plain (in 16)
    #[argh(option, default = "Encoding(EncodingChoice::Auto)")]
    encoding: Encoding,
    /// another vocabulary than the folder's: lines of an id, a tab and a token, or a tokenizer.json
    #[argh(option, arg_name = "file")]
    vocab: Option<PathBuf>,
    /// replace an existing file; a symbolic link stays, and what it points to is replaced
    #[argh(switch)]
    force: bool,
    /// leave out tensors and files that are no parameter of the model, instead of refusing
    #[argh(switch)]
    allow_extra: bool,
    /// accept NaN and infinity among the weights
    #[argh(switch)]
    allow_nonfinite: bool,
    /// print the plan and write nothing; reads no weights, so where the numbers decide about type and encoding all
    /// sizes are shown
    #[argh(switch)]
    pub dry_run: bool,
    /// print one JSON object instead of the summary
    #[argh(switch)]
    pub json: bool,
    /// threads; 0, the default, for all cores the process may use, which are the most
    #[argh(option, short = 't', default = "0", from_str_fn(whole_number))]
    threads: usize,
    /// olmo (the first OLMo), olmo2 or olmo3, where config.json does not say it
    #[argh(option)]
    arch: Option<String>,
    /// width of one head, where config.json does not say it
    #[argh(option, from_str_fn(count))]
    head_dim: Option<usize>,
    /// base of the rotary embedding, where config.json does not say it
    #[argh(option, from_str_fn(number))]
    rope_theta: Option<f64>,
    /// olmo2 and olmo3, where config.json does not say it: epsilon of the norms
    #[argh(option, from_str_fn(number))]
    rms_norm_eps: Option<f64>,
    /// olmo, where config.json does not say it: largest magnitude of an element of queries, keys and values, or none
    #[argh(option)]
    clip_qkv: Option<ClipQkv>,
    /// positions the model was made for, where config.json does not say it
    #[argh(option, from_str_fn(count))]
    max_positions: Option<usize>,
    /// ids that end a text, with commas between them, where neither generation_config.json nor config.json says it
    #[argh(option)]
    eos: Option<String>,
    /// olmo3, where config.json does not say it: window of the sliding layers, the current position included
    #[argh(option, from_str_fn(count))]
    sliding_window: Option<usize>,
    /// olmo3, where config.json does not say it: ratio of the context lengths, YaRN's factor
    #[argh(option, from_str_fn(number))]
    yarn_factor: Option<f64>,
    /// with --yarn-factor: context length of pre-training; the model's positions if absent
    #[argh(option, from_str_fn(count))]
    yarn_original_positions: Option<usize>,
    /// with --yarn-factor: beta_fast; 32 if absent
    #[argh(option, from_str_fn(number))]
    yarn_beta_fast: Option<f64>,
    /// with --yarn-factor: beta_slow; 1 if absent
    #[argh(option, from_str_fn(number))]
    yarn_beta_slow: Option<f64>,
    /// with --yarn-factor: factor on cos and sin; 0.1 ln(factor) + 1 if absent
    #[argh(option, from_str_fn(number))]
    yarn_attention_factor: Option<f64>,
    /// olmo3, where config.json does not say it: no scaling of the rotary embedding
    #[argh(switch)]
    no_yarn: bool,
    /// print the version
    #[argh(switch, short = 'V')]
    #[expect(dead_code, reason = "answered before, see parse; defined for the help")]
    version: bool,
    /// print a manual page (man), or completions for a shell (bash, zsh, fish), and do no more
    #[argh(option, arg_name = "what")]
    generate: Option<String>,
}

/// Shows what is in a model file: its configuration, tensors, text and history.
#[derive(ArgsInfo, FromArgs)]
#[argh(
    subcommand,
    name = "inspect",
    help_triggers("-h", "--help", "help"),
    example = "olmo-pack inspect model.olmo",
    example = "olmo-pack inspect model.olmo --tensors | less",
    example = "olmo-pack inspect model.olmo --json | jq .config",
    note = "Reads no tensor data. NO_COLOR turns bold and dim text off.",
    note = "Exit status: 0 done, 1 failed, 2 wrong usage."
)]
pub struct Inspect {
    /// the file
    #[argh(positional)]
    pub model: PathBuf,
    /// list every tensor, with its place in the file and its digest
    #[argh(switch)]
    pub tensors: bool,
    /// print one JSON object with all of it
    #[argh(switch)]
    pub json: bool,
}

/// Checks every byte of a model file.
#[derive(ArgsInfo, FromArgs)]
#[argh(
    subcommand,
    name = "verify",
    help_triggers("-h", "--help", "help"),
    example = "olmo-pack verify model.olmo",
    note = "Each damaged place gets a line. Digests find accidents, not attacks.",
    note = "Exit status: 0 intact, 1 damaged or not readable, 2 wrong usage."
)]
pub struct Verify {
    /// the file
    #[argh(positional)]
    pub model: PathBuf,
    /// compare its numbers with those of this weights folder, too
    #[argh(option, arg_name = "weights")]
    pub against: Option<PathBuf>,
}

/// Compares two model files, whatever types and encodings hold their numbers.
#[derive(ArgsInfo, FromArgs)]
#[argh(
    subcommand,
    name = "diff",
    help_triggers("-h", "--help", "help"),
    example = "olmo-pack diff a.olmo b.olmo",
    example = "olmo-pack diff a.olmo b.olmo --json | jq .tensors",
    note = "Exit status: 0 the same model, 1 different ones or a failure, 2 wrong usage."
)]
pub struct Diff {
    /// one file
    #[argh(positional)]
    pub a: PathBuf,
    /// the other file
    #[argh(positional)]
    pub b: PathBuf,
    /// print one JSON object
    #[argh(switch)]
    pub json: bool,
}

/// Copies a model file in the pieces that start fastest, every digest checked.
#[derive(ArgsInfo, FromArgs)]
#[argh(
    subcommand,
    name = "copy",
    help_triggers("-h", "--help", "help"),
    example = "olmo-pack copy model.olmo /fast/model.olmo",
    example = "olmo-pack copy /nfs/model.olmo model.olmo --force",
    note = "Mends the start of a file that came by cp, rsync or a download.",
    note = "Exit status: 0 done, 1 failed, 2 wrong usage."
)]
pub struct Copy {
    /// the file
    #[argh(positional)]
    pub model: PathBuf,
    /// the file to write
    #[argh(positional)]
    pub copy: PathBuf,
    /// replace an existing file; a symbolic link stays, and what it points to is replaced
    #[argh(switch)]
    pub force: bool,
}

/// Restores the folder that a model file was packed from, byte for byte.
#[derive(ArgsInfo, FromArgs)]
#[argh(
    subcommand,
    name = "unpack",
    help_triggers("-h", "--help", "help"),
    example = "olmo-pack unpack model.olmo weights/",
    note = "Weights from safetensors files become .npy files, too.",
    note = "Weights that --dtype bf16 rounded come back rounded, and are named.",
    note = "Exit status: 0 done, 1 failed, 2 wrong usage."
)]
pub struct Unpack {
    /// the file
    #[argh(positional)]
    pub model: PathBuf,
    /// the folder to write, which must be absent or empty
    #[argh(positional)]
    pub folder: PathBuf,
    /// write into a folder that is not empty, replacing files
    #[argh(switch)]
    pub force: bool,
}

/// `--dtype`.
struct Dtype(DtypeChoice);

impl FromArgValue for Dtype {
    fn from_arg_value(value: &str) -> Result<Dtype, String> {
        [DtypeChoice::Auto, DtypeChoice::F32, DtypeChoice::Bf16, DtypeChoice::Bf12]
            .into_iter()
            .find(|choice| choice.name() == value)
            .map(Dtype)
            .ok_or_else(|| "expected auto, f32, bf16 or bf12".into())
    }
}

/// `--clip-qkv`.
struct ClipQkv(Option<f64>);

impl FromArgValue for ClipQkv {
    fn from_arg_value(value: &str) -> Result<ClipQkv, String> {
        match value {
            "none" => Ok(ClipQkv(None)),
            text => number(text).map(|clip| ClipQkv(Some(clip))).map_err(|_| "expected a number or none".into()),
        }
    }
}

/// `--encoding`.
struct Encoding(EncodingChoice);

impl FromArgValue for Encoding {
    fn from_arg_value(value: &str) -> Result<Encoding, String> {
        [EncodingChoice::Auto, EncodingChoice::Plain]
            .into_iter()
            .find(|choice| choice.name() == value)
            .map(Encoding)
            .ok_or_else(|| "expected auto or plain".into())
    }
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// What is wrong with them, for standard error.
pub fn parse(arguments: Vec<String>) -> Result<Command, String> {
    let mut arguments = arguments.into_iter().peekable();
    let named = Named::get_args_info().commands;
    let command = named.iter().find(|command| arguments.peek().is_some_and(|first| first == command.name));
    let (program, info) = match command {
        Some(command) => (format!("{PROGRAM} {}", command.name), command.command.clone()),
        None => (PROGRAM.to_string(), Pack::get_args_info()),
    };
    let name = command.map(|command| command.name);
    let typed = arguments.by_ref().skip(usize::from(name.is_some()));
    let refused = |program: &str, problem: &str| Err(format!("{}; see {program} --help", escaped(problem)));
    let words = match command_line::expand(&info, typed) {
        Ok(words) => words,
        Err(error) => return refused(&program, &error.to_string()),
    };
    if words.iter().any(|(word, kind)| *kind == WordKind::Free && word == "--version") {
        return Ok(Command::Say(version()));
    }
    let words: Vec<&str> = words.iter().map(|(word, _)| word.as_str()).collect();
    match words.as_slice() {
        ["--generate", kind] => return generate(kind).map(Command::Say),
        ["--generate", ..] => return Err(format!("--generate takes one word, expected {}", manual::KINDS)),
        _ => {}
    }
    let parsed = match name {
        Some(name) => Named::from_args(&[PROGRAM, name], &words).map(Command::Named),
        None => Pack::from_args(&[PROGRAM], &words).map(|pack| Command::Pack(Box::new(pack))),
    };
    match parsed {
        Ok(Command::Pack(pack)) if pack.generate.is_some() => {
            Err("--generate stands alone, as in olmo-pack --generate man; see olmo-pack --help".into())
        }
        Ok(Command::Named(Named::Unpack(unpack))) if unpack.folder.as_os_str().is_empty() => {
            refused(&program, "FOLDER is empty, expected a path")
        }
        Ok(command) => Ok(command),
        Err(EarlyExit { output, status: Ok(()) }) => {
            let commands = if name.is_none() { commands() } else { String::new() };
            Ok(Command::Say(format!("{}{commands}", manual::help(&output))))
        }
        Err(EarlyExit { output, .. }) => {
            let is_flag = |word: &&str| word.starts_with('-');
            match words.first().and_then(|first| no_command(first)) {
                Some(problem) if name.is_none() && !words.iter().any(is_flag) => return Err(problem),
                _ => {}
            }
            refused(&program, &command_line::complaint(&info, &words, &output))
        }
    }
}

fn version() -> String {
    format!("olmo-pack {}\n", env!("CARGO_PKG_VERSION"))
}

/// The manual page or the completions of all commands.
fn generate(kind: &str) -> Result<String, String> {
    let named = Named::get_args_info().commands;
    let info = CommandInfoWithArgs { name: PROGRAM, commands: named, ..Pack::get_args_info() };
    manual::generate(kind, &info).map_err(|problem| escaped(&problem))
}

/// The words that name a command.
fn names() -> impl Iterator<Item = &'static str> {
    Named::COMMANDS.iter().map(|command| command.name)
}

/// The end of the help: a line for each command.
fn commands() -> String {
    let lines = Named::COMMANDS.iter().map(|command| format!("  {:<18}{}\n", command.name, command.description));
    format!("\nCommands (olmo-pack <command> --help says more):\n{}", lines.collect::<String>())
}

/// What to say about a first word that was probably to be a command: it looks like one, and there is no such folder.
fn no_command(word: &str) -> Option<String> {
    let is_bare = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphabetic());
    // What the system says of a folder that is there is for whoever reads it.
    let is_absent = || fs::metadata(word).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    (is_bare && is_absent()).then(|| {
        if names().any(|name| name == word) {
            return format!("{word}: a command is the first word, as in olmo-pack {word}; see olmo-pack {word} --help");
        }
        let names: Vec<&str> = names().collect();
        let meant = command_line::nearest(word, names.iter().copied());
        let meant = meant.map_or(String::new(), |name| format!(" (did you mean {name}?)"));
        format!(
            "{word}: no such command and no such folder{meant}, expected {}, or a folder of weights; see olmo-pack --help",
            names.join(", ")
        )
    })
}

impl Pack {
    /// The request, if the flags make sense together.
    ///
    /// # Errors
    /// Which flag does not, for standard error.
    pub fn request(&self) -> Result<Request, String> {
        for (name, path) in [("WEIGHTS", &self.weights), ("MODEL", &self.model)] {
            if path.as_os_str().is_empty() {
                return Err(format!("{name} is empty, expected a path"));
            }
        }
        let architecture = match &self.arch {
            None => None,
            Some(name) => {
                let architecture = architecture_named(name);
                Some(architecture.ok_or_else(|| format!("--arch is {name}, expected {}", named_architectures()))?)
            }
        };
        let eos_token_ids = match &self.eos {
            None => None,
            Some(list) => {
                let ids: Result<Vec<u32>, _> = list.split(',').map(|id| id.trim().parse()).collect();
                Some(ids.map_err(|_| format!("--eos is {list}, expected ids with commas between them"))?)
            }
        };
        let flags = Flags {
            architecture,
            head_dim: self.head_dim,
            rope_theta: self.rope_theta,
            rms_norm_eps: self.rms_norm_eps,
            clip_qkv: self.clip_qkv.as_ref().map(|clip| clip.0),
            max_positions: self.max_positions,
            eos_token_ids,
            sliding_window: self.sliding_window,
            yarn_factor: self.yarn_factor,
            yarn_original_positions: self.yarn_original_positions,
            yarn_beta_fast: self.yarn_beta_fast,
            yarn_beta_slow: self.yarn_beta_slow,
            yarn_attention_factor: self.yarn_attention_factor,
            no_yarn: self.no_yarn,
        };
        if self.dtype.0 == DtypeChoice::Bf12 && self.encoding.0 == EncodingChoice::Plain {
            return Err("--dtype bf12 and --encoding plain, expected one of them".into());
        }
        if flags.no_yarn && (flags.names_yarn()) {
            return Err("--no-yarn and other --yarn flags, expected one of them".into());
        }
        if flags.names_yarn() && flags.yarn_factor.is_none() {
            return Err("--yarn flags without --yarn-factor, expected the factor too".into());
        }
        if let Some(problem) = self.weights.to_str().and_then(no_command) {
            return Err(problem);
        }
        Ok(Request {
            weights: self.weights.clone(),
            model: self.model.clone(),
            dtype: self.dtype.0,
            encoding: self.encoding.0,
            tensors: Vec::new(),
            drafts: Vec::new(),
            vocab: self.vocab.clone(),
            program: Some(chat_child::THIS_PROGRAM.into()),
            force: self.force,
            allow_extra: self.allow_extra,
            allow_nonfinite: self.allow_nonfinite,
            flags,
            threads: self.threads,
        })
    }
}
