//! The smallest VMM with dirty rings: one VM, one vCPU, and nothing between this file and KVM but
//! kvm-ioctls. Everything that a VMM does for its rings is here, in order.
//!
//! ```sh
//! cargo run -p dirty-ring-kvm --example minimal_vmm
//! ```

use std::cell::Cell;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dirty_ring_core::controller::Policy;
use dirty_ring_core::entry::DirtyGfn;
use dirty_ring_kvm::{
    EXIT_DIRTY_RING_FULL, MemorySlot, PageSink, SinkFailure, Support, Tracker, VcpuHandle,
};
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use nix::sys::pthread::pthread_kill;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use bare_guest::{DATA, DATA_PAGES, PAGE_BYTES, SYSTEM, SYSTEM_PAGES};

#[path = "support/bare_guest.rs"]
mod bare_guest;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const KICK: Signal = Signal::SIGUSR1;
const READS: u32 = 5;

/// The sink: a mark for each page that was dirtied since it was last read.
#[derive(Clone)]
struct Marks(Arc<[AtomicBool]>);

impl PageSink for Marks {
    fn publish(&mut self, _slot: &MemorySlot, pages: &[DirtyGfn]) -> Result<(), SinkFailure> {
        for page in pages {
            // Brief: a vCPU may be waiting for the lock. The page is protected again by now, so what
            // is written to it from here on is logged anew, and marked anew.
            self.0[page.offset as usize].store(true, Ordering::Release);
        }
        Ok(())
    }
}

thread_local! {
    /// `kvm_run.immediate_exit` of the vCPU that this thread runs.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// Interrupts `KVM_RUN`; or, where it comes just before, makes `KVM_RUN` return at once.
extern "C" fn on_kick(_signal: libc::c_int) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: it points into the `kvm_run` that this very thread keeps mapped while it is set.
        unsafe { flag.write_volatile(1) };
    }
}

/// The vCPU's thread, and what its owner shares with it.
struct Vcpu {
    thread: JoinHandle<Result<u64, Failure>>,
    exits: Arc<AtomicU64>,
    is_stopped: Arc<AtomicBool>,
}

impl Vcpu {
    fn start(mut fd: VcpuFd, ring: VcpuHandle) -> Self {
        let exits = Arc::new(AtomicU64::new(0));
        let is_stopped = Arc::new(AtomicBool::new(false));
        let (count, stop) = (Arc::clone(&exits), Arc::clone(&is_stopped));
        let thread = thread::spawn(move || {
            IMMEDIATE_EXIT.set(&raw mut fd.get_kvm_run().immediate_exit);
            let ring_fulls = run(&mut fd, &ring, &count, &stop);
            IMMEDIATE_EXIT.set(ptr::null_mut());
            ring_fulls
        });
        Self {
            thread,
            exits,
            is_stopped,
        }
    }

    /// Makes the vCPU leave guest mode, and returns once it has. It goes back in by itself.
    fn kick(&self) -> Result<(), Failure> {
        let before = self.exits.load(Ordering::Acquire);
        pthread_kill(self.thread.as_pthread_t(), KICK)?;
        while self.exits.load(Ordering::Acquire) == before {
            if self.thread.is_finished() {
                return Err("the vCPU has failed".into());
            }
            thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }

    fn stop(self) -> Result<u64, Failure> {
        self.is_stopped.store(true, Ordering::Release);
        self.kick()?;
        self.thread.join().expect("the vCPU's thread panicked")
    }
}

/// Runs the vCPU until it is stopped; returns its ring-fulls.
fn run(
    vcpu: &mut VcpuFd,
    ring: &VcpuHandle,
    exits: &AtomicU64,
    is_stopped: &AtomicBool,
) -> Result<u64, Failure> {
    let mut ring_fulls = 0;
    while !is_stopped.load(Ordering::Acquire) {
        let is_full = match vcpu.run() {
            Ok(VcpuExit::Unsupported(EXIT_DIRTY_RING_FULL)) => true,
            Ok(VcpuExit::Intr) => false,
            Err(error) if error.errno() == libc::EINTR => false,
            Ok(exit) => {
                return Err(format!("an exit that this guest never causes: {exit:?}").into());
            }
            Err(error) => return Err(error.into()),
        };
        // The count comes last: a kick that is dropped here sees the vCPU outside.
        vcpu.set_kvm_immediate_exit(0);
        exits.fetch_add(1, Ordering::Release);
        if is_full {
            ring.on_ring_full()?;
            ring_fulls += 1;
        }
    }
    Ok(ring_fulls)
}

/// Returns KVM with dirty rings, or why this host can't run the example.
fn probe() -> Result<(Kvm, Support), Failure> {
    if !bare_guest::IS_HERE {
        return Err("the guest's code is written for x86_64".into());
    }
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm can't be used here: {error}"))?;
    let support = Support::probe(&kvm)?;
    Ok((kvm, support))
}

fn main() -> Result<(), Failure> {
    let (kvm, support) = match probe() {
        Ok(found) => found,
        Err(reason) => {
            println!("skipped: {reason}");
            return Ok(());
        }
    };

    // Rings come before vCPUs. The largest are the right ones: 1 MiB a vCPU, and a guest that writes
    // more pages in turn than its ring holds faults at every write.
    let data = (GuestAddress(DATA), (DATA_PAGES * PAGE_BYTES) as usize);
    let system = (GuestAddress(SYSTEM), (SYSTEM_PAGES * PAGE_BYTES) as usize);
    let memory = GuestMemoryMmap::<()>::from_ranges(&[system, data])?;
    let vm = kvm.create_vm()?;
    let mut rings = support.enable(&vm, support.max_entries)?;
    // Code and page tables aren't logged: this guest can't write to them.
    let slots = [(0, system, 0), (1, data, KVM_MEM_LOG_DIRTY_PAGES)];
    for (slot, (address, bytes), flags) in slots {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: address.0,
            memory_size: bytes as u64,
            userspace_addr: memory.get_host_address(address)? as u64,
        };
        // SAFETY: `memory` holds so many bytes there, and outlives the vCPU's thread.
        unsafe { vm.set_user_memory_region(region)? };
    }
    rings.add_slot(MemorySlot::new(1, DATA, DATA_PAGES))?;
    let vcpu = vm.create_vcpu(0)?;
    bare_guest::load(&kvm, &vcpu, &memory)?;
    rings.add_vcpu(&vcpu)?;
    let size = rings.size();

    // The tracker lives as long as the VM; reapers come and go.
    let tracker = Tracker::new(rings)?;
    let marks = Marks((0..DATA_PAGES).map(|_| AtomicBool::new(false)).collect());
    let reaper = tracker
        .reaper(marks.clone())
        .start(Policy::deadline(size))?;

    let action = SigAction::new(
        SigHandler::Handler(on_kick),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler writes one byte of its own thread's.
    unsafe { sigaction(KICK, &action)? };
    let vcpu = Vcpu::start(vcpu, tracker.vcpu(0)?);

    // A reader, as a migration is one: each time it copies (a word of) the pages that were dirtied.
    let mut copy = vec![0; DATA_PAGES as usize];
    let word = |page: usize| memory.read_obj::<u64>(GuestAddress(DATA + page as u64 * PAGE_BYTES));
    let read = |copy: &mut [u64]| -> Result<u64, Failure> {
        let mut pages = 0;
        for (page, mark) in marks.0.iter().enumerate() {
            if mark.swap(false, Ordering::Acquire) {
                copy[page] = word(page)?;
                pages += 1;
            }
        }
        Ok(pages)
    };
    for number in 1..=READS {
        thread::sleep(Duration::from_millis(200));
        tracker.flush(|| vcpu.kick())?;
        println!("read {number}: {} pages were dirtied", read(&mut copy)?);
    }

    // The vCPU first, then the reaper, which drains the ring once more.
    let ring_fulls = vcpu.stop()?;
    let stopped = reaper.stop()?;
    println!("last read: {} pages were dirtied", read(&mut copy)?);
    println!(
        "ring of {} entries: {ring_fulls} ring-fulls, {} passes of the reaper",
        size.entries(),
        stopped.stats.passes
    );
    let stale = (0..copy.len()).filter(|&page| word(page).ok() != Some(copy[page]));
    match stale.count() {
        0 => println!("the copy is what is in memory"),
        stale => return Err(format!("{stale} pages of the copy are stale").into()),
    }
    if copy.iter().all(|word| *word == 0) {
        return Err("the guest has written nothing".into());
    }
    Ok(())
}
