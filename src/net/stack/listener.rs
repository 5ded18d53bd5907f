//! Listening ports.

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;

use super::{Stack, StackStream};
use crate::error::Result;

/// A port of a [`Stack`] that accepts connections.
///
/// Dropping it frees the port and resets the connections that nobody accepted.
pub struct StackListener {
    stack: Stack,
    address: SocketAddr,
}

impl StackListener {
    /// Listens on `address`: one of the stack's own, or the unspecified address of a family for all
    /// of that family. Port 0 chooses a free port. At most `backlog` connections (at least 1) may
    /// wait, counting handshakes under way; a SYN past that is dropped, unless a handshake has
    /// waited for a second and can be given up for it.
    ///
    /// # Errors
    ///
    /// `EADDRNOTAVAIL` if the address is not the stack's, [`InUse`](crate::ErrorKind::InUse) if the
    /// port is taken, [`InvalidInput`](crate::ErrorKind::InvalidInput) if `backlog` is 0.
    pub fn bind(stack: &Stack, address: SocketAddr, backlog: usize) -> Result<Self> {
        let address = stack.with(|engine| engine.listen(address, backlog))?;
        Ok(Self { stack: stack.clone(), address })
    }

    /// The next connection and its peer's address. Dropping the future loses no connection.
    ///
    /// # Errors
    ///
    /// `ENETDOWN` if the device failed.
    pub async fn accept(&self) -> Result<(StackStream, SocketAddr)> {
        let accepted = poll_fn(|context| self.stack.with(|engine| engine.poll_accept(self.address, context)));
        let (id, flow) = accepted.await?;
        Ok((StackStream::new(self.stack.clone(), id, flow), flow.remote))
    }

    /// The address it listens on, with the port that was chosen.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for StackListener {
    fn drop(&mut self) {
        self.stack.with(|engine| engine.unlisten(self.address));
    }
}

impl fmt::Debug for StackListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StackListener").field("address", &self.address).finish_non_exhaustive()
    }
}
