//! Cases of the operator's file: text in, settings or one line out.

use super::*;
use crate::chain;
use plan::RootAccess;

fn check(text: &str, wanted: Result<Operator, &str>) {
    let got = parse(Path::new("/etc/op.toml"), text.as_bytes()).map_err(|error| chain(&error));
    assert_eq!(got, wanted.map_err(str::to_owned), "{text}");
}

#[test]
fn file_sets_defaults_maxima_and_cache() {
    check("", Ok(Operator::default()));
    let mut operator = Operator::default();
    operator.defaults.memory_bytes = Some(64 << 20);
    operator.defaults.invoke = Some("run".to_owned());
    operator.maxima.0.rootfs = Some(RootAccess::ReadOnly);
    operator.maxima.0.memory_bytes = Some(1 << 30);
    let text =
        "[defaults]\nlimits.memory = '64Mi'\ninvoke = 'run'\n[maxima]\n'limits.memory' = 1073741824\nrootfs = 'ro'";
    check(text, Ok(operator));
    let operator = Operator {
        cache: CacheSettings {
            dir: PathBuf::from("/c"),
            size_bytes: 1 << 20,
            compile: CompileBounds { memory_bytes: 1 << 30, time_ms: 90_000, wasm_bytes: 1000 },
        },
        ..Operator::default()
    };
    let text = "[cache]\ndir = '/c'\nsize = '1Mi'\ncompile-memory = '1Gi'\ncompile-timeout = '90s'\nwasm-size = 1000";
    check(text, Ok(operator));
}

#[test]
fn bad_file_is_refused_by_name() {
    let cases = [
        ("[default]", "unknown table [default]: known tables are [defaults], [maxima], [cache]"),
        ("size = 1", "unknown key size: known tables are [defaults], [maxima], [cache]"),
        ("cache = 1", "cache is not a table: write [cache]"),
        (
            "[defaults]\nmemory = 1",
            "[defaults]: unknown key memory: known keys are limits.memory, limits.timeout, limits.fuel, rootfs, http.max-concurrency, http.max-connections, http.request-timeout, http.reuse, http.drain-delay, network.allow, invoke, http.listen",
        ),
        (
            "[defaults]\ncoredump = 1",
            "[defaults]: coredump is not built yet: remove it; built keys are limits.memory, limits.timeout, limits.fuel, rootfs, http.max-concurrency, http.max-connections, http.request-timeout, http.reuse, http.drain-delay, network.allow, invoke, http.listen",
        ),
        (
            "[defaults]\nlimits.memory = true",
            "[defaults]: bad value \"true\" of limits.memory: expected a size above 0 such as 64Mi, 1Gi, 500M or plain bytes",
        ),
        (
            "[maxima]\ninvoke = 'f'",
            "[maxima]: invoke cannot have a maximum: only limits.memory, limits.timeout, limits.fuel, rootfs, http.max-concurrency, http.max-connections, http.request-timeout, http.reuse, http.drain-delay, network.allow can",
        ),
        (
            "[defaults]\nrootfs = 'rw'\n[maxima]\nrootfs = 'none'",
            "[defaults]: rootfs = rw is above the maximum none: ask for less, or raise it in [maxima]",
        ),
        (
            "[defaults]\nnetwork.allow = 'tcp:a:1, udp:b:2'\n[maxima]\nnetwork.allow = ['tcp:a:*', 'udp:10.0.0.0/8:2']",
            "[defaults]: rule udp:b:2 of network.allow is not within the maximum tcp:a:*,udp:10.0.0.0/8:2: remove it or ask for less, or widen it in [maxima]",
        ),
        (
            "[cache]\npath = '/x'",
            "unknown key path in [cache]: known keys are dir, size, compile-memory, compile-timeout, wasm-size",
        ),
        ("[cache]\ndir = 'x'", "bad value \"x\" of dir in [cache]: expected an absolute path"),
        (
            "[cache]\ncompile-timeout = 30",
            "bad value \"30\" of compile-timeout in [cache]: expected a duration above 0 such as 500ms, 30s, 2m or 1h",
        ),
    ];
    for (text, message) in cases {
        check(text, Err(&format!("operator file /etc/op.toml: {message}")));
    }
}

#[test]
fn broken_toml_gives_one_line_with_the_place() {
    let error = parse(Path::new("/op.toml"), b"[cache]\nsize = \n").unwrap_err();
    let message = chain(&error);
    assert!(message.starts_with("operator file /op.toml is not valid toml: line 2: "), "{message}");
    assert!(!message.contains('\n'), "{message}");
}

#[test]
fn named_file_has_to_exist() {
    let error = load(Some(Path::new("/nowhere/op.toml"))).unwrap_err();
    let wanted = "read operator file /nowhere/op.toml: No such file or directory (os error 2)";
    assert_eq!(chain(&error), wanted);
}
