//! Links a mapped artifact with the worlds that guests may import, and finds its entry point. What cannot run is told
//! here, before anything of the guest ran.

use crate::artifact::{Artifact, Code, map};
use crate::compile::one_line;
use crate::config::{Role, Slots, Variant, config, pooled};
use crate::grant::State;
use crate::{p1, p2};
use plan::{Failure, RunPlan};
use wasmtime::component::{self, Component};
use wasmtime::{Engine, ExternType, InstancePre, Linker, Module, UnknownImportError};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

/// The function of a command.
const START: &str = "_start";
/// The function of a reactor that precedes all others.
const INITIALIZE: &str = "_initialize";
/// The packages of what a component may import.
const PROVIDED: [&str; 7] =
    ["wasi:cli", "wasi:clocks", "wasi:filesystem", "wasi:http", "wasi:io", "wasi:random", "wasi:sockets"];
/// What a component exports that is a command.
const RUN: &str = "wasi:cli/run@0.2.";
/// What a component exports that answers requests.
const HANDLER: &str = "wasi:http/incoming-handler@0.2.";

/// An engine, and the world of core modules for it. Made once, before any fork: container processes inherit it, which
/// saves each of them half a millisecond, and memory since they share it.
pub struct Host {
    engine: Engine,
    modules: Linker<State>,
    variant: Variant,
}

/// A guest that is mapped and linked, without rights yet.
pub struct Loaded {
    pub(crate) engine: Engine,
    pub(crate) program: Program,
}

/// The kinds of guest.
pub(crate) enum Program {
    /// A core module of WASI 0.1.
    Module {
        pre: InstancePre<State>,
        /// The functions to call one after the other.
        calls: Vec<String>,
    },
    /// A component that exports `wasi:cli/run` 0.2.
    Command(CommandPre<State>),
    /// A component that exports `wasi:http/incoming-handler` 0.2.
    Service(ProxyPre<State>),
}

/// The worlds of components.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum World {
    Command,
    Service,
}

/// Makes a running guest look whether it should end. Can be used in a signal handler.
#[derive(Clone)]
pub struct Interrupter(Engine);

impl Interrupter {
    /// Has the guest check for signals as soon as it runs wasm. Async-signal-safe: one atomic addition.
    pub fn interrupt(&self) {
        self.0.increment_epoch();
    }
}

impl Loaded {
    /// For the process's signal handlers, which write to the pipe of signals first.
    pub fn interrupter(&self) -> Interrupter {
        Interrupter(self.engine.clone())
    }
}

impl Host {
    /// Makes it for guests whose code is of this variant.
    pub fn new(variant: Variant) -> Result<Host, Failure> {
        let made = || -> wasmtime::Result<Host> {
            let engine = Engine::new(&config(Role::Run, variant))?;
            let modules = p1::linker(&engine)?;
            Ok(Host { engine, modules, variant })
        };
        made().map_err(|error| Failure::Message(one_line("start wasmtime", error.as_ref())))
    }

    /// Whether it is for the kind of code that a plan needs.
    pub fn suits(&self, plan: &RunPlan) -> bool {
        self.variant == Variant::of(plan)
    }

    /// Maps an artifact and links it. Needs `/proc` and whatever gives access to the cache's files: to be called before
    /// the process is confined.
    pub fn load(&self, plan: &RunPlan, artifact: &Artifact) -> Result<Loaded, Failure> {
        let engine = self.engine.clone();
        let component = match map(&engine, artifact)? {
            Code::Module(module) => {
                return Ok(Loaded { engine, program: link_module(plan, &self.modules, &module)? });
            }
            Code::Component(component) => component,
        };
        let world = world(plan, &engine, &component).or_else(|failure| {
            // What it lacks goes before what it is not.
            link_component(plan, &engine, &component)?;
            Err(failure)
        })?;
        match world {
            World::Command => {
                let pre = link_component(plan, &engine, &component)?;
                let program = CommandPre::new(pre).map(Program::Command).map_err(|error| unusable(plan, &error))?;
                Ok(Loaded { engine, program })
            }
            World::Service => {
                let (engine, component) = self.for_many(plan, component, artifact)?;
                let pre = link_component(plan, &engine, &component)?;
                let program = ProxyPre::new(pre).map(Program::Service).map_err(|error| unusable(plan, &error))?;
                Ok(Loaded { engine, program })
            }
        }
    }

    /// The component in an engine with a pool for its instances. Where there is not enough address space for one, such as
    /// under a limit of it, they are made on demand.
    fn for_many(
        &self,
        plan: &RunPlan,
        component: Component,
        artifact: &Artifact,
    ) -> Result<(Engine, Component), Failure> {
        // One that makes its memories by other means than usual does not say how many there are.
        let Some(needs) = component.resources_required() else { return Ok((self.engine.clone(), component)) };
        let slots = Slots {
            instances: plan.http.max_concurrency.get(),
            memories: needs.num_memories,
            tables: needs.num_tables,
            table_elements: needs.max_initial_table_size.unwrap_or_default(),
        };
        let Ok(engine) = Engine::new(&pooled(self.variant, slots)) else { return Ok((self.engine.clone(), component)) };
        match map(&engine, artifact) {
            Ok(Code::Component(pooled)) => Ok((engine, pooled)),
            // It has more parts than a pool has room for.
            Ok(Code::Module(_)) | Err(_) => Ok((self.engine.clone(), component)),
        }
    }
}

/// What the component's exports say that it is.
fn world(plan: &RunPlan, engine: &Engine, component: &Component) -> Result<World, Failure> {
    if let Some(export) = &plan.source.export {
        return Err(message(plan, &format!("is a component, and calling its export {export:?} is not built yet")));
    }
    let ty = component.component_type();
    let exports = |name: &str| ty.exports(engine).any(|(export, _)| export.starts_with(name));
    match (exports(RUN), exports(HANDLER)) {
        (true, false) => Ok(World::Command),
        (false, true) => Ok(World::Service),
        (true, true) => Err(message(
            plan,
            "exports both wasi:cli/run and wasi:http/incoming-handler: build it for one of the worlds",
        )),
        (false, false) => Err(message(
            plan,
            "exports no wasi:cli/run 0.2 and no wasi:http/incoming-handler 0.2: build it for the world \
             wasi:cli/command or wasi:http/proxy; other worlds are not built yet",
        )),
    }
}

fn unusable(plan: &RunPlan, error: &wasmtime::Error) -> Failure {
    message(plan, &one_line("cannot be used", error.as_ref()))
}

fn link_module(plan: &RunPlan, linker: &Linker<State>, module: &Module) -> Result<Program, Failure> {
    let calls = calls(plan, module)?;
    let pre = linker.instantiate_pre(module).map_err(|error| match error.downcast_ref::<UnknownImportError>() {
        Some(unknown) => message(
            plan,
            &format!(
                "imports {}::{}, which this runtime does not provide (provided: {})",
                unknown.module(),
                unknown.name(),
                p1::MODULE
            ),
        ),
        None => message(plan, &one_line("cannot be linked", error.as_ref())),
    })?;
    Ok(Program::Module { pre, calls })
}

/// What a user may name after `path#`.
fn callable(module: &Module) -> String {
    const SHOWN: usize = 10;
    let plain = module.exports().filter(|export| is_plain_function(&export.ty()));
    let names: Vec<&str> = plain.map(|export| export.name()).collect();
    match names.len() {
        0 => "it has none without parameters and results".to_owned(),
        count if count > SHOWN => format!("it has {}, …", names[..SHOWN].join(", ")),
        _ => format!("it has {}", names.join(", ")),
    }
}

fn calls(plan: &RunPlan, module: &Module) -> Result<Vec<String>, Failure> {
    let Some(export) = &plan.source.export else {
        return match module.get_export(START) {
            Some(start) if is_plain_function(&start) => Ok(vec![START.to_owned()]),
            Some(_) => Err(message(plan, "exports a _start that takes or gives values: build it as a WASI command")),
            None => Err(message(
                plan,
                &format!(
                    "exports no _start function: build it as a WASI command, or name a function to call as \
                     path#function ({})",
                    callable(module)
                ),
            )),
        };
    };
    match module.get_export(export) {
        Some(function) if is_plain_function(&function) => {}
        Some(_) => {
            return Err(message(
                plan,
                &format!("exports {export:?}, which is no function without parameters and results"),
            ));
        }
        None => {
            let line = format!("exports no {export:?}: name a function that it exports ({})", callable(module));
            return Err(message(plan, &line));
        }
    }
    let mut calls = Vec::new();
    if let Some(initialize) = module.get_export(INITIALIZE)
        && is_plain_function(&initialize)
    {
        calls.push(INITIALIZE.to_owned());
    }
    calls.push(export.clone());
    Ok(calls)
}

fn is_plain_function(export: &ExternType) -> bool {
    export.func().is_some_and(|function| function.params().len() == 0 && function.results().len() == 0)
}

fn link_component(
    plan: &RunPlan,
    engine: &Engine,
    component: &Component,
) -> Result<component::InstancePre<State>, Failure> {
    p2::linker(engine).and_then(|linker| linker.instantiate_pre(component)).map_err(|error| {
        message(
            plan,
            &format!(
                "{}, which this runtime does not provide (provided: wasi:cli/command 0.2, wasi:http/proxy 0.2)",
                missing_import(&error)
            ),
        )
    })
}

/// `imports a:b/c`, from Wasmtime's chain: ``component imports instance `a:b/c`, but …``, then how it differs from what
/// there is, which is of interest where there is something.
fn missing_import(error: &wasmtime::Error) -> String {
    let outer = error.to_string();
    let Some(name) = outer.split('`').nth(1) else {
        return one_line("cannot be linked", error.as_ref());
    };
    let is_known = name
        .split_once('/')
        .is_some_and(|(package, interface)| PROVIDED.contains(&package) && interface.contains("@0.2."));
    let differences: Vec<_> = error.chain().skip(1).map(ToString::to_string).collect();
    if is_known && !differences.is_empty() {
        format!("imports {name} ({})", differences.join(": "))
    } else {
        format!("imports {name}")
    }
}

fn message(plan: &RunPlan, what: &str) -> Failure {
    Failure::Message(plan::printable(&format!("{} {what}", plan.source.origin)))
}
