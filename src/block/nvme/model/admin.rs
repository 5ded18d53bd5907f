//! How the model executes admin commands.

use super::super::command::{Entry, admin, cns, feature, log_page};
use super::super::status::Status;
use super::disk::Disk;
use super::machine::{Machine, VERSION};

const INVALID_OPCODE: Status = Status::new(0, 0x01).do_not_retry();
const INVALID_FIELD: Status = Status::new(0, 0x02).do_not_retry();
const ABORT_REQUESTED: Status = Status::new(0, 0x07);
const SQ_DELETION: Status = Status::new(0, 0x08);
const COMMAND_SEQUENCE_ERROR: Status = Status::new(0, 0x0c).do_not_retry();
const QUEUE_INVALID: Status = Status::new(1, 0x00).do_not_retry();
const QUEUE_NUMBER_INVALID: Status = Status::new(1, 0x01).do_not_retry();
const QUEUE_SIZE_INVALID: Status = Status::new(1, 0x02).do_not_retry();
const EVENT_LIMIT: Status = Status::new(1, 0x05).do_not_retry();
const LOG_PAGE_INVALID: Status = Status::new(1, 0x09).do_not_retry();
const QUEUE_DELETION_INVALID: Status = Status::new(1, 0x0c).do_not_retry();
const MAX_EVENT_REQUESTS: usize = 4;
const NAMESPACE_CHANGED: u32 = 0x0004_0002;

impl Machine {
    pub(super) fn execute_admin(&mut self, entry: &Entry) {
        if entry.opcode() == admin::ASYNC_EVENT_REQUEST {
            if self.event_requests.len() < MAX_EVENT_REQUESTS {
                self.event_requests.push_back(entry.command_id());
                self.answer_events();
            } else {
                self.finish(0, entry, EVENT_LIMIT);
            }
            return;
        }
        match self.run_admin(entry) {
            Ok(result) => self.finish_with(0, entry, Status::SUCCESS, result),
            Err(status) => self.finish(0, entry, status),
        }
    }

    fn run_admin(&mut self, entry: &Entry) -> Result<u32, Status> {
        let half = |word: u32, upper: bool| {
            let [a, b, c, d] = word.to_le_bytes();
            u16::from_le_bytes(if upper { [c, d] } else { [a, b] })
        };
        let (number, last) = (half(entry.words[10], false), half(entry.words[10], true));
        let flags = entry.words[11];
        match entry.opcode() {
            admin::IDENTIFY => self.identify(entry),
            admin::SET_FEATURES | admin::GET_FEATURES => self.feature(entry),
            admin::CREATE_COMPLETION_QUEUE => {
                self.check_queue(number, last, entry.pair(6), flags)?;
                if self.completions.contains_key(&number) || self.refuses_queues {
                    return Err(QUEUE_NUMBER_INVALID);
                }
                let vector = (flags >> 1 & 1 == 1).then(|| half(flags, true));
                self.create_completion_queue(number, entry.pair(6), last + 1, vector);
                Ok(0)
            }
            admin::CREATE_SUBMISSION_QUEUE => {
                self.check_queue(number, last, entry.pair(6), flags)?;
                if self.submissions.contains_key(&number) {
                    return Err(QUEUE_NUMBER_INVALID);
                }
                if !self.completions.contains_key(&half(flags, true)) {
                    return Err(QUEUE_INVALID);
                }
                self.create_submission_queue(number, entry.pair(6), last + 1, half(flags, true));
                Ok(0)
            }
            admin::DELETE_SUBMISSION_QUEUE => self.delete_submission_queue(number),
            admin::DELETE_COMPLETION_QUEUE => {
                if number == 0 || self.submissions.values().any(|queue| queue.completion_queue == number) {
                    return Err(QUEUE_DELETION_INVALID);
                }
                self.completions.remove(&number).map(|_| 0).ok_or(QUEUE_NUMBER_INVALID)
            }
            admin::ABORT => Ok(u32::from(!self.abort(number, last))),
            admin::GET_LOG_PAGE => self.log(entry),
            admin::DOORBELL_BUFFER_CONFIG if self.options.shadow_doorbells => {
                let buffers = [entry.pair(6), entry.pair(8)];
                if !buffers.iter().all(|buffer| buffer.is_multiple_of(4096)) {
                    return Err(INVALID_FIELD);
                }
                self.shadow = Some(buffers);
                Ok(0)
            }
            _ => Err(INVALID_OPCODE),
        }
    }

    fn check_queue(&mut self, number: u16, last: u16, base: u64, flags: u32) -> Result<(), Status> {
        if !self.queues_granted {
            self.violation("queues are created before their number is agreed");
        }
        if number == 0 || number > self.options.queue_pairs {
            return Err(QUEUE_NUMBER_INVALID);
        }
        if last == 0 || last >= self.options.max_queue_entries {
            return Err(QUEUE_SIZE_INVALID);
        }
        if !base.is_multiple_of(4096) || flags & 1 == 0 {
            return Err(INVALID_FIELD);
        }
        Ok(())
    }

    fn delete_submission_queue(&mut self, number: u16) -> Result<u32, Status> {
        if number == 0 || !self.submissions.contains_key(&number) {
            return Err(QUEUE_NUMBER_INVALID);
        }
        let commands = std::mem::take(&mut self.fetched);
        for command in commands {
            if command.queue == number {
                self.finish(number, &command.entry, SQ_DELETION);
                if let Some(second) = &command.second {
                    self.finish(number, second, SQ_DELETION);
                }
            } else {
                self.fetched.push(command);
            }
        }
        // Completions of a queue come before the end of the command that deletes it.
        while let Some(at) = self.done.iter().position(|done| done.queue == number) {
            if !self.complete(at) {
                break;
            }
        }
        self.submissions.remove(&number);
        Ok(0)
    }

    /// True if the command will end as aborted.
    fn abort(&mut self, queue: u16, command_id: u16) -> bool {
        let late = self.options.noise.late_aborts;
        if self.chance(late) {
            return false;
        }
        let found = self.fetched.iter().position(|command| {
            command.queue == queue && command.second.is_none() && command.entry.command_id() == command_id
        });
        let Some(at) = found else { return false };
        let command = self.fetched.swap_remove(at);
        self.finish(queue, &command.entry, ABORT_REQUESTED);
        true
    }

    fn feature(&mut self, entry: &Entry) -> Result<u32, Status> {
        let set = entry.opcode() == admin::SET_FEATURES;
        match entry.words[10] & 0xff {
            feature::NUMBER_OF_QUEUES if set => {
                if self.submissions.len() > 1 || self.queues_granted {
                    return Err(COMMAND_SEQUENCE_ERROR);
                }
                self.queues_granted = true;
                let last = u32::from(self.options.queue_pairs) - 1;
                Ok(last | last << 16)
            }
            feature::VOLATILE_WRITE_CACHE if self.options.volatile_cache => {
                if set {
                    self.cache_enabled = entry.words[11] & 1 == 1;
                    if !self.cache_enabled {
                        self.disks.iter_mut().for_each(Disk::flush);
                    }
                }
                Ok(u32::from(self.cache_enabled))
            }
            feature::ASYNC_EVENT_CONFIGURATION => Ok(0),
            _ => Err(INVALID_FIELD),
        }
    }

    fn log(&mut self, entry: &Entry) -> Result<u32, Status> {
        let bytes = (usize::try_from(entry.words[10] >> 16).unwrap_or(0) + 1) * 4;
        let mut data = vec![0; bytes.max(4096)];
        let [page, ..] = entry.words[10].to_le_bytes();
        match page {
            log_page::HEALTH => {
                data[1..3].copy_from_slice(&300_u16.to_le_bytes());
                data[3] = 100;
                data[4] = 10;
                data[5] = 1;
                data[112] = 7;
            }
            log_page::CHANGED_NAMESPACES => {
                for (at, number) in self.changed.drain(..).enumerate() {
                    data[at * 4..at * 4 + 4].copy_from_slice(&number.to_le_bytes());
                }
            }
            log_page::ERROR_INFORMATION => {}
            _ => return Err(LOG_PAGE_INVALID),
        }
        self.give_to_host(entry, &data[..bytes]).map(|()| 0)
    }

    /// Changes the size of a namespace and says so.
    pub(super) fn resize(&mut self, number: u32, blocks: u64) {
        self.change_namespace(number, |disk| disk.resize(blocks));
    }

    /// Changes the block size of a namespace and says so.
    pub(super) fn reformat(&mut self, number: u32, block_shift: u32) {
        self.change_namespace(number, |disk| disk.reformat(block_shift));
    }

    fn change_namespace(&mut self, number: u32, change: impl FnOnce(&mut Disk)) {
        let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        if let Some(disk) = index.and_then(|index| self.disks.get_mut(index)) {
            change(disk);
            self.changed.push(number);
            self.report_event(NAMESPACE_CHANGED);
        }
    }

    fn identify(&mut self, entry: &Entry) -> Result<u32, Status> {
        let mut data = vec![0; 4096];
        match entry.words[10] & 0xff {
            cns::CONTROLLER => self.describe_controller(&mut data),
            cns::NAMESPACE => {
                if let Some(disk) = self.disk(entry.words[1]) {
                    self.describe_namespace(disk, &mut data);
                } else if entry.words[1] == 0 {
                    return Err(Status::new(0, 0x0b).do_not_retry());
                }
            }
            cns::ACTIVE_NAMESPACES => {
                let active = self
                    .disks
                    .iter()
                    .zip(1_u32..)
                    .filter(|(disk, number)| disk.active && *number > entry.words[1]);
                for ((_, number), at) in active.zip((0..4096).step_by(4)) {
                    data[at..at + 4].copy_from_slice(&number.to_le_bytes());
                }
            }
            _ => return Err(INVALID_FIELD),
        }
        self.give_to_host(entry, &data).map(|()| 0)
    }

    fn describe_controller(&self, data: &mut [u8]) {
        let text = |field: &mut [u8], text: &str| {
            field.fill(b' ');
            field[..text.len()].copy_from_slice(text.as_bytes());
        };
        data[0..2].copy_from_slice(&0x1b36_u16.to_le_bytes());
        text(&mut data[4..24], "model-1");
        text(&mut data[24..64], "boson modelled NVMe controller");
        text(&mut data[64..72], "1.0");
        data[77] = self.options.max_transfer_shift;
        data[80..84].copy_from_slice(&VERSION.to_le_bytes());
        data[92..96].copy_from_slice(&(1_u32 << 8).to_le_bytes());
        data[111] = 1;
        data[257] = u8::from(self.options.shadow_doorbells);
        data[258] = 3;
        data[259] = u8::try_from(MAX_EVENT_REQUESTS - 1).unwrap_or(u8::MAX);
        data[512] = 0x66;
        data[513] = 0x44;
        let count = u32::try_from(self.disks.len()).unwrap_or(u32::MAX);
        data[516..520].copy_from_slice(&count.to_le_bytes());
        data[520..522].copy_from_slice(&0b1101_u16.to_le_bytes());
        data[522] = u8::from(self.options.fused);
        data[525] = u8::from(self.options.volatile_cache);
        data[532..534].copy_from_slice(&15_u16.to_le_bytes());
        data[536] = self.options.sgl;
    }

    fn describe_namespace(&self, disk: usize, data: &mut [u8]) {
        let format = &self.disks[disk].format;
        data[0..8].copy_from_slice(&format.blocks.to_le_bytes());
        data[8..16].copy_from_slice(&format.blocks.to_le_bytes());
        data[24] = 1 << 1;
        data[33] = 1;
        let mut half = |at: usize, value: u16| data[at..at + 2].copy_from_slice(&value.to_le_bytes());
        half(36, format.atomic_blocks.saturating_sub(1));
        half(44, format.atomic_boundary_blocks.saturating_sub(1));
        half(46, format.optimal_boundary_blocks);
        half(128, format.metadata_bytes);
        data[130] = u8::try_from(format.block_shift).unwrap_or(u8::MAX);
    }
}
