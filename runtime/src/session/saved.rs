//! Saved sessions: files of tokens, keys and values, which a later process continues. `docs/sessions.md` describes them.
//!
//! Order of trust: magic, version, header digest, length, model, every field, then the rest, whose digest is at its end.
//! Nothing is allocated by a length that is not that of the file.

#![deny(clippy::arithmetic_side_effects, reason = "its operands come from untrusted files")]

use crate::error::{Error, SavedSessionError};
use crate::file::model_file::ModelFile;
use crate::format::config::{AttentionKind, ModelConfig};
use crate::format::digest;
use crate::format::sizes::{TooLarge, product, sum};
use crate::network::batch::Batch;
use crate::network::kv_type::KvType;
use crate::network::sequence::SequenceState;
use crate::network::{Network, Options};
use crate::os::disk::SystemDisk;
use crate::os::memory;
use crate::os::output_file::OutputFile;
use crate::os::place::{FolderError, Place};
use crate::parallel::matmul::Activations;
use crate::parallel::team::Threads;
use crate::session::Session;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::mem::offset_of;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 8] = *b"OLMOSESS";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 128;
/// The flag of a session that has logits.
const HAS_LOGITS: u32 = 1;
/// Bytes that are written and read at once, rounded up to whole blocks of positions.
const BUFFER_BYTES: usize = 1 << 20;
/// No position has non-finite activations.
const FINITE: u64 = u64::MAX;

/// The first bytes of the file.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    flags: U32,
    kv: U32,
    activations: U32,
    /// The model, see `Index::identity`.
    model: U64,
    /// Exact length of the file.
    file_bytes: U64,
    /// Most positions of the session.
    positions: U64,
    n_tokens: U64,
    /// How many of them are evaluated.
    n_evaluated: U64,
    /// The first position whose keys and values are kept of layers with a sliding window.
    first_kept: U64,
    /// Position and layer of the first non-finite activations, or [`FINITE`].
    not_finite_position: U64,
    not_finite_layer: U64,
    reserved: [u8; 32],
    /// XXH3-64 of the bytes before this field, seed 0. It seeds the digest at the end.
    header_digest: U64,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

impl Header {
    fn computed_digest(&self) -> u64 {
        digest(&self.as_bytes()[..offset_of!(Header, header_digest)], 0)
    }
}

fn kv_code(kv: KvType) -> u32 {
    match kv {
        KvType::F32 => 1,
        KvType::Bf16 => 2,
    }
}

fn activations_code(activations: Activations) -> u32 {
    match activations {
        Activations::Auto => 1,
        Activations::Int16 => 2,
        Activations::Int8 => 3,
        Activations::F32 => 4,
    }
}

/// Bytes of a session that is saved.
fn file_bytes(config: &ModelConfig, kv: KvType, header: &Header) -> Result<u64, TooLarge> {
    let (n, first) = (header.n_evaluated.get(), header.first_kept.get());
    let n_rings = config.n_sliding_layers();
    let n_full = config.n_layers().saturating_sub(n_rings).saturating_sub(config.n_linear_layers());
    let kept = sum([product([n_full as u64, n])?, product([n_rings as u64, n.saturating_sub(first)])?])?;
    let n_logits = if header.flags.get() & HAS_LOGITS == 0 { 0 } else { config.vocab_size as u64 };
    sum([
        HEADER_BYTES as u64,
        product([4, header.n_tokens.get()])?,
        product([4, n_logits])?,
        product([kept, 2, config.kv_width() as u64, kv.bytes()])?,
        Batch::state_bytes(config),
        size_of::<U64>() as u64,
    ])
}

fn io_at<'p>(path: &'p Path, action: &'static str) -> impl FnOnce(FolderError) -> Error + 'p {
    move |error| match error {
        FolderError::Folder { source, .. } | FolderError::Io(source) => Error::io(path, action)(source),
        other => Error::io(path, action)(io::Error::other(other)),
    }
}

impl Session {
    /// Writes the session to a file, which [`Model::load_session`](crate::Model::load_session) continues: the tokens,
    /// their keys and values, and the logits. The file appears whole or not at all, and replaces one of that name.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::OutOfMemory`], [`Error::Changed`] when the model file changed. [`Error::NotAFile`] when
    /// the path is not that of a regular file, or is that of the model.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.save_to(path.as_ref())
    }

    fn save_to(&self, path: &Path) -> Result<(), Error> {
        let network = self.batch.network();
        let place = Place::find(path).map_err(io_at(path, "create"))?;
        if let Some(entry) = &place.entry {
            let refused = |found| {
                let advice = "give the name of a new file, or of a saved session";
                Err(Error::NotAFile { path: path.to_path_buf(), found, advice })
            };
            let model = network.file().and_then(|file| fs::metadata(file.path()).ok());
            if !entry.is_file {
                return refused("not a regular file");
            }
            if model.is_some_and(|model| (model.dev(), model.ino()) == entry.inode) {
                return refused("the model");
            }
        }
        let (state, options, logits) = (self.batch.state(0), self.options(), self.logits());
        let (position, layer) = state.not_finite.unzip();
        let number = |number: Option<usize>| number.map_or(FINITE, |number| number as u64);
        let mut header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            flags: if logits.is_empty() { 0.into() } else { HAS_LOGITS.into() },
            kv: kv_code(options.kv).into(),
            activations: activations_code(options.activations).into(),
            model: identity(network).into(),
            file_bytes: 0.into(),
            positions: (options.positions as u64).into(),
            n_tokens: (self.tokens.len() as u64).into(),
            n_evaluated: (state.position as u64).into(),
            first_kept: (state.first_kept as u64).into(),
            not_finite_position: number(position).into(),
            not_finite_layer: number(layer).into(),
            reserved: [0; _],
            header_digest: 0.into(),
        };
        let config = network.config();
        // The session is in memory: its size is a number.
        header.file_bytes = file_bytes(config, options.kv, &header).unwrap_or(u64::MAX).into();
        header.header_digest = header.computed_digest().into();

        let mut out = Writer {
            file: OutputFile::create(&SystemDisk, place, path, "olmo-infer")?,
            digest: Xxh3::with_seed(header.header_digest.get()),
            buffer: memory::room_for(BUFFER_BYTES, "a session that is saved")?,
        };
        out.file.append(header.as_bytes())?;
        self.tokens.iter().try_for_each(|token| out.write(&token.to_le_bytes()))?;
        logits.iter().try_for_each(|logit| out.write(&logit.to_le_bytes()))?;
        for layer in (0..config.n_layers()).filter(|&layer| has_keys(config, layer)) {
            for positions in self.batch.moved(layer, &state) {
                let bytes = positions.len().saturating_mul(self.batch.position_bytes());
                memory::reserve(&mut out.buffer, bytes, "a session that is saved")?;
                self.batch.append_bytes(0, layer, positions, &mut out.buffer);
                out.flush_full()?;
            }
        }
        for numbers in self.batch.states(0) {
            numbers.iter().try_for_each(|number| out.write(&number.to_le_bytes()))?;
        }
        // A file that was written to meanwhile is where wrong keys come from.
        network.file().map_or(Ok(()), |file| file.check_unchanged())?;
        out.finish()
    }
}

/// Whether a layer has keys and values, and not a state.
fn has_keys(config: &ModelConfig, layer: usize) -> bool {
    config.layer_types[layer] != AttentionKind::Linear
}

/// Writes bytes, and their digest at the end.
struct Writer {
    file: OutputFile<'static>,
    digest: Xxh3,
    /// What is not written yet.
    buffer: Vec<u8>,
}

impl Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.buffer.extend_from_slice(bytes);
        self.flush_full()
    }

    fn flush_full(&mut self) -> Result<(), Error> {
        if self.buffer.len() >= BUFFER_BYTES.saturating_sub(size_of::<U64>()) { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.digest.update(&self.buffer);
        self.file.append(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<(), Error> {
        self.flush()?;
        self.file.append(&self.digest.digest().to_le_bytes())?;
        self.file.publish(true)
    }
}

/// The identity of the model of a network; 0 of weights that are not those of a file.
fn identity(network: &Network) -> u64 {
    network.file().map_or(0, |file: &Arc<ModelFile>| file.index().identity())
}

/// The session that was saved to a file.
pub(crate) fn load(network: &Arc<Network>, threads: &Arc<Threads>, path: &Path) -> Result<Session, Error> {
    let refused = |source| Error::SavedSession { path: path.to_path_buf(), source };
    // O_NONBLOCK: opening a FIFO must not wait for a writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let mut file = file.map_err(Error::io(path, "open"))?;
    let metadata = file.metadata().map_err(Error::io(path, "read its metadata"))?;
    if !metadata.is_file() {
        let (found, advice) = ("not a regular file", "give a file that a session was saved to");
        return Err(Error::NotAFile { path: path.to_path_buf(), found, advice });
    }
    let mut page = [0; HEADER_BYTES];
    let n = metadata.len().min(HEADER_BYTES as u64) as usize;
    file.read_exact(&mut page[..n]).map_err(Error::io(path, "read"))?;
    let header = Header::read_from_bytes(&page).expect("as long as a header");
    let (options, state) = checked(network, &header, n, metadata.len()).map_err(refused)?;

    let mut session = Session::new(network, threads, options)?;
    let mut input = Reader { file, path, digest: Xxh3::with_seed(header.header_digest.get()), buffer: Vec::new() };
    session.tokens.extend(input.u32s(header.n_tokens.get() as usize)?);
    if header.flags.get() & HAS_LOGITS != 0 {
        let logits = input.u32s(network.config().vocab_size)?;
        let logits = memory::collected(logits.into_iter().map(f32::from_bits), "the logits of a session")?;
        session.batch.restore_logits(&logits);
    }
    for layer in (0..network.config().n_layers()).filter(|&layer| has_keys(network.config(), layer)) {
        for positions in session.batch.moved(layer, &state) {
            let bytes = input.bytes(positions.len().saturating_mul(session.batch.position_bytes()))?;
            session.batch.store_bytes(0, layer, positions, bytes)?;
        }
    }
    for numbers in session.batch.states_mut(0) {
        // A buffer of a state: as large as it is in any case.
        let bytes = input.bytes(size_of_val(numbers))?.as_chunks::<4>().0;
        numbers.iter_mut().zip(bytes).for_each(|(number, bytes)| *number = f32::from_le_bytes(*bytes));
    }
    let (found, mut expected) = (input.digest.digest(), [0; size_of::<U64>()]);
    input.file.read_exact(&mut expected).map_err(Error::io(path, "read"))?;
    let expected = u64::from_le_bytes(expected);
    let damaged = |place, found, expected: String| refused(SavedSessionError::Damaged { place, found, expected });
    if found != expected {
        return Err(damaged("digest", found, expected.to_string()));
    }
    // A digest proves nothing: these would end in wrong memory or in a wrong choice.
    let vocab_size = network.config().vocab_size;
    if let Some(&token) = session.tokens.iter().find(|&&token| token as usize >= vocab_size) {
        return Err(damaged("token", token.into(), format!("a number below {vocab_size}")));
    }
    if let Some(logit) = session.logits().iter().find(|logit| !logit.is_finite()) {
        return Err(damaged("logit", logit.to_bits().into(), "the bits of a finite number".into()));
    }
    session.batch.restore(0, state);
    Ok(session)
}

/// The options and the state of a session by its header, of which `n` bytes were read from a file of `length` bytes.
fn checked(
    network: &Network,
    header: &Header,
    n: usize,
    length: u64,
) -> Result<(Options, SequenceState), SavedSessionError> {
    let config = network.config();
    let damaged = |place, found, expected: String| Err(SavedSessionError::Damaged { place, found, expected });
    if header.magic[..n.min(MAGIC.len())] != MAGIC[..n.min(MAGIC.len())] || n == 0 {
        return Err(SavedSessionError::NotASession);
    }
    if n < HEADER_BYTES {
        return Err(SavedSessionError::Length { found: length, expected: HEADER_BYTES as u64 });
    }
    let (version, computed) = (header.version.get(), header.computed_digest());
    if version != VERSION {
        return Err(SavedSessionError::Version { found: version, supported: VERSION });
    }
    if computed != header.header_digest.get() {
        return damaged("header digest", computed, header.header_digest.get().to_string());
    }
    if header.file_bytes.get() != length {
        return Err(SavedSessionError::Length { found: length, expected: header.file_bytes.get() });
    }
    let (found, expected) = (header.model.get(), identity(network));
    if found != expected {
        return Err(SavedSessionError::OtherModel { found, expected });
    }
    if header.flags.get() & !HAS_LOGITS != 0 || header.reserved != [0; _] {
        return damaged("flags", header.flags.get().into(), "0 or 1, and zeros in the reserved bytes".into());
    }
    let kv = [KvType::F32, KvType::Bf16].into_iter().find(|&kv| kv_code(kv) == header.kv.get());
    let Some(kv) = kv else { return damaged("type of keys", header.kv.get().into(), "1 or 2".into()) };
    let activations = [Activations::Auto, Activations::Int16, Activations::Int8, Activations::F32];
    let code = header.activations.get();
    let activations = activations.into_iter().find(|&activations| activations_code(activations) == code);
    let Some(activations) = activations else { return damaged("activations", code.into(), "1 to 4".into()) };

    let within = |place, number: U64, low: usize, high: usize| {
        let number = number.get();
        match (low as u64..=high as u64).contains(&number) {
            true => Ok(number as usize),
            false => Err(SavedSessionError::Damaged { place, found: number, expected: format!("{low} to {high}") }),
        }
    };
    let positions = within("positions", header.positions, 1, config.max_position_embeddings)?;
    let n_tokens = within("number of tokens", header.n_tokens, 0, positions)?;
    let position = within("number of evaluated tokens", header.n_evaluated, 0, n_tokens)?;
    let window = if config.sliding_window == 0 { usize::MAX } else { config.sliding_window };
    let (low, high) = (position.saturating_sub(window), position.saturating_add(1).saturating_sub(window));
    let first_kept = within("first kept position", header.first_kept, low, high)?;
    if header.flags.get() & HAS_LOGITS != 0 && position == 0 {
        return damaged("number of evaluated tokens", 0, "at least one, as there are logits".into());
    }
    let not_finite = match (header.not_finite_position.get(), header.not_finite_layer.get()) {
        (FINITE, FINITE) => None,
        _ => Some((
            within("non-finite position", header.not_finite_position, 0, position.saturating_sub(1))?,
            within("non-finite layer", header.not_finite_layer, 0, config.n_layers().saturating_sub(1))?,
        )),
    };
    match file_bytes(config, kv, header) {
        Ok(bytes) if bytes == length => {}
        bytes => return Err(SavedSessionError::Length { found: length, expected: bytes.unwrap_or(u64::MAX) }),
    }
    let options = Options { kv, activations, ..Options::new(positions) };
    Ok((options, SequenceState { position, first_kept, not_finite }))
}

/// Reads bytes and computes their digest.
struct Reader<'p> {
    file: File,
    path: &'p Path,
    digest: Xxh3,
    buffer: Vec<u8>,
}

impl Reader<'_> {
    /// The next `n` bytes.
    fn bytes(&mut self, n: usize) -> Result<&[u8], Error> {
        self.buffer.clear();
        memory::reserve(&mut self.buffer, n, "a saved session")?;
        self.buffer.resize(n, 0);
        self.file.read_exact(&mut self.buffer).map_err(Error::io(self.path, "read"))?;
        self.digest.update(&self.buffer);
        Ok(&self.buffer)
    }

    /// The next `n` numbers.
    fn u32s(&mut self, n: usize) -> Result<Vec<u32>, Error> {
        let bytes = self.bytes(n.saturating_mul(4))?;
        let numbers = bytes.as_chunks::<4>().0.iter();
        memory::collected(numbers.map(|bytes| u32::from_le_bytes(*bytes)), "a saved session")
    }
}
