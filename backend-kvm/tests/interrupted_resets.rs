//! A rain of SIGSTOP and SIGCONT on a storm: no mask stops these signals, so they interrupt resets, and
//! KVM forgets to protect pages that it has counted.
#![cfg(target_arch = "x86_64")]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dirty_ring_core::collector::RingFullMode;
use dirty_ring_core::controller::Policy;
use dirty_ring_guest::{GuestConfig, ReapedGuest, Reaping};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::{Copies, Copying, kvm, stale_pages, wait_for_a_round};

/// Set in the process that is rained on, to the way in which it deals with full rings.
const STORM: &str = "DIRTY_RING_STORM";

/// How long it rains.
const RAIN: Duration = Duration::from_secs(10);

const VCPUS: usize = 2;
const PAGES: u64 = 6000;

/// The storm, in a process of its own: until its input ends.
#[test]
fn storm() {
    let Ok(mode) = std::env::var(STORM) else {
        return;
    };
    let Some((kvm, _)) = kvm() else { return };
    let config = GuestConfig {
        vcpus: VCPUS,
        data_pages_per_vcpu: PAGES,
        data_slots: 2,
        ..GuestConfig::default()
    };
    let copies = Copies::default();
    let mode = match &*mode {
        "whole" => RingFullMode::Whole,
        _ => RingFullMode::default(),
    };
    let reaping = Reaping::new(4096).ring_full_mode(mode).sink({
        let copies = Copies::clone(&copies);
        move |guest| Copying::new(guest, &copies)
    });
    let vm = ReapedGuest::start(&kvm, config, reaping, Policy::deadline).unwrap();
    for params in vm.guest.params() {
        params.set(PAGES, 0).unwrap();
    }
    wait_for_a_round(&vm.guest, 0, PAGES);
    println!("ready");
    let _ = std::io::stdin().read(&mut [0]);
    // Once more, now that the rain is over: a page that isn't protected is logged no more.
    (0..VCPUS).for_each(|vcpu| wait_for_a_round(&vm.guest, vcpu, PAGES));
    vm.running.stop().unwrap();
    let stats = vm.reaper.stop().unwrap().stats;
    let stale = stale_pages(&vm.guest, &copies);
    let totals = stats.totals;
    println!(
        "result: {stale} stale pages, {} suspects; {} short resets, {} maybe interrupted ones, {} in all",
        stats.suspects, totals.short_resets, totals.maybe_interrupted_resets, totals.resets
    );
}

/// A storm in a process that can be stopped.
struct Storm(Child);

impl Storm {
    fn begin(mode: &str) -> Self {
        let tests = std::env::current_exe().unwrap();
        let child = Command::new(tests)
            .args(["--exact", "storm", "--nocapture"])
            .env(STORM, mode)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn no_page_is_lost_in_a_rain_of_sigstop_and_sigcont() {
    if kvm().is_none() {
        return;
    }
    for mode in ["chunk", "whole"] {
        let mut storm = Storm::begin(mode);
        let mut lines = BufReader::new(storm.0.stdout.take().unwrap()).lines();
        let mut line_with = |text: &str| {
            let line = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains(text)));
            line.expect("the storm ends with its result").unwrap()
        };
        line_with("ready");
        let begin = Instant::now();
        let mut pause_us = 100;
        while begin.elapsed() < RAIN {
            storm.signal(Signal::SIGSTOP);
            std::thread::sleep(Duration::from_micros(50));
            storm.signal(Signal::SIGCONT);
            // Never in step with the reaper.
            pause_us = (pause_us * 7 + 13) % 301;
            std::thread::sleep(Duration::from_micros(pause_us));
        }
        drop(storm.0.stdin.take());
        let result = line_with("result:");
        println!("{mode}: {result}");
        assert!(result.contains("result: 0 stale pages"), "{mode}: {result}");
    }
}
