//! Interleaved rounds and the table that comes out of them.

/// One competitor of a row. `run` does one round and returns its result in the row's unit.
pub struct Entry {
    pub name: &'static str,
    pub run: Box<dyn FnMut() -> f64>,
}

/// A competitor named `name`.
pub fn entry(name: &'static str, run: impl FnMut() -> f64 + 'static) -> Entry {
    Entry { name, run: Box::new(run) }
}

/// Which end of the scale is good, and which of several rounds counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// A time: the minimum of the rounds is what the code costs without the neighbours' noise.
    Lower,
    /// A rate: the median of the rounds counts.
    Higher,
}

/// Runs `entries` in turn, A B C A B C …, `rounds` times and prints a line for each: the counted
/// result, the range, and the ratio of the first entry's (boson's) result to it.
pub fn compare(what: &str, unit: &str, better: Better, rounds: usize, entries: Vec<Entry>) {
    let mut entries = entries;
    let mut results: Vec<Vec<f64>> = vec![Vec::new(); entries.len()];
    for _ in 0..rounds {
        for (entry, results) in entries.iter_mut().zip(&mut results) {
            results.push((entry.run)());
        }
    }
    let rows: Vec<Row> = entries
        .iter()
        .zip(results)
        .map(|(entry, results)| Row::new(entry.name, better, results, String::new()))
        .collect();
    print(what, unit, &rows);
}

/// A line of a table.
pub struct Row {
    name: String,
    counted: f64,
    min: f64,
    max: f64,
    note: String,
}

impl Row {
    pub fn new(name: &str, better: Better, mut results: Vec<f64>, note: String) -> Self {
        results.sort_by(f64::total_cmp);
        let (min, max) = (results[0], results[results.len() - 1]);
        let counted = match better {
            Better::Lower => min,
            Better::Higher => results[results.len() / 2],
        };
        Self { name: name.to_owned(), counted, min, max, note }
    }
}

/// Prints a Markdown table. The ratio is the first row's counted result divided by the row's.
pub fn print(what: &str, unit: &str, rows: &[Row]) {
    println!("\n### {what}\n");
    let noted = rows.iter().any(|row| !row.note.is_empty());
    let (title, rule) = if noted { (" notes |", "---|") } else { ("", "") };
    println!("| | {unit} | min..max | {} / it |{title}\n|---|--:|--:|--:|{rule}", rows[0].name);
    for row in rows {
        let note = if noted { format!(" {} |", row.note) } else { String::new() };
        println!(
            "| {} | {} | {}..{} | {:.2} |{note}",
            row.name,
            number(row.counted),
            number(row.min),
            number(row.max),
            rows[0].counted / row.counted
        );
    }
}

/// Three significant digits or all of the integer's.
fn number(value: f64) -> String {
    match value {
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
