//! vCPUs wait while the sink has failed and is not yet replaced.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use dirty_ring_core::collector::CollectError;
use dirty_ring_kvm::{Error, VcpuHandle};

use super::copies::lock;

/// Tells vCPUs that couldn't make room in their ring when to try again. Dropping it ends their waits.
#[derive(Debug)]
pub(super) struct Outage(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Times that a failed sink was replaced.
    replacements: u64,
    is_over: bool,
}

impl Outage {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// Returns the ring-full callback of a guest: makes room as `handles` say, and waits where a sink
    /// has failed.
    pub(super) fn ring_full_callback(
        &self,
        handles: Vec<VcpuHandle>,
    ) -> impl Fn(usize) -> Result<(), Error> + Send + Sync + use<> {
        let shared = Arc::clone(&self.0);
        move |vcpu| {
            loop {
                let before = lock(&shared.state).replacements;
                let error = match handles[vcpu].on_ring_full() {
                    Ok(_) => return Ok(()),
                    Err(error) => error,
                };
                let is_over = || {
                    let state = shared.changed.wait_while(lock(&shared.state), |state| {
                        state.replacements == before && !state.is_over
                    });
                    state.unwrap_or_else(PoisonError::into_inner).is_over
                };
                if !is_publication(&error) || is_over() {
                    return Err(error);
                }
            }
        }
    }

    /// Lets the vCPUs that wait try again.
    pub(super) fn note_replacement(&self) {
        lock(&self.0.state).replacements += 1;
        self.0.changed.notify_all();
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        lock(&self.0.state).is_over = true;
        self.0.changed.notify_all();
    }
}

/// Returns whether `error` says that the sink has failed.
pub(super) const fn is_publication(error: &Error) -> bool {
    matches!(error, Error::Collect(CollectError::Publish(_)))
}
