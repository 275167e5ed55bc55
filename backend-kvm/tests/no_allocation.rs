//! The reap path allocates nothing once the reaper has started.
#![cfg(target_arch = "x86_64")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dirty_ring_core::collector::RingFullMode;
use dirty_ring_core::controller::Policy;
use dirty_ring_core::planner::PassRecord;
use dirty_ring_core::time::Micros;
use dirty_ring_guest::{GuestConfig, ReapedGuest, Reaping};
use dirty_ring_kvm::Support;
use kvm_ioctls::Kvm;

/// Counts the allocations of each thread.
mod counting {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    thread_local! {
        static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    }

    pub(crate) struct Counting;

    /// Allocations of the calling thread so far.
    pub(crate) fn on_this_thread() -> u64 {
        ALLOCATIONS.with(Cell::get)
    }

    fn count() {
        // A thread that is being torn down has no counter any more, and isn't looked at.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
    }

    // SAFETY: every call goes to the system's allocator as it came; counting touches a
    // thread-local of its own, which needs no allocation (`const`, no destructor).
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            count();
            // SAFETY: the caller's promises are passed on.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
            // SAFETY: the caller's promises are passed on.
            unsafe { System.dealloc(address, layout) }
        }

        unsafe fn realloc(&self, address: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            count();
            // SAFETY: the caller's promises are passed on.
            unsafe { System.realloc(address, layout, size) }
        }
    }
}

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

#[test]
fn neither_the_reaper_nor_the_ring_full_path_allocates() {
    let kvm = match Kvm::new() {
        Ok(kvm) if Support::probe(&kvm).is_ok() => kvm,
        _ => {
            println!("skipped: no KVM with dirty rings here");
            return;
        }
    };
    // The counter works: a box is an allocation.
    let before = counting::on_this_thread();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(counting::on_this_thread(), before + 1);

    for mode in [RingFullMode::default(), RingFullMode::Whole] {
        let reaper_allocations = Arc::new(AtomicU64::new(u64::MAX));
        let steps = Arc::new(AtomicU64::new(0));
        let ring_full_allocations = Arc::new(AtomicU64::new(0));
        let ring_fulls = Arc::new(AtomicU64::new(0));
        let reaping = Reaping::new(1024)
            .ring_full_mode(mode)
            .events({
                let (allocations, steps) = (reaper_allocations.clone(), steps.clone());
                // The count at the first step, as where the thread has started.
                let mut first = None;
                move |_: &PassRecord| {
                    let now = counting::on_this_thread();
                    let first = *first.get_or_insert(now);
                    allocations.store(now - first, Ordering::Relaxed);
                    steps.fetch_add(1, Ordering::Relaxed);
                }
            })
            .around_ring_full({
                let (allocations, ring_fulls) = (ring_full_allocations.clone(), ring_fulls.clone());
                move |handle| {
                    let before = counting::on_this_thread();
                    handle();
                    let made = counting::on_this_thread() - before;
                    allocations.fetch_add(made, Ordering::Relaxed);
                    ring_fulls.fetch_add(1, Ordering::Relaxed);
                }
            });
        let vm = ReapedGuest::start(&kvm, GuestConfig::default(), reaping, |_| {
            // Slow enough for full rings even where a fault takes 50 us, fast enough for many passes.
            Policy::fixed(Micros::from_millis(50)).unwrap()
        })
        .unwrap();
        vm.guest.params()[0].set(16384, 0).unwrap();
        let give_up = Instant::now() + Duration::from_secs(60);
        while steps.load(Ordering::Relaxed) < 20 || ring_fulls.load(Ordering::Relaxed) < 20 {
            assert!(Instant::now() < give_up, "too little to look at");
            std::thread::sleep(Duration::from_millis(5));
        }
        vm.running.stop().unwrap();
        vm.reaper.stop().unwrap();
        assert_eq!(reaper_allocations.load(Ordering::Relaxed), 0, "{mode:?}");
        assert_eq!(ring_full_allocations.load(Ordering::Relaxed), 0, "{mode:?}");
    }
}
