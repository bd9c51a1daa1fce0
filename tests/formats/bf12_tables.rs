//! Tables that control the decoding of bf12 matrices are checked when a file is opened, also under matching digests.

use crate::PACK;
use olmo_infer::internals::error::Error;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::{self, HEADER_BYTES, SECTION_RECORD_BYTES, TENSOR_RECORD_BYTES, section};
use olmo_tests::crafted::repair_digests;
use olmo_tests::{TempDir, run, write_bf12_weights};
use std::fs;
use std::ops::Range;

/// Position of `gate_proj` in the index.
const GATE_PROJ: usize = 8;
/// Steps of `gate_proj`.
const GATE_STEPS: u32 = 9;

/// A packed file that can be changed and opened again.
struct Case {
    folder: TempDir,
    bytes: Vec<u8>,
    n_tensors: usize,
    /// The extent of the tables.
    coded: Range<usize>,
    /// The extent of the table of `gate_proj`.
    gate: Range<usize>,
}

impl Case {
    fn new(flags: &[&str]) -> Case {
        let folder = TempDir::new("bf12-refused");
        let (weights, model) = (folder.join("w"), folder.join("m.olmo"));
        write_bf12_weights(&weights);
        run(PACK, [weights.to_str().expect("UTF-8"), model.to_str().expect("UTF-8")].iter().chain(flags)).ok();
        let file = ModelFile::open(&model).expect("a good file");
        let (mut coded, mut gate) = (0..0, 0..0);
        if let Some(index) = file.sections().iter().position(|record| record.kind.get() == section::BF12) {
            let extent = file.layout().sections[index];
            coded = extent.offset as usize..extent.end() as usize;
            let table_bytes = |index: usize| {
                let n_panels = file.specs()[index].rows.div_ceil(64);
                file.bf12_table(index).map_or(0, |table| 16 + 4 * (n_panels + table.n_raw_steps()))
            };
            let begin = coded.start + (0..GATE_PROJ).map(table_bytes).sum::<usize>();
            gate = begin..begin + table_bytes(GATE_PROJ);
            assert_eq!(gate.len(), 16 + 4 + 4);
        }
        let n_tensors = file.specs().len();
        Case { bytes: fs::read(&model).expect("read"), folder, n_tensors, coded, gate }
    }

    /// The offset of the record of a tensor.
    fn record(&self, index: usize) -> usize {
        HEADER_BYTES + index * TENSOR_RECORD_BYTES
    }

    /// The offset of the record of the section `BF12`, which is the last one.
    fn section_record(&self) -> usize {
        let n_sections = u32::from_le_bytes(*self.bytes[48..].first_chunk().expect("a header")) as usize;
        self.record(self.n_tensors) + (n_sections - 1) * SECTION_RECORD_BYTES
    }

    /// Opens the file with `changes`, each some bytes at an offset; digests are made right for all but `BF12`, which
    /// has the choice.
    fn open(&self, changes: &[(usize, &[u8])], right_digest: bool) -> Result<ModelFile, Error> {
        let mut bytes = self.bytes.clone();
        for (at, change) in changes {
            bytes[*at..*at + change.len()].copy_from_slice(change);
        }
        if right_digest {
            let digest = format::digest(&bytes[self.coded.clone()], section::BF12.into());
            let at = self.section_record() + 24;
            bytes[at..at + 8].copy_from_slice(&digest.to_le_bytes());
        }
        repair_digests(&mut bytes);
        let path = self.folder.join("changed.olmo");
        fs::write(&path, bytes).expect("written");
        ModelFile::open(&path)
    }

    /// Asserts that the change is refused as damage, and with what.
    #[track_caller]
    fn assert_damaged(&self, changes: &[(usize, &[u8])], right_digest: bool, place: &str, found: &str) {
        match self.open(changes, right_digest) {
            Err(Error::Damaged { place: at, found: what, .. }) => {
                assert_eq!((at.as_str(), what.as_str()), (place, found))
            }
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("{place}: {found} was not refused"),
        }
    }
}

#[test]
fn opens_unchanged_file() {
    let case = Case::new(&["--dtype", "bf16"]);
    case.open(&[], true).expect("nothing changed");
    let Err(Error::Damaged { place, .. }) = case.open(&[(case.coded.start, &[0])], false) else {
        panic!("a flipped byte of the tables was not refused");
    };
    assert_eq!(place, "section BF12: digest");
}

/// Row O27, in the process.
#[test]
fn refuses_malformed_tables_by_tensor() {
    let case = Case::new(&["--dtype", "bf16"]);
    let gate = case.gate.start;
    let place = "section BF12: model.layers.0.mlp.gate_proj.weight";
    let u32 = |number: u32| number.to_le_bytes();
    let exponents: [u8; 16] = *case.bytes[gate..].first_chunk().expect("exponents");
    let mut descending = exponents;
    descending.swap(4, 5);
    case.assert_damaged(&[(gate, &descending)], true, place, &format!("exponents {descending:?}"));
    let equal = [exponents[1]; 1];
    let mut twice = exponents;
    twice[2] = exponents[1];
    case.assert_damaged(&[(gate + 2, &equal)], true, place, &format!("exponents {twice:?}"));
    case.assert_damaged(&[(gate + 16, &u32(0))], true, place, "0 raw steps");
    case.assert_damaged(&[(gate + 16, &u32(2))], true, place, "a panel with 2 raw steps after 0 others");
    case.assert_damaged(&[(gate + 20, &u32(GATE_STEPS))], true, place, &format!("raw step {GATE_STEPS}"));
    case.open(&[(gate + 20, &u32(GATE_STEPS - 1))], true).expect("a step of the panel");
    // The embedding has two panels with a raw step each; both in the second one must ascend.
    let embedding = case.coded.start;
    let place = "section BF12: model.embed_tokens.weight";
    let counts = [u32(0), u32(2)].concat();
    for (steps, is_good) in [([3, 5], true), ([5, 3], false), ([5, 5], false)] {
        let steps_bytes = steps.map(u32).concat();
        let changes: &[(usize, &[u8])] = &[(embedding + 16, &counts), (embedding + 24, &steps_bytes)];
        match is_good {
            // The positions of the raw steps do not change the length.
            true => drop(case.open(changes, true).expect("ascending")),
            false => case.assert_damaged(changes, true, place, &format!("raw step {} after {}", steps[1], steps[0])),
        }
    }
    // Tables of different lengths that changed places.
    let up = case.gate.end;
    let exchanged = [&case.bytes[up..up + 20], &case.bytes[case.gate.clone()]].concat();
    let found = case.open(&[(gate, &exchanged)], true).err().expect("refused").to_string();
    assert!(found.contains("section BF12: model.layers.0.mlp."), "{found}");
}

/// Row O26, in the process.
#[test]
fn refuses_sections_that_contradict_records() {
    let case = Case::new(&["--dtype", "bf16"]);
    let section = case.section_record();
    let bytes = case.coded.len() as u64;
    for length in [bytes - 4, bytes + 4, 0] {
        let change = length.to_le_bytes();
        case.assert_damaged(&[(section + 16, &change)], true, "section BF12", &format!("{length} bytes"));
    }
    // Not required, and another kind.
    case.assert_damaged(&[(section + 4, &[0; 4])], true, "section BF12", "unknown flags");
    case.assert_damaged(&[(section, &6u32.to_le_bytes()), (section + 4, &[0; 4])], true, "section BF12", "no section");
    // A raw step more or less moves everything behind it.
    let raw = case.record(GATE_PROJ) + 20;
    case.assert_damaged(&[(raw, &0u32.to_le_bytes())], true, "section BF12", &format!("{bytes} bytes"));
    case.assert_damaged(&[(raw, &2u32.to_le_bytes())], true, "model.layers.0.mlp.gate_proj.weight", "2 raw steps");
    case.assert_damaged(&[(raw, &[0xff; 4])], true, "model.layers.0.mlp.gate_proj.weight", "4294967295 raw steps");
}

#[test]
fn encoding_requires_the_feature_bit() {
    let coded = Case::new(&["--dtype", "bf16"]);
    let features = |bits: u64| bits.to_le_bytes();
    coded.assert_damaged(&[(24, &features(0))], true, "required features", "0");
    for bits in [2, 3] {
        coded.assert_damaged(&[(24, &features(bits))], true, "number of tensors", "14");
    }
    coded.assert_damaged(&[(24, &features(5))], true, "required features", "5");
    for bits in [8, 17] {
        coded.assert_damaged(&[(24, &features(bits))], true, "required features", &bits.to_string());
    }
    for bits in [32, 33, 1 << 63] {
        let refused = coded.open(&[(24, &features(bits))], true).err().expect("refused");
        assert!(
            matches!(&refused, Error::Version { found, .. } if *found == format!("feature bits {bits:#x}")),
            "{refused}"
        );
    }
    for flags in [["--dtype", "bf16", "--encoding", "plain"], ["--dtype", "f32", "--encoding", "auto"]] {
        let plain = Case::new(&flags);
        assert_eq!(plain.coded, 0..0, "{flags:?}");
        plain.assert_damaged(&[(24, &features(1))], false, "required features", "1");
        let encoding = plain.record(GATE_PROJ) + 16;
        let name = "model.layers.0.mlp.gate_proj.weight";
        plain.assert_damaged(&[(encoding, &2u32.to_le_bytes())], false, name, "encoding 2");
        plain.assert_damaged(&[(encoding + 4, &1u32.to_le_bytes())], false, name, "1 raw steps");
        let change = 1u32.to_le_bytes();
        if flags[1] == "f32" {
            plain.assert_damaged(&[(encoding, &change), (24, &features(1))], false, name, "encoding 1 (bf12)");
        } else {
            plain.assert_damaged(&[(encoding, &change), (24, &features(1))], false, "section BF12", "no section");
        }
    }
    // A vector.
    let norm = coded.record(4) + 16;
    let name = "model.layers.0.self_attn.q_norm.weight";
    coded.assert_damaged(&[(norm, &1u32.to_le_bytes())], true, name, "encoding 1 (bf12)");
}
