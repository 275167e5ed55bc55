//! Kicks and stops, none of which is lost.

use super::*;

#[test]
fn a_thousand_kicks_in_a_row_are_all_answered() {
    let Some(guest) = guest(config(2, 64, 1)) else {
        return;
    };
    guest.params()[0].set(64, 0).unwrap();
    let running = start(&guest);
    let kicker = &running.kickers()[0];
    let mut waited = Duration::ZERO;
    for _ in 0..1000 {
        // The vCPU is in guest mode again once it writes.
        let word = first_word(&guest, 0);
        wait_until("the vCPU's return", || first_word(&guest, 0) != word);
        let start = Instant::now();
        kicker.kick_and_wait().unwrap();
        waited += start.elapsed();
    }
    println!("{:?} a kick", waited / 1000);
    // Both vCPUs at once, in guest mode or not, with requests for page writes in between.
    thread::scope(|scope| {
        for kicker in running.kickers() {
            scope.spawn(move || (0..300).for_each(|_| kicker.kick_and_wait().unwrap()));
        }
        let mut last = 0;
        for _ in 0..300 {
            let now = running.page_writes().unwrap()[0];
            assert!(now >= last);
            last = now;
        }
    });
    assert_eq!(running.failed(), None);
    running.stop().unwrap();
}

#[test]
fn kicks_and_stops_before_the_run_are_not_lost() {
    let Some(guest) = guest(config(1, 16, 1)) else {
        return;
    };
    let mut vcpu = guest.create_vcpus().unwrap().remove(0);
    let kicker = vcpu.kicker().clone();
    // Outside guest mode there is no exit to wait for, and no kick stays pending.
    kicker.kick_and_wait().unwrap();
    kicker.kick().unwrap();
    kicker.kick().unwrap();
    assert_eq!(vcpu.run().unwrap(), GuestExit::Interrupted);
    kicker.request_stop().unwrap();
    assert!(kicker.stop_requested());
    assert_eq!(vcpu.run().unwrap(), GuestExit::Stopped);
    assert_eq!(vcpu.run().unwrap(), GuestExit::Stopped);
}

#[test]
fn a_stop_right_after_the_start_ends_the_threads() {
    let Some(kvm) = kvm() else {
        return;
    };
    for _ in 0..20 {
        let guest = Guest::new(&kvm, config(2, 16, 1)).unwrap();
        let outcomes = start(&guest).stop().unwrap();
        assert!(outcomes.iter().all(|outcome| outcome.page_writes == 0));
    }
}
