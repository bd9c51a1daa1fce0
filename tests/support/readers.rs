//! The two readers of the format, that of these programs and `scripts/read_olmo.py`, held against each other: both
//! accept a file or both refuse it, and what both accept they read alike.

use crate::chats::MARKED;
use crate::gguf::{self, Meta};
use crate::packed::{Packed, get_u64, put_u64, range, tiny_config};
use crate::{Random, TempDir, repository, write_weights};
use crate::{Stored, crafted};
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::{
    self, ConfigBlock, HEADER_BYTES, Header, SECTION_RECORD_BYTES, SectionRecord, TENSOR_RECORD_BYTES, section,
};
use olmo_infer::internals::os::disk::SystemDisk;
use olmo_pack::commands::inspect::{self, Form};
use olmo_pack::commands::pack::{self, DtypeChoice, EncodingChoice, Request};
use olmo_pack::encode::numbers::Numbers;
use olmo_pack::text::Part;
use olmo_pack::text::chat_section;
use olmo_pack::text::chat_template;
use serde_json::Value;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Numbers at the edges of what fields may have: of 32 bits, and then of 64.
const EDGES: [u64; 12] = [0, 1, 2, 7, 255, 1024, 1 << 20, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, u64::MAX];
/// Reals of this kind.
const REALS: [f64; 14] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e-5,
    1e-12,
    1e-3,
    1e6,
    1e12,
    f64::NAN,
    f64::INFINITY,
    f64::MIN_POSITIVE,
    1.000_000_000_000_000_2,
    0.999_999_999_999_999_9,
];
/// What both `inspect --json` and the script report of a file; of a tensor all but the bits of a number.
const COMPARED: [&str; 13] = [
    "format",
    "file_bytes",
    "data_offset",
    "matrices",
    "n_tokens",
    "tokenizer",
    "chat",
    "sampling",
    "files",
    "config",
    "tensors",
    "sections",
    "provenance",
];

/// Both readers, and the file that they read.
pub struct Readers {
    script: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    folder: TempDir,
}

impl Drop for Readers {
    fn drop(&mut self) {
        // A script that has ended was reported before.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

impl Readers {
    /// Starts the script with this Python.
    ///
    /// # Errors
    /// It does not start.
    pub fn new(python: &Path) -> io::Result<Readers> {
        let mut command = Command::new(python);
        command.arg("-B").arg(repository().join("scripts/read_olmo.py")).arg("--judge");
        let mut script = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (questions, answers) = (script.stdin.take(), script.stdout.take());
        let (questions, answers) = questions.zip(answers).ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Readers { script, questions, answers: BufReader::new(answers), folder: TempDir::in_memory("readers") })
    }

    /// Lets both read a file of these bytes: whether they accept it.
    ///
    /// # Errors
    /// They do not agree, in words.
    pub fn compare(&mut self, bytes: &[u8]) -> Result<bool, String> {
        let path = self.folder.join("m.olmo");
        fs::write(&path, bytes).map_err(|error| format!("not written: {error}"))?;
        let told = self.ask(&path)?;
        let ours = inspect::run(&path, Form::Json);
        match (ours, told.get("refused")) {
            (Err(_), Some(_)) => Ok(false),
            (Err(error), None) => Err(format!("only the script accepts it: {error}")),
            (Ok(_), Some(refused)) => Err(format!("only the script refuses it: {refused}")),
            (Ok(ours), None) => same(&path, &ours, &told).map(|()| true),
        }
    }

    /// The script's answer for a file.
    fn ask(&mut self, path: &Path) -> Result<Value, String> {
        let mut line = String::new();
        writeln!(self.questions, "{}", path.display())
            .and_then(|()| self.questions.flush())
            .and_then(|()| self.answers.read_line(&mut line))
            .map_err(|error| format!("the script has ended: {error}"))?;
        serde_json::from_str(&line).map_err(|error| format!("the script printed {line:?}: {error}"))
    }
}

/// Compares what both have read.
fn same(path: &Path, ours: &str, told: &Value) -> Result<(), String> {
    let mut ours: Value = serde_json::from_str(ours).map_err(|error| format!("inspect did not print JSON: {error}"))?;
    for tensor in ours["tensors"].as_array_mut().into_iter().flatten() {
        tensor.as_object_mut().map(|tensor| tensor.remove("bits_per_weight"));
    }
    for section in ours["sections"].as_array_mut().into_iter().flatten() {
        section.as_object_mut().map(|section| section.remove("name"));
    }
    for key in COMPARED {
        if ours[key] != told[key] {
            return Err(format!("{key}: {} here, {} in the script", ours[key], told[key]));
        }
    }
    let numbers = numbers(path).map_err(|error| format!("not opened again: {error}"))?;
    let numbers = format!("{:016x}", format::digest(&numbers, 0));
    match told["numbers"] == *numbers {
        true => Ok(()),
        false => Err(format!("numbers of digest {numbers} here, {} in the script", told["numbers"])),
    }
}

/// The numbers of all tensors as f32.
fn numbers(path: &Path) -> Result<Vec<u8>, olmo_infer::internals::error::Error> {
    let model = ModelFile::open(path)?;
    let mut bytes = Vec::new();
    for index in 0..model.specs().len() {
        let mut numbers = Numbers::new(&model, index);
        for piece in 0..numbers.n_pieces() {
            let mut bits = Vec::new();
            numbers.piece(piece, &mut bits);
            bytes.extend(bits.iter().flat_map(|bits| bits.to_le_bytes()));
        }
    }
    Ok(bytes)
}

/// How many of the bases have texts or the header of a GGUF file; they are the last ones.
const N_WITH_TEXT: usize = 5;

/// The files that are changed: one of each kind of weights, and those with every section.
pub fn bases() -> Vec<Packed> {
    let mut bases: Vec<Packed> = Packed::all().into();
    bases.push(with_text("byte pairs, a chat format", MARKED));
    bases.push(with_text(
        "dates, one turn",
        "{{ strftime_now('%d %b %Y') }}{{ bos_token }}{{ messages[-1].content | trim }}",
    ));
    bases.push(with_text("a template that cannot be used", "{% if %}"));
    bases.push(with_text("", ""));
    bases.push(of_gguf());
    bases.extend([Packed::olmoe(), Packed::hybrid()]);
    bases
}

/// A model that was packed from a GGUF file.
fn of_gguf() -> Packed {
    let folder = TempDir::new("of-gguf");
    let (from, weights, model) = (folder.join("w"), folder.join("m.gguf"), folder.join("m.olmo"));
    write_weights(&from, &tiny_config(), Stored::F16, 8);
    let mut gguf = gguf::of_folder(&from, &tiny_config());
    gguf.set("general.alignment", Meta::U32(8));
    gguf.set("general.tags", Meta::Texts(vec!["a".into(), "".into()]));
    gguf.set("general.list", Meta::Bools(vec![true, false]));
    gguf.set("general.big", Meta::U64(u64::MAX));
    gguf.alignment = 8;
    fs::write(&weights, gguf.bytes()).expect("written");
    let request = Request { weights, model: model.clone(), threads: 1, ..Request::default() };
    let packed = pack::prepare(&request).and_then(|prepared| prepared.write(&SystemDisk, &|_, _| ()));
    packed.unwrap_or_else(|error| panic!("a GGUF file: {error}"));
    Packed::read("a GGUF file", &model)
}

/// A model with a tokenizer, the chat format of a template, files, and sampling; without a template one whose tokenizer
/// is not known.
fn with_text(name: &'static str, template: &str) -> Packed {
    let folder = TempDir::new("with-text");
    let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
    write_weights(&weights, &ModelConfig { vocab_size: 512, ..tiny_config() }, Stored::F32, 6);
    let json = repository().join("tests/tokenizers/small-gpt2/tokenizer.json");
    let json = fs::read_to_string(json).expect("a tokenizer");
    let json = if template.is_empty() { json.replace("\"ByteLevel\"", "\"Whitespace\"") } else { json };
    fs::write(weights.join("tokenizer.json"), json).expect("written");
    fs::write(weights.join("generation_config.json"), r#"{"do_sample": true, "top_p": 0.9, "top_k": 40}"#)
        .expect("written");
    let request = Request {
        weights,
        model: model.clone(),
        dtype: DtypeChoice::Bf16,
        encoding: EncodingChoice::Plain,
        threads: 1,
        ..Request::default()
    };
    let mut prepared = pack::prepare(&request).unwrap_or_else(|error| panic!("{name}: {error}"));
    if !template.is_empty() {
        let names = vec![("bos_token".into(), "<s>".into())];
        prepared.text.chat = match chat_template::chat(template, &names) {
            Ok(chat) => Part::Known(chat_section::section(&chat), "chat_template.jinja"),
            Err(why) => Part::Unknown(why),
        };
    }
    prepared.write(&SystemDisk, &|_, _| ()).unwrap_or_else(|error| panic!("{name}: {error}"));
    Packed::read(name, &model)
}

/// Words that texts in sections have, and others of their length.
const WORDS: [(&str, &str); 28] = [
    ("False", "True "),
    ("'<f4'", "\"<f4\""),
    ("'<f4'", "'<f2'"),
    ("'<f4'", "'<u2'"),
    ("'<f4'", "'|V2'"),
    ("'<f4'", " <f4 "),
    (", '", " ,'"),
    ("', ", "' ,"),
    ("), }", ") , "),
    ("), }", "),} "),
    ("), }", ")} }"),
    (",), }", " ,),}"),
    (", }", " } "),
    ("': ", "' :"),
    ("(3", "( "),
    ("(7", "(0"),
    ("descr", "shape"),
    ("NUMPY\u{1}", "NUMPY\u{2}"),
    ("%d", "%-"),
    ("%d", "%Q"),
    ("%b ", "%-d"),
    ("%Y", "%%"),
    ("\0%", "%\0"),
    ("=", "\n"),
    ("blk.0", "blk.1"),
    ("attn_k.", "attn_v."),
    ("general.alignment\u{4}", "general.alignment\u{5}"),
    ("GGUF\u{3}", "GGUF\u{2}"),
];

/// A changed file of one of these, most under digests that are right again.
pub fn changed(random: &mut Random, bases: &[Packed]) -> Vec<u8> {
    // Those with texts have more that can be wrong, and are the last ones.
    let first = if random.below(2) == 0 { 0 } else { bases.len().saturating_sub(N_WITH_TEXT) };
    let base = &bases[first + random.below(bases.len() - first)];
    let mut bytes = base.bytes.clone();
    let n_changes = if random.below(4) == 0 { 2 + random.below(3) } else { 1 };
    for _ in 0..n_changes {
        change(random, base, &mut bytes);
    }
    match random.below(24) {
        0 => bytes.truncate(random.below(bytes.len() + 1)),
        1 => bytes.resize(bytes.len() + random.below(300), random.below(2) as u8),
        _ => {}
    }
    if bytes.len() >= HEADER_BYTES {
        if random.below(8) == 0 {
            let length = bytes.len() as u64;
            put_u64(&mut bytes, offset_of!(Header, file_bytes), length);
        }
        if random.below(16) != 0 {
            repair(base, &mut bytes);
        }
    }
    bytes
}

/// One change: of a field of the configuration, of a section, of the rest of header and index, or of anything.
fn change(random: &mut Random, base: &Packed, bytes: &mut [u8]) {
    let index_end = HEADER_BYTES + base.specs.len() * TENSOR_RECORD_BYTES + base.kinds.len() * SECTION_RECORD_BYTES;
    match random.below(10) {
        0..=2 => change_config(random, bytes),
        3..=6 => {
            let index = random.below(base.kinds.len());
            let section = &mut bytes[range(base.layout.sections[index])];
            if !section.is_empty() {
                change_section(random, base.kinds[index], section);
            }
        }
        7 => change_anywhere(random, &mut bytes[HEADER_BYTES..index_end], 4),
        8 => change_anywhere(random, &mut bytes[..512], 2),
        _ => change_anywhere(random, bytes, 1),
    }
}

/// Changes a field of the configuration.
fn change_config(random: &mut Random, bytes: &mut [u8]) {
    let n_integers = crafted::CONFIG_INTEGERS.len();
    let eos = offset_of!(ConfigBlock, eos_token_ids);
    let integer = |random: &mut Random, field: crafted::Field, bytes: &mut [u8]| {
        let value = match random.below(2) {
            0 => field.get(bytes).wrapping_add([1, u64::MAX, 2, 3][random.below(4)]),
            _ => EDGES[random.below(EDGES.len())],
        };
        field.set(bytes, value);
    };
    match random.below(n_integers + crafted::CONFIG_REALS.len() + 6) {
        n if n < n_integers => integer(random, crafted::Field::of_config(crafted::CONFIG_INTEGERS[n].1, 4), bytes),
        n if n < n_integers + 4 => {
            let slot = random.below(3);
            integer(random, crafted::Field::of_config(eos + 4 * slot, 4), bytes);
        }
        n if n < n_integers + 6 => {
            let layers = [offset_of!(ConfigBlock, sliding_layers), offset_of!(ConfigBlock, linear_layers)];
            let at = layers[random.below(2)] + random.below(3);
            integer(random, crafted::Field::of_config(at, 1), bytes);
        }
        n => {
            let field = crafted::Field::of_config(crafted::CONFIG_REALS[n - n_integers - 6].1, 8);
            let value = match random.below(4) {
                0 => field.get(bytes).wrapping_add([1, u64::MAX][random.below(2)]),
                _ => REALS[random.below(REALS.len())].to_bits(),
            };
            field.set(bytes, value);
        }
    }
}

/// Changes a section: a field of its head, a word, a record that becomes another's, or a byte.
fn change_section(random: &mut Random, kind: u32, section: &mut [u8]) {
    let (head, lists, record) = match kind {
        section::SOURCES => (48, 0, 16),
        section::VOCABULARY => (32, 16, 4),
        section::BF12 => (160, 16, 4),
        section::TOKENIZER => (32, 32 + 4 * 256, 12),
        section::CHAT => (24, 24, 2),
        section::FILES => (24, 8, 8),
        section::SAMPLING => (40, 0, 8),
        // All of a small one is its head.
        section::GGUF => (section.len(), 0, 8),
        section::SPELLING => (section.len(), 8, 8),
        _ => (32, 0, 4),
    };
    let head = section.len().min(head);
    let n_records = section.len().saturating_sub(lists) / record;
    match random.below(8) {
        0..=1 => {
            let step = [4, 1][random.below(2)];
            change_anywhere(random, &mut section[..head], step);
        }
        2 if kind == section::CHAT && section.len() > 24 + 84 => {
            // A rule: what is cut, what is stripped then, and what in any case.
            let at = 24 + 2 * random.below(12);
            let [strip, strip_cut, cut] = [8, 8, 4].map(|n| if random.below(2) == 0 { 0 } else { random.below(n) });
            section[at..at + 2].copy_from_slice(&((cut << 8 | strip_cut << 4 | strip) as u16).to_le_bytes());
        }
        2 if section.len() > 48 => {
            // A length less, and another one more by as much.
            let n = section.len().min(160) / 4 - 1;
            let [from, to] = [0, 0].map(|_| 4 * random.below(n));
            let by = [1, 2, section[from].into()][random.below(3)];
            for (at, by) in [(from, by), (to, 0u32.wrapping_sub(by))] {
                let number = u32::from_le_bytes(*section[at..].first_chunk().expect("four bytes"));
                section[at..at + 4].copy_from_slice(&number.wrapping_sub(by).to_le_bytes());
            }
        }
        3 if n_records > 0 => {
            let [from, to] = [0, 0].map(|_| lists + record * random.below(n_records));
            section.copy_within(from..from + record, to);
        }
        4..=5 => {
            let (word, other) = WORDS[random.below(WORDS.len())];
            let places = section.windows(word.len()).enumerate().filter(|(_, some)| *some == word.as_bytes());
            let places: Vec<usize> = places.map(|(at, _)| at).collect();
            match places.is_empty() {
                true => change_anywhere(random, section, 1),
                false => {
                    let at = places[random.below(places.len())];
                    section[at..at + other.len()].copy_from_slice(other.as_bytes());
                }
            }
        }
        _ => change_anywhere(random, section, 1),
    }
}

/// Changes some bytes at a multiple of `step`.
fn change_anywhere(random: &mut Random, bytes: &mut [u8], step: usize) {
    let at = random.below(bytes.len().div_ceil(step)) * step;
    let rest = bytes.len() - at;
    let small = random.below(17) as u64;
    let put = |bytes: &mut [u8], value: u64, width: usize| {
        let width = width.min(rest);
        bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
    };
    match random.below(9) {
        0 => put(bytes, EDGES[random.below(EDGES.len())], 8),
        1 => put(bytes, EDGES[random.below(EDGES.len())], 4),
        2 => put(bytes, REALS[random.below(REALS.len())].to_bits(), 8),
        3 => put(bytes, random.bits(), 1 + random.below(2)),
        7 => put(bytes, small, step),
        4 => bytes[at] = bytes[at].wrapping_add([1, 255, 2, 128][random.below(4)]),
        5 => bytes[at] ^= 1 << random.below(8),
        6 => {
            let from = random.below(bytes.len());
            let n = (1 + random.below(8)).min(bytes.len() - from).min(rest);
            bytes.copy_within(from..from + n, at);
        }
        _ => {
            // Characters that headers, names and texts have.
            const TEXT: &[u8] = b" '\"(),:{}%-\0=\n<fuV|247TFdY\xc3\xa9\xff";
            bytes[at] = TEXT[random.below(TEXT.len())];
        }
    }
}

/// Makes the digests of all sections right that the records of the file name as the base has them, and those of index
/// and header.
fn repair(base: &Packed, bytes: &mut [u8]) {
    let records = HEADER_BYTES + base.specs.len() * TENSOR_RECORD_BYTES;
    for (index, &extent) in base.layout.sections.iter().enumerate() {
        let record = records + index * SECTION_RECORD_BYTES;
        if range(extent).end > bytes.len() || record + SECTION_RECORD_BYTES > bytes.len() {
            continue;
        }
        let kind = get_u64(bytes, record) as u32;
        let digest = format::digest(&bytes[range(extent)], kind.into());
        put_u64(bytes, record + offset_of!(SectionRecord, digest), digest);
    }
    crafted::repair_digests(bytes);
}

/// Compares `n` changed files, of a seed, and reports each outcome: whether both accepted it.
///
/// # Errors
/// The script does not start.
pub fn compare_changed(
    python: &Path,
    seed: u64,
    n: u64,
    bases: &[Packed],
    report: &mut dyn FnMut(Result<bool, String>),
) -> io::Result<()> {
    let mut readers = Readers::new(python)?;
    let mut random = Random(seed);
    for i in 0..n {
        let bytes = changed(&mut random, bases);
        report(readers.compare(&bytes).map_err(|found| {
            let kept = keep(&bytes, seed, i);
            format!(
                "seed {seed}, file {i}: {found}; {}",
                kept.map_or_else(|error| error.to_string(), |path| path.display().to_string())
            )
        }));
    }
    Ok(())
}

/// Keeps a file on which the readers do not agree.
fn keep(bytes: &[u8], seed: u64, i: u64) -> io::Result<PathBuf> {
    let folder = repository().join("target/readers");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{seed}-{i}.olmo"));
    fs::write(&path, bytes)?;
    Ok(path)
}

/// The kinds of sections in the bases, for tests that each kind is covered.
pub fn kinds_of_all(bases: &[Packed]) -> Vec<u32> {
    (section::SOURCES..=section::LAST).filter(|kind| bases.iter().any(|base| base.kinds.contains(kind))).collect()
}
