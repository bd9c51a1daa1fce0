//! Opening a model reads its header, its index and the tables of bf12 matrices, and nothing of its tensors. The parts
//! that a run uses can be loaded meanwhile.

use crate::{INFER, PACK};
use olmo_infer::internals::file::index::Index;
use olmo_infer::internals::file::model_file::{ModelFile, Which};
use olmo_infer::internals::file::reader::ReadAt;
use olmo_infer::internals::format::Encoding;
use olmo_infer::internals::format::config::ModelConfig;
use olmo_infer::internals::format::layout;
use olmo_infer::internals::format::tensors::tensors_of;
use olmo_tests::catalogue::{Run, measured};
use olmo_tests::crafted::claimed;
use olmo_tests::packed::{Packed, tiny_config};
use olmo_tests::{TempDir, run};
use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// Most memory of a program that reads no tensor, the pages of the file that it touches included.
const MAX_BYTES: u64 = 32 << 20;

/// Bytes that remember which of them were read.
struct Watched<'a> {
    bytes: &'a [u8],
    ends: RefCell<Vec<u64>>,
}

impl ReadAt for Watched<'_> {
    fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.ends.borrow_mut().push(offset + out.len() as u64);
        self.bytes.read_exact_at(out, offset)
    }
}

#[test]
fn opening_reads_no_tensors() {
    for packed in [Packed::plain_f32(), Packed::plain_bf16(), Packed::bf12()] {
        let file = Watched { bytes: &packed.bytes, ends: RefCell::default() };
        let index = Index::read(Path::new("m.olmo"), &file, packed.bytes.len() as u64).expect("a good file");
        let ends = file.ends.into_inner();
        assert!(ends.len() >= 2, "the header and the index: {ends:?}");
        assert!(ends.iter().all(|&end| end <= index.layout.data_offset), "{}: {ends:?}", packed.name);
    }
}

/// The programs as they are, at a file of 100 GB of which the tensors are a hole: memory holds every page that they
/// look at. All of a file that is less than two seconds old is read once, so this one is older.
#[test]
fn program_reads_no_tensors_before_it_computes() {
    let folder = TempDir::new("opened");
    let (model, tokens) = (folder.join("m.olmo"), folder.join("t.bin"));
    let config = ModelConfig { vocab_size: 1 << 24, hidden_size: 3072, ..tiny_config() };
    let encodings = layout::uniform(&tensors_of(&config), Encoding::Bf16);
    let (bytes, layout) = claimed(&Packed::plain_bf16().bytes, &config, &encodings);
    assert!(layout.file_bytes > 100_000_000_000);
    fs::write(&model, bytes).expect("written");
    File::options().write(true).open(&model).expect("open").set_len(layout.file_bytes).expect("a sparse file");
    fs::write(&tokens, (1u32 << 24).to_le_bytes()).expect("written");
    sleep(Duration::from_millis(2100));
    run(PACK, ["inspect".as_ref(), model.as_os_str()]).ok();
    let inspected = Run::new(measured(PACK).arg("inspect").arg(&model)).expect("it runs");
    let refused = Run::new(measured(INFER).arg(&model).arg(&tokens)).expect("it runs");
    assert!(refused.stderr.contains("token 0 is 16777216"), "{}", refused.stderr);
    for (run, status) in [(inspected, 0), (refused, 1)] {
        assert_eq!(run.status.code(), Some(status), "{}", run.stderr);
        assert!(run.used.is_some_and(|used| used.peak_bytes < MAX_BYTES), "{:?}", run.used);
    }
}

#[test]
fn embedding_is_populated_only_when_tied() {
    for (packed, first) in [(Packed::plain_f32(), 0), (Packed::plain_bf16(), 1)] {
        let folder = TempDir::new("brought-in");
        let path = folder.join("m.olmo");
        fs::write(&path, &packed.bytes).expect("written");
        let model = ModelFile::open(&path).expect("a good file");
        let populated = model.populate(Which::default(), &|| false).expect("brought in");
        let wanted = model.layout().file_bytes - model.layout().tensors[first].offset;
        if populated.complete {
            assert_eq!(populated.bytes as u64, wanted, "{}", packed.name);
            // Pages are counted whole, if the OS reports how many there are.
            assert!(model.resident().is_none_or(|resident| resident.bytes >= wanted), "{}: {wanted}", packed.name);
        } else {
            olmo_tests::skipped("this system cannot bring pages in ahead of their use");
        }
        let stopped = model.populate(Which::default(), &|| true).expect("not begun");
        assert_eq!((stopped.bytes, stopped.complete), (0, false), "{}", packed.name);
    }
}
