//! Kernels, what they read and write, and the threads that run them.

use crate::{Calls, EXTREMES, pairs};
use olmo_infer::internals::format::Dtype;
use olmo_infer::internals::format::encodings::bf12::{
    Bf12Panels, Bf12Table, CODED_STEP_BYTES, Exponents, N_CODES, RAW_STEP_BYTES, decode, matrix_bytes, pays,
    smallest_magnitude,
};
use olmo_infer::internals::format::encodings::quantized::{
    Elements, Levels, Quantization, QuantizedPanels, Scales, matrix_bytes as quantized_bytes,
};
use olmo_infer::internals::format::matrix::{Matrix, Panels};
use olmo_infer::internals::format::panels::PanelShape;
use olmo_infer::internals::kernels::Isa;
use olmo_infer::internals::kernels::backend::Backend;
use olmo_infer::internals::kernels::bf16::{Arrangement, Bf16Panel, Bf16Rows, RoundGroup, round_to_bf16};
use olmo_infer::internals::kernels::grid::{OutputBlock, OutputGrid};
use olmo_infer::internals::kernels::lanes::{
    Clip, KEY_BLOCK, LayerNorm, LogSumExp, RmsNorm, Rotate, SoftmaxBlock, SoftmaxEnd, SoftmaxState, SwiGlu,
};
use olmo_infer::internals::kernels::numbers::Numbers;
use olmo_infer::internals::kernels::quantized::{Arrangement as Order, Form, Precision, QuantizeRow, QuantizedRows};
use olmo_infer::internals::os::spawn;
use olmo_infer::internals::parallel::matmul::{Activations, Matmul, no_subnormals};
use olmo_infer::internals::parallel::team::{Team, Threads, with_team};
use std::path::Path;
use std::thread;

/// Every way to arrange activations.
const ARRANGEMENTS: [Arrangement; 5] =
    [Arrangement::Pairs, Arrangement::Columns, Arrangement::Floats, Arrangement::Halves, Arrangement::Tiles];

/// Every way to arrange integers.
const ORDERS: [Order; 3] = [Order::Words, Order::Bytes, Order::Halves];
/// Columns of rows of integers, and all their words.
const SHAPES: [(usize, usize); 8] =
    [(32, 20), (32, 12), (33, 40), (32, 80), (32, 140), (33, 800), (usize::MAX, 40), (usize::MAX / 3 + 1, 0)];

/// Outputs: rows, width of a row, columns of the block.
const OUTPUTS: [(usize, usize, usize); 8] =
    [(1, 64, 64), (2, 64, 16), (4, 64, 64), (4, 16, 16), (4, 1, 1), (7, 100, 33), (3, 65, 65), (25, 48, 48)];

pub fn products_f32(calls: &mut Calls, _: &Path) {
    let (numbers, bits) = (vec![1.0f32; 1024], vec![0x3f80u16; 1024]);
    for (isa, gemm) in pairs(Isa::available(), &[false, true]) {
        for ((rows, out_width, columns), accumulate) in pairs(&OUTPUTS, &[false, true]) {
            for (width, panel) in pairs(&[0, 1, 16, 48, 64, 65, 1 << 48, usize::MAX], &[0, 16, 192, 640]) {
                for (x, x_stride) in pairs(&[0, 1, 10, 640], &EXTREMES) {
                    for panel in [Numbers::F32(&numbers[..panel]), Numbers::Bf16(&bits[..panel])] {
                        calls.call(|| {
                            let mut out = vec![0.0; rows * out_width];
                            let mut block = OutputBlock::whole(&mut out, out_width);
                            let mut out = block.part(0..rows, 0..columns);
                            Backend { gemm, ..Backend::of(isa) }.product(
                                panel,
                                width,
                                &numbers[..x],
                                x_stride,
                                &mut out,
                                accumulate,
                            );
                        });
                    }
                }
            }
        }
    }
}

pub fn products_bf16(calls: &mut Calls, _: &Path) {
    let numbers = vec![0x3f80_3f80u32; 1024];
    for (&isa, (rows, out_width, out_columns)) in Isa::available().iter().flat_map(|isa| OUTPUTS.map(|out| (isa, out)))
    {
        for (panel, x) in pairs(&[0, 1, 64, 192, 640], &[0, 1, 32, 48, 112, 128, 192, 224, 400, 800]) {
            for (columns, no_subnormals) in pairs(&EXTREMES, &[false, true]) {
                calls.call(|| {
                    let mut out = vec![0.0; rows * out_width];
                    let mut block = OutputBlock::whole(&mut out, out_width);
                    let mut out = block.part(0..rows, 0..out_columns);
                    let (panel, arrangement) = (Bf16Panel::Plain(&numbers[..panel]), isa.arrangement());
                    let x = Bf16Rows::new(&numbers[..x], rows, columns, arrangement, 0);
                    isa.product_bf16(&[panel], &x, &mut out, no_subnormals);
                });
            }
        }
    }
}

pub fn quantized(calls: &mut Calls, _: &Path) {
    let bytes = vec![0x81u8; 1 << 14];
    let words = vec![0x3f80_3f80u32; 1024];
    let levels: [i8; 16] = std::array::from_fn(|code| code as i8 - 8);
    for first in [-128, -127, 0, 127] {
        calls.call(|| Levels::new(std::array::from_fn(|code| if code == 0 { first } else { levels[code] })));
    }
    let elements = [Elements::Int8, Elements::Int4(Levels::new(levels).expect("ascending"))];
    let forms = pairs(&[Precision::Int16, Precision::Int8], &ORDERS)
        .map(|(precision, arrangement)| Form { precision, arrangement });
    let forms: Vec<Form> = forms.collect();
    for (&form, columns) in forms.iter().flat_map(|form| EXTREMES.map(|columns| (form, columns))) {
        calls.call(|| form.row_words(columns));
        calls.call(|| {
            let x = QuantizedRows { words: &words, rows: columns, columns, form };
            (x.part(0..columns).rows, x.from_block(columns, columns).len())
        });
    }
    for (&form, &isa) in forms.iter().flat_map(|form| Isa::available().iter().map(move |isa| (form, isa))) {
        for (x, words) in pairs(&[0, 1, 32, 33, 100], &[0, 12, 20, 24, 40, 80]) {
            calls.call(|| isa.run(QuantizeRow { x: &vec![1.0; x], form, words: &mut vec![0; words] }));
        }
    }
    for (elements, scales) in pairs(&elements, &[Scales::F16, Scales::Row32, Scales::Row16]) {
        let quantization = Quantization { elements, scales };
        let dtype = if elements == Elements::Int8 { Dtype::Int8 } else { Dtype::Int4 };
        for (rows, columns) in pairs(&[0, 64, 65, 128, 1 << 48, usize::MAX], &[0, 1, 32, 33, 1 << 48, usize::MAX]) {
            let shape = PanelShape { rows, columns, dtype };
            calls.call(|| quantization.panel_bytes(columns));
            let exact = quantized_bytes(&quantization, &shape).ok().and_then(|bytes| usize::try_from(bytes).ok());
            for length in [0, 2432, 4096].into_iter().chain(exact).filter(|&length| length <= bytes.len()) {
                let Some(panels) = QuantizedPanels::new(quantization, &shape, bytes[..length].into()) else { continue };
                for panel in [0, 1, 2, usize::MAX] {
                    for at in EXTREMES {
                        calls.call(|| panels.panel(panel).numbers(at, at));
                        calls.call(|| panels.panel(panel).factor(at));
                        calls.call(|| panels.panel(panel).copy_row(at, &mut vec![0.0; at.min(100)]));
                    }
                    for (&isa, &form) in
                        Isa::available().iter().flat_map(|isa| forms.iter().map(move |form| (isa, form)))
                    {
                        for (n, (columns, n_words)) in
                            [1, 4, 7, 20].into_iter().flat_map(|n| SHAPES.map(|shape| (n, shape)))
                        {
                            calls.call(|| {
                                let mut out = vec![0.0; n * 64];
                                let x = QuantizedRows { words: &words[..n_words], rows: n, columns, form };
                                let mut out = OutputBlock::whole(&mut out, 64);
                                isa.product_quantized(&[panels.panel(panel)], &x, &mut out);
                            });
                        }
                    }
                }
            }
        }
    }
}

fn exponents() -> Exponents {
    Exponents::commonest(&[0; 256])
}

pub fn bf12(calls: &mut Calls, _: &Path) {
    let bytes = vec![0x11u8; 1 << 16];
    let x = vec![0x3f80_3f80u32; 1024];
    let raw: [&[u32]; 8] = [&[], &[0], &[4], &[5], &[u32::MAX], &[1, 0], &[2, 2], &[0, 1, 2, 3, 4]];
    let lists = pairs(&raw, &raw).map(|(a, b)| vec![a, b]).chain([vec![], vec![&raw[0][..]], vec![&raw[5][..]]]);
    for lists in lists {
        let table = Bf12Table::new(exponents(), lists.iter().map(|list| list.to_vec()));
        let n_raw = table.n_raw_steps() as u32;
        for (rows, columns) in pairs(&[0, 64, 65, 128, 1 << 48, usize::MAX], &[0, 1, 9, 10, 1 << 48, usize::MAX]) {
            let shape = PanelShape { rows, columns, dtype: Dtype::Bf16 };
            for panel in EXTREMES {
                calls.call(|| table.panel_range(&shape, panel));
                calls.call(|| table.raw_steps(panel).len());
            }
            calls.call(|| Bf12Table::bytes(&shape, n_raw));
            let exact = matrix_bytes(&shape, n_raw).ok().and_then(|bytes| usize::try_from(bytes).ok());
            for length in [0, 960, 1920, 4096].into_iter().chain(exact).filter(|&length| length <= bytes.len()) {
                // Most have lengths that do not fit together, which is refused here.
                let mut made = None;
                calls.call(|| made = Some(Bf12Panels::new(&shape, bytes[..length].into(), &table)));
                let Some(panels) = made else { continue };
                calls.call(|| panels.bytes());
                for panel in [0, 1, 2, usize::MAX] {
                    for at in EXTREMES {
                        calls.call(|| panels.panel(panel).split_at(at).1.steps().count());
                        calls.call(|| panels.panel(panel).row(at).count());
                        calls.call(|| {
                            panels.panel(panel).chunks(at).map(|part| part.stretches().count()).sum::<usize>()
                        });
                    }
                    for &isa in Isa::available() {
                        for pairs in [0, 64, 320, 640] {
                            calls.call(|| isa.decode(&panels.panel(panel), &mut vec![0; pairs]));
                        }
                        for (rows, columns) in pairs(&[1, 4, 7, 20], &[0, 8, 9, 10, 32, usize::MAX, usize::MAX / 3 + 1])
                        {
                            calls.call(|| {
                                let mut out = vec![0.0; rows * 64];
                                let mut out = OutputBlock::whole(&mut out, 64);
                                let panel = Bf16Panel::Bf12(panels.panel(panel));
                                let arrangement = isa.arrangement();
                                let words = &x[..40.min(x.len())];
                                let x = Bf16Rows::new(words, rows, columns, arrangement, 0);
                                isa.product_bf16(&[panel], &x, &mut out, true);
                            });
                        }
                    }
                }
            }
        }
    }
}

pub fn coding(calls: &mut Calls, _: &Path) {
    let exponents = exponents();
    let codes = exponents.codes();
    for (rows, columns) in pairs(&EXTREMES, &EXTREMES) {
        calls.call(|| codes.encode(&[0; 64], rows, columns));
        calls.call(|| codes.encode(&[u32::MAX; 64], rows, columns));
        let shape = PanelShape { rows, columns, dtype: Dtype::Bf16 };
        for n_raw in [0, 1, u32::MAX] {
            calls.call(|| matrix_bytes(&shape, n_raw));
            calls.call(|| pays(&shape, n_raw.into()));
            calls.call(|| Bf12Table::bytes(&shape, n_raw));
            calls.call(|| Bf12Table::read(&mut [7u8; 100].as_slice(), &shape, n_raw));
            let ascending: Vec<u8> = (0..N_CODES as u8).chain([0; 200]).collect();
            calls.call(|| Bf12Table::read(&mut ascending.as_slice(), &shape, n_raw));
        }
        calls.call(|| pays(&shape, u64::MAX));
    }
    for byte in 0..=255 {
        calls.call(|| Exponents::from_bytes([byte; N_CODES]));
        calls.call(|| decode(&[byte; CODED_STEP_BYTES], &exponents));
        calls.call(|| smallest_magnitude(&[byte; CODED_STEP_BYTES], &exponents));
    }
    calls.call(|| Exponents::commonest(&[u64::MAX; 256]));
    calls.call(|| RAW_STEP_BYTES);
}

pub fn lanes(calls: &mut Calls, _: &Path) {
    let lengths = [0, 1, 2, 15, 16, 17, 64, 100];
    for (&isa, (a, b)) in Isa::available().iter().flat_map(|isa| pairs(&lengths, &lengths).map(move |ab| (isa, ab))) {
        let (mut x, other) = (vec![1.5f32; a], vec![f32::NAN; b]);
        calls.call(|| isa.run(RmsNorm { x: &mut x, weight: &other, eps: f32::NAN, residual: None }));
        let mut residual = vec![0.0; b];
        calls.call(|| isa.run(RmsNorm { x: &mut x, weight: &other, eps: 0.0, residual: Some(&mut residual) }));
        calls.call(|| isa.run(LayerNorm { x: &mut x, eps: f32::INFINITY }));
        calls.call(|| isa.run(Clip { x: &mut x, limit: -1.0 }));
        calls.call(|| isa.run(SwiGlu { gate: &mut x, up: &other }));
        calls.call(|| isa.run(Rotate { x: &mut x, cos: &other, sin: &residual, scale: f32::MAX }));
        calls.call(|| isa.run(LogSumExp(&x)));
        for (arrangement, columns) in pairs(&ARRANGEMENTS, &[0, 1, a, b]) {
            calls.call(|| isa.run(RoundGroup { x: &x, columns, arrangement, words: &mut vec![0; b] }));
        }
        let mut state = SoftmaxState::START;
        for (start, end) in pairs(&EXTREMES, &EXTREMES) {
            let mut scores = [f32::NEG_INFINITY; KEY_BLOCK];
            calls.call(|| isa.run(SoftmaxBlock { scores: &mut scores, visible: start..end, state: &mut state }));
        }
        calls.call(|| isa.run(SoftmaxEnd { values: &other, state: &state, out: &mut x }));
    }
    for bits in [0, 1, u32::MAX, 0x7f80_0000, 0x7f80_0001, 0x7f7f_ffff, 0xffff_8000] {
        calls.call(|| round_to_bf16(f32::from_bits(bits)));
        calls.call(|| no_subnormals(bits, u32::MAX) | no_subnormals(0x0080_0000, bits));
    }
}

pub fn grids(calls: &mut Calls, _: &Path) {
    let length = 130;
    for width in EXTREMES {
        for (block_rows, block_columns) in pairs(&EXTREMES, &EXTREMES) {
            calls.call(|| {
                let mut data = vec![0.0f32; length];
                let mut grids = [OutputGrid::new(&mut data, width, block_rows, block_columns)];
                assert!(grids[0].n_blocks() <= length);
                let body = |team: &mut Team| team.for_blocks(&mut grids, |_, mut block| block.row(0)[0] += 1.0);
                with_team(1, body).expect("runs");
            });
            // Nothing in memory, and as many of it as there are numbers.
            calls.call(|| OutputGrid::new(&mut [(); usize::MAX], width, block_rows, block_columns).n_blocks());
        }
        calls.call(|| {
            let mut data = vec![0u8; length];
            with_team(2, |team| team.for_rows(&mut data, width, |row, cells| cells.fill(row as u8))).expect("runs");
        });
        calls.call(|| {
            let (mut a, mut b) = (vec![0.0; length], vec![0.0; length]);
            let body = |team: &mut Team| team.for_row_pairs(&mut a, &mut b, width, |_, a, b| a.copy_from_slice(b));
            with_team(2, body).expect("runs");
        });
        let mut data = vec![0u32; length];
        calls.call(|| OutputBlock::whole(&mut data, width).rows());
        calls.call(|| OutputBlock::<u8>::whole(&mut [], width).into_row().len());
        calls.call(|| OutputBlock::whole(&mut [0u8; 64], 64).row(width).fill(1));
        for (start, end) in pairs(&EXTREMES, &EXTREMES) {
            calls.call(|| {
                let mut block = OutputBlock::whole(&mut data, 65);
                let mut part = block.part(start..end, width..end);
                (0..part.rows()).for_each(|row| part.row(row).fill(1));
                part.part(end..end, end..end).into_row().fill(2);
            });
            calls.call(|| OutputBlock::whole(&mut data, 65).part(0..2, start..end).row(1).fill(1));
        }
    }
}

pub fn matmul(calls: &mut Calls, _: &Path) {
    let (f32s, pairs_of_bf16) = (vec![1.0f32; 64 * 64], vec![1u32; 64 * 64]);
    for (&isa, gemm) in Isa::available().iter().flat_map(|isa| [(isa, false), (isa, true)]) {
        let backend = Backend { gemm, ..Backend::of(isa) };
        for (activations, (rows, columns)) in
            pairs(&[Activations::Auto, Activations::F32], &pairs(&EXTREMES, &EXTREMES).collect::<Vec<_>>())
        {
            let matrices = [(Dtype::F32, Panels::F32(&f32s)), (Dtype::Bf16, Panels::Bf16(&pairs_of_bf16))];
            for (dtype, panels) in matrices {
                let matrix = Matrix { shape: PanelShape { rows, columns, dtype }, panels, min_magnitude: 0 };
                calls.call(|| Matmul::new(backend, activations, [matrix], rows, columns).map(drop));
                calls.call(|| matrix.bytes());
                for row in [0, 63, 64, usize::MAX] {
                    calls.call(|| matrix.copy_row(row, &mut vec![0.0; columns.min(100)]));
                }
                calls.call(|| {
                    let mut matmul = Matmul::new(backend, activations, [matrix], 4, 64).expect("it fits");
                    let (x, mut out) = (vec![1.0; 64], vec![0.0; 64]);
                    with_team(1, |team| matmul.run(team, &x, [(&matrix, &mut out)])).expect("runs");
                });
            }
        }
    }
    for name in [None, Some(""), Some("avx512"), Some("scalar"), Some("portable")] {
        calls.call(|| Backend::named(name, name));
        calls.call(|| Backend::named(name, Some("own")));
    }
}

pub fn threads(calls: &mut Calls, _: &Path) {
    for n_threads in [0, 1, 2, 3, usize::MAX] {
        let threads = Threads::new(n_threads);
        calls.call(|| threads.run(|team| team.for_each(100, |_| ())).expect("runs"));
        calls.call(|| threads.run(|_| threads.run(|_| ())).expect("runs").expect_err("refused"));
        calls.call(|| threads.run(|team| team.for_each(100, |item| assert!(item != 99))));
        // Items without end are what was asked for; too many to count are not.
        if n_threads > 1 {
            for n_items in EXTREMES.into_iter().filter(|&n| n <= 64 || n > u32::MAX as usize) {
                calls.call(|| threads.run(|team| team.for_each(n_items, |_| ())));
            }
        }
    }
    for n in EXTREMES {
        calls.call(|| spawn::has_room_for(n));
        calls.call(|| olmo_infer::internals::cli::command_line::threads(n));
    }
    calls.call(|| spawn::spawn("a name\0with a zero", true, || ()).map(|thread| thread.join()));
    calls.call(|| spawn::spawn("worker", false, || ()).map(|thread| thread.join()));
    calls
        .call(|| thread::scope(|scope| spawn::spawn_scoped(scope, "worker", || 1).map(|thread| thread.join().is_ok())));
}
