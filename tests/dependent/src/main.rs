//! Calls everything public of the library that takes numbers or slices with the worst there are. Every call returns or
//! panics. Prints a line for each group of calls, with their number, and at last the number of all.

#![forbid(unsafe_code)]

mod kernels;
mod models;
mod sizes;

use std::fmt::Debug;
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::path::Path;
use std::process::exit;
use std::thread;
use std::time::Duration;

/// Numbers at which arithmetic ends: products with a small number wrap to a small number.
pub const EXTREMES: [usize; 14] = [
    0,
    1,
    2,
    3,
    64,
    1 << 48,
    usize::MAX / 4 + 1,
    usize::MAX / 3,
    // Three of it are 2 more than 2^64.
    6_148_914_691_236_517_206,
    usize::MAX / 2,
    usize::MAX / 2 + 1,
    usize::MAX / 3 * 2 + 1,
    usize::MAX - 1,
    usize::MAX,
];
/// The whole run takes seconds; a call that does not return ends it.
const MOST_SECONDS: u64 = 300;

/// Counts the calls of a group.
#[derive(Default)]
pub struct Calls {
    returned: usize,
    panicked: usize,
}

impl Calls {
    /// One call, whose result is dropped.
    pub fn call<T>(&mut self, call: impl FnOnce() -> T) {
        // What it has left behind is not used again, or is safe to use.
        match catch_unwind(AssertUnwindSafe(|| drop(black_box(call())))) {
            Ok(()) => self.returned += 1,
            Err(_) => self.panicked += 1,
        }
    }
}

/// All pairs of two lists.
pub fn pairs<A: Copy, B: Copy>(a: &[A], b: &[B]) -> impl Iterator<Item = (A, B)> {
    a.iter().flat_map(move |&a| b.iter().map(move |&b| (a, b)))
}

/// A group of calls, its name and the file that some need.
type Group = (&'static str, fn(&mut Calls, &Path));

fn main() {
    let model = std::env::args_os().nth(1).expect("usage: dependent MODEL.olmo");
    // Panics are what is asked for.
    set_hook(Box::new(|_| ()));
    let wraps = catch_unwind(|| black_box(usize::MAX) + black_box(1)).is_ok();
    if !wraps || cfg!(debug_assertions) {
        println!("built with checks that an ordinary program does not have");
        exit(3);
    }
    thread::spawn(|| {
        thread::sleep(Duration::from_secs(MOST_SECONDS));
        println!("a call does not return");
        exit(3);
    });
    let groups: [Group; 17] = [
        ("products of f32", kernels::products_f32),
        ("products of bf16", kernels::products_bf16),
        ("bf12 panels", kernels::bf12),
        ("quantized panels", kernels::quantized),
        ("coding", kernels::coding),
        ("lanes", kernels::lanes),
        ("grids", kernels::grids),
        ("matmul", kernels::matmul),
        ("threads", kernels::threads),
        ("panels and layouts", sizes::layouts),
        ("configurations", sizes::configurations),
        ("sizes", sizes::sizes),
        ("tokens", sizes::tokens),
        ("sampling", sizes::sampling),
        ("bytes", sizes::bytes),
        ("models", models::models),
        ("batches", models::batches),
    ];
    let mut all = 0;
    for (name, group) in groups {
        // Before it runs: the last line names the group that ended the program.
        println!("{name}");
        let mut calls = Calls::default();
        group(&mut calls, Path::new(&model));
        let Calls { returned, panicked } = calls;
        println!("{name}: {returned} returned, {panicked} panicked");
        all += returned + panicked;
    }
    println!("{all} calls");
}

/// Shows a value, which calls its `Debug`.
pub fn shown(value: impl Debug) -> usize {
    format!("{value:?}").len()
}
