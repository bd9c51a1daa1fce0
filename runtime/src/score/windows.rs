//! Long sequences in windows, as EleutherAI's evaluation harness cuts them: every token is scored once, with as much
//! before it as its window has room for.

use std::ops::Range;

/// A part of a sequence that is evaluated by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its tokens, of which the last one is only predicted.
    pub tokens: Range<usize>,
    /// The first token that is scored here, as an index into the sequence.
    pub first: usize,
}

/// The windows of a sequence of `n` tokens, of which all after the first are scored. A window evaluates at most
/// `positions` tokens. The first one scores all it can, each of the others the next `stride`, which therefore see at
/// least `positions - stride + 1` tokens. The last window reaches as far back as it can.
///
/// # Panics
/// For a `stride` that is not in `1..=positions`.
pub fn windows(n: usize, positions: usize, stride: usize) -> impl Iterator<Item = Window> {
    assert!((1..=positions).contains(&stride), "a token that something predicts");
    let mut next = 1;
    std::iter::from_fn(move || {
        if next >= n {
            return None;
        }
        let n_scored = if next == 1 { positions } else { stride };
        let end = next.saturating_add(n_scored).min(n);
        let window = Window { tokens: end.saturating_sub(positions + 1)..end, first: next };
        next = end;
        Some(window)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(n: usize, positions: usize, stride: usize) -> Vec<(Range<usize>, usize)> {
        windows(n, positions, stride).map(|window| (window.tokens, window.first)).collect()
    }

    #[test]
    fn short_sequences_have_one_window() {
        assert_eq!(shown(0, 4, 4), []);
        assert_eq!(shown(1, 4, 4), []);
        assert_eq!(shown(2, 4, 4), [(0..2, 1)]);
        assert_eq!(shown(5, 4, 2), [(0..5, 1)]);
    }

    /// The harness's `get_rolling_token_windows(list(range(1, 10)), 0, 4, context_len)`, by index.
    #[test]
    fn long_sequences_advance_by_the_stride() {
        assert_eq!(shown(10, 4, 4), [(0..5, 1), (4..9, 5), (5..10, 9)]);
        assert_eq!(shown(10, 4, 2), [(0..5, 1), (2..7, 5), (4..9, 7), (5..10, 9)]);
        assert_eq!(shown(10, 4, 1).len(), 6);
    }

    #[test]
    fn every_token_is_scored_once_with_room_before_it() {
        for n in 0..40 {
            for (positions, stride) in [(1, 1), (7, 7), (7, 3), (8, 8), (64, 5)] {
                let mut next = 1;
                for (index, window) in windows(n, positions, stride).enumerate() {
                    assert_eq!(window.first, next);
                    assert!(window.tokens.len() <= positions + 1 && window.tokens.contains(&window.first));
                    let before = window.first - window.tokens.start;
                    assert!(before > 0 && (index == 0 || before > positions - stride));
                    next = window.tokens.end;
                }
                assert_eq!(next, n.max(1));
            }
        }
    }
}
