//! The number of sequences in a batch and of positions in a session, limited by free memory.

use crate::error::Error;
use crate::file::mapping::Load;
use crate::file::model_file::ModelFile;
use crate::network::batch::Batch;
use crate::network::{Network, Options};
use crate::os::memory;
use std::cmp::Reverse;

/// Default number of sequences at a time: up to about this number, a pass costs little more than for one.
const DEFAULT: usize = 16;
/// Least default number of positions of a single sequence, even if the free memory is less.
const LEAST_CONTEXT: usize = 1024;

/// The number of sequences to evaluate at a time: the requested number, else `DEFAULT`, or fewer if their KV caches and
/// the model together would exceed the free memory. Pages of the model would then be read again in every pass.
///
/// `positions` are those of all sequences, `network` is that of `file`.
///
/// # Errors
/// [`Error::ContextTooLarge`] when memory is too small for the requested number, or for one sequence.
pub fn batch_size(
    asked: Option<usize>,
    file: &ModelFile,
    network: &Network,
    options: &Options,
    positions: &[usize],
) -> Result<usize, Error> {
    batch_size_up_to(DEFAULT, asked, file, network, options, positions)
}

/// As [`batch_size`], with `most` sequences as the default.
///
/// # Errors
/// Those of [`batch_size`].
pub fn batch_size_up_to(
    most: usize,
    asked: Option<usize>,
    file: &ModelFile,
    network: &Network,
    options: &Options,
    positions: &[usize],
) -> Result<usize, Error> {
    let needed = |positions: &[usize]| Batch::bytes(network.config(), options, positions);
    within(
        memory::available().unwrap_or(u64::MAX),
        (asked, most),
        positions,
        model_bytes(file, network, options),
        needed,
    )
}

/// Bytes that the model will take of the available memory.
fn model_bytes(file: &ModelFile, network: &Network, options: &Options) -> u64 {
    // Memory of a model that was read is already allocated. Pages of a mapped model still count as available.
    match file.loaded().way {
        Load::Read => 0,
        _ => network.weights().bytes() + if options.speculate.draft { file.draft_bytes() } else { 0 },
    }
}

/// The number of positions of a single sequence: `asked`, else those of the model, or fewer if their KV cache and the
/// model together would exceed the free memory.
///
/// # Errors
/// [`Error::TooManyPositions`] for more than the model has, [`Error::ContextTooLarge`].
pub fn context_size(
    asked: Option<usize>,
    file: &ModelFile,
    network: &Network,
    options: &Options,
) -> Result<usize, Error> {
    let most = network.config().max_position_embeddings;
    let needed = |positions| Batch::bytes(network.config(), &Options { positions, ..*options }, &[positions]);
    let (available, model) = (memory::available().unwrap_or(u64::MAX), model_bytes(file, network, options));
    match memory::address_space() {
        // The addresses of the model are already taken.
        Some(left) if left < available.saturating_sub(model) => context_within(left, asked, most, 0, needed),
        _ => context_within(available, asked, most, model, needed),
    }
}

/// As [`context_size`], for `available` bytes of memory.
fn context_within(
    available: u64,
    asked: Option<usize>,
    most: usize,
    model_bytes: u64,
    needed: impl Fn(usize) -> u64,
) -> Result<usize, Error> {
    let free = available.saturating_sub(model_bytes);
    let positions = match asked {
        Some(asked) if asked > most => return Err(Error::TooManyPositions { asked, most }),
        Some(asked) => asked,
        None => {
            // Bisects between a number that fits and one that does not.
            let (mut fits, mut fails) = (LEAST_CONTEXT.min(most), most + 1);
            while fails - fits > 1 {
                let middle = fits + (fails - fits) / 2;
                if needed(middle) <= free { fits = middle } else { fails = middle }
            }
            fits
        }
    };
    if needed(positions) <= available {
        return Ok(positions);
    }
    Err(Error::ContextTooLarge { sequences: 1, positions, bytes: needed(positions), available })
}

/// As [`batch_size_up_to`], for `available` bytes of memory, of which the model takes `model_bytes`, and `needed`
/// returns the bytes of a batch of sequences.
fn within(
    available: u64,
    (asked, default): (Option<usize>, usize),
    positions: &[usize],
    model_bytes: u64,
    needed: impl Fn(&[usize]) -> u64,
) -> Result<usize, Error> {
    // Any batch of n sequences takes at most the memory of the n largest.
    let mut positions = positions.to_vec();
    positions.sort_unstable_by_key(|&positions| Reverse(positions));
    let most = asked.unwrap_or(default).min(positions.len());
    let free = available.saturating_sub(model_bytes);
    let sequences = match asked {
        Some(_) => most,
        None => (2..=most).rev().find(|&n| needed(&positions[..n]) <= free).unwrap_or(1),
    };
    let bytes = needed(&positions[..sequences]);
    match bytes <= available {
        true => Ok(sequences),
        false => Err(Error::ContextTooLarge { sequences, positions: positions[0], bytes, available }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte for each position, and 5 for the activations.
    fn needed(positions: &[usize]) -> u64 {
        positions.iter().sum::<usize>() as u64 + 5
    }

    #[test]
    fn default_batch_fits_free_memory_and_requested_batch_is_checked() {
        let sequences =
            |available, asked, positions: &[usize]| within(available, (asked, DEFAULT), positions, 1000, needed);
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
        // The two largest may share a pass, regardless of their order.
        assert_eq!(sequences(1000 + 5 + 90 + 80, None, &[1, 80, 2, 90, 3]).ok(), Some(2));
        assert_eq!(sequences(u64::MAX, None, &[7]).ok(), Some(1));
        let refused = |available, asked| match sequences(available, asked, &many) {
            Err(error) => error.to_string(),
            Ok(sequences) => panic!("{sequences} sequences"),
        };
        assert!(refused(14, None).starts_with("10 positions need 0.0 GB"));
        assert!(refused(164, Some(16)).starts_with("16 sequences at a time need 0.0 GB"));
    }

    #[test]
    fn default_context_fits_free_memory_and_requested_context_is_checked() {
        let context = |available, asked| {
            context_within(available, asked, 8000, 100_000, |positions| 10 * positions as u64 + 5)
                .map_err(|error| error.to_string())
        };
        for (available, asked, expected) in [
            (u64::MAX, None, 8000),
            (180_005, None, 8000),
            (180_004, None, 7999),
            (120_005, None, 2000),
            // The least default: pages of the model are then read again.
            (110_000, None, 1024),
            (10_245, None, 1024),
            (80_005, Some(8000), 8000),
            (u64::MAX, Some(1), 1),
        ] {
            assert_eq!(context(available, asked), Ok(expected), "{available} {asked:?}");
        }
        let refused = |available, asked| context(available, asked).expect_err("too much");
        assert!(refused(10_244, None).contains("1024 positions need"), "{}", refused(10_244, None));
        assert!(refused(80_004, Some(8000)).starts_with("8000 positions need 0.0 GB"));
        assert_eq!(refused(u64::MAX, Some(8001)), "8001 positions requested, expected at most 8000");
        let small = context_within(u64::MAX, None, 64, 0, |positions| positions as u64);
        assert_eq!(small.expect("it fits"), 64);
    }
}
