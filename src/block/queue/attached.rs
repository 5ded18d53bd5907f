//! The namespace that a core has of a device with queues of its own.

use std::future::Future;
use std::rc::Rc;

use super::super::{Namespace, NamespaceInfo};
use super::Queue;
use super::port::{CommandKind, Port};
use super::request::Wanted;
use super::transfer::{Memory, Moved, Transfer};
use crate::error::{BufError, BufResult, Error, ErrorKind, Result};
use crate::mem::DmaBuf;
use crate::rt;

/// A namespace over a [`Port`]. Clones share its queue, which ends when the last of them is gone
/// and the device has nothing of it.
pub(crate) struct QueueNamespace<P: Port>(Rc<Handles<P>>);

/// Closes the queue when the last handle goes.
struct Handles<P: Port>(Rc<Queue<P>>);

impl<P: Port> Drop for Handles<P> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<P: Port> Clone for QueueNamespace<P> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<P: Port> QueueNamespace<P> {
    /// Has the current core poll `port`, which is of the device that `info` is about. Memory that
    /// the device cannot reach is copied to the core's arena.
    ///
    /// # Panics
    ///
    /// Outside a core.
    #[track_caller]
    pub(crate) fn attach(port: P, info: NamespaceInfo) -> Self {
        Self(Rc::new(Handles(Queue::open(port, info, rt::arena()))))
    }

    fn queue(&self) -> &Rc<Queue<P>> {
        &self.0.0
    }

    // Not an `async fn`, nor are those that call it: one would hold the memory twice, and move it
    // once more for each I/O.
    #[inline]
    fn transfer<M: Memory>(&self, kind: CommandKind, offset: u64, len: u64, memory: M) -> Moved<P, M> {
        let wanted = Wanted { kind, offset, len, then_flush: false };
        Moved(Transfer::new(self.queue(), wanted, memory))
    }
}

impl<P: Port> Namespace for QueueNamespace<P> {
    fn info(&self) -> &NamespaceInfo {
        &self.queue().info
    }

    fn size_bytes(&self) -> u64 {
        self.queue().size_bytes.get()
    }

    #[inline]
    fn read(&self, offset: u64, buf: DmaBuf) -> impl Future<Output = Result<DmaBuf, BufError<DmaBuf>>> {
        self.transfer(CommandKind::Read, offset, buf.len() as u64, buf)
    }

    #[inline]
    fn write(&self, offset: u64, buf: DmaBuf) -> impl Future<Output = Result<DmaBuf, BufError<DmaBuf>>> {
        self.transfer(CommandKind::Write { durable: false }, offset, buf.len() as u64, buf)
    }

    async fn read_vectored(
        &self,
        offset: u64,
        bufs: Vec<DmaBuf>,
    ) -> Result<Vec<DmaBuf>, BufError<Vec<DmaBuf>>> {
        self.transfer(CommandKind::Read, offset, total(&bufs), bufs).await
    }

    async fn write_vectored(
        &self,
        offset: u64,
        bufs: Vec<DmaBuf>,
    ) -> Result<Vec<DmaBuf>, BufError<Vec<DmaBuf>>> {
        self.transfer(CommandKind::Write { durable: false }, offset, total(&bufs), bufs).await
    }

    async fn write_durable(&self, offset: u64, buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        let info = self.info();
        let durable = info.forced_unit_access && info.volatile_cache;
        let wanted = Wanted {
            kind: CommandKind::Write { durable },
            offset,
            len: buf.len() as u64,
            then_flush: info.volatile_cache && !durable,
        };
        Transfer::new(self.queue(), wanted, buf).await.map(|(_, buf)| buf)
    }

    async fn flush(&self) -> Result<()> {
        if !self.info().volatile_cache || self.info().read_only {
            return Ok(());
        }
        self.transfer(CommandKind::Flush, 0, 0, ()).await.map_err(Error::from)
    }

    async fn trim(&self, offset: u64, len: u64) -> Result<()> {
        let info = self.info();
        if !info.trim {
            info.check_range("trim", offset, len, self.size_bytes())?;
            return info.check_writable("trim");
        }
        self.transfer(CommandKind::Trim, offset, len, ()).await.map_err(Error::from)
    }

    async fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        if self.info().write_zeroes {
            return self.transfer(CommandKind::WriteZeroes, offset, len, ()).await.map_err(Error::from);
        }
        self.info().check_range("write zeroes", offset, len, self.size_bytes())?;
        super::super::namespace::write_zeros(self, offset, len).await
    }

    async fn compare_and_write(
        &self,
        offset: u64,
        expected: DmaBuf,
        new: DmaBuf,
    ) -> BufResult<bool, (DmaBuf, DmaBuf)> {
        let len = new.len() as u64;
        if let Err(error) = self.info().check_compare_and_write(offset, expected.len() as u64, len) {
            return Err(BufError::new(error, (expected, new)));
        }
        let wanted = Wanted { kind: CommandKind::CompareAndWrite, offset, len, then_flush: false };
        Transfer::new(self.queue(), wanted, (expected, new)).await
    }

    async fn grow(&self, size_bytes: u64) -> Result<()> {
        if size_bytes <= self.size_bytes() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NoSpace, "grow")
            .at(self.info().name.clone())
            .because(format!("the device has {} bytes and cannot grow", self.size_bytes())))
    }

    async fn shrink(&self, _size_bytes: u64) -> Result<()> {
        // Its smallest size is the one that it has.
        Ok(())
    }
}

impl<P: Port> std::fmt::Debug for QueueNamespace<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueNamespace").field("info", self.info()).finish_non_exhaustive()
    }
}

fn total(bufs: &[DmaBuf]) -> u64 {
    bufs.iter().map(|buf| buf.len() as u64).sum()
}
