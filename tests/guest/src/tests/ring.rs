//! Full rings: the soft limit and failing ring-full callbacks.

use std::fmt;

use kvm_bindings::{KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, kvm_enable_cap};

use super::random::Replay;
use super::*;

const RING_BYTES: u64 = 4096 * 16;

/// Enables dirty rings of [`RING_BYTES`] on the guest, if the host's KVM has them.
pub(super) fn enable_ring(kvm: &Kvm, guest: &Guest) -> Option<()> {
    let cap = [KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING]
        .into_iter()
        .find(|&cap| kvm.check_extension_raw(cap.into()) > 0);
    let Some(cap) = cap else {
        println!("skipped: this host's KVM has no dirty ring");
        return None;
    };
    let mut enable = kvm_enable_cap {
        cap,
        ..kvm_enable_cap::default()
    };
    enable.args[0] = RING_BYTES;
    guest.vm().enable_cap(&enable).unwrap();
    guest.set_logging(true).unwrap();
    Some(())
}

#[test]
fn a_ring_that_is_never_reaped_is_full_at_its_soft_limit() {
    let Some(kvm) = kvm() else {
        return;
    };
    let guest = Guest::new(&kvm, config(1, 16384, 2)).unwrap();
    if enable_ring(&kvm, &guest).is_none() {
        return;
    }
    let mut vcpu = guest.create_vcpus().unwrap().remove(0);
    vcpu.params().set(16384, 0).unwrap();
    assert_eq!(vcpu.run().unwrap(), GuestExit::RingFull);
    // The soft limit is size - 64, and 512 less with PML; KVM stops the vCPU within the entries
    // that it reserves.
    let writes = vcpu.page_writes().unwrap();
    println!("ring full after {writes} page writes");
    assert!((4096 - 64 - 512..=4096).contains(&writes), "{writes}");
    let distinct = words(&guest, 0).iter().filter(|&&word| word != 0).count();
    assert_eq!(distinct as u64, writes);
    // The ring was neither harvested nor reset.
    assert_eq!(vcpu.run().unwrap(), GuestExit::RingFull);
    assert_eq!(vcpu.page_writes().unwrap(), writes);
}

#[test]
fn at_a_full_ring_memory_holds_exactly_the_counted_random_writes() {
    let Some(kvm) = kvm() else {
        return;
    };
    let guest = Guest::new(&kvm, config(1, 16384, 2)).unwrap();
    if enable_ring(&kvm, &guest).is_none() {
        return;
    }
    let mut vcpu = guest.create_vcpus().unwrap().remove(0);
    vcpu.params().set_random(0, 16384, 0, 5).unwrap();
    // Where a write fault logs the page, the vCPU stands at its store, and the write isn't made yet.
    assert_eq!(vcpu.run().unwrap(), GuestExit::RingFull);
    let mut replay = Replay::new(&guest, RandomPages::new(0, 16384, 5));
    replay.check(&guest, vcpu.page_writes().unwrap());
}

#[derive(Debug)]
pub(super) struct NoRoom;

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no room was made")
    }
}

impl std::error::Error for NoRoom {}

/// Starts two vCPUs, of which only the second fills its ring, and waits until it has failed.
pub(super) fn run_until_the_second_fails<F, E>(on_ring_full: F) -> Option<(Guest, RunningGuest)>
where
    F: Fn(usize) -> Result<(), E> + Send + Sync + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    let kvm = kvm()?;
    let guest = Guest::new(&kvm, config(2, 8192, 2)).unwrap();
    enable_ring(&kvm, &guest)?;
    guest.params()[0].set(100, 0).unwrap();
    guest.params()[1].set(8192, 0).unwrap();
    let running = RunningGuest::start(guest.create_vcpus().unwrap(), on_ring_full).unwrap();
    let deadline = Instant::now() + KICK_LIMIT;
    while running.failed().is_none() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(running.failed(), Some(1));
    assert_eq!(running.ring_fulls(), [0, 1]);
    Some((guest, running))
}

#[test]
fn a_failed_callback_stops_its_vcpu_alone_and_is_returned_by_stop() {
    let Some((guest, running)) = run_until_the_second_fails(|_| Err(NoRoom)) else {
        return;
    };
    let before = words(&guest, 0)[0];
    thread::sleep(A_WHILE);
    assert!(words(&guest, 0)[0] > before, "the first vCPU stands still");
    running.kick_all_and_wait().unwrap();
    assert!(matches!(
        running.page_writes(),
        Err(GuestError::VcpuFailed { vcpu: 1 })
    ));
    let error = running.stop().unwrap_err();
    assert!(matches!(
        error,
        GuestError::RingFullCallback { vcpu: 1, .. }
    ));
    let source = std::error::Error::source(&error).map(ToString::to_string);
    assert_eq!(source.as_deref(), Some("no room was made"));
}

#[test]
fn a_panic_of_a_callback_is_returned_by_stop() {
    let Some((_guest, running)) = run_until_the_second_fails(|vcpu| {
        assert_eq!(vcpu, 0, "a panic on purpose");
        Ok::<(), Infallible>(())
    }) else {
        return;
    };
    let error = running.stop().unwrap_err();
    let GuestError::Panicked { vcpu: 1, message } = error else {
        panic!("{error}");
    };
    assert!(message.contains("a panic on purpose"), "{message}");
}
