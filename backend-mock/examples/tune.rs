use dirty_ring_core::controller::{Policy, PolicySpec};
use dirty_ring_core::size::RingSize;
use dirty_ring_mock::{SimConfig, Simulation, simulate};
fn main() {
    let a: Vec<String> = std::env::args().collect();
    // entries vcpus workload duration_ms policy [trace]
    let ring = RingSize::new(a[1].parse().unwrap(), 4096, 0).unwrap();
    let cfg = |p: Option<Policy>| SimConfig {
        vcpus: a[2].parse().unwrap(),
        workload: a[3].parse().unwrap(),
        duration_us: a[4].parse::<u64>().unwrap() * 1000,
        policy: p,
        ..SimConfig::new(ring)
    };
    let spec: PolicySpec = a[5].parse().unwrap();
    let none = simulate(cfg(None)).unwrap().page_writes;
    let n: usize = a.get(6).map_or(0, |n| n.parse().unwrap());
    let mut k = 0;
    let (r, ()) = Simulation::new(cfg(Some(spec.build(ring).unwrap()))).unwrap().run(|p| {
        k += 1;
        if k <= n {
            eprintln!("{:6} {:>9} el {:>6} late {:>4} took {:>5} harv {:>7} fullest {:>5} fulls {:>3} wakes {:?} wait {:>8} {:?}", p.number, p.now.0, p.measurement.elapsed.0, p.measurement.late.0, p.measurement.took.0, p.measurement.harvested, p.measurement.fullest, p.measurement.ring_fulls, p.measurement.wakes, p.decision.wait.0, p.decision.reasons);
        }
    }, |_| ()).unwrap();
    println!("{:>6} {:>4} {:<10.10} speed {:6.2} fulls {:>5} perM {:>5} wakes/s {:>5} busy {:5.2} lost {}", a[1], a[2], a[3], 100.0 * r.page_writes as f64 / none.max(1) as f64, r.ring_fulls, r.ring_fulls * 1000000 / r.pages_harvested.max(1), r.wakeups * 1000 / a[4].parse::<u64>().unwrap(), r.reaper_busy_ns as f64 / 10.0 / r.duration_us as f64, r.lost_pages);
}
