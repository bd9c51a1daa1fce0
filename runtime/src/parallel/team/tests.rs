use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[test]
fn every_item_runs_once_for_any_number_of_threads() {
    for n_threads in [1, 2, 3, 5, 8] {
        with_team(n_threads, |team| {
            for n_items in [0, 1, 2, 7, 64, 1000] {
                let counts: Vec<AtomicUsize> = (0..n_items).map(|_| AtomicUsize::new(0)).collect();
                team.for_each(n_items, |item| {
                    counts[item].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{n_threads} {n_items}");
            }
        })
        .expect("runs");
    }
}

#[test]
fn blocks_tile_the_matrix_without_overlap() {
    with_team(3, |team| {
        for (rows, width, block_rows, block_columns) in [(5, 7, 2, 3), (1, 64, 1, 16), (8, 8, 8, 8), (3, 10, 1, 64)] {
            let mut data = vec![0u32; rows * width];
            let mut grid = OutputGrid::new(&mut data, width, block_rows, block_columns);
            team.for_blocks_of(&mut grid, |_, mut block| {
                for row in 0..block.rows() {
                    let first = ((block.first_row() + row) * width + block.first_column()) as u32;
                    block.row(row).iter_mut().zip(first..).for_each(|(cell, number)| *cell += number + 1);
                }
            });
            assert!(data.iter().zip(1..).all(|(&cell, number)| cell == number));
        }
    })
    .expect("runs");
}

#[test]
fn many_phases_and_pauses_neither_lose_nor_repeat_work() {
    with_team(4, |team| {
        let total = AtomicUsize::new(0);
        for phase in 0..2000 {
            team.for_each(8, |item| {
                total.fetch_add(item, Ordering::Relaxed);
            });
            if phase % 500 == 0 {
                thread::sleep(Duration::from_millis(5)); // Long enough for the others to park.
            }
        }
        assert_eq!(total.load(Ordering::Relaxed), 2000 * 28);
    })
    .expect("runs");
}

#[test]
fn a_phase_ends_without_a_worker_that_does_not_come() {
    let barrier = Barrier::new(2, false);
    barrier.enter(0);
    for n_items in [5, 0, 2] {
        barrier.begin(n_items, 2);
        assert_eq!(std::iter::from_fn(|| barrier.take(0)).count(), n_items as usize);
        barrier.report(n_items);
        barrier.wait_for_all();
    }
    // It comes now, and finds that there is nothing to do.
    let mut seen = 0;
    assert!(barrier.next_phase(1, &mut seen));
    assert_eq!((seen, barrier.take(1)), (3, None));
}

#[test]
fn a_panic_reaches_the_caller_once_and_the_threads_stay_usable() {
    let threads = Threads::new(2);
    for n in 0..100 {
        let culprits = [0, 7, 100 * (n % 2)];
        let body = |team: &mut Team| {
            let panics = |item| assert!(!culprits.contains(&item), "item {item}");
            assert!(catch_unwind(AssertUnwindSafe(|| team.for_each(8, panics))).is_err());
            // The panic of the other thread does not reach the next phase.
            team.for_each(8, |_| ());
            team.for_each(8, panics);
        };
        assert!(catch_unwind(AssertUnwindSafe(|| threads.run(body))).is_err());
        let in_body = || threads.run(|_| panic!("in the body"));
        assert!(catch_unwind(AssertUnwindSafe(in_body)).is_err());
        threads.run(|team| team.for_each(8, |_| ())).expect("runs");
    }
}

/// The message of a run that returned an error.
fn refusal(result: Result<(), Error>) -> String {
    result.expect_err("an error").to_string()
}

#[test]
fn a_run_inside_a_run_of_the_same_threads_is_refused() {
    for n_threads in [1, 2, 3] {
        let (threads, others) = (Threads::new(n_threads), Threads::new(2));
        let is_refused = || assert!(refusal(threads.run(|_| ())).contains("end that first"));
        let outer = |team: &mut Team| {
            is_refused();
            team.for_each(100, |_| {
                is_refused();
                thread::sleep(Duration::from_micros(10)); // So that every thread gets some items.
            });
            // Also on the threads of another pool, leader and workers, while a run of this one waits for them.
            others.run(|team| team.for_each(100, |_| is_refused())).expect("they are free");
            team.for_each(3, |_| {
                others.run(|team| team.for_each(100, |_| is_refused())).expect("each item gets its turn");
            });
            assert!(catch_unwind(AssertUnwindSafe(|| threads.run(|_| ()).expect("it is not"))).is_err());
        };
        threads.run(outer).expect("runs");
        threads.run(|_| ()).expect("the outer run has ended");
    }
}

#[test]
fn callers_take_turns() {
    let threads = Threads::new(3);
    let inside = AtomicUsize::new(0);
    let turn = |team: &mut Team| {
        assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
        team.for_each(8, |_| ());
        assert_eq!(inside.fetch_sub(1, Ordering::Relaxed), 1);
    };
    thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| (0..50).for_each(|_| threads.run(turn).expect("runs")));
        }
    });
}

#[test]
fn number_of_threads_is_clamped() {
    for n_threads in [0, 1] {
        assert_eq!(Threads::new(n_threads).run(|team| team.n_threads()).expect("runs"), 1);
    }
    let most = Threads::new(usize::MAX);
    assert!(most.workers.len() < MAX_THREADS);
    most.run(|team| team.for_each(10_000, |_| ())).expect("runs");
}

#[test]
fn one_of_the_callers_in_a_deadlock_gets_an_error() {
    for n in [2, 3] {
        let all: Vec<Threads> = (0..n).map(|_| Threads::new(2)).collect();
        let all_lead = std::sync::Barrier::new(n);
        let ended = thread::scope(|scope| {
            let callers = (0..n).map(|i| {
                let (own, next) = (&all[i], &all[(i + 1) % n]);
                let all_lead = &all_lead;
                scope.spawn(move || {
                    let inner = own.run(|_| {
                        all_lead.wait();
                        next.run(|_| ())
                    });
                    inner.expect("the first of its team")
                })
            });
            let callers: Vec<_> = callers.collect();
            callers.into_iter().map(|caller| caller.join().expect("no panic")).collect::<Vec<_>>()
        });
        let is_circle = |ended: &&Result<(), Error>| matches!(ended, Err(Error::NotRun { why: NotRun::Circle }));
        assert_eq!(ended.iter().filter(is_circle).count(), 1, "{ended:?}");
        assert_eq!(ended.iter().filter(|ended| ended.is_ok()).count(), n - 1, "{ended:?}");
        assert!(WAITING.lock().expect("not poisoned").is_empty());
    }
}
