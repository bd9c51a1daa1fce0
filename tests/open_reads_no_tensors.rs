//! Opening a model reads its header, its index and the tables of coded matrices, and nothing of its tensors. What a run
//! uses of these can be brought in beside it.

use olmo_infer::index::{Index, ReadAt};
use olmo_infer::model_file::ModelFile;
use olmo_tests::TempDir;
use olmo_tests::packed::Packed;
use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::Path;

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
fn opening_reads_nothing_of_the_tensors() {
    for packed in [Packed::plain_f32(), Packed::plain_bf16(), Packed::coded()] {
        let file = Watched { bytes: &packed.bytes, ends: RefCell::default() };
        let index = Index::read(Path::new("m.olmo"), &file, packed.bytes.len() as u64).expect("a good file");
        let ends = file.ends.into_inner();
        assert!(ends.len() >= 2, "the header and the index: {ends:?}");
        assert!(ends.iter().all(|&end| end <= index.layout.data_offset), "{}: {ends:?}", packed.name);
    }
}

#[test]
fn an_embedding_is_brought_in_only_when_it_is_the_head_too() {
    for (packed, first) in [(Packed::plain_f32(), 0), (Packed::plain_bf16(), 1)] {
        let folder = TempDir::new("brought-in");
        let path = folder.join("m.olmo");
        fs::write(&path, &packed.bytes).expect("written");
        let model = ModelFile::open(&path).expect("a good file");
        let populated = model.populate(&|| false).expect("brought in");
        let wanted = model.layout().file_bytes - model.layout().tensors[first].offset;
        if populated.complete {
            assert_eq!(populated.bytes as u64, wanted, "{}", packed.name);
            // Pages are counted whole, where the system says how many there are.
            assert!(model.resident().is_none_or(|resident| resident.bytes >= wanted), "{}: {wanted}", packed.name);
        } else {
            olmo_tests::skipped("this system cannot bring pages in ahead of their use");
        }
        let stopped = model.populate(&|| true).expect("not begun");
        assert_eq!((stopped.bytes, stopped.complete), (0, false), "{}", packed.name);
    }
}
