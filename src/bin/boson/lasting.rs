//! What a server cannot go on without: a loss ends it, with an exit code that a supervisor sees.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use boson::rt::JoinError;
use boson::rt::signal::Signals;
use boson::{Error, ErrorKind, Result};
use tracing::info;

/// A part of a server that lasts as long as the server does. It fails when it is lost; it may also
/// end without an error, when the server is asked to end.
pub(crate) type Lasting = Pin<Box<dyn Future<Output = Result<()>>>>;

/// The part that a task does.
pub(crate) fn task(task: impl Future<Output = Result<Result<()>, JoinError>> + 'static) -> Lasting {
    Box::pin(async move {
        task.await.unwrap_or_else(|error| {
            Err(Error::new(ErrorKind::Cancelled, "run a part of the server").because(error.to_string()))
        })
    })
}

/// Waits until a signal, or `asked`, asks the server to end, or one of its `parts` is lost. Those
/// that have ended are taken out.
///
/// # Errors
///
/// The loss.
pub(crate) async fn until_the_end<const LISTS: usize>(
    signals: &Signals,
    asked: impl Future<Output = &'static str>,
    parts: [&mut Vec<Lasting>; LISTS],
) -> Result<()> {
    let (mut signal, mut asked, mut parts) = (pin!(signals.next()), pin!(asked), parts);
    poll_fn(|cx| {
        if let Poll::Ready(signal) = signal.as_mut().poll(cx) {
            info!("{:?}: ending", signal?);
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(by) = asked.as_mut().poll(cx) {
            info!("{by}: ending");
            return Poll::Ready(Ok(()));
        }
        let mut lost = None;
        for list in &mut parts {
            list.retain_mut(|part| match part.as_mut().poll(cx) {
                Poll::Pending => true,
                Poll::Ready(ended) => {
                    lost = lost.take().or(ended.err());
                    false
                }
            });
        }
        lost.map_or(Poll::Pending, |error| Poll::Ready(Err(error)))
    })
    .await
}
