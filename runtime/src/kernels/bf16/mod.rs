//! Products of bf16 weights, plain or in 12 bits, with activations rounded to bf16.
//!
//! With few rows the memory limits the speed: weights go from memory to registers, some blocks of each of several panels
//! by turns, since some memories deliver several streams faster than one. AVX2 does the same with many rows: a turn stays
//! in the L1 cache for all of them. AVX-512 arranges some blocks as its instructions take them, in a scratch in the
//! caches, before they meet all rows.

#![allow(unsafe_code, reason = "calls of code for detected instruction sets")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod dot;
mod group;
pub(super) mod panel;
pub(super) mod rows;

pub use panel::Bf16Panel;
pub use rows::{Arrangement, Bf16Rows, RoundGroup, round_to_bf16};

use crate::format::PANEL_ROWS;
use crate::format::encodings::bf12::Bf12Panel;
#[cfg(target_arch = "x86_64")]
use crate::kernels::bf12;
use crate::kernels::fetch::Fetch;
use crate::kernels::grid::OutputBlock;
use crate::kernels::isa::{Isa, Kind};
#[cfg(target_arch = "x86_64")]
use crate::kernels::packed_rows::PackedRows;
use crate::kernels::scalar;
use crate::kernels::streaming::Streaming;
use crate::kernels::tiles::{CACHE_LINE, TILE_ROWS, tile_rows};
#[cfg(target_arch = "x86_64")]
use crate::kernels::x86_64::amx;
use dot::BLOCK_STEPS;
use group::{Group, GroupRows};
use std::cell::RefCell;
use std::ops::Range;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Blocks of weights that a pass over many rows covers: they stay in the L1 cache, or close to it, and take a tile much
/// longer than its beginning and its end.
const GROUP_BLOCKS: usize = 8;
/// Blocks that are taken from one panel before it is the turn of the next, that meet all rows of several tiles, or that
/// are decoded together.
const TURN_BLOCKS: usize = 4;
// They are decoded into the scratch of a group, whose blocks have no fewer words.
const _: () = assert!(TURN_BLOCKS <= GROUP_BLOCKS);

/// Lines of the blocks of a group where they are largest: two chains of f32.
const SCRATCH_LINES: usize = GROUP_BLOCKS * 2 * BLOCK_STEPS * PANEL_ROWS * size_of::<u32>() / CACHE_LINE;

/// Rows that a pass over the groups of a panel covers: their outputs stay in the L2 cache.
const PASS_ROWS: usize = 96 * TILE_ROWS;

/// A cache line of a scratch.
#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C, align(64))]
struct Line([u32; CACHE_LINE / 4]);

impl Line {
    const ZEROS: Line = Line([0; CACHE_LINE / 4]);
}

// The scratch of a thread is there from the beginning, because a thread may take its first item at any token.
thread_local! {
    /// The blocks of a group, 64 KiB.
    static SCRATCH: RefCell<[Line; SCRATCH_LINES]> = const { RefCell::new([const { Line::ZEROS }; SCRATCH_LINES]) };
    /// The outputs of a pass, 144 KiB, row after row: in the matrix, the same columns of many rows are in few sets of the
    /// cache.
    static SUMS: RefCell<[Line; SUMS_LINES]> = const { RefCell::new([const { Line::ZEROS }; SUMS_LINES]) };
}

const SUMS_LINES: usize = PASS_ROWS * PANEL_ROWS * size_of::<f32>() / CACHE_LINE;

impl Isa {
    /// How this instruction set takes activations.
    pub fn arrangement(self) -> Arrangement {
        match self.0 {
            Kind::Amx => Arrangement::Tiles,
            Kind::Avx512Bf16 => Arrangement::Halves,
            Kind::Avx512 => Arrangement::Floats,
            Kind::Avx2 => Arrangement::Columns,
            Kind::Portable | Kind::Scalar => Arrangement::Pairs,
        }
    }

    /// Rows of activations to multiply at a time: more would leave the caches.
    pub fn chunk_rows(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => amx::CHUNK_ROWS,
            _ => usize::MAX,
        }
    }

    /// The products of some panels, of equally many steps, with rows of activations:
    ///
    /// ```text
    /// out[t][64 p + r] = sum over k of panels[p][k][r] * x[t][k]
    /// ```
    ///
    /// in the order that `format-spec.md` defines. The block has the columns of the panels, of the last one some or
    /// all. `no_subnormals` promises that no product or sum can be subnormal, see `matmul::no_subnormals`; it changes
    /// the speed and not the result.
    ///
    /// # Panics
    /// When the shapes do not fit, when the activations are arranged for another instruction set, or on `portable`,
    /// which has no products.
    pub fn product_bf16(self, panels: &[Bf16Panel], x: &Bf16Rows, out: &mut OutputBlock, no_subnormals: bool) {
        let n_steps = x.columns.div_ceil(2);
        assert!(
            !panels.is_empty()
                && panels.len() <= Streaming::MAX_PANELS
                && out.columns().div_ceil(PANEL_ROWS) == panels.len()
        );
        assert!(panels.iter().all(|panel| panel.n_steps() == n_steps));
        assert!(x.arrangement == self.arrangement() && x.rows == out.rows());
        assert!(x.rows.checked_mul(x.arrangement.row_words(x.columns)) == Some(x.words.len()));
        if n_steps == 0 || x.rows == 0 {
            return (0..out.rows()).for_each(|row| out.row(row).fill(0.0));
        }
        if self.0 == Kind::Scalar {
            return scalar::product_bf16(self, panels, x, out);
        }
        #[cfg(target_arch = "x86_64")]
        if self.0 == Kind::Amx {
            return self.by_tiles(panels, x, out);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let scratch = <[u32]>::mut_from_bytes(scratch.as_mut_slice().as_mut_bytes()).expect("aligned");
            if x.rows <= self.few_rows() {
                self.by_turns(panels, x, out, no_subnormals, scratch);
            } else {
                for (index, panel) in panels.iter().enumerate() {
                    let mut out = out.part(0..x.rows, columns_of(index, out));
                    self.by_groups(*panel, x, &mut out, no_subnormals, scratch);
                }
            }
        });
    }

    /// Multiplies tiles of bf16 numbers that stay in registers, to measure how fast a thread can; yields the number of
    /// multiplications and additions. `None` for instruction sets without tiles.
    pub fn repeat_tile_products(self, passes: usize) -> Option<usize> {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => {
                // SAFETY: as in `by_tiles`.
                unsafe { amx::repeat_products(passes) };
                Some(passes * amx::PASS_OPERATIONS)
            }
            _ => {
                let _no_tiles = passes;
                None
            }
        }
    }

    /// The products with tiles.
    #[cfg(target_arch = "x86_64")]
    fn by_tiles(self, panels: &[Bf16Panel], x: &Bf16Rows, out: &mut OutputBlock) {
        let packed = PackedRows::new(x.words, x.rows, x.columns.div_ceil(2));
        for (index, panel) in panels.iter().enumerate() {
            let mut out = out.part(0..x.rows, columns_of(index, out));
            // SAFETY: `Isa::available` makes this kind only where it found AMX and the permission, and no tiles are in
            // use here.
            unsafe {
                match panel {
                    Bf16Panel::Plain(pairs) => amx::product_bf16(pairs, &packed, &mut out, self.1.ahead_bytes),
                    Bf16Panel::Bf12(panel) => bf12::amx::product(self, panel, &packed, &mut out, self.1.ahead_bytes),
                }
            }
        }
    }

    /// Blocks of each panel by turns, each for all rows, tile by tile; a single panel and tile in one go.
    fn by_turns(
        self,
        panels: &[Bf16Panel],
        x: &Bf16Rows,
        out: &mut OutputBlock,
        no_subnormals: bool,
        scratch: &mut [u32],
    ) {
        let mut rest = [Bf16Panel::Plain(&[]); Streaming::MAX_PANELS];
        rest[..panels.len()].copy_from_slice(panels);
        let n_steps = panels[0].n_steps();
        // A turn stays in the L1 cache for the tiles that follow the first one.
        let has_turns = panels.len() > 1 || x.rows > TILE_ROWS;
        let turn_steps = if has_turns { TURN_BLOCKS * BLOCK_STEPS } else { n_steps };
        for first_step in (0..n_steps).step_by(turn_steps) {
            for (index, panel) in rest[..panels.len()].iter_mut().enumerate() {
                let (mut turn, after) = panel.split_at(turn_steps.min(n_steps - first_step));
                *panel = after;
                let mut out = out.part(0..x.rows, columns_of(index, out));
                let mut step = first_step;
                while turn.n_steps() > 0 {
                    let (part, form) = self.few_part(&turn, x.rows);
                    self.few(&part, form, x, step, &mut out, no_subnormals, scratch);
                    step += part.n_steps();
                    turn = turn.split_at(part.n_steps()).1;
                }
            }
        }
    }

    /// The blocks at the beginning of a turn that are multiplied in one form with `n_rows` rows.
    fn few_part<'a>(self, turn: &Bf16Panel<'a>, n_rows: usize) -> (Bf16Panel<'a>, Form) {
        let Bf16Panel::Bf12(panel) = turn else { return (*turn, Form::Stored) };
        let n_steps = panel.n_steps();
        if n_rows > self.bf12_rows() {
            return (turn.split_at(n_steps.min(TURN_BLOCKS * BLOCK_STEPS)).0, Form::Decoded);
        }
        // The kernels have no branch for raw steps: a block with one is decoded.
        let coded = panel.coded_steps();
        let (whole, form) = match coded / BLOCK_STEPS * BLOCK_STEPS {
            _ if coded == n_steps => (n_steps, Form::Stored),
            0 => (n_steps.min(BLOCK_STEPS), Form::Decoded),
            whole => (whole, Form::Stored),
        };
        (turn.split_at(whole).0, form)
    }

    /// Groups of blocks of one panel, each for the rows of a pass, tile by tile. The tiles fetch the next group meanwhile.
    fn by_groups(
        self,
        panel: Bf16Panel,
        x: &Bf16Rows,
        out: &mut OutputBlock,
        no_subnormals: bool,
        scratch: &mut [u32],
    ) {
        let columns = out.columns();
        let pass_rows = x.rows.div_ceil(x.rows.div_ceil(PASS_ROWS)).next_multiple_of(x.group_rows());
        SUMS.with_borrow_mut(|sums| {
            let sums = <[f32]>::mut_from_bytes(sums.as_mut_slice().as_mut_bytes()).expect("aligned");
            for first_row in (0..x.rows).step_by(pass_rows) {
                let rows = first_row..x.rows.min(first_row + pass_rows);
                let sums = &mut sums[..rows.len() * PANEL_ROWS];
                self.pass_by_groups(panel, &x.part(rows.clone()), sums, no_subnormals, scratch);
                for (row, sums) in rows.zip(sums.chunks_exact(PANEL_ROWS)) {
                    out.row(row).copy_from_slice(&sums[..columns]);
                }
            }
        });
    }

    /// The products of one panel with the rows of a pass, to `sums`, 64 for each row.
    fn pass_by_groups(
        self,
        panel: Bf16Panel,
        x: &Bf16Rows,
        sums: &mut [f32],
        no_subnormals: bool,
        scratch: &mut [u32],
    ) {
        let (n_steps, mut rest) = (panel.n_steps(), panel);
        for first_step in (0..n_steps).step_by(GROUP_BLOCKS * BLOCK_STEPS) {
            let (part, after) = rest.split_at((GROUP_BLOCKS * BLOCK_STEPS).min(n_steps - first_step));
            rest = after;
            let n_blocks = part.n_steps().div_ceil(BLOCK_STEPS);
            let blocks = &mut scratch[..n_blocks * self.block_words()];
            self.fill(&part, blocks);
            // The group that follows, in this panel or the next, is about as long.
            let (next, next_bytes) = (after.begin(), part.n_steps() * part.step_bytes());
            let group = Group { blocks, n_steps: part.n_steps(), next, next_bytes };
            self.multiply(&group, x, first_step, sums, no_subnormals);
        }
    }

    /// Some blocks, from step `step` of a panel on, times all rows.
    #[expect(clippy::too_many_arguments, reason = "the operands of a product, how they are stored, and a scratch")]
    fn few(
        self,
        part: &Bf16Panel,
        form: Form,
        x: &Bf16Rows,
        step: usize,
        out: &mut OutputBlock,
        no_subnormals: bool,
        scratch: &mut [u32],
    ) {
        let columns = out.columns();
        let stored = part;
        let part = match (stored, form) {
            (Bf16Panel::Bf12(panel), Form::Decoded) => {
                let pairs = &mut scratch[..panel.n_steps() * PANEL_ROWS];
                self.decode(panel, pairs);
                Bf16Panel::Plain(pairs)
            }
            _ => *stored,
        };
        // The lines of several rows, and those that AVX2 decodes, take longer: the memory is less in a hurry, and bursts
        // can be longer.
        let is_bf12 = matches!(stored, Bf16Panel::Bf12(_));
        let is_far = x.rows > 1 || is_bf12 && (self.0 == Kind::Avx2 || Streaming::bf12_is_far());
        let ahead_bytes = self.1.ahead_bytes.saturating_mul(if is_far { 2 } else { 1 });
        let (from, bytes) = (stored.begin().wrapping_add(ahead_bytes), stored.n_steps() * stored.step_bytes());
        let tile_rows = tile_rows(x.rows);
        let n_tiles = x.rows.div_ceil(tile_rows);
        for (tile, row) in (0..x.rows).step_by(tile_rows).enumerate() {
            let rows = row..x.rows.min(row + tile_rows);
            let fetch = Fetch::of_tile(from, bytes, tile, n_tiles);
            whole_panel(out.part(rows.clone(), 0..columns), |sums| {
                let rows = &mut GroupRows::new(*x, rows.start, step, sums);
                match &part {
                    Bf16Panel::Plain(pairs) => self.few_plain(pairs, fetch, rows, no_subnormals),
                    Bf16Panel::Bf12(panel) => self.few_bf12(panel, fetch, rows, no_subnormals),
                }
            });
        }
    }

    /// Some blocks of plain weights times the rows of a tile.
    fn few_plain(self, pairs: &[u32], fetch: Fetch, rows: &mut GroupRows, no_subnormals: bool) {
        match self.0 {
            // SAFETY: as in `multiply`.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 | Kind::Avx512Bf16 => unsafe { avx512::few(self.by(no_subnormals), pairs, fetch, rows) },
            // SAFETY: `Isa::available` makes this kind only where it found AVX2 and FMA.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::plain(pairs, fetch, rows, no_subnormals) },
            _ => unreachable!("scalar products take panels as they are, the portable ones come from gemm"),
        }
    }

    /// Some blocks in 12 bits, without raw steps, times at most [`Isa::bf12_rows`] rows.
    fn few_bf12(self, panel: &Bf12Panel, fetch: Fetch, rows: &mut GroupRows, no_subnormals: bool) {
        match self.0 {
            // SAFETY: as in `multiply`.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 | Kind::Avx512Bf16 => unsafe { avx512::few_bf12(self.by(no_subnormals), panel, fetch, rows) },
            // SAFETY: `Isa::available` makes this kind only where it found AVX2 and FMA.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { avx2::bf12(panel, fetch, rows, no_subnormals) },
            _ => unreachable!("`bf12_rows` is 0"),
        }
    }

    /// Rows that are multiplied with steps in 12 bits as they are decoded, without a scratch.
    fn bf12_rows(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 | Kind::Avx512Bf16 => avx512::BF12_ROWS,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => avx2::BF12_ROWS,
            _ => 0,
        }
    }

    /// Words of a block of weights in the scratch.
    fn block_words(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 | Kind::Avx512Bf16 => self.by(true).block_words(),
            _ => 0,
        }
    }

    /// Rows up to which weights are multiplied as they are; with more they are arranged first.
    fn few_rows(self) -> usize {
        match self.0 {
            Kind::Avx2 => usize::MAX,
            _ => TILE_ROWS,
        }
    }

    /// Arranges some steps of a panel in blocks.
    fn fill(self, panel: &Bf16Panel, blocks: &mut [u32]) {
        match self.0 {
            // SAFETY: `Isa::available` makes these kinds only where it found AVX-512F and AVX-512BW.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 | Kind::Avx512Bf16 => unsafe { avx512::fill(self.by(true), panel, blocks) },
            _ => unreachable!("AVX2 and scalar products take panels as they are, the portable ones come from gemm"),
        }
    }

    /// Adds the products of a group of blocks with all rows to `sums`.
    fn multiply(self, group: &Group, x: &Bf16Rows, first_step: usize, sums: &mut [f32], no_subnormals: bool) {
        match self.0 {
            // SAFETY: `Isa::available` makes these kinds only where it found AVX-512F and AVX-512BW, and the first only
            // where it found AVX512-BF16; `Isa::by` yields `By::Dot` for that one alone.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 | Kind::Avx512Bf16 => unsafe {
                avx512::multiply(self.by(no_subnormals), group, x, first_step, sums)
            },
            _ => unreachable!("AVX2 and scalar products take panels as they are, the portable ones come from gemm"),
        }
    }

    /// How AVX-512 multiplies.
    #[cfg(target_arch = "x86_64")]
    fn by(self, no_subnormals: bool) -> avx512::By {
        match self.0 {
            Kind::Avx512Bf16 => avx512::By::Dot { no_subnormals },
            _ => avx512::By::Fma { no_subnormals },
        }
    }
}

/// How weights are multiplied that are not arranged first.
#[derive(Clone, Copy)]
enum Form {
    /// As they are stored.
    Stored,
    /// As plain pairs, decoded into the scratch.
    Decoded,
}

/// The columns of panel `index`.
fn columns_of(index: usize, out: &OutputBlock) -> Range<usize> {
    index * PANEL_ROWS..out.columns().min((index + 1) * PANEL_ROWS)
}

/// Lets `body` use the outputs of a tile: in place, or through a buffer when they are fewer than those of a panel.
fn whole_panel(mut out: OutputBlock, body: impl FnOnce(OutputBlock)) {
    let (rows, columns) = (out.rows(), out.columns());
    if columns == PANEL_ROWS {
        return body(out);
    }
    let mut buffer = [0.0f32; TILE_ROWS * PANEL_ROWS];
    let buffer = &mut buffer[..rows * PANEL_ROWS];
    for (t, row) in buffer.chunks_exact_mut(PANEL_ROWS).enumerate() {
        row[..columns].copy_from_slice(out.row(t));
    }
    body(OutputBlock::whole(buffer, PANEL_ROWS));
    for (t, row) in buffer.chunks_exact(PANEL_ROWS).enumerate() {
        out.row(t).copy_from_slice(&row[..columns]);
    }
}

#[cfg(test)]
mod tests;
