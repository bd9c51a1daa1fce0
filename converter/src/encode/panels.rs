//! From rows as `.npy` files have them to panels as the model file has them, and back.
//!
//! One pass over the source does everything that has to see each number: it moves it to its place, finds NaN and
//! infinity, keeps the smallest magnitude that is not zero and measures what rounding loses.

use crate::encode::loss::Loss;
use crate::folder::element::{INFINITY, MAGNITUDE, SourceType, f16_to_f32, round_to_bf16};
use olmo_infer::internals::format::panels::PanelShape;
use olmo_infer::internals::format::{Dtype, PANEL_ROWS};

/// Columns handled at once: a cache line of f32 from each of the 64 rows, 4 KiB in all.
const TILE_COLUMNS: usize = 16;

/// Numbers of one tile as f32 bits; what has no source is zero.
type Tile = [[u32; TILE_COLUMNS]; PANEL_ROWS];

/// What was seen while numbers were moved. Indices count row-major from the first row of the piece.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Smallest magnitude stored that is not zero, as f32 bits less 1, wrapped: one unsigned minimum finds it, for
    /// zeros wrap around to the top.
    min_key: u32,
    /// All magnitude bits together: 0 when every number is zero.
    any_bits: u32,
    /// How many numbers are NaN or infinite.
    pub n_nonfinite: u64,
    /// The first of them.
    pub first_nonfinite: Option<u64>,
    /// The first finite number that rounding made infinite.
    pub first_overflow: Option<u64>,
    /// How many numbers rounding changed.
    pub n_changed: u64,
    /// Largest relative error of rounding.
    pub max_relative_error: f64,
    /// Sum of the relative errors.
    pub sum_relative_error: f64,
    /// What quantization lost.
    pub loss: Loss,
}

impl Default for Seen {
    fn default() -> Seen {
        Seen {
            min_key: u32::MAX,
            any_bits: 0,
            n_nonfinite: 0,
            first_nonfinite: None,
            first_overflow: None,
            n_changed: 0,
            max_relative_error: 0.0,
            sum_relative_error: 0.0,
            loss: Loss::default(),
        }
    }
}

impl Seen {
    /// Bits of the smallest finite magnitude that is not zero, as f32; 0 when there is none.
    pub fn min_magnitude(&self) -> u32 {
        if self.min_key < INFINITY - 1 { self.min_key + 1 } else { 0 }
    }

    /// Whether every number was zero.
    pub fn all_zero(&self) -> bool {
        self.any_bits == 0
    }

    /// Adds what was seen in the piece that begins `offset` elements into the tensor. Pieces are added in order, so
    /// that the sums do not depend on who filled them.
    pub fn add(&mut self, piece: &Seen, offset: u64) {
        let first = |old: Option<u64>, new: Option<u64>| old.or(new.map(|index| index + offset));
        self.min_key = self.min_key.min(piece.min_key);
        self.any_bits |= piece.any_bits;
        self.n_nonfinite += piece.n_nonfinite;
        self.first_nonfinite = first(self.first_nonfinite, piece.first_nonfinite);
        self.first_overflow = first(self.first_overflow, piece.first_overflow);
        self.n_changed += piece.n_changed;
        self.max_relative_error = self.max_relative_error.max(piece.max_relative_error);
        self.sum_relative_error += piece.sum_relative_error;
        self.loss.add(&piece.loss);
    }

    /// Looks at a row of numbers that are to be quantized, the first of which is number `first`. Yields the largest
    /// magnitude; `None` when one is not finite or larger than `limit`. The smallest magnitude is not kept.
    pub(super) fn look_at_row(&mut self, row: &[u32], first: u64, limit: f32) -> Option<f32> {
        let largest = row.iter().fold(0, |largest, bits| largest.max(bits & MAGNITUDE));
        self.any_bits |= largest;
        if largest <= limit.to_bits() {
            return Some(f32::from_bits(largest));
        }
        for (index, bits) in (first..).zip(row) {
            let magnitude = bits & MAGNITUDE;
            if magnitude >= INFINITY {
                self.note_nonfinite(index);
            } else if magnitude > limit.to_bits() {
                self.first_overflow = self.first_overflow.or(Some(index));
            }
        }
        None
    }

    /// Looks at stored numbers. Padding may be among them: zeros change nothing.
    #[inline]
    fn look(&mut self, bits: &[u32]) -> bool {
        let mut min_key = self.min_key;
        let (mut any, mut max) = (0, 0);
        for &bits in bits {
            let magnitude = bits & MAGNITUDE;
            min_key = min_key.min(magnitude.wrapping_sub(1));
            max = max.max(magnitude);
            any |= magnitude;
        }
        self.min_key = min_key;
        self.any_bits |= any;
        max >= INFINITY
    }

    /// Counts a number that is not finite.
    fn note_nonfinite(&mut self, index: u64) {
        self.n_nonfinite += 1;
        self.first_nonfinite = Some(self.first_nonfinite.map_or(index, |first| first.min(index)));
    }

    /// Measures what became of `bits` by rounding.
    fn note_rounding(&mut self, bits: u32, rounded: u32, index: u64) {
        if bits == rounded {
            return;
        }
        self.n_changed += 1;
        let (exact, stored) = (f64::from(f32::from_bits(bits)), f64::from(f32::from_bits(rounded)));
        if exact.is_finite() && !stored.is_finite() {
            self.first_overflow = Some(self.first_overflow.map_or(index, |first| first.min(index)));
        } else if exact.is_finite() {
            // `exact` is not zero: zero is a bf16 number.
            let error = ((stored - exact) / exact).abs();
            self.max_relative_error = self.max_relative_error.max(error);
            self.sum_relative_error += error;
        }
    }
}

/// Fills one panel of type `dtype`, f32 or bf16, from up to 64 consecutive rows of `columns` elements; missing rows become zeros.
///
/// # Panics
/// When the lengths do not fit: `rows` must hold whole rows, `panel` exactly one panel.
pub fn fill_panel(source: SourceType, rows: &[u8], columns: usize, dtype: Dtype, panel: &mut [u8]) -> Seen {
    match source {
        SourceType::F32 => fill::<4>(rows, columns, dtype, panel, u32::from_le_bytes),
        SourceType::F16 => fill::<2>(rows, columns, dtype, panel, |bytes| f16_to_f32(u16::from_le_bytes(bytes))),
        SourceType::Bf16 => fill::<2>(rows, columns, dtype, panel, |bytes| u32::from(u16::from_le_bytes(bytes)) << 16),
    }
}

/// [`fill_panel`] for elements of `N` bytes.
fn fill<const N: usize>(
    rows: &[u8],
    columns: usize,
    dtype: Dtype,
    panel: &mut [u8],
    widen: impl Fn([u8; N]) -> u32,
) -> Seen {
    let (elements, rest) = rows.as_chunks::<N>();
    let n_rows = elements.len() / columns;
    assert!(rest.is_empty() && n_rows * columns == elements.len() && (1..=PANEL_ROWS).contains(&n_rows));
    assert_eq!(panel.len(), PanelShape { rows: PANEL_ROWS, columns, dtype }.panel_bytes());
    let (words, _) = panel.as_chunks_mut::<4>();
    let (steps, _) = words.as_chunks_mut::<PANEL_ROWS>();

    let mut seen = Seen::default();
    let mut tile: Tile = [[0; TILE_COLUMNS]; PANEL_ROWS];
    for first in (0..columns).step_by(TILE_COLUMNS) {
        let width = TILE_COLUMNS.min(columns - first);
        for (row, line) in elements.chunks_exact(columns).zip(&mut tile) {
            if let Some(row) = row[first..].first_chunk::<TILE_COLUMNS>() {
                for (word, bytes) in line.iter_mut().zip(row) {
                    *word = widen(*bytes);
                }
            } else {
                *line = [0; TILE_COLUMNS];
                for (word, bytes) in line.iter_mut().zip(&row[first..]) {
                    *word = widen(*bytes);
                }
            }
        }
        let index = |row: usize, column: usize| (row * columns + first + column) as u64;
        if seen_nonfinite(&tile) {
            for (row, line) in tile.iter().enumerate() {
                for (column, &bits) in line.iter().enumerate() {
                    if bits & MAGNITUDE >= INFINITY {
                        seen.note_nonfinite(index(row, column));
                    }
                }
            }
        }
        if dtype == Dtype::Bf16 {
            round_tile(&mut tile, &mut seen, index);
        }
        seen.look(tile.as_flattened());
        match dtype {
            Dtype::F32 => transpose::<TILE_COLUMNS>(&tile, &mut steps[first..first + width]),
            Dtype::Bf16 => {
                let mut pairs = [[0; TILE_COLUMNS / 2]; PANEL_ROWS];
                for (pairs, line) in pairs.iter_mut().zip(&tile) {
                    for (pair, columns) in pairs.iter_mut().zip(line.as_chunks::<2>().0) {
                        *pair = columns[0] >> 16 | columns[1];
                    }
                }
                let first = first / 2;
                transpose::<{ TILE_COLUMNS / 2 }>(&pairs, &mut steps[first..first + width.div_ceil(2)]);
            }
            Dtype::Int8 | Dtype::Int4 => unreachable!("quantized.rs fills these"),
        }
    }
    seen
}

/// Whether a number of the tile is NaN or infinite.
fn seen_nonfinite(tile: &Tile) -> bool {
    tile.as_flattened().iter().fold(0, |max, bits| max.max(bits & MAGNITUDE)) >= INFINITY
}

/// Rounds every number to bf16, which stays in the upper half.
fn round_tile(tile: &mut Tile, seen: &mut Seen, index: impl Fn(usize, usize) -> u64) {
    if tile.as_flattened().iter().fold(0, |lower, bits| lower | bits) & 0xffff == 0 {
        return;
    }
    for (row, line) in tile.iter_mut().enumerate() {
        for (column, bits) in line.iter_mut().enumerate() {
            let rounded = u32::from(round_to_bf16(*bits)) << 16;
            seen.note_rounding(*bits, rounded, index(row, column));
            *bits = rounded;
        }
    }
}

/// Writes the first `steps.len()` columns of `tile` one after the other.
#[inline]
fn transpose<const COLUMNS: usize>(tile: &[[u32; COLUMNS]; PANEL_ROWS], steps: &mut [[[u8; 4]; PANEL_ROWS]]) {
    for (column, step) in steps.iter_mut().enumerate() {
        for (word, line) in step.iter_mut().zip(tile) {
            *word = line[column].to_le_bytes();
        }
    }
}

/// Writes a vector as f32.
///
/// # Panics
/// When the lengths do not fit.
pub fn fill_vector(source: SourceType, elements: &[u8], out: &mut [u8]) -> Seen {
    let (words, _) = out.as_chunks_mut::<4>();
    assert_eq!(elements.len(), words.len() * source.bytes());
    let mut seen = Seen::default();
    for (i, (element, word)) in elements.chunks_exact(source.bytes()).zip(words).enumerate() {
        let bits = match (source, element) {
            (SourceType::F16, &[a, b]) => f16_to_f32(u16::from_le_bytes([a, b])),
            (SourceType::Bf16, &[a, b]) => u32::from_le_bytes([0, 0, a, b]),
            (_, &[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]),
            _ => unreachable!("chunks have the length of an element"),
        };
        if seen.look(&[bits]) {
            seen.note_nonfinite(i as u64);
        }
        *word = bits.to_le_bytes();
    }
    seen
}

/// Appends the rows of panel number `panel` of a matrix to `out`, row-major, as f32 bits: what [`fill_panel`] was
/// given, after rounding.
///
/// # Panics
/// When `words` are not exactly one panel of `shape`.
pub fn extract_rows(shape: &PanelShape, words: &[u32], panel: usize, out: &mut Vec<u32>) {
    assert_eq!(size_of_val(words), shape.panel_bytes());
    let n_rows = shape.rows.saturating_sub(panel * PANEL_ROWS).min(PANEL_ROWS);
    let start = out.len();
    out.resize(start + n_rows * shape.columns, 0);
    let (steps, _) = words.as_chunks::<PANEL_ROWS>();
    let rows = &mut out[start..];
    // Tiles as in `fill`: each line of the rows is touched once while it is in the cache.
    let columns_per_step = shape.dtype.columns_per_step();
    for (block, steps) in steps.chunks(TILE_COLUMNS / columns_per_step).enumerate() {
        let first = block * TILE_COLUMNS;
        for (r, row) in rows.chunks_exact_mut(shape.columns).enumerate() {
            for (i, element) in row[first..].iter_mut().take(TILE_COLUMNS).enumerate() {
                let word = steps[i / columns_per_step][r];
                *element = match (shape.dtype, i % 2) {
                    (Dtype::F32, _) => word,
                    (Dtype::Bf16, 0) => word << 16,
                    (Dtype::Bf16, _) => word & 0xffff_0000,
                    (Dtype::Int8 | Dtype::Int4, _) => unreachable!("numbers.rs takes these from their blocks"),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::element::narrow;

    fn noise(n: usize, mut state: u64) -> Vec<u32> {
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 32) as u32
        };
        (0..n).map(|_| next()).collect()
    }

    /// Element positions as `panels.rs` defines them, one by one.
    fn placed(shape: &PanelShape, bits: &[u32]) -> Vec<u8> {
        let mut out = vec![0; shape.n_panels() * shape.panel_bytes()];
        for row in 0..shape.rows {
            for column in 0..shape.columns {
                let (at, bits) = (shape.element(row, column), bits[row * shape.columns + column]);
                match shape.dtype {
                    Dtype::F32 => out[at * 4..][..4].copy_from_slice(&bits.to_le_bytes()),
                    _ => out[at * 2..][..2].copy_from_slice(&round_to_bf16(bits).to_le_bytes()),
                }
            }
        }
        out
    }

    #[test]
    fn panels_match_the_format_and_round_trip() {
        for (rows, columns) in [(1, 1), (64, 16), (63, 17), (65, 15), (130, 33), (64, 2), (200, 47)] {
            for dtype in [Dtype::F32, Dtype::Bf16] {
                for source in [SourceType::F32, SourceType::F16, SourceType::Bf16] {
                    let shape = PanelShape { rows, columns, dtype };
                    let raw: Vec<u8> = noise(rows * columns, 7).iter().flat_map(|b| b.to_le_bytes()).collect();
                    let raw = &raw[..rows * columns * source.bytes()];
                    let bits: Vec<u32> = match source {
                        SourceType::F32 => raw.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)).collect(),
                        SourceType::F16 => {
                            raw.as_chunks::<2>().0.iter().map(|&b| f16_to_f32(u16::from_le_bytes(b))).collect()
                        }
                        SourceType::Bf16 => {
                            raw.as_chunks::<2>().0.iter().map(|b| u32::from_le_bytes([0, 0, b[0], b[1]])).collect()
                        }
                    };
                    let mut filled = vec![0xaa; shape.n_panels() * shape.panel_bytes()];
                    let mut back = Vec::new();
                    let panel_source = 64 * columns * source.bytes();
                    for (i, (panel, rows)) in
                        filled.chunks_mut(shape.panel_bytes()).zip(raw.chunks(panel_source)).enumerate()
                    {
                        fill_panel(source, rows, columns, dtype, panel);
                        let words: Vec<u32> =
                            panel.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect();
                        extract_rows(&shape, &words, i, &mut back);
                    }
                    assert_eq!(filled, placed(&shape, &bits), "{shape:?} {source:?}");
                    let stored: Vec<u32> = match dtype {
                        Dtype::F32 => bits.clone(),
                        _ => bits.iter().map(|&b| u32::from(round_to_bf16(b)) << 16).collect(),
                    };
                    assert_eq!(back, stored, "{shape:?} {source:?}");
                    if dtype == Dtype::F32 || source == SourceType::Bf16 {
                        let mut bytes = Vec::new();
                        assert!(narrow(source, &back, &mut bytes));
                        assert_eq!(bytes, raw, "{shape:?} {source:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_seen_is_what_is_there() {
        let mut values = vec![0.5f32; 3 * 40];
        values[7] = 1e-40;
        values[50] = -2e-30;
        values[81] = f32::NAN;
        values[110] = f32::NEG_INFINITY;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut panel = vec![0; 64 * 40 * 4];
        let seen = fill_panel(SourceType::F32, &bytes, 40, Dtype::F32, &mut panel);
        assert_eq!((seen.n_nonfinite, seen.first_nonfinite), (2, Some(81)));
        assert_eq!(seen.min_magnitude(), 1e-40f32.to_bits());
        assert!(!seen.all_zero());
        let seen = fill_panel(SourceType::F32, &[0; 160], 40, Dtype::F32, &mut panel);
        assert_eq!((seen.min_magnitude(), seen.all_zero()), (0, true));
    }

    #[test]
    fn rounding_is_measured() {
        let values = [1.0f32, 1.0 + 1.0 / 512.0, -0.0, 1e-3];
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut panel = vec![0; 64 * 4 * 2];
        let seen = fill_panel(SourceType::F32, &bytes, 4, Dtype::Bf16, &mut panel);
        assert_eq!(seen.n_changed, 2);
        let first = (1.0 / 512.0) / (1.0 + 1.0 / 512.0);
        assert_eq!(seen.max_relative_error, first);
        assert_eq!(seen.first_overflow, None);
        let bytes = f32::MAX.to_le_bytes();
        let mut panel = vec![0; 64 * 2 * 2];
        assert_eq!(fill_panel(SourceType::F32, &bytes, 1, Dtype::Bf16, &mut panel).first_overflow, Some(0));
    }
}
