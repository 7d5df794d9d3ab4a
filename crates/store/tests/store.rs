//! The store on a real file system.

use std::collections::HashSet;
use std::io::Write as _;

use hoy_store::{Durability, Op, Store, StoreError};

fn root() -> std::path::PathBuf {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    std::env::temp_dir().join(format!("hoy-store-{}-{number}", std::process::id()))
}

#[test]
fn one_daemon_documents_and_blobs() {
    let root = root();
    let store = Store::open(&root).unwrap();
    assert!(matches!(Store::open(&root), Err(StoreError::Locked(_))));
    let put = |key: &str| Op::Put { kind: "t", key: key.into(), body: b"{}".to_vec() };
    store.write(vec![put("b"), put("a")], Durability::Sync).unwrap();
    store.write_later(vec![Op::Delete { kind: "t", key: "b".into() }]);
    assert_eq!(store.documents("t").unwrap(), [("a".into(), b"{}".to_vec())]);

    let (digest, _) = store.put_blob(b"hello").unwrap();
    assert_eq!(store.read_blob(&digest).unwrap(), b"hello");
    let mut lying = store.new_blob().unwrap();
    lying.write_all(b"other").unwrap();
    assert!(matches!(lying.commit(Some(digest), None), Err(StoreError::Digest { .. })));
    let mut short = store.new_blob().unwrap();
    short.write_all(b"x").unwrap();
    assert!(matches!(short.commit(None, Some(2)), Err(StoreError::Size { .. })));
    assert_eq!(std::fs::read_dir(root.join("ingest")).unwrap().count(), 0);
    drop(store);
    std::fs::remove_dir_all(root).unwrap();
}

/// On a full disk nothing new is taken, and what is there can be removed: that makes room.
#[test]
fn a_full_disk_takes_removals() {
    let root = root();
    std::fs::create_dir(&root).unwrap();
    let run = |line: String| {
        let status = std::process::Command::new("sh").args(["-ec", &line]).status();
        assert!(status.unwrap().success(), "{line}");
    };
    run(format!("mount -t tmpfs -o size=4m none {}", root.display()));
    let full = std::panic::catch_unwind(|| {
        let store = Store::open(&root).unwrap();
        let put = |key: String| {
            let op = Op::Put { kind: "t", key, body: vec![b'x'; 3000] };
            store.write(vec![op], Durability::Sync)
        };
        for number in 0..8 {
            put(format!("first-{number}")).unwrap();
        }
        // Every byte of the disk, by somebody else.
        run(format!("dd if=/dev/zero of={}/big bs=4k 2>/dev/null || true", root.display()));
        let taken = (0..9).take_while(|number| put(format!("more-{number}")).is_ok()).count();
        assert!(taken < 9, "the disk is not full");
        for number in 0..8 {
            let op = Op::Delete { kind: "t", key: format!("first-{number}") };
            store.write(vec![op], Durability::Sync).unwrap();
        }
        assert_eq!(store.documents("t").unwrap().len(), taken);
        std::fs::remove_file(root.join("big")).unwrap();
        put("again".to_owned()).unwrap();
    });
    run(format!("umount -l {}", root.display()));
    std::fs::remove_dir(&root).unwrap();
    full.unwrap();
}

#[test]
fn garbage_is_what_neither_metadata_nor_a_lease_names() {
    let root = root();
    let store = Store::open(&root).unwrap();
    let digests = [b"one", b"two", b"six"].map(|bytes| store.put_blob(bytes).unwrap().0);
    store.new_layer().unwrap().commit("layer").unwrap();
    let lease = store.lease([digests[1].hex()]);
    let keep = HashSet::from([digests[0].hex()]);
    assert_eq!(store.collect(&keep).unwrap(), 2);
    assert!(store.has_blob(&digests[0]) && store.has_blob(&digests[1]));
    assert!(!store.has_blob(&digests[2]) && !store.has_layer("layer"));
    drop(lease);
    assert_eq!(store.collect(&keep).unwrap(), 1);
    drop(store);
    std::fs::remove_dir_all(root).unwrap();
}
