//! Rows O19 and O20: damaged data.

use super::ends_without_crash;
use super::model::Model;
use olmo_infer::internals::format::{HEADER_BYTES, TensorRecord, digest};
use olmo_tests::catalogue::{Report, Run};
use olmo_tests::crafted::{Field, repair_digests};
use olmo_tests::{Stored, bf12_config, write_weights};
use std::mem::offset_of;

/// Row O19: flipped bits of the data.
#[test]
fn o19_verify_finds_flipped_bits() {
    let mut report = Report::new("O19");
    for model in [Model::plain(), Model::bf12()] {
        for (spec, extent) in model.file.specs().iter().zip(&model.file.layout().tensors) {
            for (at, bit) in [(extent.offset, 0x40), (extent.end() - 1, 0x01)] {
                let mut bytes = model.good.clone();
                bytes[at as usize] ^= bit;
                let says = format!(": {}: its digest is wrong", spec.name());
                model.refuse_when_checked(&mut report, &format!("{} {at}", spec.name()), &bytes, &[&says]);
            }
        }
    }
}

/// Row O19.
#[test]
fn o19_non_finite_weights_end_the_run() {
    let model = Model::plain();
    let mut report = Report::new("O19");
    for (tensor, number) in [
        ("embed_tokens", f32::NAN),
        ("q_proj", f32::INFINITY),
        ("v_proj", f32::NEG_INFINITY),
        ("down_proj", f32::NAN),
        ("model.norm", f32::INFINITY),
        ("lm_head", f32::NAN),
    ] {
        let extent = model.file.layout().tensors[model.tensor(tensor)];
        let mut bytes = model.good.clone();
        let words = bytes[extent.offset as usize..extent.end() as usize].as_chunks_mut::<4>().0;
        words.fill(number.to_le_bytes());
        // Under a right digest, as a weights folder with such numbers gives it.
        let index = model.tensor(tensor);
        let right = digest(&bytes[extent.offset as usize..extent.end() as usize], index as u64);
        Field::of_tensor(index, offset_of!(TensorRecord, digest), 8).set(&mut bytes, right);
        repair_digests(&mut bytes);
        let path = model.write("bad.olmo", &bytes);
        let run = Run::new(&mut model.opener("olmo-infer", &path)).expect("ends");
        let is_told = run.status.code() == Some(1)
            && run.stderr.lines().count() == 1
            && run.stderr.contains("is not a finite number")
            && run.stderr.contains("olmo-pack verify");
        report.holds(format_args!("{tensor} {number}"), is_told, format_args!("{}: {}", run.status, run.stderr));
    }
}

/// Row O20: lost, swapped and foreign blocks.
#[test]
fn o20_verify_finds_lost_and_moved_blocks() {
    let model = Model::plain();
    let other = Model::new("other", &["--dtype", "f32"], |from| write_weights(from, &bf12_config(), Stored::F32, 4));
    assert_eq!(model.good.len(), other.good.len());
    let mut report = Report::new("O20");
    let data = model.file.layout().data_offset as usize;
    let mut damaged = |variant: &str, change: &dyn Fn(&mut [u8])| {
        let mut bytes = model.good.clone();
        change(&mut bytes);
        assert_ne!(bytes, model.good);
        let path = model.write("bad.olmo", &bytes);
        model.damage_is_reported(&mut report, variant, &path, "model.");
        let infer = Run::new(&mut model.opener("olmo-infer", &path)).and_then(|run| ends_without_crash(&run));
        report.add(format_args!("{variant}, olmo-infer"), infer);
    };
    for page in 0..3 {
        let at = data + page * 4096;
        damaged(&format!("page {page} lost"), &|bytes| bytes[at..at + 4096].fill(0));
        damaged(&format!("a sector of page {page} lost"), &|bytes| bytes[at + 512..at + 1024].fill(0));
        damaged(&format!("a sector of page {page} of ones"), &|bytes| bytes[at..at + 512].fill(0xff));
        damaged(&format!("page {page} exchanged with the next"), &|bytes| {
            let (first, second) = bytes[at..at + 8192].split_at_mut(4096);
            first.swap_with_slice(second);
        });
        let page_of_other = &other.good[at..at + 4096];
        damaged(&format!("page {page} of another model"), &|bytes| bytes[at..at + 4096].copy_from_slice(page_of_other));
    }
    damaged("the data of another model", &|bytes| bytes[data..].copy_from_slice(&other.good[data..]));
    damaged("torn in the middle", &|bytes| {
        let half = (data + bytes.len()) / 2;
        bytes[half..].copy_from_slice(&other.good[half..]);
    });
    // The index of one file and the pages of another: the digest of the header does not fit.
    let mixed = [&other.good[..HEADER_BYTES], &model.good[HEADER_BYTES..]].concat();
    model.refuse(&mut report, "the header of another model", &mixed, &[": index digest: found "]);
}
