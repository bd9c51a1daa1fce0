//! How activations are arranged, and the scalar definition against the tile product, whose emulation is compared with
//! recorded products of a processor.

use super::dot::{BLOCK_STEPS, add_step, dot_step};
use super::*;
use crate::kernels::packed_rows::pack;
use crate::kernels::random::Random;
use crate::kernels::tile_product::tile_product;

impl Random {
    fn word(&mut self) -> u32 {
        (self.bits() >> 20) as u32
    }

    /// A bf16 number with an exponent in the range, as f32.
    fn number(&mut self, exponents: Range<u32>) -> f32 {
        let (bits, n) = (self.word(), exponents.len() as u32);
        f32::from_bits(((bits & 0x807f) | (exponents.start + (bits >> 16) % n) << 7) << 16)
    }
}

fn scalar() -> Isa {
    Isa::named("scalar").expect("always there")
}

/// The rows of `x` in an arrangement, and the smallest magnitude.
fn arranged(x: &[f32], columns: usize, arrangement: Arrangement) -> (Vec<u32>, u32) {
    let (group, row) = (arrangement.group_rows(x.len() / columns), arrangement.row_words(columns));
    let mut words = vec![0x7fc1_7fc1; x.len() / columns * row];
    let smallest = words.chunks_mut(group * row).zip(x.chunks(group * columns));
    let smallest = smallest.map(|(words, x)| scalar().run(RoundGroup { x, columns, arrangement, words })).min();
    (words, smallest.expect("rows"))
}

/// Row `t` as pairs.
fn pairs_of(x: &[f32], columns: usize, t: usize) -> Vec<u32> {
    let half = |k: usize| if k < columns { round_to_bf16(x[t * columns + k]).into() } else { 0u32 };
    (0..columns.div_ceil(2)).map(|step| half(2 * step) | half(2 * step + 1) << 16).collect()
}

#[test]
fn every_number_is_in_its_place() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for columns in [1, 2, 15, 31, 32, 33, 34, 61, 64, 96, 130] {
        let rows = 19;
        let x: Vec<f32> = (0..rows * columns).map(|_| random.number(100..150)).collect();
        let smallest = x.iter().map(|x| x.to_bits() & 0x7fff_ffff).min().expect("numbers");
        let pairs: Vec<Vec<u32>> = (0..rows).map(|t| pairs_of(&x, columns, t)).collect();
        let steps = columns.div_ceil(2);
        for arrangement in [Arrangement::Pairs, Arrangement::Columns, Arrangement::Floats, Arrangement::Halves] {
            let (words, found) = arranged(&x, columns, arrangement);
            assert_eq!(found, smallest, "{arrangement:?} {columns}");
            let rounded = Bf16Rows::new(&words, rows, columns, arrangement, found);
            // 19 rows are four tiles: three of 5 and one of 4.
            let of_group = |t: usize| if t < 15 { (t / 5 * 5, 5) } else { (15, 4) };
            for (t, pairs) in pairs.iter().enumerate() {
                for (k, &pair) in pairs.iter().enumerate() {
                    let (even, odd, block, i) = (pair & 0xffff, pair >> 16, k / BLOCK_STEPS, k % BLOCK_STEPS);
                    let (first, n_rows) = of_group(t);
                    let in_groups = |words_of_block: usize| {
                        let row_words = columns.div_ceil(2 * BLOCK_STEPS) * words_of_block;
                        let words = &words[first * row_words + (block * n_rows + t - first) * words_of_block..];
                        assert_eq!(rounded.block(t, block)[..words_of_block], words[..words_of_block]);
                        words
                    };
                    match arrangement {
                        Arrangement::Columns => {
                            let words = &words[t * arrangement.row_words(columns)..];
                            assert_eq!((words[2 * k], words[2 * k + 1]), (even << 16, odd << 16));
                        }
                        Arrangement::Floats => {
                            let block = in_groups(2 * BLOCK_STEPS);
                            assert_eq!((block[i], block[BLOCK_STEPS + i]), (even << 16, odd << 16));
                        }
                        Arrangement::Halves => {
                            let (block, shift) = (in_groups(BLOCK_STEPS), if i % 2 == 0 { 16 } else { 0 });
                            let halves = (block[i / 2] >> shift, block[BLOCK_STEPS / 2 + i / 2] >> shift);
                            assert_eq!((halves.0 & 0xffff, halves.1 & 0xffff), (even, odd), "{columns} {k}");
                        }
                        _ => assert_eq!(words[t * steps + k], pair),
                    }
                }
                if arrangement == Arrangement::Halves && steps % 2 == 1 {
                    // -0, which times a weight of +0 changes no sum.
                    let block = rounded.block(t, steps / BLOCK_STEPS);
                    let at = steps % BLOCK_STEPS / 2;
                    assert_eq!((block[at] & 0xffff, block[BLOCK_STEPS / 2 + at] & 0xffff), (0x8000, 0x8000));
                }
            }
        }
        let (words, found) = arranged(&x, columns, Arrangement::Tiles);
        let mut packed = vec![0; words.len()];
        pack(&pairs.concat(), steps, rows, steps, &mut packed);
        assert_eq!((words, found), (packed, smallest));
    }
}

#[test]
fn a_part_of_tiled_rows_is_what_its_rows_are_alone() {
    let mut random = Random(0x9e37_79b9);
    let columns = 70;
    for rows in [17, 256, 257, 300] {
        let x: Vec<f32> = (0..rows * columns).map(|_| random.number(100..150)).collect();
        let arrangement = Arrangement::Tiles;
        let (words, min_magnitude) = arranged(&x, columns, arrangement);
        let whole = Bf16Rows::new(&words, rows, columns, arrangement, min_magnitude);
        for (first, last) in [(0, rows), (16, rows), (0, 16), ((rows - 1) / 16 * 16, rows)] {
            let alone = arranged(&x[first * columns..last * columns], columns, arrangement);
            assert_eq!((whole.part(first..last).words, last - first), (&alone.0[..], whole.part(first..last).rows));
        }
    }
}

#[test]
fn blocks_of_a_part_are_those_of_the_whole() {
    let mut random = Random(0x51ab_1e55);
    let columns = 70;
    for rows in 1..=31 {
        let x: Vec<f32> = (0..rows * columns).map(|_| random.number(100..150)).collect();
        for arrangement in [Arrangement::Pairs, Arrangement::Columns, Arrangement::Floats, Arrangement::Halves] {
            let (words, min_magnitude) = arranged(&x, columns, arrangement);
            let whole = Bf16Rows::new(&words, rows, columns, arrangement, min_magnitude);
            // Of the last block, 6 columns, pairs have three words.
            for first in (0..rows).step_by(whole.group_rows()) {
                let part = whole.part(first..rows);
                for (row, block) in (first..rows).flat_map(|row| (0..3).map(move |block| (row, block))) {
                    assert_eq!(part.block(row - first, block)[..3], whole.block(row, block)[..3]);
                    let alone = arranged(&x[row * columns..][..columns], columns, arrangement).0;
                    let alone = Bf16Rows::new(&alone, 1, columns, arrangement, min_magnitude);
                    assert_eq!(
                        alone.block(0, block)[..3],
                        whole.block(row, block)[..3],
                        "{arrangement:?} {rows} {row}"
                    );
                }
            }
        }
    }
}

/// Panels and activations of every length, also around the smallest normal number.
fn cases(mut each: impl FnMut(&[u32], &[f32], usize)) {
    let mut random = Random(0x0dd0_5eed);
    for (w, x) in [(110..135, 110..135), (40..80, 50..80), (0..3, 100..160), (0..255, 1..255)] {
        for steps in 1..=50 {
            let mut half = || random.number(w.clone()).to_bits() >> 16;
            let panel: Vec<u32> = (0..steps * PANEL_ROWS).map(|_| half() | half() << 16).collect();
            let x: Vec<f32> = (0..2 * steps).map(|_| random.number(x.clone())).collect();
            each(&panel, &x, steps);
        }
    }
}

fn scalar_product(panel: &[u32], x: &[f32]) -> Vec<f32> {
    let (words, min_magnitude) = arranged(x, x.len(), Arrangement::Pairs);
    let x = Bf16Rows::new(&words, 1, x.len(), Arrangement::Pairs, min_magnitude);
    let mut out = vec![0.0; PANEL_ROWS];
    let mut block = OutputBlock::whole(&mut out, PANEL_ROWS);
    scalar().product_bf16(&[Bf16Panel::Plain(panel)], &x, &mut block, false);
    out
}

/// Which NaN comes of several is not promised.
fn assert_same(found: &[f32], expected: impl Iterator<Item = f32>, what: usize) {
    for (&found, expected) in found.iter().zip(expected) {
        assert!(found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(), "{what} steps");
    }
}

#[test]
fn the_scalar_product_is_the_one_of_tiles() {
    cases(|panel, x, steps| {
        let mut sums = vec![0; PANEL_ROWS];
        let pairs = pairs_of(x, x.len(), 0);
        for (w, x) in panel.chunks(BLOCK_STEPS * PANEL_ROWS).zip(pairs.chunks(BLOCK_STEPS)) {
            tile_product(x.len(), x, w, &mut sums);
        }
        assert_same(&scalar_product(panel, x), sums.into_iter().map(f32::from_bits), steps);
    });
}

/// What AVX-512 computes with the bf16 dot product, which adds the product of the high halves first.
#[test]
fn the_dot_product_of_regrouped_halves_is_the_definition() {
    cases(|panel, x, steps| {
        let (words, _) = arranged(x, x.len(), Arrangement::Halves);
        let sums = (0..PANEL_ROWS).map(|r| {
            let mut sum = 0.0;
            for (block, x) in words.chunks(BLOCK_STEPS).enumerate() {
                let mut chains = [0.0; 2];
                for (part, chain) in chains.iter_mut().enumerate() {
                    let half = |k: usize| match panel.get((block * BLOCK_STEPS + k) * PANEL_ROWS + r) {
                        Some(pair) if part == 0 => f32::from_bits(pair << 16),
                        Some(pair) => f32::from_bits(pair & 0xffff_0000),
                        None => 0.0,
                    };
                    let n_steps = (steps - block * BLOCK_STEPS).min(BLOCK_STEPS);
                    for (k, &x) in (0..n_steps).step_by(2).zip(&x[part * BLOCK_STEPS / 2..]) {
                        let first = dot_step(half(k), f32::from_bits(x & 0xffff_0000), *chain);
                        *chain = dot_step(half(k + 1), f32::from_bits(x << 16), first);
                    }
                }
                sum = add_step(sum, add_step(chains[0], chains[1]));
            }
            sum
        });
        assert_same(&scalar_product(panel, x), sums, steps);
    });
}

#[test]
fn every_set_handles_infinities_and_an_odd_number_of_columns() {
    let mut random = Random(0xfeed_5eed);
    for columns in [1usize, 31, 33, 63, 65, 97] {
        for rows in [1, 3, 5, 8, 17] {
            let steps = columns.div_ceil(2);
            let mut half =
                |r: usize| if r.is_multiple_of(7) { 0x7f80 } else { random.number(100..150).to_bits() >> 16 };
            let mut panel: Vec<u32> = (0..steps * PANEL_ROWS).map(|i| half(i) | half(i + 3) << 16).collect();
            // The odd column that is missing is stored as zeros.
            panel[(steps - 1) * PANEL_ROWS..].iter_mut().for_each(|pair| *pair &= 0xffff);
            let x: Vec<f32> = (0..rows * columns).map(|_| random.number(100..150)).collect();
            let product = |isa: Isa| {
                let arrangement = isa.arrangement();
                let (words, min_magnitude) = arranged(&x, columns, arrangement);
                let x = Bf16Rows::new(&words, rows, columns, arrangement, min_magnitude);
                let mut out = vec![0.0; rows * PANEL_ROWS];
                let mut block = OutputBlock::whole(&mut out, PANEL_ROWS);
                isa.product_bf16(&[Bf16Panel::Plain(&panel)], &x, &mut block, true);
                out
            };
            let expected = product(scalar());
            for &isa in Isa::available().iter().filter(|isa| isa.has_products()) {
                assert_same(&product(isa), expected.iter().copied(), steps);
            }
        }
    }
}
