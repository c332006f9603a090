//! Links a mapped artifact with the worlds that guests may import, and finds its entry point. What cannot run is told
//! here, before anything of the guest ran.

use crate::artifact::{Artifact, Code, map};
use crate::compile::one_line;
use crate::config::{Role, Variant, config};
use crate::grant::State;
use crate::{p1, p2};
use plan::{Failure, RunPlan};
use wasmtime::component::Component;
use wasmtime::{Engine, ExternType, InstancePre, Linker, Module, UnknownImportError};
use wasmtime_wasi::p2::bindings::CommandPre;

/// The function of a command.
const START: &str = "_start";
/// The function of a reactor that precedes all others.
const INITIALIZE: &str = "_initialize";
/// The packages of the world `wasi:cli/command`.
const PROVIDED: [&str; 6] = ["wasi:cli", "wasi:clocks", "wasi:filesystem", "wasi:io", "wasi:random", "wasi:sockets"];

/// An engine, and the world of core modules for it. Made once, before any fork: container processes inherit it, which
/// saves each of them half a millisecond, and memory since they share it.
pub struct Host {
    engine: Engine,
    modules: Linker<State>,
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
            Ok(Host { engine, modules })
        };
        made().map_err(|error| Failure::Message(one_line("start wasmtime", error.as_ref())))
    }

    /// Maps an artifact and links it. Needs `/proc` and whatever gives access to the cache's files: to be called before
    /// the process is confined.
    pub fn load(&self, plan: &RunPlan, artifact: &Artifact) -> Result<Loaded, Failure> {
        let engine = self.engine.clone();
        let program = match map(&engine, artifact)? {
            Code::Module(module) => link_module(plan, &self.modules, &module)?,
            Code::Component(component) => link_component(plan, &engine, &component)?,
        };
        Ok(Loaded { engine, program })
    }
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

fn link_component(plan: &RunPlan, engine: &Engine, component: &Component) -> Result<Program, Failure> {
    if let Some(export) = &plan.source.export {
        return Err(message(plan, &format!("is a component, and calling its export {export:?} is not built yet")));
    }
    let pre = p2::linker(engine).and_then(|linker| linker.instantiate_pre(component)).map_err(|error| {
        message(
            plan,
            &format!(
                "{}, which this runtime does not provide (provided: wasi:cli/command 0.2)",
                missing_import(&error)
            ),
        )
    })?;
    CommandPre::new(pre).map(Program::Command).map_err(|_| {
        message(
            plan,
            "exports no wasi:cli/run 0.2: build it for the world wasi:cli/command; other worlds are not built yet",
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
