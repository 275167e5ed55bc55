//! When the vCPUs need attention.

use super::Vm;
use crate::cost::ps;

/// A time before which a vCPU needs no attention.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forecast {
    at_ps: u64,
    /// Whether the pages were scanned; otherwise it is only an estimate.
    exact: bool,
    /// It has left guest mode already: this is when it asks to be let in again.
    out: bool,
}

impl Forecast {
    pub(super) const NEVER: Self = Self {
        at_ps: u64::MAX,
        exact: true,
        out: false,
    };
}

impl Vm {
    /// Returns the next vCPU that needs attention before `before_ps`, and when. It asks to be let
    /// in again (its [`state`](Self::state) says so), or has to be simulated up to then.
    pub(crate) fn next_stop(&mut self, before_ps: u64) -> Option<(u64, usize)> {
        let before_ps = before_ps.min(self.end_ps);
        loop {
            let forecasts = self.forecasts.iter().enumerate();
            let (vcpu, &forecast) = forecasts.min_by_key(|(_, forecast)| forecast.at_ps)?;
            if forecast.at_ps >= before_ps {
                return None;
            }
            let out = self.vcpus[vcpu].left_ps().is_some();
            if forecast.exact && forecast.out == out {
                return Some((forecast.at_ps, vcpu));
            }
            self.forecasts[vcpu] = self.exact_forecast(vcpu);
        }
    }

    /// Simulates `vcpu` alone up to `at_ps`, where [`next_stop`](Self::next_stop) saw something.
    pub(crate) fn run_vcpu_until_ps(&mut self, vcpu: usize, at_ps: u64) {
        self.vcpus[vcpu].advance(at_ps, &mut self.kernel[vcpu]);
        self.forecast_anew(vcpu);
    }

    fn exact_forecast(&self, vcpu: usize) -> Forecast {
        let cpu = &self.vcpus[vcpu];
        let left_ps = cpu.left_ps();
        Forecast {
            at_ps: match left_ps {
                Some(left_ps) => left_ps.saturating_add(self.half_exit_ps()),
                None => cpu.forecast_ps(&self.kernel[vcpu]),
            },
            exact: true,
            out: left_ps.is_some(),
        }
    }

    pub(super) fn forecast_anew(&mut self, vcpu: usize) {
        let cpu = &self.vcpus[vcpu];
        self.forecasts[vcpu] = if !self.logged || self.is_held {
            Forecast::NEVER
        } else if cpu.left_ps().is_some() {
            self.exact_forecast(vcpu)
        } else {
            Forecast {
                at_ps: cpu.earliest_full_ps(&self.kernel[vcpu]),
                exact: false,
                out: false,
            }
        };
    }

    /// Returns the time from guest mode to the ring-full path, or back.
    pub(crate) fn half_exit_ps(&self) -> u64 {
        ps(self.cost.ring_full_exit_ns) / 2
    }
}
