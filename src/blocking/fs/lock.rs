//! Advisory locks of files.

use std::fs::TryLockError;
use std::io;
use std::time::Duration;

use super::File;
use super::file::wait;
use crate::rt;

/// How long until a lock that was not free is tried again, at first and at most.
const LOCK_PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

type TryLock = fn(&std::fs::File) -> Result<(), TryLockError>;

impl File {
    /// Waits for the file's advisory lock (flock(2)), for this open file alone.
    /// [`unlock`](Self::unlock) releases it, and so does dropping the last handle to this open
    /// file.
    ///
    /// A coroutine asks again and again, after 1 to 50 ms. If a thread made the call that blocks,
    /// those that wait for locks could hold all threads of the core, while the holder of a lock
    /// needs one to go on. So the order of arrival does not count.
    ///
    /// # Errors
    ///
    /// As for [`std::fs::File::lock`].
    #[track_caller]
    pub fn lock(&self) -> io::Result<()> {
        self.wait_for_lock(std::fs::File::lock, std::fs::File::try_lock)
    }

    /// As [`lock`](Self::lock), together with others that want it shared.
    ///
    /// # Errors
    ///
    /// As for [`std::fs::File::lock_shared`].
    #[track_caller]
    pub fn lock_shared(&self) -> io::Result<()> {
        self.wait_for_lock(std::fs::File::lock_shared, std::fs::File::try_lock_shared)
    }

    /// Takes the lock if that is possible now.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](TryLockError::WouldBlock) if it is not, and as for
    /// [`std::fs::File::try_lock`].
    #[track_caller]
    pub fn try_lock(&self) -> Result<(), TryLockError> {
        self.try_lock_with(std::fs::File::try_lock)
    }

    /// Takes the lock, shared with others, if that is possible now.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](TryLockError::WouldBlock) if it is not, and as for
    /// [`std::fs::File::try_lock_shared`].
    #[track_caller]
    pub fn try_lock_shared(&self) -> Result<(), TryLockError> {
        self.try_lock_with(std::fs::File::try_lock_shared)
    }

    /// Releases the lock.
    ///
    /// # Errors
    ///
    /// As for [`std::fs::File::unlock`].
    #[track_caller]
    pub fn unlock(&self) -> io::Result<()> {
        self.run("unlock", std::fs::File::unlock)
    }

    #[track_caller]
    fn try_lock_with(&self, try_lock: TryLock) -> Result<(), TryLockError> {
        let locked = self.run("try_lock", move |file| match try_lock(file) {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        });
        match locked {
            Ok(true) => Ok(()),
            Ok(false) => Err(TryLockError::WouldBlock),
            Err(error) => Err(TryLockError::Error(error)),
        }
    }

    #[track_caller]
    fn wait_for_lock(&self, lock: fn(&std::fs::File) -> io::Result<()>, try_lock: TryLock) -> io::Result<()> {
        if !rt::is_in_core() {
            return self.run("lock", lock);
        }
        let (mut pause, longest) = LOCK_PAUSES;
        loop {
            match self.try_lock_with(try_lock) {
                Ok(()) => return Ok(()),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) => {
                    wait(rt::waits_for("the lock of a file", rt::sleep(pause)))?;
                    pause = longest.min(pause * 2);
                }
            }
        }
    }
}
