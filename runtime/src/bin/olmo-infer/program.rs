//! The program, as its messages name it.

use olmo_infer::internals::cli::command_line;
use olmo_infer::internals::cli::program::Program;

/// This program.
pub const PROGRAM: Program = Program::new("olmo-infer");

/// The number of threads to use for `--threads`, 0 for all; notes when they are fewer.
pub fn used_threads(asked: usize) -> usize {
    let (threads, note) = command_line::threads(asked);
    note.iter().for_each(|line| PROGRAM.note(line));
    threads
}
