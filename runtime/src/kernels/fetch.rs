//! What a kernel fetches into the caches while it computes.

#[cfg(target_arch = "x86_64")]
use super::tiles::prefetch_near;
use super::tiles::{CACHE_LINE, prefetch};

/// What a kernel fetches into the caches while it multiplies, line after line.
#[derive(Clone, Copy)]
pub struct Fetch {
    from: *const i8,
    /// Bytes from one request to the next: those of a line, or fewer where each line is requested more than once.
    step: usize,
}

impl Fetch {
    /// From `from` on.
    #[cfg(target_arch = "x86_64")]
    pub fn new(from: *const i8) -> Fetch {
        Fetch { from, step: CACHE_LINE }
    }

    /// The lines of `bytes` bytes from `from` on with `n` requests, at least one for each line.
    #[cfg(target_arch = "x86_64")]
    pub fn in_requests(from: *const i8, bytes: usize, n: usize) -> Fetch {
        Fetch { from, step: bytes.div_ceil(n.max(1)) }
    }

    /// The part of tile `tile` of `n_tiles` tiles which fetch the lines of `bytes` bytes from `from` on, each with at
    /// least `bytes` / [`CACHE_LINE`] requests.
    pub fn of_tile(from: *const i8, bytes: usize, tile: usize, n_tiles: usize) -> Fetch {
        Fetch { from: from.wrapping_add(bytes * tile / n_tiles), step: CACHE_LINE.div_ceil(n_tiles) }
    }

    /// Fetches the next `lines` lines into the L2 cache.
    #[inline(always)]
    pub fn lines(&mut self, lines: usize) {
        for line in 0..lines {
            prefetch(self.from.wrapping_add(self.step * line));
        }
        self.from = self.from.wrapping_add(self.step * lines);
    }

    /// Fetches the next `lines` lines into the L1 cache.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub fn lines_near(&mut self, lines: usize) {
        for line in 0..lines {
            prefetch_near(self.from.wrapping_add(self.step * line));
        }
        self.from = self.from.wrapping_add(self.step * lines);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn requests_reach_every_line() {
        for lines in 1..=64 {
            let memory = [0i8; 64 * CACHE_LINE];
            for n in lines..=5 * lines {
                let fetch = Fetch::in_requests(memory.as_ptr(), lines * CACHE_LINE, n);
                let is_requested = |line: usize| (0..n).any(|request| request * fetch.step / CACHE_LINE == line);
                assert!((0..lines).all(is_requested), "{lines} {n}");
            }
        }
    }

    #[test]
    fn tiles_fetch_every_line_together() {
        const LINES: usize = 256;
        let memory = [0i8; LINES * CACHE_LINE];
        for n_tiles in 1..=100 {
            let mut requested = [false; LINES];
            for tile in 0..n_tiles {
                let fetch = Fetch::of_tile(memory.as_ptr(), memory.len(), tile, n_tiles);
                let begin = fetch.from.addr() - memory.as_ptr().addr();
                for request in 0..LINES {
                    if let Some(line) = requested.get_mut((begin + request * fetch.step) / CACHE_LINE) {
                        *line = true;
                    }
                }
            }
            assert!(requested.iter().all(|&line| line), "{n_tiles}");
        }
    }
}
