//! Mixed encodings and drafts that contradict each other or the header are refused by both readers, each in a line.

use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::{HEADER_BYTES, Header, SectionRecord, TensorRecord, section};
use olmo_tests::crafted::{Field, repair_digests};
use olmo_tests::packed::Packed;
use olmo_tests::python;
use olmo_tests::readers::Readers;
use std::mem::offset_of;
use std::path::Path;

/// Positions of the drafts of [`Packed::mixed`].
const FIRST_DRAFT: usize = 14;
const N_DRAFTS: usize = 5;

struct Case {
    good: Packed,
    readers: Option<Readers>,
}

impl Case {
    fn new() -> Case {
        let readers = python("scripts/read_olmo.py", "numpy, xxhash");
        let readers = readers.map(|python| Readers::new(&python).expect("the script starts"));
        let mut case = Case { good: Packed::mixed(), readers };
        let good = case.good.bytes.clone();
        ModelFile::from_bytes(Path::new("m.olmo"), &good).expect("a good file");
        case.agree(&good, true);
        case
    }

    fn agree(&mut self, bytes: &[u8], is_good: bool) {
        if let Some(readers) = &mut self.readers {
            assert_eq!(readers.compare(bytes), Ok(is_good));
        }
    }

    /// Asserts that the file with these changes, its digests right, is refused, and with which words.
    #[track_caller]
    fn refuses(&mut self, change: impl FnOnce(&mut [u8]), says: &str) {
        let mut bytes = self.good.bytes.clone();
        change(&mut bytes);
        repair_digests(&mut bytes);
        let error = ModelFile::from_bytes(Path::new("m.olmo"), &bytes).err().expect(says).to_string();
        assert!(error.contains(says) && !error.contains('\n'), "{error}\nexpected {says}");
        self.agree(&bytes, false);
    }
}

fn tensor(index: usize, at: usize) -> Field {
    Field::of_tensor(index, at, 4)
}

/// The bytes of the record of a tensor.
fn record(index: usize) -> std::ops::Range<usize> {
    let begin = HEADER_BYTES + index * size_of::<TensorRecord>();
    begin..begin + size_of::<TensorRecord>()
}

#[test]
fn refuses_drafts_that_the_header_contradicts() {
    let mut case = Case::new();
    let features = Field::of_header(offset_of!(Header, required_features), 8);
    let n_tensors = Field::of_header(offset_of!(Header, n_tensors), 4);
    let index_bytes = Field::of_header(offset_of!(Header, index_bytes), 8);
    assert_eq!(features.get(&case.good.bytes), 3);
    case.refuses(|bytes| features.set(bytes, 1), "number of tensors: found 19, expected 14");
    case.refuses(|bytes| features.set(bytes, 2), "required features: found 2, expected 3");
    case.refuses(|bytes| features.set(bytes, 7), "required features: found 7, expected 3");
    case.refuses(|bytes| features.set(bytes, 11), "required features: found 11, expected 3");
    case.refuses(|bytes| features.set(bytes, 35), "needs feature bits 0x23");
    for n in [0, 13, 14, 24, u32::MAX.into()] {
        let says = format!("number of tensors: found {n}, expected 14 and 1 to 9 drafts");
        case.refuses(|bytes| n_tensors.set(bytes, n), &says);
    }
    case.refuses(|bytes| n_tensors.set(bytes, 18), "index bytes: found ");
    // The last record read as one of sections, and the first section as a draft.
    for n in [18, 20] {
        let change = |bytes: &mut [u8]| {
            let more = (n as usize * size_of::<TensorRecord>()) as u64;
            let sections = index_bytes.get(bytes) - 19 * size_of::<TensorRecord>() as u64;
            n_tensors.set(bytes, n);
            index_bytes.set(bytes, more + sections);
        };
        case.refuses(change, "section ");
    }
}

#[test]
fn refuses_drafts_of_other_tensors() {
    let mut case = Case::new();
    let role = |draft: usize| tensor(FIRST_DRAFT + draft, offset_of!(TensorRecord, role));
    let layer = |draft: usize| tensor(FIRST_DRAFT + draft, offset_of!(TensorRecord, layer));
    let says = "expected the drafts of matrices of the model, in their order, each once";
    // A matrix of the model, no role, norms, a draft of a draft.
    for code in [0, 1, 3, 14, 0x100, 0x105, 0x106, 0x10d, 0x10f, 0x203, 0x303, u32::MAX.into()] {
        case.refuses(|bytes| role(1).set(bytes, code), says);
    }
    for number in [1, 7, u32::MAX.into()] {
        case.refuses(|bytes| layer(1).set(bytes, number), says);
    }
    case.refuses(|bytes| layer(0).set(bytes, 0), says);
    for draft in 1..N_DRAFTS {
        let (before, this) = (record(FIRST_DRAFT + draft - 1), record(FIRST_DRAFT + draft));
        case.refuses(|bytes| bytes.copy_within(before.clone(), this.start), says);
        let exchange = |bytes: &mut [u8]| {
            let (one, other) = (bytes[before.clone()].to_vec(), bytes[this.clone()].to_vec());
            bytes[before.clone()].copy_from_slice(&other);
            bytes[this.clone()].copy_from_slice(&one);
        };
        case.refuses(exchange, says);
    }
    // A draft where a tensor of the model is expected.
    case.refuses(|bytes| tensor(1, offset_of!(TensorRecord, role)).set(bytes, 0x102), "q_proj.weight: role: found 258");
    // Shapes: those of the matrix.
    let name = "draft.model.layers.0.mlp.up_proj.weight";
    let field = |at: usize| Field::of_tensor(FIRST_DRAFT + 3, at, 8);
    for (at, field_name) in [(offset_of!(TensorRecord, rows), "rows"), (offset_of!(TensorRecord, columns), "columns")] {
        for value in [0, 1, 64, u64::MAX] {
            case.refuses(
                |bytes| field(at).set(bytes, value),
                &format!("{name}: {field_name}: found {value}, expected "),
            );
        }
    }
    let layout = tensor(FIRST_DRAFT + 3, offset_of!(TensorRecord, layout));
    case.refuses(|bytes| layout.set(bytes, 1), &format!("{name}: layout: found 1, expected 2"));
}

#[test]
fn refuses_encodings_that_contradict() {
    let mut case = Case::new();
    let dtype = |index: usize| tensor(index, offset_of!(TensorRecord, dtype));
    let encoding = |index: usize| tensor(index, offset_of!(TensorRecord, encoding));
    let raw = |index: usize| tensor(index, offset_of!(TensorRecord, n_raw_steps));
    // Norms, in bf16 and in bf12.
    case.refuses(|bytes| dtype(4).set(bytes, 2), "q_norm.weight: found element type 2, expected 1 (f32)");
    let bf12_norm = |bytes: &mut [u8]| {
        dtype(4).set(bytes, 2);
        encoding(4).set(bytes, 1);
    };
    case.refuses(bf12_norm, "q_norm.weight: found element type 2, expected 1 (f32)");
    case.refuses(|bytes| encoding(4).set(bytes, 1), "q_norm.weight: found encoding 1 (bf12), expected 0 (plain)");
    // Matrices: v_proj is bf12, k_proj f32, q_proj bf16.
    let says = "v_proj.weight: found encoding 1 (bf12), expected 0 (plain)";
    case.refuses(|bytes| dtype(3).set(bytes, 1), says);
    case.refuses(|bytes| encoding(3).set(bytes, 0), "section BF12: found ");
    case.refuses(|bytes| encoding(2).set(bytes, 1), "k_proj.weight: found encoding 1 (bf12), expected 0 (plain)");
    case.refuses(|bytes| encoding(1).set(bytes, 1), "section BF12: found ");
    let says = "q_proj.weight: found 1 raw steps, expected none, as in every tensor that is not bf12";
    case.refuses(|bytes| raw(1).set(bytes, 1), says);
    case.refuses(|bytes| dtype(2).set(bytes, 3), "k_proj.weight: found encoding 0, expected 2, 3 or 4 (scales)");
    for code in [0, 5, 255, u32::MAX.into()] {
        case.refuses(|bytes| dtype(2).set(bytes, code), &format!("k_proj.weight: found element type {code}, expected"));
    }
    for code in [2, 255, u32::MAX.into()] {
        case.refuses(|bytes| encoding(1).set(bytes, code), &format!("q_proj.weight: found encoding {code}, expected"));
    }
    // Other types of matrices have other sizes.
    case.refuses(|bytes| dtype(1).set(bytes, 1), ": found ");
    case.refuses(|bytes| dtype(2).set(bytes, 2), ": found ");
    // Drafts in the encoding of their matrices: up_proj is bf16, k_proj f32, and gate_proj bf12.
    let says = "expected another encoding than that of its matrix";
    case.refuses(|bytes| encoding(FIRST_DRAFT + 3).set(bytes, 0), says);
    case.refuses(|bytes| dtype(FIRST_DRAFT + 1).set(bytes, 1), says);
    let bf12_gate = |bytes: &mut [u8]| {
        dtype(FIRST_DRAFT + 2).set(bytes, 2);
        encoding(FIRST_DRAFT + 2).set(bytes, 1);
    };
    case.refuses(bf12_gate, says);
}

#[test]
fn refuses_drafts_without_their_tables() {
    let mut case = Case::new();
    let (n_tensors, n_sections) = (case.good.specs.len(), case.good.kinds.len());
    let at = case.good.kinds.iter().position(|&kind| kind == section::BF12).expect("tables");
    let bytes = Field::of_section(n_tensors, at, offset_of!(SectionRecord, bytes), 8);
    let whole = bytes.get(&case.good.bytes);
    // The table of the last draft, the head, is 16 exponents and the raw steps of two panels.
    case.refuses(|file| bytes.set(file, whole - 24), "section BF12: found ");
    let kind = Field::of_section(n_tensors, at, offset_of!(SectionRecord, kind), 4);
    let flags = Field::of_section(n_tensors, at, offset_of!(SectionRecord, flags), 4);
    assert!(at + 1 == n_sections || case.good.kinds[at + 1] > section::BF12 + 1);
    let other_kind = |file: &mut [u8]| {
        kind.set(file, u64::from(section::BF12) + 1);
        flags.set(file, 0);
    };
    case.refuses(other_kind, "section BF12: found no section, expected ");
    // A table that is not one of the head: its digest is right, its exponents do not ascend.
    let extent = case.good.layout.sections[at];
    let digest = Field::of_section(n_tensors, at, offset_of!(SectionRecord, digest), 8);
    let last_table = |file: &mut [u8]| {
        let tables = &mut file[extent.offset as usize..extent.end() as usize];
        let exponents = tables.len() - 24;
        tables.swap(exponents, exponents + 1);
        let right = olmo_infer::internals::format::digest(tables, section::BF12.into());
        digest.set(file, right);
    };
    case.refuses(last_table, "section BF12: draft.lm_head.weight: found exponents ");
}
