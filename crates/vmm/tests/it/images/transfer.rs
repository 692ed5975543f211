//! Transfers that break, and registries that lie or want something first.

use hostler_vmm::ImportImageError;

use super::makers::{Disk, assert_nothing_left, import, left_in};
use super::stub::{Stub, Trouble};
use super::tarball::{Tarball, digest};
use crate::support::Host;

fn layer() -> Vec<u8> {
    let large: Vec<u8> = (0..900_000u32).map(|number| (number % 251) as u8).collect();
    Tarball::bootable().file("large", &large).bytes()
}

#[tokio::test]
async fn a_transfer_that_breaks_goes_on_where_it_broke() {
    let host = Host::bare().await;
    let stub = Stub::serve(
        layer(),
        Trouble::Breaks {
            times: 3,
            after: 200_000,
        },
    );
    import(&host.machines, stub.name(), "a").await.unwrap();
    Disk::of(&host, "a").check();
    let blob = format!("/v2/stub/blobs/{}", digest(&layer()));
    let transfers = stub
        .requests()
        .into_iter()
        .filter(|path| path.starts_with(&blob));
    let begins: Vec<_> = transfers.map(|path| path.replace(&blob, "")).collect();
    assert_eq!(begins, ["", " from 200000", " from 400000", " from 600000"]);

    let other = Tarball::bootable().file("other", &layer()).bytes();
    let stub = Stub::serve(other, Trouble::BreaksAndIgnoresRanges);
    import(&host.machines, stub.name(), "b").await.unwrap();
    assert_eq!(stub.transfers(), 2);
    Disk::of(&host, "b").check();
}

#[tokio::test]
async fn a_half_sent_layer_is_given_up_after_some_attempts_and_leaves_nothing() {
    let host = Host::bare().await;
    let stub = Stub::serve(
        layer(),
        Trouble::Breaks {
            times: usize::MAX,
            after: 0,
        },
    );
    let error = import(&host.machines, stub.name(), "a").await.unwrap_err();
    assert!(error.to_string().contains("broke off"), "{error}");
    assert_eq!(stub.transfers(), 5);
    assert_nothing_left(&host).await;
}

#[tokio::test]
async fn a_registry_that_lies_about_a_layer_is_not_believed() {
    let host = Host::bare().await;
    for (trouble, said) in [
        (Trouble::OtherBytes, "damaged or lies"),
        (Trouble::Endless, "where its manifest says"),
    ] {
        let stub = Stub::serve(layer(), trouble);
        let error = import(&host.machines, stub.name(), "a").await.unwrap_err();
        assert!(
            matches!(error, ImportImageError::Registry { .. }),
            "{error}"
        );
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(stub.transfers(), 1, "a lie was asked for again");
        assert_nothing_left(&host).await;
    }
}

#[tokio::test]
async fn a_busy_registry_is_asked_again_and_one_that_wants_a_token_gets_it() {
    let host = Host::bare().await;
    let stub = Stub::serve(layer(), Trouble::Busy(3));
    import(&host.machines, stub.name(), "a").await.unwrap();
    let stub = Stub::serve(layer(), Trouble::Token);
    import(&host.machines, stub.name(), "b").await.unwrap();
    // The token was fetched once, and the layer not at all: it is here from the first image.
    let tokens = stub
        .requests()
        .into_iter()
        .filter(|path| path.starts_with("/token"));
    assert_eq!((tokens.count(), stub.transfers()), (1, 0));
    assert_eq!(left_in(&host, "blobs").len(), 1);
}

#[tokio::test]
async fn a_layer_that_was_damaged_where_it_is_kept_is_fetched_once_more() {
    let host = Host::bare().await;
    let stub = Stub::serve(layer(), Trouble::None);
    import(&host.machines, stub.name(), "a").await.unwrap();
    // As a loss of power leaves it: the right size, and zeros in the middle or from the beginning.
    let place = host.data_dir().join("blobs");
    let place = place.join(digest(&layer()).replace("sha256:", ""));
    for (number, from) in [(1, 0), (2, 450_000)] {
        let mut damaged = layer();
        damaged[from..].fill(0);
        std::fs::write(&place, damaged).unwrap();
        let name = format!("b{number}");
        import(&host.machines, stub.name(), &name).await.unwrap();
        assert_eq!(stub.transfers(), 1 + number);
        assert_eq!(std::fs::read(&place).unwrap(), layer());
        Disk::of(&host, &name).check();
    }
    // An image that is damaged by itself is fetched once.
    let stub = Stub::serve(b"no archive at all".repeat(100), Trouble::None);
    import(&host.machines, stub.name(), "c").await.unwrap_err();
    assert_eq!(stub.transfers(), 1);
}
