//! Row O30: the kept header of a GGUF file.

use super::model::Model;
use olmo_infer::internals::format::section;
use olmo_tests::catalogue::Report;
use olmo_tests::gguf::{Gguf, Meta, Tensor, of_folder};
use olmo_tests::readers::Readers;
use olmo_tests::{Stored, TempDir, bf12_config, python, run, write_weights};
use std::fs;

/// The commands that look at every section.
const COMMANDS: [&str; 4] = ["verify", "inspect", "unpack", "copy"];

/// A small model as a GGUF file.
fn gguf() -> Gguf {
    let folder = TempDir::new("kept-gguf-from");
    write_weights(folder.path(), &bf12_config(), Stored::F32, 3);
    of_folder(folder.path(), &bf12_config())
}

/// The model that a GGUF file is packed into.
fn model() -> Model {
    let folder = TempDir::new("kept-gguf");
    let (from, to) = (folder.join("m.gguf"), folder.join("good.olmo"));
    fs::write(&from, gguf().bytes()).expect("written");
    run(crate::PACK, [&from, &to]).ok();
    Model::of(folder)
}

/// The section of a file, changed.
fn section_of(change: impl FnOnce(&mut Gguf)) -> Vec<u8> {
    let mut gguf = gguf();
    change(&mut gguf);
    let (bytes, header) = (gguf.bytes(), gguf.header());
    let start = header.len().next_multiple_of(gguf.alignment);
    [&(bytes.len() as u64).to_le_bytes()[..], &bytes[..start]].concat()
}

/// Row O30: the kept header of a GGUF file: lengths, malformed headers, tensors of another model.
#[test]
fn o30_refuses_malformed_gguf_headers() {
    let model = model();
    let mut report = Report::new("O30");
    let good = section_of(|_| ());
    assert!(model.file.section_bytes(section::GGUF).is_some_and(|bytes| bytes.are(good[..].into())));
    let mut both = python("scripts/read_olmo.py", "numpy, xxhash").map(|python| Readers::new(&python).expect("starts"));
    let mut refuse = |variant: &str, section: &[u8], says: &str| {
        let sources = model.file.checked_section(section::SOURCES).expect("good").expect("there");
        let bytes =
            olmo_tests::crafted::with_sections(&model.good, &[(section::SOURCES, &sources), (section::GGUF, section)]);
        let path = model.write("bad.olmo", &bytes);
        model.refuse_by(&mut report, variant, &path, &COMMANDS, &["section GGUF: ", says]);
        if let Some(both) = &mut both {
            let found = both.compare(&bytes);
            report.holds(format_args!("{variant}, read_olmo.py"), found == Ok(false), format_args!("{found:?}"));
        }
    };
    for length in [0, 1, 7] {
        refuse(&format!("{length} bytes"), &good[..length], "no room for its head");
    }
    for length in [8, 12, 16, 100, good.len() - 1] {
        refuse(&format!("{length} bytes"), &good[..length], "a header that does not end with the section");
    }
    refuse("a byte more", &[&good[..], &[0]].concat(), "a header that does not end with the section");
    let with = |at: usize, bytes: &[u8]| {
        let mut section = good.clone();
        section[at..at + bytes.len()].copy_from_slice(bytes);
        section
    };
    for (length, says) in [
        (u64::MAX, "a file of 18446744073709551615 bytes"),
        (1 << 63, "a file of 9223372036854775808 bytes"),
        (i64::MAX as u64, "bytes after the last tensor"),
        (0, "expected a whole file"),
        (1000, "expected a whole file"),
    ] {
        refuse(&format!("a file of {length} bytes"), &with(0, &length.to_le_bytes()), says);
    }
    refuse("another magic", &with(8, b"GGML"), "not a GGUF file");
    refuse("version 2", &with(12, &[2]), "version 2 of GGUF");
    refuse("big-endian", &with(12, &[0, 0, 0, 3]), "version 3 for big-endian machines");
    for (variant, at) in [("tensors", 16), ("keys", 24)] {
        refuse(&format!("2^64 - 1 {variant}"), &with(at, &[0xff; 8]), &format!("18446744073709551615 {variant}"));
    }
    refuse("a text of 2^64 - 1 bytes", &with(32, &[0xff; 8]), "a text of 18446744073709551615 bytes");
    let key = |value: Meta| section_of(|gguf| gguf.set("general.x", value));
    refuse("a truth value", &key(Meta::Raw(7, vec![2])), "general.x: a truth value of 2");
    refuse("a type of values", &key(Meta::Raw(13, vec![])), "general.x: a value of type 13");
    let of_lists = [9u32.to_le_bytes().as_slice(), &[0; 8]].concat();
    refuse("a list of lists", &key(Meta::Raw(9, of_lists)), "general.x: a list of lists");
    let long_list = [8u32.to_le_bytes().as_slice(), &[0xff; 8]].concat();
    refuse("a list of 2^64 - 1 texts", &key(Meta::Raw(9, long_list)), "");
    for alignment in [0, 4, 33, 1 << 21, u32::MAX] {
        let section = section_of(|gguf| gguf.set("general.alignment", Meta::U32(alignment)));
        refuse(&format!("alignment {alignment}"), &section, "a power of two from 8 to 1048576");
    }
    let name = "output_norm.weight";
    let tensor = |change: &dyn Fn(&mut Tensor)| section_of(|gguf| change(gguf.tensor(name)));
    refuse("another name", &tensor(&|tensor| tensor.name = "x".into()), "output_norm.weight: missing");
    refuse("a name of a checkpoint", &tensor(&|tensor| tensor.name = "model.norm.weight".into()), "missing");
    refuse("no dimension", &tensor(&|tensor| tensor.shape.clear()), "0 dimensions");
    refuse("two dimensions", &tensor(&|tensor| tensor.shape.insert(0, 1)), "shape [1, 17], not that of the model");
    refuse("2^80 elements", &tensor(&|tensor| tensor.shape = vec![1 << 40, 1 << 40]), "more than 2^64 bytes");
    refuse("an unknown type", &tensor(&|tensor| tensor.kind = 4), "type 4");
    let other = |kind: u32, bytes: usize| {
        tensor(&move |tensor| (tensor.kind, tensor.data) = (kind, vec![0; bytes * tensor.shape[0] as usize]))
    };
    refuse("f16", &other(1, 2), "output_norm.weight: type F16, not that of its source");
    refuse("i32", &other(26, 4), "output_norm.weight: type I32, which no model is packed from");
    refuse("an offset", &tensor(&|tensor| tensor.offset = Some(1)), "expected data at ");
    let twice = section_of(|gguf| {
        let copy = gguf.tensor(name).clone();
        gguf.tensors.push(copy);
    });
    refuse("twice", &twice, "output_norm.weight: a tensor twice");
    let mut without_sources = |section: &[u8]| {
        let bytes = olmo_tests::crafted::with_sections(&model.good, &[(section::GGUF, section)]);
        let path = model.write("bad.olmo", &bytes);
        let says = ["section GGUF: without a section SOURCES"];
        model.refuse_by(&mut report, "no sources", &path, &["verify", "inspect", "copy"], &says);
    };
    without_sources(&good);
}
