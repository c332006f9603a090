//! Waiting for something to become true, with a deadline. The only place of the tests that lets time
//! pass, but for [`crate::cluster::until`].

use anyhow::{Result, bail};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for what should happen at once on an idle machine; generous, because it may be loaded.
pub fn patience() -> Duration {
    scaled(Duration::from_secs(60))
}

/// A time that something may take here: as many times longer as `WASM_TEST_PATIENCE` says, which a machine that is
/// emulated sets.
pub fn scaled(usual: Duration) -> Duration {
    static FACTOR: LazyLock<u32> = LazyLock::new(|| match std::env::var("WASM_TEST_PATIENCE") {
        Ok(factor) => factor.parse().expect("WASM_TEST_PATIENCE is a whole number"),
        Err(_) => 1,
    });
    usual * *FACTOR
}

/// Between two looks. Looking costs time too, so it is scaled like what is waited for.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks until `look` gives a value; after [`patience`] fails and says what was waited for.
pub fn until<T>(what: &str, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_within(patience(), what, look)
}

/// As [`until`], with a deadline of its own.
pub fn until_within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = look()? {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("waited {} s in vain: {what}", patience.as_secs());
        }
        thread::sleep(scaled(PAUSE));
    }
}
