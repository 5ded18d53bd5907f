//! What was done in the measured time, and how long it took. Shared with `benches/peers`.

use boson::observe::Histogram;

use super::data::{KEY_BYTES, Values};
use super::workload::{Kind, Plan, Step};

/// How many wrong records are told one by one.
const MAX_TOLD: usize = 10;

/// The operations of one kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Side {
    /// Batches and scans count as one.
    pub(super) operations: u64,
    /// What they wrote or gave back.
    pub(super) records: u64,
    /// In nanoseconds.
    pub(super) latency: Histogram,
    /// Of those during which a checkpoint was under way, where checkpoints were asked for.
    pub(super) during_checkpoint: Histogram,
}

/// The operations of one task, or of all.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    sides: Vec<Side>,
    /// Records whose value was checked.
    pub(super) checked: u64,
    pub(super) wrong: u64,
    /// What is wrong with the first ones.
    pub(super) told: Vec<String>,
    /// Bytes of the keys and values that were written, and of the keys that were deleted.
    pub(super) user_bytes: u64,
}

impl Default for Counts {
    fn default() -> Self {
        let sides = vec![Side::default(); Kind::ALL.len()];
        Self { sides, checked: 0, wrong: 0, told: Vec::new(), user_bytes: 0 }
    }
}

impl Counts {
    /// Adds what another core, or a thread of a peer, counted.
    pub(super) fn merge(&mut self, other: Self) {
        for (own, other) in self.sides.iter_mut().zip(&other.sides) {
            own.operations += other.operations;
            own.records += other.records;
            own.latency.merge(&other.latency);
            own.during_checkpoint.merge(&other.during_checkpoint);
        }
        self.checked += other.checked;
        self.wrong += other.wrong;
        self.told.extend(other.told);
        self.told.truncate(MAX_TOLD);
        self.user_bytes += other.user_bytes;
    }

    /// The kinds that occurred, with what they did.
    pub(super) fn sides(&self) -> impl Iterator<Item = (Kind, &Side)> {
        Kind::ALL.iter().copied().zip(&self.sides).filter(|(_, side)| side.operations > 0)
    }

    /// How many records there are after `plan`.
    pub(super) fn live_records(&self, plan: &Plan) -> u64 {
        let records =
            |of| self.sides().filter(|(kind, _)| *kind == of).map(|(_, side)| side.records).sum::<u64>();
        let before = if plan.workload.fills() { 0 } else { plan.records };
        (before + records(Kind::Insert)).saturating_sub(records(Kind::Delete))
    }

    /// Reads, scans and single writes, and the records of batches.
    pub(super) fn operations(&self) -> u64 {
        self.sides().map(|(kind, side)| if kind == Kind::Scan { side.operations } else { side.records }).sum()
    }

    /// `step` took this many nanoseconds and had this many records.
    pub(super) fn count(
        &mut self,
        step: Step,
        records: u64,
        nanos: u64,
        during_checkpoint: bool,
        values: &Values,
    ) {
        let at = Kind::ALL.iter().position(|kind| *kind == step.kind).expect("all kinds are in the list");
        let side = &mut self.sides[at];
        side.operations += 1;
        side.records += records;
        side.latency.record(nanos);
        if during_checkpoint {
            side.during_checkpoint.record(nanos);
        }
        let bytes = match step.kind {
            Kind::Update | Kind::Insert | Kind::Modify => KEY_BYTES + values.bytes,
            Kind::Delete => KEY_BYTES,
            Kind::Read | Kind::Missing | Kind::Scan | Kind::Seek => 0,
        };
        self.user_bytes += records * bytes as u64;
    }

    /// A record was read: `found` is what its check says, `None` if it is not there.
    pub(super) fn check(&mut self, step: Step, found: Option<Result<u64, &'static str>>) {
        let wrong = match (step.kind, found) {
            (Kind::Missing, Some(_)) => Some("it was never written, and is there"),
            (_, Some(Err(why))) => Some(why),
            (Kind::Read | Kind::Modify, None) => Some("it is not there"),
            (_, Some(Ok(_)) | None) => None,
        };
        self.checked += 1;
        if let Some(why) = wrong {
            self.tell(format!("record {}: {why}", step.number));
        }
    }

    /// Something that was read is wrong.
    pub(super) fn tell(&mut self, what: String) {
        self.wrong += 1;
        if self.told.len() < MAX_TOLD {
            self.told.push(what);
        }
    }

    /// What was wrong, in one sentence; `None` if nothing was.
    pub(super) fn verdict(&self) -> Option<String> {
        (self.wrong > 0).then(|| {
            format!("{} of {} records are wrong: {}", self.wrong, self.checked, self.told.join("; "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: Values = Values { bytes: 100, seed: 1 };

    fn step(kind: Kind) -> Step {
        Step { kind, number: 7, length: 1 }
    }

    #[test]
    fn what_is_wrong_is_noticed_and_what_is_right_is_not() {
        let cases = [
            (Kind::Read, Some(Ok(1)), false),
            (Kind::Read, None, true),
            (Kind::Read, Some(Err("torn")), true),
            (Kind::Modify, None, true),
            (Kind::Missing, None, false),
            (Kind::Missing, Some(Ok(1)), true),
            (Kind::Scan, Some(Err("torn")), true),
            (Kind::Seek, None, false),
        ];
        for (kind, found, wrong) in cases {
            let mut counts = Counts::default();
            counts.check(step(kind), found);
            assert_eq!(counts.verdict().is_some(), wrong, "{kind:?} {found:?}");
        }
    }

    #[test]
    fn parts_add_up() {
        let mut all = Counts::default();
        for during in [false, true] {
            let mut one = Counts::default();
            one.count(Step { length: 10, ..step(Kind::Insert) }, 10, 100, during, &VALUES);
            one.count(step(Kind::Scan), 50, 200, during, &VALUES);
            one.count(step(Kind::Delete), 1, 300, during, &VALUES);
            all.merge(one);
        }
        assert_eq!(all.operations(), 2 * (10 + 1 + 1), "a scan is one operation, a batch is many");
        assert_eq!(all.user_bytes, 2 * (10 * 116 + 16));
        let (kind, insert) = all.sides().next().expect("there are some");
        assert_eq!((kind, insert.operations, insert.latency.count()), (Kind::Insert, 2, 2));
        assert_eq!(insert.during_checkpoint.count(), 1);
    }
}
