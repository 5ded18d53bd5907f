//! The options of `peers store`, which are those of `boson bench store` as far as they mean
//! something to the peers.

use std::path::PathBuf;
use std::time::Duration;

use super::data::{MIN_VALUE_BYTES, Values};
use super::engine::{Durability, NAMES, Setup};
use super::workload::{Distribution, Plan, Workload};

const USAGE: &str = "usage: peers store ENGINE DIRECTORY [--workload NAME] [--distribution NAME] [--records N] \
     [--operations N] [--time SECONDS] [--value-bytes N] [--threads N] [--batch N] \
     [--durability none|interval|sync] [--cache BYTES] [--load on|off] [--warm] [--direct] [--checkpoints] \
     [--end close|abort] [--seed N] [--json]";

pub struct Options {
    pub engine: String,
    pub directory: PathBuf,
    pub plan: Plan,
    pub setup: Setup,
    /// As it was given.
    pub durability: String,
    pub load: bool,
    pub warm: bool,
    pub checkpoints: bool,
    pub abort: bool,
    pub json: bool,
    seconds: Option<u64>,
}

impl Options {
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Self {
        let (Some(engine), Some(directory)) = (arguments.next(), arguments.next()) else { usage("") };
        if !NAMES.contains(&engine.as_str()) {
            usage(&format!("`{engine}` is none of {}", NAMES.join(", ")));
        }
        let plan = Plan {
            workload: Workload::A,
            distribution: Distribution::Zipfian,
            records: 1_000_000,
            operations: None,
            batch: 1,
            tasks: 1,
            seed: 1,
        };
        let setup = Setup {
            durability: Durability::Interval(Duration::from_secs(1)),
            cache_bytes: 256 << 20,
            direct: false,
            value_bytes: 100,
        };
        let mut options = Self {
            engine,
            directory: directory.into(),
            plan,
            setup,
            durability: "interval".to_owned(),
            load: true,
            warm: false,
            checkpoints: false,
            abort: false,
            json: false,
            seconds: None,
        };
        let mut distribution = None;
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().unwrap_or_else(|| usage(&format!("{argument} takes a value")));
            match argument.as_str() {
                "--workload" => options.plan.workload = parse(&value()),
                "--distribution" => distribution = Some(parse(&value())),
                "--records" => options.plan.records = parse::<u64>(&value()).max(1),
                "--operations" => options.plan.operations = Some(parse(&value())),
                "--time" => options.seconds = Some(parse(&value())),
                "--value-bytes" => options.setup.value_bytes = parse::<usize>(&value()).max(MIN_VALUE_BYTES),
                "--threads" => options.plan.tasks = parse::<u64>(&value()).max(1),
                "--batch" => options.plan.batch = parse::<u64>(&value()).max(1),
                "--durability" => options.durability = value(),
                "--cache" => options.setup.cache_bytes = parse(&value()),
                "--load" => options.load = value() == "on",
                "--warm" => options.warm = true,
                "--direct" => options.setup.direct = true,
                "--checkpoints" => options.checkpoints = true,
                "--end" => options.abort = value() == "abort",
                "--seed" => options.plan.seed = parse(&value()),
                "--json" => options.json = true,
                other => usage(&format!("{other} is no option")),
            }
        }
        options.setup.durability = match options.durability.as_str() {
            "none" => Durability::None,
            "interval" => Durability::Interval(Duration::from_secs(1)),
            "sync" => Durability::Sync,
            other => usage(&format!("`{other}` is none of none, interval, sync")),
        };
        options.plan.distribution = distribution.unwrap_or(options.plan.workload.distribution());
        options
    }

    pub fn values(&self) -> Values {
        Values { bytes: self.setup.value_bytes, seed: self.plan.seed }
    }

    /// How long the load runs at most.
    pub fn time(&self) -> Option<Duration> {
        let is_bounded = self.plan.operations.is_some() || self.plan.workload.is_one_pass();
        self.seconds.or((!is_bounded).then_some(10)).map(Duration::from_secs)
    }
}

fn parse<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Display,
{
    text.parse().unwrap_or_else(|error| usage(&format!("`{text}`: {error}")))
}

fn usage(problem: &str) -> ! {
    eprintln!("{problem}\n{USAGE}");
    std::process::exit(2);
}
