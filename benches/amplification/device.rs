//! The page space of the namespace: equal segments that streams append to, and what lives in them.
//! It counts; it holds no bytes.

use crate::numbers::id;

/// No segment.
const NONE: u32 = u32::MAX;
pub(crate) const KINDS: usize = 5;
const STREAMS: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Leaf,
    /// Changes of one leaf, beside its image.
    Part,
    /// Changes of a family.
    Run,
    /// The inner page of a family, with its filters.
    Family,
    Map,
}

/// How a segment to be cleaned is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Victim {
    /// Sealed first.
    Oldest,
    /// Fewest live bytes.
    Greedy,
    /// Most `(1 - u) age / (1 + u)` (Rosenblum and Ousterhout).
    CostBenefit,
    /// Least `(live / free)^2 / (pages (now - up2))` (Lomet and Luo).
    Declining,
}

/// A page on the device. A dead one has no segment; its id is used again.
#[derive(Clone, Copy)]
pub(crate) struct Page {
    segment: u32,
    /// Its index among what was written to the segment.
    place: u32,
    pub(crate) bytes: u64,
    pub(crate) kind: Kind,
    /// The leaf or family or frame that it belongs to.
    pub(crate) owner: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Open,
    Sealed,
    /// Nothing is alive in it, but the last checkpoint may refer to it.
    Waiting,
}

struct Segment {
    state: State,
    used: u64,
    live: u64,
    pages: u64,
    /// When the last page here died, and the last but one.
    up1: u64,
    up2: u64,
    sealed_at: u64,
    content: Vec<u32>,
}

pub(crate) struct Device {
    pub(crate) segment_bytes: u64,
    pub(crate) reserve: usize,
    victim: Victim,
    streams: usize,
    segments: Vec<Segment>,
    free: Vec<u32>,
    pub(crate) waiting: Vec<u32>,
    open: [u32; STREAMS],
    pages: Vec<Page>,
    spare: Vec<u32>,
    /// Bytes written so far: the clock of ages.
    now: u64,
    /// Bytes written per kind, not counting what cleaning moved.
    pub(crate) written: [u64; KINDS],
    pub(crate) moved: u64,
    pub(crate) cleaned: u64,
    pub(crate) live: u64,
    /// The most segments that were not free.
    pub(crate) most_used: usize,
    /// A write found no free segment: the run means nothing from here on.
    pub(crate) full: bool,
}

impl Device {
    pub(crate) fn new(
        bytes: u64,
        segment_bytes: u64,
        reserve: usize,
        streams: usize,
        victim: Victim,
    ) -> Self {
        let count = usize::try_from(bytes / segment_bytes).expect("fits");
        let segment = |_| Segment {
            state: State::Free,
            used: 0,
            live: 0,
            pages: 0,
            up1: 0,
            up2: 0,
            sealed_at: 0,
            content: Vec::new(),
        };
        Self {
            segment_bytes,
            reserve,
            victim,
            streams,
            segments: (0..count).map(segment).collect(),
            free: (0..id(count)).rev().collect(),
            waiting: Vec::new(),
            open: [NONE; STREAMS],
            pages: Vec::new(),
            spare: Vec::new(),
            now: 0,
            written: [0; KINDS],
            moved: 0,
            cleaned: 0,
            live: 0,
            most_used: 0,
            full: false,
        }
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn segments(&self) -> usize {
        self.segments.len()
    }

    /// An id for a page that is not written yet.
    pub(crate) fn reserve_page(&mut self, kind: Kind, owner: u32) -> u32 {
        let page = Page { segment: NONE, place: 0, bytes: 0, kind, owner };
        if let Some(id) = self.spare.pop() {
            self.pages[id as usize] = page;
            return id;
        }
        self.pages.push(page);
        id(self.pages.len() - 1)
    }

    pub(crate) fn page(&self, page: u32) -> Page {
        self.pages[page as usize]
    }

    /// Whether `next` lies right behind `page`, so that one read gets both.
    pub(crate) fn follows(&self, page: u32, next: u32) -> bool {
        let (page, next) = (self.pages[page as usize], self.pages[next as usize]);
        page.segment == next.segment && page.segment != NONE && page.place + 1 == next.place
    }

    pub(crate) fn release(&mut self, page: u32) {
        self.kill(page);
        self.spare.push(page);
    }

    fn kill(&mut self, page: u32) {
        let Page { segment: at, bytes, .. } = self.pages[page as usize];
        self.pages[page as usize].segment = NONE;
        if at == NONE {
            return;
        }
        self.live -= bytes;
        let now = self.now;
        let segment = &mut self.segments[at as usize];
        segment.live -= bytes;
        segment.pages -= 1;
        (segment.up2, segment.up1) = (segment.up1, now);
        if segment.live == 0 && segment.state == State::Sealed {
            self.wait(at);
        }
    }

    fn wait(&mut self, at: u32) {
        let segment = &mut self.segments[at as usize];
        segment.state = State::Waiting;
        segment.content = Vec::new();
        self.waiting.push(at);
    }

    /// A checkpoint is durable that does not refer to the segments that wait.
    pub(crate) fn checkpoint(&mut self) {
        for at in self.waiting.drain(..) {
            let segment = &mut self.segments[at as usize];
            (segment.state, segment.used) = (State::Free, 0);
            self.free.insert(0, at);
        }
    }

    pub(crate) fn write(&mut self, page: u32, bytes: u64) {
        let kind = self.pages[page as usize].kind;
        self.written[kind as usize] += bytes;
        let stream = match (self.streams, kind) {
            (3.., Kind::Leaf) => 2,
            (4, Kind::Run | Kind::Part) => 3,
            _ => 0,
        };
        self.put(page, bytes, stream, None);
    }

    fn put(&mut self, page: u32, bytes: u64, stream: usize, inherited: Option<u64>) {
        self.kill(page);
        let mut at = self.open[stream];
        if at == NONE || self.segments[at as usize].used + bytes > self.segment_bytes {
            if at != NONE {
                let segment = &mut self.segments[at as usize];
                (segment.state, segment.sealed_at) = (State::Sealed, self.now);
                if segment.live == 0 {
                    self.wait(at);
                }
            }
            let Some(next) = self.free.pop() else {
                self.full = true;
                self.open[stream] = NONE;
                return;
            };
            self.most_used = self.most_used.max(self.segments.len() - self.free.len());
            let up = inherited.unwrap_or(self.now);
            let segment = &mut self.segments[next as usize];
            (segment.state, segment.up1, segment.up2) = (State::Open, up, up);
            self.open[stream] = next;
            at = next;
        }
        let segment = &mut self.segments[at as usize];
        segment.used += bytes;
        segment.live += bytes;
        segment.pages += 1;
        segment.content.push(page);
        let place = id(segment.content.len() - 1);
        let entry = &mut self.pages[page as usize];
        (entry.segment, entry.place, entry.bytes) = (at, place, bytes);
        self.live += bytes;
        self.now += bytes;
    }

    /// The sealed segment to be cleaned next, if any has garbage; when room is short, the one with
    /// the most.
    pub(crate) fn victim(&self) -> Option<u32> {
        let short = self.free.len() < self.reserve / 2 && self.victim != Victim::Oldest;
        let victim = if short { Victim::Greedy } else { self.victim };
        let sealed = self.segments.iter().enumerate().filter(|(_, segment)| {
            segment.state == State::Sealed && segment.live < self.segment_bytes - self.segment_bytes / 100
        });
        let cost = |segment: &Segment| {
            let live = segment.live as f64;
            let free = (self.segment_bytes - segment.live) as f64;
            let age = |since: u64| (self.now - since) as f64 + 1.0;
            match victim {
                Victim::Oldest => segment.sealed_at as f64,
                Victim::Greedy => live,
                Victim::CostBenefit => -free * age(segment.up1) / (self.segment_bytes as f64 + live),
                Victim::Declining => (live / free).powi(2) / (segment.pages as f64 * age(segment.up2)),
            }
        };
        sealed.min_by(|(_, a), (_, b)| cost(a).total_cmp(&cost(b))).map(|(index, _)| id(index))
    }

    pub(crate) fn live_in(&self, at: u32) -> u64 {
        self.segments[at as usize].live
    }

    /// The live pages of a segment in the order of their places.
    pub(crate) fn pages_in(&mut self, at: u32) -> Vec<u32> {
        self.cleaned += 1;
        let content = self.segments[at as usize].content.iter().zip(0..);
        content.filter(|&(&page, place)| self.is_at(page, at, place)).map(|(&page, _)| page).collect()
    }

    fn is_at(&self, page: u32, at: u32, place: u32) -> bool {
        let page = self.pages[page as usize];
        page.segment == at && page.place == place
    }

    /// Moves what is still in `at` to the stream of moved pages.
    pub(crate) fn move_from(&mut self, page: u32, at: u32) {
        let Page { segment, bytes, .. } = self.pages[page as usize];
        if segment == at {
            let inherited = self.segments[at as usize].up2;
            self.moved += bytes;
            self.put(page, bytes, usize::from(self.streams > 1), Some(inherited));
        }
    }

    /// Every live page is at one place of one segment, and the sums agree.
    pub(crate) fn audit(&self) {
        let mut found = vec![0; self.pages.len()];
        let mut total = 0;
        for (segment, at) in self.segments.iter().zip(0..) {
            let mut live = 0;
            for (&page, place) in segment.content.iter().zip(0..) {
                if self.is_at(page, at, place) {
                    found[page as usize] += 1;
                    live += self.pages[page as usize].bytes;
                }
            }
            assert_eq!(live, segment.live, "the live bytes of segment {at}");
            total += live;
        }
        assert_eq!(total, self.live, "the live bytes of the device");
        for (page, &count) in self.pages.iter().zip(&found) {
            assert_eq!(count, u32::from(page.segment != NONE), "places of a page");
        }
    }
}
