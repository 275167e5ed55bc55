//! The whole guest on threads, one for each vCPU.

use std::any::Any;
use std::error::Error;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::board::{Board, Gate};
use super::error::GuestError;
use super::kick::VcpuKicker;
use super::vcpu::{GuestExit, GuestVcpu};

/// What one vCPU did from start to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VcpuOutcome {
    /// Page writes since the vCPU was made.
    pub page_writes: u64,
    /// `KVM_EXIT_DIRTY_RING_FULL` exits since the start.
    pub ring_fulls: u64,
}

/// A guest whose vCPUs run. Dropping it stops them and loses their outcome.
#[derive(Debug)]
pub struct RunningGuest {
    workers: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    kicker: VcpuKicker,
    board: Arc<Board>,
    thread: JoinHandle<Result<VcpuOutcome, GuestError>>,
}

impl RunningGuest {
    /// Starts a thread for each vCPU and returns when all of them are about to enter guest mode,
    /// which they do together.
    ///
    /// `on_ring_full` is called with the vCPU's index, on the vCPU's thread, at each
    /// `KVM_EXIT_DIRTY_RING_FULL`, and has to make room: harvest and reset. Kicks can't interrupt
    /// it. If it fails, its vCPU stops and the others go on; see [`failed`](Self::failed).
    ///
    /// # Errors
    ///
    /// If a thread can't be started; no vCPU has run then.
    pub fn start<F, E>(vcpus: Vec<GuestVcpu>, on_ring_full: F) -> Result<Self, GuestError>
    where
        F: Fn(usize) -> Result<(), E> + Send + Sync + 'static,
        E: Error + Send + Sync + 'static,
    {
        let on_ring_full = Arc::new(on_ring_full);
        let gate = Arc::new(Gate::default());
        let mut running = Self {
            workers: Vec::with_capacity(vcpus.len()),
        };
        for vcpu in vcpus {
            let index = vcpu.index();
            let kicker = vcpu.kicker().clone();
            let board = Arc::new(Board::default());
            let spawned = {
                let board = Arc::clone(&board);
                let gate = Arc::clone(&gate);
                let on_ring_full = Arc::clone(&on_ring_full);
                thread::Builder::new()
                    .name(format!("vcpu-{index}"))
                    .spawn(move || work(vcpu, &board, &gate, &*on_ring_full))
            };
            match spawned {
                Ok(thread) => running.workers.push(Worker {
                    kicker,
                    board,
                    thread,
                }),
                Err(source) => {
                    // Those that wait at the gate find a stop behind it, and are joined.
                    running.request_stop();
                    gate.open();
                    return Err(GuestError::Spawn {
                        vcpu: index,
                        source,
                    });
                }
            }
        }
        gate.open_when_waiting(running.workers.len());
        Ok(running)
    }

    /// Makes every vCPU leave guest mode and returns once each has; they go back in by themselves.
    ///
    /// # Errors
    ///
    /// [`GuestError::KickTimeout`] if one of them does not.
    pub fn kick_all_and_wait(&self) -> Result<(), GuestError> {
        let tickets = self
            .workers
            .iter()
            .map(|worker| worker.kicker.begin_kick())
            .collect::<Result<Vec<_>, _>>()?;
        self.workers
            .iter()
            .zip(&tickets)
            .try_for_each(|(worker, ticket)| worker.kicker.wait(ticket))
    }

    /// The page writes of each vCPU up to now, without stopping them: each is kicked and reads
    /// its own count on its way.
    ///
    /// # Errors
    ///
    /// [`GuestError::VcpuFailed`] if a vCPU has failed, [`GuestError::KickTimeout`] if one does
    /// not answer, which a ring-full callback that blocks causes too.
    pub fn page_writes(&self) -> Result<Vec<u64>, GuestError> {
        let questions = self
            .workers
            .iter()
            .map(|worker| {
                let question = worker.board.ask();
                worker.kicker.kick().map(|()| question)
            })
            .collect::<Result<Vec<_>, _>>()?;
        self.workers
            .iter()
            .zip(questions)
            .map(|(worker, question)| worker.board.answer(question, &worker.kicker))
            .collect()
    }

    /// The `KVM_EXIT_DIRTY_RING_FULL` exits of each vCPU up to now.
    #[must_use]
    pub fn ring_fulls(&self) -> Vec<u64> {
        self.workers
            .iter()
            .map(|worker| worker.board.ring_fulls())
            .collect()
    }

    /// The kicker of each vCPU.
    #[must_use]
    pub fn kickers(&self) -> Vec<VcpuKicker> {
        self.workers
            .iter()
            .map(|worker| worker.kicker.clone())
            .collect()
    }

    /// The first vCPU, by index, that ended with an error or a panic; [`stop`](Self::stop) tells
    /// which.
    #[must_use]
    pub fn failed(&self) -> Option<usize> {
        self.workers
            .iter()
            .find(|worker| worker.board.has_failed())
            .map(|worker| worker.kicker.vcpu())
    }

    /// Stops all vCPUs, waits for their threads and returns what each did, in the order of the
    /// vCPUs at the start.
    ///
    /// # Errors
    ///
    /// The error or panic of the first vCPU that failed; the others are stopped all the same.
    pub fn stop(mut self) -> Result<Vec<VcpuOutcome>, GuestError> {
        self.request_stop();
        let workers = std::mem::take(&mut self.workers);
        let results: Vec<_> = workers.into_iter().map(Worker::join).collect();
        results.into_iter().collect()
    }

    /// Asks all vCPUs to stop. A signal that can't be sent is no reason to leave the others
    /// running, and the stop itself is noted before.
    fn request_stop(&self) {
        for worker in &self.workers {
            let _ = worker.kicker.request_stop();
        }
    }
}

impl Drop for RunningGuest {
    fn drop(&mut self) {
        self.request_stop();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

impl Worker {
    fn join(self) -> Result<VcpuOutcome, GuestError> {
        let vcpu = self.kicker.vcpu();
        self.thread.join().unwrap_or_else(|panic| {
            Err(GuestError::Panicked {
                vcpu,
                message: panic_message(&*panic),
            })
        })
    }
}

/// The body of a vCPU's thread.
fn work<F, E>(
    mut vcpu: GuestVcpu,
    board: &Board,
    gate: &Gate,
    on_ring_full: &F,
) -> Result<VcpuOutcome, GuestError>
where
    F: Fn(usize) -> Result<(), E>,
    E: Error + Send + Sync + 'static,
{
    // Marks the board on every way out that isn't a clean end, a panic included.
    let ending = board.ending();
    let registered = vcpu.register_current_thread();
    gate.wait();
    registered?;
    loop {
        let exit = vcpu.run()?;
        if board.is_asked() {
            board.publish(vcpu.page_writes()?);
        }
        match exit {
            GuestExit::Interrupted => {}
            GuestExit::Stopped => break,
            GuestExit::RingFull => {
                board.count_ring_full();
                on_ring_full(vcpu.index()).map_err(|source| GuestError::RingFullCallback {
                    vcpu: vcpu.index(),
                    source: Box::new(source),
                })?;
            }
        }
    }
    let page_writes = vcpu.page_writes()?;
    ending.clean(page_writes);
    Ok(VcpuOutcome {
        page_writes,
        ring_fulls: board.ring_fulls(),
    })
}

/// The text of a panic, where it has one.
fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
