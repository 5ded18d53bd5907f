//! What kind of controller a model is.

/// A namespace of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelNamespace {
    /// Its size in blocks.
    pub blocks: u64,
    /// Its block size as a power of two.
    pub block_shift: u32,
    /// Bytes of metadata with each block; the driver refuses any.
    pub metadata_bytes: u16,
    /// Blocks that are written at once or not at all when power fails, at least 1.
    pub atomic_blocks: u16,
    /// Writes across multiples of this many blocks are not atomic; 0 if there is no such boundary.
    pub atomic_boundary_blocks: u16,
    /// Commands should not cross multiples of this many blocks; 0 if it does not say.
    pub optimal_boundary_blocks: u16,
}

impl ModelNamespace {
    /// `blocks` blocks of `1 << block_shift` bytes, each atomic by itself.
    pub fn new(blocks: u64, block_shift: u32) -> Self {
        Self {
            blocks,
            block_shift,
            metadata_bytes: 0,
            atomic_blocks: 1,
            atomic_boundary_blocks: 0,
            optimal_boundary_blocks: 0,
        }
    }
}

/// How often a model does what it should not, each in this many of 1000 cases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Noise {
    /// A completion is posted twice.
    pub duplicates: u16,
    /// A completion for no command at all is posted besides another.
    pub unknown: u16,
    /// A completion names another submission queue, or a head that is none, besides the right one.
    pub wrong: u16,
    /// An interrupt comes for nothing.
    pub spurious_interrupts: u16,
    /// A command ends with a transient status.
    pub transient: u16,
    /// A command ends with any status that there is.
    pub statuses: u16,
    /// An abort comes too late.
    pub late_aborts: u16,
}

impl Noise {
    /// A little of everything that the driver has to survive without a failed command.
    pub fn harmless() -> Self {
        Self {
            duplicates: 20,
            unknown: 20,
            wrong: 20,
            spurious_interrupts: 50,
            transient: 20,
            statuses: 0,
            late_aborts: 500,
        }
    }
}

/// When a model that a core drives does its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pace {
    /// All of it, in each turn of each core.
    AtOnce,
    /// This many steps in each turn of each core.
    Steps(u32),
    /// In no turn: somebody calls [`Model::step`](super::Model::step) or its kin, another thread
    /// perhaps, as hardware works beside the cores.
    Alone,
}

/// What kind of controller a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelOptions {
    /// Its namespaces; the first has number 1.
    pub namespaces: Vec<ModelNamespace>,
    /// The most entries of an I/O queue.
    pub max_queue_entries: u16,
    /// The most I/O queue pairs.
    pub queue_pairs: u16,
    /// DSTRD: doorbells lie `4 << doorbell_stride` bytes apart.
    pub doorbell_stride: u8,
    /// CAP.TO in units of 500 ms.
    pub timeout: u8,
    /// How many steps, or reads of CSTS, becoming ready takes; `None` is forever.
    pub ready_steps: Option<u32>,
    /// MDTS: the largest transfer is `4096 << max_transfer_shift` bytes; 0 is no limit.
    pub max_transfer_shift: u8,
    /// SGLS bits 1:0: 0 is without SGLs, 1 with any alignment, 2 with multiples of 4 bytes.
    pub sgl: u8,
    /// It has a volatile write cache.
    pub volatile_cache: bool,
    /// It has the fused compare and write.
    pub fused: bool,
    /// It takes doorbells in memory.
    pub shadow_doorbells: bool,
    /// It completes everything at once, in order, when a doorbell is written.
    pub immediate: bool,
    /// When it does what it does not do at once.
    pub pace: Pace,
    /// Its interrupts arrive at eventfds, one for each vector; otherwise cores see none.
    pub eventfds: bool,
    /// Its interrupts can be masked.
    pub maskable: bool,
    /// Its function can be reset from outside.
    pub function_reset: bool,
    /// What it does that it should not.
    pub noise: Noise,
}

impl ModelOptions {
    /// One namespace, queues of up to 1024 entries, 128 KiB per command, PRPs only, a volatile
    /// cache, fused compare and write, and no misbehaviour.
    pub fn new(namespace: ModelNamespace) -> Self {
        Self {
            namespaces: vec![namespace],
            max_queue_entries: 1024,
            queue_pairs: 8,
            doorbell_stride: 0,
            timeout: 20,
            ready_steps: Some(3),
            max_transfer_shift: 5,
            sgl: 0,
            volatile_cache: true,
            fused: true,
            shadow_doorbells: false,
            immediate: false,
            pace: Pace::AtOnce,
            eventfds: false,
            maskable: true,
            function_reset: true,
            noise: Noise::default(),
        }
    }
}
