//! Whole runs in fair weather.

use dirty_ring_core::collector::{DEFAULT_CHUNK, RingFullMode};
use dirty_ring_core::controller::Policy;
use dirty_ring_core::planner::PassRecord;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::Micros;
use dirty_ring_mock::{ConfigError, CostModel, SimConfig, SimReport, Simulation, simulate};

const CHUNK: RingFullMode = RingFullMode::Chunk(DEFAULT_CHUNK);

fn ring(entries: u32) -> RingSize {
    RingSize::new(entries, 4096, 0).unwrap()
}

/// Four seconds of one vCPU with a ring of 4096 entries that handles ring-fulls as QEMU does.
fn config(workload: &str, policy: Option<Policy>) -> SimConfig {
    SimConfig {
        workload: workload.parse().unwrap(),
        policy,
        ring_full_mode: RingFullMode::Whole,
        ..SimConfig::new(ring(4096))
    }
}

fn fixed(wait_us: u64) -> Option<Policy> {
    Some(Policy::fixed(Micros(wait_us)).unwrap())
}

fn run(config: SimConfig) -> SimReport {
    let report = simulate(config).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.pages_published, report.pages_harvested);
    report
}

/// The measured table: full rings in 4 s, and writes a second in units of 10 000.
#[test]
fn the_measured_figures_come_out_in_order_and_rough_size() {
    let figures = |workload, wait_us| {
        let report = run(config(workload, fixed(wait_us)));
        (report.ring_fulls, report.page_writes_per_s() / 10_000)
    };
    let undisturbed = |workload| run(config(workload, None)).page_writes_per_s() / 10_000;

    // Storm: 390, 385, 266 and 0 full rings; 0.4 million writes a second, 71 million undisturbed.
    assert!((6_500..8_000).contains(&undisturbed("storm")));
    for wait_us in [1_000_000, 100_000, 10_000] {
        let (fulls, writes) = figures("storm", wait_us);
        assert!((260..420).contains(&fulls), "{wait_us} us: {fulls}");
        assert!((37..43).contains(&writes), "{wait_us} us: {writes}");
    }
    assert_eq!(figures("storm", 5_000).0, 0);

    // Hot: no full ring; 74.9, 70.2, 38.8 and 7.4 million writes a second.
    let hot = [1_000_000, 100_000, 10_000, 5_000].map(|wait_us| figures("hot", wait_us));
    assert!(hot.iter().all(|&(fulls, _)| fulls == 0), "{hot:?}");
    let writes = hot.map(|(_, writes)| writes);
    assert!((7_300..7_500).contains(&writes[0]), "{writes:?}");
    assert!((6_800..7_200).contains(&writes[1]), "{writes:?}");
    assert!((3_500..4_200).contains(&writes[2]), "{writes:?}");
    assert!(writes[3] < 1_000, "{writes:?}");

    // Trickle: 269, 273, 0 and 0 full rings.
    let trickle = [1_000_000, 100_000, 10_000, 5_000].map(|wait_us| figures("trickle", wait_us).0);
    assert!(trickle[..2].iter().all(|fulls| (230..290).contains(fulls)));
    assert_eq!(trickle[2..], [0, 0]);
}

#[test]
fn a_chunk_stalls_the_vcpu_for_less_than_the_whole() {
    let whole = run(config("storm", fixed(1_000_000)));
    let chunk = run(SimConfig {
        ring_full_mode: CHUNK,
        ..config("storm", fixed(1_000_000))
    });
    assert_eq!(whole.stalls.count(), whole.ring_fulls);
    assert_eq!(chunk.stalls.count(), chunk.ring_fulls);
    assert!(chunk.stalls.max_ns() * 5 < whole.stalls.max_ns());
    assert!(whole.stalls.p50_ns() <= whole.stalls.p99_ns());
    // The rest is left to the reaper, which is kicked for it.
    assert!(chunk.wakeups > whole.wakeups);
    assert!(chunk.page_writes > whole.page_writes);
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let config = |seed| SimConfig {
        vcpus: 3,
        policy: Some(Policy::ladder(ring(1024))),
        ring: ring(1024),
        duration_us: 700_000,
        seed,
        ..config("burst", None)
    };
    let traced = |seed| {
        let mut steps: Vec<PassRecord> = Vec::new();
        let simulation = Simulation::new(config(seed)).unwrap();
        let (report, now_ps) = simulation
            .run(|step| steps.push(*step), |vm| vm.now_ps())
            .unwrap();
        assert_eq!(report.passes, steps.len() as u64);
        format!("{report:?} {steps:?} {now_ps}")
    };
    assert_eq!(traced(1), traced(1));
    assert_ne!(traced(1), traced(2));
}

#[test]
fn steps_account_for_every_page_and_every_ring_full() {
    let mut harvested = 0;
    let mut ring_fulls = 0;
    let simulation = Simulation::new(SimConfig {
        vcpus: 2,
        policy: Some(Policy::seed(ring(1024))),
        ring: ring(1024),
        ring_full_mode: CHUNK,
        ..config("skew", None)
    });
    let observe = |step: &PassRecord| {
        harvested += step.measurement.harvested + step.measurement.ring_full_harvested;
        ring_fulls += u64::from(step.measurement.ring_fulls);
    };
    let (report, ()) = simulation.unwrap().run(observe, |_| ()).unwrap();
    assert!(report.ring_fulls > 0);
    assert_eq!(
        (harvested, ring_fulls),
        (report.pages_harvested, report.ring_fulls)
    );
}

#[test]
fn a_policy_that_looks_first_peeks_and_leaves_quiet_rings_alone() {
    let looks = |policy| {
        let config = SimConfig {
            vcpus: 2,
            ..config("pages=16384,spin=0|pages=64,spin=0", policy)
        };
        run(config)
    };
    let deadline = looks(Some(Policy::deadline(ring(4096))));
    let fixed = looks(fixed(5_000));
    assert_eq!(fixed.peeks, 0);
    assert!(deadline.peeks >= deadline.passes);
    assert!(deadline.per_vcpu[1].pages_harvested < fixed.per_vcpu[1].pages_harvested / 10);
}

#[test]
fn without_a_policy_nothing_is_logged_and_nothing_disturbs() {
    let report = run(config("hot", None));
    assert_eq!(report.page_writes, 4_000_000_000_000 / 13_400);
    assert_eq!((report.pages_harvested, report.wakeups), (0, 0));
    assert_eq!(report.reaper_busy_ns, 0);
}

#[test]
fn an_idle_guest_gives_nothing_to_harvest() {
    let report = run(config("idle", fixed(10_000)));
    assert_eq!((report.page_writes, report.pages_harvested), (0, 0));
    assert_eq!(report.harvests, 0);
    assert!((390..=401).contains(&report.wakeups));
}

#[test]
fn every_page_that_was_written_is_published_once_and_no_other() {
    let simulation = Simulation::new(SimConfig {
        vcpus: 2,
        duration_us: 1_000,
        ..config("pages=100,spin=0|pages=0,spin=0", fixed(1_000_000))
    });
    let (report, published) = simulation
        .unwrap()
        .run(
            |_| (),
            |vm| {
                vm.slots().map(|(slot, _)| {
                    let pages = vm.published(slot).unwrap();
                    pages.iter().collect::<Vec<_>>()
                })
            },
        )
        .unwrap();
    // The first vCPU's region is 128 pages, the second's 64: the cut between the slots is at 96.
    assert_eq!(published[0], (0..96).collect::<Vec<_>>());
    assert_eq!(published[1], [0, 1, 2, 3]);
    assert_eq!((report.pages_published, report.lost_pages), (100, 0));
}

#[test]
fn many_vcpus_share_one_reaper() {
    for mode in [RingFullMode::Whole, CHUNK] {
        let report = run(SimConfig {
            vcpus: 256,
            ring: ring(512),
            ring_full_mode: mode,
            duration_us: 20_000,
            ..config("storm", fixed(3_000))
        });
        assert_eq!(report.per_vcpu.len(), 256);
        let mut vcpus = report.per_vcpu.iter();
        assert!(vcpus.all(|vcpu| vcpu.pages_harvested >= 448 && vcpu.ring_fulls > 0));
        // All of them are full at once, and who wants the lock waits for those before it.
        assert!(report.stalls.max_ns() > 1_000_000);
    }
}

#[test]
fn a_day_of_a_small_working_set_is_cheap() {
    const DAY_US: u64 = 24 * 3600 * 1_000_000;
    let report = run(SimConfig {
        vcpus: 8,
        duration_us: DAY_US,
        ..config("pages=8,spin=0|pages=0,spin=0", fixed(60_000_000))
    });
    assert_eq!(report.ring_fulls, 0);
    assert!(report.page_writes > DAY_US * 74);
}

#[test]
fn a_working_set_as_large_as_the_soft_limit_fills_the_ring_and_one_page_less_does_not() {
    let fulls = |pages: u32| {
        let workload = format!("pages={pages},spin=0");
        run(config(&workload, fixed(1_000_000))).ring_fulls
    };
    assert_eq!(fulls(ring(4096).soft_limit() - 1), 0);
    assert!(fulls(ring(4096).soft_limit()) > 0);
}

#[test]
fn a_simulation_can_move_to_another_thread() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let simulation = is_send(Simulation::new(config("hot", fixed(1_000))).unwrap());
    std::thread::spawn(|| simulation.run(|_| (), |_| ()).unwrap())
        .join()
        .unwrap();
}

#[test]
fn a_configuration_that_cannot_be_is_refused() {
    let refusal = |change: fn(&mut SimConfig)| {
        let mut config = config("storm", fixed(1_000));
        change(&mut config);
        Simulation::new(config).unwrap_err()
    };
    assert_eq!(refusal(|c| c.vcpus = 0), ConfigError::Vcpus { vcpus: 0 });
    assert_eq!(
        refusal(|c| c.vcpus = 5000),
        ConfigError::Vcpus { vcpus: 5000 }
    );
    assert_eq!(
        refusal(|c| c.duration_us = 0),
        ConfigError::Duration { duration_us: 0 }
    );
    assert_eq!(
        refusal(|c| c.duration_us = u64::MAX),
        ConfigError::Duration {
            duration_us: u64::MAX
        }
    );
    assert_eq!(
        refusal(|c| {
            c.vcpus = 4096;
            c.ring = ring(65536);
        }),
        ConfigError::RingEntries { entries: 1 << 28 }
    );
    assert_eq!(
        refusal(|c| {
            c.vcpus = 5;
            c.workload = "pages=16777216,spin=0".parse().unwrap();
        }),
        ConfigError::Pages { pages: 5 << 24 }
    );
    assert_eq!(refusal(|c| c.cost.write_ps = 0), ConfigError::FreeWrites);
    assert_eq!(
        refusal(|c| c.faults.garbage_permille = 1001),
        ConfigError::Permille {
            fault: "garbage_permille",
            permille: 1001
        }
    );
    let jitter = refusal(|c| c.cost.wake_latency_ns = 1);
    let CostModel { wake_jitter_ns, .. } = CostModel::MEASURED;
    assert_eq!(
        jitter.to_string(),
        format!("a wake-up jitter of {wake_jitter_ns} ns is above the mean latency of 1 ns")
    );
}

#[test]
fn a_reader_takes_all_pages_beside_the_reaper() {
    let report = run(SimConfig {
        read_every_us: Some(100_000),
        duration_us: 1_050_000,
        ..config("hot", Some(Policy::deadline(RingSize::LARGEST)))
    });
    assert_eq!(report.reads, 10);
    // Each read finds the hot set again.
    assert_eq!(report.pages_harvested, 11 * 2048);
}
