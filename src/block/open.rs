//! How namespaces are opened that need more than an address.

use std::path::PathBuf;

/// What opening a namespace takes besides its address.
///
/// ```
/// use boson::block::NamespaceConfig;
///
/// let config = NamespaceConfig::default().eal_arguments("-m 512").spdk_config("spdk.json");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamespaceConfig {
    pub(super) eal_arguments: String,
    pub(super) spdk_config: Option<PathBuf>,
}

impl NamespaceConfig {
    /// Sets DPDK's arguments for `spdk:`, separated by white space; with `dpdk:` in the same
    /// process, those that it has.
    #[must_use]
    pub fn eal_arguments(mut self, arguments: impl Into<String>) -> Self {
        self.eal_arguments = arguments.into();
        self
    }

    /// Sets the file with SPDK's configuration (its JSON), which makes the devices of `spdk:bdev/`.
    #[must_use]
    pub fn spdk_config(mut self, path: impl Into<PathBuf>) -> Self {
        self.spdk_config = Some(path.into());
        self
    }
}
