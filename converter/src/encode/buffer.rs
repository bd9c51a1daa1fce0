//! Memory for numbers on their way, asked for so that "no" is an error and not the end of the program.

use crate::error::{Error, Problem};
use olmo_infer::internals::os::memory;
use std::path::Path;

/// Makes `buffer` at least `bytes` long, for work on `path`.
///
/// # Errors
/// Out of memory.
pub(crate) fn grow(buffer: &mut Vec<u8>, bytes: usize, path: &Path) -> Result<(), Error> {
    if buffer.len() < bytes {
        reserve(buffer, bytes, path)?;
        buffer.resize(bytes, 0);
    }
    Ok(())
}

/// Makes room for `elements` in `buffer`, which is empty or to be overwritten.
///
/// # Errors
/// Out of memory.
pub(crate) fn reserve<T>(buffer: &mut Vec<T>, elements: usize, path: &Path) -> Result<(), Error> {
    let more = elements.saturating_sub(buffer.len());
    memory::asking(|| buffer.try_reserve_exact(more)).map_err(|_| {
        let bytes = elements.saturating_mul(size_of::<T>());
        let problem = Problem::new(path, format!("out of memory: cannot allocate {bytes} bytes"));
        problem.advice("close other programs or raise the limit").into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_there_is_one_error() {
        let mut buffer = vec![1; 3];
        grow(&mut buffer, 5, Path::new("m")).expect("five bytes");
        assert_eq!(buffer, [1, 1, 1, 0, 0]);
        grow(&mut buffer, 2, Path::new("m")).expect("enough already");
        assert_eq!(buffer.len(), 5);
        let line = grow(&mut buffer, 1 << 62, Path::new("m")).expect_err("too much").to_string();
        assert!(line.starts_with("m: out of memory: cannot allocate 4611686018427387904 bytes"), "{line}");
    }
}
