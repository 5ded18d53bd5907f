//! What became of an operation, and its buffer, apart from each other.

use boson::{BufError, BufResult, Result};

/// For tests that look at the buffer also after an error.
pub(crate) trait Parts<T, B> {
    fn parts(self) -> (Result<T>, B);
}

impl<T, B> Parts<T, B> for BufResult<T, B> {
    fn parts(self) -> (Result<T>, B) {
        match self {
            Ok((output, buf)) => (Ok(output), buf),
            Err(error) => {
                let (error, buf) = error.into_parts();
                (Err(error), buf)
            }
        }
    }
}

/// The same for operations that give nothing but the buffer.
pub(crate) trait PartsAll<B> {
    fn parts_all(self) -> (Result<()>, B);
}

impl<B> PartsAll<B> for std::result::Result<B, BufError<B>> {
    fn parts_all(self) -> (Result<()>, B) {
        match self {
            Ok(buf) => (Ok(()), buf),
            Err(error) => {
                let (error, buf) = error.into_parts();
                (Err(error), buf)
            }
        }
    }
}
