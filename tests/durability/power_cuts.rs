//! A power cut at any time leaves each name absent, old, or whole and new, and nothing else passes for a model. The
//! order of writes and syncs guarantees it: the checks fail when any of them is left out or moved.

use olmo_tests::Random;
use olmo_tests::power::Judge;
use olmo_tests::recording::{Operation, Recording};
use olmo_tests::runs::{Runs, all_recordings};

/// Random states at each moment of a run.
const TRIES: u64 = 50;
/// The same for orders in which a bad state must be found.
const TRIES_FOR_BAD: u64 = 100;

#[track_caller]
fn assert_bad(recording: &Recording, why: &str) {
    let mut judge = Judge::default();
    judge.look_at(recording, TRIES_FOR_BAD, &mut Random(2));
    assert!(!judge.failures().is_empty(), "{why}, and none of {} states is bad", judge.n_states());
}

/// Row E12.
#[test]
fn every_name_is_absent_old_or_whole_new() {
    for (name, recording) in all_recordings(&Runs::new()) {
        let mut judge = Judge::default();
        judge.look_at(&recording, TRIES, &mut Random(1));
        println!("{name}: {} states, {} contents opened", judge.n_states(), judge.n_opened());
        assert_eq!(judge.failures(), [""; 0], "{name}");
    }
}

#[test]
fn omitting_any_fsync_breaks_durability() {
    for (name, recording) in all_recordings(&Runs::new()) {
        for at in 0..recording.operations.len() {
            if matches!(recording.operations[at], Operation::Sync(_) | Operation::SyncFolder) {
                let mut without = recording.clone();
                let lost = without.operations.remove(at);
                assert_bad(&without, &format!("{name} goes without {lost:?}"));
            }
        }
    }
}

#[test]
fn writing_header_before_data_breaks_durability() {
    for (name, recording) in all_recordings(&Runs::new()).into_iter().filter(|(name, _)| !name.starts_with("unpack")) {
        let header = recording.operations.iter().rposition(|operation| matches!(operation, Operation::Write(..)));
        let first_sync = recording.operations.iter().position(|operation| matches!(operation, Operation::Sync(_)));
        let mut moved = recording.clone();
        let header = moved.operations.remove(header.expect("it is written"));
        moved.operations.insert(first_sync.expect("it is synced"), header);
        assert_bad(&moved, &format!("{name} writes the header too early"));
    }
}

#[test]
fn linking_name_before_last_fsync_breaks_durability() {
    for (name, recording) in all_recordings(&Runs::new()) {
        let last_sync = recording.operations.iter().rposition(|operation| matches!(operation, Operation::Sync(_)));
        let mut moved = recording.clone();
        let sync = moved.operations.remove(last_sync.expect("it is synced"));
        let end = moved.operations.len() - 1;
        moved.operations.insert(end, sync);
        assert_bad(&moved, &format!("{name} gives the name too early"));
    }
}
