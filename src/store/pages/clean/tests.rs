use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::store::pages::defect::PagesDefect;
use crate::store::pages::geometry::Geometry;
use crate::store::pages::segment::{Segments, Temperature};

const ROOM: u32 = 4032;

fn segment(live: u32, pages: u32, up2: u32) -> Segment {
    let geometry = Geometry { block: 4096, segment: 256 << 10, segments: 32 };
    let mut segments = Segments::new(geometry, None::<PagesDefect>);
    let number = segments.open(Temperature::Hot).expect("free").segment;
    segments.inherit(number, up2);
    let mut segment = *segments.get(number);
    (segment.live, segment.pages) = (live, pages);
    segment
}

/// The best of all, by the formula as the paper has it.
fn exhaustive(all: &BTreeMap<u32, Candidate>, now: u32) -> Option<(u32, f64)> {
    let costs = all.iter().filter(|(_, found)| found.live < ROOM).map(|(&number, found)| {
        let (live, free) = (f64::from(found.live), f64::from(ROOM - found.live));
        (number, (live / free).powi(2) / (f64::from(found.pages) * f64::from(now - found.up2)))
    });
    costs.min_by(|a, b| a.1.total_cmp(&b.1))
}

/// Segments of random fill and age, which change; among few the best is found, among many one that
/// costs a little more.
#[test]
fn the_victim_is_the_one_of_the_formula_or_nearly() {
    let mut random = StdRng::seed_from_u64(5);
    for (count, most) in [(8, 1.0), (60, 1.0), (3000, 2.5)] {
        let mut victims = Victims::new(ROOM);
        for round in 0..400u32 {
            for _ in 0..count / 20 + 1 {
                let number = random.random_range(0..count);
                // Older ones are emptier, as they are in a store.
                let up2 = random.random_range(0..1000 + round);
                let live = random.random_range(100..=ROOM);
                // Between leaves and long values, and as many of each as there is room for.
                let pages = (live / random.random_range(40..60)).max(1);
                victims.update(number, &segment(live, pages, up2));
                if random.random_range(0..6) == 0 {
                    victims.remove(random.random_range(0..count));
                }
            }
            let now = 2000 + round;
            let chosen = victims.choose(now, false);
            let Some((best, least)) = exhaustive(&victims.candidates, now) else {
                assert_eq!(chosen, None);
                continue;
            };
            let chosen = chosen.expect("there is one");
            let found = victims.candidates[&chosen];
            let cost = cost(found.live, ROOM, found.pages, now - found.up2).expect("it has garbage");
            assert!(cost <= least * most, "{chosen} costs {cost}, {best} {least}, of {count}");
            let emptiest = victims.choose(now, true).expect("there is one");
            let least = victims.candidates.values().map(|found| found.live).min();
            assert_eq!(Some(victims.candidates[&emptiest].live), least);
        }
    }
}

#[test]
fn few_are_looked_at_however_many_there_are() {
    let mut victims = Victims::new(ROOM);
    (0..100_000).for_each(|number| victims.update(number, &segment(number % ROOM, 10, number)));
    assert_eq!(BUCKETS * OLDEST as u64, MAX_CANDIDATES as u64);
    let chosen = victims.choose(200_000, false).expect("there is one");
    assert!(victims.candidates[&chosen].live < ROOM / 32, "an empty one costs nothing");
    assert_eq!(victims.shares(7), Some((ROOM - 7, 7)));
    assert_eq!(victims.shares(100_000), None);
}

#[test]
fn age_decides_among_equals_and_nothing_is_chosen_without_garbage() {
    let mut victims = Victims::new(ROOM);
    assert_eq!(victims.choose(10, false), None);
    victims.update(1, &segment(ROOM, 60, 0));
    assert_eq!((victims.choose(10, false), victims.choose(10, true)), (None, None));
    victims.update(2, &segment(3000, 60, 9));
    victims.update(3, &segment(3000, 60, 4));
    victims.update(4, &segment(2990, 20, 8));
    assert_eq!(victims.choose(10, false), Some(3));
    assert_eq!(victims.choose(10, true), Some(4));
    victims.remove(3);
    assert_eq!(victims.choose(10, false), Some(2), "three times the pages");
}

#[test]
fn pace_is_what_keeps_the_number_of_free_segments() {
    let supply = |free| Supply { all: 800, free, reserve: 20 };
    let owed = |free, garbage, live| {
        let mut pace = CleanPace::default();
        pace.flushed(1000, (garbage, live), supply(free));
        pace.owed_bytes
    };
    assert_eq!(owed(100, 2, 8), 0, "an eighth is free");
    assert_eq!(owed(60, 5, 5), 1500, "half way to the reserve");
    assert_eq!(owed(60, 2, 8), 6000, "(1 - e) / e is 4");
    assert_eq!((owed(20, 2, 8), owed(0, 2, 8)), (8000, 8000), "twice, and never more");
    assert_eq!(owed(20, 0, 10), 2000 * 10, "no garbage to speak of");
    assert_eq!(owed(20, 0, 4000), 2000 * 12);
    assert!(supply(19).is_short() && !supply(20).is_short());

    let mut pace = CleanPace::default();
    pace.flushed(1 << 20, (1, 9), supply(50));
    let mut steps = 0;
    while pace.step() > 0 {
        assert!(pace.step() <= STEP_BYTES);
        pace.moved(pace.step());
        steps += 1;
    }
    assert!(steps > 100 && STEP_PAGES == 16);
    pace.flushed(u64::MAX, (1, u32::MAX), Supply { all: 0, free: 0, reserve: 0 });
}
