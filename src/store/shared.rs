//! An open store on its way to further cores.

use std::sync::Arc;

use super::db::Db;
use super::engine::core_store::{CoreStore, Shared};
use super::engine::open::is_on;
use super::env::{Env, RtEnv};
use super::options::Durability;
use crate::block::{Device, Namespace};
use crate::error::{Error, ErrorKind, Outcome, Result};

/// An open store, for further cores to attach to. [`Db::shared`] gives it; it is cheap to clone,
/// and may be sent to any core.
///
/// Each core that attaches gets a [`Db`] of its own, with its own handle of the device. All of them
/// read and write the same trees, and none of them waits for another core: what one has written,
/// the others see at once, and no more of it is lost in a crash than if one core had written it.
///
/// The core that opened the store writes pages and takes checkpoints for all. When the last handle
/// there is dropped, the store is closed for every core; and if that core ends with the store open,
/// the store has failed for the others. Another core calls [`Db::detach`] before it ends.
///
/// ```
/// use boson::block::{AnyDevice, Device};
/// use boson::rt::{CoreConfig, CoreThread};
/// use boson::store::{Db, Options, RtEnv};
///
/// # fn main() -> boson::Result<()> {
/// boson::run(async {
///     let device = AnyDevice::open(&"mem:64M".parse()?).await?;
///     let db = Db::open_on(RtEnv, device.attach().await?, Options::default()).await?;
///     let second = CoreThread::start("second".to_owned(), &CoreConfig::default())?;
///     let shared = db.shared();
///     let written = second.handle().spawn(async move || {
///         let db = shared.attach(&device).await?;
///         db.tree("fruit")?.put(b"apple", b"5").await?;
///         db.detach().await
///     });
///     written.await??;
///     assert_eq!(db.tree("fruit")?.get(b"apple").await?.as_deref(), Some(&b"5"[..]));
///     db.close().await
/// })
/// # }
/// ```
#[derive(Clone)]
pub struct SharedDb {
    shared: Arc<Shared>,
    durability: Durability,
}

impl std::fmt::Debug for SharedDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedDb").field("name", &self.shared.name()).finish_non_exhaustive()
    }
}

impl SharedDb {
    pub(super) fn new(shared: &Arc<Shared>, durability: Durability) -> Self {
        Self { shared: Arc::clone(shared), durability }
    }

    /// Attaches the current core: `device` is the one that the store was opened on.
    ///
    /// # Errors
    ///
    /// As for [`SharedDb::attach_on`], and as for [`Device::attach`].
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub async fn attach<D: Device>(&self, device: &D) -> Result<Db<RtEnv, D::Namespace>> {
        self.attach_on(RtEnv, device.attach().await?).await
    }

    /// Attaches the current core, which has `namespace` to reach the store, in an environment that
    /// gives it tasks and time.
    ///
    /// # Errors
    ///
    /// - [`InvalidInput`](ErrorKind::InvalidInput): the store is on another namespace. (Its
    ///   identity is read from there.)
    /// - [`LimitReached`](ErrorKind::LimitReached): as many cores as there may be are attached.
    /// - [`Closed`](ErrorKind::Closed) if the store is, and that I/O's error if it has failed.
    /// - Otherwise the device's own code.
    pub async fn attach_on<E: Env, N: Namespace>(&self, env: E, namespace: N) -> Result<Db<E, N>> {
        if !is_on(&self.shared, &namespace).await? {
            let other = namespace.info().name.clone();
            return Err(Error::new(ErrorKind::InvalidInput, "attach to store")
                .at(self.shared.name().to_owned())
                .because(format!("it is not on {other}: attach to the device that the store was opened on"))
                .outcome_is(Outcome::NotStarted));
        }
        self.shared.check_writable("attach to store")?;
        let store = CoreStore::attach(&self.shared, env, namespace)?;
        Ok(Db::attached(store, self.durability))
    }
}
