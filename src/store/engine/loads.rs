//! Loading pages and frames of the mapping, each once however many want it (`in_flight`).

use super::core_store::CoreStore;
use super::counts::{Count, count};
use super::in_flight::What;
use super::state::PageState;
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Result};
use crate::mem::DmaBuf;
use crate::store::btree::{ColdPage, LoadedPage, Miss, NotInstalled};
use crate::store::codec::to_usize;
use crate::store::env::Env;
use crate::store::pages::{Compression, Damage, MapPage, Owner, PageKind, parse_page};
use crate::store::word::{ChildWord, ColdAddress, MapView, PageId};

/// The blocks in which `place` lies, and where it begins in them.
pub(super) async fn read_place<N: Namespace>(namespace: &N, place: ColdAddress) -> Result<(DmaBuf, usize)> {
    let block = u64::from(namespace.info().block_size_bytes);
    let (offset, end) = (place.offset_bytes(), place.offset_bytes() + place.len_bytes());
    let start = offset / block * block;
    let buf = DmaBuf::zeroed(to_usize(end.next_multiple_of(block) - start));
    Ok((namespace.read(start, buf).await?, to_usize(offset - start)))
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// Brings into memory what an operation missed; it is tried again then.
    ///
    /// # Errors
    ///
    /// The device's code, [`ErrorKind::Corrupt`] if it is damaged, or that there is no memory.
    pub(super) async fn load(&self, miss: Miss) -> Result<()> {
        match miss {
            Miss::Page(cold) => self.load_page(cold).await,
            Miss::Frame(frame) => self.load_frame(frame).await,
            Miss::Damaged(page) => Err(self.damaged_page(page)),
        }
    }

    fn damaged_page(&self, page: PageId) -> Error {
        Error::new(ErrorKind::Corrupt, "read store")
            .at(self.shared.name.clone())
            .because(format!("page {} is damaged; the keys in it cannot be read, all others can", page.get()))
    }

    async fn load_page(&self, cold: ColdPage) -> Result<()> {
        let Some(_loading) = self.shared.loads.begin(What::Page(cold.id)).await else { return Ok(()) };
        let MapView::Cold { address, .. } = cold.word.view() else { return Ok(()) };
        let owner = self.shared.owner;
        let read = read_place(&self.namespace, address).await;
        if !self.core.pin().is_current(&cold) {
            // What was read may be anything by now.
            return Ok(());
        }
        let (buf, at) = read?;
        let page = match page_of(&buf[at..], address, &cold, &owner) {
            Ok(page) => page,
            Err(damage) => return Err(self.damaged(&cold, damage)),
        };
        loop {
            let installed = self.core.pin().install_loaded(&cold, &page);
            match installed {
                Ok(_) => {
                    count(Count::Loads);
                    self.shared.meters.page_loads.add(1);
                    return Ok(());
                }
                Err(NotInstalled::NoRoom) => self.wait_for_memory().await?,
                Err(NotInstalled::Damaged(damage)) => {
                    tracing::error!("{}: page {}: {damage}", self.shared.name, cold.id.get());
                    self.core.pin().install_damaged(&cold);
                    return Err(self.damaged_page(cold.id));
                }
            }
        }
    }

    fn damaged(&self, cold: &ColdPage, damage: Damage) -> Error {
        self.core.pin().install_damaged(cold);
        damage.error("read store", &self.shared.name)
    }

    pub(super) async fn load_frame(&self, frame: u32) -> Result<()> {
        let Some(_loading) = self.shared.loads.begin(What::Frame(frame)).await else { return Ok(()) };
        let index = u64::from(frame);
        loop {
            let from = self.shared.state().map.find(0, index);
            let page = match from {
                None => MapPage::default(),
                Some(from) => {
                    let (buf, at) = read_place(&self.namespace, from.place).await?;
                    if self.shared.state().map.find(0, index) != Some(from) {
                        continue;
                    }
                    let owner = self.shared.state().owner;
                    MapPage::decode(&buf[at..], index, from, &owner)
                        .map_err(|damage| damage.error("read store", &self.shared.name))?
                }
            };
            let mut state = self.shared.state();
            let PageState { overlay, segments, .. } = &mut *state;
            let apply = |page: &mut MapPage| overlay.apply(index, page, segments);
            self.shared.nodes.map().install_frame(frame, page, apply);
            count(Count::Frames);
            return Ok(());
        }
    }

    /// Loads the frames that the log says something about and nobody has loaded yet.
    pub(super) async fn load_overlaid_frames(&self) -> Result<()> {
        loop {
            let next = self.shared.state().overlay.next();
            let Some(index) = next else { return Ok(()) };
            self.load_frame(u32::try_from(index).expect("frames have 32 bits")).await?;
        }
    }
}

/// The page in `bytes`, if it is the one that the mapping meant.
pub(super) fn page_of<'b>(
    bytes: &'b [u8],
    place: ColdAddress,
    cold: &ColdPage,
    owner: &Owner,
) -> std::result::Result<LoadedPage<'b>, Damage> {
    let page = parse_page(bytes, place, &owner.identity)?;
    let header = page.header;
    let is_meant = header.page == ChildWord::new(cold.id, cold.second.epoch())
        && matches!(header.kind, PageKind::Leaf | PageKind::Inner)
        && header.compression == Compression::None
        && u32::try_from(page.checksum & u64::from(u32::MAX)) == Ok(cold.second.checksum_low());
    if !is_meant {
        return Err(Damage::another_page(place));
    }
    let (child, tree, level, newest) = (header.page, header.tree, header.level, header.newest);
    Ok(LoadedPage { child, tree, level, newest, image: page.stored })
}
