//! Pauses, which hold vCPUs outside guest mode and outside their ring-full callbacks.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use dirty_ring_core::entry::EntryMemory;
use dirty_ring_core::ring::Ring;
use dirty_ring_core::time::Instant as Moment;
use dirty_ring_kvm::{MappedRing, Support};

use super::random::{Replay, all_words};
use super::*;

const RING_ENTRIES: u32 = 1024;
const CYCLES: u32 = 100;

/// A running guest whose callbacks reap their own rings, and what can be seen of it from outside.
struct Logged {
    guest: Guest,
    running: RunningGuest,
    rings: Arc<Mutex<Vec<Ring<MappedRing>>>>,
    in_callback: Arc<AtomicU64>,
}

impl Logged {
    /// Starts vCPUs that write at random to all the data pages, or prints why it can't.
    fn start(config: GuestConfig) -> Option<Self> {
        let kvm = kvm()?;
        let support = Support::probe(&kvm)
            .map_err(|error| println!("skipped: {error}"))
            .ok()?;
        let guest = Guest::new(&kvm, config).unwrap();
        let size = support.enable(guest.vm(), RING_ENTRIES).unwrap().size();
        let vcpus = guest.create_vcpus().unwrap();
        let map = |vcpu: &GuestVcpu| MappedRing::map(vcpu.index(), vcpu.fd(), size).unwrap();
        let rings: Vec<_> = vcpus
            .iter()
            .map(|vcpu| Ring::new(map(vcpu), Moment::default()))
            .collect();
        let rings = Arc::new(Mutex::new(rings));
        let in_callback = Arc::new(AtomicU64::new(0));
        guest.set_logging(true).unwrap();
        let pages = guest.layout().data_pages();
        for (vcpu, params) in guest.params().iter().enumerate() {
            params.set_random(0, pages, 0, vcpu as u64).unwrap();
        }
        let running = RunningGuest::start(vcpus, {
            let vm = Arc::clone(guest.vm());
            let rings = Arc::clone(&rings);
            let in_callback = Arc::clone(&in_callback);
            move |vcpu| {
                in_callback.fetch_add(1, Ordering::SeqCst);
                let mut rings = rings.lock().unwrap();
                rings[vcpu].harvest_without_reset(u32::MAX, |_| {});
                let reset = sys::reset_dirty_rings(&vm).map(|_| ());
                drop(rings);
                in_callback.fetch_sub(1, Ordering::SeqCst);
                reset
            }
        });
        Some(Self {
            guest,
            running: running.unwrap(),
            rings,
            in_callback,
        })
    }

    /// Returns all that the guest and its callbacks change.
    fn snapshot(&self) -> (Vec<u64>, Vec<u32>, Vec<u64>) {
        let rings = self.rings.lock().unwrap();
        let flags = |ring: &Ring<MappedRing>| {
            let entries = 0..ring.size().entries();
            let memory = ring.memory();
            entries
                .map(|index| memory.load_flags(index).bits())
                .collect::<Vec<_>>()
        };
        let flags = rings.iter().flat_map(flags).collect();
        (all_words(&self.guest), flags, self.running.ring_fulls())
    }
}

/// Waits until every vCPU has made page writes beyond `writes`.
fn wait_for_more(running: &RunningGuest, writes: &[u64]) {
    wait_until("page writes after a resume", || {
        let now = running.page_writes().unwrap();
        now.iter().zip(writes).all(|(now, before)| now > before)
    });
}

#[test]
fn a_hundred_pauses_of_a_guest_with_full_rings_hold_it_still() {
    let Some(vm) = Logged::start(config(2, 4096, 3)) else {
        return;
    };
    let mut cycles = 0;
    while cycles < CYCLES || vm.running.ring_fulls().contains(&0) {
        let pause = vm.running.pause().unwrap();
        assert_eq!(vm.in_callback.load(Ordering::SeqCst), 0);
        let before = vm.snapshot();
        // None of these enters the guest.
        let writes = vm.running.page_writes().unwrap();
        vm.running.kick_all_and_wait().unwrap();
        for kicker in vm.running.kickers() {
            kicker.kick().unwrap();
        }
        assert_eq!(vm.running.page_writes().unwrap(), writes);
        assert!(vm.snapshot() == before, "cycle {cycles}");
        for word in before.0.into_iter().filter(|&word| word != 0) {
            let stamp = Stamp::from_word(word).unwrap();
            assert!(stamp.count <= writes[stamp.vcpu], "{stamp:?}");
        }
        pause.resume();
        wait_for_more(&vm.running, &writes);
        cycles += 1;
    }
    println!("ring-fulls: {:?}", vm.running.ring_fulls());
    vm.running.stop().unwrap();
}

#[test]
fn memory_of_a_paused_guest_holds_exactly_the_counted_writes() {
    let Some(vm) = Logged::start(config(1, 4096, 2)) else {
        return;
    };
    let pages = vm.guest.layout().data_pages();
    let mut replay = Replay::new(&vm.guest, RandomPages::new(0, pages, 0));
    for _ in 0..CYCLES {
        let pause = vm.running.pause().unwrap();
        let writes = vm.running.page_writes().unwrap();
        replay.check(&vm.guest, writes[0]);
        drop(pause);
        wait_for_more(&vm.running, &writes);
    }
    vm.running.stop().unwrap();
}

#[test]
fn pauses_of_single_vcpus_overlap() {
    // Emulated or not: where ring 0 is emulated, a pause ends the emulation too.
    for privilege in [Privilege::User, Privilege::Kernel] {
        let Some(guest) = guest(GuestConfig {
            privilege,
            ..config(2, 64, 1)
        }) else {
            return;
        };
        for params in guest.params() {
            params.set(64, 0).unwrap();
        }
        let running = start(&guest);
        wait_for_writes(&running, 64);
        let first = running.pause_vcpu(1).unwrap();
        let held = running.page_writes().unwrap();
        let words_held = words(&guest, 1);
        let second = running.pause().unwrap();
        drop(first);
        assert_eq!(running.page_writes().unwrap()[1], held[1]);
        let first = running.pause_vcpu(1).unwrap();
        second.resume();
        // The other one goes on meanwhile.
        wait_until("page writes of vCPU 0", || {
            running.page_writes().unwrap()[0] > held[0] + 1000
        });
        assert_eq!(running.page_writes().unwrap()[1], held[1]);
        assert_eq!(words(&guest, 1), words_held);
        first.resume();
        wait_for_more(&running, &held);
        assert!(matches!(
            running.pause_vcpu(2),
            Err(GuestError::NoSuchVcpu { vcpu: 2 })
        ));
        running.stop().unwrap();
    }
}

#[test]
fn threads_that_pause_and_kick_at_once_do_not_disturb_each_other() {
    let Some(vm) = Logged::start(config(2, 4096, 1)) else {
        return;
    };
    let running = &vm.running;
    thread::scope(|scope| {
        for vcpu in 0..2 {
            scope.spawn(move || {
                for _ in 0..CYCLES {
                    let pause = running.pause_vcpu(vcpu).unwrap();
                    let held = running.page_writes().unwrap()[vcpu];
                    thread::yield_now();
                    assert_eq!(running.page_writes().unwrap()[vcpu], held);
                    pause.resume();
                }
            });
        }
        scope.spawn(|| (0..CYCLES).for_each(|_| running.kick_all_and_wait().unwrap()));
        scope.spawn(|| (0..CYCLES).for_each(|_| running.pause().unwrap().resume()));
    });
    let writes = running.page_writes().unwrap();
    wait_for_more(running, &writes);
    vm.running.stop().unwrap();
}

#[test]
fn a_pause_lets_the_ring_full_callback_return_first() {
    let Some(kvm) = kvm() else {
        return;
    };
    let guest = Guest::new(&kvm, config(1, 8192, 1)).unwrap();
    if ring::enable_ring(&kvm, &guest).is_none() {
        return;
    }
    #[derive(Default)]
    struct Callback {
        entered: AtomicBool,
        may_return: AtomicBool,
        returned: AtomicBool,
    }
    let callback = Arc::new(Callback::default());
    guest.params()[0].set(8192, 0).unwrap();
    let running = RunningGuest::start(guest.create_vcpus().unwrap(), {
        let callback = Arc::clone(&callback);
        move |_| {
            callback.entered.store(true, Ordering::SeqCst);
            while !callback.may_return.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            // The ring stays full, so it is called again and again, until the pause.
            callback.returned.store(true, Ordering::SeqCst);
            Ok::<(), Infallible>(())
        }
    })
    .unwrap();
    wait_until("the callback", || callback.entered.load(Ordering::SeqCst));
    thread::scope(|scope| {
        scope.spawn(|| {
            let pause = running.pause().unwrap();
            assert!(callback.returned.load(Ordering::SeqCst));
            callback.entered.store(false, Ordering::SeqCst);
            running.page_writes().unwrap();
            running.page_writes().unwrap();
            assert!(!callback.entered.load(Ordering::SeqCst));
            drop(pause);
        });
        // Gives a pause that doesn't wait the time to show.
        thread::sleep(A_WHILE);
        callback.may_return.store(true, Ordering::SeqCst);
    });
    wait_until("the callback again", || {
        callback.entered.load(Ordering::SeqCst)
    });
    running.stop().unwrap();
}

#[test]
fn a_paused_guest_can_be_stopped_and_dropped() {
    let Some(kvm) = kvm() else {
        return;
    };
    for by_drop in [false, true] {
        let guest = Guest::new(&kvm, config(2, 16, 1)).unwrap();
        guest.params()[0].set(16, 0).unwrap();
        let running = start(&guest);
        let pause = running.pause().unwrap();
        let writes = running.page_writes().unwrap();
        if by_drop {
            drop(running);
        } else {
            let outcomes = running.stop().unwrap();
            let stopped: Vec<u64> = outcomes.iter().map(|outcome| outcome.page_writes).collect();
            assert_eq!(stopped, writes);
        }
        drop(pause);
    }
}

#[test]
fn a_failed_vcpu_counts_as_paused() {
    let Some((_guest, running)) = ring::run_until_the_second_fails(|_| Err(ring::NoRoom)) else {
        return;
    };
    let pause = running.pause().unwrap();
    let alone = running.pause_vcpu(1).unwrap();
    drop((pause, alone));
    running.stop().unwrap_err();
}
