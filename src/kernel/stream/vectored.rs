//! Transfers with several buffers each.

use std::future::{Future, poll_fn};
use std::io;
use std::io::IoSlice;
use std::pin::pin;
use std::rc::Rc;

use rustix::net::{SendAncillaryBuffer, SendFlags};

use super::flow::InFlight;
use super::{Receiving, Stream};
use crate::error::Result;
use crate::kernel::transfer::{Transferred, written, written_at_once};
use crate::mem::{IoBuf, IoBufMut, vectored};
use crate::reactor::{self, ops};

impl Stream {
    /// Reads at least one byte into `bufs`, of which each is filled before the next one.
    pub(crate) async fn read_vectored<B: IoBufMut>(&self, mut bufs: Vec<B>) -> Transferred<usize, Vec<B>> {
        let room = vectored::room(&bufs);
        loop {
            if let Some(result) =
                self.take(room, |taken, bytes| vectored::fill_from_at(&mut bufs, taken, bytes))
            {
                return (result, bufs);
            }
            if self.flow.dropped.are_pending() {
                self.flow.dropped.settle().await;
                continue;
            }
            if let Some(feed) = self.feed_to_await() {
                feed.arrival().await;
                continue;
            }
            let flow = Rc::clone(&self.flow);
            let keep = move |result: io::Result<u32>, bufs: Vec<B>| {
                flow.keep(result, bufs.iter().map(IoBuf::as_slice));
            };
            let mut operation = pin!(ops::recv_vectored(&self.socket, bufs, keep));
            // Dropped before the operation: what keeps the bytes may run while that is dropped.
            let mut guard = Receiving(None);
            let (result, bufs) = poll_fn(|cx| {
                let polled = operation.as_mut().poll(cx);
                guard.set(polled.is_pending().then_some(self));
                polled
            })
            .await;
            return (self.received(result, room), bufs);
        }
    }

    /// Writes at least one byte of `bufs`, without the first `skip`, and returns how many.
    pub(crate) async fn write_vectored<B: IoBuf>(
        &self,
        bufs: Vec<B>,
        skip: usize,
    ) -> Transferred<usize, Vec<B>> {
        if reactor::may_call_directly() {
            match self.try_write_vectored(&bufs, skip) {
                Ok(None) => {}
                Ok(Some(len)) => return (Ok(len), bufs),
                Err(error) => return (Err(error), bufs),
            }
        }
        let (result, bufs) = ops::send_vectored(&self.socket, bufs, skip, InFlight::new(&self.flow)).await;
        (written(result), bufs)
    }

    fn try_write_vectored<B: IoBuf>(&self, bufs: &[B], skip: usize) -> Result<Option<usize>> {
        if self.flow.sending.get() > 0 {
            // It would overtake them.
            return Ok(None);
        }
        let parts: Vec<IoSlice<'_>> =
            vectored::parts_after(bufs, skip).take(ops::MAX_BUFFERS).map(IoSlice::new).collect();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = rustix::net::sendmsg(&self.socket, &parts, &mut SendAncillaryBuffer::default(), flags);
        written_at_once(sent)
    }
}
