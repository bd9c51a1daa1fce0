//! Row O8: malformed vocabularies.

use super::ends_without_crash;
use super::model::Model;
use olmo_infer::internals::format::section;
use olmo_tests::catalogue::{Report, Run};

/// Row O8.
#[test]
fn refuses_malformed_vocabularies() {
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
        let outcome = Run::new(&mut model.opener("olmo-infer", &path)).and_then(|run| ends_without_crash(&run));
        report.add(format_args!("offset at {at}, olmo-infer"), outcome);
    }
}
