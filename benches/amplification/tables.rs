//! The tables. Space is that of the device by live user bytes, 116 a record; "total" is bytes
//! written by user bytes.

use crate::device::{Kind, Victim};
use crate::lsm::{FJALL, ROCKSDB};
use crate::measure::{Keys, Outcome, cleaning, leveled, loaded, mixed, outcome, overwrite};
use crate::numbers::{Random, whole};
use crate::store::{Config, Costs, Fold, Scheme, Store, USER};

pub(crate) type Table = (&'static str, fn(u32));
pub(crate) const ALL: [Table; 11] = [
    ("checks", checks),
    ("schemes", schemes),
    ("space", space),
    ("runs", runs),
    ("memory", memory),
    ("cleaning", cleaning_table),
    ("full", full),
    ("peers", peers),
    ("load", load),
    ("skew", skew),
    ("ycsb-a", ycsb_a),
];

const MILLION: u32 = 1_000_000;
/// Enough for ratios: 58 MB of user bytes in 20,000 leaves and 150 families.
const HALF_A_MILLION: u32 = 500_000;

/// `bytes` times `share`.
fn part(bytes: u64, share: f64) -> u64 {
    whole(bytes as f64 * share)
}

/// What this report recommends, everything in memory, on a device of twice the data.
fn recommended(keys: u32) -> Config {
    let user = u64::from(keys) * USER;
    Config {
        scheme: Scheme::Runs,
        keys,
        areas: None,
        shared: false,
        log: user / 16,
        age: 0.75,
        device: user * 2,
        segment: (user / 512).next_power_of_two().clamp(64 << 10, 2 << 20),
        streams: 4,
        victim: Victim::Declining,
        family: 150,
        share: 1.0,
        max_runs: 24,
        fold: Fold::Room,
        clean_below: 0.4,
        store_wide: false,
        late_reuse: false,
        ascending: false,
        checked: false,
    }
}

/// With a cache of `cache` bytes: 70 % for areas, a log of half of it.
fn beyond(config: Config, cache: u64) -> Config {
    Config { areas: Some(part(cache, 0.7)), log: cache / 2, ..config }
}

/// What sections 4.1 to 4.5 say, where the device has so much room.
fn designed(config: Config) -> Config {
    Config { streams: 3, fold: Fold::Share, share: 0.4, max_runs: 12, late_reuse: true, ..config }
}

/// The same with a log of 0.4 of the data, for what is in memory.
fn designed_in_memory(config: Config) -> Config {
    let log = u64::from(config.keys) * USER * 2 / 5;
    Config { log, ..designed(config) }
}

fn on(config: Config, space: f64) -> Config {
    Config { device: part(u64::from(config.keys) * USER, space), ..config }
}

/// Conservation, the formulas of 4.4, and what is known of cleaning and of leveled trees.
fn checks(scale: u32) {
    let small = recommended(20_000);
    let mut audits = 0;
    for scheme in [Scheme::Whole, Scheme::Parts(8), Scheme::Runs] {
        for fold in [Fold::Share, Fold::Largest, Fold::Sweep, Fold::Room] {
            for (areas, late_reuse) in [(None, false), (Some(100_000), true), (Some(200_000), false)] {
                let config = Config { scheme, fold, areas, late_reuse, checked: true, ..small };
                let share = if fold == Fold::Room { 1.0 } else { 0.4 };
                let config = Config { share, family: 30, device: 6 << 20, log: 200_000, ..config };
                let mut store = loaded(Config { segment: 64 << 10, ..config });
                let mut random = Random(7);
                for _ in 0..4 {
                    store.audit();
                    for _ in 0..config.keys {
                        store.put(random.below(config.keys));
                    }
                    assert!(!store.device.full, "room for {config:?}");
                    audits += 1;
                }
                store.close();
                store.audit();
            }
        }
    }
    println!("{audits} audits: each key found once, in its newest version; bytes of segments add up");

    let config = on(recommended(HALF_A_MILLION / scale), 3.0);
    let user = u64::from(config.keys) * USER;
    for log in [0.2, 0.4, 0.8] {
        let config = Config { scheme: Scheme::Whole, log: part(user, log), ..config };
        let got = overwrite(on(config, 2.2 + log), Keys::Uniform, 3);
        // A leaf is flushed when its oldest change is `age` of the log old; the next one comes
        // after as many writes as there are leaves.
        let interval = config.age * log * 116.0 / 129.0 + 1.0 / 23.0;
        println!("whole leaves, log {log}: leaves {:.2}, formula {:.2}", got.written[0], 1.09 / interval);
    }
    for share in [0.2, 0.4, 0.8] {
        let config = Config { fold: Fold::Share, share, ..beyond(config, user / 10) };
        let got = overwrite(Config { max_runs: 60, ..config }, Keys::Uniform, 6);
        let formula = (130.0 + 1.6 + 250.0 / got.run_records) / 116.0 / share;
        println!(
            "runs, share {share}: leaves {:.2}, formula {formula:.2}; log and runs {:.2}, formula 2.2",
            got.written[Kind::Leaf as usize],
            got.log + got.written[Kind::Run as usize]
        );
    }
    println!("cleaning of 4 KiB pages, uniform; oldest first has a closed form (Desnoyers 2012):");
    for fill in [0.5, 0.7, 0.8, 0.9] {
        let alpha: f64 = 1.0 / fill;
        let mut w = -0.5_f64;
        for _ in 0..200 {
            w = -alpha * (-alpha).exp() / w.exp();
        }
        let of = |victim| cleaning(fill, victim, Keys::Uniform, 256 << 10);
        println!(
            "  fill {fill}: oldest {:.2}, formula {:.2}; greedy {:.2}; declining {:.2}",
            of(Victim::Oldest),
            alpha / (alpha + w),
            of(Victim::Greedy),
            of(Victim::Declining)
        );
    }
}

fn schemes(scale: u32) {
    let base = recommended(HALF_A_MILLION / scale);
    let user = u64::from(base.keys) * USER;
    let cold = beyond(base, user / 10);
    for which in [Keys::Uniform, Keys::Zipfian] {
        for space in [1.5, 2.0] {
            for (name, config, log) in [("in memory", base, user / 5), ("10 x cache", cold, cold.log)] {
                println!("{which:?}, {name}, device {space}; 3 overwrites");
                Outcome::head();
                let row = |name: &str, config| overwrite(on(config, space), which, 3).print(name);
                let plain = Config { log, ..config };
                row("whole leaves", Config { scheme: Scheme::Whole, ..plain });
                row("parts of leaves, 8", Config { scheme: Scheme::Parts(8), ..plain });
                let design =
                    if config.areas.is_some() { designed(config) } else { designed_in_memory(config) };
                row("runs, as designed", design);
                row("  reuse by the log", Config { late_reuse: false, ..design });
                row("  and four streams", Config { late_reuse: false, streams: 4, ..design });
                row("  and folds go round, s 0.3", Config { fold: Fold::Sweep, share: 0.3, ..plain });
                row("  and folds when room is short", plain);
                row("  and runs of the whole store", Config { store_wide: true, ..plain });
                if config.areas.is_none() {
                    row("  folds when short, log 1/16", config);
                }
            }
        }
    }
}

/// Totals by space: a fixed share of runs against what the room allows.
fn space(scale: u32) {
    let base = recommended(HALF_A_MILLION / scale);
    let cold = beyond(base, u64::from(base.keys) * USER / 10);
    let spaces = [1.3, 1.35, 1.4, 1.5, 1.6, 1.8, 2.0, 2.5];
    println!("uniform at 10 x cache, device {spaces:?}");
    let row = |name: &str, config: Config, which| {
        let totals = spaces.map(|space| overwrite(on(config, space), which, 3).short());
        println!("{name:<28} {}", totals.map(|total| format!("{total:>6}")).join(" "));
    };
    for share in [0.1, 0.2, 0.3, 0.4, 0.6] {
        row(&format!("go round, s {share}"), Config { fold: Fold::Sweep, share, ..cold }, Keys::Uniform);
    }
    for clean_below in [0.2, 0.4, 0.6] {
        row(&format!("room, clean below {clean_below}"), Config { clean_below, ..cold }, Keys::Uniform);
    }
    // Below 1.6 they clean for ever.
    for (name, scheme) in [("parts of leaves, 8", Scheme::Parts(8)), ("whole leaves", Scheme::Whole)] {
        let wide = spaces.map(|space| {
            let of = || overwrite(on(Config { scheme, ..cold }, space), Keys::Uniform, 3).short();
            if space < 1.6 { "-".into() } else { of() }
        });
        println!("{name:<28} {}", wide.map(|total| format!("{total:>6}")).join(" "));
    }
    row("room, in memory", base, Keys::Uniform);
    row("room, zipfian", cold, Keys::Zipfian);
    row("room, zipfian in memory", base, Keys::Zipfian);
}

/// Size of families, most runs, size of the log.
fn runs(scale: u32) {
    let base = recommended(HALF_A_MILLION / scale);
    let user = u64::from(base.keys) * USER;
    println!("uniform, device 1.6; leaves of a family by data / cache");
    Outcome::head();
    for ratio in [5_u32, 10, 20, 40] {
        for family in [16, 40, 150, 600] {
            let config = beyond(Config { family, ..base }, user / u64::from(ratio));
            let got = overwrite(on(config, 1.6), Keys::Uniform, 3);
            got.print(&format!("data {ratio} x cache, {family} ({:.0} a run)", got.run_records));
        }
    }
    for ratio in [5, 10, 20, 40] {
        // 64 MiB of cache are a memtable.
        let shrunk = user as f64 / f64::from(ratio) / f64::from(64 << 20);
        for (name, levels) in [("fjall", FJALL), ("RocksDB", ROCKSDB)] {
            let got = leveled(levels.scaled(shrunk), base.keys, Keys::Uniform, 3);
            println!("data {ratio} x cache, {name}: {:.2}, space {:.2} {:.2}", got.total, got.mean, got.most);
        }
    }
    for max_runs in [4, 8, 12, 16, 24, 48] {
        let config = beyond(Config { max_runs, ..base }, user / 10);
        overwrite(on(config, 1.6), Keys::Uniform, 3).print(&format!("10 x cache, at most {max_runs} runs"));
    }
}

fn memory(scale: u32) {
    let base = on(recommended(HALF_A_MILLION / scale), 1.6);
    let user = u64::from(base.keys) * USER;
    let cache = user / 10;
    println!("uniform, device 1.6");
    Outcome::head();
    for log in [0.25, 0.5, 0.75, 1.0] {
        for shared in [false, true] {
            let config = Config { shared, log: part(cache, log), ..beyond(base, cache) };
            let got = overwrite(config, Keys::Uniform, 3);
            let areas = got.area as f64 / cache as f64;
            got.print(&format!("log {log} of cache, shared {shared}, areas {areas:.2}"));
        }
    }
    for log in [0.5, 1.0, 1.5] {
        let config = Config { log: part(cache, log), ..beyond(base, cache) };
        overwrite(config, Keys::Zipfian, 3).print(&format!("zipfian, log {log} of cache"));
    }
    for log in [0.02, 0.04, 0.08, 0.16, 0.32] {
        let config = Config { log: part(user, log), ..base };
        overwrite(config, Keys::Uniform, 3).print(&format!("in memory, log {log} of data"));
    }
}

fn cleaning_table(scale: u32) {
    let base = recommended(HALF_A_MILLION / scale);
    let cold = beyond(base, u64::from(base.keys) * USER / 10);
    for which in [Keys::Uniform, Keys::Zipfian] {
        println!("{which:?}, 10 x cache, device 1.4 and 1.6: streams and victims");
        for streams in 1..=4 {
            for victim in [Victim::Greedy, Victim::CostBenefit, Victim::Declining] {
                let config = Config { streams, victim, ..cold };
                let of = |space| overwrite(on(config, space), which, 3).short();
                println!("  {streams} {:<12} {:>6} {:>6}", format!("{victim:?}"), of(1.4), of(1.6));
            }
        }
    }
    println!("uniform, 10 x cache, device 1.4 and 1.6: segment in KiB, reuse by checkpoint or log");
    for segment in [64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20] {
        let of = |late_reuse, space| {
            let config = Config { segment, late_reuse, ..cold };
            overwrite(on(config, space), Keys::Uniform, 3).short()
        };
        let (early, late) = ([1.4, 1.6].map(|at| of(false, at)), [1.4, 1.6].map(|at| of(true, at)));
        println!("  {:>5} log {early:?} checkpoint {late:?}", segment >> 10);
    }
}

/// A device of fixed size that is filled: u is live leaves by what is left for pages.
fn full(scale: u32) {
    let base = recommended(HALF_A_MILLION / scale);
    let user = u64::from(base.keys) * USER;
    let cold = beyond(base, user / 10);
    println!("pages of 4 KiB alone (greedy), and totals of runs at 10 x cache");
    for fill in [0.5, 0.7, 0.8, 0.85, 0.9, 0.92, 0.95] {
        let of = |which| cleaning(fill, Victim::Greedy, which, 256 << 10);
        let reserve = Store::new(cold).device.reserve as f64 + 4.0;
        let space = 1.10 / fill + (cold.log as f64 + reserve * cold.segment as f64) / user as f64;
        let got = [Keys::Uniform, Keys::Zipfian].map(|which| overwrite(on(cold, space), which, 3).short());
        println!(
            "  u {fill}: uniform {:.2}, zipfian {:.2}; device {space:.2}: runs {got:?}",
            of(Keys::Uniform),
            of(Keys::Zipfian)
        );
    }
}

/// Beside leveled trees with their defaults; what is in memory at half of its size, what is beyond
/// at a quarter, as are memtables, tables and levels.
fn peers(scale: u32) {
    let memory: &[f64] = &[1.5, 2.0, 2.25];
    let beyond_memory: &[f64] = &[1.35, 1.5, 1.75];
    for which in [Keys::Uniform, Keys::Zipfian] {
        for (name, keys, cache, spaces) in [
            ("2 M records in memory", 2 * MILLION, None, memory),
            ("10 x 64 MiB", 5_785_000, Some(64 << 20), beyond_memory),
        ] {
            let scale = scale * if cache.is_some() { 4 } else { 2 };
            let (keys, shrunk) = (keys / scale, 1.0 / f64::from(scale));
            println!("{name}, {which:?}: load, then 3 overwrites; space mean, most, end");
            for (name, levels) in [("fjall", FJALL), ("RocksDB", ROCKSDB)] {
                let got = leveled(levels.scaled(shrunk), keys, which, 3);
                println!(
                    "  {name:<22} load {:.2} total {:.2}, space {:.2} {:.2} {:.2}",
                    got.load, got.total, got.mean, got.most, got.end
                );
            }
            let user = u64::from(keys) * USER;
            let base = recommended(keys);
            let base = cache.map_or(base, |cache| beyond(base, part(cache, shrunk)));
            let logs = [base.log, user / 4, part(128 << 20, shrunk)];
            for &space in spaces {
                for log in &logs[..if cache.is_some() { 1 } else { 3 }] {
                    let got = overwrite(on(Config { log: *log, ..base }, space), which, 3);
                    println!(
                        "  device {space:<4}, log {:.2}: total {:>5}, space {:.2} {:.2} {:.2}",
                        *log as f64 / user as f64,
                        got.short(),
                        got.mean,
                        got.most,
                        got.closed
                    );
                }
            }
        }
    }
}

/// 10 M records in random order, and in order, with 64 MiB: a tenth of it is done, and multiplied.
fn load(scale: u32) {
    let whole = 10 * MILLION;
    let (keys, shrunk) = (whole / 10 / scale, 0.1 / f64::from(scale));
    let gigabytes = f64::from(whole) * USER as f64 / 1e9;
    let print = |name: &str, total: f64, reads: f64, read: f64| {
        let (reads, bytes) = (reads * f64::from(whole), (total + read) * gigabytes * 1e9);
        let on = |bandwidth: f64, iops: f64| bytes / bandwidth + reads / iops;
        println!(
            "{name:<34} written {:>6.2} GB ({total:>5.2}), read {:>6.2} GB in {:>10.0} reads; {:>5.1} s, {:>5.1} s",
            total * gigabytes,
            read * gigabytes,
            reads,
            on(1.5e9, 90e3),
            on(3e9, 500e3)
        );
    };
    println!("seconds at 1.5 GB/s and 90,000 reads/s, and at 3 GB/s and 500,000");
    let base = on(beyond(recommended(keys), part(64 << 20, shrunk)), 2.0);
    let run = |name: &str, config| {
        let got = outcome(loaded(config), Costs::default());
        if got.full {
            println!("{name:<34} full");
        } else {
            print(name, got.total, got.reads, got.read_bytes);
        }
    };
    run("whole leaves", Config { scheme: Scheme::Whole, ..base });
    run("parts of leaves, 8", Config { scheme: Scheme::Parts(8), ..base });
    run("runs, as designed", designed(base));
    run("runs, recommended", base);
    run("  device 1.5", on(base, 1.5));
    run("  shared areas, log of the cache", Config { shared: true, log: base.log * 2, ..base });
    run("  in order", Config { ascending: true, ..base });
    for (name, levels) in [("fjall", FJALL), ("RocksDB", ROCKSDB)] {
        let got = leveled(levels.scaled(shrunk), keys, Keys::Uniform, 0);
        // Compactions read tables in long stretches.
        print(name, got.load, got.load_read * USER as f64 / 1e6, got.load_read);
    }
}

/// Hot keys next to each other: orders of flushes and folds under skew.
fn skew(scale: u32) {
    let base = recommended(HALF_A_MILLION / scale);
    let cold = beyond(base, u64::from(base.keys) * USER / 10);
    for space in [1.5, 2.0] {
        println!("zipfian without scrambling, 10 x cache, device {space}");
        Outcome::head();
        let row = |name: &str, config| overwrite(on(config, space), Keys::Clustered, 3).print(name);
        row("parts of leaves, 8", Config { scheme: Scheme::Parts(8), ..cold });
        let design = Config { late_reuse: false, streams: 4, ..designed(cold) };
        row("runs, share 0.4, largest area first", design);
        row("runs, largest share first, s 0.3", Config { fold: Fold::Largest, share: 0.3, ..design });
        row("folds go round, s 0.3", Config { fold: Fold::Sweep, share: 0.3, ..cold });
        row("folds when room is short", cold);
    }
}

fn ycsb_a(scale: u32) {
    let base = on(recommended(HALF_A_MILLION / scale), 1.75);
    let cache = u64::from(base.keys) * USER / 10;
    println!("half gets, half overwrites, zipfian, cache a tenth: 35 % areas, 50 % cached records");
    let config = Config { areas: Some(part(cache, 0.35)), log: part(cache, 0.25), ..base };
    for (name, config) in [
        ("whole leaves", Config { scheme: Scheme::Whole, ..config }),
        ("parts of leaves, 8", Config { scheme: Scheme::Parts(8), ..config }),
        ("runs, as designed", designed(config)),
        ("runs, recommended", config),
    ] {
        let (reads, written) = mixed(config, part(cache, 0.5));
        println!("  {name:<20} reads per operation {reads:.3}, written by user bytes {written:.2}");
    }
}
