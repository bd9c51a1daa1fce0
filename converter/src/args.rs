//! The command line of `olmo-pack`.

use argh::{ArgsInfo, CommandInfoWithArgs, FromArgs, SubCommands};
use olmo_infer::internals::cli::command_line::{self, count, named, number, whole_number};
use olmo_infer::internals::cli::exit::CliExit;
use olmo_infer::internals::cli::program::Program;
use olmo_infer::internals::cli::words::Words;
use olmo_pack::commands::pack::{DtypeChoice, EncodingChoice, Request};
use olmo_pack::model::config_json::{architecture_named, named_architectures};
use olmo_pack::model::settings::Flags;
use olmo_pack::text::chat_child;
use olmo_pack::write::wanted::Wanted;
use std::ffi::OsString;
use std::fmt::Display;
use std::path::PathBuf;
use std::{fs, io};

/// This program.
pub const PROGRAM: Program = Program::new("olmo-pack");

/// What to do.
pub enum Command {
    /// Pack a folder: what is done without the name of a command.
    Pack(Box<Pack>),
    /// What the first word names.
    Named(Named),
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
    /// Write a file again.
    Copy(Copy),
    /// Restore the folder.
    Unpack(Unpack),
}

/// Packs a folder of OLMo weights, as they are published or one .npy file for each parameter, or a GGUF file, into one
/// file, which olmo-infer runs.
#[derive(ArgsInfo, FromArgs)]
#[argh(
    help_triggers("-h", "--help", "help"),
    usage = "<weights> <model> [options]\n       olmo-pack <command> ...",
    example = "olmo-pack weights/ model.olmo",
    example = "olmo-pack model.gguf model.olmo",
    example = "olmo-pack weights/ model.olmo --dry-run",
    example = "olmo-pack weights/ model.olmo --dtype bf16 --force",
    example = "olmo-pack weights/ model.olmo --draft int4",
    example = "olmo-pack weights/ model.olmo --vocab vocab.txt --arch olmo2",
    note = "The file appears when it is complete, and replaces another one only with --force.",
    note = "Exit status: 0 done, 1 failed, 2 wrong usage."
)]
pub struct Pack {
    /// the folder: model.safetensors, or its shards with their index, or a NAME.npy file for every parameter; next
    /// to them config.json, generation_config.json, and for text tokenizer.json or vocab.txt. Or a GGUF file: F32,
    /// F16, BF16, Q8_0, Q4_0 or IQ4_NL
    #[argh(positional)]
    weights: PathBuf,
    /// the file to write
    #[argh(positional)]
    model: PathBuf,
    /// stored type of the matrices: auto (the default: bf16 if that loses nothing, else f32), f32, bf16, which rounds,
    /// bf12 (bf16 in 12 bits, as --encoding auto chooses), int8 (8.25 bits), or int4 (4.25 bits, the head int8); both
    /// round, and the summary prints how far
    #[argh(option, default = "DtypeChoice::Auto", from_str_fn(dtype))]
    dtype: DtypeChoice,
    /// encoding of the matrices of a name, in place of that of --dtype, such as lm_head=int8 or layers.0.*=bf16; *
    /// matches any characters; can be given several times, and the last one that names a matrix wins
    #[argh(option, arg_name = "pattern=encoding", from_str_fn(tensor))]
    tensor: Vec<(String, Wanted)>,
    /// how bf16 matrices are stored: auto (the default: bf12, in 12 bits an element, where that pays; loses nothing) or
    /// plain (in 16)
    #[argh(option, default = "EncodingChoice::Auto", from_str_fn(encoding))]
    encoding: EncodingChoice,
    /// add a draft: a copy of the layers and the head in this encoding, int4 (4.25 bits) or int8, by which olmo-infer
    /// guesses the next tokens; the results stay those of the model, and come faster
    #[argh(option, from_str_fn(draft))]
    draft: Option<Wanted>,
    /// a text, such as a chapter of a book: the model is run over 2048 of its tokens, and the scales of int8 and int4
    /// suit the numbers that occur there; needs as much space as the model in bf16 while it packs
    #[argh(option, arg_name = "text")]
    calibrate: Option<PathBuf>,
    /// another vocabulary than the folder's: lines of an id, a tab and a token, or a tokenizer.json
    #[argh(option, arg_name = "file")]
    vocab: Option<PathBuf>,
    /// replace an existing file; a symbolic link stays, and what it points to is replaced
    #[argh(switch)]
    force: bool,
    /// leave out tensors and files that are not parameters of the model, instead of refusing
    #[argh(switch)]
    allow_extra: bool,
    /// accept NaN and infinity among the weights
    #[argh(switch)]
    allow_nonfinite: bool,
    /// print the plan and write nothing; shows every possible size if type or encoding depends on the weights
    #[argh(switch)]
    pub dry_run: bool,
    /// print one JSON object instead of the summary
    #[argh(switch)]
    pub json: bool,
    /// number of threads (default and 0: all cores that this process may use, which are the most)
    #[argh(option, short = 't', default = "0", from_str_fn(whole_number))]
    threads: usize,
    /// olmo (the first OLMo), olmo2 or olmo3, if config.json does not have it
    #[argh(option)]
    arch: Option<String>,
    /// width of one head, if config.json does not have it
    #[argh(option, from_str_fn(count))]
    head_dim: Option<usize>,
    /// base of the rotary embedding, if config.json does not have it
    #[argh(option, from_str_fn(number))]
    rope_theta: Option<f64>,
    /// olmo2 and olmo3, if config.json does not have it: epsilon of the norms
    #[argh(option, from_str_fn(number))]
    rms_norm_eps: Option<f64>,
    /// olmo, if config.json does not have it: largest magnitude of an element of queries, keys and values, or none
    #[argh(option, from_str_fn(clip_qkv))]
    clip_qkv: Option<Option<f64>>,
    /// positions the model was made for, if config.json does not have it
    #[argh(option, from_str_fn(count))]
    max_positions: Option<usize>,
    /// EOS ids with commas between them, if neither generation_config.json nor config.json has them
    #[argh(option)]
    eos: Option<String>,
    /// olmo3, if config.json does not have it: window of the sliding layers, the current position included
    #[argh(option, from_str_fn(count))]
    sliding_window: Option<usize>,
    /// olmo3, if config.json does not have it: ratio of the context lengths, YaRN's factor
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
    /// olmo3, if config.json does not have it: no scaling of the rotary embedding
    #[argh(switch)]
    no_yarn: bool,
    /// print the version
    #[argh(switch, short = 'V')]
    #[expect(dead_code, reason = "Words::new answers it; defined for the help")]
    version: bool,
    /// print the manual page
    #[argh(switch)]
    #[expect(dead_code, reason = "Words::new answers it; defined for the help")]
    man: bool,
    /// print completions for a shell: bash, zsh or fish
    #[argh(option, arg_name = "shell")]
    #[expect(dead_code, reason = "Words::new answers it; defined for the help")]
    completions: Option<String>,
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
    /// also compare its weights with those of this folder or GGUF file
    #[argh(option, arg_name = "weights")]
    pub against: Option<PathBuf>,
}

/// Compares the weights of two model files, also of different encodings.
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
    note = "Makes a file that came by cp, rsync or a download start as fast as a packed one.",
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

/// Restores the folder or GGUF file that a model was packed from, byte for byte.
#[derive(ArgsInfo, FromArgs)]
#[argh(
    subcommand,
    name = "unpack",
    help_triggers("-h", "--help", "help"),
    example = "olmo-pack unpack model.olmo weights/",
    note = "A GGUF file is written as model.gguf; a model whose GGUF file lost something is refused.",
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
fn dtype(text: &str) -> Result<DtypeChoice, String> {
    let choice = DtypeChoice::ALL.into_iter().find(|choice| choice.name() == text);
    named(choice, "auto, f32, bf16, bf12, int8 or int4")
}

/// `--tensor`.
fn tensor(text: &str) -> Result<(String, Wanted), String> {
    let (pattern, name) = text.rsplit_once('=').ok_or("expected PATTERN=ENCODING, such as lm_head=int8")?;
    let wanted = Wanted::named(name).ok_or_else(|| format!("{name}: unknown encoding, expected {}", Wanted::NAMES))?;
    Ok((pattern.to_string(), wanted))
}

/// `--draft`.
fn draft(text: &str) -> Result<Wanted, String> {
    let wanted = Wanted::named(text).filter(|wanted| matches!(wanted, Wanted::Quantized(_)));
    named(wanted, "int4, int4-16, int4-f16, int8, int8-16 or int8-f16")
}

/// `--encoding`.
fn encoding(text: &str) -> Result<EncodingChoice, String> {
    let mut choices = [EncodingChoice::Auto, EncodingChoice::Plain].into_iter();
    named(choices.find(|choice| choice.name() == text), "auto or plain")
}

/// `--clip-qkv`.
fn clip_qkv(text: &str) -> Result<Option<f64>, String> {
    match text {
        "none" => Ok(None),
        text => number(text).map(Some).map_err(|_| "expected a number or none".into()),
    }
}

fn usage(problem: impl Display) -> CliExit {
    CliExit::usage(PROGRAM, problem)
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// Wrong usage, or what needs no files, such as `--help`.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Command, CliExit> {
    let commands = Named::get_args_info().commands;
    let info = CommandInfoWithArgs { name: PROGRAM.name(), commands, ..Pack::get_args_info() };
    let words = Words::new(PROGRAM, &info, args)?;
    let Some(command) = words.command() else {
        let pack: Pack = words.parse().map_err(|exit| {
            let first = words.without_options().and_then(|words| words.first().copied());
            first.filter(|_| exit.is_usage()).and_then(no_command).unwrap_or(exit)
        })?;
        return Ok(Command::Pack(Box::new(pack)));
    };
    match words.parse()? {
        Named::Unpack(unpack) if unpack.folder.as_os_str().is_empty() => {
            Err(CliExit::usage(PROGRAM.command(command), "FOLDER is empty, expected a path"))
        }
        named => Ok(Command::Named(named)),
    }
}

/// The words that name a command.
fn names() -> impl Iterator<Item = &'static str> {
    Named::COMMANDS.iter().map(|command| command.name)
}

/// The error about a word that is probably meant as a command: it looks like one, and there is no such folder.
fn no_command(word: &str) -> Option<CliExit> {
    let is_bare = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphabetic());
    // Errors about a folder that exists are reported when it is read.
    let is_absent = || fs::metadata(word).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    if !is_bare || !is_absent() {
        return None;
    }
    if let Some(name) = names().find(|name| *name == word) {
        let command = PROGRAM.command(name);
        return Some(CliExit::usage(command, format_args!("{word}: a command is the first word, as in {command}")));
    }
    let names: Vec<&str> = names().collect();
    let meant = command_line::nearest(word, names.iter().copied());
    let meant = meant.map_or(String::new(), |name| format!(" (did you mean {name}?)"));
    let expected = names.join(", ");
    Some(usage(format_args!(
        "{word}: no such command and no such folder{meant}, expected {expected}, or a folder of weights"
    )))
}

impl Pack {
    /// The request, if the options fit together.
    ///
    /// # Errors
    /// Which option does not.
    pub fn request(&self) -> Result<Request, CliExit> {
        for (name, path) in [("WEIGHTS", &self.weights), ("MODEL", &self.model)] {
            if path.as_os_str().is_empty() {
                return Err(usage(format_args!("{name} is empty, expected a path")));
            }
        }
        let architecture = match &self.arch {
            None => None,
            Some(name) => {
                let architecture = architecture_named(name);
                Some(
                    architecture
                        .ok_or_else(|| usage(format_args!("--arch is {name}, expected {}", named_architectures())))?,
                )
            }
        };
        let eos_token_ids = match &self.eos {
            None => None,
            Some(list) => {
                let ids: Result<Vec<u32>, _> = list.split(',').map(|id| id.trim().parse()).collect();
                Some(ids.map_err(|_| usage(format_args!("--eos is {list}, expected ids with commas between them")))?)
            }
        };
        let flags = Flags {
            architecture,
            head_dim: self.head_dim,
            rope_theta: self.rope_theta,
            rms_norm_eps: self.rms_norm_eps,
            clip_qkv: self.clip_qkv,
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
        if self.dtype == DtypeChoice::Bf12 && self.encoding == EncodingChoice::Plain {
            return Err(usage("--dtype bf12 and --encoding plain, expected one of them"));
        }
        if flags.no_yarn && flags.names_yarn() {
            return Err(usage("--no-yarn and other --yarn options, expected one of them"));
        }
        if flags.names_yarn() && flags.yarn_factor.is_none() {
            return Err(usage("--yarn options without --yarn-factor, expected the factor too"));
        }
        if let Some(problem) = self.weights.to_str().and_then(no_command) {
            return Err(problem);
        }
        Ok(Request {
            weights: self.weights.clone(),
            model: self.model.clone(),
            dtype: self.dtype,
            encoding: self.encoding,
            tensors: self.tensor.clone(),
            draft: self.draft,
            drafts: Vec::new(),
            calibrate: self.calibrate.clone(),
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
