//! Power cuts that are not tried but worked out: what may be on the disk when the power goes in the middle of a
//! recorded run, and a judge of that.
//!
//! The disk is taken to be as bad as the rules for programs allow. Of what was written to a file after its last sync
//! any 512 bytes may be there or not, in any order, and what is not there are the bytes from before, or garbage. The
//! length may be any between that of the last sync and the present one. A name given after the last sync of its folder
//! may be there or not, regardless of the bytes of its file and of the names before it.

use crate::recording::{Inode, Operation, Recording};
use crate::{Random, TempDir};
use olmo_infer::internals::file::model_file::ModelFile;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::path::PathBuf;

/// The unit that a disk writes whole or not at all.
const SECTOR: usize = 512;
/// The content of bytes that were not written yet, in the worst case.
const GARBAGE: u8 = 0xa5;
/// Up to this number of sectors, writes or names, every subset is tried.
const ALL_SUBSETS: usize = 8;
/// The number of failures that are reported.
const ENOUGH_FAILURES: usize = 10;

impl Recording {
    /// Calls `visit` with states that a power cut after the first `prefix` operations may leave: some that are always
    /// looked at, and `tries` random ones.
    fn states(&self, prefix: usize, tries: u64, random: &mut Random, visit: &mut dyn FnMut(State)) {
        let moment = Moment::after(self, prefix);
        let contents = moment.chosen_contents();
        for kept in subsets(moment.names_since.len()) {
            for contents in &contents {
                visit(State { names: moment.names(&kept), contents: contents.clone() });
            }
        }
        for _ in 0..tries {
            let kept: Vec<bool> = moment.names_since.iter().map(|_| random.below(2) == 0).collect();
            let contents = moment.files.iter().map(|(&inode, file)| (inode, file.random_content(random))).collect();
            visit(State { names: moment.names(&kept), contents });
        }
    }
}

/// Every subset of `n` things when there are few, else none and all of them.
fn subsets(n: usize) -> Vec<Vec<bool>> {
    match n {
        0 => vec![vec![]],
        1..=ALL_SUBSETS => (0..1u32 << n).map(|bits| (0..n).map(|i| bits >> i & 1 == 1).collect()).collect(),
        _ => vec![vec![false; n], vec![true; n]],
    }
}

/// The certain and the uncertain writes of a file at a moment.
#[derive(Default)]
struct Uncertain<'r> {
    /// Its bytes at the last sync.
    synced: Vec<u8>,
    /// The writes since.
    writes: Vec<(usize, &'r [u8])>,
    /// Its length now.
    bytes: usize,
}

impl<'r> Uncertain<'r> {
    fn write(&mut self, offset: usize, bytes: &'r [u8]) {
        self.writes.push((offset, bytes));
        self.bytes = self.bytes.max(offset + bytes.len());
    }

    fn sync(&mut self) {
        self.synced.resize(self.bytes, 0);
        for (offset, bytes) in self.writes.drain(..) {
            self.synced[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// The sectors that the writes touch.
    fn sectors(&self) -> BTreeSet<usize> {
        self.writes.iter().flat_map(|(offset, bytes)| sectors(*offset, bytes.len())).collect()
    }

    /// The content before the writes, `bytes` long, or garbage in their ranges.
    fn before(&self, bytes: usize, garbage: bool) -> Vec<u8> {
        let mut content = self.synced.clone();
        content.resize(self.bytes, 0);
        for (offset, written) in self.writes.iter().filter(|_| garbage) {
            content[*offset..offset + written.len()].fill(GARBAGE);
        }
        content.truncate(bytes);
        content
    }

    /// Contents that are always looked at: where it is possible, those of every subset of the sectors written, or of
    /// every subset of the writes; the lost ones as they were and as garbage, the length old and new.
    fn chosen_contents(&self) -> Vec<Vec<u8>> {
        let mut contents = Vec::new();
        let sectors: Vec<usize> = self.sectors().into_iter().collect();
        for (garbage, bytes) in [(false, self.synced.len()), (false, self.bytes), (true, self.bytes)] {
            let before = self.before(bytes, garbage);
            if sectors.len() <= ALL_SUBSETS {
                for kept in subsets(sectors.len()) {
                    let mut content = before.clone();
                    let kept: HashSet<usize> =
                        sectors.iter().zip(kept).filter(|(_, kept)| *kept).map(|(s, _)| *s).collect();
                    self.writes.iter().for_each(|write| apply(&mut content, *write, |sector| kept.contains(&sector)));
                    contents.push(content);
                }
            } else {
                for kept in subsets(self.writes.len()) {
                    let mut content = before.clone();
                    let kept_writes = self.writes.iter().zip(kept).filter(|(_, kept)| *kept);
                    kept_writes.for_each(|(write, _)| apply(&mut content, *write, |_| true));
                    contents.push(content);
                }
            }
        }
        contents
    }

    /// The writes in any order, each lost, whole or torn, and a length.
    fn random_content(&self, random: &mut Random) -> Vec<u8> {
        let bytes = match random.below(4) {
            0 => self.synced.len(),
            1 => self.synced.len() + random.below(self.bytes - self.synced.len() + 1),
            _ => self.bytes,
        };
        let mut content = self.before(bytes, random.below(2) == 0);
        let mut writes = self.writes.clone();
        for i in (1..writes.len()).rev() {
            writes.swap(i, random.below(i + 1));
        }
        for write in writes {
            let torn = sectors(write.0, write.1.len());
            let at = torn.start + random.below(torn.len().max(1));
            match random.below(7) {
                0 => {}
                1 => apply(&mut content, write, |sector| sector < at),
                2 => apply(&mut content, write, |sector| sector >= at),
                3 => apply(&mut content, write, |sector| sector != at),
                4 => apply(&mut content, write, |_| random.below(8) < 4),
                _ => apply(&mut content, write, |_| true),
            }
        }
        content
    }
}

/// The sectors of `bytes` bytes at `offset`.
fn sectors(offset: usize, bytes: usize) -> Range<usize> {
    offset / SECTOR..(offset + bytes).div_ceil(SECTOR)
}

/// Writes those sectors that are kept, as far as the content reaches.
fn apply(content: &mut [u8], (offset, bytes): (usize, &[u8]), mut keep: impl FnMut(usize) -> bool) {
    let end = (offset + bytes.len()).min(content.len());
    for sector in sectors(offset, bytes.len()).filter(|&sector| keep(sector)) {
        let (from, to) = ((sector * SECTOR).max(offset), ((sector + 1) * SECTOR).min(end));
        if from < to {
            content[from..to].copy_from_slice(&bytes[from - offset..to - offset]);
        }
    }
}

/// A moment of a recorded run.
struct Moment<'r> {
    files: BTreeMap<Inode, Uncertain<'r>>,
    /// The names at the last sync of the folder.
    names_synced: BTreeMap<PathBuf, Inode>,
    /// The renames since: a name gets this file, and possibly another name goes.
    names_since: Vec<(PathBuf, Inode, Option<PathBuf>)>,
}

impl<'r> Moment<'r> {
    fn after(recording: &'r Recording, prefix: usize) -> Moment<'r> {
        let old = &recording.old;
        let file = |bytes: &Vec<u8>| Uncertain { synced: bytes.clone(), writes: vec![], bytes: bytes.len() };
        let mut moment = Moment {
            files: old.values().map(|(inode, bytes)| (*inode, file(bytes))).collect(),
            names_synced: old.iter().map(|(path, (inode, _))| (path.clone(), *inode)).collect(),
            names_since: Vec::new(),
        };
        // The names as a running program sees them.
        let mut names = moment.names_synced.clone();
        for operation in &recording.operations[..prefix] {
            match operation {
                Operation::Write(inode, offset, bytes) => {
                    moment.files.entry(*inode).or_default().write(*offset, bytes);
                }
                Operation::Allocate(inode, bytes) => {
                    let file = moment.files.entry(*inode).or_default();
                    file.bytes = file.bytes.max(*bytes);
                }
                Operation::Sync(inode) => moment.files.entry(*inode).or_default().sync(),
                Operation::Name(inode, path) => {
                    moment.files.entry(*inode).or_default();
                    names.insert(path.clone(), *inode);
                    moment.names_since.push((path.clone(), *inode, None));
                }
                Operation::Rename(from, to) => {
                    let inode = names.remove(from).expect("a name that is there");
                    names.insert(to.clone(), inode);
                    moment.names_since.push((to.clone(), inode, Some(from.clone())));
                }
                Operation::SyncFolder => {
                    moment.names_synced.clone_from(&names);
                    moment.names_since.clear();
                }
            }
        }
        moment
    }

    /// The names when these of the operations since the sync were kept.
    fn names(&self, kept: &[bool]) -> BTreeMap<PathBuf, Inode> {
        let mut names = self.names_synced.clone();
        for ((path, inode, gone), _) in self.names_since.iter().zip(kept).filter(|(_, kept)| **kept) {
            if let Some(gone) = gone {
                names.remove(gone);
            }
            names.insert(path.clone(), *inode);
        }
        names
    }

    /// Contents of all files that are always checked: those of the file that is being written, with the others
    /// unchanged. There is at most one such file when one thread writes.
    fn chosen_contents(&self) -> Vec<BTreeMap<Inode, Vec<u8>>> {
        let mut uncertain =
            self.files.iter().filter(|(_, file)| file.bytes != file.synced.len() || !file.writes.is_empty());
        let Some((&last, file)) = uncertain.next_back() else {
            return vec![self.files.iter().map(|(&inode, file)| (inode, file.synced.clone())).collect()];
        };
        let with = |content| {
            let others = self.files.iter().map(|(&inode, file)| (inode, file.synced.clone()));
            others.chain([(last, content)]).collect()
        };
        file.chosen_contents().into_iter().map(with).collect()
    }
}

/// The content of the disk after a power cut.
struct State {
    names: BTreeMap<PathBuf, Inode>,
    contents: BTreeMap<Inode, Vec<u8>>,
}

/// Looks at states and counts them.
pub struct Judge {
    scratch: TempDir,
    seen: HashSet<u64>,
    /// Whether a content that is not a whole model is opened as one.
    opens: HashMap<u64, bool>,
    failures: Vec<String>,
}

impl Default for Judge {
    fn default() -> Judge {
        Judge {
            scratch: TempDir::in_memory("power"),
            seen: HashSet::new(),
            opens: HashMap::new(),
            failures: Vec::new(),
        }
    }
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Judge {
    /// How many different states were looked at.
    pub fn n_states(&self) -> u64 {
        self.seen.len() as u64
    }

    /// How many different contents, none of them a whole file, were given to the reader.
    pub fn n_opened(&self) -> u64 {
        self.opens.len() as u64
    }

    /// The failures.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Looks at states that power cuts anywhere in the run may leave: at each moment at some that are chosen, and at
    /// `tries` random ones. Ends early when enough is found wrong.
    pub fn look_at(&mut self, recording: &Recording, tries: u64, random: &mut Random) {
        for prefix in 0..=recording.operations.len() {
            if self.failures.len() > ENOUGH_FAILURES {
                return;
            }
            let done = prefix == recording.operations.len();
            recording.states(prefix, tries, random, &mut |state| {
                if let Err(failure) = self.judge(recording, &state, done) {
                    self.failures.push(format!("after {prefix} operations: {failure}"));
                }
            });
        }
    }

    /// Each name must be absent, old or whole and new, at the end of the run only new. Other contents of a new file,
    /// under any name, must not pass for a model.
    fn judge(&mut self, recording: &Recording, state: &State, done: bool) -> Result<(), String> {
        let hashes: BTreeMap<Inode, u64> = state.contents.iter().map(|(inode, bytes)| (*inode, hash(bytes))).collect();
        let names: Vec<_> = state.names.iter().map(|(name, inode)| (name, hashes.get(inode))).collect();
        if !self.seen.insert(hash((recording.new.keys().next(), names, &hashes, done))) {
            return Ok(());
        }
        for (name, (_, new)) in &recording.new {
            let old = recording.old.get(name).map(|(_, bytes)| bytes).filter(|_| !done);
            let found = state.names.get(name).map(|inode| &state.contents[inode]);
            let is_right = match found {
                None => !done && !recording.old.contains_key(name),
                Some(_) => found == Some(new) || found == old,
            };
            if !is_right {
                let found = found.map_or("nothing".to_string(), |bytes| format!("{} bytes", bytes.len()));
                return Err(format!("{}: {found}, neither old nor new", name.display()));
            }
        }
        let is_model = recording.new.keys().all(|name| name.extension().is_some_and(|extension| extension == "olmo"));
        let is_whole =
            |bytes: &Vec<u8>| recording.new.values().chain(recording.old.values()).any(|(_, whole)| whole == bytes);
        for (inode, bytes) in state.contents.iter().filter(|(_, bytes)| is_model && !is_whole(bytes)) {
            if self.opens(hashes[inode], bytes) {
                return Err(format!("{} bytes that are not whole pass for a model", bytes.len()));
            }
        }
        Ok(())
    }

    /// Whether the reader takes these bytes for a model.
    fn opens(&mut self, hash: u64, bytes: &[u8]) -> bool {
        *self.opens.entry(hash).or_insert_with(|| {
            let path = self.scratch.join("m.olmo");
            fs::write(&path, bytes).expect("written");
            ModelFile::open(&path).is_ok()
        })
    }
}
