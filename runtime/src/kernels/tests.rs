//! Every instruction set of this machine against the scalar oracle, bit for bit, and the oracle against f64.

use super::bf16::dot::dot_step;
use super::bf16::{Arrangement, Bf16Panel, Bf16Rows, RoundGroup, round_to_bf16};
use super::grid::OutputBlock;
use super::isa::{Isa, Kind};
use super::lanes::*;
use super::random::Random;
use super::streaming::Streaming;
use crate::format::Dtype;
use crate::format::encodings::bf12::{Bf12Panels, Bf12Table, Exponents};
use crate::format::panels::PanelShape;

impl Random {
    /// Roughly normal with standard deviation 1.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.bits() >> 40) as f32 / (1 << 24) as f32).sum::<f32>() - 6.0
    }

    fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }

    /// A bf16 number with an exponent in the range, sometimes zero.
    fn bf16(&mut self, exponents: std::ops::Range<u32>) -> u16 {
        let bits = self.bits() as u32;
        let exponent = exponents.start + (bits >> 16) % (exponents.end - exponents.start);
        if bits & 0xff00 == 0 { 0 } else { ((bits & 0x807f) | exponent << 7) as u16 }
    }

    /// Such numbers as f32; never subnormal, as rounding leaves them.
    fn bf16s(&mut self, n: usize, exponents: std::ops::Range<u32>) -> Vec<f32> {
        let number = |bits: u16| f32::from_bits(u32::from(if bits & 0x7f80 == 0 { bits & 0x8000 } else { bits }) << 16);
        (0..n).map(|_| number(self.bf16(exponents.clone()))).collect()
    }

    fn pairs(&mut self, n: usize, exponents: std::ops::Range<u32>) -> Vec<u32> {
        (0..n)
            .map(|_| u32::from(self.bf16(exponents.clone())) | u32::from(self.bf16(exponents.clone())) << 16)
            .collect()
    }
}

/// The sets whose bits are promised to be equal.
fn fused() -> impl Iterator<Item = Isa> {
    Isa::available().iter().copied().filter(|isa| isa.0 != Kind::Portable)
}

fn scalar() -> Isa {
    Isa::named("scalar").expect("always there")
}

/// [`Isa::product_bf16`] with activations that are rounded for it; rows as long as the panels are wide.
fn product_bf16(isa: Isa, panels: &[Bf16Panel], x: &[f32], out: &mut OutputBlock, no_subnormals: bool) {
    let (rows, columns, arrangement) = (out.rows(), 2 * panels[0].n_steps(), isa.arrangement());
    let (group_rows, row_words) = (arrangement.group_rows(rows), arrangement.row_words(columns));
    // What is not written must not matter.
    let mut words = vec![0x7fc1_7fc1; rows * row_words];
    let mut min_magnitude = u32::MAX;
    if columns > 0 {
        for (words, x) in words.chunks_mut(group_rows * row_words).zip(x.chunks(group_rows * columns)) {
            min_magnitude = min_magnitude.min(isa.run(RoundGroup { x, columns, arrangement, words }));
        }
    }
    let x = Bf16Rows::new(&words, rows, columns, arrangement, min_magnitude);
    isa.product_bf16(panels, &x, out, no_subnormals);
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn f32_products_equal_the_oracle_for_every_shape() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for width in [16, 32, 48, 64] {
        for steps in [1, 2, 7, 64, 1025] {
            for rows in [1, 2, 3, 5, 6, 7, 12, 13, 17] {
                let x_stride = steps + rows % 3;
                let (panel, x) = (random.normals(steps * width), random.normals(rows * x_stride));
                for (columns, accumulate) in [(width, false), (width, true), (width - 3, true)] {
                    let before = random.normals(rows * columns);
                    let product = |isa: Isa| {
                        let mut out = before.clone();
                        isa.product_f32(
                            &panel,
                            width,
                            &x,
                            x_stride,
                            &mut OutputBlock::whole(&mut out, columns),
                            accumulate,
                        );
                        out
                    };
                    let expected = product(scalar());
                    for isa in fused() {
                        assert_eq!(bits(&product(isa)), bits(&expected), "{isa:?} {width} {steps} {rows} {columns}");
                    }
                    for (i, &found) in expected.iter().enumerate() {
                        let (row, column) = (i / columns, i % columns);
                        let terms =
                            (0..steps).map(|k| f64::from(panel[k * width + column]) * f64::from(x[row * x_stride + k]));
                        let begin = if accumulate { f64::from(before[i]) } else { 0.0 };
                        let (sum, magnitude) = terms.fold((begin, begin.abs()), |(s, m), t| (s + t, m + t.abs()));
                        let bound = (steps + 1) as f64 * f64::from(f32::EPSILON) * magnitude;
                        assert!((f64::from(found) - sum).abs() <= bound, "{width} {steps} {rows} at {i}");
                    }
                }
            }
        }
    }
}

#[test]
fn bf16_products_equal_the_oracle_subnormals_included() {
    let mut random = Random(0x1234_5678_9abc_def1);
    // Exponents around 1, where sums become subnormal, subnormal weights, and everything.
    for (w_range, x_range) in [(110..135, 110..135), (40..80, 50..80), (0..3, 100..160), (0..160, 0..90)] {
        for steps in [1, 3, 64, 515] {
            for rows in [1, 2, 5, 6, 8, 13] {
                let panel = random.pairs(steps * 64, w_range.clone());
                let x = random.bf16s(rows * 2 * steps, x_range.clone());
                let product = |isa: Isa, no_subnormals| {
                    let mut out = vec![0.0; rows * 64];
                    let mut block = OutputBlock::whole(&mut out, 64);
                    product_bf16(isa, &[Bf16Panel::Plain(&panel)], &x, &mut block, no_subnormals);
                    bits(&out)
                };
                let expected = product(scalar(), false);
                for isa in fused() {
                    assert_eq!(product(isa, false), expected, "{isa:?} {w_range:?} {x_range:?} {steps} {rows}");
                    if w_range.start + x_range.start >= 142 {
                        assert_eq!(product(isa, true), expected, "{isa:?} {w_range:?} {x_range:?} {steps} {rows}");
                    }
                }
            }
        }
    }
}

#[test]
fn more_rows_than_a_pass_equal_the_oracle() {
    let mut random = Random(0x0bad_cafe_1234);
    // Two groups of blocks, and one that is not whole.
    let (steps, columns) = (16 * 17 + 3, 61);
    let panel = random.pairs(steps * 64, 110..135);
    for rows in [575, 576, 577, 578, 581, 1153] {
        let x = random.bf16s(rows * 2 * steps, 110..135);
        let product = |isa: Isa| {
            let mut out = vec![f32::NAN; rows * columns];
            let mut block = OutputBlock::whole(&mut out, columns);
            product_bf16(isa, &[Bf16Panel::Plain(&panel)], &x, &mut block, true);
            out
        };
        let expected = product(scalar());
        for isa in fused() {
            assert!(bits(&product(isa)) == bits(&expected), "{isa:?} {rows}");
        }
    }
}

/// A last pass with fewer rows than a tile: of 95 passes and one row.
#[test]
fn a_pass_without_a_whole_tile_equals_the_oracle() {
    let mut random = Random(0x7e57_0001);
    let (steps, rows) = (16 * 8 + 1, 95 * 576 + 1);
    let panel = random.pairs(steps * 64, 110..135);
    let row = random.bf16s(2 * steps, 110..135);
    let product = |isa: Isa, rows: usize| {
        let mut out = vec![f32::NAN; rows];
        let x = row.repeat(rows);
        product_bf16(isa, &[Bf16Panel::Plain(&panel)], &x, &mut OutputBlock::whole(&mut out, 1), true);
        bits(&out)
    };
    let expected = product(scalar(), 1);
    for isa in fused().filter(|isa| isa.0 != Kind::Scalar) {
        assert!(product(isa, rows).iter().all(|&sum| sum == expected[0]), "{isa:?}");
    }
}

/// Tiles of every height with every number of rows that are left, over groups of blocks that are whole or not.
#[test]
fn tiles_of_every_height_equal_the_oracle() {
    let mut random = Random(0x7e57_0002);
    for steps in [127, 128, 129, 147, 257] {
        let (panel, columns) = (random.pairs(steps * 64, 110..135), 2 * steps);
        for rows in [7, 8, 9, 10, 11, 12, 13, 16, 17, 25, 26, 27, 28, 29, 30, 31] {
            let x = random.bf16s(rows * columns, 110..135);
            let product = |isa: Isa, no_subnormals| {
                let mut out = vec![f32::NAN; rows * 64];
                let mut block = OutputBlock::whole(&mut out, 64);
                product_bf16(isa, &[Bf16Panel::Plain(&panel)], &x, &mut block, no_subnormals);
                bits(&out)
            };
            let expected = product(scalar(), false);
            for isa in fused() {
                for no_subnormals in [false, true] {
                    assert!(product(isa, no_subnormals) == expected, "{isa:?} {steps} {rows} {no_subnormals}");
                }
            }
        }
    }
}

#[test]
fn zeros_keep_their_signs_in_blocks_of_every_length() {
    let mut random = Random(0x005e_ed0f_2e05);
    // Zeros, numbers whose products are flushed to zeros of their sign, and sums that cancel.
    let numbers = [0x0000, 0x8000, 0x1c80, 0x9c80, 0x3f80, 0xbf80];
    for steps in 1..=50 {
        for rows in [1, 2, 4, 7, 17] {
            let mut number = || numbers[random.bits() as usize % if steps % 3 == 0 { 4 } else { 6 }];
            let panel: Vec<u32> = (0..steps * 64).map(|_| number() | number() << 16).collect();
            let x: Vec<f32> = (0..rows * 2 * steps).map(|_| f32::from_bits(number() << 16)).collect();
            let product = |isa: Isa| {
                let mut out = vec![f32::NAN; rows * 64];
                let mut block = OutputBlock::whole(&mut out, 64);
                product_bf16(isa, &[Bf16Panel::Plain(&panel)], &x, &mut block, false);
                bits(&out)
            };
            let expected = product(scalar());
            fused().for_each(|isa| assert_eq!(product(isa), expected, "{isa:?} {steps} {rows}"));
        }
    }
}

#[test]
fn several_panels_by_turns_equal_one_after_the_other() {
    let mut random = Random(0xabcd_ef01_2345);
    let steps = 16 * 9 + 3;
    for n in [1, 2, 5, 8] {
        for (rows, missing) in [(1, 0), (2, 9), (3, 0), (4, 0), (5, 0), (6, 5), (8, 0), (13, 5), (20, 0)] {
            let panels: Vec<Vec<u32>> = (0..n).map(|_| random.pairs(steps * 64, 110..135)).collect();
            let panels: Vec<Bf16Panel> = panels.iter().map(|panel| Bf16Panel::Plain(panel)).collect();
            let x = random.bf16s(rows * 2 * steps, 110..135);
            let columns = 64 * n - missing;
            let mut expected = vec![0.0; rows * columns];
            let mut whole = OutputBlock::whole(&mut expected, columns);
            for (index, panel) in panels.iter().enumerate() {
                let mut part = whole.part(0..rows, 64 * index..columns.min(64 * index + 64));
                product_bf16(scalar(), &[*panel], &x, &mut part, false);
            }
            for isa in fused() {
                for ahead_bytes in [0, 4096] {
                    let isa = isa.with_streaming(Streaming { panels: n, ahead_bytes });
                    let mut out = vec![f32::NAN; rows * columns];
                    product_bf16(isa, &panels, &x, &mut OutputBlock::whole(&mut out, columns), true);
                    assert_eq!(bits(&out), bits(&expected), "{isa:?} {n} {rows}");
                }
            }
        }
    }
}

/// The panels of a plain matrix `[n_panels][steps][64]` as bf12, with the exponents from `first` on, and their table.
fn bf12(pairs: &[u32], steps: usize, first: u8) -> (Vec<u8>, Bf12Table) {
    let exponents = Exponents::from_bytes(std::array::from_fn(|i| first + i as u8)).expect("ascending");
    let codes = exponents.codes();
    let mut bytes = Vec::new();
    let panels: Vec<Vec<u32>> = pairs
        .as_chunks::<64>()
        .0
        .chunks(steps)
        .map(|panel| {
            let mut raw = Vec::new();
            for (step, number) in panel.iter().zip(0..) {
                match codes.encode(step, 64, 2) {
                    Some(step) => bytes.extend_from_slice(&step),
                    None => {
                        raw.push(number);
                        bytes.extend(step.iter().flat_map(|pair| pair.to_le_bytes()));
                    }
                }
            }
            raw
        })
        .collect();
    (bytes, Bf12Table::new(exponents, panels.into_iter()))
}

#[test]
fn bf12_products_equal_those_of_the_plain_panel() {
    let mut random = Random(0xfeed_beef_1234_5678);
    for (w_range, outliers, x_range) in
        [(110..126, false, 110..135), (110..126, true, 110..135), (40..56, true, 50..80), (0..16, true, 100..160)]
    {
        for steps in [1, 3, 16, 18, 46, 64, 257, 515] {
            let n_panels = 3;
            // No sum of products is subnormal.
            let is_normal = w_range.start >= 110;
            let mut pairs = random.pairs(n_panels * steps * 64, w_range.clone());
            // Zeros have codes only where the exponents begin at 0: keep them for the raw steps.
            for pair in pairs.iter_mut().filter(|_| w_range.start > 0) {
                *pair |= if *pair & 0x7f80 == 0 { w_range.start << 7 } else { 0 };
                *pair |= if *pair & 0x7f80_0000 == 0 { w_range.start << 23 } else { 0 };
            }
            if outliers {
                // About one step in ten.
                for _ in 0..n_panels * steps / 10 + 1 {
                    let at = random.bits() as usize % pairs.len();
                    pairs[at] = u32::from(random.bf16(if is_normal { 90..160 } else { 0..160 }));
                }
                // Some of these have codes.
                let at = random.bits() as usize % pairs.len();
                pairs[at] = u32::from(random.bf16(150..160));
            }
            let (bytes, table) = bf12(&pairs, steps, w_range.start as u8);
            assert_eq!(table.n_raw_steps() > 0, outliers);
            let shape = PanelShape { rows: n_panels * 64, columns: 2 * steps, dtype: Dtype::Bf16 };
            let panels = Bf12Panels::new(&shape, bytes[..].into(), &table);
            for rows in [1, 2, 3, 4, 5, 6, 7, 9, 10, 13, 25, 26, 31] {
                let x = random.bf16s(rows * 2 * steps, x_range.clone());
                let mut of_all = vec![0.0; rows * 64 * n_panels];
                for (number, plain) in pairs.chunks(steps * 64).enumerate() {
                    let panel = panels.panel(number);
                    let mut expected = vec![0.0; rows * 64];
                    let mut block = OutputBlock::whole(&mut expected, 64);
                    product_bf16(scalar(), &[Bf16Panel::Plain(plain)], &x, &mut block, false);
                    for isa in fused() {
                        for columns in [64, 61] {
                            let mut out = vec![0.0; rows * columns];
                            let mut block = OutputBlock::whole(&mut out, columns);
                            product_bf16(isa, &[Bf16Panel::Bf12(panel)], &x, &mut block, false);
                            for (found, expected) in out.chunks(columns).zip(expected.chunks(64)) {
                                assert_eq!(bits(found), bits(&expected[..columns]), "{isa:?} {steps} {rows} {number}");
                            }
                        }
                        if is_normal {
                            let mut out = vec![0.0; rows * 64];
                            let mut block = OutputBlock::whole(&mut out, 64);
                            product_bf16(isa, &[Bf16Panel::Bf12(panel)], &x, &mut block, true);
                            assert_eq!(bits(&out), bits(&expected), "{isa:?} {steps} {rows} {number}");
                        }
                    }
                    for isa in Isa::available() {
                        let mut decoded = vec![0; plain.len()];
                        isa.decode(&panel, &mut decoded);
                        assert_eq!(decoded, plain, "{isa:?}");
                    }
                    for (all, expected) in of_all.chunks_mut(64 * n_panels).zip(expected.chunks(64)) {
                        all[64 * number..][..64].copy_from_slice(expected);
                    }
                }
                let all: Vec<Bf16Panel> = (0..n_panels).map(|number| Bf16Panel::Bf12(panels.panel(number))).collect();
                for isa in fused() {
                    let mut out = vec![f32::NAN; of_all.len()];
                    let mut block = OutputBlock::whole(&mut out, 64 * n_panels);
                    product_bf16(isa, &all, &x, &mut block, false);
                    assert_eq!(bits(&out), bits(&of_all), "{isa:?} {steps} {rows}, by turns");
                }
            }
        }
    }
}

#[test]
fn products_without_steps_are_zeros() {
    let shape = PanelShape { rows: 64, columns: 2, dtype: Dtype::Bf16 };
    let (bytes, table) = bf12(&[0x3f80_3f80; 64], 1, 112);
    let (no_steps, _) = Bf12Panels::new(&shape, bytes[..].into(), &table).panel(0).split_at(0);
    for rows in [1, 2, 7, 25] {
        for columns in [64, 61] {
            let outputs = |product: &dyn Fn(&mut OutputBlock)| {
                let mut out = vec![f32::NAN; rows * columns];
                product(&mut OutputBlock::whole(&mut out, columns));
                bits(&out)
            };
            let expected = outputs(&|out| product_bf16(scalar(), &[Bf16Panel::Plain(&[])], &[], out, false));
            assert_eq!(expected, vec![0; rows * columns]);
            for isa in fused() {
                assert_eq!(outputs(&|out| isa.product_f32(&[], 64, &[], 0, out, false)), expected, "{isa:?} {rows}");
                for no_subnormals in [false, true] {
                    let bf16 = outputs(&|out| product_bf16(isa, &[Bf16Panel::Plain(&[])], &[], out, no_subnormals));
                    assert_eq!(bf16, expected, "{isa:?} {rows} {columns}");
                    let bf12 = outputs(&|out| product_bf16(isa, &[Bf16Panel::Bf12(no_steps)], &[], out, no_subnormals));
                    assert_eq!(bf12, expected, "{isa:?} {rows} {columns}");
                }
            }
        }
    }
}

#[test]
fn a_bf16_sum_just_below_the_smallest_normal_number_is_a_zero() {
    // 2^-126 - 2^-150 rounds up to 2^-126 in the steps of subnormal numbers, and is flushed by the instruction.
    let smallest = f32::MIN_POSITIVE;
    let power = |e: i32| 2f32.powi(e);
    for (acc, w, x, expected) in [
        (smallest, -power(-75), power(-75), 0.0),
        (-smallest, power(-75), power(-75), -0.0),
        (smallest, -power(-75), power(-76), smallest),
        (f32::from_bits(smallest.to_bits() + 1), -power(-75), power(-75), smallest),
        (power(-127), power(-60), power(-60), power(-120)),
    ] {
        assert_eq!(dot_step(w, x, acc).to_bits(), f32::to_bits(expected), "{acc:e} {w:e} {x:e}");
        // The same through the kernels: two steps, the first of which makes the accumulator.
        if acc.abs() == smallest {
            // Both steps in the even chain, whose sum is then added to +0 twice.
            let half = |x: f32| x.to_bits() >> 16;
            let (first_w, first_x) = (half(acc.signum() * power(-63)), power(-63));
            let mut panel = vec![0; 128];
            panel[0] = first_w;
            panel[64] = half(w);
            let activations = [first_x, 0.0, x, 0.0];
            for isa in fused() {
                let mut out = [0.0; 64];
                let mut block = OutputBlock::whole(&mut out, 64);
                product_bf16(isa, &[Bf16Panel::Plain(&panel)], &activations, &mut block, false);
                assert_eq!(out[0].to_bits(), f32::to_bits(expected + 0.0), "{isa:?} {acc:e} {w:e} {x:e}");
            }
        }
    }
}

#[test]
fn lane_operations_equal_the_oracle_for_every_length() {
    let mut random = Random(77);
    for width in (1..40).chain([64, 2048]) {
        let (x, weight, other) = (random.normals(width), random.normals(width), random.normals(width));
        for residual in [false, true] {
            let norm = |isa: Isa| {
                let (mut x, mut sum) = (x.clone(), other.clone());
                let residual = residual.then_some(&mut sum[..]);
                isa.run(RmsNorm { x: &mut x, weight: &weight, eps: 1e-6, residual });
                (bits(&x), bits(&sum))
            };
            fused().for_each(|isa| assert_eq!(norm(isa), norm(scalar()), "{isa:?} {width}"));
        }
        let layer_norm = |isa: Isa| {
            let mut x = x.clone();
            isa.run(LayerNorm { x: &mut x, eps: 1e-5 });
            bits(&x)
        };
        fused().for_each(|isa| assert_eq!(layer_norm(isa), layer_norm(scalar()), "{isa:?} {width}"));
        let clip = |isa: Isa| {
            let mut x = x.clone();
            isa.run(Clip { x: &mut x, limit: 0.5 });
            bits(&x)
        };
        let clipped: Vec<f32> = x.iter().map(|x| x.clamp(-0.5, 0.5)).collect();
        Isa::available().iter().for_each(|&isa| assert_eq!(clip(isa), bits(&clipped), "{isa:?} {width}"));
        let swiglu = |isa: Isa| {
            let mut gate: Vec<f32> = x.iter().map(|x| x * 30.0).collect();
            isa.run(SwiGlu { gate: &mut gate, up: &other });
            bits(&gate)
        };
        fused().for_each(|isa| assert_eq!(swiglu(isa), swiglu(scalar()), "{isa:?} {width}"));
        for arrangement in
            [Arrangement::Pairs, Arrangement::Columns, Arrangement::Floats, Arrangement::Halves, Arrangement::Tiles]
        {
            let round = |isa: Isa| {
                let mut words = vec![7; arrangement.row_words(width)];
                let smallest = isa.run(RoundGroup { x: &x, columns: width, arrangement, words: &mut words });
                (smallest, words)
            };
            fused().for_each(|isa| assert_eq!(round(isa), round(scalar()), "{isa:?} {width} {arrangement:?}"));
        }
        let rotate = |isa: Isa| {
            let mut heads = [x.clone(), other.clone()].concat();
            isa.run(Rotate { x: &mut heads, cos: &weight, sin: &other, scale: 0.3 });
            bits(&heads)
        };
        fused().for_each(|isa| assert_eq!(rotate(isa), rotate(scalar()), "{isa:?} {width}"));
    }
}

#[test]
fn layer_norm_is_the_definition_however_far_the_mean_is_from_zero() {
    let mut random = Random(78);
    for width in [1, 2, 15, 16, 17, 50, 2048] {
        for offset in [0.0, 3.0, -200.0] {
            let x: Vec<f32> = random.normals(width).iter().map(|x| x + offset).collect();
            let n = width as f64;
            let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
            for isa in Isa::available() {
                let mut found = x.clone();
                isa.run(LayerNorm { x: &mut found, eps: 1e-5 });
                for (&x, &found) in x.iter().zip(&found) {
                    let expected = (f64::from(x) - mean) / (variance + 1e-5).sqrt();
                    // The mean is rounded to f32, and so are the sums on the way to it.
                    let lost = 4.0 * f64::from(offset.abs()) / variance.sqrt().max(1e-2);
                    let bound = f64::from(f32::EPSILON) * (8.0 + lost);
                    let error = (f64::from(found) - expected).abs();
                    assert!(error <= bound, "{isa:?} {width} {offset}: {found}, not {expected}");
                }
            }
        }
    }
}

#[test]
fn clipping_keeps_nan() {
    for isa in Isa::available() {
        let mut x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 8.0, -8.5];
        isa.run(Clip { x: &mut x, limit: 8.0 });
        assert!(x[0].is_nan(), "{isa:?}");
        assert_eq!(bits(&x[1..]), bits(&[8.0, -8.0, -0.0, 8.0, -8.0]), "{isa:?}");
    }
}

#[test]
fn softmax_blocks_equal_the_oracle_and_the_definition() {
    let mut random = Random(5);
    for visible in [0..64, 0..1, 63..64, 5..37] {
        let blocks = [random.normals(64), random.normals(64), random.normals(64)];
        let softmax = |isa: Isa| {
            let mut state = SoftmaxState::START;
            let mut value = 0.0f32;
            for block in &blocks {
                let mut scores: [f32; 64] = block.as_slice().try_into().expect("64 scores");
                let correction =
                    isa.run(SoftmaxBlock { scores: &mut scores, visible: visible.clone(), state: &mut state });
                value *= correction;
                // The values of V are 1, 2, 3, ...
                scores.iter().zip(1..).for_each(|(weight, v)| value = weight.mul_add(v as f32, value));
            }
            let mut out = [0.0];
            isa.run(SoftmaxEnd { values: &[value], state: &state, out: &mut out });
            out[0]
        };
        let expected = softmax(scalar());
        fused().for_each(|isa| assert_eq!(softmax(isa).to_bits(), expected.to_bits(), "{isa:?} {visible:?}"));
        let (mut sum, mut total) = (0.0, 0.0);
        for (&score, v) in blocks.iter().flat_map(|block| block.iter().zip(0..)) {
            if visible.contains(&v) {
                sum += f64::from(score).exp() * (v + 1) as f64;
                total += f64::from(score).exp();
            }
        }
        let portable = softmax(Isa::named("portable").expect("always there"));
        for found in [expected, portable] {
            assert!((f64::from(found) - sum / total).abs() < 1e-5 * sum / total, "{visible:?}");
        }
    }
}

#[test]
fn exp_is_within_two_units_in_the_last_place() {
    let mut x: Vec<f32> = (0..400_000).map(|i| -87.33 + i as f32 * 4.4e-4).collect();
    let input = x.clone();
    for isa in Isa::available() {
        x.copy_from_slice(&input);
        isa.run(Exp(&mut x));
        for (&x, &found) in input.iter().zip(&x) {
            let expected = f64::from(x).exp();
            let unit = expected * f64::from(f32::EPSILON);
            let units = if isa.0 == Kind::Portable { 8.0 } else { 2.0 };
            assert!((f64::from(found) - expected).abs() <= units * unit, "{isa:?} e^{x} = {found}, not {expected}");
        }
        let mut ends = [-88.0, f32::NEG_INFINITY, 89.0, f32::INFINITY, 0.0, f32::NAN];
        isa.run(Exp(&mut ends));
        assert_eq!(ends[..5], [0.0, 0.0, f32::INFINITY, f32::INFINITY, 1.0]);
        assert!(ends[5].is_nan());
    }
}

#[test]
fn rounding_to_bf16_is_to_nearest_even() {
    for (x, expected) in [
        (1.0f32, 0x3f80),
        (-0.0, 0x8000),
        (f32::from_bits(0x3f80_8000), 0x3f80), // a tie, to even
        (f32::from_bits(0x3f81_8000), 0x3f82), // a tie, to even
        (f32::from_bits(0x3f80_8001), 0x3f81),
        (f32::MAX, 0x7f80),
        (f32::INFINITY, 0x7f80),
        (f32::from_bits(0x007f_ffff), 0), // subnormal
        (f32::from_bits(0x8000_0001), 0x8000),
    ] {
        assert_eq!(round_to_bf16(x), expected, "{x:e}");
    }
    assert!(f32::from_bits(u32::from(round_to_bf16(f32::NAN)) << 16).is_nan());
}
