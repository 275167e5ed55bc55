//! The event counter, C1 to C4 (C5 needs a stop: see `loom_reaper.rs`). No model is bounded.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use dirty_ring_core::counter::{EventCounter, Watermark};
use dirty_ring_core::sync::SharedWord;
use dirty_ring_verification::explore::{Model, Reached};
use dirty_ring_verification::loom_sync::LoomWord;
use dirty_ring_verification::weak::{LoadThenStoreWord, RelaxedAddWord, RelaxedLoadWord};
use loom::cell::UnsafeCell;
use loom::thread;

const C1: Model = Model {
    name: "c1",
    witnesses: &["an add between two of another thread"],
    preemptions: None,
};

/// Two threads add twice each.
fn adders_lose_nothing<W: SharedWord + 'static>(reached: &Reached) {
    let counter = Rc::new(EventCounter::<W>::new());
    let order = Rc::new(RefCell::new(Vec::new()));
    let adders = ['a', 'b'].map(|name| {
        let (counter, order) = (Rc::clone(&counter), Rc::clone(&order));
        thread::spawn(move || {
            for _ in 0..2 {
                counter.add(1);
                order.borrow_mut().push(name);
            }
        })
    });
    for adder in adders {
        adder.join().unwrap();
    }
    let between = order
        .borrow()
        .windows(3)
        .any(|w| w[0] == w[2] && w[0] != w[1]);
    reached.note_if(between, "an add between two of another thread");
    assert_eq!(counter.load(), 4, "an increment was lost");
}

#[test]
fn c1_no_increment_is_lost() {
    C1.explore(adders_lose_nothing::<LoomWord>);
}

#[test]
fn c1_negative_control_load_then_store() {
    C1.must_fail(
        "an increment was lost",
        adders_lose_nothing::<LoadThenStoreWord>,
    );
}

/// A reader of the counter, whose `step` returns how many are new.
trait Reader {
    fn at(start: u32) -> Self;
    fn step<W: SharedWord>(&mut self, counter: &EventCounter<W>) -> u32;
}

impl Reader for Watermark {
    fn at(start: u32) -> Self {
        Watermark::at(start)
    }
    fn step<W: SharedWord>(&mut self, counter: &EventCounter<W>) -> u32 {
        self.advance(counter.load())
    }
}

/// The reader of the 2022 patch: it decides, and later samples the counter again.
struct SamplesTwice(u32);

impl Reader for SamplesTwice {
    fn at(start: u32) -> Self {
        Self(start)
    }
    fn step<W: SharedWord>(&mut self, counter: &EventCounter<W>) -> u32 {
        let new = counter.load().wrapping_sub(self.0);
        self.0 = counter.load();
        new
    }
}

/// A reader that compares counts as if they only grew.
struct Compares(u32);

impl Reader for Compares {
    fn at(start: u32) -> Self {
        Self(start)
    }
    fn step<W: SharedWord>(&mut self, counter: &EventCounter<W>) -> u32 {
        let now = counter.load();
        let new = now.saturating_sub(self.0);
        self.0 = now;
        new
    }
}

const C2: Model = Model {
    name: "c2",
    witnesses: &["one step saw one, the next another"],
    preemptions: None,
};
const C3: Model = Model {
    name: "c3",
    witnesses: &["one step saw one, the next another"],
    preemptions: None,
};

/// Two threads add `events` from `start` on while a third takes two steps; a last step follows.
fn steps_see_each_event_once<R: Reader + 'static>(start: u32, reached: &Reached) {
    let counter = Rc::new(EventCounter::<LoomWord>::starting_at(start));
    let adders = [1, 2].map(|events| {
        let counter = Rc::clone(&counter);
        thread::spawn(move || counter.add(events))
    });
    let reader = thread::spawn({
        let counter = Rc::clone(&counter);
        move || {
            let mut reader = R::at(start);
            let steps = [reader.step(&counter), reader.step(&counter)];
            (reader, steps)
        }
    });
    for adder in adders {
        adder.join().unwrap();
    }
    let (mut reader, steps) = reader.join().unwrap();
    reached.note_if(
        steps[0] != 0 && steps[1] != 0,
        "one step saw one, the next another",
    );
    let last = reader.step(&counter);
    let seen = u64::from(steps[0]) + u64::from(steps[1]) + u64::from(last);
    assert_eq!(seen, 3, "an increment was not seen exactly once");
    assert_eq!(reader.step(&counter), 0, "an increment was seen again");
}

#[test]
fn c2_each_increment_is_seen_by_exactly_one_step() {
    C2.explore(|reached| steps_see_each_event_once::<Watermark>(0, reached));
}

#[test]
fn c2_negative_control_a_second_sample_becomes_the_mark() {
    C2.must_fail("not seen exactly once", |reached| {
        steps_see_each_event_once::<SamplesTwice>(0, reached);
    });
}

#[test]
fn c3_differences_survive_the_wrap_around() {
    for start in [u32::MAX - 2, u32::MAX - 1, u32::MAX] {
        C3.explore(move |reached| steps_see_each_event_once::<Watermark>(start, reached));
    }
}

#[test]
fn c3_negative_control_counts_compared_instead_of_subtracted() {
    C3.must_fail("not seen exactly once", |reached| {
        steps_see_each_event_once::<Compares>(u32::MAX - 1, reached);
    });
}

const C4: Model = Model {
    name: "c4",
    witnesses: &["saw one count of two", "saw both counts"],
    preemptions: None,
};

/// Two vCPUs each write something and count it; the reaper reads it once it sees the counts.
///
/// The second count must not hide the first: a reader that sees 2 synchronizes with both adds,
/// as the second is a read-modify-write and continues the release sequence of the first.
fn who_sees_the_count_sees_its_cause<W: SharedWord + 'static>(reached: &Reached) {
    let counter = Rc::new(EventCounter::<W>::new());
    let harvests = Rc::new([UnsafeCell::new(()), UnsafeCell::new(())]);
    // Which vCPU counted first; only the model knows.
    let first = Rc::new(Cell::new(None));
    let vcpus = [0, 1].map(|vcpu| {
        let (counter, harvests) = (Rc::clone(&counter), Rc::clone(&harvests));
        let first = Rc::clone(&first);
        thread::spawn(move || {
            harvests[vcpu].with_mut(|_| ());
            counter.add(1);
            if first.get().is_none() {
                first.set(Some(vcpu));
            }
        })
    });
    let reaper = thread::spawn({
        let (counter, reached) = (Rc::clone(&counter), reached.clone());
        move || match counter.load() {
            0 => {}
            2 => {
                reached.note("saw both counts");
                harvests.iter().for_each(|harvest| harvest.with(|_| ()));
            }
            _ => {
                if let Some(vcpu) = first.get() {
                    reached.note("saw one count of two");
                    harvests[vcpu].with(|_| ());
                }
            }
        }
    });
    for vcpu in vcpus {
        vcpu.join().unwrap();
    }
    reaper.join().unwrap();
}

#[test]
fn c4_who_sees_the_count_sees_the_harvest_that_caused_it() {
    C4.explore(who_sees_the_count_sees_its_cause::<LoomWord>);
}

#[test]
fn c4_negative_control_relaxed_load() {
    C4.must_fail(
        "Causality violation",
        who_sees_the_count_sees_its_cause::<RelaxedLoadWord>,
    );
}

#[test]
fn c4_negative_control_relaxed_add() {
    C4.must_fail(
        "Causality violation",
        who_sees_the_count_sees_its_cause::<RelaxedAddWord>,
    );
}
