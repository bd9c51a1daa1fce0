//! The sections of a model file that are about text: an error reports the wrong values, also when the digests match.

use olmo_infer::internals::error::Error;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::{
    self, Dtype, SectionRecord, TOKENIZER_UNKNOWN, TokenizerHead, VocabularyHead, section,
};
use olmo_infer::internals::os::disk::SystemDisk;
use olmo_infer::internals::text::chat::{Chat, Message, Role, Style};
use olmo_infer::internals::text::tokenizer::Tokenizer;
use olmo_infer::internals::text::vocabulary::Vocabulary;
use olmo_pack::commands::inspect::{self, Form};
use olmo_pack::commands::pack::{self, Prepared, Request};
use olmo_pack::text::Part;
use olmo_pack::text::chat_section;
use olmo_tests::crafted::{Field, repair_digests};
use olmo_tests::packed::{Packed, range};
use olmo_tests::{TempDir, repository};
use std::fs;
use std::mem::offset_of;
use std::path::Path;

/// The end of every error that a damaged file causes.
const DAMAGED: &str = "; the file is damaged, copy or pack it again";

fn open(bytes: &[u8]) -> ModelFile {
    ModelFile::from_bytes(Path::new("m.olmo"), bytes).expect("a good index")
}

/// The demo, which has a tokenizer, before it is packed.
fn prepared(folder: &TempDir) -> Prepared {
    let (weights, model) = (repository().join("demo/weights"), folder.join("m.olmo"));
    let request = Request { weights, model, threads: 1, ..Request::default() };
    pack::prepare(&request).expect("a good folder")
}

/// The same as a model file.
fn demo() -> Vec<u8> {
    let folder = TempDir::new("sections");
    prepared(&folder).write(&SystemDisk, &|_, _| ()).expect("packed");
    fs::read(folder.join("m.olmo")).expect("a model")
}

/// `file` with another section of this kind, of the same length and under a right digest.
fn changed(file: &[u8], kind: u32, change: impl Fn(&mut [u8])) -> ModelFile {
    open(&changed_bytes(file, kind, change))
}

fn changed_bytes(file: &[u8], kind: u32, change: impl Fn(&mut [u8])) -> Vec<u8> {
    let model = open(file);
    let index = model.sections().iter().position(|record| record.kind.get() == kind).expect("a section");
    let mut bytes = file.to_vec();
    let section = &mut bytes[range(model.layout().sections[index])];
    change(section);
    let digest = format::digest(section, kind.into());
    Field::of_section(model.specs().len(), index, offset_of!(SectionRecord, digest), 8).set(&mut bytes, digest);
    repair_digests(&mut bytes);
    bytes
}

fn tokenizer(model: &ModelFile) -> Result<bool, Error> {
    let vocabulary = Vocabulary::new(model).expect("a good one").expect("there");
    Tokenizer::new(model, &vocabulary).map(|tokenizer| tokenizer.is_some())
}

#[test]
fn vocabulary_has_the_length_of_its_head() {
    let file = demo();
    let good = open(&file);
    let n_tokens = Vocabulary::new(&good).expect("a good one").expect("there").n_tokens() as u64;
    let n_bytes = good.section_bytes(section::VOCABULARY).expect("there").len();
    for (name, at, length, value) in [
        ("no token", offset_of!(VocabularyHead, n_tokens), 4, 0),
        ("a token too many", offset_of!(VocabularyHead, n_tokens), 4, n_tokens + 1),
        ("too many tokens", offset_of!(VocabularyHead, n_tokens), 4, u32::MAX.into()),
        ("a reserved field", offset_of!(VocabularyHead, reserved), 4, 1),
        ("no text", offset_of!(VocabularyHead, text_bytes), 8, 0),
        ("too much text", offset_of!(VocabularyHead, text_bytes), 8, u64::MAX),
    ] {
        let model = changed(&file, section::VOCABULARY, |section| Field { at, bytes: length }.set(section, value));
        let error = Vocabulary::new(&model).err().expect(name).to_string();
        let found = format!("m.olmo: vocabulary: found {n_bytes} bytes, expected the length in its head");
        assert_eq!(error, found + DAMAGED, "{name}");
    }
}

#[test]
fn digest_detects_any_changed_byte() {
    let mut file = demo();
    let model = open(&file);
    for (kind, name) in [(section::VOCABULARY, "VOCABULARY"), (section::TOKENIZER, "TOKENIZER")] {
        let index = model.sections().iter().position(|record| record.kind.get() == kind).expect("a section");
        let stated = model.sections()[index].digest.get();
        let place = range(model.layout().sections[index]);
        file[place.end - 1] ^= 1;
        let found = format::digest(&file[place.clone()], kind.into());
        let error = open(&file).checked_section(kind).expect_err("another byte").to_string();
        assert_eq!(
            error,
            format!("m.olmo: digest of section {name}: found {found:016x}, expected {stated:016x}{DAMAGED}")
        );
        file[place.end - 1] ^= 1;
        assert_eq!(open(&file).checked_section(kind).expect("as it was"), Some(file[place].to_vec()));
    }
}

#[test]
fn unsupported_tokenizer_gives_the_reason() {
    let file = demo();
    assert!(tokenizer(&open(&file)).expect("a good one"));
    let head = |at: usize, value: u64| {
        let model = changed(&file, section::TOKENIZER, |section| Field { at, bytes: 4 }.set(section, value));
        tokenizer(&model).expect_err("none").to_string()
    };
    assert_eq!(
        head(offset_of!(TokenizerHead, kind), 77),
        "its tokenizer is of kind 77, which this version of olmo-infer does not support"
    );
    let pre_tokenizer = head(offset_of!(TokenizerHead, pre_tokenizer), 9);
    let expected = "m.olmo: tokenizer: found pre-tokenizer 9, expected what format-spec.md describes";
    assert_eq!(pre_tokenizer, format!("{expected}{DAMAGED}"));
    // The reason follows the head, and stays one line.
    let unknown = changed_bytes(&file, section::TOKENIZER, |section| {
        section.fill(b'z');
        section[..size_of::<TokenizerHead>()].fill(0);
        Field { at: offset_of!(TokenizerHead, kind), bytes: 4 }.set(section, TOKENIZER_UNKNOWN.into());
        section[size_of::<TokenizerHead>()..][..8].copy_from_slice("why\n\u{1b}\u{9b}m".as_bytes());
    });
    let error = tokenizer(&open(&unknown)).expect_err("not known").to_string();
    let rest = error.strip_prefix("olmo-pack does not support its tokenizer: why\\n\\u{1b}\\u{9b}m");
    let rest = rest.expect("one line");
    assert!(!rest.is_empty() && rest.bytes().all(|byte| byte == b'z'), "{rest}");
    let folder = TempDir::new("sections-unknown");
    fs::write(folder.join("m.olmo"), unknown).expect("written");
    let shown = inspect::run(&folder.join("m.olmo"), Form::Table).expect("inspected");
    assert!(shown.contains("not known: why\\n\\u{1b}\\u{9b}mz"), "{shown}");
}

/// A template takes a process and seconds; what is refused for another reason should not cost them.
#[test]
fn template_runs_after_all_other_checks() {
    let folder = TempDir::new("sections-order");
    let weights = folder.join("w");
    fs::create_dir(&weights).expect("a folder");
    for name in olmo_infer::internals::os::directory::names(&repository().join("demo/weights")).expect("a folder") {
        let name = name.expect("read");
        fs::copy(repository().join("demo/weights").join(&name), weights.join(&name)).expect("copied");
    }
    fs::write(weights.join("chat_template.jinja"), "{{ messages }}").expect("written");
    let refused = || {
        let request =
            Request { weights: weights.clone(), model: folder.join("m.olmo"), threads: 1, ..Request::default() };
        pack::prepare(&request).err().expect("no program runs the template").to_string()
    };
    assert!(refused().contains("its chat template was not run"), "{}", refused());
    fs::write(weights.join("tokenizer.json"), "{").expect("written");
    assert!(refused().contains("tokenizer.json: "), "{}", refused());
}

#[test]
fn absent_section_reads_as_none() {
    let model = open(&Packed::plain_f32().bytes);
    assert!(!tokenizer(&model).expect("absent is allowed"));
    assert!(model.section_bytes(section::CHAT).is_none());
    assert_eq!(model.checked_section(section::CHAT).expect("absent is allowed"), None);
}

#[test]
fn refuses_sections_beyond_their_limit() {
    let folder = TempDir::new("long-section");
    let mut prepared = prepared(&folder);
    let mut plan = |bytes: usize| {
        prepared.text.chat = Part::Known(vec![0; bytes], "chat_template.jinja");
        prepared.plain_plan(Dtype::F32).map(|plan| plan.layout.sections.len()).map_err(|error| error.to_string())
    };
    assert_eq!(plan(16 << 20), Ok(7));
    let found = "section CHAT would have 16777217 bytes, expected at most 16777216";
    assert_eq!(plan((16 << 20) + 1), Err(format!("{}: {found}", repository().join("demo/weights").display())));
}

#[test]
fn chat_format_is_read_or_gives_the_reason() {
    let folder = TempDir::new("chat-section");
    let packed = |part: Part| {
        if folder.join("m.olmo").exists() {
            fs::remove_file(folder.join("m.olmo")).expect("removed");
        }
        let mut prepared = prepared(&folder);
        prepared.text.chat = part;
        prepared.write(&SystemDisk, &|_, _| ()).expect("packed");
        fs::read(folder.join("m.olmo")).expect("a model")
    };
    let chat = Chat {
        alone: Some(Style {
            open: ["<user>".into(), "".into()],
            ask: ["<\u{e9}>".into(), "".into()],
            ..Style::default()
        }),
        ..Chat::default()
    };
    let file = packed(Part::Known(chat_section::section(&chat), "chat_template.jinja"));
    assert_eq!(Chat::new(&open(&file)).expect("a good one"), Some(chat.clone()));
    assert_eq!(chat.render(&[Message::new(Role::User, "a")]).as_deref(), Ok("<user>a<\u{e9}>"));
    let n_bytes = open(&file).section_bytes(section::CHAT).expect("there").len();
    for at in [0, 4, 12, 20, n_bytes - 1] {
        let error = Chat::new(&changed(&file, section::CHAT, |section| section[at] ^= 0x80)).expect_err("damaged");
        let expected = "expected what format-spec.md describes";
        assert_eq!(
            error.to_string(),
            format!("m.olmo: chat format: found {n_bytes} bytes, {expected}{DAMAGED}"),
            "{at}"
        );
    }
    let file = packed(Part::Unknown("its chat template\nis \u{1b} bad".into()));
    let error = Chat::new(&open(&file)).expect_err("unusable").to_string();
    assert_eq!(error, "its chat template\\nis \\u{1b} bad");
}
