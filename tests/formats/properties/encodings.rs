//! Properties of how numbers and texts are written: bf12 matrices, bf16 and f16, and the display of logits and tokens.

use crate::property::check;
use olmo_infer::internals::error::shown::quoted;
use olmo_infer::internals::format::Dtype;
use olmo_infer::internals::format::encodings::bf12::{Bf12Table, Exponents, N_CODES, decode, matrix_bytes};
use olmo_infer::internals::format::panels::PanelShape;
use olmo_infer::internals::generate::top_k::top_k;
use olmo_pack::folder::element::{f16_to_f32, f32_to_f16, round_to_bf16};
use olmo_pack::folder::npy::shown_shape;
use proptest::prelude::*;

#[test]
fn bf12_steps_round_trip() {
    let step = (any::<[u32; 32]>(), any::<[u32; 32]>());
    check((step, any::<[u64; 16]>()), |((first, second), weights)| {
        // Exponents by chance, and numbers that have them.
        let mut counts = [0u64; 256];
        weights.iter().for_each(|&weight| counts[weight as usize % 256] += weight % 1000 + 1);
        let exponents = Exponents::commonest(&counts);
        let known = exponents.to_bytes();
        let with_exponent = |bits: u16| bits & 0x807f | u16::from(known[usize::from(bits >> 7) % N_CODES]) << 7;
        let mut step = [0u32; 64];
        for (pair, &bits) in step.iter_mut().zip(first.iter().chain(&second)) {
            *pair = u32::from(with_exponent(bits as u16)) | u32::from(with_exponent((bits >> 16) as u16)) << 16;
        }
        let coded = exponents.codes().encode(&step, 64, 2);
        prop_assert_eq!(coded.map(|coded| decode(&coded, &exponents)), Some(step));
        // A number with another exponent has no code.
        let other = (0..=255u8).find(|exponent| !known.contains(exponent)).expect("there are 256");
        step[weights[0] as usize % 64] = u32::from(other) << 7;
        prop_assert!(exponents.codes().encode(&step, 64, 2).is_none());
        Ok(())
    });
}

/// A matrix, and the raw steps of each of its panels.
fn raw_steps() -> impl Strategy<Value = (PanelShape, Vec<Vec<u32>>)> {
    (1..200usize, 1..40usize).prop_flat_map(|(rows, columns)| {
        let shape = PanelShape { rows, columns, dtype: Dtype::Bf16 };
        let steps = prop::collection::btree_set(0..columns.div_ceil(2) as u32, 0..4);
        let panels = prop::collection::vec(steps.prop_map(|steps| steps.into_iter().collect()), shape.n_panels());
        (Just(shape), panels)
    })
}

#[test]
fn tables_round_trip_and_have_one_spelling() {
    let change = (any::<prop::sample::Index>(), 1..=255u8);
    check((raw_steps(), change), |((shape, panels), (at, bits))| {
        let table = Bf12Table::new(Exponents::commonest(&[1; 256]), panels.into_iter());
        let n_raw_steps = table.n_raw_steps() as u32;
        let mut bytes = Vec::new();
        table.write(&mut bytes);
        prop_assert_eq!(Bf12Table::bytes(&shape, n_raw_steps), Ok(bytes.len() as u64));
        let read = |bytes: &[u8]| Bf12Table::read(&mut &bytes[..], &shape, n_raw_steps).ok();
        prop_assert_eq!(read(&bytes), Some(table.clone()));
        let at = at.index(bytes.len());
        bytes[at] ^= bits;
        if let Some(other) = read(&bytes) {
            // Another table, whose panels still fit the bytes of the matrix.
            prop_assert_ne!(&other, &table);
            let end = other.panel_range(&shape, shape.n_panels() - 1).end as u64;
            prop_assert_eq!(Ok(end), matrix_bytes(&shape, n_raw_steps));
            for panel in 0..shape.n_panels() {
                let steps = other.raw_steps(panel);
                prop_assert!(steps.iter().all(|&step| (step as usize) < shape.columns.div_ceil(2)));
            }
        }
        Ok(())
    });
}

#[test]
fn bf16_rounding_is_to_nearest_even() {
    check(any::<u32>(), |bits| {
        let (value, rounded) = (f32::from_bits(bits), f32::from_bits(u32::from(round_to_bf16(bits)) << 16));
        if value.is_nan() {
            prop_assert!(rounded.is_nan());
            return Ok(());
        }
        let exact = f64::from(value);
        let distance = |bits: u32| {
            let value = f32::from_bits(bits);
            // Infinity counts as the number after the largest finite one.
            if value.is_finite() { (f64::from(value) - exact).abs() } else { (2f64.powi(128) - exact.abs()).abs() }
        };
        let (below, above) = (bits & 0xffff_0000, (bits & 0xffff_0000).wrapping_add(0x1_0000));
        let found = distance(rounded.to_bits());
        prop_assert!(value.is_infinite() || found <= distance(below) && found <= distance(above));
        if !value.is_infinite() && distance(below) == distance(above) {
            prop_assert_eq!(rounded.to_bits() >> 16 & 1, 0);
        }
        Ok(())
    });
}

#[test]
fn f16_round_trips() {
    check(any::<u16>(), |half| {
        prop_assert_eq!(f32_to_f16(f16_to_f32(half)), Some(half));
        Ok(())
    });
}

#[test]
fn top_k_matches_a_sort() {
    let logits = prop::collection::vec((-20..20i8).prop_map(f32::from), 1..300);
    check((logits, 0..400usize), |(logits, k)| {
        let mut sorted: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        sorted.truncate(k);
        prop_assert_eq!(top_k(&logits, k), sorted);
        Ok(())
    });
}

#[test]
fn quoted_text_is_one_printable_line() {
    check(prop::collection::vec(any::<u8>(), 0..40), |bytes| {
        let line = quoted(&bytes);
        prop_assert!(!line.chars().any(char::is_control));
        // A quotation mark ends the text only without a backslash before it.
        let mut escaped = false;
        for c in line.chars() {
            prop_assert!(escaped || c != '"');
            escaped = c == '\\' && !escaped;
        }
        prop_assert!(!escaped);
        Ok(())
    });
}

#[test]
fn shapes_are_printed_as_by_numpy() {
    check(prop::collection::vec(any::<u64>(), 0..5), |shape| {
        prop_assert_eq!(shown_shape(&shape), format!("{shape:?}"));
        Ok(())
    });
}
