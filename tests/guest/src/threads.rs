//! The threads of a running guest, one per vCPU.

use std::any::Any;
use std::error::Error;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::error::GuestError;
use crate::gate::Gate;
use crate::kick::VcpuKicker;
use crate::mailbox::VcpuMailbox;
use crate::pause::Pause;
use crate::vcpu::{GuestExit, GuestVcpu};

/// Figures of one vCPU from start to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VcpuOutcome {
    /// Page writes since the vCPU was created.
    pub page_writes: u64,
    /// `KVM_EXIT_DIRTY_RING_FULL` exits since the start.
    pub ring_fulls: u64,
}

/// A guest whose vCPUs run. Dropping it stops them and discards their outcomes.
#[derive(Debug)]
pub struct RunningGuest {
    workers: Vec<Worker>,
}

#[derive(Debug)]
struct Worker {
    kicker: VcpuKicker,
    mailbox: Arc<VcpuMailbox>,
    thread: JoinHandle<Result<VcpuOutcome, GuestError>>,
}

impl RunningGuest {
    /// Starts a thread per vCPU and returns when all of them are about to enter guest mode, which
    /// they do together.
    ///
    /// Each thread calls `on_ring_full` with its vCPU's index at every `KVM_EXIT_DIRTY_RING_FULL`.
    /// The callback must make room by a harvest and a reset; kicks don't interrupt it. If it fails,
    /// its vCPU stops and the others continue; see [`failed`](Self::failed).
    ///
    /// # Errors
    ///
    /// If a thread can't be started. No vCPU has run in that case.
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
            let mailbox = Arc::new(VcpuMailbox::default());
            let spawned = {
                let mailbox = Arc::clone(&mailbox);
                let gate = Arc::clone(&gate);
                let on_ring_full = Arc::clone(&on_ring_full);
                thread::Builder::new()
                    .name(format!("vcpu-{index}"))
                    .spawn(move || work(vcpu, &mailbox, &gate, &*on_ring_full))
            };
            match spawned {
                Ok(thread) => running.workers.push(Worker {
                    kicker,
                    mailbox,
                    thread,
                }),
                Err(source) => {
                    // The threads at the gate stop as soon as it opens, and are joined.
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

    /// Makes every vCPU leave guest mode and returns once all have left. They re-enter guest mode
    /// on their own.
    ///
    /// # Errors
    ///
    /// [`GuestError::KickTimeout`] if a vCPU does not leave.
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

    /// Returns the page writes of each vCPU so far, without stopping any: each vCPU is kicked and
    /// its thread reads the count before it re-enters guest mode. A paused vCPU stays out.
    ///
    /// # Errors
    ///
    /// [`GuestError::VcpuFailed`] if a vCPU has failed, [`GuestError::KickTimeout`] if one does
    /// not answer, which a blocking ring-full callback also causes.
    pub fn page_writes(&self) -> Result<Vec<u64>, GuestError> {
        let questions = self
            .workers
            .iter()
            .map(|worker| {
                let question = worker.mailbox.ask();
                worker.kicker.kick().map(|()| question)
            })
            .collect::<Result<Vec<_>, _>>()?;
        self.workers
            .iter()
            .zip(questions)
            .map(|(worker, question)| worker.mailbox.answer(question, &worker.kicker))
            .collect()
    }

    /// Makes every vCPU leave guest mode and returns once all are out, where they stay until the
    /// [`Pause`] ends.
    ///
    /// A vCPU in its ring-full callback returns from it first, so that a paused guest writes no
    /// page and touches no ring. The caller must hold nothing that the callback waits for, and must
    /// not be the callback itself. A vCPU that has failed counts as paused. Several pauses may
    /// overlap.
    ///
    /// A paused guest still answers [`page_writes`](Self::page_writes), kicks have no effect on it,
    /// and [`stop`](Self::stop) ends it.
    ///
    /// # Errors
    ///
    /// [`GuestError::KickTimeout`] if a vCPU does not get out; the others go on.
    pub fn pause(&self) -> Result<Pause, GuestError> {
        Pause::begin(self.workers.iter().map(|worker| &worker.kicker))
    }

    /// Pauses vCPU `vcpu` alone, the index of one that was started; see [`pause`](Self::pause).
    ///
    /// # Errors
    ///
    /// [`GuestError::NoSuchVcpu`] for another index, [`GuestError::KickTimeout`] if the vCPU does
    /// not get out.
    pub fn pause_vcpu(&self, vcpu: usize) -> Result<Pause, GuestError> {
        let is_asked = |worker: &&Worker| worker.kicker.vcpu() == vcpu;
        let worker = self.workers.iter().find(is_asked);
        let worker = worker.ok_or(GuestError::NoSuchVcpu { vcpu })?;
        Pause::begin([&worker.kicker])
    }

    /// Returns the number of `KVM_EXIT_DIRTY_RING_FULL` exits of each vCPU so far.
    #[must_use]
    pub fn ring_fulls(&self) -> Vec<u64> {
        self.workers
            .iter()
            .map(|worker| worker.mailbox.ring_fulls())
            .collect()
    }

    /// Returns the kicker of each vCPU.
    #[must_use]
    pub fn kickers(&self) -> Vec<VcpuKicker> {
        self.workers
            .iter()
            .map(|worker| worker.kicker.clone())
            .collect()
    }

    /// Returns the first vCPU, by index, that ended with an error or a panic, which
    /// [`stop`](Self::stop) returns.
    #[must_use]
    pub fn failed(&self) -> Option<usize> {
        self.workers
            .iter()
            .find(|worker| worker.mailbox.has_failed())
            .map(|worker| worker.kicker.vcpu())
    }

    /// Stops all vCPUs, waits for their threads and returns their outcomes, in the order in which
    /// the vCPUs were started.
    ///
    /// # Errors
    ///
    /// The error or panic of the first vCPU that failed; the others are stopped nevertheless.
    pub fn stop(mut self) -> Result<Vec<VcpuOutcome>, GuestError> {
        self.request_stop();
        let workers = std::mem::take(&mut self.workers);
        let results: Vec<_> = workers.into_iter().map(Worker::join).collect();
        results.into_iter().collect()
    }

    /// Requests a stop of all vCPUs. A signal that can't be sent is ignored: the request itself is
    /// already noted, and the other vCPUs have to be stopped too.
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
    mailbox: &VcpuMailbox,
    gate: &Gate,
    on_ring_full: &F,
) -> Result<VcpuOutcome, GuestError>
where
    F: Fn(usize) -> Result<(), E>,
    E: Error + Send + Sync + 'static,
{
    // Marks the vCPU as failed on every path but the clean one, including a panic.
    let ending = mailbox.ending();
    let registered = vcpu.register_current_thread();
    gate.wait();
    registered?;
    loop {
        let exit = vcpu.run()?;
        if mailbox.is_asked() {
            mailbox.publish(vcpu.page_writes()?);
        }
        match exit {
            GuestExit::Interrupted => {}
            GuestExit::Stopped => break,
            GuestExit::RingFull => {
                mailbox.count_ring_full();
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
        ring_fulls: mailbox.ring_fulls(),
    })
}

/// Returns the message of a panic, if it has one.
fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
