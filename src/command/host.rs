//! The host and its KVM.

use std::io;

use dirty_ring::kvm::Support;
use kvm_ioctls::Kvm;
use serde::Serialize;

use super::args::BackendName;
use super::failure::{self, Failure};

/// `KVM_API_VERSION`: stable since Linux 2.6.22, and not expected to change (api.rst 4.1).
const KVM_API_VERSION: i32 = 12;

/// The host that the figures were measured on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Host {
    pub(crate) cpu: Option<String>,
    pub(crate) cpus: usize,
    pub(crate) kernel: Option<String>,
    pub(crate) kvm: Option<KvmOffer>,
}

/// What this host's KVM offers.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct KvmOffer {
    pub(crate) api_version: i32,
    pub(crate) capability: &'static str,
    pub(crate) max_ring_entries: u32,
    pub(crate) with_bitmap: bool,
    pub(crate) pml: bool,
    pub(crate) reserved_entries: u32,
}

impl Host {
    /// Describes this host, with what `kvm` offers.
    pub(crate) fn describe(kvm: Option<&KvmHost>) -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .and_then(|rest| rest.split_once(':'))
            .map(|(_, name)| name.trim().to_owned());
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok();
        Self {
            cpu: model,
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.map(|kernel| kernel.trim().to_owned()),
            kvm: kvm.map(|host| KvmOffer {
                api_version: host.kvm.get_api_version(),
                capability: host.support.flavour.name(),
                max_ring_entries: host.support.max_entries,
                with_bitmap: host.support.with_bitmap,
                pml: host.support.cpu_log_entries > 0,
                reserved_entries: dirty_ring::core::size::RESERVED_ENTRIES
                    + host.support.cpu_log_entries,
            }),
        }
    }
}

/// A KVM with dirty rings.
pub(crate) struct KvmHost {
    pub(crate) kvm: Kvm,
    pub(crate) support: Support,
}

impl KvmHost {
    /// Opens `/dev/kvm` and checks that it has dirty rings.
    pub(crate) fn open() -> Result<Self, Failure> {
        let kvm = Kvm::new().map_err(|error| {
            let advice = match io::Error::from_raw_os_error(error.errno()).kind() {
                io::ErrorKind::PermissionDenied => {
                    "give your user read and write access (usually by adding it to the kvm group)"
                }
                io::ErrorKind::NotFound => "load the kvm module",
                _ => "look for the reason in the kernel's log",
            };
            Failure::Host(format!("/dev/kvm can't be opened: {error}; {advice}"))
        })?;
        if kvm.get_api_version() != KVM_API_VERSION {
            return Err(Failure::Host(
                "/dev/kvm exists but is no KVM: load the kvm module".into(),
            ));
        }
        let support =
            Support::probe(&kvm).map_err(|error| Failure::Host(failure::describe(&error)))?;
        if cfg!(not(target_arch = "x86_64")) {
            return Err(Failure::Host(
                "the test guest is written for x86_64: use such a host".into(),
            ));
        }
        Ok(Self { kvm, support })
    }

    /// Checks a number of vCPUs against KVM's own limit. KVM itself would refuse the first vCPU above
    /// it, after all the others were created.
    pub(crate) fn check_vcpus(&self, vcpus: usize) -> Result<(), Failure> {
        let most = self.kvm.get_max_vcpus();
        if vcpus > most {
            return Err(Failure::Usage(format!(
                "a guest can't have {vcpus} vCPUs: this host's KVM allows {most} at most; give \
                 fewer --vcpus"
            )));
        }
        Ok(())
    }

    /// Opens the KVM that `backend` asks for; `None` for the mock. Where `auto` falls back to the
    /// mock, a line on stderr says why.
    pub(crate) fn choose(backend: BackendName) -> Result<Option<Self>, Failure> {
        match backend {
            BackendName::Mock => Ok(None),
            BackendName::Kvm => match Self::open() {
                Ok(host) => Ok(Some(host)),
                Err(failure) => Err(Failure::Host(format!("{failure}; or use --backend mock"))),
            },
            BackendName::Auto => match Self::open() {
                Ok(host) => Ok(Some(host)),
                Err(failure) => {
                    failure::warn(&format!("using the mock, because {failure}"));
                    Ok(None)
                }
            },
        }
    }
}

/// Checks a guest's memory against what the host has free: the kernel would hand out more, and then
/// kill processes.
pub(crate) fn check_memory(bytes: u64) -> Result<(), Failure> {
    match available_bytes() {
        Some(available) if bytes > available / 10 * 9 => Err(Failure::Usage(format!(
            "the guest needs {} MiB of memory, and this host has {} MiB free: choose fewer \
             pages or vCPUs, or a smaller --mem",
            bytes >> 20,
            available >> 20
        ))),
        _ => Ok(()),
    }
}

/// Returns the bytes of memory that this host can give to a guest; `None` where it doesn't say.
fn available_bytes() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    kib.checked_mul(1024)
}
