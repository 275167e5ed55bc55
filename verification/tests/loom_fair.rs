//! The fair lock: F1, its callers keep each other out and see what the one before wrote. F2, no
//! wake-up is lost. F3, a caller waits for at most one batch of the reaper.
//!
//! Models with two threads are explored whole, those with three are bounded.

use std::rc::Rc;

use dirty_ring_core::collector::{Collector, RingFullMode};
use dirty_ring_core::controller::Fixed;
use dirty_ring_core::fair::FairLock;
use dirty_ring_core::planner::{Planner, SHORTEST_WAIT};
use dirty_ring_core::reaper::{Reaper, Turn};
use dirty_ring_core::shared::SharedCollector;
use dirty_ring_core::time::Instant;
use dirty_ring_verification::explore::{Model, Reached};
use dirty_ring_verification::loom_kvm::{KvmRing, LoomVm, Resets, Sound};
use dirty_ring_verification::loom_line::{LineWatch, LoomMonitor, ModelLine, Watched};
use dirty_ring_verification::loom_sync::{LoomLock, LoomPark, LoomWord, ModelPark};
use dirty_ring_verification::weak::{LoadThenStoreWord, NoLock, RelaxedWord};
use dirty_ring_verification::weak_line::{
    BargingLine, HastyLine, LateSleepMonitor, RelaxedMonitor, SilentMonitor, TurnstileLine,
    WakeOneMonitor,
};
use loom::thread;

/// The fair lock alone: the lock inside excludes no caller, so the line has to.
type Alone<M, W = LoomWord> = FairLock<M, W, Watched<NoLock<u32>>>;

/// Tickets wrap around within a model that begins here.
const LAST_TICKET: u32 = u32::MAX;

/// Lets `callers` threads come for a lock `times` times each, to count each time.
fn callers_count<L: ModelLine<Guarded = u32> + 'static>(
    callers: u32,
    times: u32,
    reached: &Reached,
) -> Rc<LineWatch> {
    let watch = Rc::new(LineWatch::default());
    let lock = Rc::new(L::around(0, LAST_TICKET, Rc::clone(&watch)));
    let callers = (0..callers).map(|_| {
        let lock = Rc::clone(&lock);
        thread::spawn(move || {
            for _ in 0..times {
                lock.with(|count| *count += 1);
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    let entries = callers.len() as u32 * times;
    for caller in callers {
        caller.join().unwrap();
    }
    assert_eq!(lock.with(|count| *count), entries, "an entry was lost");
    reached.note_if(watch.sleeps() != 0, "slept in line");
    reached.note_if(
        watch.sleeps() == 0 && watch.longest_line() > 1,
        "came to the line and found that it was its turn",
    );
    watch
}

const EXCLUSION: Model = Model {
    name: "f1: two callers",
    witnesses: &[
        "slept in line",
        "came to the line and found that it was its turn",
    ],
    preemptions: None,
};

#[test]
fn f1_callers_keep_each_other_out_and_see_what_the_one_before_wrote() {
    EXCLUSION.explore(|reached| {
        callers_count::<Alone<LoomMonitor<2>>>(2, 2, reached);
    });
}

/// The monitor orders everything: the count of tickets needs to be atomic and no more.
#[test]
fn f1_does_not_depend_on_the_order_of_the_tickets_word() {
    let model = Model {
        name: "f1: two callers, relaxed tickets",
        ..EXCLUSION
    };
    model.explore(|reached| {
        callers_count::<Alone<LoomMonitor<2>, RelaxedWord>>(2, 2, reached);
    });
}

#[test]
fn f1_negative_control_no_line() {
    EXCLUSION.must_fail("Causality violation: Concurrent write", |reached| {
        callers_count::<BargingLine<NoLock<u32>>>(2, 2, reached);
    });
}

/// A caller whose ticket has been served already waits for ever.
#[test]
fn f1_negative_control_a_ticket_drawn_twice() {
    EXCLUSION.must_fail("deadlock", |reached| {
        callers_count::<Alone<LoomMonitor<2>, LoadThenStoreWord>>(2, 2, reached);
    });
}

#[test]
fn f1_negative_control_a_monitor_that_orders_nothing() {
    EXCLUSION.must_fail("Causality violation: Concurrent write", |reached| {
        callers_count::<Alone<RelaxedMonitor>>(2, 2, reached);
    });
}

const WAKE_UPS: Model = Model {
    name: "f2: three callers",
    witnesses: &[
        "slept in line",
        "came to the line and found that it was its turn",
        "two slept at the same time",
    ],
    preemptions: Some(4),
};

/// Three callers come once each. A lost wake-up is a deadlock.
fn three_callers<L: ModelLine<Guarded = u32> + 'static>(reached: &Reached) {
    let watch = callers_count::<L>(3, 1, reached);
    reached.note_if(watch.sleeps() > 1, "two slept at the same time");
}

#[test]
fn f2_no_wake_up_is_lost() {
    WAKE_UPS.explore(three_callers::<Alone<LoomMonitor<4>>>);
}

#[test]
fn f2_holds_where_tickets_share_a_lane() {
    let model = Model {
        name: "f2: three callers in one lane",
        ..WAKE_UPS
    };
    model.explore(three_callers::<Alone<LoomMonitor<1>>>);
}

#[test]
fn f2_negative_control_a_release_without_a_wake_up() {
    WAKE_UPS.must_fail("deadlock", three_callers::<Alone<SilentMonitor<4>>>);
}

#[test]
fn f2_negative_control_a_release_that_wakes_one_of_a_shared_lane() {
    WAKE_UPS.must_fail("deadlock", three_callers::<Alone<WakeOneMonitor<1>>>);
}

#[test]
fn f2_negative_control_a_sleep_after_the_release_of_the_mutex() {
    WAKE_UPS.must_fail("deadlock", three_callers::<Alone<LateSleepMonitor>>);
}

#[test]
fn f2_negative_control_a_look_for_others_before_the_next_is_served() {
    WAKE_UPS.must_fail("deadlock", three_callers::<HastyLine<NoLock<u32>>>);
}

const BESIDE_THE_REAPER: Model = Model {
    name: "f3: a vCPU and a reaper",
    witnesses: &[
        "a vCPU waited for a batch",
        "no vCPU waited",
        "the reaper came while a vCPU was in line",
    ],
    preemptions: None,
};

const THREE_IN_LINE: Model = Model {
    name: "f3: two vCPUs and a reaper",
    witnesses: &[
        "a vCPU waited for a batch",
        "no vCPU waited",
        "the reaper came while a vCPU was in line",
        "all three were in line",
    ],
    preemptions: Some(3),
};

/// Checks how long the vCPUs waited.
fn check_waits(watch: &LineWatch, reached: &Reached) {
    let batches = watch.longest_wait();
    assert!(
        batches <= 1,
        "a vCPU waited for more than one batch: {batches}"
    );
    reached.note_if(batches == 1, "a vCPU waited for a batch");
    reached.note_if(batches == 0, "no vCPU waited");
    reached.note_if(
        watch.reaper_waited(),
        "the reaper came while a vCPU was in line",
    );
}

/// A reaper takes the lock for three batches, `VCPUS` vCPUs once each.
fn a_reaper_is_not_in_the_way<L, const VCPUS: usize>(reached: &Reached)
where
    L: ModelLine<Guarded = u32> + 'static,
{
    let watch = Rc::new(LineWatch::default());
    let lock = Rc::new(L::around(0, LAST_TICKET, Rc::clone(&watch)));
    let vcpus = [(); VCPUS].map(|()| {
        let lock = Rc::clone(&lock);
        thread::spawn(move || lock.with(|count| *count += 1))
    });
    let reaper = thread::spawn({
        let watch = Rc::clone(&watch);
        move || {
            watch.reap();
            for _ in 0..3 {
                lock.with(|count| *count += 1);
            }
        }
    });
    for vcpu in vcpus {
        vcpu.join().unwrap();
    }
    reaper.join().unwrap();
    check_waits(&watch, reached);
    if VCPUS > 1 {
        reached.note_if(watch.longest_line() > 2, "all three were in line");
    }
}

#[test]
fn f3_a_vcpu_waits_for_one_batch_at_most() {
    BESIDE_THE_REAPER.explore(a_reaper_is_not_in_the_way::<Alone<LoomMonitor<4>>, 1>);
}

#[test]
fn f3_holds_with_another_vcpu_in_line() {
    THREE_IN_LINE.explore(a_reaper_is_not_in_the_way::<Alone<LoomMonitor<4>>, 2>);
}

#[test]
fn f3_negative_control_a_plain_mutex() {
    BESIDE_THE_REAPER.must_fail(
        "a vCPU waited for more than one batch",
        a_reaper_is_not_in_the_way::<BargingLine<LoomLock<u32>>, 1>,
    );
}

#[test]
fn f3_negative_control_a_turnstile() {
    THREE_IN_LINE.must_fail(
        "a vCPU waited for more than one batch",
        a_reaper_is_not_in_the_way::<TurnstileLine<LoomLock<u32>>, 2>,
    );
}

type Pages = Collector<LoomVm<Sound>, 1>;
type Fair = FairLock<LoomMonitor<2>, LoomWord, Watched<LoomLock<Pages>>>;

const NOW: Instant = Instant(0);

const SHIPPED: Model = Model {
    name: "f3: the shipped reaper",
    preemptions: None,
    ..BESIDE_THE_REAPER
};

/// The shipped reaper takes a pass of several batches, the vCPU leaves on ring-full.
fn the_shipped_reaper_is_not_in_the_way<L>(reached: &Reached)
where
    L: ModelLine<Guarded = Pages> + 'static,
{
    let kvm = KvmRing::new(0, 3);
    for _ in 0..3 {
        kvm.push();
    }
    let watch = Rc::new(LineWatch::default());
    let vm = LoomVm::new(&[Rc::clone(&kvm)], Resets::Full);
    let collector = L::around(Pages::new(vm), LAST_TICKET, Rc::clone(&watch));
    let park = LoomPark::<true>::new();
    let shared = Rc::new(SharedCollector::<_, LoomWord, _>::new(collector, park));
    let vcpu = thread::spawn({
        let shared = Rc::clone(&shared);
        move || {
            let report = shared.ring_full(0, RingFullMode::Chunk(1), NOW).unwrap();
            assert!(report.settled);
        }
    });
    let reaper = thread::spawn({
        let watch = Rc::clone(&watch);
        move || {
            watch.reap();
            let fixed = Fixed::new(SHORTEST_WAIT).unwrap();
            let mut reaper = Reaper::<_, 1>::new(Planner::new(fixed));
            shared.doorbell().kick();
            while reaper.turn(&shared, NOW).unwrap() == Turn::Again {}
        }
    });
    vcpu.join().unwrap();
    reaper.join().unwrap();
    check_waits(&watch, reached);
    assert_eq!(kvm.watch().published.get(), 3, "a page was lost");
}

#[test]
fn f3_holds_for_the_shipped_reaper() {
    SHIPPED.explore(the_shipped_reaper_is_not_in_the_way::<Fair>);
}

#[test]
fn f3_negative_control_the_shipped_reaper_with_a_plain_mutex() {
    SHIPPED.must_fail(
        "a vCPU waited for more than one batch",
        the_shipped_reaper_is_not_in_the_way::<BargingLine<LoomLock<Pages>>>,
    );
}
