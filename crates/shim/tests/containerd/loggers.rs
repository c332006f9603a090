//! Output to a program of the node: `ctr run --log-uri binary://`.

use crate::Cases;
use crate::output::image_of;
use crate::restarts::own_containerd;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::thread;
use testkit::{Namespace, cases, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::loggers::both_streams_go_to_the_logger,
    crate::loggers::the_reason_of_a_failure_goes_there_too,
    crate::loggers::a_logger_that_cannot_be_run_is_named,
    crate::loggers::a_logger_that_is_never_ready_is_given_up,
    crate::loggers::a_guest_outlives_its_logger,
    crate::loggers::a_logger_that_is_not_ready_ends_after_the_shim_was_killed,
    crate::loggers::loggers_take_what_comes_while_containerd_is_killed,
];

/// A logger in shell, and where it writes.
struct Logger {
    script: PathBuf,
    out: PathBuf,
}

impl Logger {
    /// `begin` is what it does before it takes the streams.
    fn new(node: &Namespace, begin: &str) -> Result<Logger> {
        let dir = node.directory("logger")?;
        let logger = Logger { script: dir.join("logger.sh"), out: dir.join("log") };
        let text = format!(
            "#!/bin/sh\n{begin}\ncat <&3 >$2.stdout &\ncat <&4 >$2.stderr &\nwait\n\
             echo \"$CONTAINER_NAMESPACE/$CONTAINER_ID\" >$2.name\n"
        );
        fs::write(&logger.script, text)?;
        fs::set_permissions(&logger.script, fs::Permissions::from_mode(0o755))?;
        Ok(logger)
    }

    fn uri(&self) -> String {
        format!("binary://{}?log={}", self.script.display(), self.out.display())
    }

    /// What it wrote: `stdout`, `stderr`, or the `name` of the container.
    fn text(&self, what: &str) -> String {
        fs::read_to_string(self.out.with_extension(what)).unwrap_or_default()
    }
}

/// The end that says that a logger is ready.
const READY: &str = "exec 5>&-";

fn both_streams_go_to_the_logger(node: &Namespace) -> Result<()> {
    let logger = Logger::new(node, READY)?;
    let run = node.run(&image_of(node, "p1_stderr.wat")?).flags(["--log-uri", &logger.uri()]);
    let name = format!("{}/{}\n", node.name(), run.id());
    run.output()?;
    // All of it, and its end, before delete has answered.
    ensure!(logger.text("stdout") == "to stdout\n", "{}", logger.text("stdout"));
    ensure!(logger.text("stderr") == "to stderr\n", "{}", logger.text("stderr"));
    ensure!(logger.text("name") == name, "{}", logger.text("name"));
    node.until_nothing_remains()
}

fn the_reason_of_a_failure_goes_there_too(node: &Namespace) -> Result<()> {
    let logger = Logger::new(node, READY)?;
    node.run(&image_of(node, "p1_trap.wat")?).flags(["--log-uri", &logger.uri()]).output()?;
    ensure!(logger.text("stderr").contains("wasm trap: "), "{}", logger.text("stderr"));
    let logger = Logger::new(node, READY)?;
    let run = node.run(&image_of(node, "p1_unknown_import.wat")?).flags(["--log-uri", &logger.uri()]);
    run.refused(&["acme:bank", "withdraw"])?;
    wait::until("the logger has the reason", || Ok(logger.text("stderr").contains("withdraw").then_some(())))?;
    node.until_nothing_remains()
}

fn a_logger_that_cannot_be_run_is_named(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_hello.wat")?;
    let refused = |uri: &str, parts: &[&str]| node.run(&image).flags(["--log-uri", uri]).refused(parts);
    refused("binary:///not/there?a=b", &["logger /not/there cannot be run", "No such file"])?;
    refused("binary:///etc/passwd", &["logger /etc/passwd cannot be run", "Permission denied"])?;
    node.until_nothing_remains()
}

fn a_logger_that_is_never_ready_is_given_up(node: &Namespace) -> Result<()> {
    let logger = Logger::new(node, "sleep 600")?;
    let run = node.run(&image_of(node, "p1_hello.wat")?).flags(["--log-uri", &logger.uri()]);
    run.refused(&["logger", "did not say that it is ready within 10 s"])?;
    node.until_nothing_remains()?;
    let script = logger.script.display().to_string();
    ensure!(process::mentioning(&script).is_empty(), "the logger is still there");
    Ok(())
}

fn a_guest_outlives_its_logger(node: &Namespace) -> Result<()> {
    let logger = Logger::new(node, "exec 5>&-; exit 1")?;
    let image = image_of(node, "p1_pattern.c")?;
    let run = node.run(&image).flags(["--log-uri", &logger.uri()]).args(["/app.wasm", "1000000"]);
    let id = run.id().to_owned();
    run.output()?;
    // More than a pipe holds: the guest saw an error, and was neither killed nor left to wait for a reader.
    let line = node.until_logged(&["the container ended", &id])?;
    ensure!(line.contains("code=2"), "{line}");
    node.until_nothing_remains()
}

/// It is not tied to the shim's life, since it is to log what came before the end of the shim: it meets the end of its
/// streams, which nobody else may hold.
fn a_logger_that_is_not_ready_ends_after_the_shim_was_killed(node: &Namespace) -> Result<()> {
    let fifo = node.directory("go")?.join("fifo");
    mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let logger = Logger::new(node, &format!("read -r word <{}\n{READY}", fifo.display()))?;
    let script = logger.script.display().to_string();
    let image = image_of(node, "p1_hello.wat")?;
    let draft = node.task(&image).logger(&logger.uri());
    let name = format!("{}/{}\n", node.name(), draft.id());
    let created = thread::scope(|scope| {
        let creating = scope.spawn(|| draft.create());
        let waits = wait::until("the logger runs", || Ok(process::mentioning(&script).first().copied()));
        let killed = waits.and_then(|pid| Ok(kill(Pid::from_raw(process::parent(pid)?), Signal::SIGKILL)?));
        let created = creating.join().expect("it returns errors");
        killed.map(|()| created)
    })?;
    let refused = created.err().context("created without a shim")?;
    node.until_nothing_remains().with_context(|| format!("{refused:#}"))?;
    let mut options = File::options();
    options.write(true).custom_flags(nix::libc::O_NONBLOCK);
    // ENXIO until there is a reader, fifo(7).
    let mut go = wait::until("the logger reads", || Ok(options.open(&fifo).ok()))?;
    go.write_all(b"go\n")?;
    wait::until("the logger ends", || Ok(process::mentioning(&script).is_empty().then_some(())))?;
    ensure!(logger.text("name") == name, "it ended before its streams: {:?}", logger.text("name"));
    ensure!(logger.text("stdout").is_empty() && logger.text("stderr").is_empty(), "{}", logger.text("stderr"));
    Ok(())
}

fn loggers_take_what_comes_while_containerd_is_killed(node: &Namespace) -> Result<()> {
    let (containerd, own) = own_containerd(node, "logger")?;
    let image = image_of(&own, "p1_cat.c")?;
    let begin = |code: &str| -> Result<_> {
        let logger = Logger::new(&own, READY)?;
        let task = own.task(&image).stdin().logger(&logger.uri()).args(["/app.wasm", code]).create()?;
        let mut input = task.stdio.write_end()?;
        task.start()?;
        input.write_all(b"before\n")?;
        Ok((logger, task, input))
    };
    let until = |logger: &Logger, what: &str, said: &str| {
        wait::until(said, || Ok((logger.text(what) == said).then_some(())))
            .with_context(|| format!("{what}: {:?}", logger.text(what)))
    };
    let (stays, mut staying, mut input) = begin("7")?;
    let (leaves, mut leaving, mut last) = begin("5")?;
    leaving.api.close_stdin(&leaving.id)?;
    containerd.restart(Signal::SIGKILL, || {
        input.write_all(b"during\n")?;
        until(&stays, "stdout", "before\nduring\n")?;
        last.write_all(b"during\n")?;
        drop(last);
        wait::until("the guest has ended", || Ok((!process::exists(leaving.pid)).then_some(())))
    })?;
    for task in [&mut staying, &mut leaving] {
        // Those from before ended with that containerd.
        task.api = own.api()?;
    }
    input.write_all(b"after\n")?;
    staying.api.close_stdin(&staying.id)?;
    drop(input);
    let wanted = [
        (leaving, leaves, 5, "before\nduring\n", "end of input after 14 bytes\n"),
        (staying, stays, 7, "before\nduring\nafter\n", "end of input after 20 bytes\n"),
    ];
    for (task, logger, code, stdout, stderr) in wanted {
        let name = format!("{}/{}\n", own.name(), task.id);
        let end = task.finish()?;
        ensure!(end.code == code, "{name}: {end:?}");
        // All of it, and its end, before delete has answered.
        let said = ["stdout", "stderr", "name"].map(|what| logger.text(what));
        ensure!(said == [stdout, stderr, &name], "{said:?}");
    }
    own.until_nothing_remains()?;
    containerd.stop()
}
