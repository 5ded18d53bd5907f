//! Requests to a controller that is ready: each gets a [`Ticket`], and its answer is taken with it.

use super::super::command::{Completion, Entry, admin, cns, log_page};
use super::super::identify::{HealthLog, NamespaceIdentity};
use super::super::registers::Registers;
use super::bring_up::namespace_list;
use super::events::log;
use super::{Controller, Phase, Purpose};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::rt::Instant;

/// The most requests whose answers were not taken.
const MAX_JOBS: usize = 64;

/// What a controller has to know about an I/O queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSpec {
    /// The number of both queues, from 1 on.
    pub number: u16,
    /// How many entries each has.
    pub entries: u16,
    /// Where the device finds the submission queue.
    pub submissions: u64,
    /// Where the device finds the completion queue.
    pub completions: u64,
    /// The interrupt vector of the completion queue; without one it does not interrupt.
    pub vector: Option<u16>,
}

/// Something a controller is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// Create a completion queue and its submission queue.
    CreateQueues(QueueSpec),
    /// Delete the submission and the completion queue with this number. Commands in flight end with
    /// a status.
    DeleteQueues(u16),
    /// Abort a command, if that is still possible.
    Abort {
        /// The number of its queue.
        queue: u16,
        /// Its id.
        command_id: u16,
    },
    /// Read the SMART / Health Information log page.
    Health,
    /// Identify the namespace with this number.
    Namespace(u32),
    /// List the active namespaces.
    ActiveNamespaces,
}

impl Request {
    fn name(self) -> &'static str {
        match self {
            Self::CreateQueues(_) => "create queues",
            Self::DeleteQueues(_) => "delete queues",
            Self::Abort { .. } => "abort command",
            Self::Health => "read health log",
            Self::Namespace(_) => "identify namespace",
            Self::ActiveNamespaces => "list namespaces",
        }
    }
}

/// What a controller answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// It is done.
    Done,
    /// Whether the command was aborted; if not, it completes as if nothing had been asked.
    Aborted(bool),
    /// The health log.
    Health(Box<HealthLog>),
    /// The namespace; `None` if it is not active.
    Namespace(Option<Box<NamespaceIdentity>>),
    /// The numbers of the active namespaces.
    Namespaces(Vec<u32>),
}

/// Names a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub(super) u64);

#[derive(Debug)]
pub(super) struct Job {
    ticket: Ticket,
    request: Request,
    result: Option<Result<Reply>>,
    /// What to report once cleaning up after a failure is done.
    failed: Option<Error>,
    forgotten: bool,
}

impl<R: Registers + Clone> Controller<R> {
    /// Sends a request. Its answer comes with [`Controller::take`] after some calls of
    /// [`Controller::poll`].
    ///
    /// # Errors
    ///
    /// The controller is not ready, or too many requests are under way.
    pub fn request(&mut self, request: Request, now: Instant) -> Result<Ticket> {
        if self.phase != Phase::Ready {
            return Err(self.error(request.name()).outcome_is(Outcome::NotStarted));
        }
        let ticket = Ticket(self.next_ticket);
        if self.jobs.len() == MAX_JOBS || !self.send_step(request, ticket, 0, now) {
            return Err(Error::new(ErrorKind::LimitReached, request.name())
                .at(self.options.name.clone())
                .because("too many admin commands are under way: try again when one has ended"));
        }
        self.next_ticket += 1;
        self.jobs.push(Job { ticket, request, result: None, failed: None, forgotten: false });
        Ok(ticket)
    }

    /// The answer to a request, once.
    pub fn take(&mut self, ticket: Ticket) -> Option<Result<Reply>> {
        let at = self.jobs.iter().position(|job| job.ticket == ticket)?;
        let result = self.jobs[at].result.take()?;
        self.jobs.swap_remove(at);
        Some(result)
    }

    /// Nobody will take the answer to this request. It is carried out all the same.
    pub fn forget(&mut self, ticket: Ticket) {
        if let Some(at) = self.jobs.iter().position(|job| job.ticket == ticket) {
            if self.jobs[at].result.is_some() {
                self.jobs.swap_remove(at);
            } else {
                self.jobs[at].forgotten = true;
            }
        }
    }

    fn send_step(&mut self, request: Request, ticket: Ticket, step: u8, now: Instant) -> bool {
        let (entry, data) = match (request, step) {
            (Request::CreateQueues(spec), 0) => (create_completion_queue(&spec), false),
            (Request::CreateQueues(spec), 1) => (create_submission_queue(&spec), false),
            // The completion queue of a submission queue that could not be made goes again. One
            // that stays is written by nobody: no submission queue names it.
            (Request::CreateQueues(spec), _) => {
                (Entry::new(admin::DELETE_COMPLETION_QUEUE, 0).with(10, spec.number.into()), false)
            }
            (Request::DeleteQueues(number), 0) => {
                (Entry::new(admin::DELETE_SUBMISSION_QUEUE, 0).with(10, number.into()), false)
            }
            (Request::DeleteQueues(number), _) => {
                (Entry::new(admin::DELETE_COMPLETION_QUEUE, 0).with(10, number.into()), false)
            }
            (Request::Abort { queue, command_id }, _) => {
                let which = u32::from(queue) | u32::from(command_id) << 16;
                (Entry::new(admin::ABORT, 0).with(10, which), false)
            }
            (Request::Health, _) => (log(log_page::HEALTH, 128), true),
            (Request::Namespace(number), _) => {
                (Entry::new(admin::IDENTIFY, number).with(10, cns::NAMESPACE), true)
            }
            (Request::ActiveNamespaces, _) => {
                (Entry::new(admin::IDENTIFY, 0).with(10, cns::ACTIVE_NAMESPACES), true)
            }
        };
        self.send(entry, data, Purpose::Job(ticket, step), now)
    }

    pub(super) fn job_answered(
        &mut self,
        ticket: Ticket,
        step: u8,
        index: usize,
        completion: &Completion,
        now: Instant,
    ) {
        let Some(at) = self.jobs.iter().position(|job| job.ticket == ticket) else { return };
        let request = self.jobs[at].request;
        let success = completion.status.is_success();
        let failed =
            (!success).then(|| completion.status.error(request.name(), false).at(self.options.name.clone()));
        let next = match (request, step, success) {
            (Request::CreateQueues(_) | Request::DeleteQueues(_), 0, true) => Some(1),
            (Request::CreateQueues(_), 1, false) => Some(2),
            _ => None,
        };
        if let Some(error) = failed
            && self.jobs[at].failed.is_none()
        {
            self.jobs[at].failed = Some(error);
        }
        if let Some(next) = next
            && self.send_step(request, ticket, next, now)
        {
            return;
        }
        let result = match self.jobs[at].failed.take() {
            Some(error) => Err(error),
            None if next.is_some() => Err(Error::new(ErrorKind::LimitReached, request.name())
                .at(self.options.name.clone())
                .because("too many admin commands are under way")),
            None => Ok(match request {
                Request::CreateQueues(_) | Request::DeleteQueues(_) => Reply::Done,
                // Base 5.1: bit 0 set says that it was not aborted.
                Request::Abort { .. } => Reply::Aborted(completion.result & 1 == 0),
                Request::Health => Reply::Health(Box::new(HealthLog::parse(&self.page(index)))),
                Request::Namespace(number) => {
                    let found = NamespaceIdentity::parse(&self.page(index), number);
                    self.namespaces.retain(|known| known.number != number);
                    self.namespaces.extend(found.clone());
                    self.namespaces.sort_unstable_by_key(|known| known.number);
                    Reply::Namespace(found.map(Box::new))
                }
                Request::ActiveNamespaces => Reply::Namespaces(namespace_list(&self.page(index))),
            }),
        };
        self.finish(at, result);
    }

    fn finish(&mut self, at: usize, result: Result<Reply>) {
        if self.jobs[at].forgotten {
            self.jobs.swap_remove(at);
        } else {
            self.jobs[at].result = Some(result);
        }
    }

    pub(super) fn fail_jobs(&mut self, why: &'static str) {
        let name = self.options.name.clone();
        self.jobs.retain(|job| !job.forgotten);
        for job in self.jobs.iter_mut().filter(|job| job.result.is_none()) {
            let error = Error::new(ErrorKind::Cancelled, job.request.name()).at(name.clone()).because(why);
            job.result = Some(Err(error));
        }
    }
}

/// Bit 0 of dword 11: the queue is physically contiguous.
const CONTIGUOUS: u32 = 1;
/// Bit 1 of dword 11: the completion queue interrupts.
const INTERRUPTS: u32 = 1 << 1;

fn create_completion_queue(spec: &QueueSpec) -> Entry {
    let interrupts = spec.vector.map_or(0, |vector| INTERRUPTS | u32::from(vector) << 16);
    Entry::new(admin::CREATE_COMPLETION_QUEUE, 0)
        .data(spec.completions, 0)
        .with(10, u32::from(spec.number) | u32::from(spec.entries - 1) << 16)
        .with(11, CONTIGUOUS | interrupts)
}

fn create_submission_queue(spec: &QueueSpec) -> Entry {
    Entry::new(admin::CREATE_SUBMISSION_QUEUE, 0)
        .data(spec.submissions, 0)
        .with(10, u32::from(spec.number) | u32::from(spec.entries - 1) << 16)
        .with(11, CONTIGUOUS | u32::from(spec.number) << 16)
}
