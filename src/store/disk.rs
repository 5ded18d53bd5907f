//! A namespace as the store uses it: transfers of any length, objects, and errors that say where.

use std::rc::Rc;

use super::codec::checksum;
use super::object::{MAX_FRAGMENT_BYTES, ObjectRef, Stored, decode_index, plain_extent};
use super::options::StoreDefect;
use super::space::Extent;
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Result};
use crate::mem::DmaBuf;
use crate::rt::yield_now;

/// A namespace with the store's unit.
pub(super) struct Disk<N> {
    pub(super) namespace: N,
    pub(super) unit: u32,
    defect: Option<StoreDefect>,
}

impl<N: Namespace> Disk<N> {
    pub(super) fn new(namespace: N, defect: Option<StoreDefect>) -> Self {
        let unit = namespace.info().block_size_bytes.max(4096);
        Self { namespace, unit, defect }
    }

    pub(super) fn name(&self) -> &str {
        &self.namespace.info().name
    }

    /// The namespace's size in whole units.
    pub(super) fn units(&self) -> u64 {
        self.namespace.size_bytes() / u64::from(self.unit)
    }

    fn max_transfer(&self) -> usize {
        let info = self.namespace.info();
        (info.max_transfer_bytes.max(info.block_size_bytes) as usize).min(MAX_FRAGMENT_BYTES)
    }

    /// "name offset N", for messages.
    pub(super) fn place(&self, offset: u64) -> String {
        format!("{} offset {offset}", self.name())
    }

    /// Reads `len` bytes from `offset`; both are multiples of the block size.
    pub(super) async fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(len);
        while out.len() < len {
            let at = offset + out.len() as u64;
            let buf = DmaBuf::zeroed((len - out.len()).min(self.max_transfer()));
            let buf = self.namespace.read(at, buf).await?;
            out.extend_from_slice(&buf);
        }
        Ok(out)
    }

    /// Writes `buf` at `offset`, in pieces if it is larger than a transfer.
    pub(super) async fn write(&self, offset: u64, buf: DmaBuf) -> Result<()> {
        let max = self.max_transfer();
        if buf.len() <= max {
            self.namespace.write(offset, buf).await?;
            return Ok(());
        }
        for (index, piece) in buf.chunks(max).enumerate() {
            self.write_bytes(offset + (index * max) as u64, piece).await?;
        }
        Ok(())
    }

    /// Writes a copy of `bytes` (at most a transfer, whole blocks) at `offset`.
    async fn write_bytes(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut buf = DmaBuf::zeroed(bytes.len());
        buf.copy_from_slice(bytes);
        self.namespace.write(offset, buf).await?;
        Ok(())
    }

    pub(super) async fn flush(&self) -> Result<()> {
        if self.defect == Some(StoreDefect::SkipFlush) {
            return Ok(());
        }
        self.namespace.flush().await
    }

    /// Reads an object and checks it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] with the address, or the device's code.
    pub(super) async fn read_object(&self, reference: ObjectRef) -> Result<(Vec<u8>, Stored)> {
        if !reference.is_scattered() {
            let content = self.read_plain(reference).await?;
            return Ok((content, Stored::from_ref(reference)));
        }
        let (fragments, extents) = self.read_index(reference).await?;
        let mut content = Vec::with_capacity(reference.len as usize);
        for fragment in fragments {
            content.extend_from_slice(&self.read_plain(fragment).await?);
        }
        Ok((content, Stored { reference, scattered: Some(extents) }))
    }

    /// Every extent of an object, reading no more than its index.
    pub(super) async fn object_extents(&self, reference: ObjectRef) -> Result<Vec<Extent>> {
        if !reference.is_scattered() {
            self.check_plain(&reference)?;
            return Ok(vec![plain_extent(&reference, self.unit)]);
        }
        Ok(self.read_index(reference).await?.1.to_vec())
    }

    async fn read_index(&self, reference: ObjectRef) -> Result<(Vec<ObjectRef>, Rc<[Extent]>)> {
        let units = u64::from(reference.len.div_ceil(self.unit));
        let mut next = ObjectRef { len: self.unit, flags: 0, ..reference };
        let (mut fragments, mut extents) = (Vec::new(), Vec::new());
        while !next.is_nothing() {
            extents.push(plain_extent(&next, self.unit));
            let page = self.read_plain(next).await?;
            let (listed, following) = decode_index(&page)
                .ok_or_else(|| self.corrupt(next.address, "an index page that does not parse"))?;
            fragments.extend(listed);
            if extents.len() as u64 > units {
                return Err(self.corrupt(next.address, "an index longer than its object"));
            }
            next = following;
        }
        // Nothing is allocated for a length before the fragments confirm it.
        let sum: u64 = fragments.iter().map(|fragment| u64::from(fragment.len)).sum();
        if sum != u64::from(reference.len) || sum > self.namespace.size_bytes() {
            return Err(self.corrupt(reference.address, "fragments that do not add up"));
        }
        for fragment in &fragments {
            self.check_plain(fragment)?;
        }
        extents.extend(fragments.iter().map(|fragment| plain_extent(fragment, self.unit)));
        Ok((fragments, extents.into()))
    }

    /// Checks that a plain object lies in the namespace; returns the length of its units in bytes.
    fn check_plain(&self, reference: &ObjectRef) -> Result<u64> {
        let unit = u64::from(self.unit);
        let len = u64::from(reference.len).next_multiple_of(unit);
        let end = reference.address.checked_add(len);
        if !reference.address.is_multiple_of(unit) || end.is_none_or(|end| end > self.namespace.size_bytes())
        {
            return Err(self.corrupt(reference.address, "a reference outside the namespace"));
        }
        Ok(len)
    }

    async fn read_plain(&self, reference: ObjectRef) -> Result<Vec<u8>> {
        let len = self.check_plain(&reference)?;
        let mut content = self.read(reference.address, super::codec::to_usize(len)).await?;
        content.truncate(reference.len as usize);
        if checksum(&content) != reference.checksum {
            return Err(self.corrupt(reference.address, "the checksum does not match"));
        }
        Ok(content)
    }

    /// An error that says what is damaged, and where.
    pub(super) fn corrupt(&self, offset: u64, what: &'static str) -> Error {
        Error::new(ErrorKind::Corrupt, "read store").at(self.place(offset)).because(what)
    }
}

/// Gathers writes to consecutive addresses into large transfers.
pub(super) struct RunWriter {
    start: u64,
    bytes: Vec<u8>,
    max: usize,
    /// The bytes written so far.
    pub(super) total_bytes: u64,
}

impl RunWriter {
    pub(super) fn new<N: Namespace>(disk: &Disk<N>) -> Self {
        Self { start: 0, bytes: Vec::new(), max: disk.max_transfer(), total_bytes: 0 }
    }

    /// Writes `content`, padded to whole units, at `extent`; perhaps later.
    pub(super) async fn push<N: Namespace>(
        &mut self,
        disk: &Disk<N>,
        extent: Extent,
        content: &[u8],
    ) -> Result<()> {
        let unit = disk.unit as usize;
        let address = extent.start * u64::from(disk.unit);
        let adjacent = self.start + self.bytes.len() as u64 == address;
        if !adjacent || self.bytes.len() + content.len() > self.max {
            self.flush(disk).await?;
            self.start = address;
        }
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(unit), 0);
        Ok(())
    }

    /// Writes what was gathered.
    pub(super) async fn flush<N: Namespace>(&mut self, disk: &Disk<N>) -> Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let mut buf = DmaBuf::zeroed(self.bytes.len());
        buf.copy_from_slice(&self.bytes);
        self.total_bytes += self.bytes.len() as u64;
        self.bytes.clear();
        disk.write(self.start, buf).await?;
        // A namespace in memory never waits by itself.
        yield_now().await;
        Ok(())
    }
}
