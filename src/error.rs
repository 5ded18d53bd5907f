//! One error type for every layer: what went wrong, in which operation, where, and whether it may
//! have happened.

use std::borrow::Cow;
use std::fmt;
use std::io;

/// The result of a fallible boson operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The result of an operation that was given a buffer: what it gives and the buffer, or an error
/// that carries the buffer.
///
/// `?` works on it where the buffer is of no use after an error:
///
/// ```
/// # async fn read(stream: &boson::net::TcpStream) -> boson::Result<()> {
/// let (len, buf) = stream.read(Vec::with_capacity(4096)).await?;
/// assert_eq!(len, buf.len());
/// # Ok(())
/// # }
/// ```
pub type BufResult<T, B> = std::result::Result<(T, B), BufError<B>>;

/// An [`Error`] of an operation that was given a buffer, with that buffer. Becomes an [`Error`] by
/// `?`.
pub struct BufError<B> {
    error: Error,
    buf: B,
}

impl<B> BufError<B> {
    /// An operation on `buf` failed with `error`.
    pub fn new(error: Error, buf: B) -> Self {
        Self { error, buf }
    }

    /// What went wrong, and the buffer.
    pub fn into_parts(self) -> (Error, B) {
        (self.error, self.buf)
    }

    /// The buffer.
    pub fn into_buf(self) -> B {
        self.buf
    }

    /// The same error with another buffer.
    pub fn map_buf<C>(self, map: impl FnOnce(B) -> C) -> BufError<C> {
        BufError { error: self.error, buf: map(self.buf) }
    }
}

impl<B> std::ops::Deref for BufError<B> {
    type Target = Error;

    fn deref(&self) -> &Error {
        &self.error
    }
}

impl<B> fmt::Debug for BufError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<B> fmt::Display for BufError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<B> std::error::Error for BufError<B> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}

impl<B> From<BufError<B>> for Error {
    fn from(error: BufError<B>) -> Self {
        error.error
    }
}

impl<B> From<BufError<B>> for std::io::Error {
    fn from(error: BufError<B>) -> Self {
        error.error.into()
    }
}

/// The result of an operation that was given a buffer, from what became of it.
pub(crate) fn with_buf<T, B>(result: Result<T>, buf: B) -> BufResult<T, B> {
    match result {
        Ok(output) => Ok((output, buf)),
        Err(error) => Err(BufError { error, buf }),
    }
}

/// For unit tests that look at the buffer also after an error.
#[cfg(test)]
pub(crate) trait Parts<T, B> {
    fn parts(self) -> (Result<T>, B);
}

#[cfg(test)]
impl<T, B> Parts<T, B> for BufResult<T, B> {
    fn parts(self) -> (Result<T>, B) {
        without_buf(self)
    }
}

/// What became of an operation, and its buffer.
pub(crate) fn without_buf<T, B>(result: BufResult<T, B>) -> (Result<T>, B) {
    match result {
        Ok((output, buf)) => (Ok(output), buf),
        Err(error) => (Err(error.error), error.buf),
    }
}

/// The class of an error: what a program branches on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system or a device reported the code in [`Error::code`].
    Os,
    /// The process lacks the right to do it.
    PermissionDenied,
    /// There is no memory left for it.
    OutOfMemory,
    /// An argument, address or option is outside what the operation accepts.
    InvalidInput,
    /// The named thing does not exist.
    NotFound,
    /// The named thing exists already, or is held by someone else.
    InUse,
    /// The peer or the resource went away.
    Closed,
    /// The deadline passed.
    TimedOut,
    /// The operation was cancelled.
    Cancelled,
    /// The code that was to do it panicked.
    Panicked,
    /// A stated limit (connections, bytes, entries) is reached.
    LimitReached,
    /// No space is left on the namespace. Nothing of the refused operation was applied.
    NoSpace,
    /// Stored or received bytes fail their checksum or break their format.
    Corrupt,
    /// A namespace holds data that boson did not write.
    ForeignData,
    /// A namespace was written by a newer or otherwise unsupported version of the format.
    UnsupportedFormat,
    /// This build, kernel or device cannot do it.
    Unsupported,
}

/// Whether the failed operation may have taken effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It was refused, or failed before it had an effect: nothing changed.
    NotStarted,
    /// It was cancelled before it took effect.
    Cancelled,
    /// It may have taken effect, wholly or in part. True unless something else is known.
    #[default]
    Unknown,
}

impl ErrorKind {
    /// Whether an operation that boson ends with this kind was refused before it began.
    const fn is_refusal(self) -> bool {
        match self {
            Self::PermissionDenied
            | Self::InvalidInput
            | Self::NotFound
            | Self::InUse
            | Self::LimitReached
            | Self::NoSpace
            | Self::ForeignData
            | Self::UnsupportedFormat
            | Self::Unsupported => true,
            Self::Os
            | Self::OutOfMemory
            | Self::Closed
            | Self::TimedOut
            | Self::Cancelled
            | Self::Panicked
            | Self::Corrupt => false,
        }
    }
}

/// An error with its original code, its operation, its place and its outcome.
///
/// One pointer wide, so that `Result<usize>` stays small on hot paths.
pub struct Error(Box<Repr>);

/// How many causes of an error are printed.
const MAX_CAUSES: usize = 16;

struct Repr {
    kind: ErrorKind,
    code: Option<i32>,
    operation: &'static str,
    place: Option<Cow<'static, str>>,
    detail: Option<Cow<'static, str>>,
    /// `None` if nobody said: [`Outcome::Unknown`].
    outcome: Option<Outcome>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` in `operation` (a short name such as `"read"` or `"open namespace"`).
    ///
    /// The outcome is [`NotStarted`](Outcome::NotStarted) if the kind says that the operation was
    /// refused (`InvalidInput`, `NoSpace`, `Unsupported` and their like), and otherwise
    /// [`Unknown`](Outcome::Unknown); [`Error::outcome_is`] says better.
    #[cold]
    pub fn new(kind: ErrorKind, operation: &'static str) -> Self {
        Self(Box::new(Repr {
            kind,
            code: None,
            operation,
            place: None,
            detail: None,
            outcome: kind.is_refusal().then_some(Outcome::NotStarted),
            source: None,
        }))
    }

    /// An error that the operating system reported as the positive `errno` code `code`. Its outcome
    /// is [`Unknown`](Outcome::Unknown): the system may report a full disk after it has written a
    /// part.
    #[cold]
    pub fn os(code: i32, operation: &'static str) -> Self {
        let kind = match code {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => ErrorKind::NotFound,
            libc::EEXIST | libc::EBUSY | libc::EADDRINUSE => ErrorKind::InUse,
            libc::ECONNRESET | libc::EPIPE | libc::ENOTCONN | libc::ESHUTDOWN => ErrorKind::Closed,
            libc::ETIMEDOUT => ErrorKind::TimedOut,
            libc::ECANCELED => ErrorKind::Cancelled,
            libc::ENOSPC | libc::EDQUOT => ErrorKind::NoSpace,
            libc::EMFILE | libc::ENFILE => ErrorKind::LimitReached,
            libc::EPERM | libc::EACCES => ErrorKind::PermissionDenied,
            libc::ENOMEM => ErrorKind::OutOfMemory,
            libc::EOPNOTSUPP | libc::ENOSYS => ErrorKind::Unsupported,
            _ => ErrorKind::Os,
        };
        let mut error = Self::new(kind, operation);
        error.0.code = Some(code);
        error.0.outcome = None;
        error
    }

    /// The error of a call of `std` that failed with `error`: as [`Error::os`] if it has a code,
    /// else of the kind that corresponds to its own, with its sentence. A boson error that it was
    /// made of ([`From<Error>`](#impl-From<Error>-for-Error)) is the new one's source, and gives it
    /// its kind, code and outcome.
    #[cold]
    pub fn io(error: io::Error, operation: &'static str) -> Self {
        if let Some(code) = error.raw_os_error() {
            return Self::os(code, operation);
        }
        let error = match error.downcast::<Self>() {
            Ok(inner) => {
                let mut error = Self::new(inner.kind(), operation);
                error.0.outcome = inner.0.outcome;
                error.0.code = inner.code();
                return error.caused_by(inner);
            }
            Err(error) => error,
        };
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            io::ErrorKind::OutOfMemory => ErrorKind::OutOfMemory,
            io::ErrorKind::InvalidInput => ErrorKind::InvalidInput,
            io::ErrorKind::AlreadyExists | io::ErrorKind::AddrInUse | io::ErrorKind::ResourceBusy => {
                ErrorKind::InUse
            }
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::WriteZero => ErrorKind::Closed,
            io::ErrorKind::TimedOut => ErrorKind::TimedOut,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            io::ErrorKind::InvalidData => ErrorKind::Corrupt,
            io::ErrorKind::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::Os,
        };
        let mut described = Self::new(kind, operation).because(error.to_string());
        described.0.outcome = None;
        described
    }

    /// The same error, with the place (an address, a path, an offset) it happened at.
    #[must_use]
    pub fn at(mut self, place: impl Into<Cow<'static, str>>) -> Self {
        self.0.place = Some(place.into());
        self
    }

    /// The same error, with a sentence that says what is wrong and what to do.
    #[must_use]
    pub fn because(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// The same error, with whether the operation may have taken effect.
    #[must_use]
    pub fn outcome_is(mut self, outcome: Outcome) -> Self {
        self.0.outcome = Some(outcome);
        self
    }

    /// The same error, with the error that caused it.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The operating system's or the device's own code.
    pub fn code(&self) -> Option<i32> {
        self.0.code
    }

    /// The operation that failed.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// Where it failed.
    pub fn place(&self) -> Option<&str> {
        self.0.place.as_deref()
    }

    /// The sentence that says what is wrong, if it has one of its own.
    pub(crate) fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// Whether the operation may have taken effect.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome.unwrap_or_default()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let repr = &*self.0;
        f.write_str(repr.operation)?;
        if let Some(place) = &repr.place {
            write!(f, " {place}")?;
        }
        match (&repr.detail, repr.code) {
            (Some(detail), _) => write!(f, ": {detail}")?,
            (None, Some(code)) => write!(f, ": {}", io::Error::from_raw_os_error(code))?,
            (None, None) => write!(f, ": {}", describe(repr.kind))?,
        }
        match repr.outcome {
            // A failed read or open need not say so.
            None | Some(Outcome::NotStarted) => Ok(()),
            Some(Outcome::Cancelled) => f.write_str(" (cancelled)"),
            Some(Outcome::Unknown) => f.write_str(" (it may have taken effect)"),
        }
    }
}

fn describe(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Os => "the operating system refused",
        ErrorKind::PermissionDenied => "permission denied",
        ErrorKind::OutOfMemory => "out of memory",
        ErrorKind::InvalidInput => "invalid input",
        ErrorKind::NotFound => "not found",
        ErrorKind::InUse => "already in use",
        ErrorKind::Closed => "closed by the other side",
        ErrorKind::TimedOut => "the deadline passed",
        ErrorKind::Cancelled => "cancelled",
        ErrorKind::Panicked => "panicked",
        ErrorKind::LimitReached => "a limit is reached",
        ErrorKind::NoSpace => "no space left",
        ErrorKind::Corrupt => "corrupt data",
        ErrorKind::ForeignData => "the namespace holds data that boson did not write",
        ErrorKind::UnsupportedFormat => "unsupported format version",
        ErrorKind::Unsupported => "not supported here",
    }
}

impl fmt::Debug for Error {
    /// What a person reads when `main` returns the error or somebody unwraps it: the sentence and
    /// those of its causes. `{:#?}` gives the fields.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let repr = &*self.0;
        if f.alternate() {
            return f
                .debug_struct("Error")
                .field("kind", &repr.kind)
                .field("code", &repr.code)
                .field("operation", &repr.operation)
                .field("place", &repr.place)
                .field("detail", &repr.detail)
                .field("outcome", &self.outcome())
                .field("source", &repr.source)
                .finish();
        }
        fmt::Display::fmt(self, f)?;
        let mut cause = std::error::Error::source(self);
        for _ in 0..MAX_CAUSES {
            let Some(error) = cause else { break };
            write!(f, "\n  because: {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<Error> for io::Error {
    /// The kind is that which `std` gives to the error's code, if it has one that `std` knows; else
    /// the one that corresponds to the error's own. The error is the new one's
    /// [source](io::Error::get_ref).
    fn from(error: Error) -> Self {
        // What `std` says of a code that it does not know; the kind has no stable name.
        let unknown = io::Error::from_raw_os_error(i32::MAX).kind();
        let by_code = error.code().map(|code| io::Error::from_raw_os_error(code).kind());
        let kind = by_code.filter(|kind| *kind != unknown).unwrap_or(match error.kind() {
            ErrorKind::Closed => io::ErrorKind::ConnectionReset,
            ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
            ErrorKind::OutOfMemory => io::ErrorKind::OutOfMemory,
            ErrorKind::InvalidInput => io::ErrorKind::InvalidInput,
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::InUse => io::ErrorKind::AddrInUse,
            ErrorKind::TimedOut => io::ErrorKind::TimedOut,
            ErrorKind::NoSpace => io::ErrorKind::StorageFull,
            ErrorKind::Corrupt | ErrorKind::ForeignData | ErrorKind::UnsupportedFormat => {
                io::ErrorKind::InvalidData
            }
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            // Not `Interrupted`: readers and writers take that for a request to try again.
            ErrorKind::Os | ErrorKind::Cancelled | ErrorKind::Panicked | ErrorKind::LimitReached => {
                io::ErrorKind::Other
            }
        });
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_changed_is_claimed_only_where_it_is_known() {
        assert_eq!(Outcome::default(), Outcome::Unknown);
        assert_eq!(Error::new(ErrorKind::NoSpace, "put").outcome(), Outcome::NotStarted);
        assert_eq!(Error::new(ErrorKind::Closed, "write").outcome(), Outcome::Unknown);
        // A file system that fills up may have written a part.
        assert_eq!(Error::os(libc::ENOSPC, "write").outcome(), Outcome::Unknown);
        assert_eq!(Error::io(io::ErrorKind::StorageFull.into(), "write").outcome(), Outcome::Unknown);
        let claimed = Error::os(libc::ECONNREFUSED, "connect to").outcome_is(Outcome::NotStarted);
        assert_eq!(claimed.outcome(), Outcome::NotStarted);
    }

    #[test]
    fn display_says_operation_place_reason_and_outcome() {
        let error = Error::os(libc::EIO, "write").at("file:/x offset 4096").outcome_is(Outcome::Unknown);
        assert_eq!(
            error.to_string(),
            "write file:/x offset 4096: Input/output error (os error 5) (it may have taken effect)"
        );
        assert_eq!((error.kind(), error.code()), (ErrorKind::Os, Some(libc::EIO)));
    }

    /// What `main` prints that returns it.
    #[test]
    fn debug_is_a_sentence_with_its_causes() {
        let cause = Error::os(libc::EADDRINUSE, "listen on").at("127.0.0.1:7000");
        let error = Error::new(ErrorKind::InUse, "start").caused_by(cause);
        assert_eq!(
            format!("{error:?}"),
            "start: already in use\n  because: listen on 127.0.0.1:7000: Address already in use (os error 98)"
        );
        assert!(format!("{error:#?}").contains("kind: InUse"), "{error:#?}");
    }

    #[test]
    fn as_an_error_of_std_it_has_the_kind_that_std_gives_to_its_code() {
        for (code, kind) in [
            (libc::EEXIST, io::ErrorKind::AlreadyExists),
            (libc::EADDRINUSE, io::ErrorKind::AddrInUse),
            (libc::EBUSY, io::ErrorKind::ResourceBusy),
            (libc::EDQUOT, io::ErrorKind::QuotaExceeded),
            (libc::ENOSPC, io::ErrorKind::StorageFull),
            (libc::EACCES, io::ErrorKind::PermissionDenied),
            (libc::EPERM, io::ErrorKind::PermissionDenied),
            (libc::ENOMEM, io::ErrorKind::OutOfMemory),
            (libc::EPIPE, io::ErrorKind::BrokenPipe),
            (libc::ENOTCONN, io::ErrorKind::NotConnected),
            (libc::EISDIR, io::ErrorKind::IsADirectory),
            // Those that std does not know go by the error's own kind.
            (libc::ENODEV, io::ErrorKind::NotFound),
            (libc::ESHUTDOWN, io::ErrorKind::ConnectionReset),
            (libc::EMFILE, io::ErrorKind::Other),
            // Not `Interrupted`, which asks to try again.
            (libc::ECANCELED, io::ErrorKind::Other),
        ] {
            let error = Error::os(code, "try");
            assert_eq!(io::Error::from(error).kind(), kind, "{}", io::Error::from_raw_os_error(code));
        }
        assert_eq!(
            io::Error::from(Error::new(ErrorKind::InUse, "listen")).kind(),
            io::ErrorKind::AddrInUse,
            "without a code it goes by the kind"
        );
    }

    #[test]
    fn an_error_of_std_keeps_what_it_says() {
        let error = Error::io(io::Error::from_raw_os_error(libc::EACCES), "open").at("/x");
        assert_eq!((error.kind(), error.code()), (ErrorKind::PermissionDenied, Some(libc::EACCES)));
        assert_eq!(error.to_string(), "open /x: Permission denied (os error 13)");
        let error = Error::io(io::ErrorKind::UnexpectedEof.into(), "read");
        assert_eq!((error.kind(), error.code()), (ErrorKind::Closed, None));
        let error = Error::io(io::Error::new(io::ErrorKind::InvalidData, "no magic"), "open");
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Corrupt, "open: no magic"));
        // There and back.
        let inner = Error::os(libc::EIO, "write").outcome_is(Outcome::Unknown);
        let error = Error::io(io::Error::from(inner), "copy");
        assert_eq!((error.code(), error.outcome()), (Some(libc::EIO), Outcome::Unknown));
        assert!(
            format!("{error:?}")
                .ends_with("because: write: Input/output error (os error 5) (it may have taken effect)")
        );
    }

    #[test]
    fn an_error_is_one_pointer_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }
}
