//! Processes that exec brings into a container: the spec of one, and what a wasm among them comes to.

use crate::lowering::{self, Identity};
use crate::source::{self, AtArgument};
use crate::{Guest, Own, Request, bundle, settings};
use oci_spec::runtime::Process;
use plan::{Hooks, Origin, Program, RunPlan, Source};

/// The last part of the type of an OCI `Process` (containerd, `typeurl`).
const TYPE: &str = "Process";

/// `ExecProcessRequest.spec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessSpec {
    /// The message's type.
    pub type_url: String,
    /// The section `process` of a runtime spec, in JSON.
    pub value: Vec<u8>,
}

/// Why a process is not brought in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// For another system.
    #[error("the process of exec is of type {0}: send a process of the oci runtime spec")]
    Type(String),
    /// Not JSON, or not of the shape the runtime spec demands.
    #[error("the process of exec is not valid")]
    Parse(#[source] serde_json::Error),
    /// A guest's container has no shell.
    #[error("exec needs a .wasm file or #export: {0:?} is not one")]
    NotWasm(String),
    /// The rest is as with a container.
    #[error(transparent)]
    Lower(#[from] crate::Error),
}

/// Reads the process of an exec.
pub fn process(spec: &ProcessSpec, terminal: bool) -> Result<Process, Error> {
    if spec.type_url.rsplit('/').next() != Some(TYPE) {
        return Err(Error::Type(spec.type_url.clone()));
    }
    let mut process: Process = serde_json::from_slice(&spec.value).map_err(Error::Parse)?;
    process.set_terminal(Some(terminal));
    Ok(process)
}

/// Plans a wasm that exec brings into the container of `plan`, which `request` made. It gets what the container has, and is
/// who `process` says.
pub async fn lower_exec(request: Request<'_>, plan: &RunPlan, process: &Process) -> Result<Own, Error> {
    let bundle = bundle::load(request.bundle).map_err(crate::Error::from)?;
    let cache = settings::operator_cache(request.options).map_err(crate::Error::from)?;
    let mut invocation = lowering::lower_invocation(process).map_err(crate::Error::from)?;
    let written = invocation.args.first().cloned().unwrap_or_default();
    if let (true, Some(own)) = (written.starts_with('#'), invocation.args.first_mut()) {
        // Another export of what the container runs.
        *own = format!("{}{written}", of_container(plan));
    }
    let mounts = bundle.spec.mounts().as_deref().unwrap_or_default();
    let at_argument = source::look(&request, &invocation, mounts).map_err(crate::Error::from)?;
    let is_layer = written.starts_with('#') && of_container(plan).is_empty();
    if !matches!(at_argument, AtArgument::Wasm(_)) && !is_layer {
        return Err(Error::NotWasm(written));
    }
    let wanted = source::Wanted {
        argument: invocation.args.first().map(String::as_str),
        invoke: None,
        max_bytes: cache.compile.wasm_bytes,
    };
    let chosen = source::find(&request, &wanted, at_argument).await.map_err(crate::Error::from)?;
    let Identity { user, rlimits, oom_score_adj, apparmor } =
        lowering::lower_identity(process).map_err(crate::Error::from)?;
    let mut isolation = plan.isolation.clone();
    isolation.user = user;
    isolation.rlimits = rlimits;
    isolation.oom_score_adj = oom_score_adj.or(isolation.oom_score_adj);
    isolation.apparmor = apparmor.or(isolation.apparmor);
    let plan = RunPlan {
        program: Program::Wasm(Source { origin: chosen.source.origin, export: chosen.source.export }),
        invocation,
        terminal: process.terminal().unwrap_or_default(),
        isolation,
        hooks: Hooks::default(),
        termination_file: None,
        ..plan.clone()
    };
    Ok(Own { plan, guest: Some(Guest { wasm: chosen.wasm, cache }), warnings: Vec::new() })
}

/// The file that a container runs; empty where it is a layer.
fn of_container(plan: &RunPlan) -> String {
    match &plan.program {
        Program::Wasm(Source { origin: Origin::File { path, .. }, .. }) => path.display().to_string(),
        Program::Wasm(Source { origin: Origin::Layer { .. }, .. }) | Program::Pause => String::new(),
    }
}
