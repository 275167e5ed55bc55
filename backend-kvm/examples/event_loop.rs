//! No reaper thread: the VMM's own event loop takes the turns of the reaper, between its other events.
//!
//! ```sh
//! cargo run -p dirty-ring-kvm --example event_loop
//! ```
//!
//! A timerfd ends the reaper's waits, an eventfd is its waker, and the VMM has an event of its own. All
//! three are under one epoll.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use dirty_ring_core::controller::Policy;
use dirty_ring_core::planner::Planner;
use dirty_ring_kvm::{Next, ReaperBody, ReaperHandle, no_kick};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use support::{Failure, Vm, check_log, set_logging};

mod support;

const PAGES: u64 = 16384;
/// A small ring, so that there is something to do.
const RING_ENTRIES: u32 = 1024;
/// How often the VMM's own event comes, and how often in all.
const TICK: Duration = Duration::from_millis(50);
const TICKS: u32 = 20;

// What an event is about.
const DUE: u64 = 0;
const WOKEN: u64 = 1;
const VMM: u64 = 2;

/// The VMM's loop.
struct EventLoop {
    epoll: Epoll,
    due: TimerFd,
    woken: Arc<EventFd>,
    tick: TimerFd,
}

impl EventLoop {
    fn new() -> Result<Self, Failure> {
        let timer = || TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK);
        let this = Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            due: timer()?,
            woken: Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK)?),
            tick: timer()?,
        };
        let ticks = Expiration::Interval(TimeSpec::from_duration(TICK));
        this.tick.set(ticks, TimerSetTimeFlags::empty())?;
        let fds = [
            (this.due.as_fd(), DUE),
            (this.woken.as_fd(), WOKEN),
            (this.tick.as_fd(), VMM),
        ];
        for (fd, about) in fds {
            this.epoll
                .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, about))?;
        }
        Ok(this)
    }

    /// Runs until the reaper is done, which the VMM's last event asks for.
    fn run(&self, reaper: &ReaperHandle, mut body: ReaperBody) -> Result<(), Failure> {
        let (mut turns, mut wakes, mut ticks) = (0, 0, 0);
        loop {
            // A turn is one batch at most, so no other event waits for long. A turn that nothing asked
            // for does no harm.
            turns += 1;
            let timeout = match body.turn()? {
                // More to do: look at the other events first, without waiting.
                Next::Again => EpollTimeout::ZERO,
                Next::Wait(Some(wait)) => {
                    let wait = Expiration::OneShot(TimeSpec::from_duration(wait));
                    self.due.set(wait, TimerSetTimeFlags::empty())?;
                    EpollTimeout::NONE
                }
                Next::Wait(None) => {
                    self.due.unset()?;
                    EpollTimeout::NONE
                }
                Next::Done => break,
            };
            let mut events = [EpollEvent::empty(); 3];
            let count = match self.epoll.wait(&mut events, timeout) {
                Err(nix::Error::EINTR) => 0,
                count => count?,
            };
            for event in &events[..count] {
                match event.data() {
                    DUE => self.due.wait()?,
                    WOKEN => {
                        self.woken.read()?;
                        wakes += 1;
                    }
                    _ => {
                        self.tick.wait()?;
                        ticks += 1;
                        if ticks == TICKS {
                            // Not `stop`: that would wait for the turns that only this loop can take.
                            reaper.request_stop();
                        }
                    }
                }
            }
        }
        println!(
            "{turns} turns of the reaper, {wakes} calls of its waker, {ticks} events of the VMM"
        );
        Ok(())
    }
}

fn main() -> Result<(), Failure> {
    let Some(vm) = Vm::create(PAGES, RING_ENTRIES)? else {
        return Ok(());
    };
    let tracker = vm.tracker();
    set_logging(&vm, true)?;
    vm.write(PAGES)?;

    let events = EventLoop::new()?;
    let bell = Arc::clone(&events.woken);
    let (reaper, body) = tracker
        .reaper_for_log()
        // Called on any thread. A bell that is full has rung as well.
        .waker(move || _ = bell.write(1))
        .split(Planner::new(Policy::deadline(tracker.ring_size()?)))?;
    events.run(&reaper, body)?;

    // The body is done, so this doesn't wait. It returns the figures.
    let stats = reaper.stop()?.stats;
    println!(
        "{} passes, {} pages reaped, {} of them on ring-full ({} times)",
        stats.passes,
        stats.totals.published,
        stats.totals.ring_full_harvested,
        stats.ring_fulls(),
    );
    // Nothing has read the log so far, so it has all that the guest ever wrote.
    let paused = vm.pause()?;
    let logs = tracker.take_all(no_kick)?;
    let written = check_log(&vm, &logs[0].1)?;
    println!("the guest has written {written} pages, and all of them are in the log");
    drop(paused);
    vm.stop()
}
