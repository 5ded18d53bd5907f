//! What a namespace of a controller is: what SPDK knows, and the Identify data.

use boson_spdk_sys as sys;

use super::super::nvme::{ControllerIdentity, NamespaceIdentity};
use super::controller::ControllerState;
use crate::error::{Error, ErrorKind, Result};

const IDENTIFY_BYTES: usize = 4096;

/// What SPDK and the Identify data say of a namespace.
pub(super) struct Description {
    pub(super) namespace: sys::boson_spdk_namespace,
    pub(super) controller: ControllerIdentity,
    pub(super) identity: NamespaceIdentity,
}

impl Description {
    /// What namespace `nsid` is. Only on the control thread, while the controller is attached and
    /// no reset is under way.
    ///
    /// # Errors
    ///
    /// - [`NotFound`](ErrorKind::NotFound): there is no such namespace, with what there is.
    /// - [`Unsupported`](ErrorKind::Unsupported): it is no I/O controller.
    pub(super) fn of(state: &ControllerState, nsid: u32) -> Result<Self> {
        let absent = || {
            let why = format!("the controller has no active namespace {nsid}; it has {}", namespaces(state));
            Error::new(ErrorKind::NotFound, "open namespace").at(state.name().to_owned()).because(why)
        };
        let mut namespace = sys::boson_spdk_namespace::default();
        // SAFETY: the controller is attached, and `namespace` is a place for the description.
        let code = unsafe { sys::boson_spdk_describe_namespace(state.raw(), nsid, &raw mut namespace) };
        if code != 0 {
            return Err(absent());
        }
        // SAFETY: the controller is attached.
        let controller = unsafe { sys::boson_spdk_identify_controller(state.raw()) };
        // SAFETY: the description above succeeded, so the namespace exists.
        let ns = unsafe { sys::spdk_nvme_ctrlr_get_ns(state.raw(), nsid) };
        // SAFETY: `ns` is that namespace.
        let identity = unsafe { sys::boson_spdk_identify_namespace(ns) };
        // The largest transfer is SPDK's to say, so the smallest page plays no part, nor does the
        // version.
        let controller = ControllerIdentity::parse(&copy(controller), 12, 0)
            .map_err(|error| error.at(state.name().to_owned()))?;
        let identity = NamespaceIdentity::parse(&copy(identity), nsid).ok_or_else(absent)?;
        Ok(Self { namespace, controller, identity })
    }

    /// The power-fail atomic write unit and boundary, in blocks; the boundary is 0 if there is
    /// none.
    pub(super) fn atomic_blocks(&self) -> (u32, u32) {
        let unit = self.identity.atomic_blocks_power_fail.unwrap_or(self.controller.atomic_blocks_power_fail);
        // A boundary that does not begin at block 0 is none that a multiple can tell.
        let unit = if self.identity.atomic_boundary_offset_blocks == 0 { unit } else { 1 };
        (unit, self.identity.atomic_boundary_blocks.unwrap_or(0))
    }
}

/// A copy of Identify data, which SPDK changes when it identifies again.
fn copy(data: *const u8) -> Box<[u8; IDENTIFY_BYTES]> {
    let mut copied = Box::new([0; IDENTIFY_BYTES]);
    if !data.is_null() {
        // SAFETY: SPDK keeps that many bytes of Identify data there as long as the controller is
        // attached, and changes them on the control thread, which this is, or under way to
        // connecting a queue pair, after an event: then the copy is mixed of the old and the new.
        copied.copy_from_slice(unsafe { std::slice::from_raw_parts(data, IDENTIFY_BYTES) });
    }
    copied
}

/// The numbers of the active namespaces.
fn namespaces(state: &ControllerState) -> String {
    let mut numbers = Vec::new();
    // SAFETY: the controller is attached.
    let mut nsid = unsafe { sys::spdk_nvme_ctrlr_get_first_active_ns(state.raw()) };
    while nsid != 0 && numbers.len() < 64 {
        numbers.push(nsid.to_string());
        // SAFETY: as above.
        nsid = unsafe { sys::spdk_nvme_ctrlr_get_next_active_ns(state.raw(), nsid) };
    }
    if numbers.is_empty() { "none".to_owned() } else { numbers.join(", ") }
}
