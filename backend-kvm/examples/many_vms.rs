//! One thread serves the reapers of many VMs: it takes the turns that are due, and sleeps until the next.
//!
//! ```sh
//! cargo run -p dirty-ring-kvm --example many_vms
//! ```
//!
//! A heap has the deadlines, a queue the reapers with work left, and one channel is the waker of all.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use dirty_ring_core::controller::Policy;
use dirty_ring_core::planner::Planner;
use dirty_ring_kvm::{Next, ReaperBody, no_kick};

use support::{Failure, Vm, check_log, set_logging, wait_until_written};

mod support;

const VMS: usize = 16;
const PAGES: u64 = 8192;
const RING_ENTRIES: u32 = 2048;
/// Pages that each VM writes in its turn: a host with few cores can't run all of them at once.
const PAGES_IN_TURN: u64 = 3000;

/// Takes the turns of many reapers.
struct Server {
    /// The reapers that aren't done.
    bodies: Vec<Option<ReaperBody>>,
    /// Whom to take a turn of before its time.
    woken: Receiver<usize>,
    /// When each reaper takes its next turn, if the time alone decides that.
    due: Vec<Option<Instant>>,
    /// Those times, the earliest first. One that is no reaper's any more is passed over.
    deadlines: BinaryHeap<Reverse<(Instant, usize)>>,
    turns: u64,
    sleeps: u64,
}

impl Server {
    fn new(bodies: Vec<ReaperBody>, woken: Receiver<usize>) -> Self {
        Self {
            due: vec![None; bodies.len()],
            bodies: bodies.into_iter().map(Some).collect(),
            woken,
            deadlines: BinaryHeap::new(),
            turns: 0,
            sleeps: 0,
        }
    }

    /// Serves until every reaper is done; returns its turns and sleeps.
    fn run(mut self) -> (u64, u64) {
        let mut ready: VecDeque<usize> = (0..self.bodies.len()).collect();
        loop {
            // One turn each, a batch at most, and then it's the next one's.
            while let Some(vm) = ready.pop_front() {
                self.turn(vm, &mut ready);
            }
            if self.bodies.iter().all(Option::is_none) {
                return (self.turns, self.sleeps);
            }
            self.sleep(&mut ready);
        }
    }

    /// Takes a turn of one reaper.
    fn turn(&mut self, vm: usize, ready: &mut VecDeque<usize>) {
        let Some(body) = &mut self.bodies[vm] else {
            return;
        };
        self.turns += 1;
        self.due[vm] = None;
        match body.turn() {
            Ok(Next::Again) => ready.push_back(vm),
            Ok(Next::Wait(None)) => {}
            Ok(Next::Wait(Some(wait))) => {
                let due = Instant::now() + wait;
                self.due[vm] = Some(due);
                self.deadlines.push(Reverse((due, vm)));
            }
            // One that failed has ended, and the others go on: `ReaperHandle::stop` says why.
            Ok(Next::Done) | Err(_) => self.bodies[vm] = None,
        }
    }

    /// Sleeps until a reaper is due or woken, and appends all those to `ready`.
    fn sleep(&mut self, ready: &mut VecDeque<usize>) {
        self.sleeps += 1;
        let earliest = self.deadlines.peek().map(|Reverse((due, _))| *due);
        let first = match earliest {
            Some(due) => self.woken.recv_timeout(due - Instant::now()).ok(),
            None => self.woken.recv().ok(),
        };
        let mut woken: Vec<usize> = first.into_iter().chain(self.woken.try_iter()).collect();
        let now = Instant::now();
        while let Some(&Reverse((due, vm))) = self.deadlines.peek() {
            if due > now {
                break;
            }
            self.deadlines.pop();
            if self.due[vm] == Some(due) {
                woken.push(vm);
            }
        }
        woken.sort_unstable();
        woken.dedup();
        ready.extend(woken);
    }
}

fn main() -> Result<(), Failure> {
    let (wake, woken) = channel();
    let (mut vms, mut paused, mut reapers, mut bodies) = (vec![], vec![], vec![], vec![]);
    for number in 0..VMS {
        let Some(vm) = Vm::create(PAGES, RING_ENTRIES)? else {
            return Ok(());
        };
        paused.push(Some(vm.pause()?));
        set_logging(&vm, true)?;
        vm.write(PAGES)?;
        let wake = wake.clone();
        let (reaper, body) = vm
            .tracker()
            .reaper_for_log()
            .waker(move || _ = wake.send(number))
            .split(Planner::new(Policy::deadline(vm.tracker().ring_size()?)))?;
        vms.push(vm);
        reapers.push(reaper);
        bodies.push(body);
    }
    let server = thread::spawn(|| Server::new(bodies, woken).run());

    for (vm, paused) in vms.iter().zip(&mut paused) {
        drop(paused.take());
        wait_until_written(vm, PAGES_IN_TURN)?;
        *paused = Some(vm.pause()?);
    }
    for reaper in &reapers {
        reaper.request_stop();
    }
    let (turns, sleeps) = server.join().expect("the server's thread panicked");
    let (mut passes, mut ring_fulls, mut written) = (0, 0, 0);
    for (vm, reaper) in vms.into_iter().zip(reapers) {
        let stats = reaper.stop()?.stats;
        passes += stats.passes;
        ring_fulls += stats.ring_fulls();
        let logs = vm.tracker().take_all(no_kick)?;
        written += check_log(&vm, &logs[0].1)?;
        vm.stop()?;
    }
    println!("{VMS} VMs, one thread: {turns} turns, {sleeps} sleeps, {passes} passes");
    println!("{written} pages were written, and all are in the logs; {ring_fulls} ring-fulls");
    Ok(())
}
