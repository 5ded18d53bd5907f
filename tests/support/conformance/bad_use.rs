//! What is refused, and the sentence that says what to do.

use boson::block::{Device, Namespace};
use boson::mem::DmaBuf;
use boson::{Error, ErrorKind, Outcome};

use super::{Run, attach, block_bytes, check, write};

/// Ranges that are none, on every operation; the buffers come back and nothing is changed.
pub(super) async fn bad_use<D: Device>(run: &Run<'_>, device: &D) {
    let namespace = attach(run, device).await;
    let info = namespace.info().clone();
    assert_eq!(&info, device.info(), "{}: the device says the same", run.name);
    let (block, size) = (block_bytes(&namespace), namespace.size_bytes());
    assert!(block.is_power_of_two() && (512..=65_536).contains(&block), "{}: {block}", run.name);
    assert!(size.is_multiple_of(block as u64) && info.max_size_bytes >= size, "{}: {size}", run.name);
    let most = info.max_transfer_bytes as usize;
    assert!(most >= block && most.is_multiple_of(block), "{}: {most}", run.name);
    assert!(u64::from(info.optimal_boundary_bytes).is_multiple_of(block as u64), "{}", run.name);
    assert!(info.trim || !info.zeros_after_trim, "{}", run.name);

    write(run, &namespace, 0, 4 * block, 1).await;
    let last = size - block as u64;
    for (offset, len, part) in [
        (0, 0, "there is nothing to transfer: give it one block or more"),
        (1, block, "not whole blocks of"),
        (block as u64 / 2, block, "not whole blocks of"),
        (0, block + 1, "not whole blocks of"),
        (0, block / 2, "not whole blocks of"),
        (size, block, "reach past the end at"),
        (last, 2 * block, "reach past the end at"),
        (u64::MAX - (block as u64 - 1), block, "reach past the end at"),
    ] {
        let buf = || DmaBuf::zeroed(len);
        let mut refusals: Vec<Error> = Vec::new();
        let error = namespace.read(offset, buf()).await.expect_err(part);
        assert_eq!(error.outcome(), Outcome::NotStarted);
        let (error, back) = error.into_parts();
        assert_eq!(back.len(), len, "{}: the buffer comes back", run.name);
        refusals.push(error);
        let (error, back) = namespace.write(offset, buf()).await.expect_err(part).into_parts();
        assert_eq!(back.len(), len, "{}: the buffer comes back", run.name);
        refusals.push(error);
        let (error, back) = namespace.write_vectored(offset, vec![buf()]).await.expect_err(part).into_parts();
        assert_eq!(back.len(), 1, "{}: the buffers come back", run.name);
        refusals.push(error);
        refusals.push(namespace.read_vectored(offset, vec![buf()]).await.expect_err(part).into());
        refusals.push(namespace.write_durable(offset, buf()).await.expect_err(part).into());
        refusals.push(namespace.trim(offset, len as u64).await.expect_err(part));
        refusals.push(namespace.write_zeroes(offset, len as u64).await.expect_err(part));
        refusals.push(namespace.allocate(offset, len as u64).await.expect_err(part));
        if info.max_compare_and_write_bytes as usize >= len.max(1) {
            let compared = namespace.compare_and_write(offset, buf(), buf()).await;
            refusals.push(compared.expect_err(part).into());
        }
        for error in refusals {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{}: {error}", run.name);
            assert_eq!(error.outcome(), Outcome::NotStarted, "{}: {error}", run.name);
            let text = error.to_string();
            assert!(
                text.contains(part) && text.contains(&format!("offset {offset}")),
                "{}: {text}",
                run.name
            );
        }
    }
    compare_and_write(run, &namespace).await;
    namespace.grow(size).await.expect("it is that large already");
    if info.max_size_bytes == size {
        let error = namespace.grow(size + block as u64).await.expect_err("it is as large as it gets");
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{}: {error}", run.name);
    }
    check(run, &namespace, 0, 4 * block, 1).await;
}

/// Compare-and-write of a length that there is not, or on a device that has none.
async fn compare_and_write<N: Namespace>(run: &Run<'_>, namespace: &N) {
    let (block, most) = (block_bytes(namespace), namespace.info().max_compare_and_write_bytes as usize);
    let attempt = async |expected: usize, new: usize| {
        let buffers = (DmaBuf::zeroed(expected), DmaBuf::zeroed(new));
        let result = namespace.compare_and_write(0, buffers.0, buffers.1).await;
        let (error, (expected_back, new_back)) = result.expect_err("refused").into_parts();
        assert_eq!((expected_back.len(), new_back.len()), (expected, new));
        error
    };
    if most == 0 {
        let error = attempt(block, block).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{}: {error}", run.name);
        assert!(error.to_string().contains("this device has no command for it"), "{}: {error}", run.name);
        return;
    }
    let error = attempt(block, 2 * block).await;
    assert!(error.to_string().contains("make them the same"), "{}: {error}", run.name);
    let error = attempt(most + block, most + block).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{}: {error}", run.name);
    assert!(error.to_string().contains("that the device compares"), "{}: {error}", run.name);
}

/// A device that may only be read: everything that would change it is refused, and nothing else.
pub(super) async fn read_only<D: Device>(name: &str, device: &D) {
    let run = Run { name, seed: 0 };
    let namespace = device.attach().await.expect("attaches");
    assert!(namespace.info().read_only, "{name}");
    let block = block_bytes(&namespace);
    let buf = || DmaBuf::zeroed(block);
    let before = super::read(&run, &namespace, 0, block).await;
    let refusals: Vec<Error> = vec![
        namespace.write(0, buf()).await.expect_err("read-only").into(),
        namespace.write_vectored(0, vec![buf()]).await.expect_err("read-only").into(),
        namespace.write_durable(0, buf()).await.expect_err("read-only").into(),
        namespace.trim(0, block as u64).await.expect_err("read-only"),
        namespace.write_zeroes(0, block as u64).await.expect_err("read-only"),
        namespace.allocate(0, block as u64).await.expect_err("read-only"),
    ];
    for error in refusals {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{name}: {error}");
        assert_eq!(error.outcome(), Outcome::NotStarted, "{name}: {error}");
        assert!(error.to_string().contains("the namespace is read-only"), "{name}: {error}");
    }
    namespace.flush().await.expect("there is nothing to flush");
    assert!(super::read(&run, &namespace, 0, block).await[..] == before[..], "{name}");
    println!("{name}: conforms");
}
