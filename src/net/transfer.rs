//! Futures of transfers, made by hand where an `async fn` would hold the buffer, and what it calls,
//! several times over: a connection's task holds the largest of its futures all the time, and with
//! thousands of connections each cache line of it is a miss.

use std::convert::identity;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::error::{BufError, BufResult, Error, ErrorKind, Outcome, with_buf};
pub(super) use crate::kernel::{Step, Transferred};
use crate::mem::{IoBuf, IoBufMut, Rest, Slice};

/// A transfer as its caller gets it: the buffer comes with the result, or in the error.
pub(super) struct Given<F>(pub(super) F);

impl<F, T, B> Future for Given<F>
where
    F: Future<Output = Transferred<T, B>> + Unpin,
{
    type Output = BufResult<T, B>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|(result, buf)| with_buf(result, buf))
    }
}

/// The same of a transfer that gives nothing besides the buffer.
pub(super) struct GivenBack<F>(pub(super) F);

impl<F, B> Future for GivenBack<F>
where
    F: Future<Output = Transferred<(), B>> + Unpin,
{
    type Output = std::result::Result<B, BufError<B>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|(result, buf)| match result {
            Ok(()) => Ok(buf),
            Err(error) => Err(BufError::new(error, buf)),
        })
    }
}

/// A stream that ended within what was to be read from it.
pub(super) fn ended_early() -> Error {
    Error::new(ErrorKind::Closed, "read").because("the stream ended before the buffer was full")
}

/// Fills all the room of `buf` by means of `read`, which reads at least one byte into the front of
/// what it is given and says how many, 0 at the end.
pub(super) fn read_exact<B, R>(
    buf: B,
    mut read: impl FnMut(Rest<B>) -> R + Unpin,
) -> impl Future<Output = Transferred<(), B>> + Unpin
where
    B: IoBufMut,
    R: Future<Output = Transferred<usize, Rest<B>>> + Unpin,
{
    let len = buf.bytes_total();
    let mut done = 0;
    let mut step = Step::Begins(buf);
    poll_fn(move |cx| {
        loop {
            let begin = |buf: B| {
                let rest = Rest::new(buf, done);
                if done < len { Ok(read(rest)) } else { Err((Ok(0), rest)) }
            };
            let (result, rest) = ready!(step.poll_with(cx, begin, identity));
            let buf = Rest::into_inner(rest);
            match result {
                Ok(read) => done += read,
                Err(error) => return Poll::Ready((Err(after(done, error)), buf)),
            }
            if done == len {
                return Poll::Ready((Ok(()), buf));
            }
            if matches!(result, Ok(0)) {
                return Poll::Ready((Err(ended_early()), buf));
            }
            step = Step::Begins(buf);
        }
    })
}

/// The error of a transfer of several parts: if some took effect, it is not true any more that
/// nothing changed.
fn after(done: usize, error: Error) -> Error {
    if done > 0 { error.outcome_is(Outcome::Unknown) } else { error }
}

/// Writes all of `buf` by means of `write`, which writes at least one byte from the front of what
/// it is given and says how many.
pub(super) fn write_all<B, W>(
    buf: B,
    mut write: impl FnMut(Slice<B>) -> W + Unpin,
) -> impl Future<Output = Transferred<(), B>> + Unpin
where
    B: IoBuf,
    W: Future<Output = Transferred<usize, Slice<B>>> + Unpin,
{
    let len = buf.bytes_init();
    let mut done = 0;
    let mut step = Step::Begins(buf);
    poll_fn(move |cx| {
        loop {
            let begin = |buf: B| {
                if done < len { Ok(write(buf.slice(done..len))) } else { Err((Ok(0), buf.slice(0..0))) }
            };
            let (result, part) = ready!(step.poll_with(cx, begin, identity));
            let buf = Slice::into_inner(part);
            match result {
                Ok(written) => done += written,
                Err(error) => return Poll::Ready((Err(after(done, error)), buf)),
            }
            if done == len {
                return Poll::Ready((Ok(()), buf));
            }
            if matches!(result, Ok(0)) {
                return Poll::Ready((Err(Error::new(ErrorKind::Closed, "write")), buf));
            }
            step = Step::Begins(buf);
        }
    })
}

/// Writes all of `bufs` by means of `write`, which writes at least one byte of what it is given
/// behind as many as it is told, and says how many.
pub(super) async fn write_all_vectored<B, W>(
    mut bufs: Vec<B>,
    mut write: impl FnMut(Vec<B>, usize) -> W,
) -> std::result::Result<Vec<B>, BufError<Vec<B>>>
where
    B: IoBuf,
    W: Future<Output = Transferred<usize, Vec<B>>>,
{
    let len: usize = bufs.iter().map(IoBuf::bytes_init).sum();
    let mut done = 0;
    while done < len {
        let (result, back) = write(bufs, done).await;
        bufs = back;
        match result {
            Ok(0) => return Err(BufError::new(Error::new(ErrorKind::Closed, "write"), bufs)),
            Ok(written) => done += written,
            Err(error) => return Err(BufError::new(after(done, error), bufs)),
        }
    }
    Ok(bufs)
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::task::Waker;

    use super::*;

    fn now<T>(future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("it waits for nothing"),
        }
    }

    /// The first `good` calls transfer two bytes each; the next one is refused.
    fn calls(mut good: usize) -> impl FnMut() -> crate::error::Result<usize> {
        move || match good.checked_sub(1) {
            Some(left) => {
                good = left;
                Ok(2)
            }
            None => Err(Error::new(ErrorKind::LimitReached, "write").outcome_is(Outcome::NotStarted)),
        }
    }

    #[test]
    fn nothing_changed_is_not_said_of_a_transfer_whose_first_parts_took_effect() {
        for (good, outcome) in [(0, Outcome::NotStarted), (1, Outcome::Unknown)] {
            let mut call = calls(good);
            let (result, buf) = now(write_all(vec![1; 4], |part| ready((call(), part))));
            assert_eq!(result.expect_err("it is refused").outcome(), outcome);
            assert_eq!(buf, [1; 4]);

            let mut call = calls(good);
            let bufs = vec![vec![1; 3], vec![2; 3]];
            let error = now(write_all_vectored(bufs, |bufs, _| ready((call(), bufs)))).expect_err("refused");
            assert_eq!(error.into_parts().0.outcome(), outcome);

            let mut call = calls(good);
            let (result, _) = now(read_exact(vec![0; 4], |rest| ready((call(), rest))));
            assert_eq!(result.expect_err("it is refused").outcome(), outcome);
        }
    }
}
