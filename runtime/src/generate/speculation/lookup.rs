//! Guesses from the text so far: what followed the last tokens where they occurred before.

/// Fewest tokens that must be the same; fewer are by chance.
pub const LEAST: usize = 3;
/// Most tokens that are compared: of two earlier places with the same number, the later one is taken.
pub const MOST: usize = 5;

/// Appends up to `n` guesses of what follows `tokens`, none where the last [`LEAST`] have not occurred before. Returns
/// how many of the last tokens are the same at the earlier place.
pub fn look_up(tokens: &[u32], n: usize, guesses: &mut Vec<u32>) -> usize {
    let Some((last, before)) = tokens.split_last() else { return 0 };
    let (mut longest, mut follows) = (LEAST - 1, None);
    for end in (LEAST..=before.len()).rev() {
        if before[end - 1] != *last {
            continue;
        }
        let pairs = before[..end].iter().rev().zip(tokens.iter().rev());
        let same = pairs.take(MOST).take_while(|(earlier, later)| earlier == later).count();
        if same > longest {
            (longest, follows) = (same, Some(end));
        }
        if same == MOST {
            break;
        }
    }
    let Some(follows) = follows else { return 0 };
    let first = guesses.len();
    for i in 0..n {
        // Beyond the end of the text, which repeats itself, the guesses follow.
        let guess = tokens.get(follows + i).copied().unwrap_or_else(|| guesses[first + follows + i - tokens.len()]);
        guesses.push(guess);
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_guesses(tokens: &[u32], n: usize, expected: &[u32], same: usize) {
        let mut guesses = vec![99];
        assert_eq!(look_up(tokens, n, &mut guesses), same);
        assert_eq!(guesses[0], 99);
        assert_eq!(&guesses[1..], expected);
    }

    #[test]
    fn what_followed_is_guessed() {
        assert_guesses(&[], 5, &[], 0);
        assert_guesses(&[1, 2, 3], 5, &[], 0);
        assert_guesses(&[2, 3, 9, 2, 3], 5, &[], 0);
        assert_guesses(&[1, 2, 3, 9, 8, 1, 2, 3], 2, &[9, 8], 3);
        assert_guesses(&[1, 2, 3, 9, 8, 1, 2, 3], 0, &[], 3);
        // The text ends in the guesses.
        assert_guesses(&[1, 2, 3, 9, 1, 2, 3], 6, &[9, 1, 2, 3, 9, 1], 3);
        assert_guesses(&[7, 7, 7, 7], 3, &[7, 7, 7], 3);
        assert_guesses(&[1, 2, 1, 2, 1, 2, 1], 4, &[2, 1, 2, 1], 5);
        // The later of two places, and the longer one before that.
        assert_guesses(&[1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 1, &[5], 3);
        assert_guesses(&[0, 1, 2, 3, 4, 1, 2, 3, 5, 0, 1, 2, 3], 1, &[4], 4);
    }

    #[test]
    fn place_is_that_of_a_search_of_all() {
        let mut state = 1u32;
        for n in 0..400 {
            let tokens: Vec<u32> = (0..n % 60)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    state >> 24 & 3
                })
                .collect();
            let same =
                |end: usize| (1..=MOST).take_while(|&k| k <= end && tokens[end - k] == tokens[n % 60 - k]).count();
            let best = (1..tokens.len()).filter(|&end| same(end) >= LEAST).max_by_key(|&end| (same(end), end));
            let mut guesses = Vec::new();
            assert_eq!(look_up(&tokens, 1, &mut guesses), best.map_or(0, same), "{tokens:?}");
            assert_eq!(guesses.first(), best.map(|end| &tokens[end]), "{tokens:?}");
        }
    }
}
