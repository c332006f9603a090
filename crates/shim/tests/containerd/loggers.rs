//! Output to a program of the node: `ctr run --log-uri binary://`.

use crate::Cases;
use crate::output::image_of;
use anyhow::{Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use testkit::{Namespace, cases, process, wait};

pub(crate) const CASES: Cases = cases![
    crate::loggers::both_streams_go_to_the_logger,
    crate::loggers::the_reason_of_a_failure_goes_there_too,
    crate::loggers::a_logger_that_cannot_be_run_is_named,
    crate::loggers::a_logger_that_is_never_ready_is_given_up,
    crate::loggers::a_guest_outlives_its_logger,
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
    let log = node.log();
    let ended = |line: &&str| line.contains("the container ended") && line.contains(&id);
    let line = log.lines().find(ended).unwrap_or_default();
    ensure!(line.contains("code=2"), "{line}");
    node.until_nothing_remains()
}
