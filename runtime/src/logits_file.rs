//! The `.npy` file of `--logits`: written under a temporary name, and given its own only when it is complete; or
//! standard output, where the header comes first and must be right from the start.

use crate::output::Failure;
use crate::target::target;
use olmo_infer::error::{Error, display_path};
use olmo_infer::folder::{folder_of, sync_folder};
use olmo_infer::signals;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufWriter, Seek, SeekFrom, Stdout, Write};
use std::path::{Path, PathBuf};

/// Bytes before the numbers: room for any shape, and a multiple of 64 as the format wants.
const HEADER_BYTES: usize = 128;

/// Bytes that are written at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Where the logits of all positions go.
pub enum Logits {
    /// To a file.
    File(LogitsFile),
    /// To standard output.
    Stdout(LogitsStream),
}

impl Logits {
    /// Appends the logits of one position.
    pub fn write(&mut self, logits: &[f32]) -> Result<(), Failure> {
        match self {
            Logits::File(file) => file.write(logits),
            Logits::Stdout(stream) => stream.write(logits),
        }
    }

    /// Makes the array complete.
    pub fn finish(self) -> Result<(), Failure> {
        match self {
            Logits::File(file) => file.finish(),
            Logits::Stdout(stream) => stream.finish(),
        }
    }
}

/// An array `[positions, vocab_size]` of f32 on standard output.
pub struct LogitsStream {
    out: BufWriter<Stdout>,
    vocab_size: usize,
    /// Rows that the header promises and that have not been written.
    missing: usize,
}

impl LogitsStream {
    /// Begins an array of `positions` rows.
    pub fn create(positions: usize, vocab_size: usize) -> Result<LogitsStream, Failure> {
        let mut out = BufWriter::with_capacity(1 << 16, io::stdout());
        out.write_all(&header(positions, vocab_size))?;
        Ok(LogitsStream { out, vocab_size, missing: positions })
    }

    fn write(&mut self, logits: &[f32]) -> Result<(), Failure> {
        assert_eq!(logits.len(), self.vocab_size);
        self.missing = self.missing.checked_sub(1).expect("no more positions than were promised");
        Ok(logits.iter().try_for_each(|logit| self.out.write_all(&logit.to_le_bytes()))?)
    }

    fn finish(mut self) -> Result<(), Failure> {
        assert_eq!(self.missing, 0, "as many positions as were promised");
        Ok(self.out.flush()?)
    }
}

/// An array `[positions, vocab_size]` of f32 that grows by rows.
pub struct LogitsFile {
    path: PathBuf,
    temporary: PathBuf,
    /// The folder of both names; none where it may be written to and not read.
    folder: Option<File>,
    out: File,
    /// What is not written yet.
    buffer: Vec<u8>,
    vocab_size: usize,
    rows: usize,
    finished: bool,
    /// Lets a signal that stops the program remove it.
    _named: signals::Temporary,
}

impl LogitsFile {
    /// Begins a file that will replace `path`, or the file that a link there leads to; `inputs` are not replaced.
    pub fn create(path: &Path, inputs: &[&Path], vocab_size: usize) -> Result<LogitsFile, Failure> {
        let path = &target(path, "--logits", inputs)?;
        // Drawn by lot, so that it is not that of another process either, in a container with the same process ids say.
        let unique = RandomState::new().hash_one(std::process::id());
        let temporary = path.with_file_name(format!(".olmo-infer-{unique:016x}.tmp"));
        let mut buffer = Vec::new();
        // While there is no file that could be left behind.
        if buffer.try_reserve_exact(BUFFER_BYTES).is_err() {
            return Err(Failure::Refused(format!(
                "{}: the system does not give the 1 MiB of memory that writing it takes; raise the limit (ulimit -v)",
                display_path(path)
            )));
        }
        // What would fail after the name is there must fail before.
        let folder = match File::open(folder_of(path)) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            opened => Some(opened.map_err(Error::io(path, "create"))?),
        };
        let named = signals::Temporary::new(&temporary);
        let out = File::create_new(&temporary).map_err(Error::io(path, "create"))?;
        named.park_if_stopping();
        let mut file = LogitsFile {
            path: path.to_path_buf(),
            temporary,
            folder,
            out,
            buffer,
            vocab_size,
            rows: 0,
            finished: false,
            _named: named,
        };
        let header = header(0, vocab_size);
        file.write_bytes(&header)?;
        Ok(file)
    }

    /// Appends the logits of one position.
    pub fn write(&mut self, logits: &[f32]) -> Result<(), Failure> {
        assert_eq!(logits.len(), self.vocab_size);
        self.rows += 1;
        logits.iter().try_for_each(|logit| self.write_bytes(&logit.to_le_bytes()))
    }

    /// Writes the final shape, gives the file its name and brings that to the disk.
    pub fn finish(mut self) -> Result<(), Failure> {
        self.flush()?;
        let header = header(self.rows, self.vocab_size);
        let close = |out: &mut File| -> io::Result<()> {
            out.seek(SeekFrom::Start(0))?;
            out.write_all(&header)?;
            out.sync_all()
        };
        close(&mut self.out).map_err(Error::io(&self.path, "write"))?;
        fs::rename(&self.temporary, &self.path).map_err(Error::io(&self.path, "create"))?;
        self.finished = true;
        let survives = self.folder.as_ref().map_or(Ok(()), sync_folder);
        Ok(survives.map_err(Error::io(&self.path, "make its name survive a power cut, though it is in place"))?)
    }

    fn write_bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.out.write_all(&self.buffer).map_err(Error::io(&self.path, "write"))?;
        self.buffer.clear();
        Ok(())
    }
}

/// Magic, version 1.0, length, and the description padded with spaces to [`HEADER_BYTES`].
fn header(rows: usize, vocab_size: usize) -> Vec<u8> {
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((HEADER_BYTES as u16 - 10).to_le_bytes());
    let shape = (rows, vocab_size);
    write!(header, "{{'descr': '<f4', 'fortran_order': False, 'shape': {shape:?}, }}").expect("writing to memory");
    header.resize(HEADER_BYTES - 1, b' ');
    header.push(b'\n');
    header
}

impl Drop for LogitsFile {
    fn drop(&mut self) {
        if !self.finished {
            // The run failed for a reason of its own, which is what the user needs to hear.
            let _the_first_failure_is_reported = fs::remove_file(&self.temporary);
        }
    }
}
