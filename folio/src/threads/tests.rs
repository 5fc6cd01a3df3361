use core::cell::{Cell, UnsafeCell};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::vec::Vec;

use super::*;

#[test]
fn the_lowest_free_slot_is_taken_first() {
    let row = Row::new();
    assert_eq!(row.take_below(2), Some(0));
    assert_eq!(row.take_below(2), Some(1));
    assert_eq!(row.take_below(2), None);
    row.give_back(0);
    assert!(!row.take(1));
    assert_eq!(row.take_below(2), Some(0));
    let all = LIMIT as u32;
    for slot in 2..all {
        assert_eq!(row.take_below(all), Some(slot));
    }
    assert_eq!(row.take_below(all), None);
    row.give_back(130);
    assert_eq!(row.take_below(130), None);
    assert_eq!(row.take_below(131), Some(130));
}

#[test]
fn counts_are_clamped() {
    assert_eq!(ThreadSlots::new(0).count(), 1);
    assert_eq!(ThreadSlots::new(LIMIT + 1).count(), LIMIT);
    assert!((4..=64).contains(&ThreadSlots::default().count()));
}

#[test]
fn live_threads_have_slots_of_their_own() {
    let slots = ThreadSlots::new(LIMIT);
    let all_here = Barrier::new(8);
    let mut seen: Vec<_> = thread::scope(|s| {
        let spawn = |_| {
            s.spawn(|| {
                let mine = slots.with_cpu(|cpu| cpu);
                all_here.wait();
                assert_eq!(slots.with_cpu(|cpu| cpu), mine);
                mine
            })
        };
        let threads: Vec<_> = (0..8).map(spawn).collect();
        threads.into_iter().map(|t| t.join().unwrap().unwrap().0).collect()
    });
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 8);
}

#[test]
fn slots_of_ended_threads_are_used_again() {
    let slots = ThreadSlots::new(LIMIT);
    for _ in 0..2 * LIMIT {
        let got = thread::spawn(move || slots.with_cpu(|cpu| cpu)).join().unwrap();
        assert!(got.is_some());
    }
}

#[test]
fn a_nested_call_gets_none() {
    let (slots, other) = (ThreadSlots::new(LIMIT), ThreadSlots::new(LIMIT));
    slots.with_cpu(|outer| {
        assert!(outer.is_some());
        assert_eq!(slots.with_cpu(|cpu| cpu), None);
        assert_eq!(other.with_cpu(|cpu| cpu), None);
    });
    assert!(slots.with_cpu(|cpu| cpu).is_some());
}

#[test]
fn a_call_that_takes_no_time_is_for_threads_with_a_slot() {
    let slots = ThreadSlots::new(LIMIT);
    thread::spawn(move || {
        assert_eq!(slots.try_with_cpu(|cpu| cpu), None);
        let mine = slots.with_cpu(|cpu| cpu);
        assert!(mine.is_some());
        slots.try_with_cpu(|cpu| {
            assert_eq!(cpu, mine);
            assert_eq!(slots.try_with_cpu(|cpu| cpu), None);
            assert_eq!(slots.with_cpu(|cpu| cpu), None);
        });
        assert_eq!(slots.try_with_cpu(|cpu| cpu), mine);
    })
    .join()
    .unwrap();
}

#[test]
fn a_panic_leaves_the_slot() {
    let slots = ThreadSlots::new(LIMIT);
    let caught = std::panic::catch_unwind(|| {
        slots.with_cpu(|_| std::panic::resume_unwind(std::boxed::Box::new(())))
    });
    assert!(caught.is_err());
    assert!(slots.with_cpu(|cpu| cpu).is_some());
}

#[test]
fn a_slot_is_idle_when_its_thread_has_ended() {
    let slots = ThreadSlots::new(LIMIT);
    let (tell, told) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        tell.send(slots.with_cpu(|cpu| cpu).unwrap()).unwrap();
        let _ = wait.recv();
    });
    let theirs = told.recv().unwrap();
    assert!(!slots.with_offline_cpu(theirs, || panic!("its owner lives")));
    drop(go);
    thread.join().unwrap();

    // Another test's thread may have the slot by now, so ask for any one that is idle.
    let free = (0..LIMIT as u32).map(CpuId).rev().find(|&cpu| {
        slots.with_offline_cpu(cpu, || assert!(!slots.with_offline_cpu(cpu, || panic!("in use"))))
    });
    assert!(free.is_some());
    assert!(!ThreadSlots::new(1).with_offline_cpu(CpuId(1), || panic!("beyond the count")));
}

#[test]
fn a_thread_that_ends_takes_no_slot() {
    struct Asks(mpsc::Sender<Option<CpuId>>);
    impl Drop for Asks {
        fn drop(&mut self) {
            self.0.send(ThreadSlots::new(LIMIT).with_cpu(|cpu| cpu)).unwrap();
        }
    }
    std::thread_local! {
        static BEFORE: Cell<Option<Asks>> = const { Cell::new(None) };
        static AFTER: Cell<Option<Asks>> = const { Cell::new(None) };
    }
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        BEFORE.set(Some(Asks(tell.clone())));
        ThreadSlots::new(LIMIT).with_cpu(|cpu| assert!(cpu.is_some()));
        AFTER.set(Some(Asks(tell)));
    })
    .join()
    .unwrap();
    // Whichever way destructors run, ours runs between the two.
    let answers: Vec<_> = told.iter().collect();
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[1], None);
}

/// A plain counter for each slot: torn or lost updates would show two owners.
#[test]
fn more_threads_than_slots_exclude_each_other() {
    const SLOTS: usize = 3;
    struct Counters([UnsafeCell<u64>; SLOTS]);
    // SAFETY: a counter is touched only under its slot.
    unsafe impl Sync for Counters {}
    impl Counters {
        fn at(&self, cpu: CpuId) -> *mut u64 {
            self.0[cpu.index()].get()
        }
    }

    let slots = ThreadSlots::new(SLOTS);
    let counters = Counters([const { UnsafeCell::new(0) }; SLOTS]);
    let counters_ref = &counters;
    let bump = move |cpu: CpuId| {
        // SAFETY: callers are in the slot or have it idle, so nothing else is at its counter.
        unsafe { *counters_ref.at(cpu) += 1 }
    };

    let bumps: u64 = thread::scope(|s| {
        let spawn = |seed: u32| {
            s.spawn(move || {
                let mut done = 0;
                // Short lives, so that slots change hands.
                for round in 0..20 {
                    done += thread::scope(|s| {
                        s.spawn(|| {
                            let mut done = 0;
                            for i in 0..500 {
                                done += slots.with_cpu(|cpu| u64::from(cpu.map(bump).is_some()));
                                let other = CpuId((seed + round + i) % SLOTS as u32);
                                done += u64::from(slots.with_offline_cpu(other, || bump(other)));
                            }
                            done
                        })
                        .join()
                        .unwrap()
                    });
                }
                done
            })
        };
        let threads: Vec<_> = (0..12).map(spawn).collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    let counted: u64 = counters.0.into_iter().map(UnsafeCell::into_inner).sum();
    assert_eq!(counted, bumps);
    assert!(bumps > 0);
}

#[test]
fn a_thread_comes_down_when_low_slots_are_free() {
    // Whatever slot the thread has, one below the whole row's end is at least as good.
    let high = ThreadSlots::new(LIMIT);
    thread::spawn(move || {
        let before = high.with_cpu(|cpu| cpu).unwrap();
        for count in (1..=LIMIT).rev() {
            if let Some(cpu) = ThreadSlots::new(count).with_cpu(|cpu| cpu) {
                assert!(cpu.index() < count);
            }
        }
        assert!(high.with_cpu(|cpu| cpu).unwrap() <= before);
    })
    .join()
    .unwrap();
}
