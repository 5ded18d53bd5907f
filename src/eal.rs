//! DPDK's environment abstraction layer: its memory, devices and threads, started once per process.
//!
//! DPDK's ports ([`net::device`](crate::net::device)) and SPDK's devices ([`block`](crate::block))
//! share it. A program that uses both starts it with the PCI devices of both: [`Eal::init`] then
//! serves each. Without that, whoever comes first starts it for its own devices.

pub(crate) mod idle;
pub(crate) mod log;

use std::cell::OnceCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

use boson_dpdk_sys as sys;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::error::{Error, ErrorKind, Result};
use crate::pci_address::PciAddress;

/// How much memory the EAL needs for a port and its buffers, in MiB: with less of it free in
/// hugepages it gets normal pages.
pub const EAL_MEMORY_MIB: u64 = 64;

/// What the EAL may use of normal pages, in MiB. They are touched as they are needed.
const NORMAL_MEMORY_MIB: u64 = 256;

/// How DPDK is to start. By default it opens no PCI device and gets no arguments but boson's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EalConfig {
    pci_devices: Vec<String>,
    arguments: String,
    memory_mib: u64,
}

impl EalConfig {
    /// Sets the PCI devices that this process is going to open (`0000:03:00.0`, arguments after a
    /// comma). DPDK takes no other card, and without any it does not look at the PCI bus.
    #[must_use]
    pub fn pci_devices(mut self, devices: impl IntoIterator<Item = String>) -> Self {
        self.pci_devices = devices.into_iter().collect();
        self
    }

    /// Sets how much memory is needed, in MiB, if it is more than [`EAL_MEMORY_MIB`].
    #[must_use]
    pub fn memory_mib(mut self, mib: u64) -> Self {
        self.memory_mib = mib;
        self
    }

    /// What a process needs that also needs `other`: the devices of both, the larger memory, and
    /// the arguments of whichever has some.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        for device in &other.pci_devices {
            if !self.pci_devices.contains(device) {
                self.pci_devices.push(device.clone());
            }
        }
        self.memory_mib = self.memory_mib.max(other.memory_mib);
        if self.arguments.is_empty() {
            self.arguments.clone_from(&other.arguments);
        }
        self
    }

    /// Whether DPDK, started with this, can do what `wanted` asks for.
    fn suffices_for(&self, wanted: &Self) -> bool {
        (wanted.arguments.is_empty() || wanted.arguments == self.arguments)
            && wanted.pci_devices.iter().all(|device| self.pci_devices.contains(device))
    }

    /// Sets EAL arguments of the user, separated by white space (`-m 512 --no-huge`). They win over
    /// boson's own.
    #[must_use]
    pub fn arguments(mut self, arguments: impl Into<String>) -> Self {
        self.arguments = arguments.into();
        self
    }
}

/// The proof that DPDK runs in this process. It runs until the process ends.
#[derive(Clone, Copy, Debug)]
pub struct Eal {
    uses_hugepages: bool,
    memory_is_fixed: bool,
}

/// What became of the process's only start.
enum EalStart {
    NotStarted,
    Running(EalConfig, Eal),
    Failed(String),
}

/// DPDK's control plane (starting, opening and closing) is not safe to enter twice; this lock is
/// held for all of it.
static CONTROL: Mutex<EalStart> = Mutex::new(EalStart::NotStarted);

impl Eal {
    /// Starts DPDK, or returns the DPDK that runs already if it was started
    /// with the same arguments (or `config` has none) and with all the PCI devices of `config`.
    ///
    /// The calling thread becomes DPDK's main thread; its CPU affinity stays what it was. DPDK's
    /// log goes to `tracing`, target `dpdk`, from level warning up (`--log-level` in the arguments
    /// changes that).
    ///
    /// Some of the drivers that DPDK loads set environment variables. While this call runs, no
    /// other thread may start a process or read the environment, as for [`std::env::set_var`]:
    /// start DPDK before other threads do so.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidInput`]: an argument that DPDK does not know, or `--help`.
    /// - [`ErrorKind::InUse`]: DPDK runs already, with other arguments or without a device of
    ///   `config`.
    /// - [`ErrorKind::Unsupported`]: DPDK refused to start, now or earlier; a process cannot try
    ///   twice.
    pub fn init(config: &EalConfig) -> Result<Self> {
        let mut state = lock();
        match &*state {
            EalStart::Running(running, eal) if running.suffices_for(config) => return Ok(*eal),
            EalStart::Running(running, _) => {
                return Err(Error::new(ErrorKind::InUse, "start DPDK").because(format!(
                    "it runs already, with other settings ({running:?}); a process has one DPDK"
                )));
            }
            EalStart::Failed(reason) => {
                return Err(Error::new(ErrorKind::Unsupported, "start DPDK").because(format!(
                    "it failed to start earlier in this process ({reason}); restart the process"
                )));
            }
            EalStart::NotStarted => {}
        }

        let cpus = sched_getaffinity(None).map_err(|code| Error::os(code.raw_os_error(), "start DPDK"))?;
        let start = Start {
            config,
            cpu: (0..CpuSet::MAX_CPU).find(|&cpu| cpus.is_set(cpu)).unwrap_or(0),
            free_hugepages_mib: free_hugepages_mib(),
        };
        let (arguments, uses_hugepages) = start.arguments()?;
        let memory_is_fixed =
            arguments.iter().any(|argument| argument == "--legacy-mem" || argument == "--no-huge");
        if !uses_hugepages {
            tracing::warn!(
                "DPDK runs on normal pages: {} MiB of hugepages are free, {} are needed (as root: \
                 sysctl vm.nr_hugepages={}); virtual devices work, PCI devices do not",
                start.free_hugepages_mib,
                start.needed_mib(),
                start.needed_mib().max(128)
            );
        }

        log::redirect();
        let ((result, code), reason) = log::capture(|| initialise(&arguments));
        if let Err(code) = sched_setaffinity(None, &cpus) {
            tracing::warn!("the CPU affinity of the thread that started DPDK could not be restored: {code}");
        }
        if result < 0 {
            let reason = if reason.is_empty() { strerror(code) } else { reason };
            *state = EalStart::Failed(reason.clone());
            let kind = if code == libc::EINVAL { ErrorKind::InvalidInput } else { ErrorKind::Unsupported };
            return Err(Error::new(kind, "start DPDK")
                .because(format!("{reason} (EAL arguments: {})", arguments[1..].join(" "))));
        }
        let eal = Self { uses_hugepages, memory_is_fixed };
        *state = EalStart::Running(config.clone(), eal);
        Ok(eal)
    }

    /// DPDK's release, such as `DPDK 22.11.11`. It need not run for this.
    pub fn version() -> String {
        // SAFETY: the function takes nothing and returns a string that lives as long as the library
        // is loaded.
        let version = unsafe { sys::rte_version() };
        // SAFETY: `version` is that string, and ends with NUL.
        unsafe { CStr::from_ptr(version) }.to_string_lossy().into_owned()
    }

    /// Whether frames live in hugepages, as far as boson decided that: with memory options in the
    /// arguments it assumes so.
    pub fn uses_hugepages(self) -> bool {
        self.uses_hugepages
    }

    /// Whether all memory was taken at the start (`--no-huge`, `--legacy-mem`), so that it cannot
    /// grow.
    pub fn memory_is_fixed(self) -> bool {
        self.memory_is_fixed
    }

    /// Runs `call`, which is part of the control plane, alone, and returns with its result the
    /// errors that DPDK logged for it. `call` must not come back here: the lock is not re-entrant.
    pub(crate) fn control<T>(self, call: impl FnOnce() -> T) -> (T, String) {
        let _alone = lock();
        log::capture(call)
    }

    /// Gives the calling thread an lcore id, if it has none, so that memory pools keep a cache for
    /// it. The thread gives it back when it ends. DPDK has 128 of them; a thread without one works,
    /// slower.
    pub(crate) fn register_thread(self) {
        thread_local! {
            static REGISTRATION: OnceCell<Registration> = const { OnceCell::new() };
        }
        // SAFETY: the function reads a variable of the calling thread.
        if unsafe { sys::boson_dpdk_thread_is_registered() } != 0 {
            return;
        }
        // SAFETY: the EAL runs, as `self` proves, and this thread has no lcore id yet.
        if unsafe { sys::rte_thread_register() } == 0 {
            REGISTRATION.with(|registration| {
                registration.get_or_init(|| Registration);
            });
        } else {
            tracing::warn!(
                "DPDK has no lcore id left for this thread: its buffers are allocated without a cache"
            );
        }
    }
}

/// The calling thread's lcore id.
struct Registration;

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: this thread was registered when the value was made, and only this value takes
        // that back.
        unsafe { sys::rte_thread_unregister() }
    }
}

fn lock() -> MutexGuard<'static, EalStart> {
    CONTROL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls `rte_eal_init` and returns its result and `rte_errno`.
fn initialise(arguments: &[String]) -> (c_int, c_int) {
    // The EAL keeps pointers into the arguments, and this runs once per process: they are never
    // freed.
    let argv: Vec<*mut c_char> = arguments
        .iter()
        .filter_map(|argument| CString::new(argument.as_str()).ok())
        .map(CString::into_raw)
        .collect();
    let Ok(argc) = c_int::try_from(argv.len()) else { return (-1, libc::E2BIG) };
    let argv = argv.into_iter().chain([std::ptr::null_mut()]).collect::<Vec<_>>().leak();
    // SAFETY:
    // - `argv` holds `argc` pointers to strings that end with NUL, and a null pointer; all of it is
    //   writable and never freed, so the EAL may permute the array and keep the strings;
    // - the lock of the control plane is held and the state is `NotStarted`: no other thread is in
    //   the EAL.
    let result = unsafe { sys::rte_eal_init(argc, argv.as_mut_ptr()) };
    // SAFETY: the function reads a variable of the calling thread.
    let code = unsafe { sys::boson_dpdk_errno() };
    (result, code)
}

/// The words for a DPDK or system error code, of either sign.
pub(crate) fn strerror(code: c_int) -> String {
    // SAFETY: any code is accepted; the result is a string of the calling thread.
    let text = unsafe { sys::rte_strerror(code.saturating_abs()) };
    // SAFETY: `text` ends with NUL, and stays as it is until this thread's next call of
    // `rte_strerror`.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// What the EAL's arguments depend on.
struct Start<'a> {
    config: &'a EalConfig,
    /// The CPU that the starting thread runs on; DPDK's main lcore is on the same.
    cpu: usize,
    free_hugepages_mib: u64,
}

impl Start<'_> {
    fn needed_mib(&self) -> u64 {
        self.config.memory_mib.max(EAL_MEMORY_MIB)
    }

    /// The arguments, and whether the EAL is going to use hugepages.
    fn arguments(&self) -> Result<(Vec<String>, bool)> {
        let invalid =
            |why: &str| Error::new(ErrorKind::InvalidInput, "read EAL arguments").because(why.to_owned());
        let user: Vec<&str> = self.config.arguments.split_whitespace().collect();
        let given = |options: &[&str]| {
            user.iter().any(|argument| {
                let name = argument.split_once('=').map_or(*argument, |(name, _)| name);
                options.contains(&name)
                    || (!name.starts_with("--")
                        && options.iter().any(|option| option.len() == 2 && name.starts_with(option)))
            })
        };
        if self.config.arguments.contains('\0') {
            return Err(invalid("a NUL byte cannot be part of an argument"));
        }
        // The EAL prints its usage and ends the process for these.
        if given(&["-h", "--he", "--hel", "--help"]) {
            return Err(invalid(
                "--help would end the process: see `dpdk-testpmd --help` for the EAL's options",
            ));
        }

        let mut arguments: Vec<String> =
            ["boson", "--no-telemetry", "--log-level=warning"].map(str::to_owned).to_vec();
        if !given(&["-l", "-c", "--lcores"]) {
            arguments.extend(["--lcores".to_owned(), format!("0@{}", self.cpu)]);
        }
        let mut uses_hugepages = !given(&["--no-huge"]);
        let user_decides = given(&[
            "--in-memory",
            "--huge-dir",
            "--huge-unlink",
            "--legacy-mem",
            "--socket-mem",
            "--file-prefix",
        ]);
        if uses_hugepages && !user_decides {
            if self.free_hugepages_mib >= self.needed_mib() {
                arguments.push("--in-memory".to_owned());
            } else {
                uses_hugepages = false;
                arguments.push("--no-huge".to_owned());
            }
        }
        if !uses_hugepages {
            arguments.push("--no-shconf".to_owned());
            if !given(&["-m"]) {
                arguments.extend(["-m".to_owned(), self.needed_mib().max(NORMAL_MEMORY_MIB).to_string()]);
            }
        }
        if !given(&["-a", "--allow", "-b", "--block", "--no-pci"]) {
            if self.config.pci_devices.is_empty() {
                arguments.push("--no-pci".to_owned());
            }
            for device in &self.config.pci_devices {
                let (address, driver) = device.split_once(',').unwrap_or((device, ""));
                let Ok(address) = address.parse::<PciAddress>() else {
                    return Err(invalid("only PCI devices are listed before DPDK starts").at(device.clone()));
                };
                let comma = if driver.is_empty() { "" } else { "," };
                arguments.extend(["-a".to_owned(), format!("{address}{comma}{driver}")]);
            }
        }
        arguments.extend(user.into_iter().map(str::to_owned));
        Ok((arguments, uses_hugepages))
    }
}

/// How much memory is free in hugepages of any size, in MiB.
fn free_hugepages_mib() -> u64 {
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else { return 0 };
    sizes
        .flatten()
        .filter_map(|size| {
            let name = size.file_name();
            let kib: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let free: u64 =
                fs::read_to_string(size.path().join("free_hugepages")).ok()?.trim().parse().ok()?;
            free.checked_mul(kib)
        })
        .sum::<u64>()
        / 1_024
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(user: &str, pci: &[&str], free_hugepages_mib: u64) -> Result<(String, bool)> {
        let config = EalConfig {
            pci_devices: pci.iter().map(|&device| device.to_owned()).collect(),
            arguments: user.to_owned(),
            memory_mib: 0,
        };
        let (arguments, huge) = Start { config: &config, cpu: 3, free_hugepages_mib }.arguments()?;
        Ok((arguments.join(" "), huge))
    }

    #[test]
    fn hugepages_are_used_in_memory_when_enough_are_free() {
        assert_eq!(
            arguments("", &[], EAL_MEMORY_MIB).expect("valid"),
            ("boson --no-telemetry --log-level=warning --lcores 0@3 --in-memory --no-pci".to_owned(), true)
        );
    }

    #[test]
    fn without_hugepages_normal_pages_serve() {
        let (text, huge) = arguments("", &[], EAL_MEMORY_MIB - 1).expect("valid");
        assert!(text.contains("--no-huge --no-shconf -m 256") && !text.contains("--in-memory"), "{text}");
        assert!(!huge);
    }

    #[test]
    fn the_users_arguments_come_last_and_replace_their_defaults() {
        let (text, huge) =
            arguments("--no-huge -m 512 -l 1,2 -a 0000:01:00.0", &["0000:02:00.0"], 1_024).expect("valid");
        assert!(text.ends_with("--no-shconf --no-huge -m 512 -l 1,2 -a 0000:01:00.0"), "{text}");
        assert!(!text.contains("256") && !text.contains("--lcores") && !text.contains("02:00.0"), "{text}");
        assert!(!huge);
        let (text, huge) = arguments("--socket-mem=128 -m64", &[], 0).expect("valid");
        assert!(!text.contains("--no-huge") && !text.contains("256"), "{text}");
        assert!(huge);
    }

    #[test]
    fn only_the_cards_that_are_going_to_be_opened_are_allowed() {
        let (text, _) = arguments("", &["03:00.0", "0000:04:00.1,x=1"], 0).expect("valid");
        assert!(
            text.ends_with("-a 0000:03:00.0 -a 0000:04:00.1,x=1") && !text.contains("--no-pci"),
            "{text}"
        );
    }

    #[test]
    fn what_was_started_for_both_serves_each() {
        let card = EalConfig::default().pci_devices(["0000:03:00.0".to_owned()]).arguments("-m 256");
        let disk = EalConfig::default().pci_devices(["0000:04:00.0".to_owned()]).memory_mib(512);
        let both = card.clone().and(&disk);
        assert!(both.suffices_for(&card) && both.suffices_for(&disk) && both.suffices_for(&both));
        assert!(!card.suffices_for(&both) && !card.suffices_for(&disk));
        assert!(!both.suffices_for(&card.arguments("-m 128")), "other arguments are not ignored");
        let (text, huge) =
            Start { config: &both, cpu: 0, free_hugepages_mib: 511 }.arguments().expect("valid");
        let text = text.join(" ");
        assert!(text.contains("-a 0000:03:00.0 -a 0000:04:00.0") && text.ends_with("-m 256"), "{text}");
        assert!(!huge, "511 MiB are less than the 512 that are needed");
    }

    #[test]
    fn what_would_end_the_process_is_refused() {
        for user in ["-h", "-m 1 --help", "\0"] {
            assert_eq!(arguments(user, &[], 0).expect_err("refused").kind(), ErrorKind::InvalidInput);
        }
        assert_eq!(arguments("", &["net_ring0"], 0).expect_err("refused").kind(), ErrorKind::InvalidInput);
    }
}
