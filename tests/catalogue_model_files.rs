//! The catalogue of bad inputs, rows O: model files. Every program that opens one gets each of them, and refuses it in
//! one line that names the file and the place, at once and with little memory. Digests are made right again after most
//! changes: what is refused here somebody may have crafted.

use olmo_infer::config::{AttentionKind, MAX_WIDTH, ModelConfig};
use olmo_infer::format::{
    ConfigBlock, Dtype, Encoding, FEATURE_CODED, HEADER_BYTES, Header, MAGIC, SECTION_REQUIRED, SectionRecord,
    TensorRecord, digest, section,
};
use olmo_infer::layout::{self, Extent};
use olmo_infer::model_file::ModelFile;
use olmo_tests::catalogue::{Refusal, Report, Run, make_fifo, measured};
use olmo_tests::crafted::{CONFIG_REALS, Field, config_field, repair_digests, repair_header_digest};
use olmo_tests::{Stored, TempDir, coded_config, run, skipped, small_olmo3, write_coded_weights, write_weights};
use std::fs::{self, File};
use std::mem::offset_of;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use zerocopy::IntoBytes;

const PACK: &str = env!("CARGO_BIN_EXE_tested-olmo-pack");
const INFER: &str = env!("CARGO_BIN_EXE_tested-olmo-infer");
const BENCH: &str = env!("CARGO_BIN_EXE_tested-olmo-bench");

/// The programs that open a model, with the commands of `olmo-pack`.
const OPENERS: [&str; 6] = ["olmo-infer", "olmo-bench", "verify", "inspect", "unpack", "copy"];
/// The openers that look at the tensors too.
const CHECKERS: [&str; 2] = ["verify", "copy"];
/// More than any file here really has.
const HUGE: u64 = 1 << 40;

/// A packed model in a folder of its own, to be changed and opened.
struct Model {
    folder: TempDir,
    good: Vec<u8>,
    file: ModelFile,
}

impl Model {
    fn new(name: &str, flags: &[&str], weights: impl Fn(&Path)) -> Model {
        let folder = TempDir::new(name);
        let (from, model) = (folder.join("w"), folder.join("good.olmo"));
        weights(&from);
        fs::write(from.join("vocab.txt"), "0\ta\n1\tbc\n4\td\n").expect("written");
        let paths = [from.as_os_str(), model.as_os_str()];
        run(PACK, paths.into_iter().chain(flags.iter().map(|flag| flag.as_ref()))).ok();
        fs::remove_dir_all(&from).expect("removed");
        fs::write(folder.join("t.bin"), [1, 0, 0, 0, 4, 0, 0, 0]).expect("written");
        Model { good: fs::read(&model).expect("read"), file: ModelFile::open(&model).expect("good"), folder }
    }

    /// One layer in f32.
    fn plain() -> Model {
        Model::new("plain", &["--dtype", "f32"], |from| write_weights(from, &coded_config(), Stored::F32, 3))
    }

    /// One layer in coded bf16, some matrices with raw steps.
    fn coded() -> Model {
        Model::new("coded", &["--dtype", "bf16"], write_coded_weights)
    }

    /// An Olmo-3 with YaRN and a window, as small as the others.
    fn yarn() -> Model {
        let layer_types = vec![AttentionKind::Sliding, AttentionKind::Full];
        let config = ModelConfig { yarn: small_olmo3().yarn, sliding_window: 5, layer_types, ..small_olmo3() };
        Model::new("yarn", &["--dtype", "f32"], move |from| write_weights(from, &config, Stored::F32, 3))
    }

    fn n_tensors(&self) -> usize {
        self.file.specs().len()
    }

    /// Where the tensor with this in its name stands in the index.
    fn tensor(&self, part: &str) -> usize {
        self.file.specs().iter().position(|spec| spec.name().contains(part)).expect("a tensor")
    }

    /// Where this kind of section stands in the index.
    fn section(&self, kind: u32) -> usize {
        self.file.sections().iter().position(|record| record.kind.get() == kind).expect("a section")
    }

    fn section_field(&self, kind: u32, at: usize, bytes: usize) -> Field {
        Field::of_section(self.n_tensors(), self.section(kind), at, bytes)
    }

    /// The file with fields set, under right digests of index and header.
    fn with(&self, changes: &[(Field, u64)]) -> Vec<u8> {
        let mut bytes = self.good.clone();
        changes.iter().for_each(|(field, value)| field.set(&mut bytes, *value));
        repair_digests(&mut bytes);
        bytes
    }

    /// [`Model::with`], and the digest of a section right too.
    fn with_section(&self, kind: u32, change: impl Fn(&mut [u8])) -> Vec<u8> {
        let mut bytes = self.good.clone();
        let extent = self.file.layout().sections[self.section(kind)];
        let range = extent.offset as usize..extent.end() as usize;
        change(&mut bytes[range.clone()]);
        let right = digest(&bytes[range], kind.into());
        self.section_field(kind, offset_of!(SectionRecord, digest), 8).set(&mut bytes, right);
        repair_digests(&mut bytes);
        bytes
    }

    /// The command by which one of [`OPENERS`] opens a file.
    fn opener(&self, opener: &str, path: &Path) -> Command {
        let mut opens = measured(match opener {
            "olmo-infer" => INFER,
            "olmo-bench" => BENCH,
            _ => PACK,
        });
        match opener {
            "olmo-infer" => opens.arg(path).arg(self.folder.join("t.bin")),
            "olmo-bench" => opens.arg(path).args(["--quick", "--contexts", "none", "--prefill", "none"]),
            "unpack" => opens.args([opener.as_ref(), path, &self.folder.join("unpacked")]),
            "copy" => opens.args([opener.as_ref(), path, &self.folder.join("copy.olmo")]),
            _ => opens.arg(opener).arg(path),
        };
        opens
    }

    /// Every opener must refuse `path` in one line that begins with it and has all of `words`.
    fn refuse_path(&self, report: &mut Report, variant: &str, path: &Path, words: &[&str]) {
        self.refuse_by(report, variant, path, &OPENERS, words);
    }

    fn refuse_by(&self, report: &mut Report, variant: &str, path: &Path, openers: &[&'static str], words: &[&str]) {
        for &opener in openers {
            let program = if opener.starts_with("olmo-") { opener } else { "olmo-pack" };
            let begins = format!("{}: ", path.display());
            let refusal = Refusal::one_line(program, begins, words);
            let outcome = refusal.check(self.folder.path(), || self.opener(opener, path));
            report.add(format_args!("{variant}, {opener}"), outcome);
        }
    }

    /// [`Model::refuse_path`] for a file with this content.
    fn refuse(&self, report: &mut Report, variant: impl AsRef<str>, bytes: &[u8], words: &[&str]) {
        let path = self.write("bad.olmo", bytes);
        self.refuse_path(report, variant.as_ref(), &path, words);
    }

    /// Sets one field to each of the values, and wants each refused with its words.
    fn refuse_values(&self, report: &mut Report, name: &str, field: Field, values: &[u64], words: &[&str]) {
        for &value in values {
            self.refuse(report, format!("{name} = {value:#x}"), &self.with(&[(field, value)]), words);
        }
    }

    /// Everybody may open the file, and those who look at the tensors find the damage.
    fn refuse_when_looked_at(&self, report: &mut Report, variant: &str, bytes: &[u8], words: &[&str]) {
        let path = self.write("bad.olmo", bytes);
        self.refuse_by(report, variant, &path, &CHECKERS, words);
        for opener in ["olmo-infer", "inspect"] {
            let outcome = Run::new(&mut self.opener(opener, &path)).and_then(|run| is_no_crash(&run));
            report.add(format_args!("{variant}, {opener}"), outcome);
        }
    }

    /// Everybody who looks at the tensors finds damage in `place`, one line for each that is damaged.
    fn damage_is_told(&self, report: &mut Report, variant: &str, path: &Path, place: &str) {
        for opener in CHECKERS {
            let run = Run::new(&mut self.opener(opener, path)).expect("ends");
            let begins = format!("olmo-pack: error: {}: ", path.display());
            let mut lines = run.stderr.lines();
            let is_told = run.status.code() == Some(1)
                && run.stdout.is_empty()
                && run.stderr.contains(&format!("{begins}{place}"))
                && run.stderr.contains("its digest is wrong")
                && lines.all(|line| {
                    line.starts_with(&begins) && line.contains("the file is damaged")
                        || line.starts_with("olmo-pack: error: and ")
                });
            report.holds(format_args!("{variant}, {opener}"), is_told, format_args!("{}: {}", run.status, run.stderr));
        }
        assert!(!self.folder.join("copy.olmo").exists(), "{variant}");
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, bytes).expect("written");
        path
    }
}

/// Status 0, or 1 in one line: other numbers may come out, a signal or a panic may not.
fn is_no_crash(run: &Run) -> Result<(), String> {
    let is_told = run.status.code() == Some(1) && run.stderr.lines().count() == 1;
    let is_silent = run.status.code() == Some(0) && run.stderr.is_empty();
    if is_told || is_silent { Ok(()) } else { Err(format!("{}: {}", run.status, run.stderr)) }
}

/// The name of a kind of section in messages.
fn name_of(kind: u32) -> &'static str {
    if kind == section::SOURCES { "SOURCES" } else { "PROVENANCE" }
}

fn header(at: usize, bytes: usize) -> Field {
    Field::of_header(at, bytes)
}

#[test]
fn o1_length() {
    let model = Model::plain();
    let mut report = Report::new("O1");
    model.refuse(&mut report, "empty", b"", &["an empty file"]);
    let length = model.good.len();
    for cut in [1, 4, 7, 8, 12, 24, 100, 2048, HEADER_BYTES - 1] {
        let has = format!("truncated: has {cut} bytes, expected 4096 at least");
        model.refuse(&mut report, format!("{cut} bytes"), &model.good[..cut], &[&has]);
    }
    for cut in [HEADER_BYTES, HEADER_BYTES + 1, 5000, length / 2, length - 4096, length - 1] {
        let has = format!("truncated: has {cut} bytes, expected {length} as its header says");
        model.refuse(&mut report, format!("{cut} bytes"), &model.good[..cut], &[&has]);
    }
    for more in [1, 64, 4095, 4096, 1 << 20] {
        let long = [&model.good[..], &vec![0; more]].concat();
        let has = format!("too long: has {} bytes, expected {length} as its header says", long.len());
        model.refuse(&mut report, format!("{more} more"), &long, &[&has]);
    }
    let sparse = model.write("sparse.olmo", &model.good);
    File::options().write(true).open(&sparse).expect("open").set_len(HUGE).expect("a sparse file");
    model.refuse_path(&mut report, "sparse tail", &sparse, &["too long: has 1099511627776 bytes"]);
}

#[test]
fn o2_kinds_of_files() {
    let model = Model::plain();
    let mut report = Report::new("O2");
    let path = |name: &str| model.folder.join(name);
    fs::create_dir(path("folder")).expect("a folder");
    make_fifo(&path("fifo"));
    let _socket = UnixListener::bind(path("socket")).expect("a socket");
    symlink("nowhere", path("dangling")).expect("a link");
    symlink("loop", path("loop")).expect("a link");
    symlink("folder", path("link-to-folder")).expect("a link");
    for (name, words) in [
        ("folder", &["is a folder, expected a regular file", "olmo-pack weights/ model.olmo"][..]),
        ("link-to-folder", &["is a folder, expected a regular file"]),
        ("fifo", &["is a pipe, expected a regular file", "copy it into a file"]),
        ("socket", &["is a socket, expected a regular file"]),
        ("dangling", &["cannot open: No such file"]),
        ("absent", &["cannot open: No such file"]),
        ("loop", &["cannot open: Too many levels of symbolic links"]),
        ("good.olmo/below", &["cannot open: Not a directory"]),
    ] {
        model.refuse_path(&mut report, name, &path(name), words);
    }
    for device in ["/dev/zero", "/dev/null", "/dev/full", "/dev/urandom"] {
        model.refuse_path(&mut report, device, device.as_ref(), &["is a device, expected a regular file"]);
    }
    for nothing in ["/proc/version", "/proc/self/maps"] {
        model.refuse_path(&mut report, nothing, nothing.as_ref(), &["an empty file"]);
    }
    match a_block_device() {
        Some(device) => model.refuse_path(&mut report, "block device", &device, &["is a device"]),
        None => skipped("no block device can be opened here"),
    }
}

/// A block device that this process may read.
fn a_block_device() -> Option<PathBuf> {
    let devices = fs::read_dir("/dev").ok()?.filter_map(Result::ok);
    let mut devices = devices.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_block_device()));
    devices.find_map(|entry| File::open(entry.path()).is_ok().then(|| entry.path()))
}

#[test]
fn o3_other_formats_and_damaged_magics() {
    let model = Model::plain();
    let mut report = Report::new("O3");
    let rest = &model.good[MAGIC.len()..];
    let with_magic = |magic: &[u8]| [magic, rest].concat();
    let text_mode = ["text-mode transfer", "copy it again in binary mode"];
    for (name, bytes, words) in [
        ("GGUF", b"GGUF\x03\0\0\0and so on".to_vec(), &["a GGUF file", "olmo-pack weights/"][..]),
        ("safetensors", b"\x40\0\0\0\0\0\0\0{\"__metadata__\":{}".to_vec(), &["a safetensors file"]),
        ("npy", b"\x93NUMPY\x01\0\x76\0{'descr'".to_vec(), &["a .npy file"]),
        ("zip", b"PK\x03\x04\x14\0\0\0".to_vec(), &["a zip or PyTorch archive"]),
        ("ELF", b"\x7fELF\x02\x01\x01\0".to_vec(), &["a program"]),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0".to_vec(), &["gzip data", "unpack it first"]),
        ("text", b"This is a model, trust me.\r\n".to_vec(), &["but text"]),
        ("html", b"<!DOCTYPE html><html><title>404".to_vec(), &["but text"]),
        ("git-lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:00".to_vec(), &["git lfs pull"]),
        ("tokens", [70, 0, 0, 0, 111, 0, 0, 0].to_vec(), &["unknown data", "are the arguments swapped?"]),
        ("noise", (0..99).map(|i: u8| i.wrapping_mul(167) | 128).collect(), &["unknown data"]),
        ("zeros", vec![0; model.good.len()], &["zeros, as an unfinished copy or packing leaves"]),
        ("CRLF to LF", with_magic(b"\x89OLMO\n\x1a"), &text_mode),
        ("LF to CRLF", with_magic(b"\x89OLMO\r\r\n\x1a"), &text_mode),
        ("CR to LF", with_magic(b"\x89OLMO\n\n\x1a"), &text_mode),
        ("end-of-file mark lost", with_magic(b"\x89OLMO\r\n"), &text_mode),
        ("7 bits", model.good.iter().map(|byte| byte & 0x7f).collect(), &text_mode),
    ] {
        let words = [words, &["not an .olmo file but "]].concat();
        model.refuse(&mut report, name, &bytes, &words);
    }
    for at in 0..MAGIC.len() {
        let mut bytes = model.good.clone();
        bytes[at] ^= 0x20;
        repair_header_digest(&mut bytes);
        model.refuse(&mut report, format!("byte {at} of the magic"), &bytes, &["not an .olmo file but "]);
    }
}

#[test]
fn o4_versions_other_than_ours() {
    let model = Model::plain();
    let mut report = Report::new("O4");
    let [major, minor] = [header(offset_of!(Header, version_major), 2), header(offset_of!(Header, version_minor), 2)];
    for value in [0, 2, 3, 0x100, 0x7fff, 0xffff] {
        let says = format!("needs format {value}.0, this program reads format 1.0; use the olmo-infer that came with");
        model.refuse(&mut report, format!("major {value}"), &model.with(&[(major, value)]), &[&says]);
        // Of a version with another layout nothing is known but this field.
        let mut bytes = model.good.clone();
        bytes[HEADER_BYTES..].fill(0x5a);
        major.set(&mut bytes, value);
        model.refuse(&mut report, format!("major {value}, another layout"), &bytes, &[&says]);
    }
    let both = model.with(&[(major, 0xffff), (minor, 0xffff)]);
    model.refuse(&mut report, "all ones", &both, &["needs format 65535.65535"]);
    for value in [1, 0xffff] {
        let newer = model.write("newer.olmo", &model.with(&[(minor, value)]));
        for opener in ["olmo-infer", "verify", "inspect"] {
            let run = Run::new(&mut model.opener(opener, &newer)).expect("ends");
            report.holds(format_args!("minor {value}, {opener}"), run.status.success(), run.stderr);
        }
    }
}

#[test]
fn o5_byte_order() {
    let model = Model::plain();
    let mut report = Report::new("O5");
    let mark = header(offset_of!(Header, byte_order), 4);
    let swapped = model.with(&[(mark, 0x0403_0201)]);
    model.refuse(&mut report, "swapped", &swapped, &["byte order: found big-endian, expected little-endian"]);
    let values = [0, 1, 0x0201_0403, 0x0102_0305, 0xffff_ffff];
    model.refuse_values(&mut report, "byte_order", mark, &values, &["byte order mark: found ", "expected 16909060"]);
    // All of it written by a machine of the other kind.
    let mut bytes = model.with(&[(mark, 0x0403_0201), (header(offset_of!(Header, version_major), 2), 0x0100)]);
    bytes[16..24].reverse();
    model.refuse(&mut report, "all fields swapped", &bytes, &["big-endian"]);
}

#[test]
fn o6_lengths_in_the_header() {
    let model = Model::plain();
    let mut report = Report::new("O6");
    let length = model.good.len() as u64;
    let mut values = |name: &str, at: usize, bytes: usize, right: u64, place: &str| {
        let field = header(at, bytes);
        assert_eq!(field.get(&model.good), right, "{name}");
        let all = [0, 1, right - 1, right + 1, length + 1, 1 << 31, u64::MAX >> 1, 1 << 63, u64::MAX];
        let all: Vec<u64> = all.into_iter().filter(|value| bytes == 8 || *value <= u32::MAX.into()).collect();
        model.refuse_values(&mut report, name, field, &all, &[place]);
    };
    values("header_bytes", offset_of!(Header, header_bytes), 4, HEADER_BYTES as u64, ": header bytes: found ");
    values("file_bytes", offset_of!(Header, file_bytes), 8, length, " bytes, expected ");
    let layout = model.file.layout();
    values("index_bytes", offset_of!(Header, index_bytes), 8, layout.index.bytes, ": index bytes: found ");
    values("data_offset", offset_of!(Header, data_offset), 8, layout.data_offset, ": data offset: found ");
    values("data_bytes", offset_of!(Header, data_bytes), 8, length - layout.data_offset, ": data bytes: found ");
    let all = [
        (header(offset_of!(Header, header_bytes), 4), u64::MAX),
        (header(offset_of!(Header, file_bytes), 8), u64::MAX),
        (header(offset_of!(Header, index_bytes), 8), u64::MAX),
    ];
    model.refuse(&mut report, "all huge", &model.with(&all), &["truncated"]);
}

#[test]
fn o7_digests_of_header_and_index() {
    let model = Model::coded();
    let mut report = Report::new("O7");
    let mut flip = |variant: &str, at: usize, place: &str| {
        let mut bytes = model.good.clone();
        bytes[at] ^= 1;
        model.refuse(&mut report, variant, &bytes, &[place, "the file is damaged, copy or pack it again"]);
    };
    for (name, at) in [
        ("version_minor", offset_of!(Header, version_minor)),
        ("file_bytes", offset_of!(Header, file_bytes)),
        ("optional_features", offset_of!(Header, optional_features)),
        ("n_tensors", offset_of!(Header, n_tensors)),
        ("index_digest", offset_of!(Header, index_digest)),
        ("reserved_b", offset_of!(Header, reserved_b)),
        ("config", offset_of!(Header, config)),
        ("bos_token_id", offset_of!(Header, config) + offset_of!(ConfigBlock, bos_token_id)),
        ("the last reserved byte", offset_of!(Header, header_digest) - 1),
        ("header_digest", offset_of!(Header, header_digest)),
        ("the last byte of header_digest", HEADER_BYTES - 1),
    ] {
        flip(name, at, ": header digest: found ");
    }
    let last = model.n_tensors() - 1;
    for (name, field) in [
        ("role", Field::of_tensor(0, offset_of!(TensorRecord, role), 4)),
        ("digest", Field::of_tensor(3, offset_of!(TensorRecord, digest), 8)),
        ("min_magnitude", Field::of_tensor(last, offset_of!(TensorRecord, min_magnitude), 4)),
        ("reserved", Field::of_tensor(last, size_of::<TensorRecord>() - 1, 1)),
        ("kind", model.section_field(section::SOURCES, offset_of!(SectionRecord, kind), 4)),
        ("reserved of a section", model.section_field(section::CODED, size_of::<SectionRecord>() - 1, 1)),
    ] {
        flip(name, field.at, ": index digest: found ");
    }
    // Right for the header, wrong for the index.
    let mut bytes = model.good.clone();
    header(offset_of!(Header, index_digest), 8).set(&mut bytes, 0);
    repair_header_digest(&mut bytes);
    model.refuse(&mut report, "index_digest 0", &bytes, &[": index digest: found ", "expected 0000000000000000"]);
}

#[test]
fn o8_reserved_fields_flags_and_features() {
    let model = Model::plain();
    let mut report = Report::new("O8");
    let reserved_c = offset_of!(Header, reserved_c);
    let places = [
        offset_of!(Header, reserved_a),
        offset_of!(Header, reserved_a) + 3,
        offset_of!(Header, reserved_b),
        offset_of!(Header, reserved_b) + 39,
        reserved_c,
        offset_of!(Header, header_digest) - 1,
    ];
    for at in places {
        let bytes = model.with(&[(header(at, 1), 0x80)]);
        model.refuse(
            &mut report,
            format!("byte {at}"),
            &bytes,
            &[": reserved header fields: found ", "expected zeros"],
        );
    }
    model.refuse_values(
        &mut report,
        "config.reserved",
        config_field("reserved"),
        &[1, u64::MAX],
        &[": reserved is set"],
    );
    for at in [offset_of!(TensorRecord, reserved), size_of::<TensorRecord>() - 1] {
        let (index, words) = (model.tensor("q_proj"), ["q_proj.weight: reserved fields: found ", "expected zeros"]);
        model.refuse_values(&mut report, "record", Field::of_tensor(index, at, 1), &[1, 0x80], &words);
    }
    for at in [offset_of!(SectionRecord, reserved), size_of::<SectionRecord>() - 1] {
        let field = model.section_field(section::PROVENANCE, at, 1);
        model.refuse_values(&mut report, "section", field, &[1, 0x80], &["section 4: reserved fields: found "]);
    }
    let flags = model.section_field(section::PROVENANCE, offset_of!(SectionRecord, flags), 4);
    model.refuse_values(&mut report, "flags", flags, &[2, 3, 1 << 31, u64::MAX], &["section 4: found unknown flags"]);
    let features = header(offset_of!(Header, required_features), 8);
    let newer = ["needs feature bits 0x", "this program reads format 1.0"];
    model.refuse_values(&mut report, "required_features", features, &[2, 3, 1 << 32, 1 << 63, u64::MAX], &newer);
    model.refuse_values(&mut report, "required_features", features, &[1], &["required features: found 1, expected 0"]);
    let optional = header(offset_of!(Header, optional_features), 8);
    let newer = model.write("newer.olmo", &model.with(&[(optional, u64::MAX)]));
    for opener in ["olmo-infer", "verify"] {
        let run = Run::new(&mut model.opener(opener, &newer)).expect("ends");
        report.holds(format_args!("optional_features, {opener}"), run.status.success(), run.stderr);
    }
}

#[test]
fn o9_element_types() {
    let mut report = Report::new("O9");
    for model in [Model::plain(), Model::coded()] {
        let dtype = |tensor: &str| Field::of_tensor(model.tensor(tensor), offset_of!(TensorRecord, dtype), 4);
        let wrong = [0, 3, 4, 1 << 31, u64::MAX];
        let first = ["model.embed_tokens.weight: found element type ", "expected 1 (f32) or 2 (bf16)"];
        model.refuse_values(&mut report, "first", dtype("embed_tokens"), &wrong, &first);
        let is_f32 = dtype("embed_tokens").get(&model.good) == 1;
        let other = if is_f32 { 2 } else { 1 };
        for tensor in ["q_proj", "down_proj", "lm_head"] {
            let says = format!("{tensor}.weight: element type: found ");
            model.refuse_values(&mut report, tensor, dtype(tensor), &[0, 3, other, u64::MAX], &[&says]);
        }
        for tensor in ["q_norm", "model.norm"] {
            let says = format!("{tensor}.weight: element type: found ");
            model.refuse_values(&mut report, tensor, dtype(tensor), &[0, 2, 3, u64::MAX], &[&says, "expected 1"]);
        }
    }
}

/// Integers that no model has, with the key that the message names and what it says about it.
const IMPOSSIBLE: [(&str, &[u64], &str); 17] = [
    ("architecture", &[0, 3, 1 << 31, u64::MAX], ": architecture is "),
    ("n_layers", &[0, 1025, 1 << 31, u64::MAX], ": num_hidden_layers is "),
    ("hidden_size", &[0, (1 << 20) + 1, 1 << 24, 1 << 31, u64::MAX], ": hidden_size is "),
    ("n_heads", &[0, (1 << 20) + 1, 1 << 31, u64::MAX], ": num_attention_heads is "),
    ("n_kv_heads", &[0, 3, 1 << 20, 1 << 31, u64::MAX], ": num_key_value_heads is "),
    ("head_dim", &[0, 1, 3, 1023, 1025, 1026, 1 << 31, u64::MAX], ": head_dim is "),
    ("intermediate_size", &[0, (1 << 20) + 1, 1 << 24, 1 << 31, u64::MAX], ": intermediate_size is "),
    ("vocab_size", &[0, (1 << 24) + 1, 1 << 31, u64::MAX], ": vocab_size is "),
    ("max_position_embeddings", &[0, (1 << 24) + 1, 1 << 31, u64::MAX], ": max_position_embeddings is "),
    ("sliding_window", &[1, 1 << 24, u64::MAX], ": sliding_window is "),
    ("tie_word_embeddings", &[2, 1 << 31, u64::MAX], ": tie_word_embeddings is "),
    ("rope_type", &[2, 1 << 31, u64::MAX], ": rope_type is "),
    ("rope_type", &[1], ": rope_scaling.factor is 0"),
    ("n_eos_token_ids", &[0], ": eos_token_ids is set"),
    ("n_eos_token_ids", &[17, 1 << 31, u64::MAX], ": n_eos_token_ids is "),
    ("yarn_original_max_position_embeddings", &[1, u64::MAX], ": yarn_original_max_position_embeddings is set"),
    ("yarn_truncate", &[1, u64::MAX], ": yarn_truncate is set"),
];

#[test]
fn o10_configurations_that_no_model_has() {
    let model = Model::plain();
    let mut report = Report::new("O10");
    for (name, values, says) in IMPOSSIBLE {
        model.refuse_values(&mut report, name, config_field(name), values, &[says, ", expected "]);
    }
    let heads = [(config_field("n_heads"), 3), (config_field("n_kv_heads"), 2)];
    model.refuse(&mut report, "3 heads over 2", &model.with(&heads), &[": num_key_value_heads is 2", "a divisor of 3"]);
    for (n_heads, head_dim) in [(1 << 20, 1024), (1 << 20, 2), (1025, 1024)] {
        let wide = [(config_field("n_heads"), n_heads), (config_field("head_dim"), head_dim)];
        let words = [": head_dim is ", "heads * head_dim of at most 1048576"];
        model.refuse(&mut report, format!("{n_heads} heads of {head_dim}"), &model.with(&wide), &words);
    }
    let layers = offset_of!(ConfigBlock, sliding_layers);
    let words = [": layer_types is sliding_attention"];
    model.refuse(&mut report, "a window", &model.with(&[(Field::of_config(layers, 1), 1)]), &words);
    for (at, bit) in [(layers, 2), (layers, 0x80), (layers + 127, 0x80)] {
        let bytes = model.with(&[(Field::of_config(at, 1), bit)]);
        model.refuse(&mut report, format!("layer {at}"), &bytes, &[": sliding_layers is set"]);
    }
    let eos = Field::of_config(offset_of!(ConfigBlock, eos_token_ids) + 60, 4);
    model.refuse_values(&mut report, "eos_token_ids", eos, &[0, 1], &[": eos_token_ids is set"]);
}

#[test]
fn o10_configurations_of_another_model() {
    let model = Model::plain();
    let mut report = Report::new("O10");
    // Possible values, against records and lengths of other ones.
    for (name, values, says) in [
        ("n_layers", &[2, 1024][..], ": number of tensors: found "),
        ("tie_word_embeddings", &[1], ": number of tensors: found "),
        ("hidden_size", &[1, 16, 18, 1 << 20], ": file bytes: found "),
        ("n_heads", &[1, 3, 4, 512], ": found "),
        ("n_kv_heads", &[2], ": found "),
        ("head_dim", &[4, 1024], ": found "),
        ("intermediate_size", &[1, 4, 6, 1 << 20], ": found "),
        ("vocab_size", &[1, 64, 69, 71, 129, 1 << 24], ": found "),
    ] {
        model.refuse_values(&mut report, name, config_field(name), values, &[says, ", expected "]);
    }
    let yarn = Model::yarn();
    for (name, values, says) in [
        ("architecture", &[1][..], ": rope_scaling is yarn, expected none for olmo2"),
        ("rope_type", &[0], ": yarn_factor is set"),
        ("sliding_window", &[0, (1 << 24) + 1, u64::MAX], ": sliding_window is "),
        ("yarn_truncate", &[2, u64::MAX], ": yarn_truncate is "),
        (
            "yarn_original_max_position_embeddings",
            &[0, (1 << 24) + 1, u64::MAX],
            ": rope_scaling.original_max_position_embeddings is ",
        ),
    ] {
        yarn.refuse_values(&mut report, name, config_field(name), values, &[says, ", expected "]);
    }
}

/// The largest sizes that the format knows, and the index that they need, in a file of `length` bytes.
fn largest(model: &Model, length: u64) -> Vec<(Field, u64)> {
    let n_tensors = 1024 * 11 + 3;
    let index_bytes = n_tensors * size_of::<TensorRecord>() + size_of_val(model.file.sections());
    [
        ("n_layers", 1024),
        ("hidden_size", MAX_WIDTH as u64),
        ("n_heads", 1024),
        ("n_kv_heads", 1024),
        ("head_dim", 1024),
        ("intermediate_size", MAX_WIDTH as u64),
        ("vocab_size", 1 << 24),
    ]
    .map(|(name, value)| (config_field(name), value))
    .into_iter()
    .chain([
        (header(offset_of!(Header, n_tensors), 4), n_tensors as u64),
        (header(offset_of!(Header, index_bytes), 8), index_bytes as u64),
        (header(offset_of!(Header, file_bytes), 8), length),
    ])
    .collect()
}

#[test]
fn o10_a_header_that_claims_a_huge_model() {
    let model = Model::plain();
    let mut report = Report::new("O10");
    let length = model.good.len() as u64;
    let tiny = model.with(&largest(&model, length));
    model.refuse(&mut report, "a tiny file", &tiny, &[": index: found a file of ", "expected room for the index"]);
    let sparse = |name: &str, bytes: &[u8]| {
        let path = model.write(name, bytes);
        File::options().write(true).open(&path).expect("open").set_len(HUGE).expect("a sparse file");
        path
    };
    let path = sparse("sparse.olmo", &model.with(&largest(&model, HUGE)));
    model.refuse_path(&mut report, "a sparse file", &path, &[": index digest: found "]);
    // With an index of zeros under its right digest, and then with a type in its first record.
    let n_bytes = header(offset_of!(Header, index_bytes), 8).get(&tiny) as usize;
    let mut crafted = [&model.with(&largest(&model, HUGE))[..HEADER_BYTES], &vec![0; n_bytes]].concat();
    repair_digests(&mut crafted);
    let path = sparse("zeros.olmo", &crafted);
    model.refuse_path(&mut report, "an index of zeros", &path, &[": section 0: found a kind out of order"]);
    crafted[HEADER_BYTES..].copy_from_slice(&vec![0; n_bytes]);
    header(offset_of!(Header, n_sections), 4).set(&mut crafted, 0);
    let without = n_bytes - size_of_val(model.file.sections());
    header(offset_of!(Header, index_bytes), 8).set(&mut crafted, without as u64);
    repair_digests(&mut crafted);
    let path = sparse("untyped.olmo", &crafted);
    model.refuse_path(&mut report, "no type", &path, &["model.embed_tokens.weight: found element type 0"]);
    Field::of_tensor(0, offset_of!(TensorRecord, dtype), 4).set(&mut crafted, 1);
    repair_digests(&mut crafted);
    let path = sparse("typed.olmo", &crafted);
    model.refuse_path(&mut report, "a type", &path, &[": file bytes: found 1099511627776, expected "]);
}

#[test]
fn o11_real_numbers() {
    let mut report = Report::new("O11");
    let model = Model::yarn();
    let never = [
        f64::NAN,
        -f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        0.0,
        -0.0,
        -1.0,
        5e-324,
        f64::MIN_POSITIVE,
        f64::MAX,
        f64::MIN,
    ];
    let key = |name: &str| match name {
        "rope_theta_sliding" => "rope_theta".to_string(),
        name => name.replace("yarn_", "rope_scaling."),
    };
    let limits: [(f64, f64); 7] =
        [(1e-12, 1.0), (1.0, 1e12), (1.0, 1e12), (1.0, 1e6), (1e-3, 1e6), (1e-3, 1e6), (1e-3, 1e3)];
    for ((name, _), (least, most)) in CONFIG_REALS.into_iter().zip(limits) {
        let says = [&format!(": {} is ", key(name)), ", expected a number from ", "pack the weights again"];
        for value in never.into_iter().chain([least.next_down(), most.next_up()]) {
            let bytes = model.with(&[(config_field(name), value.to_bits())]);
            model.refuse(&mut report, format!("{name} = {value:e}"), &bytes, &says);
        }
    }
    let one = model.with(&[(config_field("rope_theta"), 1f64.to_bits())]);
    model.refuse(&mut report, "rope_theta 1", &one, &[": rope_theta is 1", "more than 1 with YaRN"]);
    // Without YaRN its numbers are +0.
    let plain = Model::plain();
    for (name, _) in &CONFIG_REALS[3..] {
        let says = format!(": {name} is set, expected nothing where it has no use");
        for value in [-0.0, 1.0, f64::NAN] {
            let bytes = plain.with(&[(config_field(name), value.to_bits())]);
            plain.refuse(&mut report, format!("{name} = {value:e} without use"), &bytes, &[&says]);
        }
    }
}

#[test]
fn o12_numbers_of_records() {
    let model = Model::plain();
    let mut report = Report::new("O12");
    let (n_tensors, n_sections) = (model.n_tensors() as u64, model.file.sections().len() as u64);
    let [tensors, sections] = [header(offset_of!(Header, n_tensors), 4), header(offset_of!(Header, n_sections), 4)];
    let index_bytes = header(offset_of!(Header, index_bytes), 8);
    let says = ": number of tensors: found ";
    let expected = format!(", expected {n_tensors}");
    for value in [0, 1, n_tensors - 1, n_tensors + 1, 1 << 16, 1 << 31, u32::MAX.into()] {
        let fits = value * size_of::<TensorRecord>() as u64 + n_sections * size_of::<SectionRecord>() as u64;
        for (variant, changes) in
            [("", &[(tensors, value)][..]), (" and bytes", &[(tensors, value), (index_bytes, fits)])]
        {
            let variant = format!("{value} tensors{variant}");
            model.refuse(&mut report, variant, &model.with(changes), &[says, &expected]);
        }
    }
    for value in [65, 1 << 16, 1 << 31, u32::MAX.into()] {
        let bytes = model.with(&[(sections, value)]);
        let words = [": number of sections: found ", "expected at most 64"];
        model.refuse(&mut report, format!("{value} sections"), &bytes, &words);
    }
    for value in [0, 1, n_sections - 1, n_sections + 1, 64] {
        let bytes = model.with(&[(sections, value)]);
        model.refuse(&mut report, format!("{value} sections"), &bytes, &[": index bytes: found "]);
        let fits = n_tensors * size_of::<TensorRecord>() as u64 + value * size_of::<SectionRecord>() as u64;
        let bytes = model.with(&[(sections, value), (index_bytes, fits)]);
        // Fewer sections are another layout; more of them are zeros or the bytes of the first section.
        let says = if value < n_sections { ": found " } else { ": section " };
        model.refuse(&mut report, format!("{value} sections and bytes"), &bytes, &[says]);
    }
}

#[test]
fn o13_names_of_records() {
    let model = Model::plain();
    let mut report = Report::new("O13");
    let [role, layer] = [offset_of!(TensorRecord, role), offset_of!(TensorRecord, layer)];
    let q_proj = model.tensor("q_proj");
    let says = "q_proj.weight: role: found ";
    model.refuse_values(&mut report, "role", Field::of_tensor(q_proj, role, 4), &[0, 1, 3, 14, 15, u64::MAX], &[says]);
    let says = "q_proj.weight: layer: found ";
    let layers = [1, 1023, 1 << 31, u64::MAX];
    model.refuse_values(&mut report, "layer", Field::of_tensor(q_proj, layer, 4), &layers, &[says, "expected 0"]);
    let norm = Field::of_tensor(model.tensor("model.norm"), layer, 4);
    model.refuse_values(&mut report, "layer", norm, &[0, 1], &["model.norm.weight: layer: found "]);
    // Whole records: two of one shape exchanged, one of them twice, all of them moved.
    let record = |index: usize| {
        let at = Field::of_tensor(index, 0, 1).at;
        at..at + size_of::<TensorRecord>()
    };
    let (gate, up) = (model.tensor("gate_proj"), model.tensor("up_proj"));
    for (variant, from, to) in [("gate_proj twice", gate, up), ("up_proj twice", up, gate)] {
        let mut bytes = model.good.clone();
        bytes.copy_within(record(from), record(to).start);
        repair_digests(&mut bytes);
        model.refuse(&mut report, variant, &bytes, &[": role: found "]);
    }
    let mut exchanged = model.good.clone();
    exchanged[record(gate)].copy_from_slice(&model.good[record(up)]);
    exchanged[record(up)].copy_from_slice(&model.good[record(gate)]);
    repair_digests(&mut exchanged);
    model.refuse(&mut report, "exchanged", &exchanged, &["gate_proj.weight: role: found 10, expected 9"]);
    let mut moved = model.good.clone();
    moved[record(0).start..record(model.n_tensors()).start].rotate_left(size_of::<TensorRecord>());
    repair_digests(&mut moved);
    model.refuse(&mut report, "moved", &moved, &["model.embed_tokens.weight: role: found "]);
    // Kinds of sections: ascending, each once, not 0.
    let kind = |of: u32| model.section_field(of, offset_of!(SectionRecord, kind), 4);
    let out_of_order = ["found a kind out of order, expected ascending kinds"];
    model.refuse_values(&mut report, "kind", kind(section::SOURCES), &[0, 2, 3, 99], &out_of_order);
    model.refuse_values(&mut report, "kind", kind(section::VOCABULARY), &[0, 1, 3], &out_of_order);
    model.refuse_values(&mut report, "kind", kind(section::PROVENANCE), &[0, 1, 2, 3], &out_of_order);
}

#[test]
fn o14_shapes() {
    let model = Model::plain();
    let mut report = Report::new("O14");
    for tensor in ["embed_tokens", "down_proj", "q_norm"] {
        for (field, at) in [("rows", offset_of!(TensorRecord, rows)), ("columns", offset_of!(TensorRecord, columns))] {
            let place = Field::of_tensor(model.tensor(tensor), at, 8);
            let right = place.get(&model.good);
            // Some of these times some of the others wrap to the right product.
            let values = [0, right + 1, right + (1 << 32), right + (1 << 63), 1 << 31, 1 << 32, 1 << 63, u64::MAX];
            let says = [&format!("{tensor}.weight: {field}: found "), &format!("expected {right}")];
            model.refuse_values(&mut report, field, place, &values, &says.map(|says| says.as_ref()));
        }
        let at = [offset_of!(TensorRecord, rows), offset_of!(TensorRecord, columns)];
        let both = at.map(|at| Field::of_tensor(model.tensor(tensor), at, 8));
        let exchanged = [(both[0], both[1].get(&model.good)), (both[1], both[0].get(&model.good))];
        model.refuse(&mut report, "transposed", &model.with(&exchanged), &[&format!("{tensor}.weight: rows: found ")]);
        let overflows = [(both[0], 1 << 33), (both[1], 1 << 33)];
        model.refuse(&mut report, "overflow", &model.with(&overflows), &[&format!("{tensor}.weight: rows: found ")]);
    }
}

#[test]
fn o15_offsets_and_lengths() {
    let model = Model::plain();
    let mut report = Report::new("O15");
    let length = model.good.len() as u64;
    let places = |extent: Extent| {
        let Extent { offset, bytes } = extent;
        let far = [1 << 31, 1 << 32, i64::MAX as u64, 1 << 63, u64::MAX - bytes, u64::MAX - bytes + 1, u64::MAX];
        let near = [0, 1, 4095, 4096, length - bytes + 1, length - 1, length, length + 1, offset + bytes];
        near.into_iter().chain(far).filter(|value| *value != offset).collect::<Vec<u64>>()
    };
    for tensor in ["embed_tokens", "q_norm", "lm_head"] {
        let (index, extent) = (model.tensor(tensor), model.file.layout().tensors[model.tensor(tensor)]);
        let says = [&format!("{tensor}.weight: offset: found "), &format!("expected {}", extent.offset)];
        let field = Field::of_tensor(index, offset_of!(TensorRecord, offset), 8);
        model.refuse_values(&mut report, "offset", field, &places(extent), &says.map(|says| says.as_ref()));
        let field = Field::of_tensor(index, offset_of!(TensorRecord, bytes), 8);
        let lengths = [0, 1, extent.bytes - 1, extent.bytes + 1, length, i64::MAX as u64, 1 << 63, u64::MAX];
        model.refuse_values(&mut report, "bytes", field, &lengths, &[&format!("{tensor}.weight: bytes: found ")]);
    }
    for kind in [section::SOURCES, section::PROVENANCE] {
        let extent = model.file.layout().sections[model.section(kind)];
        let field = model.section_field(kind, offset_of!(SectionRecord, offset), 8);
        let says = format!("section {kind}: offset: found ");
        model.refuse_values(&mut report, "section", field, &places(extent), &[&says]);
        let field = model.section_field(kind, offset_of!(SectionRecord, bytes), 8);
        let too_long = [(64 << 20) + 1, 1 << 31, i64::MAX as u64, 1 << 63, u64::MAX];
        let says = format!("section {kind}: found ");
        model.refuse_values(&mut report, "section", field, &too_long, &[&says, " bytes, expected at most "]);
        // One byte more may fit before the next section begins, or not.
        for value in [0, extent.bytes - 1, extent.bytes + 1, 16 << 20] {
            let path = model.write("bad.olmo", &model.with(&[(field, value)]));
            let words = [": found ", "the file is damaged"];
            match ModelFile::open(&path) {
                Ok(_) => model.damage_is_told(&mut report, "section", &path, &format!("section {}", name_of(kind))),
                Err(_) => model.refuse_path(&mut report, &format!("section {value}"), &path, &words),
            }
        }
    }
}

#[test]
fn o16_alignment() {
    let model = Model::plain();
    let mut report = Report::new("O16");
    for tensor in ["embed_tokens", "o_proj", "model.norm"] {
        let field = Field::of_tensor(model.tensor(tensor), offset_of!(TensorRecord, offset), 8);
        let right = field.get(&model.good);
        let values = [1, 2, 4, 32, 64, 128, 255].map(|off| right + off);
        model.refuse_values(&mut report, tensor, field, &values, &[&format!("{tensor}.weight: offset: found ")]);
    }
    for kind in [section::SOURCES, section::CONFIG_JSON] {
        let field = model.section_field(kind, offset_of!(SectionRecord, offset), 8);
        let values = [1, 8, 32, 63].map(|off| field.get(&model.good) + off);
        model.refuse_values(&mut report, "section", field, &values, &[&format!("section {kind}: offset: found ")]);
    }
    let field = header(offset_of!(Header, data_offset), 8);
    let right = field.get(&model.good);
    let values = [1, 64, 256, 4095].map(|off| right + off).into_iter().chain([u64::MAX - 62]).collect::<Vec<u64>>();
    model.refuse_values(&mut report, "data_offset", field, &values, &[": data offset: found "]);
}

#[test]
fn o17_ranges_that_overlap_or_leave_holes() {
    let model = Model::plain();
    let mut report = Report::new("O17");
    let offset = |index: usize| Field::of_tensor(index, offset_of!(TensorRecord, offset), 8);
    let bytes_of = |index: usize| Field::of_tensor(index, offset_of!(TensorRecord, bytes), 8);
    let (gate, up) = (model.tensor("gate_proj"), model.tensor("up_proj"));
    let [at_gate, at_up] = [gate, up].map(|index| offset(index).get(&model.good));
    let length = bytes_of(gate).get(&model.good);
    for (variant, changes, says) in [
        ("two on one range", vec![(offset(up), at_gate)], "up_proj.weight: offset: found "),
        ("reversed", vec![(offset(gate), at_up), (offset(up), at_gate)], "gate_proj.weight: offset: found "),
        ("overlap", vec![(offset(up), at_up - 256)], "up_proj.weight: offset: found "),
        ("hole", vec![(offset(up), at_up + 256)], "up_proj.weight: offset: found "),
        ("one over both", vec![(bytes_of(gate), at_up + length - at_gate)], "gate_proj.weight: bytes: found "),
        ("over the index", vec![(offset(gate), HEADER_BYTES as u64)], "gate_proj.weight: offset: found "),
    ] {
        model.refuse(&mut report, variant, &model.with(&changes), &[says]);
    }
    let section = |kind: u32| model.section_field(kind, offset_of!(SectionRecord, offset), 8);
    let [first, second] = [section(section::SOURCES), section(section::VOCABULARY)];
    let [at_first, at_second] = [first, second].map(|field| field.get(&model.good));
    for (variant, changes, says) in [
        ("sections on one range", vec![(second, at_first)], "section 2: offset: found "),
        ("sections reversed", vec![(first, at_second), (second, at_first)], "section 1: offset: found "),
        ("a section in the data", vec![(second, at_gate)], "section 2: offset: found "),
        ("a hole between sections", vec![(second, at_second + 64)], "section 2: offset: found "),
    ] {
        model.refuse(&mut report, variant, &model.with(&changes), &[says]);
    }
}

#[test]
fn o18_padding_that_is_not_zero() {
    let model = Model::plain();
    let mut report = Report::new("O18");
    let layout = model.file.layout();
    let parts: Vec<Extent> = layout.sections.iter().chain(&layout.tensors).copied().collect();
    let ends = parts.windows(2).map(|pair| (pair[0].end(), pair[1].offset));
    let last = parts.last().expect("tensors").end();
    let gaps: Vec<(u64, u64)> = ends.chain([(last, layout.file_bytes)]).filter(|(from, to)| from < to).collect();
    assert!(gaps.len() >= 5, "{gaps:?}");
    for (from, to) in gaps {
        for at in [from, to - 1] {
            let mut bytes = model.good.clone();
            bytes[at as usize] = 1;
            let says = format!(": byte {at}: padding that is not zero");
            model.refuse_when_looked_at(&mut report, &format!("byte {at}"), &bytes, &[&says]);
        }
    }
}

#[test]
fn o19_flipped_bits_of_the_data() {
    let mut report = Report::new("O19");
    for model in [Model::plain(), Model::coded()] {
        for (spec, extent) in model.file.specs().iter().zip(&model.file.layout().tensors) {
            for (at, bit) in [(extent.offset, 0x40), (extent.end() - 1, 0x01)] {
                let mut bytes = model.good.clone();
                bytes[at as usize] ^= bit;
                let says = format!(": {}: its digest is wrong", spec.name());
                model.refuse_when_looked_at(&mut report, &format!("{} {at}", spec.name()), &bytes, &[&says]);
            }
        }
    }
}

#[test]
fn o19_numbers_that_are_not_finite_end_the_run() {
    let model = Model::plain();
    let mut report = Report::new("O19");
    for (tensor, number) in [
        ("embed_tokens", f32::NAN),
        ("q_proj", f32::INFINITY),
        ("v_proj", f32::NEG_INFINITY),
        ("down_proj", f32::NAN),
        ("model.norm", f32::INFINITY),
        ("lm_head", f32::NAN),
    ] {
        let extent = model.file.layout().tensors[model.tensor(tensor)];
        let mut bytes = model.good.clone();
        let words = bytes[extent.offset as usize..extent.end() as usize].as_chunks_mut::<4>().0;
        words.fill(number.to_le_bytes());
        // Under a right digest, as a weights folder with such numbers gives it.
        let index = model.tensor(tensor);
        let right = digest(&bytes[extent.offset as usize..extent.end() as usize], index as u64);
        Field::of_tensor(index, offset_of!(TensorRecord, digest), 8).set(&mut bytes, right);
        repair_digests(&mut bytes);
        let path = model.write("bad.olmo", &bytes);
        let run = Run::new(&mut model.opener("olmo-infer", &path)).expect("ends");
        let is_told = run.status.code() == Some(1)
            && run.stderr.lines().count() == 1
            && run.stderr.contains("is not a finite number")
            && run.stderr.contains("olmo-pack verify");
        report.holds(format_args!("{tensor} {number}"), is_told, format_args!("{}: {}", run.status, run.stderr));
    }
}

#[test]
fn o20_blocks_that_were_lost_or_went_elsewhere() {
    let model = Model::plain();
    let other = Model::new("other", &["--dtype", "f32"], |from| write_weights(from, &coded_config(), Stored::F32, 4));
    assert_eq!(model.good.len(), other.good.len());
    let mut report = Report::new("O20");
    let data = model.file.layout().data_offset as usize;
    let mut damaged = |variant: &str, change: &dyn Fn(&mut [u8])| {
        let mut bytes = model.good.clone();
        change(&mut bytes);
        assert_ne!(bytes, model.good);
        let path = model.write("bad.olmo", &bytes);
        model.damage_is_told(&mut report, variant, &path, "model.");
        let infer = Run::new(&mut model.opener("olmo-infer", &path)).and_then(|run| is_no_crash(&run));
        report.add(format_args!("{variant}, olmo-infer"), infer);
    };
    for page in 0..3 {
        let at = data + page * 4096;
        damaged(&format!("page {page} lost"), &|bytes| bytes[at..at + 4096].fill(0));
        damaged(&format!("a sector of page {page} lost"), &|bytes| bytes[at + 512..at + 1024].fill(0));
        damaged(&format!("a sector of page {page} of ones"), &|bytes| bytes[at..at + 512].fill(0xff));
        damaged(&format!("page {page} exchanged with the next"), &|bytes| {
            let (first, second) = bytes[at..at + 8192].split_at_mut(4096);
            first.swap_with_slice(second);
        });
        let page_of_other = &other.good[at..at + 4096];
        damaged(&format!("page {page} of another model"), &|bytes| bytes[at..at + 4096].copy_from_slice(page_of_other));
    }
    damaged("the data of another model", &|bytes| bytes[data..].copy_from_slice(&other.good[data..]));
    damaged("torn in the middle", &|bytes| {
        let half = (data + bytes.len()) / 2;
        bytes[half..].copy_from_slice(&other.good[half..]);
    });
    // The index of one file and the pages of another: the digest of the header does not fit.
    let mixed = [&other.good[..HEADER_BYTES], &model.good[HEADER_BYTES..]].concat();
    model.refuse(&mut report, "the header of another model", &mixed, &[": index digest: found "]);
}

#[test]
fn o24_many_readers_and_a_new_file_of_the_same_name() {
    let model = Model::plain();
    let path = model.folder.join("good.olmo");
    let expected = run(INFER, [&path, &model.folder.join("t.bin")]).ok().to_string();
    for round in 0..3 {
        let readers: Vec<_> = (0..20)
            .map(|_| model.opener("olmo-infer", &path).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn())
            .collect();
        let copy = ["copy", "--force", path.to_str().expect("UTF-8"), model.folder.join("new.olmo").to_str().unwrap()]
            .map(String::from);
        run(PACK, copy).ok();
        fs::rename(model.folder.join("new.olmo"), &path).expect("replaced");
        for reader in readers {
            let output = reader.expect("starts").wait_with_output().expect("ends");
            assert!(output.status.success(), "round {round}: {}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "round {round}");
        }
    }
    // One file as model and as its own copy's source, and as the tokens of a run.
    let twice = run(PACK, ["copy".as_ref(), path.as_os_str(), path.as_os_str(), "--force".as_ref()]);
    assert!(twice.refused(1).contains("is the same file as"), "{}", twice.stderr);
}

#[test]
fn o25_the_temporary_file_of_an_interrupted_pack() {
    let model = Model::plain();
    let mut report = Report::new("O25");
    // The header comes last, whatever else is there.
    let mut bytes = model.good.clone();
    bytes[..HEADER_BYTES].fill(0);
    let says = ["zeros, as an unfinished copy or packing leaves"];
    for name in [".olmo-pack-123-0.tmp", ".olmo-pack-00000000deadbeef-0.tmp", "m.olmo"] {
        let path = model.write(name, &bytes);
        model.refuse_path(&mut report, name, &path, &says);
    }
    for length in [0, 1, 4096, model.good.len() / 2] {
        let path = model.write("begun.tmp", &vec![0; length]);
        let says = if length == 0 { "an empty file" } else { says[0] };
        model.refuse_path(&mut report, &format!("{length} zeros"), &path, &[says]);
    }
}

#[test]
fn o26_raw_steps() {
    let model = Model::coded();
    let mut report = Report::new("O26");
    let field = |tensor: &str, at| Field::of_tensor(model.tensor(tensor), at, 4);
    let n_raw_steps = offset_of!(TensorRecord, n_raw_steps);
    let gate = field("gate_proj", n_raw_steps);
    assert_eq!(gate.get(&model.good), 1);
    model.refuse_values(&mut report, "gate_proj", gate, &[0], &["section CODED: found "]);
    let too_many = [2, 9, 10, 1 << 16, 1 << 31, u64::MAX];
    let words = ["gate_proj.weight: found ", " raw steps, expected at most one of eight steps"];
    model.refuse_values(&mut report, "gate_proj", gate, &too_many, &words);
    let words = ["q_norm.weight: found ", " raw steps, expected none in a plain tensor"];
    model.refuse_values(&mut report, "q_norm", field("q_norm", n_raw_steps), &[1, u64::MAX], &words);
    let bytes = model.section_field(section::CODED, offset_of!(SectionRecord, bytes), 8);
    let right = bytes.get(&model.good);
    let values = [0, 4, right - 4, right - 1, right + 1, right + 4, 1 << 30];
    model.refuse_values(
        &mut report,
        "CODED",
        bytes,
        &values,
        &["section CODED: found ", &format!("expected {right} bytes")],
    );
    let beyond = [(1 << 30) + 1, 1 << 63, u64::MAX];
    model.refuse_values(&mut report, "CODED", bytes, &beyond, &["section 5: found ", "expected at most 1073741824"]);
}

/// Header, index and the beginning of the tables of a model whose embedding has as many raw steps as a coded matrix can
/// have; all of it agrees with itself, and the file would have 25 GB.
fn claimed_tables(model: &Model, tables: &[u8]) -> (Vec<u8>, u64) {
    let config = ModelConfig { vocab_size: 1 << 24, hidden_size: 1024, ..coded_config() };
    let specs = layout::tensors(&config);
    let n_raw_steps = (1 << 24) / 64 * 512 / 8;
    let mut encodings = vec![Encoding::Plain; specs.len()];
    encodings[0] = Encoding::Coded { n_raw_steps };
    let n_bytes = layout::table_bytes(&specs[0], Dtype::Bf16, encodings[0]).expect("a size");
    assert!(n_bytes > 64 << 20);
    let layout = layout::layout(&config, Dtype::Bf16, &encodings, &[n_bytes]).expect("a layout");
    let mut bytes = model.good[..HEADER_BYTES].to_vec();
    for ((spec, &encoding), &extent) in specs.iter().zip(&encodings).zip(&layout.tensors) {
        bytes.extend_from_slice(TensorRecord::new(spec, Dtype::Bf16, encoding, extent).as_bytes());
    }
    let at = bytes.len();
    bytes.resize(at + size_of::<SectionRecord>(), 0);
    let section_field = |field: usize, n_bytes: usize| Field { at: at + field, bytes: n_bytes };
    section_field(offset_of!(SectionRecord, kind), 4).set(&mut bytes, section::CODED.into());
    section_field(offset_of!(SectionRecord, flags), 4).set(&mut bytes, SECTION_REQUIRED.into());
    section_field(offset_of!(SectionRecord, offset), 8).set(&mut bytes, layout.sections[0].offset);
    section_field(offset_of!(SectionRecord, bytes), 8).set(&mut bytes, n_bytes);
    let block = ConfigBlock::new(&config);
    bytes[offset_of!(Header, config)..][..size_of_val(&block)].copy_from_slice(block.as_bytes());
    for (at, value) in [
        (offset_of!(Header, file_bytes), layout.file_bytes),
        (offset_of!(Header, required_features), FEATURE_CODED),
        (offset_of!(Header, index_bytes), layout.index.bytes),
        (offset_of!(Header, data_offset), layout.data_offset),
        (offset_of!(Header, data_bytes), layout.file_bytes - layout.data_offset),
    ] {
        header(at, 8).set(&mut bytes, value);
    }
    header(offset_of!(Header, n_tensors), 4).set(&mut bytes, specs.len() as u64);
    header(offset_of!(Header, n_sections), 4).set(&mut bytes, 1);
    repair_digests(&mut bytes);
    bytes.resize(layout.sections[0].offset as usize, 0);
    bytes.extend_from_slice(tables);
    (bytes, layout.file_bytes)
}

#[test]
fn o26_tables_that_are_only_claimed() {
    let model = Model::coded();
    let mut report = Report::new("O26");
    let exponents: Vec<u8> = (100..116).collect();
    let one_each: Vec<u8> = (0..(1 << 24) / 64).flat_map(|_| 64u32.to_le_bytes()).collect();
    for (variant, tables, says) in [
        ("nothing of them is there", vec![], "exponents [0, 0"),
        ("exponents are there", exponents.clone(), "0 raw steps, expected the raw steps of the record"),
        ("numbers of steps are there", [exponents, one_each].concat(), "raw step 0 after 0, expected ascending"),
    ] {
        let (bytes, length) = claimed_tables(&model, &tables);
        let path = model.write("claimed.olmo", &bytes);
        File::options().write(true).open(&path).expect("open").set_len(length).expect("a sparse file");
        model.refuse_path(&mut report, variant, &path, &["section CODED: model.embed_tokens.weight: found ", says]);
    }
}

#[test]
fn o27_tables_of_raw_steps() {
    let model = Model::coded();
    let mut report = Report::new("O27");
    // The embedding's table is the first: 16 exponents, the raw steps of two panels, and one step of each.
    let says = ["section CODED: model.embed_tokens.weight: found "];
    let u32_at =
        |at: usize, value: u32| move |bytes: &mut [u8]| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    let mut refuse = |variant: &str, change: &dyn Fn(&mut [u8])| {
        model.refuse(&mut report, variant, &model.with_section(section::CODED, change), &says);
    };
    refuse("exponents exchanged", &|bytes| bytes.swap(3, 4));
    refuse("an exponent twice", &|bytes| bytes[4] = bytes[3]);
    refuse("exponents of zeros", &|bytes| bytes[..16].fill(0));
    for count in [0, 2, 9, 1 << 31, u32::MAX] {
        refuse(&format!("{count} raw steps in the first panel"), &u32_at(16, count));
        refuse(&format!("{count} raw steps in the second panel"), &u32_at(20, count));
    }
    for step in [9, 10, 1 << 31, u32::MAX] {
        refuse(&format!("raw step {step} in the first panel"), &u32_at(24, step));
        refuse(&format!("raw step {step} in the second panel"), &u32_at(28, step));
    }
    for (variant, steps) in [("reversed", [5, 3]), ("repeated", [5, 5])] {
        refuse(variant, &|bytes| {
            let numbers = [0, 2, steps[0], steps[1]];
            numbers.iter().enumerate().for_each(|(i, &number)| u32_at(16 + 4 * i, number)(bytes));
        });
    }
    // Not repaired.
    let mut bytes = model.good.clone();
    bytes[model.file.layout().sections[model.section(section::CODED)].offset as usize] ^= 0x40;
    model.refuse(&mut report, "a flipped bit", &bytes, &["section CODED: digest: found "]);
}

#[test]
fn o28_codes_that_are_not_known() {
    let mut report = Report::new("O28");
    let coded = Model::coded();
    let plain = Model::plain();
    let [layout, encoding] = [offset_of!(TensorRecord, layout), offset_of!(TensorRecord, encoding)];
    for model in [&coded, &plain] {
        for tensor in ["embed_tokens", "down_proj", "q_norm"] {
            let field = |at| Field::of_tensor(model.tensor(tensor), at, 4);
            let says = [&format!("{tensor}.weight: found encoding "), "expected 0 (plain) or 1 (coded)"];
            let says = says.map(|says: &str| says);
            model.refuse_values(&mut report, "encoding", field(encoding), &[2, 3, 1 << 31, u64::MAX], &says);
            let wrong = if tensor == "q_norm" { 2 } else { 1 };
            let says = format!("{tensor}.weight: layout: found ");
            model.refuse_values(&mut report, "layout", field(layout), &[0, wrong, 3, u64::MAX], &[&says]);
        }
        let norm = Field::of_tensor(model.tensor("q_norm"), encoding, 4);
        let says = ["q_norm.weight: found a coded tensor, expected a plain one"];
        model.refuse_values(&mut report, "a coded vector", norm, &[1], &says);
        // A kind that this reader does not know: passed over, or refused when it must be known.
        let kind = model.section_field(model.file.sections().last().expect("one").kind.get(), 0, 4);
        let flags = Field { at: kind.at + offset_of!(SectionRecord, flags), bytes: 4 };
        let bytes = model.with(&[(kind, 6), (flags, 1)]);
        let says = ["needs section 6, this program reads format 1.0"];
        model.refuse(&mut report, "a required section", &bytes, &says);
    }
    let q_proj = Field::of_tensor(plain.tensor("q_proj"), encoding, 4);
    let says = ["q_proj.weight: found a coded tensor, expected a plain one"];
    plain.refuse_values(&mut report, "coded f32", q_proj, &[1], &says);
    let q_proj = Field::of_tensor(coded.tensor("q_proj"), encoding, 4);
    coded.refuse_values(&mut report, "one plain among coded", q_proj, &[0], &["section CODED: found "]);
    let features = header(offset_of!(Header, required_features), 8);
    coded.refuse_values(&mut report, "no feature", features, &[0], &["required features: found 0, expected 1"]);
    let flags = coded.section_field(section::CODED, offset_of!(SectionRecord, flags), 4);
    coded.refuse_values(&mut report, "CODED not required", flags, &[0], &["section 5: found unknown flags"]);
}

#[test]
fn vocabularies_that_are_none() {
    let model = Model::plain();
    let mut report = Report::new("a vocabulary");
    let set = |at: usize, value: u64, bytes: usize| {
        move |section: &mut [u8]| section[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes])
    };
    for (variant, change) in [
        ("no token", set(0, 0, 4)),
        ("too many tokens", set(0, u32::MAX.into(), 4)),
        ("a token too many", set(0, 6, 4)),
        ("a reserved field", set(4, 1, 4)),
        ("no text", set(8, 0, 8)),
        ("too much text", set(8, u64::MAX, 8)),
    ] {
        let bytes = model.with_section(section::VOCABULARY, change);
        let path = model.write("bad.olmo", &bytes);
        model.refuse_by(&mut report, variant, &path, &["olmo-infer"], &[": vocabulary: found "]);
        model.refuse_by(&mut report, variant, &path, &["verify"], &[": section VOCABULARY: "]);
    }
    // Offsets are not believed: a run prints no text for them.
    for at in (16..16 + 4 * 6).step_by(4) {
        let bytes = model.with_section(section::VOCABULARY, set(at, u32::MAX.into(), 4));
        let path = model.write("bad.olmo", &bytes);
        model.refuse_by(&mut report, &format!("offset at {at}"), &path, &["verify"], &[": section VOCABULARY: "]);
        let outcome = Run::new(&mut model.opener("olmo-infer", &path)).and_then(|run| is_no_crash(&run));
        report.add(format_args!("offset at {at}, olmo-infer"), outcome);
    }
}
