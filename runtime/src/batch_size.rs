//! How many sequences are evaluated at a time.

use crate::error::Error;
use crate::mapping::Load;
use crate::memory;
use crate::model_file::ModelFile;
use crate::network::{Batch, Network, Options};
use std::cmp::Reverse;

/// Sequences at a time when nobody asked for a number: up to about so many, a pass costs little more than for one.
const DEFAULT: usize = 16;

/// How many sequences to evaluate at a time: as many as were asked for, else `DEFAULT`, or fewer when their KV
/// caches would not fit the free memory beside the model, whose pages would have to be read again for every pass.
///
/// `positions` are those of all sequences, `network` is that of `file`.
///
/// # Errors
/// [`Error::Request`] when the memory is not enough for what was asked for, or for one.
pub fn batch_size(
    asked: Option<usize>,
    file: &ModelFile,
    network: &Network,
    options: &Options,
    positions: &[usize],
) -> Result<usize, Error> {
    // What was read is no longer available, what is mapped still counts as that.
    let model_bytes = match file.loaded().way {
        Load::Read => 0,
        _ => network.weights().bytes_per_token(),
    };
    let needed = |positions: &[usize]| Batch::bytes(network.config(), options, positions);
    within(memory::available().unwrap_or(u64::MAX), asked, positions, model_bytes, needed)
}

/// As [`batch_size`], for so much available memory, of which the model takes `model_bytes` and some of the sequences
/// what `needed` says.
fn within(
    available: u64,
    asked: Option<usize>,
    positions: &[usize],
    model_bytes: u64,
    needed: impl Fn(&[usize]) -> u64,
) -> Result<usize, Error> {
    // Whatever sequences meet, they take no more than the largest do.
    let mut positions = positions.to_vec();
    positions.sort_unstable_by_key(|&positions| Reverse(positions));
    let most = asked.unwrap_or(DEFAULT).min(positions.len());
    let beside_the_model = available.saturating_sub(model_bytes);
    let sequences = match asked {
        Some(_) => most,
        None => (2..=most).rev().find(|&n| needed(&positions[..n]) <= beside_the_model).unwrap_or(1),
    };
    let needed = needed(&positions[..sequences]);
    if needed <= available {
        return Ok(sequences);
    }
    let (what, advice) = match sequences {
        1 => (format!("{} positions need", positions[0]), "for fewer positions or a smaller --chunk"),
        n => (format!("{n} sequences at a time need"), "for a smaller --batch, fewer positions or a smaller --chunk"),
    };
    let what = format!("{what} {:.1} GB for the KV cache and activations", needed as f64 / 1e9);
    Err(memory::too_little(what, available, format_args!("ask {advice}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte for each position, and 5 for the activations.
    fn needed(positions: &[usize]) -> u64 {
        positions.iter().sum::<usize>() as u64 + 5
    }

    #[test]
    fn as_many_as_fit_beside_the_model_unless_a_number_was_asked_for() {
        let sequences = |available, asked, positions: &[usize]| within(available, asked, positions, 1000, needed);
        let many = [10; 40];
        for (available, asked, expected) in [
            (u64::MAX, None, 16),
            (1165, None, 16),
            (1164, None, 15),
            (1025, None, 2),
            (1024, None, 1),
            (15, None, 1),
            (165, Some(16), 16),
            (u64::MAX, Some(40), 40),
            (u64::MAX, Some(99), 40),
        ] {
            assert_eq!(sequences(available, asked, &many).ok(), Some(expected), "{available} {asked:?}");
        }
        // The largest may meet, in whatever order they come.
        assert_eq!(sequences(1000 + 5 + 90 + 80, None, &[1, 80, 2, 90, 3]).ok(), Some(2));
        assert_eq!(sequences(u64::MAX, None, &[7]).ok(), Some(1));
        let refused = |available, asked| match sequences(available, asked, &many) {
            Err(error) => error.to_string(),
            Ok(sequences) => panic!("{sequences} sequences"),
        };
        assert!(refused(14, None).starts_with("10 positions need 0.0 GB"));
        assert!(refused(164, Some(16)).starts_with("16 sequences at a time need 0.0 GB"));
    }
}
