//! A disk that fills up in the middle of an import.

use hostler_vmm::ImportImageError;

use super::makers::{Disk, assert_nothing_left, import};
use super::stub::{Stub, Trouble};
use super::tarball::Tarball;
use crate::support::{Filesystem, Host};

/// 16 MiB that do not compress.
fn bulk() -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(2 << 20).flatten().collect()
}

#[tokio::test]
async fn a_disk_that_fills_up_during_an_import_leaves_nothing_and_the_next_one_succeeds() {
    let stub = Stub::serve(
        Tarball::bootable().file("x", &bulk()).bytes(),
        Trouble::None,
    );
    let host = Host::bare().await;
    // While a layer comes, and while the image is made of it.
    for directory in ["blobs", "images"] {
        let place = host.data_dir().join(directory);
        let Some(small) = Filesystem::mount(&place, "size=8m") else {
            return;
        };
        let error = import(&host.machines, stub.name(), "a").await.unwrap_err();
        let said = error.to_string();
        let full = match &error {
            ImportImageError::Storage(storage) => storage.kind() == std::io::ErrorKind::StorageFull,
            _ => said.contains("No space left") || said.contains("full"),
        };
        assert!(full, "{directory}: {said}");
        let images = host.machines.images().list().await.unwrap();
        assert!(images.is_empty(), "{images:?}");
        assert_nothing_left(&host).await;
        drop(small);
    }
    import(&host.machines, stub.name(), "a").await.unwrap();
    Disk::of(&host, "a").check();
}
