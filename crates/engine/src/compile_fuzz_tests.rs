//! Any bytes are compiled, or refused in one line, without an end of the compile child.

use super::*;
use testkit::fuzz::{Form, Fuzz, assert_told};

#[test]
fn any_bytes_are_compiled_or_refused_in_one_line() {
    let fuzz = Fuzz::new(env!("CARGO_PKG_NAME"), "wasm", Form::Bytes, 4000);
    fuzz.run(|bytes| match translate(bytes, Metering::None) {
        Ok((code, _)) => {
            assert!(bytes.starts_with(MAGIC));
            assert!(Engine::detect_precompiled(&code).is_some());
        }
        Err(line) => assert_told(&line),
    });
}
