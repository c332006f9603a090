//! Any `wasm.json` is a record that says what it said, or one line; `delete` reads it where a shim was killed.

use super::*;
use testkit::fuzz::{Form, Fuzz, Tree, assert_told, scratch};

#[test]
fn any_record_is_read_or_refused_in_one_line() {
    let dir = scratch();
    let bundle = dir.path();
    let fuzz = Fuzz::new(env!("CARGO_PKG_NAME"), "record", Form::Json, 8000);
    fuzz.run(|text| {
        fs::write(bundle.join(NAME), text).expect("a file can be written");
        let before = Tree::of(bundle);
        let loaded = Record::load(bundle);
        assert_eq!(before, Tree::of(bundle), "reading left something");
        match loaded {
            Ok(None) => panic!("the record was not seen"),
            Ok(Some(record)) => {
                assert!(record.version <= VERSION);
                // All processes of the cgroup are killed: it must never be one above the containers'.
                let cgroup = Path::new(&record.cgroup);
                assert!(cgroup.is_absolute() && cgroup.parent().is_some(), "{record:?}");
                assert!(!cgroup.components().any(|one| one == Component::ParentDir), "{record:?}");
                record.save(bundle).expect("a record can be saved");
                let again = Record::load(bundle).expect("what was saved is read");
                assert_eq!(again, Some(record));
            }
            Err(error) => {
                let line = plan::one_line(&error);
                assert_told(&line);
                assert!(line.contains(NAME), "{line}");
            }
        }
    });
}
