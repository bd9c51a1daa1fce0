//! All damage of some kinds to a small model file: every flipped bit, every length, every field at its limits, every
//! lost or exchanged block. Opening refuses it, or `verify` finds it and names each place, and nothing else.
//!
//! Here one bit of every byte of the data is flipped; the part `reader` of `make torture` flips all of them.

use olmo_tests::damage::{Damage, Report, Thoroughness};
use olmo_tests::packed::Packed;
use std::thread;

/// Runs `part` for each kind of file and asserts that all its tries, at least `at_least`, came out as expected.
fn assert_all_found(at_least: usize, part: impl Fn(&Damage, Report<'_>) + Sync) {
    let tried_of = |packed: Packed| {
        let damage = Damage::to(packed);
        let (mut tried, mut failures) = (0, Vec::new());
        part(&damage, &mut |result| {
            tried += 1;
            failures.extend(result.err());
        });
        let n_failures = failures.len();
        failures.truncate(10);
        assert!(n_failures == 0, "{n_failures} of {tried} tries:\n{}", failures.join("\n"));
        println!("{}: {} bytes, {tried} tries", damage.packed().name, damage.packed().bytes.len());
        tried
    };
    let files = [
        Packed::plain_f32(),
        Packed::plain_bf16(),
        Packed::bf12(),
        Packed::olmo1(),
        Packed::mixed(),
        Packed::quantized(),
    ];
    // Each takes up to a minute.
    let tried: usize = thread::scope(|scope| {
        let threads = files.map(|packed| scope.spawn(|| tried_of(packed)));
        threads.map(|thread| thread.join().expect("all damage is found")).iter().sum()
    });
    assert!(tried >= at_least, "{tried} tries");
}

/// Row O7, every bit.
///
/// Row O19, every bit.
#[test]
fn every_flipped_bit_is_refused_or_found() {
    assert_all_found(200_000, |damage, report| damage.flips(Thoroughness::Part, report));
}

#[test]
fn refuses_every_other_length() {
    assert_all_found(4 * 2 * 4096, Damage::lengths);
}

#[test]
fn every_extreme_field_is_refused_found_or_free() {
    assert_all_found(200_000, |damage, report| damage.windows(Thoroughness::Part, report));
}

#[test]
fn every_zeroed_or_swapped_block_is_found() {
    assert_all_found(1_000, Damage::blocks);
}
