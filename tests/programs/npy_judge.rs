//! Reports how olmo-pack's reader reads `.npy` files, many in one process: `scripts/npy_differential.py` compares that
//! with numpy.
//!
//! Standard input holds batches, all numbers being little-endian u32: how many files, then each one's length and bytes.
//! After each batch standard output gets an answer for each file: 1 or 0 for accepted or refused, the length of what
//! follows, and then either a line with the shape and the numbers as f32, or the message.

use olmo_pack::folder::element::f16_to_f32;
use olmo_pack::folder::npy::{Descr, check, shown_shape};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

/// The judgement of a file: whether it is accepted, and the shape with the numbers or the message.
fn judge(bytes: &[u8]) -> (bool, Vec<u8>) {
    let checked = match check(Path::new("f"), bytes, bytes.len() as u64) {
        Ok(checked) => checked,
        Err(problem) => return (false, problem.to_string().into_bytes()),
    };
    let mut answer = format!("{}\n", shown_shape(&checked.shape)).into_bytes();
    let data = &bytes[checked.preamble_bytes..];
    let halves = data.as_chunks::<2>().0.iter().map(|&half| u16::from_le_bytes(half));
    match checked.descr {
        Descr::F32 => answer.extend(data),
        Descr::F16 => answer.extend(halves.flat_map(|half| f16_to_f32(half).to_le_bytes())),
        Descr::Raw16 | Descr::U16 => answer.extend(halves.flat_map(|half| (u32::from(half) << 16).to_le_bytes())),
    }
    (true, answer)
}

/// The next number, or nothing at the end.
fn number(input: &mut impl Read) -> io::Result<Option<u32>> {
    let mut bytes = [0; 4];
    match input.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(u32::from_le_bytes(bytes))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn main() -> io::Result<()> {
    let mut input = BufReader::new(io::stdin().lock());
    let mut output = BufWriter::new(io::stdout().lock());
    while let Some(n_files) = number(&mut input)? {
        let mut answers = Vec::new();
        for _ in 0..n_files {
            let length = number(&mut input)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            let mut bytes = vec![0; length as usize];
            input.read_exact(&mut bytes)?;
            let (accepted, answer) = judge(&bytes);
            answers.extend(u32::from(accepted).to_le_bytes());
            answers.extend((answer.len() as u32).to_le_bytes());
            answers.extend(answer);
        }
        // Only when the whole batch is read: else both sides could wait for each other.
        output.write_all(&answers)?;
        output.flush()?;
    }
    Ok(())
}
