//! A neighbour who rewrites, cuts and grows a model file while a program uses it, through a mapping of its own: no time
//! of the file need move.

#![allow(unsafe_code)]

use crate::Random;
use memmap2::MmapMut;
use olmo_infer::internals::file::model_file::ModelFile;
use olmo_infer::internals::format::{VocabularyHead, section};
use olmo_infer::internals::text::vocabulary::Vocabulary;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

/// What the neighbour does to the file, over and over.
#[derive(Clone, Copy, Debug)]
pub enum Habit {
    /// Rewrites its sections and back, and a page of tensors now and then.
    Rewrites,
    /// Cuts it and writes it whole again.
    Cuts,
    /// Makes it longer and cuts it back.
    Grows,
}

/// All of them.
pub const HABITS: [Habit; 3] = [Habit::Rewrites, Habit::Cuts, Habit::Grows];

/// A model that another process changes, and the number of changes.
pub struct Neighbour {
    path: PathBuf,
    good: Vec<u8>,
    sections: Range<usize>,
    /// The texts of its tokens.
    tokens: Range<usize>,
    /// What it writes there.
    bad: [Vec<u8>; BAD.len()],
    /// How often the file was changed.
    pub n_changes: AtomicU64,
}

/// Truncated characters, for which an unchecked decoder reads past the end of the text.
const BAD: [&[u8]; 4] = [b"\xf0", b"\xe2\x80", b"\xff\xfe", b"\xc3"];

impl Neighbour {
    /// Of the model at `path`.
    pub fn new(path: &Path) -> Neighbour {
        let model = ModelFile::open(path).expect("a model");
        let sections = &model.layout().sections;
        let (first, last) = (sections.first().expect("sections"), sections.last().expect("sections"));
        let sections = first.offset as usize..last.end() as usize;
        let vocabulary = model.sections().iter().position(|record| record.kind.get() == section::VOCABULARY);
        let vocabulary = model.layout().sections[vocabulary.expect("a vocabulary")];
        let n_tokens = Vocabulary::new(&model).expect("a good one").expect("there").n_tokens();
        let text = vocabulary.offset as usize + size_of::<VocabularyHead>() + 4 * (n_tokens + 1);
        let tokens = text..vocabulary.end() as usize;
        let good = fs::read(path).expect("read");
        let bad = BAD.map(|bad| bad.repeat(sections.len().div_ceil(bad.len()))[..sections.len()].to_vec());
        Neighbour { path: path.to_path_buf(), good, sections, tokens, bad, n_changes: AtomicU64::new(0) }
    }

    /// Runs `body` while the neighbour follows its habit; the file is whole again afterwards.
    pub fn disturb<R>(&self, habit: Habit, seed: u64, body: impl FnOnce() -> R) -> R {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| self.follow(habit, seed, &stop));
            let done = body();
            stop.store(true, Ordering::Relaxed);
            done
        })
    }

    fn follow(&self, habit: Habit, seed: u64, stop: &AtomicBool) {
        let mut random = Random(seed);
        let file = File::options().read(true).write(true).open(&self.path).expect("open");
        // SAFETY: a program that maps the file trusts no byte of it: that is what is tested. Only this thread changes
        // its length, and the file is whole whenever the mapping is written to.
        let mut map = unsafe { MmapMut::map_mut(&file) }.expect("mapped");
        let length = self.good.len() as u64;
        while !stop.load(Ordering::Relaxed) {
            sleep(Duration::from_micros(random.below(3000) as u64));
            self.n_changes.fetch_add(1, Ordering::Relaxed);
            match habit {
                Habit::Rewrites => {
                    let bad = &self.bad[random.below(self.bad.len())];
                    let tensors = self.sections.end..self.good.len();
                    let page = tensors.start + random.below(tensors.len()) / 4096 * 4096;
                    // With the offsets wrong no token is found, and with numbers wrong none may be computed.
                    let place = match random.below(4) {
                        0 => page..tensors.end.min(page + 4096),
                        1 => self.sections.clone(),
                        _ => self.tokens.clone(),
                    };
                    let n = place.len().min(bad.len());
                    map[place.start..place.start + n].copy_from_slice(&bad[..n]);
                    sleep(Duration::from_micros(random.below(3000) as u64));
                    map[place.clone()].copy_from_slice(&self.good[place]);
                }
                Habit::Cuts => {
                    let cut = random.below(self.good.len()) as u64;
                    file.set_len(cut).expect("cut");
                    sleep(Duration::from_micros(random.below(300) as u64));
                    file.write_all_at(&self.good[cut as usize..], cut).expect("written");
                }
                Habit::Grows => {
                    file.set_len(length + 1 + random.below(1 << 20) as u64).expect("grown");
                    sleep(Duration::from_micros(random.below(300) as u64));
                    file.set_len(length).expect("cut back");
                }
            }
        }
    }
}
