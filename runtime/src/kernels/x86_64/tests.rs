//! Products with AMX against the emulation of its instruction, bit for bit, and the permission in threads and
//! processes. All of it is skipped, with a line, where there is no AMX.

#![allow(unsafe_code, reason = "products that need AMX, a fork, a filter of system calls")]

use super::super::bf12;
use super::super::grid::OutputBlock;
use super::super::isa::Isa;
use super::super::packed_rows::{ALIGNMENT_WORDS, PackedRows, aligned, pack};
use super::super::random::Random;
use super::super::tile_product::{TILE_PAIRS, tile_product};
use super::{amx, amx_detection};
use crate::format::Dtype;
use crate::format::encodings::bf12::{Bf12Panels, Bf12Table, Exponents};
use crate::format::panels::{PANEL_ROWS, PanelShape};
use crate::os::tile_permission;
use std::io::{self, Write};
use std::ops::Range;
use std::process::Command;
use std::sync::mpsc;
use std::{env, ptr, thread};

/// Set for tests that run in a process of their own.
const OWN_PROCESS: &str = "OLMO_AMX_PROCESS";

/// Whether there are tiles that this process may use; reports when there are none.
fn has_tiles() -> bool {
    let found = amx_detection::has_tiles();
    if !found {
        writeln!(io::stderr(), "\nSKIPPED: products with AMX: no such processor, or no permission").expect("taken");
    }
    found
}

impl Random {
    /// Pairs of bf16 numbers with exponents in the range.
    fn pairs_in(&mut self, n: usize, exponents: &Range<u32>) -> Vec<u32> {
        let mut number = || {
            let bits = (self.bits() >> 16) as u32;
            bits & 0x807f | (exponents.start + (bits >> 16) % exponents.len() as u32) << 7
        };
        (0..n).map(|_| number() | number() << 16).collect()
    }
}

/// Exponents of weights and of activations: sums of ordinary size, sums around the smallest normal number, subnormal
/// weights, overflow, and any bits.
const EXPONENTS: [(Range<u32>, Range<u32>); 5] =
    [(110..130, 110..130), (40..80, 50..80), (0..3, 100..255), (180..200, 180..200), (0..256, 0..256)];

/// The product by its definition, `[rows][64]`.
fn expected(panel: &[u32], x: &[u32], steps: usize) -> Vec<u32> {
    let mut sums = vec![0; x.len() / steps * PANEL_ROWS];
    for (k, weights) in (0..steps).step_by(TILE_PAIRS).zip(panel.chunks(TILE_PAIRS * PANEL_ROWS)) {
        let pairs = weights.len() / PANEL_ROWS;
        let x: Vec<u32> = x.chunks_exact(steps).flat_map(|x| &x[k..k + pairs]).copied().collect();
        tile_product(pairs, &x, weights, &mut sums);
    }
    sums
}

/// What `product` makes of packed rows, in the last of more columns than there are outputs.
fn product(
    x: &[u32],
    steps: usize,
    rows: usize,
    columns: usize,
    product: impl FnOnce(&PackedRows, &mut OutputBlock),
) -> Vec<u32> {
    let len = PackedRows::words(rows, steps);
    let mut words = vec![u32::MAX; len + ALIGNMENT_WORDS];
    let words = aligned(&mut words, len);
    pack(x, steps, rows, steps, words);
    let width = columns + 7;
    let mut out = vec![f32::MAX; rows * width];
    let mut whole = OutputBlock::whole(&mut out, width);
    product(&PackedRows::new(words, rows, steps), &mut whole.part(0..rows, 7..width));
    assert!(out.chunks(width).all(|row| row[..7].iter().all(|&other| other == f32::MAX)));
    out.chunks(width).flat_map(|row| &row[7..]).map(|sum| sum.to_bits()).collect()
}

fn assert_rows(found: &[u32], columns: usize, expected: &[u32], case: &str) {
    for (row, (found, expected)) in found.chunks(columns).zip(expected.chunks(PANEL_ROWS)).enumerate() {
        assert_eq!(found, &expected[..columns], "{case}, row {row}");
    }
}

/// Numbers of rows and steps: every number of rows with few steps, some with more than a block of steps.
fn shapes() -> impl Iterator<Item = (usize, Vec<usize>)> {
    let few = [1, 15, 16, 17, 31, 32].map(|steps| (steps, (1..=40).chain([48, 49, 64, 70]).collect()));
    let many = [amx::BLOCK_STEPS, 2 * amx::BLOCK_STEPS + 17].map(|steps| (steps, vec![1, 16, 17, 33]));
    few.into_iter().chain(many)
}

#[test]
fn bf16_products_equal_the_emulation() {
    if !has_tiles() {
        return;
    }
    let mut random = Random(0x1234_5678_9abc_def1);
    for (w_range, x_range) in &EXPONENTS {
        for (steps, rows) in shapes() {
            let panel = random.pairs_in(steps * PANEL_ROWS, w_range);
            let x = random.pairs_in(rows[rows.len() - 1] * steps, x_range);
            let expected = expected(&panel, &x, steps);
            for rows in rows {
                for (columns, ahead) in [(64, 0), (64, 2048), (61, 0), (1, 0)] {
                    let x = &x[..rows * steps];
                    let found = product(x, steps, rows, columns, |x, out| {
                        // SAFETY: `has_tiles` is true.
                        unsafe { amx::product_bf16(&panel, x, out, ahead) }
                    });
                    assert_rows(&found, columns, &expected, &format!("{w_range:?} {steps} {rows} {columns}"));
                }
            }
        }
    }
}

/// A plain panel as bf12, and its table.
fn bf12(panel: &[u32], exponents: Exponents) -> (Vec<u8>, Bf12Table) {
    let codes = exponents.codes();
    let (mut bytes, mut raw) = (Vec::new(), Vec::new());
    for (number, step) in (0..).zip(panel.as_chunks::<PANEL_ROWS>().0) {
        match codes.encode(step, PANEL_ROWS, 2) {
            Some(step) => bytes.extend_from_slice(&step),
            None => {
                raw.push(number);
                bytes.extend(step.iter().flat_map(|pair| pair.to_le_bytes()));
            }
        }
    }
    (bytes, Bf12Table::new(exponents, [raw].into_iter()))
}

#[test]
fn bf12_products_equal_the_emulation() {
    if !has_tiles() {
        return;
    }
    let isa = Isa::named("avx512").expect("detected together with AMX");
    let mut random = Random(0xfeed_beef_1234_5678);
    // Weights that have codes, and any bits in one step of ten.
    for (first, x_range) in [(110, 110..130), (0, 100..255), (240, 0..256)] {
        let exponents = Exponents::from_bytes(std::array::from_fn(|i| first + i as u8)).expect("ascending");
        let w_range = u32::from(first)..u32::from(first) + 16;
        for (steps, rows) in shapes() {
            let mut panel = random.pairs_in(steps * PANEL_ROWS, &w_range);
            for _ in 0..steps.div_ceil(10) {
                let at = random.bits() as usize % panel.len();
                panel[at] = random.bits() as u32;
            }
            let (bytes, table) = bf12(&panel, exponents);
            let shape = PanelShape { rows: PANEL_ROWS, columns: 2 * steps, dtype: Dtype::Bf16 };
            let coded = Bf12Panels::new(&shape, bytes[..].into(), &table).panel(0);
            let x = random.pairs_in(rows[rows.len() - 1] * steps, &x_range);
            let expected = expected(&panel, &x, steps);
            for rows in rows {
                for (columns, ahead) in [(64, 0), (64, 2048), (61, 0)] {
                    let x = &x[..rows * steps];
                    let found = product(x, steps, rows, columns, |x, out| {
                        // SAFETY: `has_tiles` is true.
                        unsafe { bf12::amx::product(isa, &coded, x, out, ahead) }
                    });
                    assert_rows(&found, columns, &expected, &format!("bf12 {first} {steps} {rows} {columns}"));
                }
            }
        }
    }
}

#[test]
fn products_without_steps_are_zeros() {
    if !has_tiles() {
        return;
    }
    for (rows, columns) in [(1, 64), (17, 64), (40, 61)] {
        let mut out = vec![f32::NAN; rows * columns];
        let mut block = OutputBlock::whole(&mut out, columns);
        // SAFETY: `has_tiles` is true.
        unsafe { amx::product_bf16(&[], &PackedRows::new(&[], rows, 0), &mut block, 0) };
        assert!(out.iter().all(|sum| sum.to_bits() == 0));
    }
}

/// One product, right or wrong.
fn is_right(seed: u64) -> bool {
    let mut random = Random(seed);
    let (panel, x) = (random.pairs_in(40 * PANEL_ROWS, &(110..130)), random.pairs_in(20 * 40, &(110..130)));
    // SAFETY: only called where `amx_detection::is_available` is true.
    product(&x, 40, 20, PANEL_ROWS, |x, out| unsafe { amx::product_bf16(&panel, x, out, 0) })
        == expected(&panel, &x, 40)
}

/// Runs the test of this name alone, in a process that begins without the permission. Whether this is that process;
/// elsewhere that has ended, rightly.
fn is_own_process(name: &str) -> bool {
    if env::var_os(OWN_PROCESS).is_some() {
        return true;
    }
    if !has_tiles() {
        return false;
    }
    let this = env::current_exe().expect("the path of this program");
    let test = format!("{}::{name}", module_path!().split_once("::").expect("a crate").1);
    let output = Command::new(this).args([&test, "--exact", "--nocapture"]).env(OWN_PROCESS, "1").output();
    let output = output.expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    false
}

#[test]
fn repeated_products_are_counted() {
    for isa in Isa::available() {
        // Four products a pass, each of 16 rows, 16 outputs and 32 columns.
        let counted = (isa.name() == "amx").then_some(3 * 4 * 2 * 16 * 16 * 32);
        assert_eq!(isa.repeat_tile_products(3), counted, "{}", isa.name());
    }
    // What follows finds the tiles as it needs them.
    assert!(!has_tiles() || is_right(60));
}

#[test]
fn older_and_younger_threads_may_use_tiles() {
    if !is_own_process("older_and_younger_threads_may_use_tiles") {
        return;
    }
    let (permit, permitted) = mpsc::channel();
    let older = thread::spawn(move || {
        permitted.recv().expect("sent");
        (1..20).all(is_right)
    });
    assert!(amx_detection::is_available());
    permit.send(()).expect("it waits");
    let younger = thread::spawn(|| (20..40).all(is_right));
    assert!((40..60).all(is_right));
    assert!(older.join().expect("no panic") && younger.join().expect("no panic"));
}

#[test]
fn a_forked_process_may_use_tiles() {
    if !is_own_process("a_forked_process_may_use_tiles") {
        return;
    }
    assert!(amx_detection::is_available() && is_right(1));
    // SAFETY: the child computes, and ends without returning.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let status = if amx_detection::is_available() && is_right(2) { 0 } else { 1 };
        // SAFETY: ends the process.
        unsafe { libc::_exit(status) };
    }
    assert!(child > 0 && is_right(3));
    let mut status = 0;
    // SAFETY: `status` is there.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:x}");
}

#[test]
fn a_refused_permission_is_an_answer() {
    if !is_own_process("a_refused_permission_is_an_answer") {
        return;
    }
    let statement = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let (load, equal, ret) =
        (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::BPF_RET);
    // The number of the call, and its first argument.
    let mut filter = [
        statement(load, 0, 0, 0),
        statement(equal, 0, 3, libc::SYS_arch_prctl as u32),
        statement(load, 0, 0, 16),
        statement(equal, 0, 1, 0x1023),
        statement(ret, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(ret, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its statements are there; the filter only makes a call fail.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        if libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0 {
            return writeln!(io::stderr(), "\nSKIPPED: this system has no filters").expect("taken");
        }
    }
    assert!(!tile_permission::is_granted() && !amx_detection::is_available());
}

#[test]
fn a_thread_with_a_small_signal_stack_is_a_refusal() {
    if !is_own_process("a_thread_with_a_small_signal_stack_is_a_refusal") {
        return;
    }
    let mut stack = vec![0u8; 4096];
    let small = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
    let mut before = small;
    // SAFETY: the memory stays until the stack of before is back, and no signal is handled meanwhile.
    unsafe {
        assert_eq!(libc::sigaltstack(&raw const small, &raw mut before), 0);
        let is_available = amx_detection::is_available();
        assert_eq!(libc::sigaltstack(&raw const before, ptr::null_mut()), 0);
        assert!(!is_available && !tile_permission::is_granted());
    }
}
