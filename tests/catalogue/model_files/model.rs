//! The model that is changed and opened by every program.

use super::ends_without_crash;
use crate::{BENCH, INFER, PACK};
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::config::{AttentionKind, ModelConfig};
use olmo_infer::internals::format::{SectionRecord, digest};
use olmo_tests::catalogue::{Refusal, Report, Run, measured};
use olmo_tests::crafted::{Field, repair_digests};
use olmo_tests::{Stored, TempDir, bf12_config, run, small_olmo1, small_olmo3, write_bf12_weights, write_weights};
use std::fs;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs that open a model, with the commands of `olmo-pack`.
const OPENERS: [&str; 6] = ["olmo-infer", "olmo-bench", "verify", "inspect", "unpack", "copy"];
/// The openers that look at the tensors too.
const CHECKERS: [&str; 2] = ["verify", "copy"];

/// A packed model in a folder of its own, to be changed and opened.
pub(crate) struct Model {
    pub(crate) folder: TempDir,
    pub(crate) good: Vec<u8>,
    pub(crate) file: ModelFile,
}

impl Model {
    pub(crate) fn new(name: &str, flags: &[&str], weights: impl Fn(&Path)) -> Model {
        let folder = TempDir::new(name);
        let (from, model) = (folder.join("w"), folder.join("good.olmo"));
        weights(&from);
        fs::write(from.join("vocab.txt"), "0\ta\n1\tbc\n4\td\n").expect("written");
        let paths = [from.as_os_str(), model.as_os_str()];
        run(PACK, paths.into_iter().chain(flags.iter().map(|flag| flag.as_ref()))).ok();
        fs::remove_dir_all(&from).expect("removed");
        Model::of(folder)
    }

    /// The model `good.olmo` in a folder.
    pub(crate) fn of(folder: TempDir) -> Model {
        let model = folder.join("good.olmo");
        fs::write(folder.join("t.bin"), [1, 0, 0, 0, 4, 0, 0, 0]).expect("written");
        Model { good: fs::read(&model).expect("read"), file: ModelFile::open(&model).expect("good"), folder }
    }

    /// One layer in f32.
    pub(crate) fn plain() -> Model {
        Model::new("plain", &["--dtype", "f32"], |from| write_weights(from, &bf12_config(), Stored::F32, 3))
    }

    /// One layer in bf12, some matrices with raw steps.
    pub(crate) fn bf12() -> Model {
        Model::new("bf12", &["--dtype", "bf16"], write_bf12_weights)
    }

    /// One layer in int4, and each other encoding of quantized matrices once.
    pub(crate) fn quantized() -> Model {
        let flags =
            ["--dtype", "int4", "--tensor", "q_proj=int4-16", "--tensor", "k_proj=int8-f16", "--tensor", "up_proj=f32"];
        Model::new("quantized", &flags, |from| write_weights(from, &bf12_config(), Stored::F32, 3))
    }

    /// An Olmo-3 with YaRN and a window, as small as the others.
    pub(crate) fn yarn() -> Model {
        let layer_types = vec![AttentionKind::Sliding, AttentionKind::Full];
        let config = ModelConfig { yarn: small_olmo3().yarn, sliding_window: 5, layer_types, ..small_olmo3() };
        Model::new("yarn", &["--dtype", "f32"], move |from| write_weights(from, &config, Stored::F32, 3))
    }

    /// An OLMo-1 that clips, of the sizes of the others.
    pub(crate) fn olmo1() -> Model {
        let ModelConfig { architecture, rms_norm_eps, clip_qkv, .. } = small_olmo1();
        let config = ModelConfig { architecture, rms_norm_eps, clip_qkv, ..bf12_config() };
        Model::new("olmo1", &["--dtype", "f32"], move |from| write_weights(from, &config, Stored::F32, 3))
    }

    pub(crate) fn n_tensors(&self) -> usize {
        self.file.specs().len()
    }

    /// The position in the index of the tensor with `part` in its name.
    pub(crate) fn tensor(&self, part: &str) -> usize {
        self.file.specs().iter().position(|spec| spec.name().contains(part)).expect("a tensor")
    }

    /// The position in the index of this kind of section.
    pub(crate) fn section(&self, kind: u32) -> usize {
        self.file.sections().iter().position(|record| record.kind.get() == kind).expect("a section")
    }

    pub(crate) fn section_field(&self, kind: u32, at: usize, bytes: usize) -> Field {
        Field::of_section(self.n_tensors(), self.section(kind), at, bytes)
    }

    /// The file with fields set, under right digests of index and header.
    pub(crate) fn with(&self, changes: &[(Field, u64)]) -> Vec<u8> {
        let mut bytes = self.good.clone();
        changes.iter().for_each(|(field, value)| field.set(&mut bytes, *value));
        repair_digests(&mut bytes);
        bytes
    }

    /// [`Model::with`], and the digest of a section right too.
    pub(crate) fn with_section(&self, kind: u32, change: impl Fn(&mut [u8])) -> Vec<u8> {
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
    pub(crate) fn opener(&self, opener: &str, path: &Path) -> Command {
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
    pub(crate) fn refuse_path(&self, report: &mut Report, variant: &str, path: &Path, words: &[&str]) {
        self.refuse_by(report, variant, path, &OPENERS, words);
    }

    pub(crate) fn refuse_by(
        &self,
        report: &mut Report,
        variant: &str,
        path: &Path,
        openers: &[&'static str],
        words: &[&str],
    ) {
        for &opener in openers {
            let program = if opener.starts_with("olmo-") { opener } else { "olmo-pack" };
            let begins = format!("{}: ", path.display());
            let refusal = Refusal::one_line(program, begins, words);
            let outcome = refusal.check(self.folder.path(), || self.opener(opener, path));
            report.add(format_args!("{variant}, {opener}"), outcome);
        }
    }

    /// [`Model::refuse_path`] for a file with this content.
    pub(crate) fn refuse(&self, report: &mut Report, variant: impl AsRef<str>, bytes: &[u8], words: &[&str]) {
        let path = self.write("bad.olmo", bytes);
        self.refuse_path(report, variant.as_ref(), &path, words);
    }

    /// Sets one field to each of the values, and expects a refusal of each with `words`.
    pub(crate) fn refuse_values(&self, report: &mut Report, name: &str, field: Field, values: &[u64], words: &[&str]) {
        for &value in values {
            self.refuse(report, format!("{name} = {value:#x}"), &self.with(&[(field, value)]), words);
        }
    }

    /// Every program opens the file, and those that check the tensors report the damage.
    pub(crate) fn refuse_when_checked(&self, report: &mut Report, variant: &str, bytes: &[u8], words: &[&str]) {
        let path = self.write("bad.olmo", bytes);
        self.refuse_by(report, variant, &path, &CHECKERS, words);
        for opener in ["olmo-infer", "inspect"] {
            let outcome = Run::new(&mut self.opener(opener, &path)).and_then(|run| ends_without_crash(&run));
            report.add(format_args!("{variant}, {opener}"), outcome);
        }
    }

    /// Every program that checks the tensors reports damage in `place`, one line for each damaged tensor.
    pub(crate) fn damage_is_reported(&self, report: &mut Report, variant: &str, path: &Path, place: &str) {
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

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, bytes).expect("written");
        path
    }
}
