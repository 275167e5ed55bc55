//! Runs loom models: counts their executions, insists on witnesses, expects failures.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::model::Builder;

/// Interleavings that a model has to reach, or it explored nothing of interest.
///
/// The counts are the standard library's atomics, outside of the model: they order nothing in it.
#[derive(Clone, Debug)]
pub struct Reached(Arc<[(&'static str, AtomicUsize)]>);

impl Reached {
    fn new(witnesses: &[&'static str]) -> Self {
        Self(
            witnesses
                .iter()
                .map(|&w| (w, AtomicUsize::new(0)))
                .collect(),
        )
    }

    /// Notes that this execution reached `witness`, which the model announced.
    pub fn note(&self, witness: &'static str) {
        let found = self.0.iter().find(|(name, _)| *name == witness);
        let (_, count) = found.unwrap_or_else(|| panic!("unannounced witness: {witness}"));
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that this execution reached `witness`, if `condition` holds.
    pub fn note_if(&self, condition: bool, witness: &'static str) {
        if condition {
            self.note(witness);
        }
    }
}

/// Words of the stack that a model's first thread gets: it creates a collector by value, which holds
/// a batch and the suspects. Loom's own threads have 32 KiB.
const STACK_WORDS: usize = 1 << 18;

/// Runs one execution of `model`, in a thread with a stack that is large enough.
fn run(model: &Arc<impl Fn(&Reached) + Send + Sync + 'static>, reached: &Reached) {
    let (model, reached) = (Arc::clone(model), reached.clone());
    let first = loom::thread::Builder::new().stack_size(STACK_WORDS);
    let first = first.spawn(move || model(&reached));
    first
        .expect("loom spawns threads")
        .join()
        .expect("loom ends at a panic");
}

/// A model, its witnesses and its bound.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// What it is called in reports.
    pub name: &'static str,
    /// The interleavings that it has to reach.
    pub witnesses: &'static [&'static str],
    /// Most preemptions in one execution; `None` explores all of them.
    pub preemptions: Option<usize>,
}

impl Model {
    fn builder(&self) -> Builder {
        let mut builder = Builder::new();
        builder.preemption_bound = self.preemptions;
        builder.max_branches = 5_000;
        builder
    }

    /// Explores `model`; returns how many executions it has.
    ///
    /// # Panics
    /// Where an execution does, and where a witness was never reached.
    pub fn explore(&self, model: impl Fn(&Reached) + Send + Sync + 'static) -> usize {
        let executions = Arc::new(AtomicUsize::new(0));
        let reached = Reached::new(self.witnesses);
        let (count, seen) = (Arc::clone(&executions), reached.clone());
        let model = Arc::new(model);
        self.builder().check(move || {
            count.fetch_add(1, Ordering::Relaxed);
            run(&model, &seen);
        });
        let executions = executions.load(Ordering::Relaxed);
        println!("{}: {executions} executions", self.name);
        for (witness, times) in reached.0.iter() {
            let times = times.load(Ordering::Relaxed);
            println!("  {witness}: {times}");
            assert_ne!(times, 0, "{}: never reached: {witness}", self.name);
        }
        assert!(executions > 1, "{}: nothing to interleave", self.name);
        executions
    }

    /// Explores `model`, a negative control: some execution has to panic with a message that
    /// contains `expected`.
    ///
    /// # Panics
    /// Where all executions pass, or one fails for another reason.
    pub fn must_fail(&self, expected: &str, model: impl Fn(&Reached) + Send + Sync + 'static) {
        let executions = Arc::new(AtomicUsize::new(0));
        let reached = Reached::new(self.witnesses);
        let count = Arc::clone(&executions);
        let builder = self.builder();
        let model = Arc::new(model);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            builder.check(move || {
                count.fetch_add(1, Ordering::Relaxed);
                run(&model, &reached);
            });
        }));
        let executions = executions.load(Ordering::Relaxed);
        let name = self.name;
        let Err(payload) = outcome else {
            panic!("{name}: the negative control passed all of its {executions} executions");
        };
        let message = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("(no message)");
        assert!(
            message.contains(expected),
            "{name}: failed for another reason than {expected:?}: {message}"
        );
        let first_line = message.trim().lines().next().unwrap_or_default();
        println!("{name}: control fails in execution {executions}: {first_line}");
    }
}
