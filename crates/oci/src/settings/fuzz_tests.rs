//! Any annotations, operator file and runtime options give settings within their bounds, or one line.

use super::keys::{Choices, Maxima};
use super::*;
use testkit::fuzz::{Form, Fuzz, Tree, assert_told, scratch};

fn check_within(choices: &Choices, maxima: &Maxima) {
    assert_eq!(choices.within(maxima), Ok(()));
    assert!(choices.memory_bytes != Some(0), "{choices:?}");
    assert!(choices.invoke.as_deref() != Some(""), "{choices:?}");
}

#[test]
fn any_annotations_choose_within_the_maxima_or_are_refused_in_one_line() {
    let mut maxima = Maxima::default();
    for (key, value) in [("limits.memory", "1Gi"), ("rootfs", "ro"), ("network.allow", "tcp:*:*, udp:10.0.0.0/8:*")] {
        maxima.set(key, value).unwrap();
    }
    let fuzz = Fuzz::new(env!("CARGO_PKG_NAME"), "annotations", Form::Json, 10_000);
    fuzz.run(|text| {
        let read = || serde_json::from_slice::<HashMap<String, String>>(text);
        let (Ok(annotations), Ok(again)) = (read(), read()) else { return };
        let chosen = annotations::choose(&annotations, &maxima);
        // Two maps of the same content are not in the same order.
        assert_eq!(chosen, annotations::choose(&again, &maxima));
        match chosen {
            Ok(choices) => check_within(&choices, &maxima),
            Err(error) => {
                let line = plan::one_line(&error);
                assert_told(&line);
                assert!(line.starts_with("annotation io.containerd.wasm.v1/"), "{line}");
            }
        }
    });
}

#[test]
fn any_operator_file_is_read_or_refused_in_one_line() {
    let dir = scratch();
    let path = dir.path().join("operator.toml");
    let fuzz = Fuzz::new(env!("CARGO_PKG_NAME"), "operator", Form::Toml, 4000);
    fuzz.run(|text| {
        std::fs::write(&path, text).unwrap();
        let before = Tree::of(dir.path());
        let read = operator::load(Some(&path));
        assert_eq!(before, Tree::of(dir.path()));
        match read {
            Ok(operator) => {
                check_within(&operator.defaults, &operator.maxima);
                let cache = &operator.cache;
                assert!(cache.dir.is_absolute() && !cache.dir.as_os_str().as_encoded_bytes().contains(&0), "{cache:?}");
                let bounds =
                    [cache.size_bytes, cache.compile.memory_bytes, cache.compile.time_ms, cache.compile.wasm_bytes];
                assert!(!bounds.contains(&0), "{cache:?}");
            }
            Err(error) => {
                let line = plan::one_line(&error);
                assert_told(&line);
                assert!(line.contains(path.to_str().unwrap()), "{line}");
            }
        }
    });
}

fn check_options(options: RuntimeOptions) {
    match options::choose(Some(&options)) {
        Ok(chosen) => assert!(chosen.operator_file.is_none_or(|file| file.is_absolute()), "{options:?}"),
        Err(error) => assert_told(&plan::one_line(&error)),
    }
}

#[test]
fn any_options_table_names_a_file_or_is_refused_in_one_line() {
    let fuzz = Fuzz::new(env!("CARGO_PKG_NAME"), "options", Form::Toml, 8000);
    fuzz.run(|body| check_options(options::generic("", body)));
}

#[test]
fn any_options_message_names_a_file_or_is_refused_in_one_line() {
    let fuzz = Fuzz::new(env!("CARGO_PKG_NAME"), "message", Form::Bytes, 8000);
    fuzz.run(|body| {
        let RuntimeOptions { type_url, value } = options::generic("/etc/a.toml", body);
        // The changed bytes are in the message itself: at its end, and as the whole of it.
        check_options(RuntimeOptions { type_url: type_url.clone(), value: [value.as_slice(), body].concat() });
        check_options(RuntimeOptions { type_url, value: body.to_vec() });
        let type_url = String::from_utf8_lossy(body).into_owned();
        check_options(RuntimeOptions { type_url, value });
    });
}

#[test]
fn any_values_are_sizes_and_durations_above_zero_or_none() {
    let fuzz = Fuzz::new(env!("CARGO_PKG_NAME"), "units", Form::Bytes, 30_000);
    fuzz.run(|text| {
        let text = String::from_utf8_lossy(text);
        assert!(units::size(&text) != Some(0), "{text:?}");
        assert!(units::duration(&text).is_none_or(|time| !time.is_zero()), "{text:?}");
    });
}
