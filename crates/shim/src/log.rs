//! The shim's log: lines for containerd's own, through the fifo `log` in the bundle.
//! A forked child has no log, since it has no descriptor but the granted ones: it reports to the shim.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

static MUTE: AtomicBool = AtomicBool::new(false);

/// How much is said.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verbosity {
    Info,
    Debug,
}

/// Sends this process's log, and the words of a panic, to the bundle's fifo. A bundle without one has no log: nobody
/// asked for it.
pub(crate) fn to_bundle(bundle: &Path, verbosity: Verbosity) {
    // Not blocking: a log that nobody reads must not stop the shim. Both directions, so that a containerd that restarts does not break the pipe.
    let fifo = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(bundle.join("log"));
    let Ok(fifo) = fifo else { return };
    let level = match verbosity {
        Verbosity::Info => LevelFilter::INFO,
        Verbosity::Debug => LevelFilter::DEBUG,
    };
    tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_target(false).with_writer(Fifo(fifo)).init();
    std::panic::set_hook(Box::new(|panic| match MUTE.load(Ordering::Relaxed) {
        true => eprintln!("{panic}"),
        false => tracing::error!(%panic, "the shim panicked"),
    }));
}

/// Ends the log of a process that was just forked.
pub(crate) fn mute() {
    MUTE.store(true, Ordering::Relaxed);
}

struct Fifo(File);

struct Line<'a>(&'a File);

impl<'a> MakeWriter<'a> for Fifo {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

impl Write for Line<'_> {
    /// A line that finds the fifo full is dropped: containerd is away, and the shim must go on.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !MUTE.load(Ordering::Relaxed) {
            let _ = self.0.write(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
