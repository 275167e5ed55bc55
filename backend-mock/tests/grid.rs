//! What every policy makes of every preset, ring size and number of vCPUs, as a checked-in table:
//! a change of a policy shows here what it changes. The numbers come from integers and seeded
//! chance alone, so they are the same on every machine.

use std::fmt::{self, Display, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use dirty_ring_core::controller::Policy;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::Micros;
use dirty_ring_mock::{SimConfig, SimReport, simulate};

const WORKLOADS: [&str; 6] = ["idle", "trickle", "hot", "storm", "burst", "skew"];

/// Entries of a ring, and the numbers of vCPUs that it is simulated with.
const MACHINES: [(u32, &[u32]); 3] = [(1024, &[1, 4]), (4096, &[1, 4, 64]), (65536, &[1, 4])];

/// From this number on runs are short, and the workloads those that show all they do.
const MANY_VCPUS: u32 = 64;

fn policies(ring: RingSize) -> [(&'static str, Policy); 8] {
    let fixed = |wait_us| Policy::fixed(Micros(wait_us)).unwrap();
    [
        ("deadline", Policy::deadline(ring)),
        ("ladder", Policy::ladder(ring)),
        ("seed", Policy::seed(ring)),
        ("halving", Policy::halving(ring)),
        ("fixed:1s", fixed(1_000_000)),
        ("fixed:100ms", fixed(100_000)),
        ("fixed:10ms", fixed(10_000)),
        ("fixed:5ms", fixed(5_000)),
    ]
}

/// One guest on one machine: as many lines as there are policies.
#[derive(Clone, Copy)]
struct Block {
    entries: u32,
    vcpus: u32,
    workload: &'static str,
}

impl Block {
    fn all() -> impl Iterator<Item = Self> {
        let machines = MACHINES.into_iter().flat_map(|(entries, counts)| {
            let counts = counts.iter();
            counts.map(move |&vcpus| (entries, vcpus))
        });
        machines.flat_map(|(entries, vcpus)| {
            let workloads = WORKLOADS.into_iter();
            let shown = workloads.filter(move |&name| vcpus < MANY_VCPUS || name != "burst");
            shown.map(move |workload| Self {
                entries,
                vcpus,
                workload,
            })
        })
    }

    fn duration_us(self) -> u64 {
        match self.workload {
            _ if self.vcpus >= MANY_VCPUS => 200_000,
            // One round of its phases.
            "burst" => 4_000_000,
            _ => 2_000_000,
        }
    }

    fn run(self, ring: RingSize, policy: Option<Policy>) -> SimReport {
        let report = simulate(SimConfig {
            vcpus: self.vcpus,
            workload: self.workload.parse().unwrap(),
            policy,
            duration_us: self.duration_us(),
            ..SimConfig::new(ring)
        });
        let report = report.unwrap();
        assert!(report.is_sound(), "{}: {report:?}", self.workload);
        report
    }

    fn lines(self) -> String {
        let Self {
            entries,
            vcpus,
            workload,
        } = self;
        let ring = RingSize::new(entries, 4096, 0).unwrap();
        let undisturbed = self.run(ring, None).page_writes;
        let mut lines = String::new();
        for (policy, controller) in policies(ring) {
            let report = self.run(ring, Some(controller));
            let speed = Percent::of(report.page_writes, undisturbed);
            let busy = Percent::of(report.reaper_busy_ns, report.duration_us * 1_000);
            let fulls = report.ring_fulls;
            let fulls_per_million = (fulls * 1_000_000).checked_div(report.pages_harvested);
            let wakeups_per_s = report.wakeups * 1_000_000 / report.duration_us;
            writeln!(
                lines,
                "{entries:>5} {vcpus:>5} {workload:<8} {policy:<11} {speed:>7} {fulls:>7} {:>9} \
                 {wakeups_per_s:>7} {busy:>6}",
                fulls_per_million.unwrap_or(0),
            )
            .unwrap();
        }
        lines
    }
}

/// In hundredths.
struct Percent(Option<u64>);

impl Percent {
    fn of(part: u64, whole: u64) -> Self {
        let hundredths = (u128::from(part) * 10_000).checked_div(whole.into());
        Self(hundredths.map(|hundredths| u64::try_from(hundredths).unwrap()))
    }
}

impl Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(hundredths) => f.pad(&format!("{}.{:02}", hundredths / 100, hundredths % 100)),
            None => f.pad("-"),
        }
    }
}

/// Computes the blocks on all cores and puts them in order.
fn table() -> String {
    let blocks: Vec<_> = Block::all().collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let index = next.fetch_add(1, Ordering::Relaxed)
            && let Some(block) = blocks.get(index)
        {
            done.push((index, block.lines()));
        }
        done
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut done = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let done = workers.into_iter().map(|worker| worker.join().unwrap());
        done.flatten().collect::<Vec<_>>()
    });
    done.sort_unstable_by_key(|&(index, _)| index);
    let header = format!(
        "{:>5} {:>5} {:<8} {:<11} {:>7} {:>7} {:>9} {:>7} {:>6}\n",
        "ring", "vcpus", "workload", "policy", "speed %", "fulls", "fulls/Mpg", "wakes/s", "busy %"
    );
    let blocks = done.into_iter().map(|(_, lines)| lines);
    header + &blocks.collect::<Vec<_>>().join("\n")
}

/// Speed: the guest's, in percent of what it does without dirty logging. Fulls: ring-full exits of
/// all vCPUs, in the whole run and for a million harvested pages. Wakes and busy: the reaper's.
#[test]
fn the_grid_of_policies_is_as_checked_in() {
    snapbox::Assert::new()
        .action_env("UPDATE_GRID")
        .eq(table(), snapbox::file!["grid.txt"].raw());
}
