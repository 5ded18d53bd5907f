//! The store in an ordinary program of threads: `cargo run --release --example store_threads`.

use std::thread;
use std::time::Instant;

use boson::store::blocking::Db;
use boson::store::{Decision, WriteOptions};

const THREADS: usize = 4;
const WORDS: usize = 2000;

fn main() -> boson::Result<()> {
    let db = Db::open("file:example.boson")?;
    let words = db.tree("words")?;
    let begin = Instant::now();
    let counted: boson::Result<()> = thread::scope(|scope| {
        let counters: Vec<_> = (0..THREADS)
            .map(|number| {
                let words = words.clone();
                scope.spawn(move || {
                    for word in 0..WORDS {
                        // As durable as the store's default says: within a second.
                        words.update(
                            format!("{:03}", word * (number + 1) % 500).as_bytes(),
                            WriteOptions::default(),
                            add_one,
                        )?;
                    }
                    Ok(())
                })
            })
            .collect();
        counters.into_iter().try_for_each(|counter| counter.join().expect("no panic"))
    });
    counted?;
    println!("{} updates of {} words in {:?}", THREADS * WORDS, words.len()?, begin.elapsed());
    for entry in words.prefix(b"01") {
        let (word, count) = entry?;
        println!(
            "{} {}",
            String::from_utf8_lossy(&word),
            u64::from_le_bytes(count.try_into().unwrap_or_default())
        );
    }
    db.close()
}

fn add_one(found: Option<&[u8]>, new: &mut Vec<u8>) -> Decision {
    let count = found.and_then(|count| count.try_into().ok()).map_or(0, u64::from_le_bytes);
    new.extend_from_slice(&(count + 1).to_le_bytes());
    Decision::Put
}
