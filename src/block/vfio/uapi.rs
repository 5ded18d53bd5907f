//! The kernel's interface to VFIO: requests, structures and calls, without policy.
//!
//! Everything here is from `include/uapi/linux/vfio.h`; each structure names its own. A call gives
//! the kernel's positive `errno` code where it fails.

use std::ffi::{CStr, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::capabilities::{self, u32_at};

/// `VFIO_TYPE`, the letter of all requests.
const TYPE: u32 = b';' as u32;
/// `VFIO_BASE`, the number of the first one.
const BASE: u32 = 100;

const GET_API_VERSION: libc::Ioctl = libc::_IO(TYPE, BASE);
const CHECK_EXTENSION: libc::Ioctl = libc::_IO(TYPE, BASE + 1);
const SET_IOMMU: libc::Ioctl = libc::_IO(TYPE, BASE + 2);
const GROUP_GET_STATUS: libc::Ioctl = libc::_IO(TYPE, BASE + 3);
const GROUP_SET_CONTAINER: libc::Ioctl = libc::_IO(TYPE, BASE + 4);
const GROUP_GET_DEVICE_FD: libc::Ioctl = libc::_IO(TYPE, BASE + 6);
const DEVICE_GET_INFO: libc::Ioctl = libc::_IO(TYPE, BASE + 7);
const DEVICE_GET_REGION_INFO: libc::Ioctl = libc::_IO(TYPE, BASE + 8);
const DEVICE_GET_IRQ_INFO: libc::Ioctl = libc::_IO(TYPE, BASE + 9);
const DEVICE_SET_IRQS: libc::Ioctl = libc::_IO(TYPE, BASE + 10);
const DEVICE_RESET: libc::Ioctl = libc::_IO(TYPE, BASE + 11);
const IOMMU_GET_INFO: libc::Ioctl = libc::_IO(TYPE, BASE + 12);
const IOMMU_MAP_DMA: libc::Ioctl = libc::_IO(TYPE, BASE + 13);
const IOMMU_UNMAP_DMA: libc::Ioctl = libc::_IO(TYPE, BASE + 14);

/// `VFIO_API_VERSION`.
pub(super) const API_VERSION: c_int = 0;
/// `VFIO_TYPE1v2_IOMMU`: unmapping takes whole mappings.
const TYPE1V2_IOMMU: libc::c_ulong = 3;

/// `VFIO_GROUP_FLAGS_VIABLE`.
const GROUP_VIABLE: u32 = 1;
/// `VFIO_DEVICE_FLAGS_RESET` and `VFIO_DEVICE_FLAGS_PCI`.
pub(super) const DEVICE_RESETS: u32 = 1;
pub(super) const DEVICE_IS_PCI: u32 = 1 << 1;
/// `VFIO_REGION_INFO_FLAG_MMAP` and `VFIO_REGION_INFO_FLAG_CAPS`.
pub(super) const REGION_MAPPABLE: u32 = 1 << 2;
const REGION_HAS_CAPABILITIES: u32 = 1 << 3;
/// `VFIO_REGION_INFO_CAP_MSIX_MAPPABLE`.
const CAPABILITY_MSIX_MAPPABLE: u16 = 3;
/// `VFIO_IRQ_SET_DATA_NONE`, `VFIO_IRQ_SET_DATA_EVENTFD` and `VFIO_IRQ_SET_ACTION_TRIGGER`.
const IRQ_DATA_NONE: u32 = 1;
const IRQ_DATA_EVENTFD: u32 = 1 << 2;
const IRQ_ACTION_TRIGGER: u32 = 1 << 5;
/// `VFIO_DMA_MAP_FLAG_READ` and `VFIO_DMA_MAP_FLAG_WRITE`, from the device's side.
const DMA_READ_AND_WRITE: u32 = 3;

/// `VFIO_PCI_BAR0_REGION_INDEX` and `VFIO_PCI_CONFIG_REGION_INDEX`.
pub(super) const BAR0_REGION: u32 = 0;
pub(super) const CONFIG_REGION: u32 = 7;
/// `VFIO_PCI_MSIX_IRQ_INDEX` and `VFIO_PCI_REQ_IRQ_INDEX`.
pub(super) const MSIX_IRQ: u32 = 2;
pub(super) const RELEASE_REQUEST_IRQ: u32 = 4;

/// The most bytes that a structure may want for its capabilities. Kernels say some hundred.
const MAX_INFO_BYTES: u32 = 64 << 10;

/// `struct vfio_group_status`.
#[repr(C)]
struct GroupStatus {
    argsz: u32,
    flags: u32,
}

/// `struct vfio_device_info`.
#[repr(C)]
#[derive(Default)]
pub(super) struct DeviceInfo {
    argsz: u32,
    pub(super) flags: u32,
    pub(super) regions: u32,
    pub(super) irqs: u32,
    cap_offset: u32,
}

/// `struct vfio_region_info`.
#[repr(C)]
#[derive(Default)]
pub(super) struct RegionInfo {
    argsz: u32,
    pub(super) flags: u32,
    index: u32,
    cap_offset: u32,
    /// In bytes.
    pub(super) size: u64,
    /// In the device's descriptor.
    pub(super) offset: u64,
}

/// `struct vfio_irq_info`.
#[repr(C)]
#[derive(Default)]
struct IrqInfo {
    argsz: u32,
    flags: u32,
    index: u32,
    count: u32,
}

/// `struct vfio_iommu_type1_info`, without the capabilities after it.
#[repr(C)]
#[derive(Default)]
struct IommuInfo {
    argsz: u32,
    flags: u32,
    page_sizes: u64,
    cap_offset: u32,
}

/// `struct vfio_iommu_type1_dma_map`.
#[repr(C)]
struct DmaMap {
    argsz: u32,
    flags: u32,
    vaddr: u64,
    iova: u64,
    size: u64,
}

/// `struct vfio_iommu_type1_dma_unmap`, without a bitmap.
#[repr(C)]
struct DmaUnmap {
    argsz: u32,
    flags: u32,
    iova: u64,
    size: u64,
}

/// The value of `argsz`, which every structure starts with: its size in bytes.
const fn size<T>() -> u32 {
    // These structures have some tens of bytes; a cast in a constant cannot be a `try_from`.
    #[expect(clippy::cast_possible_truncation, reason = "structures of some tens of bytes")]
    let bytes = size_of::<T>() as u32;
    bytes
}

/// Performs `request` on `fd`.
///
/// # Safety
///
/// `argument` is what the request takes: a number, or a pointer to a structure that the kernel may
/// read and write for the length that it states in `argsz` until the call returns.
unsafe fn call(fd: BorrowedFd<'_>, request: libc::Ioctl, argument: *mut c_void) -> Result<c_int, i32> {
    // SAFETY: `fd` is open while it is borrowed, and the caller vouches for the argument.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) };
    if result < 0 { Err(last_code()) } else { Ok(result) }
}

/// A request whose argument is a number, or nothing.
fn with_number(fd: BorrowedFd<'_>, request: libc::Ioctl, number: libc::c_ulong) -> Result<c_int, i32> {
    // `c_ulong` is as wide as a pointer on Linux.
    let argument = std::ptr::without_provenance_mut(usize::try_from(number).unwrap_or(usize::MAX));
    // SAFETY: the requests that this is called with take a number, and the kernel follows no
    // pointer.
    unsafe { call(fd, request, argument) }
}

/// A request whose argument is a structure that starts with its own size.
///
/// # Safety
///
/// `T` is the structure that the request reads and writes, and no field that it follows as a
/// pointer leads to memory that it must not touch.
unsafe fn with_structure<T>(fd: BorrowedFd<'_>, request: libc::Ioctl, value: &mut T) -> Result<c_int, i32> {
    let argument: *mut T = value;
    // SAFETY: `value` is exclusively borrowed and of the request's own type, as the caller says.
    unsafe { call(fd, request, argument.cast()) }
}

fn last_code() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

// --- Of the container ---

pub(super) fn api_version(container: BorrowedFd<'_>) -> Result<c_int, i32> {
    with_number(container, GET_API_VERSION, 0)
}

/// Whether the container can do what version 2 of type 1 says.
pub(super) fn has_type1v2(container: BorrowedFd<'_>) -> Result<bool, i32> {
    with_number(container, CHECK_EXTENSION, TYPE1V2_IOMMU).map(|answer| answer > 0)
}

pub(super) fn set_type1v2(container: BorrowedFd<'_>) -> Result<(), i32> {
    with_number(container, SET_IOMMU, TYPE1V2_IOMMU).map(drop)
}

/// `struct vfio_iommu_type1_info` and the capabilities after it, as bytes.
pub(super) fn iommu_info(container: BorrowedFd<'_>) -> Result<Vec<u8>, i32> {
    let mut head = IommuInfo { argsz: size::<IommuInfo>(), ..IommuInfo::default() };
    // SAFETY: the request fills this structure and nothing beyond `argsz`.
    unsafe { with_structure(container, IOMMU_GET_INFO, &mut head) }?;
    // What it wanted; once more with room for the capabilities.
    // SAFETY: the request fills a structure that starts with `argsz`, and nothing beyond that.
    unsafe { with_capabilities(container, IOMMU_GET_INFO, head.argsz, 0) }
}

/// The structure that a request fills and the capabilities after it, as bytes; both together want
/// `wanted` bytes. It starts with `argsz` and `flags`; if it is one of many, `index` comes third.
///
/// # Safety
///
/// The request takes a structure that starts so, has some tens of bytes and no pointers, and writes
/// nothing beyond `argsz`.
unsafe fn with_capabilities(
    fd: BorrowedFd<'_>,
    request: libc::Ioctl,
    wanted: u32,
    index: u32,
) -> Result<Vec<u8>, i32> {
    let bytes = wanted.clamp(size::<[u64; 4]>(), MAX_INFO_BYTES);
    let mut info = vec![0_u64; usize::try_from(bytes).unwrap_or(0).div_ceil(size_of::<u64>())];
    info[0] = u64::from_ne_bytes(joined(bytes, 0));
    info[1] = u64::from_ne_bytes(joined(index, 0));
    let argument: *mut u64 = info.as_mut_ptr();
    // SAFETY: the vector is aligned for the structure, has at least the `bytes` that its first
    // field, `argsz`, states, and is not used otherwise until the call returns.
    unsafe { call(fd, request, argument.cast()) }?;
    Ok(info.into_iter().flat_map(u64::to_ne_bytes).collect())
}

/// Two fields of four bytes, one after the other.
fn joined(first: u32, second: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    bytes
}

/// Lets the device read and write `len` bytes at `address` of this process as `iova` and further.
///
/// # Safety
///
/// The memory may be written by the device from now on, until [`unmap_dma`].
pub(super) unsafe fn map_dma(
    container: BorrowedFd<'_>,
    address: u64,
    iova: u64,
    len: u64,
) -> Result<(), i32> {
    let flags = DMA_READ_AND_WRITE;
    let mut map = DmaMap { argsz: size::<DmaMap>(), flags, vaddr: address, iova, size: len };
    // SAFETY: the request reads this structure; what the device does with the memory at `vaddr` is
    // the caller's promise.
    unsafe { with_structure(container, IOMMU_MAP_DMA, &mut map) }.map(drop)
}

/// Takes `len` bytes at `iova`, which were mapped together, back; gives how many were unmapped.
pub(super) fn unmap_dma(container: BorrowedFd<'_>, iova: u64, len: u64) -> Result<u64, i32> {
    let mut unmap = DmaUnmap { argsz: size::<DmaUnmap>(), flags: 0, iova, size: len };
    // SAFETY: the request reads and writes this structure; without flags it has no bitmap after it.
    unsafe { with_structure(container, IOMMU_UNMAP_DMA, &mut unmap) }?;
    Ok(unmap.size)
}

// --- Of the group ---

/// Whether all devices of the group are free of other drivers.
pub(super) fn is_viable(group: BorrowedFd<'_>) -> Result<bool, i32> {
    let mut status = GroupStatus { argsz: size::<GroupStatus>(), flags: 0 };
    // SAFETY: the request fills this structure.
    unsafe { with_structure(group, GROUP_GET_STATUS, &mut status) }?;
    Ok(status.flags & GROUP_VIABLE != 0)
}

pub(super) fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> Result<(), i32> {
    let mut descriptor: c_int = container.as_raw_fd();
    // SAFETY: the request reads one `__s32` at the pointer.
    unsafe { with_structure(group, GROUP_SET_CONTAINER, &mut descriptor) }.map(drop)
}

/// Opens the device with this name: its PCI address.
pub(super) fn device(group: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, i32> {
    // SAFETY: the request reads a string that ends with a zero byte, which `name` is, and writes
    // nothing.
    let descriptor = unsafe { call(group, GROUP_GET_DEVICE_FD, name.as_ptr().cast_mut().cast()) }?;
    // SAFETY: the request made this descriptor, close-on-exec, for its caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

// --- Of the device ---

pub(super) fn device_info(device: BorrowedFd<'_>) -> Result<DeviceInfo, i32> {
    let mut info = DeviceInfo { argsz: size::<DeviceInfo>(), ..DeviceInfo::default() };
    // SAFETY: the request fills this structure and nothing beyond `argsz`.
    unsafe { with_structure(device, DEVICE_GET_INFO, &mut info) }?;
    Ok(info)
}

pub(super) fn region_info(device: BorrowedFd<'_>, index: u32) -> Result<RegionInfo, i32> {
    let mut info = RegionInfo { argsz: size::<RegionInfo>(), index, ..RegionInfo::default() };
    // SAFETY: the request fills this structure and nothing beyond `argsz`.
    unsafe { with_structure(device, DEVICE_GET_REGION_INFO, &mut info) }?;
    Ok(info)
}

/// Whether the table of MSI-X, where it lies in this region, may be mapped with the rest of it.
pub(super) fn maps_msix(device: BorrowedFd<'_>, index: u32) -> Result<bool, i32> {
    let head = region_info(device, index)?;
    if head.flags & REGION_MAPPABLE == 0 || head.flags & REGION_HAS_CAPABILITIES == 0 {
        return Ok(false);
    }
    // SAFETY: the request fills `struct vfio_region_info`, which starts so, has 32 bytes and no
    // pointers, and its capabilities as far as `argsz` has room.
    let info = unsafe { with_capabilities(device, DEVICE_GET_REGION_INFO, head.argsz, index) }?;
    let first = u32_at(&info, std::mem::offset_of!(RegionInfo, cap_offset));
    Ok(first.and_then(|first| capabilities::find(&info, first, CAPABILITY_MSIX_MAPPABLE)).is_some())
}

/// How many interrupts there are under an index.
pub(super) fn irq_count(device: BorrowedFd<'_>, index: u32) -> Result<u32, i32> {
    let mut info = IrqInfo { argsz: size::<IrqInfo>(), index, ..IrqInfo::default() };
    // SAFETY: the request fills this structure.
    unsafe { with_structure(device, DEVICE_GET_IRQ_INFO, &mut info) }?;
    Ok(info.count)
}

/// From now on interrupt `n` under `index` adds one to the `n`-th eventfd. With none, all of them
/// are switched off.
pub(super) fn set_irqs(device: BorrowedFd<'_>, index: u32, eventfds: &[BorrowedFd<'_>]) -> Result<(), i32> {
    let data = if eventfds.is_empty() { IRQ_DATA_NONE } else { IRQ_DATA_EVENTFD };
    let count = u32::try_from(eventfds.len()).map_err(|_| libc::EINVAL)?;
    // `struct vfio_irq_set`: argsz, flags, index, start, count, and then one `__s32` for each.
    let words = 5 + eventfds.len();
    let argsz = u32::try_from(words * size_of::<u32>()).map_err(|_| libc::EINVAL)?;
    let mut set = Vec::with_capacity(words);
    set.extend([argsz, data | IRQ_ACTION_TRIGGER, index, 0, count]);
    set.extend(eventfds.iter().map(|fd| fd.as_raw_fd().cast_unsigned()));
    let argument: *mut u32 = set.as_mut_ptr();
    // SAFETY: the vector has the layout of the structure, is as long as `argsz` says and aligned as
    // its fields are, and the request only reads it.
    unsafe { call(device, DEVICE_SET_IRQS, argument.cast()) }.map(drop)
}

/// Lets the kernel reset the device's function.
pub(super) fn reset(device: BorrowedFd<'_>) -> Result<(), i32> {
    with_number(device, DEVICE_RESET, 0).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes that a C compiler gives the structures of the header.
    #[test]
    fn structures_have_the_kernels_layout() {
        let sizes = [
            size::<GroupStatus>(),
            size::<DeviceInfo>(),
            size::<RegionInfo>(),
            size::<IrqInfo>(),
            size::<IommuInfo>(),
            size::<DmaMap>(),
            size::<DmaUnmap>(),
        ];
        assert_eq!(sizes, [8, 20, 32, 16, 24, 32, 24]);
        assert_eq!(std::mem::offset_of!(RegionInfo, offset), 24);
        assert_eq!(std::mem::offset_of!(RegionInfo, cap_offset), 12);
        assert_eq!(std::mem::offset_of!(IommuInfo, cap_offset), 16);
    }
}
