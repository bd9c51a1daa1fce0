//! The ways to compute that this program knows, and their names.

use olmo_infer::internals::kernels::Isa;
use olmo_infer::internals::kernels::streaming::Streaming;

/// Panels that a sweep reads by turns.
pub const PANELS: [usize; 4] = [1, 2, 4, 8];
/// Bytes that a sweep fetches ahead.
pub const AHEAD_BYTES: [usize; 6] = [0, 1 << 10, 2 << 10, 4 << 10, 8 << 10, 16 << 10];

/// The instruction sets of this machine with kernels for speed.
pub fn paths() -> impl Iterator<Item = Isa> {
    Isa::available().iter().filter(|isa| isa.has_products() && isa.name() != "scalar").copied()
}

/// The ways to read weights that a sweep compares: panels outermost, and last the program's own one, if it is another.
pub fn to_read(own: Streaming) -> Vec<Streaming> {
    let of = |panels| AHEAD_BYTES.map(|ahead_bytes| Streaming { panels, ahead_bytes });
    let mut all: Vec<Streaming> = PANELS.into_iter().flat_map(of).collect();
    if !all.contains(&own) {
        all.push(own);
    }
    all
}

/// A way to read weights, for a table.
pub fn text(Streaming { panels, ahead_bytes }: Streaming) -> String {
    let s = if panels == 1 { "" } else { "s" };
    format!("{panels} panel{s}, {ahead_bytes} B ahead")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_own_way_is_among_them_once() {
        let usual = Streaming { panels: 8, ahead_bytes: 1024 };
        assert_eq!(to_read(usual).len(), 24);
        let other = Streaming { panels: 3, ahead_bytes: 1024 };
        assert_eq!((to_read(other).len(), to_read(other).last()), (25, Some(&other)));
    }
}
