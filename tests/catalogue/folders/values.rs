//! Row W19: numbers that are not finite.

use super::{Case, EMBEDDING, HEAD, NORM, UP_PROJ, shaped, spoiled};
use olmo_tests::catalogue::Report;
use olmo_tests::{Stored, npy_header_raw, small_config, write_weights};
use std::fs;
use std::path::Path;

/// Writes these bits at an index of a tensor, whose elements have 2 or 4 bytes.
fn poke(path: &Path, index: usize, bits: &[u8]) {
    let mut bytes = fs::read(path).expect("read");
    bytes[128 + index * bits.len()..][..bits.len()].copy_from_slice(bits);
    fs::write(path, bytes).expect("written");
}

/// Row W19: NaN and infinity; -0, subnormal numbers, all zero.
#[test]
fn w19_refuses_non_finite_weights() {
    let mut report = Report::new("W19");
    let f32s = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0x7f80_0001)];
    let all = f32s.map(|number| (Stored::F32, number.to_le_bytes().to_vec()));
    let halves = [0x7c00u16, 0xfc00, 0x7c01, 0x7e00].map(|bits| (Stored::F16, bits.to_le_bytes().to_vec()));
    let bf16s = [0x7f80u16, 0xff80, 0x7f81, 0xffc0].map(|bits| (Stored::Bf16, bits.to_le_bytes().to_vec()));
    for (stored, bits) in all.into_iter().chain(halves).chain(bf16s) {
        let case = Case::new();
        write_weights(&case.weights, &small_config(), stored, 1);
        poke(&case.file(UP_PROJ), 36 * 70 + 35, &bits);
        let words = ["1 of its numbers are NaN or infinite, the first at [70, 35]", "--allow-nonfinite"];
        report.add(format_args!("{stored:?} {bits:02x?}"), case.refused(case.file(UP_PROJ), &words));
        report.add(format_args!("{stored:?} {bits:02x?} allowed"), case.packed(&["--allow-nonfinite"]));
    }
    let nan = f32::NAN.to_le_bytes();
    for (tensor, index, place) in
        [(NORM, 0, "[0]"), (NORM, 35, "[35]"), (EMBEDDING, 0, "[0, 0]"), (HEAD, 3635, "[100, 35]")]
    {
        let outcome = spoiled(tensor, &[&format!("the first at {place}"), "expected finite numbers"], |path| {
            poke(path, index, &nan)
        });
        report.add(format_args!("{tensor} {place}"), outcome);
    }
    let case = Case::new();
    fs::write(case.file(NORM), [npy_header_raw(&shaped("(36,)")), nan.repeat(36)].concat()).expect("written");
    report.add("all of them", case.refused(case.file(NORM), &["36 of its numbers", "the first at [0]"]));
}
