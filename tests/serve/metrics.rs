//! The Prometheus endpoint of `boson serve`, read by a strict parser of the text exposition format,
//! version 0.0.4.

use crate::support::server;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use server::{Directory, Reply, Server};

type Labels = BTreeMap<String, String>;

/// A metric as the format defines it: its kind, and its samples by the name that they have and
/// their labels.
#[derive(Debug)]
struct Family {
    kind: String,
    samples: BTreeMap<(String, Labels), f64>,
}

/// Takes an exposition apart. What the format forbids, or merely allows but does not recommend, is
/// an error.
fn parse(text: &str) -> Result<BTreeMap<String, Family>, String> {
    if !text.ends_with('\n') {
        return Err("the last line does not end".to_owned());
    }
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current: Option<String> = None;
    let mut described: Option<String> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or_else(|| format!("no help: {line}"))?;
            check_name(name)?;
            if help.is_empty() || families.contains_key(name) || described.is_some() {
                return Err(format!("a HELP that is empty, repeated or without a TYPE: {line}"));
            }
            described = Some(name.to_owned());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or_else(|| format!("no type: {line}"))?;
            if described.take().as_deref() != Some(name) || !["counter", "gauge", "histogram"].contains(&kind)
            {
                return Err(format!("a TYPE without its HELP, or of no kind: {line}"));
            }
            if (kind == "counter") != name.ends_with("_total") {
                return Err(format!("counters, and nothing else, end in _total: {line}"));
            }
            families.insert(name.to_owned(), Family { kind: kind.to_owned(), samples: BTreeMap::new() });
            current = Some(name.to_owned());
        } else {
            let (name, labels, value) = sample(line)?;
            let family = current.as_ref().filter(|family| belongs(&name, family, &families[*family].kind));
            let family = family.ok_or_else(|| format!("a sample outside its family: {line}"))?;
            let samples = &mut families.get_mut(family).expect("inserted").samples;
            if samples.insert((name, labels), value).is_some() {
                return Err(format!("a sample twice: {line}"));
            }
        }
    }
    for (name, family) in &families {
        if family.samples.is_empty() {
            return Err(format!("{name} has no sample"));
        }
        if family.kind == "histogram" {
            check_histogram(name, family)?;
        } else if family.samples.values().any(|value| *value < 0.0 || !value.is_finite()) {
            return Err(format!("{name} is negative or infinite"));
        }
    }
    Ok(families)
}

fn belongs(sample: &str, family: &str, kind: &str) -> bool {
    match sample.strip_prefix(family) {
        Some("") => kind != "histogram",
        Some(suffix) => kind == "histogram" && ["_bucket", "_sum", "_count"].contains(&suffix),
        None => false,
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let first_is_good = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == ':');
    let rest_is_good = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
    if first_is_good && rest_is_good { Ok(()) } else { Err(format!("no name: {name:?}")) }
}

/// `name{label="value",…} 12.5`
fn sample(line: &str) -> Result<(String, Labels, f64), String> {
    let bad = |why: &str| format!("{why}: {line:?}");
    let (head, value) = line.rsplit_once(' ').ok_or_else(|| bad("no value"))?;
    let value: f64 = value.parse().map_err(|_| bad("no number"))?;
    let (name, labels) = match head.split_once('{') {
        None => (head, ""),
        Some((name, labels)) => (name, labels.strip_suffix('}').ok_or_else(|| bad("labels do not end"))?),
    };
    check_name(name)?;
    let mut parsed = Labels::new();
    for label in labels.split(',').filter(|label| !label.is_empty()) {
        let (key, quoted) = label.split_once('=').ok_or_else(|| bad("no label"))?;
        check_name(key)?;
        let value = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let value =
            value.filter(|value| !value.contains(['"', '\\', '\n'])).ok_or_else(|| bad("no label value"))?;
        if parsed.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(bad("a label twice"));
        }
    }
    Ok((name.to_owned(), parsed, value))
}

/// Buckets grow with their borders, the last is `+Inf`, and equals the count; there is a sum.
fn check_histogram(name: &str, family: &Family) -> Result<(), String> {
    let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    for ((sample, labels), value) in &family.samples {
        if sample.ends_with("_bucket") {
            let mut others = labels.clone();
            let border = others.remove("le").ok_or_else(|| format!("{name}: a bucket without le"))?;
            let border = border.parse().map_err(|_| format!("{name}: le={border}"))?;
            series.entry(others).or_default().push((border, *value));
        }
    }
    let value_of = |suffix: &str, labels: &Labels| {
        family.samples.get(&(format!("{name}{suffix}"), labels.clone())).copied()
    };
    let whole: BTreeSet<&Labels> = family
        .samples
        .keys()
        .filter(|(sample, _)| !sample.ends_with("_bucket"))
        .map(|(_, labels)| labels)
        .collect();
    if whole != series.keys().collect() {
        return Err(format!("{name}: buckets, sums and counts are not of the same series"));
    }
    for (labels, buckets) in &mut series {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        if !buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1) {
            return Err(format!("{name}{labels:?}: not cumulative"));
        }
        let last = buckets.last().expect("one at least");
        if last.0 != f64::INFINITY || Some(last.1) != value_of("_count", labels) {
            return Err(format!("{name}{labels:?}: the last bucket is not all"));
        }
        if value_of("_sum", labels).is_none_or(|sum| sum < 0.0 || (sum == 0.0) != (last.1 == 0.0)) {
            return Err(format!("{name}{labels:?}: the sum does not fit"));
        }
    }
    Ok(())
}

fn scrape(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n").expect("sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("an answer in UTF-8");
    let (head, body) = response.split_once("\r\n\r\n").expect("a header");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    body.to_owned()
}

#[test]
fn a_scrape_is_well_formed_and_counts() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    let directory = Directory::new("metrics");
    let list = if cores == 2 { "0,1" } else { "0" };
    let arguments = ["--store", "mem:64M", "--cores", list, "--metrics", "127.0.0.1:0"];
    let server = Server::start(directory.path(), &arguments);
    let address = server.start_line().split("metrics on ").nth(1).expect("it says where").trim();
    let address = address.parse().expect("an address");

    let before = parse(&scrape(address)).expect("well-formed");
    let mut client = server.client();
    for number in 0..500 {
        assert_eq!(client.run(&format!("SET key:{number} v")), Reply::ok());
    }
    let text = scrape(address);
    let after = parse(&text).unwrap_or_else(|why| panic!("{why} in\n{text}"));
    let value = |families: &BTreeMap<String, Family>, name: &str, core: Option<usize>| {
        let labels = core.map(|core| ("core".to_owned(), core.to_string())).into_iter().collect();
        let family = name.strip_suffix("_count").unwrap_or(name);
        let samples = &families.get(family).unwrap_or_else(|| panic!("no {family}")).samples;
        *samples.get(&(name.to_owned(), labels)).unwrap_or_else(|| panic!("no {name} of {core:?}"))
    };
    assert_eq!(
        value(&after, "boson_commands_total", None) - value(&before, "boson_commands_total", None),
        500.0
    );
    for core in 0..cores {
        assert_eq!(value(&after, "boson_core_up", Some(core)), 1.0);
        assert!(value(&after, "boson_core_tasks", Some(core)) >= 1.0);
        for counter in ["polls", "turns", "parks", "ring_enters", "busy_seconds", "asleep_seconds"] {
            let name = format!("boson_core_{counter}_total");
            let (old, new) = (value(&before, &name, Some(core)), value(&after, &name, Some(core)));
            assert!(new >= old && (core > 0 || new > old), "{name} of core {core}: {old}, {new}");
        }
    }
    // Some core ran the commands.
    let all = |name: &str| (0..cores).map(|core| value(&after, name, Some(core))).sum::<f64>();
    let polls = all("boson_core_poll_seconds_count");
    assert!(polls > 100.0, "{polls}");
    assert!(all("boson_core_turn_seconds_count") > 100.0);
    // And some core wrote to the store's namespace, each with a handle of its own.
    for name in ["operations_total", "bytes_total", "operation_seconds_count"] {
        let written = (0..cores).map(|core| {
            let start = format!(
                "boson_namespace_{name}{{core=\"{core}\",namespace=\"mem:67108864\",operation=\"write\"}} "
            );
            let line = text.lines().find_map(|line| line.strip_prefix(&start));
            line.map_or(0.0, |value| value.parse::<f64>().expect("a number"))
        });
        assert!(written.sum::<f64>() >= 1.0, "{name}");
    }
    assert!(text.contains("boson_namespace_queue_depth{core=\"0\",namespace=\"mem:67108864\"} "), "{text}");
    assert!(server.terminate().success());
}

/// The parser notices what it is there for.
#[test]
fn the_parser_is_strict() {
    let good = "# HELP a_total A.\n# TYPE a_total counter\na_total 1\n\
                # HELP h H.\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3.5\nh_count 2\n";
    parse(good).expect("well-formed");
    for (from, to) in [
        ("# HELP a_total A.\n", ""),
        ("# TYPE a_total counter\n", ""),
        ("a_total 1\n", ""),
        ("a_total 1\n", "a_total 1\na_total 1\n"),
        ("a_total 1\n", "a_total x\n"),
        ("a_total 1\n", "a_total -1\n"),
        ("a_total 1\n", "a_total{1=\"2\"} 1\n"),
        ("a_total 1\n", "a_total{b=2} 1\n"),
        ("a_total 1\n", "b 1\n"),
        ("counter", "gauge"),
        ("h_bucket{le=\"1\"} 1", "h_bucket{le=\"1\"} 3"),
        ("h_bucket{le=\"+Inf\"} 2\n", ""),
        ("h_count 2\n", "h_count 3\n"),
        ("h_sum 3.5\n", ""),
        ("h_sum 3.5\n", "h 3.5\n"),
        ("h_count 2\n", "h_count 2"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        assert!(parse(&bad).is_err(), "{from:?} as {to:?} was taken");
    }
}
