//! `olmo-pack copy MODEL COPY`: the same bytes in a new file, checked on the way and written as packing writes them.
//!
//! A file that was copied or downloaded by other means may be in small pieces in the page cache, and then takes
//! many times longer to be mapped. Written again in whole huge pages it is mapped as quickly as a
//! packed one.

use crate::commands::read_back;
use crate::commands::verify;
use crate::encode::buffer::grow;
use crate::error::{Error, Problem, escaped, shown_path};
use crate::folder::source_file;
use crate::write::model_output::Target;
use crate::write::pipeline::{SYNC_EVERY, WINDOW};
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::file::parts::Part;
use olmo_infer::internals::format::HEADER_BYTES;
use olmo_infer::internals::os::disk::Disk;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;
use zerocopy::IntoBytes;

/// Copies the model at `from` to `to` and returns a line for the user. `progress` gets how many bytes of how many
/// are written.
///
/// # Errors
/// `from` is not a model, is damaged, or changes meanwhile; `to`, or in a folder `to` the file of the same name, exists
/// and `force` is not given, is the same file, or cannot be written. What was at `to` then still is.
pub fn run(from: &Path, to: &Path, force: bool, disk: &dyn Disk, progress: &dyn Fn(u64, u64)) -> Result<String, Error> {
    let model = ModelFile::open(from)?;
    // Into a folder, as cp does.
    let in_folder = from.file_name().filter(|_| to.is_dir()).map(|name| to.join(name));
    let to = in_folder.as_deref().unwrap_or(to);
    let target = Target::new(to, force)?;
    // Not through the mapping, where a file that is cut short ends the program.
    // A FIFO that is there by now, or a file with other digests than the model that was opened, is rejected.
    let source = source_file::open(from)?;
    let metadata = source.metadata().map_err(|error| Error::io(from, "cannot read its metadata", error))?;
    target.refuse_same(from, (metadata.dev(), metadata.ino()))?;
    // What the digests do not cover: whether sections fit together, as `verify` checks it. That they stay those is what
    // the digests on the way are for.
    verify::accepted(&model)?;
    let length = model.layout().file_bytes;
    target.check_free_space(length)?;
    let output = target.create(disk)?;
    output.allocate(length)?;

    let mut digests = Digests::new(&model);
    let mut window = Vec::new();
    let mut header = Vec::new();
    let mut at = 0;
    while at < length {
        let bytes = (WINDOW as u64).min(length - at) as usize;
        grow(&mut window, bytes, from)?;
        let window = &mut window[..bytes];
        source.read_exact_at(window, at).map_err(|error| Error::io(from, "cannot read", error))?;
        digests.add(window, at)?;
        if at == 0 {
            // The page that makes it a model comes last, and is the one that was checked when the file was opened.
            header.extend_from_slice(model.header().as_bytes());
            if window[..HEADER_BYTES] != header[..] {
                return Err(Problem::new(from, "changed while it was read").advice("copy it again").into());
            }
            window[..HEADER_BYTES].fill(0);
        }
        output.write_at(window, at)?;
        at += bytes as u64;
        if at % SYNC_EVERY == 0 {
            output.sync()?;
        }
        progress(at, length);
    }
    output.sync()?;
    output.write_at(&header, 0)?;
    output.sync()?;
    output.publish(read_back::check)?;
    Ok(format!("{}: {length} bytes, every digest checked", escaped(&shown_path(to))))
}

/// The digests of the parts of a file that comes in order, window by window, and the zeros between them.
struct Digests<'a> {
    model: &'a ModelFile,
    /// All parts after the header page, in the order of the file.
    parts: Vec<Part>,
    /// The first part that is not complete, and what is known of it.
    current: usize,
    state: Xxh3,
    /// Where the part before it ends.
    gap: u64,
}

impl Digests<'_> {
    fn new(model: &ModelFile) -> Digests<'_> {
        let parts: Vec<Part> = model.index().parts().collect();
        Digests { model, current: 0, state: Xxh3::with_seed(parts[0].seed), gap: HEADER_BYTES as u64, parts }
    }

    /// Takes the bytes of the file from `at` on.
    fn add(&mut self, window: &[u8], at: u64) -> Result<(), Error> {
        let end = at + window.len() as u64;
        while let Some(part) = self.parts.get(self.current) {
            self.padding(window, at, part.extent.offset)?;
            let (from, to) = (part.extent.offset.max(at), part.extent.end().min(end));
            if from < to {
                self.state.update(&window[(from - at) as usize..(to - at) as usize]);
            }
            if part.extent.end() > end {
                return Ok(());
            }
            if self.state.digest() != part.digest {
                return Err(self.damaged(self.model.index().part_name(part.kind), "its digest is wrong"));
            }
            self.gap = part.extent.end();
            self.current += 1;
            self.state = Xxh3::with_seed(self.parts.get(self.current).map_or(0, |part| part.seed));
        }
        self.padding(window, at, end)
    }

    /// Checks what the window at `at` has of the bytes between the last complete part and `to`, all zero.
    fn padding(&self, window: &[u8], at: u64, to: u64) -> Result<(), Error> {
        let (from, to) = (self.gap.max(at), to.min(at + window.len() as u64));
        if from >= to {
            return Ok(());
        }
        match window[(from - at) as usize..(to - at) as usize].iter().position(|&byte| byte != 0) {
            None => Ok(()),
            Some(i) => Err(self.damaged(format!("byte {}", from + i as u64), "padding that is not zero")),
        }
    }

    fn damaged(&self, place: String, found: &str) -> Error {
        Problem::new(self.model.path(), found).tensor(place).advice("the file is damaged: pack it again").into()
    }
}
