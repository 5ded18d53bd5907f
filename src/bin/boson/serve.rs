//! `boson serve`: a key-value node that speaks the Redis protocol.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use boson::block::{AnyDevice, AnyNamespace, Device, Namespace, NamespaceAddress, NamespaceConfig};
use boson::net::{Net, TcpListener};
use boson::redis::{self, Config, Limits, Server};
use boson::rt::signal::Signals;
use boson::rt::time::{Clock, MonotonicClock};
use boson::rt::{self, Core, CoreConfig, CoreThread, Handle};
use boson::store::{Db, Durability, Options, RtEnv};
use boson::{Error, ErrorKind, Result};
use clap::Args;
use tracing::{error, info};

use crate::core_metrics;
use crate::inspect;
use crate::lasting::{self, Lasting};
use crate::listen::listen_on;
use crate::metrics::{self, Metric};
use crate::options::{ServerOptions, Spelled};
use crate::start;

type ServeDb = Db<RtEnv, AnyNamespace>;
type RedisServer = Server<RtEnv, AnyNamespace>;

#[derive(Args, Debug)]
pub(crate) struct ServeOptions {
    #[command(flatten)]
    server: ServerOptions,
    /// The namespace of the store: `file:PATH`, `file:PATH?size=64G`, `blk:/dev/NAME`,
    /// `nvme:BDF/NSID`, `ng:/dev/NAME` or `mem:SIZE`; with SPDK built in `spdk:pcie/BDF/NSID`,
    /// `spdk:tcp/IP:PORT/NQN/NSID` or `spdk:bdev/NAME`. `?fua=off` behind that of a device is for
    /// one that acknowledges forced writes before they are durable.
    #[arg(long, value_name = "URL", default_value = "file:boson.data")]
    store: Spelled<NamespaceAddress>,
    /// SPDK's configuration (its JSON), which makes the devices of `spdk:bdev/NAME`.
    #[arg(long, value_name = "FILE")]
    spdk_config: Option<PathBuf>,
    /// When a write is acknowledged: `none`, `interval:MS` (what is older than that survives a
    /// crash) or `sync`.
    #[arg(long, value_name = "WHEN", default_value = "interval:1000")]
    durability: Spelled<DurabilityArgument>,
    /// Clients must give the password in the first line of this file.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Answer `GET /metrics` here, in Prometheus's text format, over the kernel's network.
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,
    /// Make a new store even if the namespace holds something else. What it held is lost.
    #[arg(long)]
    format: bool,
}

impl ServeOptions {
    fn namespace_config(&self) -> NamespaceConfig {
        let config = NamespaceConfig::default().eal_arguments(self.server.eal.clone().unwrap_or_default());
        match &self.spdk_config {
            Some(path) => config.spdk_config(path),
            None => config,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct DurabilityArgument(Durability);

impl FromStr for DurabilityArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let durability = match text.split_once(':') {
            None if text == "none" => Durability::None,
            None if text == "sync" => Durability::Sync,
            Some(("interval", millis)) => match millis.parse() {
                Ok(millis @ 1..=3_600_000) => Durability::Interval(Duration::from_millis(millis)),
                _ => return Err(format!("`{millis}` is no number of milliseconds from 1 to 3600000")),
            },
            _ => return Err("write none, interval:MS (such as interval:1000) or sync".to_owned()),
        };
        Ok(Self(durability))
    }
}

pub(crate) fn run(options: &ServeOptions) -> Result<()> {
    // Before any thread starts: they inherit the blocked signals.
    let signals = start::ending_signals()?;
    start::raise_descriptor_limit();
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let on_clock = |config: CoreConfig| config.clock(Arc::clone(&clock));
    let mut configs = start::core_configs(options.server.cores.as_ref()).into_iter().map(on_clock);
    let Some(first) = configs.next() else { return Ok(()) };
    let password = options.password_file.as_deref().map(read_password).transpose()?;
    let core = Core::new(&first)?;
    core.block_on(serve(options, &signals, &clock, configs.collect(), password))
}

fn read_password(path: &Path) -> Result<Vec<u8>> {
    let failed = |reason: String| {
        Err(Error::new(ErrorKind::InvalidInput, "read password")
            .at(path.display().to_string())
            .because(reason))
    };
    let mut text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) => return failed(error.to_string()),
    };
    let end = text.iter().position(|&byte| byte == b'\n' || byte == b'\r').unwrap_or(text.len());
    text.truncate(end);
    if text.is_empty() {
        failed("its first line is empty: write the password there".to_owned())
    } else {
        Ok(text)
    }
}

async fn serve(
    options: &ServeOptions,
    signals: &Signals,
    clock: &Arc<dyn Clock>,
    further: Vec<CoreConfig>,
    password: Option<Vec<u8>>,
) -> Result<()> {
    start::share_eal(&options.server, &options.store.value, &options.namespace_config())?;
    let net = start::open_net(&options.server)?;
    let listen = options.server.listen_or(SocketAddr::from(([127, 0, 0, 1], 6380)));
    // Listening comes before opening the store: a second server must not wait for recovery to learn
    // that it is one.
    let mut listeners = Vec::new();
    for address in listen {
        listeners.push(start::bind(&net, address, &options.server).await?);
    }
    let addresses: Vec<SocketAddr> = listeners.iter().map(TcpListener::local_addr).collect();

    // Everything else that can make a start fail comes before that, too: a start that fails leaves
    // the store as it was.
    let mut cores = Vec::new();
    for (number, config) in further.into_iter().enumerate() {
        cores.push(CoreThread::start(format!("boson-{}", number + 1), &config)?);
    }
    let handles: Vec<Handle> =
        std::iter::once(rt::handle()).chain(cores.iter().map(|core| core.handle().clone())).collect();
    let _inspector = inspect::start(options.server.inspect.as_deref(), "serve", handles.clone())?;
    let scraped = options.metrics.map(|address| TcpListener::bind_on(&Net::kernel(), address)).transpose()?;
    let scraped_on = scraped.as_ref().map(TcpListener::local_addr);

    let device = AnyDevice::open_with(&options.store.value, &options.namespace_config()).await?;
    let db = open_store(options, &device).await?;
    let server = make_server(options, clock, db.clone(), &addresses, password)?;
    let (mut accepting, mut parts): (Vec<Lasting>, Vec<Lasting>) = (Vec::new(), Vec::new());
    let store = db.clone();
    parts.push(Box::pin(async move { Err(store.failed().await) }));
    let expired = Rc::clone(&server);
    parts.push(lasting::task(rt::named("expire keys").spawn(async {
        redis::expire_keys(expired).await;
        Ok(())
    })));
    for listener in listeners {
        let server = Rc::clone(&server);
        let serving = rt::named("accept").spawn(async move { redis::serve(&server, &listener).await });
        accepting.push(lasting::task(serving));
    }
    for core in &cores {
        attach(core, &server, &db, &device).await?;
        for &address in &addresses {
            accepting.push(listen_on(core, address, serve_here).await?);
        }
    }
    if let Some(listener) = scraped {
        let (server, db, net) = (Rc::clone(&server), db.clone(), net.clone());
        let collect = async move || {
            let mut metrics = collect(&server, &db, &net);
            metrics.extend(core_metrics::collect(&handles).await);
            metrics
        };
        parts.push(lasting::task(
            rt::named("metrics").spawn(async { Err(metrics::serve(listener, collect).await) }),
        ));
    }
    start::announce(&start_line(options, &addresses, scraped_on));

    let asked = async {
        server.shutdown_requested().await;
        "SHUTDOWN"
    };
    let ended = lasting::until_the_end(signals, asked, [&mut accepting, &mut parts]).await;
    server.request_shutdown();
    for listener in accepting {
        if let Err(error) = listener.await
            && ended.is_ok()
        {
            error!("{error}");
        }
    }
    for core in &cores {
        // The error of a store that has failed comes with its closing; a core that is gone has
        // taken its handles with it.
        let _ = rt::named("detach").spawn_on(core.handle(), detach).await;
    }
    drop(cores);
    let has_failed = db.health().is_err();
    if !has_failed {
        info!("closing the store");
    }
    match (ended, db.close().await) {
        (Ok(()), closed) => closed,
        (Err(loss), closed) => {
            // A store that failed before is the loss.
            if let Err(error) = closed
                && !has_failed
            {
                error!("{error}");
            }
            Err(loss)
        }
    }
}

async fn open_store(options: &ServeOptions, device: &AnyDevice) -> Result<ServeDb> {
    let namespace = device.attach().await?;
    let store = Options::default().format(options.format).durability(options.durability.value.0);
    let size_bytes = namespace.size_bytes();
    let opening = Db::open_on(RtEnv, namespace, store);
    let db = with_progress(opening, size_bytes).await?;
    Ok(db)
}

/// Says now and then that a store is still being opened.
async fn with_progress<F: Future>(opening: F, size_bytes: u64) -> F::Output {
    let started = rt::now();
    let reporter = rt::named("progress").spawn(async move {
        loop {
            rt::sleep(Duration::from_secs(2)).await;
            let waited = (rt::now() - started).as_secs();
            info!("opening the store ({} MiB), {waited} s so far: replaying its log", size_bytes >> 20);
        }
    });
    let opened = opening.await;
    reporter.cancel();
    opened
}

fn make_server(
    options: &ServeOptions,
    clock: &Arc<dyn Clock>,
    db: ServeDb,
    addresses: &[SocketAddr],
    password: Option<Vec<u8>>,
) -> Result<Rc<RedisServer>> {
    let appendfsync = match options.durability.value.0 {
        Durability::Sync => "always",
        Durability::Interval(_) => "everysec",
        Durability::None => "no",
    };
    let mut config = Config::default()
        .limits(Limits::default().max_clients(options.server.max_connections))
        .port(addresses.first().map_or(0, SocketAddr::port))
        .process_id(std::process::id())
        .appendfsync(appendfsync);
    if let Some(password) = password {
        config = config.password(password);
    }
    Server::new(RtEnv, db, Arc::clone(clock), config)
}

thread_local! {
    /// What a core that was [attached](attach) has of the server and of the store.
    static ATTACHED: RefCell<Option<(Rc<RedisServer>, ServeDb)>> = const { RefCell::new(None) };
}

/// Gives another core a handle of the store and of the server.
async fn attach(core: &CoreThread, server: &RedisServer, db: &ServeDb, device: &AnyDevice) -> Result<()> {
    let (server, db, device) = (server.shared(), db.shared(), device.clone());
    let attached = rt::named("attach").spawn_on(core.handle(), move || async move {
        let db = db.attach(&device).await?;
        ATTACHED.set(Some((server.attach(RtEnv, db.clone())?, db)));
        Ok(())
    });
    attached.await.map_err(|error| start::core_ended(&error))?
}

/// Serves the connections of a listener on this core, which was attached.
async fn serve_here(listener: TcpListener) -> Result<()> {
    match ATTACHED.with_borrow(Clone::clone) {
        Some((server, _)) => redis::serve(&server, &listener).await,
        None => Ok(()),
    }
}

/// Gives this core's handles back.
async fn detach() -> Result<()> {
    match ATTACHED.take() {
        Some((_, db)) => db.detach().await,
        None => Ok(()),
    }
}

fn start_line(options: &ServeOptions, addresses: &[SocketAddr], scraped_on: Option<SocketAddr>) -> String {
    let metrics = scraped_on.map_or_else(String::new, |address| format!(" | metrics on {address}"));
    format!(
        "boson {}: listening on {} | network {} | store {} | durability {} | cores {}{metrics}",
        env!("CARGO_PKG_VERSION"),
        start::join(addresses),
        options.server.net,
        options.store,
        options.durability,
        start::describe_cores(options.server.cores.as_ref()),
    )
}

fn collect(server: &RedisServer, db: &ServeDb, net: &Net) -> Vec<Metric> {
    let (counter, gauge) = (Metric::counter, Metric::gauge);
    let (redis, store) = (server.stats(), db.stats());
    let mut metrics = vec![
        counter("commands_total", "Redis commands run.", redis.commands),
        counter("command_errors_total", "Error replies.", redis.errors),
        counter("connections_total", "Connections accepted.", redis.connections),
        counter("connections_rejected_total", "Connections over the limit.", redis.rejected_connections),
        gauge("connections", "Connections open.", server.client_count() as u64),
        counter("received_bytes_total", "Bytes received from clients.", redis.input_bytes),
        counter("sent_bytes_total", "Bytes sent to clients.", redis.output_bytes),
        gauge("store_size_bytes", "Size of the store on its namespace.", store.size_bytes),
        gauge("store_free_bytes", "Bytes that it takes before it is full.", store.free_bytes),
        gauge("store_log_used_bytes", "Bytes of the log since the checkpoint.", store.log_used_bytes),
        gauge("store_resident_bytes", "Bytes of pages in memory.", store.resident_bytes as u64),
        counter("store_user_bytes_total", "Bytes of log records: keys and values written.", store.user_bytes),
        counter("store_log_bytes_total", "Bytes written to the log.", store.log_bytes),
        counter("store_checkpoint_bytes_total", "Bytes written by checkpoints.", store.checkpoint_bytes),
        counter("store_checkpoints_total", "Checkpoints.", store.checkpoints),
        counter("store_flushes_total", "Flushes of the namespace.", store.flushes),
        counter("store_page_loads_total", "Pages read from the namespace.", store.page_loads),
    ];
    if let Some(stack) = net.stack() {
        let (stack, device) = (stack.stats(), stack.device_stats());
        metrics.extend([
            gauge("stack_connections", "Connections of the userspace stack.", stack.connections as u64),
            counter("stack_syns_dropped_total", "SYNs over the backlog.", stack.syns_dropped_backlog),
            counter("device_rx_frames_total", "Frames received.", device.rx_frames),
            counter("device_tx_frames_total", "Frames sent.", device.tx_frames),
            counter("device_tx_dropped_total", "Frames the device had no room for.", device.tx_dropped),
            counter("device_rx_errors_total", "Frames the device lost.", device.rx_errors),
        ]);
    }
    metrics
}
