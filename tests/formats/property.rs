//! How properties are tested. A module of each test that has some and not of the library: the fuzz targets use that one
//! too, and need no proptest.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Runs a property on 10,000 cases.
pub fn check<S: Strategy>(strategy: S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() };
    if let Err(failure) = TestRunner::new(config).run(&strategy, property) {
        panic!("{failure}");
    }
}

/// A number that is often near a power of two.
pub fn edgy(max: usize) -> impl Strategy<Value = usize> {
    let power = (0..usize::BITS).prop_flat_map(|bit| (Just(1usize << bit), -2i64..=2));
    let near = power.prop_map(|(power, off)| power.wrapping_add_signed(off as isize));
    prop_oneof![1..=max.min(300), near].prop_map(move |n| n.clamp(1, max))
}
