//! Opening a model reads its header, its index and the tables of coded matrices, and nothing of its tensors.

use olmo_infer::index::{Index, ReadAt};
use olmo_tests::packed::Packed;
use std::cell::RefCell;
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
