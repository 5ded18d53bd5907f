//! What every server does first: logging, cores, the network.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use boson::block::{NamespaceAddress, NamespaceConfig};
#[cfg(all(feature = "dpdk", feature = "spdk"))]
use boson::eal::{Eal, EalConfig};
use boson::net::address::NetAddress;
use boson::net::{Net, NetConfig, TcpListener};
use boson::rt::signal::{Signal, Signals};
use boson::rt::time::{Clock, MonotonicClock};
use boson::rt::{self, Core, CoreConfig, CoreThread, JoinError};
use boson::{Error, ErrorKind, Result};
use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::warn;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::options::{CoreList, ServerOptions};

/// Sends log lines that pass `filter` to standard error. Lines that cannot be written there are
/// lost; nothing else happens.
pub(crate) fn log_to_stderr(filter: Targets) {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        .log_internal_errors(false);
    tracing_subscriber::registry().with(lines).with(filter).init();
}

/// Takes the signals that ask a server to end: SIGTERM, SIGINT, and SIGHUP, which it gets when its
/// terminal ends. A server that was started to outlive its terminal, for example by nohup(1),
/// ignores SIGHUP and goes on ignoring it.
pub(crate) fn ending_signals() -> Result<Signals> {
    let hangup = (!Signal::Hangup.is_ignored()).then_some(Signal::Hangup);
    let signals: Vec<Signal> = [Signal::Interrupt, Signal::Terminate].into_iter().chain(hangup).collect();
    Signals::of(&signals)
}

/// Prints the line that says that a server is ready. Its reader may be gone (`| head -1`); that is
/// no error.
pub(crate) fn announce(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// One configuration per core of `cores`, on one clock; without a list one core that is not pinned.
pub(crate) fn core_configs(cores: Option<&CoreList>) -> Vec<CoreConfig> {
    cores.map_or_else(
        || vec![CoreConfig::default()],
        |list| list.0.iter().map(|&cpu| CoreConfig::default().cpu(cpu)).collect(),
    )
}

/// Runs `work` on a core of its own, that is not pinned.
pub(crate) fn on_a_core<R>(work: impl Future<Output = Result<R>>) -> Result<R> {
    on_a_core_of(None, work)
}

/// Runs `work` on the first of `cores`.
pub(crate) fn on_a_core_of<R>(cores: Option<&CoreList>, work: impl Future<Output = Result<R>>) -> Result<R> {
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    Core::new(&core_configs(cores).remove(0).clock(clock))?.block_on(work)
}

/// Starts all of `cores` but the first, which runs already.
pub(crate) fn further_cores(cores: Option<&CoreList>) -> Result<Vec<CoreThread>> {
    let configs = core_configs(cores).into_iter().enumerate().skip(1);
    configs.map(|(number, config)| CoreThread::start(format!("boson-{number}"), &config)).collect()
}

/// The cores as a start-up line names them.
pub(crate) fn describe_cores(cores: Option<&CoreList>) -> String {
    match cores {
        None => "1 (not pinned)".to_owned(),
        Some(list) => list.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    }
}

/// Starts DPDK's environment with what the network and the store both need of it, if both do: it
/// starts once per process.
#[cfg(all(feature = "dpdk", feature = "spdk"))]
pub(crate) fn share_eal(
    options: &ServerOptions,
    store: &NamespaceAddress,
    config: &NamespaceConfig,
) -> Result<()> {
    if let (NetAddress::Dpdk(net), NamespaceAddress::Spdk(store)) = (&options.net.value, store) {
        let both = EalConfig::for_device(&net.device)?.and(&boson::block::spdk::eal_config(store, config));
        Eal::init(&both)?;
    }
    Ok(())
}

/// Only a build with both shares anything.
#[cfg(not(all(feature = "dpdk", feature = "spdk")))]
pub(crate) fn share_eal(
    _options: &ServerOptions,
    _store: &NamespaceAddress,
    _config: &NamespaceConfig,
) -> Result<()> {
    Ok(())
}

/// Opens the network that the options name, on the current core.
pub(crate) fn open_net(options: &ServerOptions) -> Result<Net> {
    let cores = options.cores.as_ref().map_or(1, |list| list.0.len());
    if options.net.value != NetAddress::Kernel && cores > 1 {
        return Err(Error::new(ErrorKind::Unsupported, "open network")
            .because("the userspace stack of this version runs on one core: give --cores one CPU"));
    }
    // Room for connections that are refused with a reply, and for those that are ending.
    let config = NetConfig::default()
        .max_connections(options.max_connections.saturating_add(1024))
        .eal_arguments(options.eal.clone().unwrap_or_default());
    Net::open(&options.net.value, &config)
}

/// How long to wait for an address that is in use. The kernel closes the sockets of a killed
/// process only some time after it is gone, when it has torn down its io_uring; a supervisor may
/// have restarted it by then.
const IN_USE_PATIENCE: Duration = Duration::from_secs(1);
const IN_USE_RETRY: Duration = Duration::from_millis(5);

/// Listens on `address`, in a way that lets further cores listen there too if there are any.
pub(crate) async fn bind(net: &Net, address: SocketAddr, options: &ServerOptions) -> Result<TcpListener> {
    let give_up = rt::now() + IN_USE_PATIENCE;
    let alone = loop {
        match TcpListener::bind_on(net, address) {
            Err(error) if error.kind() == ErrorKind::InUse && rt::now() < give_up => {
                rt::sleep(IN_USE_RETRY).await;
            }
            result => break result?,
        }
    };
    if options.cores.as_ref().is_none_or(|list| list.0.len() == 1) {
        return Ok(alone);
    }
    // Bound alone first: the kernel would let another process that shares its address in the same
    // way have it too, and would give each of them a part of the connections.
    let address = alone.local_addr();
    drop(alone);
    TcpListener::bind_shared_on(net, address)
}

/// Lets the process have as many descriptors as it may: the usual limit of 1024 is fewer than the
/// connections it should hold.
pub(crate) fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(errno) = setrlimit(Resource::Nofile, limit) {
        warn!("the limit of open files stays as it is: {errno}");
    }
}

/// Addresses as a start-up line names them.
pub(crate) fn join(addresses: &[SocketAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A core's thread ended or panicked while it was needed.
pub(crate) fn core_ended(error: &JoinError) -> Error {
    Error::new(ErrorKind::Cancelled, "use another core").because(error.to_string())
}
