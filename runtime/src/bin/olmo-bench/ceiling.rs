//! How fast the threads can read the weights when they do nothing else.
//!
//! The bytes of the model's own mapping are added up in registers. How a core asks for its next lines decides how much
//! of the memory's speed it sees, so several ways are tried and the best one is the ceiling.

#![allow(unsafe_code, reason = "a prefetch")]

use crate::json::{integer, object, string};
use crate::rounds::median;
use olmo_infer::internals::kernels::{Isa, LaneOp};
use olmo_infer::internals::parallel::team::Team;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use zerocopy::FromBytes;

/// Numbers that are added at a time: four cache lines.
const STEP: usize = 32;
/// A piece of memory for one thread: 2 MiB.
const ITEM_STEPS: usize = (2 << 20) / (8 * STEP);
/// Pieces between two looks at the clock: 256 MiB.
const WINDOW_ITEMS: usize = 128;
/// Each way to read is tried so often; what counts is its median.
const TRIES: usize = 3;
/// Ways of reading: streams a core, bytes that are fetched ahead of each, and into which cache.
const STREAMS: [usize; 4] = [1, 2, 4, 8];
const PREFETCH: [(usize, Cache); 5] =
    [(0, Cache::L1), (2 << 10, Cache::L1), (8 << 10, Cache::L1), (1 << 10, Cache::L2), (2 << 10, Cache::L2)];

/// Where a prefetch puts its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// All levels.
    L1,
    /// All but the first.
    L2,
}

/// A way to read.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    /// Places in memory that a thread reads at by turns.
    pub streams: usize,
    /// Bytes that are fetched ahead of each; 0 leaves it to the processor.
    pub prefetch_bytes: usize,
    /// Where to.
    pub prefetch_to: Cache,
}

impl Pattern {
    /// For a table.
    pub fn text(self) -> String {
        format!("{} streams a thread, {} B ahead into {:?}", self.streams, self.prefetch_bytes, self.prefetch_to)
    }

    /// For programs.
    pub fn json(self) -> String {
        object([
            ("streams", integer(self.streams as u64)),
            ("prefetch_bytes", integer(self.prefetch_bytes as u64)),
            ("prefetch_to", string(&format!("{:?}", self.prefetch_to))),
        ])
    }
}

/// The read ceiling of a team.
pub struct Ceiling<'a> {
    steps: &'a [[u64; STEP]],
    /// Where the next pass begins.
    at: usize,
    time: Duration,
    pattern: Pattern,
    best_gb_s: f64,
}

/// What one thread reaches alone.
pub struct OneThread {
    /// Read bandwidth, 1e9 bytes a second.
    pub gb_s: f64,
    /// The best way for it.
    pub pattern: Pattern,
}

impl OneThread {
    /// Tries all ways; the team has one thread.
    pub fn measure(data: &[u8], time: Duration, team: &mut Team) -> OneThread {
        let ceiling = Ceiling::tune(data, time, team);
        OneThread { gb_s: ceiling.best_gb_s, pattern: ceiling.pattern }
    }
}

impl<'a> Ceiling<'a> {
    /// Tries all ways, by turns, and keeps the best one. Passes of [`Ceiling::pass`] then take `time`.
    pub fn tune(data: &'a [u8], time: Duration, team: &mut Team) -> Ceiling<'a> {
        let whole = data.len() / 8 * 8;
        let words = <[u64]>::ref_from_bytes(&data[..whole]).expect("tensors are aligned to 256 bytes");
        let pattern = Pattern { streams: 1, prefetch_bytes: 0, prefetch_to: Cache::L1 };
        let steps = words.as_chunks::<STEP>().0;
        let mut ceiling = Ceiling { steps, at: 0, time: time / 4, pattern, best_gb_s: 0.0 };
        let all = STREAMS.map(|streams| {
            PREFETCH.map(|(prefetch_bytes, prefetch_to)| Pattern { streams, prefetch_bytes, prefetch_to })
        });
        let mut tried: Vec<(Pattern, Vec<f64>)> = all.into_iter().flatten().map(|p| (p, Vec::new())).collect();
        for _ in 0..TRIES {
            for (pattern, rates) in &mut tried {
                ceiling.pattern = *pattern;
                rates.push(ceiling.pass(team));
            }
        }
        let medians = tried.into_iter().map(|(pattern, rates)| (pattern, median(&rates)));
        let best = medians.max_by(|(_, a), (_, b)| a.total_cmp(b)).expect("there are ways to read");
        (ceiling.pattern, ceiling.time) = (best.0, time);
        // The median of a few whole passes: the best of many short ones would flatter.
        let passes: Vec<f64> = (0..TRIES).map(|_| ceiling.pass(team)).collect();
        ceiling.best_gb_s = median(&passes);
        ceiling
    }

    /// The chosen way to read.
    pub fn pattern(&self) -> Pattern {
        self.pattern
    }

    /// Read bandwidth when it was chosen, 1e9 bytes a second.
    pub fn best_gb_s(&self) -> f64 {
        self.best_gb_s
    }

    /// Reads for the time of a pass; yields 1e9 bytes a second.
    pub fn pass(&mut self, team: &mut Team) -> f64 {
        let (pattern, bytes) = (self.pattern, AtomicU64::new(0));
        let begun = Instant::now();
        loop {
            let end = (self.at + WINDOW_ITEMS * ITEM_STEPS).min(self.steps.len());
            let window = &self.steps[self.at..end];
            team.for_each(window.len().div_ceil(ITEM_STEPS), |item| {
                let item = &window[item * ITEM_STEPS..window.len().min((item + 1) * ITEM_STEPS)];
                bytes.fetch_add(read(item, pattern), Ordering::Relaxed);
            });
            self.at = if end == self.steps.len() { 0 } else { end };
            let elapsed = begun.elapsed();
            if elapsed >= self.time {
                return bytes.into_inner() as f64 / elapsed.as_secs_f64() / 1e9;
            }
        }
    }
}

/// Reads `steps` and yields the number of bytes that were read: the streams are equally long, a rest is left out.
fn read(steps: &[[u64; STEP]], pattern: Pattern) -> u64 {
    // The ceiling is that of the machine, regardless of the instruction set that computes.
    let isa = Isa::best();
    let ahead = pattern.prefetch_bytes;
    let sums = match pattern.streams {
        1 => isa.run(Sum::<1> { steps, ahead, to: pattern.prefetch_to }),
        2 => isa.run(Sum::<2> { steps, ahead, to: pattern.prefetch_to }),
        4 => isa.run(Sum::<4> { steps, ahead, to: pattern.prefetch_to }),
        _ => isa.run(Sum::<8> { steps, ahead, to: pattern.prefetch_to }),
    };
    black_box(sums);
    (steps.len() / pattern.streams * pattern.streams * STEP * 8) as u64
}

/// The sum of `STREAMS` equal parts of memory, a step from each by turns.
struct Sum<'a, const STREAMS: usize> {
    steps: &'a [[u64; STEP]],
    ahead: usize,
    to: Cache,
}

impl<const STREAMS: usize> LaneOp for Sum<'_, STREAMS> {
    type Output = [u64; STEP];
    #[inline(always)]
    fn run<const FUSED: bool>(self) -> [u64; STEP] {
        match (self.ahead, self.to) {
            (0, _) => self.sum(|_| {}),
            (ahead, Cache::L1) => self.sum(|step| prefetch_to_l1(step.wrapping_add(ahead))),
            (ahead, Cache::L2) => self.sum(|step| prefetch_to_l2(step.wrapping_add(ahead))),
        }
    }
}

impl<const STREAMS: usize> Sum<'_, STREAMS> {
    #[inline(always)]
    fn sum(&self, fetch: impl Fn(*const i8)) -> [u64; STEP] {
        let length = self.steps.len() / STREAMS;
        let streams: [&[[u64; STEP]]; STREAMS] = std::array::from_fn(|s| &self.steps[s * length..][..length]);
        let mut sums = [0u64; STEP];
        for i in 0..length {
            for stream in streams {
                let step = &stream[i];
                for line in 0..STEP / 8 {
                    fetch(step[8 * line..].as_ptr().cast::<i8>());
                }
                for (sum, number) in sums.iter_mut().zip(step) {
                    *sum = sum.wrapping_add(*number);
                }
            }
        }
        sums
    }
}

/// Asks for the cache line at `place`, into all caches.
#[inline(always)]
fn prefetch_to_l1(place: *const i8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction, and it may be given any address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(place);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _no_hint_here = place;
}

/// The same, into all caches but the first.
#[inline(always)]
fn prefetch_to_l2(place: *const i8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as above.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(place);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _no_hint_here = place;
}
