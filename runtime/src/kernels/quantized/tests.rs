//! Every instruction set against the scalar definition, bit for bit, and the definition against f64.

use super::rows::integers_of;
use super::*;
use crate::format::Dtype;
use crate::format::encodings::quantized::{Levels, QuantizedPanels, Scales, matrix_bytes};
use crate::format::panels::PanelShape;
use crate::kernels::random::Random;

impl Random {
    /// From -1 to 1.
    fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

fn quantizations() -> impl Iterator<Item = Quantization> {
    let levels = |factor: i8| Levels::new(std::array::from_fn(|i| (i as i8 - 8) * factor)).expect("ascending");
    // Narrow, narrow up to the ends, and wide.
    let ends = Levels::new(std::array::from_fn(|i| if i == 15 { 63 } else { i as i8 - 64 })).expect("ascending");
    let elements = [Elements::Int8, levels(7).into(), ends.into(), levels(15).into()];
    let all = [Scales::F16, Scales::Row32, Scales::Row16].map(|scales| elements.map(|elements| (elements, scales)));
    all.into_iter().flatten().map(|(elements, scales)| Quantization { elements, scales })
}

impl From<Levels> for Elements {
    fn from(levels: Levels) -> Elements {
        Elements::Int4(levels)
    }
}

fn shape_of(quantization: &Quantization, rows: usize, columns: usize) -> PanelShape {
    let dtype = if quantization.elements == Elements::Int8 { Dtype::Int8 } else { Dtype::Int4 };
    PanelShape { rows, columns, dtype }
}

/// A matrix of any bytes but in its scales, which are finite.
fn matrix(random: &mut Random, quantization: &Quantization, shape: &PanelShape) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    for _ in 0..shape.n_panels() {
        for _ in 0..quantization.factor_bytes() / 4 {
            bytes.extend((random.unit() * 0.01).to_le_bytes());
        }
        for _ in 0..shape.columns.div_ceil(32) {
            let scales = quantization.scale_bytes();
            match quantization.scales {
                Scales::F16 => (0..scales / 2).for_each(|_| {
                    bytes.extend((random.bits() as u16 & 0xbbff).to_le_bytes());
                }),
                _ => (0..scales).for_each(|_| bytes.push(random.bits() as u8)),
            }
            (0..quantization.element_bytes()).for_each(|_| bytes.push((random.bits() >> 13) as u8));
        }
    }
    assert_eq!(matrix_bytes(quantization, shape), Ok(bytes.len() as u64));
    bytes
}

fn product(isa: Isa, panels: &QuantizedPanels, x: &[f32], shape: &PanelShape, precision: Precision) -> Vec<f32> {
    by_panels(isa, panels, x, shape, precision, shape.n_panels())
}

/// The product, with `at_a_time` panels at a time.
fn by_panels(
    isa: Isa,
    panels: &QuantizedPanels,
    x: &[f32],
    shape: &PanelShape,
    precision: Precision,
    at_a_time: usize,
) -> Vec<f32> {
    let form = isa.form(&panels.quantization(), precision);
    let (rows, row_words) = (x.len() / shape.columns, form.row_words(shape.columns));
    let mut words = vec![u32::MAX; rows * row_words];
    for (x, words) in x.chunks(shape.columns).zip(words.chunks_mut(row_words)) {
        isa.run(QuantizeRow { x, form, words });
    }
    let x = QuantizedRows { words: &words, rows, columns: shape.columns, form };
    let all: Vec<QuantizedPanel> = (0..shape.n_panels()).map(|panel| panels.panel(panel)).collect();
    let mut out = vec![f32::NAN; rows * shape.rows];
    let mut whole = OutputBlock::whole(&mut out, shape.rows);
    for (index, panels) in all.chunks(at_a_time).enumerate() {
        let first = index * at_a_time * PANEL_ROWS;
        let columns = first..shape.rows.min(first + at_a_time * PANEL_ROWS);
        isa.product_quantized(panels, &x, &mut whole.part(0..rows, columns));
    }
    out
}

fn scalar() -> Isa {
    Isa::named("scalar").expect("always there")
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }).collect()
}

#[test]
fn all_instruction_sets_give_the_bits_of_the_definition() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for quantization in quantizations() {
        for (rows, columns, n) in [(64, 32, 1), (70, 33, 2), (130, 100, 3), (64, 256, 4), (5, 1, 5), (64, 160, 53)] {
            let shape = shape_of(&quantization, rows, columns);
            let bytes = matrix(&mut random, &quantization, &shape);
            let panels = QuantizedPanels::new(quantization, &shape, bytes[..].into()).expect("its length");
            let mut x: Vec<f32> = (0..n * columns).map(|_| random.unit()).collect();
            // Blocks of zeros, of numbers that are too small, and of large ones next to ordinary ones.
            for (block, factor) in x.chunks_mut(32).zip([1.0, 0.0, 1e-32, 1e30, 1e-20].into_iter().cycle()) {
                block.iter_mut().for_each(|x| *x *= factor);
            }
            for precision in [Precision::Int16, Precision::Int8] {
                let expected = product(scalar(), &panels, &x, &shape, precision);
                for &isa in Isa::available() {
                    let found = product(isa, &panels, &x, &shape, precision);
                    assert_eq!(bits(&found), bits(&expected), "{isa:?} {quantization:?} {rows} {columns} {n}");
                }
                for &isa in Isa::available() {
                    let found = by_panels(isa, &panels, &x, &shape, precision, 1);
                    assert_eq!(bits(&found), bits(&expected), "{isa:?} {quantization:?} {rows} {columns} {n}");
                    // The last row by itself.
                    let row = product(isa, &panels, &x[(n - 1) * columns..], &shape, precision);
                    assert_eq!(bits(&row), bits(&expected[(n - 1) * rows..]), "{isa:?} {quantization:?}");
                }
            }
        }
    }
}

#[test]
fn the_definition_is_near_the_exact_product() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for quantization in quantizations() {
        let shape = shape_of(&quantization, 64, 96);
        let bytes = matrix(&mut random, &quantization, &shape);
        let panels = QuantizedPanels::new(quantization, &shape, bytes[..].into()).expect("its length");
        let x: Vec<f32> = (0..96).map(|_| random.unit()).collect();
        for (precision, error) in [(Precision::Int16, 2e-5), (Precision::Int8, 5e-3)] {
            let found = product(scalar(), &panels, &x, &shape, precision);
            for (r, &found) in found.iter().enumerate() {
                let mut row = [0.0; 96];
                panels.panel(0).copy_row(r, &mut row);
                let terms = row.iter().zip(&x).map(|(&w, &x)| f64::from(w) * f64::from(x));
                // Half a unit of the activations in each term, and the rounding of the sums.
                let magnitude: f64 = row.iter().map(|&w| f64::from(w).abs()).sum();
                let exact: f64 = terms.sum();
                assert!((exact - f64::from(found)).abs() <= error * magnitude, "{quantization:?} {precision:?} {r}");
            }
        }
    }
}

#[test]
fn the_largest_integers_do_not_overflow() {
    for quantization in quantizations() {
        let shape = shape_of(&quantization, 64, 64);
        let n_bytes = matrix_bytes(&quantization, &shape).expect("small") as usize;
        for byte in [0x00, 0xff] {
            let mut bytes = vec![byte; n_bytes];
            let elements = quantization.element_bytes();
            for block in bytes[quantization.factor_bytes()..].chunks_mut(quantization.block_bytes()) {
                let scales = block.len() - elements;
                block[..scales].as_chunks_mut().0.iter_mut().for_each(|scale| *scale = [0x3c, 0x3c]);
            }
            if quantization.factor_bytes() > 0 {
                bytes[..4 * 64].as_chunks_mut().0.iter_mut().for_each(|factor| *factor = 1.0f32.to_le_bytes());
            }
            let panels = QuantizedPanels::new(quantization, &shape, bytes[..].into()).expect("its length");
            for sign in [1.0, -1.0] {
                for precision in [Precision::Int16, Precision::Int8] {
                    let x = [sign * 2.0; 64];
                    let expected = product(scalar(), &panels, &x, &shape, precision);
                    let mut row = [0.0; 64];
                    panels.panel(0).copy_row(3, &mut row);
                    let exact: f32 = row.iter().map(|w| w * sign * 2.0).sum();
                    assert!((expected[3] - exact).abs() <= 1e-4 * exact.abs(), "{} {exact}", expected[3]);
                    for &isa in Isa::available() {
                        let found = product(isa, &panels, &x, &shape, precision);
                        assert_eq!(bits(&found), bits(&expected), "{isa:?} {quantization:?} {byte} {sign}");
                    }
                }
            }
        }
    }
}

#[test]
fn activations_that_are_not_finite_give_no_number() {
    for quantization in quantizations() {
        let shape = shape_of(&quantization, 64, 64);
        let bytes = matrix(&mut Random(7), &quantization, &shape);
        let panels = QuantizedPanels::new(quantization, &shape, bytes[..].into()).expect("its length");
        for odd_one in [f32::NAN, f32::INFINITY] {
            let mut x = [0.5; 64];
            x[40] = odd_one;
            for &isa in Isa::available() {
                for precision in [Precision::Int16, Precision::Int8] {
                    let found = product(isa, &panels, &x, &shape, precision);
                    assert!(found.iter().all(|x| x.is_nan()), "{isa:?} {quantization:?} {precision:?}");
                }
            }
        }
    }
}

#[test]
fn scales_that_are_not_finite_are_the_same_everywhere() {
    for quantization in quantizations() {
        let shape = shape_of(&quantization, 64, 64);
        let mut bytes = matrix(&mut Random(9), &quantization, &shape);
        // The first scale or factor NaN, the second infinite.
        let bad: &[u8] = match quantization.scales {
            Scales::F16 => &[1, 0x7e, 0, 0x7c],
            _ => &[1, 0, 0xc0, 0x7f, 0, 0, 0x80, 0xff],
        };
        bytes[..bad.len()].copy_from_slice(bad);
        let panels = QuantizedPanels::new(quantization, &shape, bytes[..].into()).expect("its length");
        let x: Vec<f32> = (0..5 * 64).map(|i| (i as f32 - 100.5) * 0.01).collect();
        let expected = product(scalar(), &panels, &x, &shape, Precision::Int16);
        assert!(expected[0].is_nan() && !expected[1].is_finite() && expected[2].is_finite());
        for &isa in Isa::available() {
            let found = product(isa, &panels, &x, &shape, Precision::Int16);
            assert_eq!(bits(&found), bits(&expected), "{isa:?} {quantization:?}");
        }
    }
}

#[test]
fn widened_blocks_are_the_rows() {
    for quantization in quantizations() {
        let shape = shape_of(&quantization, 64, 100);
        let bytes = matrix(&mut Random(5), &quantization, &shape);
        let panels = QuantizedPanels::new(quantization, &shape, bytes[..].into()).expect("its length");
        let mut widened = vec![0.0; 68 * 64];
        widen_blocks(&panels.panel(0), 1, &mut widened);
        for row in 0..64 {
            let mut expected = [0.0; 100];
            panels.panel(0).copy_row(row, &mut expected);
            let found: Vec<f32> = widened.iter().skip(row).step_by(64).copied().collect();
            assert_eq!(bits(&found), bits(&expected[32..]), "{quantization:?} {row}");
        }
    }
}

#[test]
fn integers_are_those_of_the_form() {
    // The forms of this machine hold the same integers.
    let x: Vec<f32> = (0..64).map(|i| (i as f32 - 31.5) * 0.37).collect();
    for quantization in quantizations() {
        for precision in [Precision::Int16, Precision::Int8] {
            let all = Isa::available().iter().map(|isa| {
                let form = isa.form(&quantization, precision);
                let mut words = vec![0; form.row_words(64)];
                isa.run(QuantizeRow { x: &x, form, words: &mut words });
                words.chunks(form.block_words()).map(|words| integers_of(words, form.arrangement)).collect::<Vec<_>>()
            });
            let all: Vec<_> = all.collect();
            assert!(all.windows(2).all(|two| two[0] == two[1]), "{quantization:?}");
        }
    }
}
