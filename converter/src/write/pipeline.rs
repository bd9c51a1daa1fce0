//! From source files to tensor data: batches of pieces are filled on all threads while another thread writes the batch
//! before. Anonymous memory is a few batches, regardless of the model's size.

use crate::encode::bf12::code_panel;
use crate::encode::buffer::{grow, reserve};
use crate::encode::loss::Loss;
use crate::encode::panels::{Seen, fill_panel, fill_vector};
use crate::encode::quantized::PanelEncoder;
use crate::encode::scale_search::limit;
use crate::error::{Error, Problem};
use crate::folder::gguf::blocks::BlockType;
use crate::model::checkpoint::Source;
use crate::write::model_output::Output;
use crate::write::plan::{Piece, Plan, Written};
use crate::write::recipe::Stored;
use olmo_infer::internals::format::PANEL_ROWS;
use olmo_infer::internals::format::encodings::bf12::Bf12Table;
use olmo_infer::internals::format::encodings::quantized::Quantization;
use olmo_infer::internals::format::{Dtype, Encoding};
use rayon::ThreadPool;
use rayon::prelude::*;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Builder};
use xxhash_rust::xxh3::Xxh3;

/// Bytes of one write, at multiples of itself: one huge page. The page cache then takes the file in huge pages, which
/// makes mapping it later many times cheaper. Larger writes give the same pages, and were measured to take longer (8
/// MiB: 4.0 s for 5.9 GB, 2 MiB: 2.4 s), perhaps because they leave the processor's caches on the way.
pub(crate) const WINDOW: usize = 2 << 20;
/// Windows of one batch: what is filled is still in the cache when it is digested and written.
const BATCH_WINDOWS: usize = 2;
/// Batches on their way: one is filled, one written, one waits.
const N_BATCHES: usize = 3;

/// After this many bytes the file is synced while writing continues. Without that the kernel waits until a tenth of the
/// memory is dirty, with an idle disk, and then slows the writer down.
pub(crate) const SYNC_EVERY: u64 = 128 << 20;

/// What was seen while the numbers were written.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// One entry a tensor.
    pub written: Vec<Written>,
    /// Names of tensors whose numbers are all zero.
    pub all_zero: Vec<String>,
    /// Names of tensors with NaN or infinity, and how many.
    pub nonfinite: Vec<(String, u64)>,
    /// What quantization lost, one entry a tensor.
    pub losses: Vec<Loss>,
    /// How many numbers rounding to bf16 changed.
    pub n_rounded: u64,
    /// Largest relative error of rounding.
    pub max_relative_error: f64,
    /// Mean relative error of rounding over all numbers of all matrices.
    pub mean_relative_error: f64,
}

/// A part of the file on its way to the disk.
struct Batch {
    /// Where it begins in the file: a multiple of [`WINDOW`].
    offset: u64,
    /// How much of `bytes` is to be written.
    length: usize,
    bytes: Vec<u8>,
}

/// Writes the whole file; the bytes before the tensor data are zeros.
///
/// # Errors
/// A source cannot be read, changed meanwhile or holds numbers that are not accepted; the output cannot be written; a
/// thread cannot be started; out of memory.
pub fn data(
    plan: &Plan<'_>,
    output: &Output<'_>,
    pool: &ThreadPool,
    allow_nonfinite: bool,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Outcome, Error> {
    let (sync_sender, sync_requests) = sync_channel::<()>(1);
    let (full_sender, full) = sync_channel::<Batch>(N_BATCHES);
    let (empty_sender, empty) = sync_channel::<Batch>(N_BATCHES);
    for _ in 0..N_BATCHES {
        // The channel has room for all of them.
        let _ = empty_sender.send(Batch { offset: 0, length: 0, bytes: Vec::new() });
    }
    thread::scope(|scope| {
        // An error that sync reports once is not reported again: it must not get lost.
        let sync = move || sync_requests.into_iter().try_for_each(|()| output.sync());
        let write = move || write_batches(plan, output, full, empty_sender, sync_sender, progress);
        let writer = Builder::new().spawn_scoped(scope, write);
        let writer = writer.map_err(|error| Error::io(output.shown(), "cannot start a thread to write it", error))?;
        // Without this thread everything comes to the disk at the end.
        let syncer = Builder::new().spawn_scoped(scope, sync).ok();
        let filled = pool.install(|| fill_batches(plan, output, full_sender, empty, allow_nonfinite));
        // An error of the disk makes the filling end early without one of its own.
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let synced =
            syncer.map_or(Ok(()), |syncer| syncer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        let outcome = written.and_then(|end| filled.map(|outcome| (end, outcome)));
        let (end, outcome) = outcome?;
        synced?;
        assert_eq!(end, plan.layout.file_bytes, "the file is written to its end");
        Ok(outcome)
    })
}

/// The writing thread: a window after the other, in order. Returns where the last one ends.
fn write_batches(
    plan: &Plan<'_>,
    output: &Output<'_>,
    full: Receiver<Batch>,
    empty: SyncSender<Batch>,
    sync: SyncSender<()>,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<u64, Error> {
    let mut at = 0;
    let mut next_sync = SYNC_EVERY;
    for batch in full {
        assert_eq!(at, batch.offset, "windows come in order");
        for window in batch.bytes[..batch.length].chunks(WINDOW) {
            output.write_at(window, at)?;
            at += window.len() as u64;
            progress(at, plan.layout.file_bytes);
        }
        // A full channel has a sync pending; a closed one had a sync fail, whose error `data` returns.
        if at >= next_sync && sync.try_send(()).is_ok() {
            next_sync = at + SYNC_EVERY;
        }
        // Fails once all batches are filled, when the receiver is gone; full batches must still be written.
        let _ = empty.send(batch);
    }
    Ok(at)
}

/// Fills batches one after the other and sends them on.
fn fill_batches(
    plan: &Plan<'_>,
    output: &Output<'_>,
    full: SyncSender<Batch>,
    empty: Receiver<Batch>,
    allow_nonfinite: bool,
) -> Result<Outcome, Error> {
    let mut tally = Tally::new(plan, allow_nonfinite);
    let mut pieces = plan.pieces().peekable();
    let mut source_bytes = Vec::new();
    let mut carried = Vec::new();
    let mut offset = 0u64;
    while offset < plan.layout.file_bytes {
        // The other side is gone when writing failed; its error is the one to report.
        let Ok(mut batch) = empty.recv() else { break };
        let window_end = (offset + (WINDOW * BATCH_WINDOWS) as u64).min(plan.layout.file_bytes);
        let mut chosen = VecDeque::new();
        while let Some(piece) = pieces.next_if(|piece| piece.offset < window_end) {
            chosen.push_back(piece);
        }
        let fresh = offset + carried.len() as u64;
        let last = chosen.back().map_or(fresh, |piece| piece.offset + piece.bytes as u64);
        let end = window_end.max(last);
        let filled_bytes = (end - offset) as usize;
        grow(&mut batch.bytes, filled_bytes, output.shown())?;
        let pieces: Vec<Piece> = chosen.into();
        batch.bytes[..carried.len()].copy_from_slice(&carried);
        let n_source_bytes: usize = pieces.iter().map(|piece| piece.source_bytes).sum();
        grow(&mut source_bytes, n_source_bytes, output.shown())?;
        let seen = fill_batch(plan, &pieces, &mut source_bytes, fresh, &mut batch.bytes[carried.len()..filled_bytes])?;
        tally.add(&pieces, &seen, &source_bytes, &batch.bytes, offset)?;

        // Complete windows are sent; the rest begins the next batch.
        batch.length = (window_end - offset) as usize;
        batch.offset = offset;
        carried.clear();
        reserve(&mut carried, filled_bytes - batch.length, output.shown())?;
        carried.extend_from_slice(&batch.bytes[batch.length..filled_bytes]);
        offset = window_end;
        if full.send(batch).is_err() {
            break;
        }
    }
    Ok(tally.outcome)
}

/// One piece with the memory it comes from and goes to.
struct Job<'b> {
    piece: Piece,
    rows: &'b mut [u8],
    out: &'b mut [u8],
}

/// Reads and fills `pieces` in parallel. `out` begins at `offset` of the file; what no piece covers becomes zeros.
/// `source_bytes` has room for the numbers of all pieces, and afterwards holds them one after the other.
fn fill_batch(
    plan: &Plan<'_>,
    pieces: &[Piece],
    source_bytes: &mut [u8],
    offset: u64,
    out: &mut [u8],
) -> Result<Vec<Seen>, Error> {
    let mut jobs = Vec::with_capacity(pieces.len());
    let (mut rows_left, mut out_left, mut at) = (source_bytes, out, offset);
    for &piece in pieces {
        let (rows, rows_rest) = rows_left.split_at_mut(piece.source_bytes);
        let (gap, rest) = out_left.split_at_mut((piece.offset - at) as usize);
        let (out, out_rest) = rest.split_at_mut(piece.bytes);
        gap.fill(0);
        jobs.push(Job { piece, rows, out });
        (rows_left, out_left, at) = (rows_rest, out_rest, piece.offset + piece.bytes as u64);
    }
    out_left.fill(0);
    jobs.into_par_iter().map(|job| fill_piece(plan, job)).collect()
}

fn fill_piece(plan: &Plan<'_>, job: Job<'_>) -> Result<Seen, Error> {
    let source = plan.source(job.piece.tensor);
    source.tensor.read(job.piece.source_offset, job.rows)?;
    let stored = &plan.tensors[job.piece.tensor].stored;
    Ok(match (source.spec.columns, stored) {
        (Some(_), Stored::Bf12(table)) => return fill_bf12_panel(source, job, table),
        (Some(columns), Stored::Quantized(quantization)) => {
            let importance = plan.importance.as_ref().and_then(|all| all.of(&source.spec, plan.config));
            return fill_quantized_panel(source, job, columns, *quantization, importance);
        }
        (Some(columns), _) => fill_panel(source.tensor.element, job.rows, columns, stored.encoding().dtype(), job.out),
        (None, _) => fill_vector(source.tensor.element, job.rows, job.out),
    })
}

/// Fills a panel of plain bf16 and codes it into its place.
fn fill_bf12_panel(source: &Source, job: Job<'_>, table: &Bf12Table) -> Result<Seen, Error> {
    thread_local! {
        static PLAIN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let (Some(shape), Some(panel)) = (source.spec.panel_shape(Dtype::Bf16), job.piece.panel) else {
        unreachable!("only matrices are bf12");
    };
    PLAIN.with_borrow_mut(|plain| {
        grow(plain, shape.panel_bytes(), &source.tensor.file.path)?;
        let plain = &mut plain[..shape.panel_bytes()];
        let seen = fill_panel(source.tensor.element, job.rows, shape.columns, Dtype::Bf16, plain);
        let has_codes = code_panel(table, &shape, panel, plain, job.out);
        if has_codes { Ok(seen) } else { Err(source.tensor.file.changed().into()) }
    })
}

/// The blocks of a source that are stored as they are.
pub fn kept_blocks(source: &Source, quantization: Quantization) -> Option<BlockType> {
    source.tensor.rows.blocks.filter(|blocks| blocks.quantization() == Some(quantization))
}

/// Fills a panel of int8 or int4.
fn fill_quantized_panel(
    source: &Source,
    job: Job<'_>,
    columns: usize,
    quantization: Quantization,
    importance: Option<&[f32]>,
) -> Result<Seen, Error> {
    thread_local! {
        static ENCODER: RefCell<Option<PanelEncoder>> = const { RefCell::new(None) };
    }
    ENCODER.with_borrow_mut(|kept| {
        let encoder = match kept.take() {
            Some(encoder) if encoder.is_for(quantization, columns) => encoder,
            _ => PanelEncoder::new(quantization, columns, &source.tensor.file.path)?,
        };
        let encoder = kept.insert(encoder);
        let Some(kind) = kept_blocks(source, quantization) else {
            return Ok(encoder.fill(source.tensor.element, job.rows, columns, importance, job.out));
        };
        let n_rows = job.rows.len() / (columns * size_of::<f32>());
        let first_row = job.piece.panel.map_or(0, |panel| panel * PANEL_ROWS);
        let mut blocks = Vec::new();
        grow(&mut blocks, n_rows * columns / kind.elements() * kind.bytes(), &source.tensor.file.path)?;
        source.tensor.read_blocks(first_row as u64, &mut blocks)?;
        encoder.keep(kind, &blocks, job.rows, columns, job.out).ok_or_else(|| {
            let problem = Problem::new(&source.tensor.file.path, "has an integer of -128").tensor(source.spec.name());
            problem.expected("-127 to 127").advice("pack it with --dtype f32, which is exact").into()
        })
    })
}

/// What is known of the tensors so far. Pieces come in the order of the file, so that digests can run along and sums do
/// not depend on the threads.
struct Tally<'p> {
    plan: &'p Plan<'p>,
    allow_nonfinite: bool,
    digest: Xxh3,
    source_digest: Xxh3,
    seen: Seen,
    sum_relative_error: f64,
    n_elements: u64,
    outcome: Outcome,
}

impl<'p> Tally<'p> {
    fn new(plan: &'p Plan<'p>, allow_nonfinite: bool) -> Tally<'p> {
        Tally {
            plan,
            allow_nonfinite,
            digest: Xxh3::with_seed(0),
            source_digest: Xxh3::new(),
            seen: Seen::default(),
            sum_relative_error: 0.0,
            n_elements: 0,
            outcome: Outcome::default(),
        }
    }

    /// Adds the pieces of a batch whose file bytes begin at `offset`.
    fn add(
        &mut self,
        pieces: &[Piece],
        seen: &[Seen],
        source_bytes: &[u8],
        bytes: &[u8],
        offset: u64,
    ) -> Result<(), Error> {
        let (digests, source_digests) = rayon::join(
            || {
                let part = |piece: &Piece| &bytes[(piece.offset - offset) as usize..][..piece.bytes];
                run_digest(&mut self.digest, pieces, |tensor| tensor as u64, part)
            },
            || {
                let mut left = source_bytes;
                let part = |piece: &Piece| left.split_off(..piece.source_bytes).unwrap_or_default();
                run_digest(&mut self.source_digest, pieces, |_| 0, part)
            },
        );
        let mut finished = digests.into_iter().zip(source_digests);
        for (piece, seen) in pieces.iter().zip(seen) {
            let source = self.plan.source(piece.tensor);
            self.seen.add(seen, piece.source_offset / source.tensor.element.bytes() as u64);
            if piece.last {
                let seen = std::mem::take(&mut self.seen);
                let (digest, source_digest) = finished.next().expect("a digest for each last piece");
                self.outcome.written.push(Written {
                    digest,
                    source_digest,
                    min_magnitude: seen.min_magnitude(),
                    rounded: seen.n_changed > 0,
                });
                self.note(piece.tensor, &seen)?;
            }
        }
        Ok(())
    }

    /// Judges a finished tensor.
    fn note(&mut self, tensor: usize, seen: &Seen) -> Result<(), Error> {
        let (source, planned) = (self.plan.source(tensor), &self.plan.tensors[tensor]);
        let (name, encoding) = (planned.spec.name(), planned.stored.encoding());
        if let Some(first) = seen.first_nonfinite {
            if !self.allow_nonfinite || encoding.dtype().is_quantized() {
                let found = format!(
                    "{} of its numbers are NaN or infinite, the first at {}",
                    seen.n_nonfinite,
                    position(source, first)
                );
                let problem = source.tensor.problem(found).expected("finite numbers");
                let advice = match encoding.dtype().is_quantized() {
                    false => "export it again, or pass --allow-nonfinite".into(),
                    true => format!("export it again: {} has no others", encoding.name()),
                };
                return Err(problem.advice(advice).into());
            }
            self.outcome.nonfinite.push((name.clone(), seen.n_nonfinite));
        }
        if let Some(first) = seen.first_overflow {
            let (name, most) = match encoding {
                Encoding::Quantized(quantization) => (encoding.name(), format!("{:.1e}", limit(&quantization))),
                _ => (encoding.dtype().name(), "3.4e38".into()),
            };
            let found = format!("the number at {} is too large for {name}", position(source, first));
            let problem = source.tensor.problem(found).expected(format!("less than {most}"));
            return Err(problem.advice("use --dtype f32").into());
        }
        if seen.all_zero() {
            self.outcome.all_zero.push(name);
        }
        // What a draft loses does not count: the model is the other copy.
        self.outcome.losses.push(seen.loss);
        if !planned.spec.is_draft && encoding.dtype() == Dtype::Bf16 {
            self.n_elements += source.spec.n_elements();
            self.sum_relative_error += seen.sum_relative_error;
            self.outcome.n_rounded += seen.n_changed;
            self.outcome.max_relative_error = self.outcome.max_relative_error.max(seen.max_relative_error);
            self.outcome.mean_relative_error = self.sum_relative_error / self.n_elements as f64;
        }
        Ok(())
    }
}

/// An element's index for people: `[row, column]`.
fn position(source: &Source, index: u64) -> String {
    match source.spec.columns {
        Some(columns) => format!("[{}, {}]", index / columns as u64, index % columns as u64),
        None => format!("[{index}]"),
    }
}

/// Runs `hasher` over the pieces and returns the digests of the tensors that end among them.
fn run_digest<'b>(
    hasher: &mut Xxh3,
    pieces: &[Piece],
    seed: impl Fn(usize) -> u64,
    mut part: impl FnMut(&Piece) -> &'b [u8],
) -> Vec<u64> {
    let mut digests = Vec::new();
    for piece in pieces {
        if piece.source_offset == 0 {
            *hasher = Xxh3::with_seed(seed(piece.tensor));
        }
        hasher.update(part(piece));
        if piece.last {
            digests.push(hasher.digest());
        }
    }
    digests
}
