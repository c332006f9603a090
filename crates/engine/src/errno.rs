//! The errno that wasmtime-wasi has no name for. It knows 25 of them and tells guests EIO for the rest, among them EROFS
//! and EXDEV, on which programs act: a write refused by a read-only volume must say so, and `mv` copies on EXDEV.
//!
//! The number itself is only in a debug event of wasmtime-wasi ("unknown raw os error"), so this module listens to that
//! one event. Tests fail if an update of the library changes it.

use std::cell::Cell;
use std::fmt::{self, Debug};
use std::sync::LazyLock;
use tracing::dispatcher::{self, DefaultGuard, Dispatch};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;
use wasmtime_wasi::p3::bindings::filesystem::types as p3;

/// Both places that make error codes of errors.
const TARGETS: [&str; 2] = ["wasmtime_wasi::filesystem", "wasmtime_wasi::p2::host::filesystem"];
const MESSAGE: &str = "unknown raw os error: ";

/// `__WASI_ERRNO_IO` of WASI 0.1.
const P1_IO: i32 = 29;

/// Linux errno, WASI 0.1 errno, WASI 0.2 error code.
const NAMED: [(i32, i32, ErrorCode); 7] = [
    (6, 60, ErrorCode::NoSuchDevice),  // ENXIO
    (18, 75, ErrorCode::CrossDevice),  // EXDEV
    (19, 43, ErrorCode::NoDevice),     // ENODEV
    (26, 74, ErrorCode::TextFileBusy), // ETXTBSY
    (30, 69, ErrorCode::ReadOnly),     // EROFS
    (35, 16, ErrorCode::Deadlock),     // EDEADLK
    (122, 19, ErrorCode::Quota),       // EDQUOT
];

thread_local! {
    static LAST: Cell<Option<i32>> = const { Cell::new(None) };
}

/// Listens on this thread until the guard is dropped.
pub(crate) fn listen() -> DefaultGuard {
    // One for the process: what an event's place in the code knows of its listeners is only recomputed when one comes.
    static LISTENER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(Listener));
    dispatcher::set_default(&LISTENER)
}

/// Forgets what was heard. To be called before the operation whose errno is asked for.
pub(crate) fn forget() {
    LAST.set(None);
}

/// The WASI 0.1 errno of the operation since [`forget`], which returned `errno`.
pub(crate) fn exact_p1(errno: i32) -> i32 {
    match heard() {
        Some((_, p1, _)) if errno == P1_IO => *p1,
        _ => errno,
    }
}

/// The WASI 0.2 error code of the operation since [`forget`], which returned `code`.
pub(crate) fn exact_p2(code: ErrorCode) -> ErrorCode {
    match heard() {
        Some((_, _, p2)) if code == ErrorCode::Io => *p2,
        _ => code,
    }
}

/// The WASI 0.3 error code of the operation since [`forget`], which returned `code`.
pub(crate) fn exact_p3(code: p3::ErrorCode) -> p3::ErrorCode {
    let Some((_, _, p2)) = heard().filter(|_| matches!(code, p3::ErrorCode::Io)) else { return code };
    match p2 {
        ErrorCode::NoSuchDevice => p3::ErrorCode::NoSuchDevice,
        ErrorCode::CrossDevice => p3::ErrorCode::CrossDevice,
        ErrorCode::NoDevice => p3::ErrorCode::NoDevice,
        ErrorCode::TextFileBusy => p3::ErrorCode::TextFileBusy,
        ErrorCode::ReadOnly => p3::ErrorCode::ReadOnly,
        ErrorCode::Deadlock => p3::ErrorCode::Deadlock,
        ErrorCode::Quota => p3::ErrorCode::Quota,
        _ => code,
    }
}

fn heard() -> Option<&'static (i32, i32, ErrorCode)> {
    let errno = LAST.get()?;
    NAMED.iter().find(|(linux, _, _)| *linux == errno)
}

/// Takes these events of wasmtime-wasi and nothing else.
struct Listener;

fn is_wanted(metadata: &Metadata<'_>) -> bool {
    metadata.is_event() && *metadata.level() == Level::DEBUG && TARGETS.contains(&metadata.target())
}

impl Subscriber for Listener {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_wanted(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_wanted(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::DEBUG)
    }

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Message);
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

struct Message;

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            let text = fmt::format(format_args!("{value:?}"));
            LAST.set(parse(&text).or(LAST.get()));
        }
    }
}

/// The number in `unknown raw os error: Read-only file system (os error 30)`.
fn parse(message: &str) -> Option<i32> {
    let (_, number) = message.strip_prefix(MESSAGE)?.rsplit_once("(os error ")?;
    number.strip_suffix(')')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// What wasmtime-wasi itself says to an errno.
    fn check(linux: i32, p1: i32, p2: ErrorCode) {
        let _listening = listen();
        forget();
        let code = ErrorCode::from(&io::Error::from_raw_os_error(linux));
        assert_eq!(exact_p2(code), p2, "errno {linux}");
        assert_eq!(exact_p1(P1_IO), p1, "errno {linux}");
    }

    #[test]
    fn errnos_without_a_name_in_wasmtime_are_told_exactly() {
        for (linux, p1, p2) in NAMED {
            check(linux, p1, p2);
        }
    }

    #[test]
    fn errors_of_wasi_0_3_are_named_as_those_of_0_2() {
        let _listening = listen();
        for (linux, _, p2) in NAMED {
            forget();
            let _ = ErrorCode::from(&io::Error::from_raw_os_error(linux));
            let p3 = exact_p3(p3::ErrorCode::Io);
            let kebab: String =
                format!("{p3:?}").trim_start_matches("ErrorCode::").chars().fold(String::new(), |name, c| {
                    let dash = if c.is_uppercase() && !name.is_empty() { "-" } else { "" };
                    format!("{name}{dash}{}", c.to_lowercase())
                });
            assert_eq!(kebab, p2.name(), "errno {linux}");
        }
    }

    #[test]
    fn other_errnos_stay_as_they_are() {
        check(5, P1_IO, ErrorCode::Io);
        check(2, P1_IO, ErrorCode::NoEntry);
    }

    #[test]
    fn an_errno_is_not_taken_for_a_later_operation() {
        let _listening = listen();
        let _ = ErrorCode::from(&io::Error::from_raw_os_error(30));
        forget();
        assert_eq!(exact_p1(P1_IO), P1_IO);
        assert_eq!(exact_p2(ErrorCode::Io), ErrorCode::Io);
    }
}
