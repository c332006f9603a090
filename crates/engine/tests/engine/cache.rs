//! The cache: what it keeps, trusts, removes and refuses.

use crate::guests::{World, exit, hello};
use crate::stage::{Stage, block_on, plan, settings};
use engine::{ArtifactKey, Cache, CacheError, Host, Metering, Variant};
use plan::{Calls, Digest, FileIdentity};
use std::fs::{self, Permissions, TryLockError};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn is_cached(cache: &Cache, key: &ArtifactKey) -> bool {
    block_on(cache.lookup(key)).unwrap().is_some()
}

/// The files of a directory of the cache.
fn list(stage: &Stage, name: &str) -> Vec<PathBuf> {
    let dir = stage.dir.path().join("cache").join(name);
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// A stage with one artifact, and the paths of the artifact and its meta file.
fn with_artifact() -> (Stage, ArtifactKey, PathBuf, PathBuf) {
    let stage = Stage::new();
    let wasm = hello(World::Module);
    stage.compile(&wasm).unwrap();
    let key = stage.key(&wasm);
    let [artifact, meta]: [PathBuf; 2] = list(&stage, "artifacts").try_into().unwrap();
    assert_eq!(meta.extension().unwrap(), "meta");
    (stage, key, artifact, meta)
}

#[test]
fn artifact_is_found_by_another_shim_and_runs() {
    let (stage, key, path, _) = with_artifact();
    let other = stage.reopen();
    let artifact = block_on(other.lookup(&key)).unwrap().unwrap();
    Host::new(Variant::PLAIN).unwrap().load(&plan(), &artifact).map(|_| ()).unwrap();
    let metadata = fs::metadata(path).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o400);
    assert!(list(&stage, "tmp").is_empty());
}

#[test]
fn artifact_that_was_never_made_is_not_found() {
    let stage = Stage::new();
    assert!(!is_cached(&stage.cache, &stage.key(b"unknown")));
}

#[test]
fn damaged_entries_are_removed() {
    type Damage = fn(&Path, &Path);
    let damages: [(&str, Damage); 5] = [
        ("truncated", |artifact, _| {
            let bytes = fs::read(artifact).unwrap();
            fs::write(artifact, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("changed in place", |artifact, _| {
            let mut bytes = fs::read(artifact).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(artifact, bytes).unwrap();
        }),
        ("meta of garbage", |_, meta| fs::write(meta, "{").unwrap()),
        ("meta of another version", |_, meta| {
            let text = fs::read_to_string(meta).unwrap();
            let other = text.replacen("\"format\":1", "\"format\":999", 1);
            assert_ne!(text, other);
            fs::write(meta, other).unwrap();
        }),
        ("empty", |artifact, _| fs::write(artifact, "").unwrap()),
    ];
    for (name, damage) in damages {
        let (stage, key, artifact, meta) = with_artifact();
        damage(&artifact, &meta);
        assert!(!is_cached(&stage.cache, &key), "{name}");
        assert!(list(&stage, "artifacts").is_empty(), "{name}");
    }
}

#[test]
fn entry_without_meta_is_not_trusted() {
    let (stage, key, _, meta) = with_artifact();
    fs::remove_file(meta).unwrap();
    assert!(!is_cached(&stage.cache, &key));
}

#[test]
fn unchanged_copy_is_verified_once_and_trusted() {
    let (stage, key, artifact, meta) = with_artifact();
    let before = fs::read_to_string(&meta).unwrap();
    let copy = stage.dir.path().join("copy");
    fs::copy(&artifact, &copy).unwrap();
    fs::rename(&copy, &artifact).unwrap();
    assert!(is_cached(&stage.cache, &key));
    let after = fs::read_to_string(&meta).unwrap();
    assert_ne!(before, after);
    assert!(is_cached(&stage.cache, &key));
    assert_eq!(fs::read_to_string(&meta).unwrap(), after);
}

#[test]
fn discarded_artifact_is_gone() {
    let (stage, key, _, _) = with_artifact();
    stage.cache.discard(&key).unwrap();
    stage.cache.discard(&key).unwrap();
    assert!(!is_cached(&stage.cache, &key));
    assert!(list(&stage, "artifacts").is_empty());
}

#[test]
fn least_recently_used_artifacts_are_evicted() {
    let wasms: Vec<_> = (0..4).map(|code| exit(World::Module, code)).collect();
    let size = {
        let artifact = Stage::new().compile(&wasms[0]).unwrap();
        artifact.file().metadata().unwrap().len()
    };
    // Room for three of about the same size.
    let stage = Stage::with_size(size * 3 + size / 2);
    let keys: Vec<_> = wasms.iter().map(|wasm| stage.key(wasm)).collect();
    for wasm in &wasms[..3] {
        stage.compile(wasm).unwrap();
    }
    assert!(is_cached(&stage.cache, &keys[0]));
    stage.compile(&wasms[3]).unwrap();
    let cached: Vec<_> = keys.iter().map(|key| is_cached(&stage.cache, key)).collect();
    assert_eq!(cached, [true, false, true, true]);
}

#[test]
fn artifact_larger_than_the_cache_is_kept_alone() {
    let stage = Stage::with_size(1);
    let (one, two) = (exit(World::Module, 1), exit(World::Module, 2));
    stage.compile(&one).unwrap();
    stage.compile(&two).unwrap();
    assert!(!is_cached(&stage.cache, &stage.key(&one)));
    assert!(is_cached(&stage.cache, &stage.key(&two)));
}

#[test]
fn lock_of_a_key_is_held_by_one() {
    let stage = Stage::new();
    let key = stage.key(b"wasm");
    let first = stage.cache.begin(&key).unwrap();
    let second = stage.reopen().begin(&key).unwrap();
    first.lock.lock().unwrap();
    assert!(matches!(second.lock.try_lock(), Err(TryLockError::WouldBlock)));
    // The child that compiled is gone, the shim still holds the description.
    drop(first.lock.try_clone().unwrap());
    assert!(second.lock.try_lock().is_err());
    block_on(stage.cache.commit(first, Calls::Synchronous)).unwrap();
    second.lock.try_lock().unwrap();
}

#[test]
fn temp_file_of_a_dead_writer_is_removed_and_that_of_a_live_one_kept() {
    let stage = Stage::new();
    let live = stage.cache.begin(&stage.key(b"live")).unwrap();
    let stale = stage.dir.path().join("cache/tmp/4711-0");
    fs::write(&stale, "left").unwrap();
    stage.compile(&hello(World::Module)).unwrap();
    assert!(!stale.exists());
    assert_eq!(list(&stage, "tmp").len(), 1);
    drop(live);
    assert!(list(&stage, "tmp").is_empty());
}

#[test]
fn digest_of_an_unchanged_file_is_remembered() {
    let stage = Stage::new();
    let digest = Digest::from_sha256([7; 32]);
    let identity = FileIdentity { device: 1, inode: 2, changed_ns: 1_700_000_000_000_000_001, size: 3 };
    assert_eq!(stage.cache.known_digest(&identity), None);
    stage.cache.remember(&identity, &digest).unwrap();
    assert_eq!(stage.reopen().known_digest(&identity), Some(digest));
    let changed = [
        FileIdentity { size: 4, ..identity },
        FileIdentity { changed_ns: identity.changed_ns + 1, ..identity },
        FileIdentity { inode: 3, ..identity },
        FileIdentity { device: 2, ..identity },
    ];
    for identity in changed {
        assert_eq!(stage.cache.known_digest(&identity), None, "{identity:?}");
    }
}

#[test]
fn digest_of_a_file_changed_just_now_is_not_remembered() {
    let stage = Stage::new();
    let metadata = fs::metadata(stage.dir.path()).unwrap();
    let identity = FileIdentity {
        device: metadata.dev(),
        inode: metadata.ino(),
        changed_ns: i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec()),
        size: metadata.len(),
    };
    let digest = Digest::from_sha256([7; 32]);
    stage.cache.remember(&identity, &digest).unwrap();
    assert_eq!(stage.cache.known_digest(&identity), None);
}

#[test]
fn keys_differ_by_source_and_variant() {
    let stage = Stage::new();
    let plain = stage.key_of(b"a", Metering::None);
    assert_ne!(plain, stage.key_of(b"a", Metering::Fuel));
    assert_ne!(plain, stage.key_of(b"b", Metering::None));
    assert_eq!(plain, stage.key_of(b"a", Metering::None));
}

#[test]
fn compatibility_is_computed_once_for_a_node_and_anew_for_another_build() {
    let stage = Stage::new();
    let key = stage.key(b"a");
    let path = stage.dir.path().join("cache/compatibility-plain");
    let text = fs::read_to_string(&path).unwrap();
    let hash = text.rsplit('"').nth(1).unwrap().to_owned();
    // Another value in the same place is taken, so it was not computed again.
    fs::write(&path, text.replace(&hash, "marked")).unwrap();
    let digest = Digest::from_sha256([1; 32]);
    let marked = ArtifactKey::new(&stage.reopen(), &digest, Metering::None).unwrap();
    assert!(format!("{marked:?}").contains("marked"), "{marked:?}");
    // Of another executable, or unreadable, it is not.
    for other in [text.replace("\"size\":", "\"size\":1"), "{".to_owned()] {
        fs::write(&path, other).unwrap();
        let digest = block_on(engine::hash(&crate::stage::file_of(b"a"), 10)).unwrap();
        let again = ArtifactKey::new(&stage.reopen(), &digest, Metering::None).unwrap();
        assert_eq!(again, key);
    }
}

#[test]
fn directory_is_made_for_its_owner_alone() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a/b/cache");
    Cache::open(&settings(path.clone(), 1)).unwrap();
    for made in [path.as_path(), path.parent().unwrap()] {
        assert_eq!(fs::metadata(made).unwrap().mode() & 0o777, 0o700, "{made:?}");
    }
}

#[test]
fn directory_open_to_others_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = fs::canonicalize(dir.path()).unwrap().join("cache");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    let error = Cache::open(&settings(path.clone(), 1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cache directory {0} is open to others (mode 0755): chmod 0700 {0}", path.display())
    );
    fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    let error = Cache::open(&settings(path, 1)).unwrap_err();
    assert!(matches!(error, CacheError::Open { remedy: "go-w", .. }), "{error}");
}

#[test]
fn wasm_beyond_the_limit_is_not_hashed() {
    let file = crate::stage::file_of(b"12345");
    assert!(block_on(engine::hash(&file, 5)).is_ok());
    let error = block_on(engine::hash(&file, 4)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "wasm is larger than 4 bytes: raise the node's limit on wasm size, or make it smaller"
    );
}
