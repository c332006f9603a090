//! Exports that are called by name, with arguments and results in the component model's text for values (WAVE).
//! It must not know what else a guest can be.

use crate::compile::one_line;
use crate::end::Outcome;
use crate::grant::State;
use crate::p3::last_task;
use plan::{Calls, RunPlan};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::wasm_wave::untyped::UntypedFuncCall;
use wasmtime::component::wasm_wave::wasm::{WasmType, WasmTypeKind, WasmValue};
use wasmtime::component::wasm_wave::{from_str, to_string};
use wasmtime::component::{self, Component, ComponentExportIndex, Instance};
use wasmtime::{ExternType, FuncType, Module, Store, Val};

/// The function of a reactor that precedes all others.
const INITIALIZE: &str = "_initialize";
/// Names that an error shows.
const SHOWN: usize = 10;

/// Calls of a core module, one after the other.
pub(crate) struct ModuleCalls(Vec<ModuleCall>);

struct ModuleCall {
    name: String,
    arguments: Vec<Val>,
    results: usize,
}

/// The call of a component.
pub(crate) struct ComponentCall {
    function: ComponentExportIndex,
    calls: Calls,
    arguments: Vec<component::Val>,
    results: usize,
}

/// What a plan asks for: `name`, or `name(values)`.
struct Wanted<'a> {
    name: &'a str,
    /// What stands between the parentheses.
    values: Option<&'a str>,
    /// The arguments of the process, which are the function's where nothing else is.
    words: &'a [String],
}

impl<'a> Wanted<'a> {
    fn of(plan: &'a RunPlan, text: &'a str) -> Self {
        let written = text.split_once('(').and_then(|(name, rest)| Some((name, rest.trim_end().strip_suffix(')')?)));
        let words = plan.invocation.args.get(1..).unwrap_or_default();
        match written {
            Some((name, values)) => Wanted { name: name.trim(), values: Some(values), words },
            None => Wanted { name: text, values: None, words },
        }
    }

    fn arguments<V: WasmValue + 'static>(&self, types: &[V::Type]) -> Result<Vec<V>, String> {
        let name = self.name;
        if !types.iter().all(is_text) {
            return Err(format!(
                "exports {name:?}, which takes values that cannot be written down: call another export"
            ));
        }
        let wrong =
            |reason: String| format!("exports {name:?}, whose arguments ({}) are given wrong: {reason}", list(types));
        if let Some(values) = self.values {
            // The name of an export is not always one that the parser takes.
            let text = format!("call({values})");
            let call = UntypedFuncCall::parse(&text).map_err(|error| wrong(error.to_string()))?;
            return call.to_wasm_params(types).map_err(|error| wrong(error.to_string()));
        }
        if types.is_empty() {
            return Ok(Vec::new());
        }
        if types.len() != self.words.len() {
            return Err(wrong(format!("they are {}, and {} follow args[0]", types.len(), self.words.len())));
        }
        let parsed = types
            .iter()
            .zip(self.words)
            .map(|(ty, word)| from_str(ty, word).map_err(|error| wrong(format!("{word:?}: {error}"))));
        parsed.collect()
    }

    /// How many results there are, if they can be told.
    fn results<T: WasmType>(&self, types: &[T]) -> Result<usize, String> {
        if types.iter().all(is_text) {
            return Ok(types.len());
        }
        Err(format!("exports {:?}, which gives values that cannot be written down: call another export", self.name))
    }
}

impl ModuleCalls {
    /// The entry point of a command.
    pub(crate) fn start(name: &str) -> Self {
        ModuleCalls(vec![ModuleCall { name: name.to_owned(), arguments: Vec::new(), results: 0 }])
    }

    /// What the plan asks for, after the module's own initialization if it has one.
    pub(crate) fn find(plan: &RunPlan, module: &Module, text: &str) -> Result<Self, String> {
        let mut wanted = Wanted::of(plan, text);
        // Names of core modules are free, so that one may look like a call.
        if module.get_export(text).is_some() {
            (wanted.name, wanted.values) = (text, None);
        }
        let name = wanted.name;
        let function = match module.get_export(name) {
            Some(ExternType::Func(function)) => function,
            Some(_) => return Err(format!("exports {name:?}, which is no function: name one ({})", callable(module))),
            None => return Err(format!("exports no {name:?}: name a function that it exports ({})", callable(module))),
        };
        let parameters: Vec<_> = function.params().collect();
        let arguments = wanted.arguments(&parameters)?;
        let results = wanted.results(&function.results().collect::<Vec<_>>())?;
        let mut calls = Vec::new();
        if module.get_export(INITIALIZE).is_some_and(|export| export.func().is_some_and(is_plain)) && name != INITIALIZE
        {
            calls.push(ModuleCall { name: INITIALIZE.to_owned(), arguments: Vec::new(), results: 0 });
        }
        calls.push(ModuleCall { name: name.to_owned(), arguments, results });
        Ok(ModuleCalls(calls))
    }

    /// Calls them, and gives the text of the results.
    pub(crate) async fn run(
        &self,
        store: &mut Store<State>,
        instance: wasmtime::Instance,
    ) -> wasmtime::Result<(String, Outcome)> {
        let mut text = String::new();
        for ModuleCall { name, arguments, results } in &self.0 {
            let Some(function) = instance.get_func(&mut *store, name) else {
                return Err(wasmtime::Error::msg(format!("{name} is gone")));
            };
            let mut values = vec![Val::I32(0); *results];
            function.call_async(&mut *store, arguments, &mut values).await?;
            text.push_str(&lines(&values)?);
        }
        Ok((text, Outcome::Returned))
    }
}

impl ComponentCall {
    /// The export that the plan asks for: `function`, `interface#function`, or a function that one interface alone has.
    pub(crate) fn find(plan: &RunPlan, component: &Component, calls: Calls, text: &str) -> Result<Self, String> {
        let wanted = Wanted::of(plan, text);
        let name = wanted.name;
        let exports = functions(component);
        let fits = |(interface, function): &(Option<String>, String)| match (name.split_once('#'), interface) {
            (Some(asked), Some(interface)) => asked == (interface.as_str(), function.as_str()),
            (None, _) => function == name,
            (Some(_), None) => false,
        };
        let found: Vec<_> = exports.iter().filter(|export| fits(export)).collect();
        let (interface, function) = match found[..] {
            [one] => one,
            [] => return Err(format!("exports no {name:?}: name a function that it exports ({})", named(&exports))),
            _ => {
                // The component's own goes before those of its interfaces.
                match found.iter().find(|(interface, _)| interface.is_none()) {
                    Some(own) => own,
                    None => {
                        return Err(format!(
                            "exports {name:?} more than once: name its interface too ({})",
                            named(&exports)
                        ));
                    }
                }
            }
        };
        let missing = || format!("exports no {name:?}");
        let instance = match interface {
            Some(interface) => Some(component.get_export_index(None, interface.as_str()).ok_or_else(missing)?),
            None => None,
        };
        let (item, function) = component.get_export(instance.as_ref(), function.as_str()).ok_or_else(missing)?;
        let ComponentItem::ComponentFunc(ty) = item else { return Err(missing()) };
        let arguments = wanted.arguments(&ty.params().map(|(_, ty)| ty).collect::<Vec<_>>())?;
        let results = wanted.results(&ty.results().collect::<Vec<_>>())?;
        Ok(ComponentCall { function, calls, arguments, results })
    }

    /// Calls it, and gives the text of its result.
    pub(crate) async fn run(
        &self,
        store: &mut Store<State>,
        instance: Instance,
    ) -> wasmtime::Result<(String, Outcome)> {
        let Some(function) = instance.get_func(&mut *store, self.function) else {
            return Err(wasmtime::Error::msg("the export is gone"));
        };
        let mut values = vec![component::Val::Bool(false); self.results];
        match self.calls {
            Calls::Synchronous => function.call_async(&mut *store, &self.arguments, &mut values).await?,
            Calls::Asynchronous => {
                let run = store.run_concurrent(async |accessor| {
                    function.call_concurrent(accessor, &self.arguments, &mut values).await?;
                    last_task(accessor).await;
                    Ok::<_, wasmtime::Error>(())
                });
                run.await??;
            }
        }
        let failed = values.iter().any(|value| matches!(value, component::Val::Result(Err(_))));
        Ok((lines(&values)?, if failed { Outcome::ReturnedError } else { Outcome::Returned }))
    }
}

fn lines<V: WasmValue>(values: &[V]) -> wasmtime::Result<String> {
    let mut text = String::new();
    for value in values {
        text.push_str(&to_string(value).map_err(|error| wasmtime::Error::msg(one_line("write the result", &error)))?);
        text.push('\n');
    }
    Ok(text)
}

/// Whether it takes and gives nothing.
pub(crate) fn is_plain(function: &FuncType) -> bool {
    function.params().len() == 0 && function.results().len() == 0
}

/// Whether values of the type can be written down.
fn is_text<T: WasmType>(ty: &T) -> bool {
    let each = |types: &mut dyn Iterator<Item = Option<T>>| types.flatten().all(|ty| is_text(&ty));
    match ty.kind() {
        WasmTypeKind::Unsupported | WasmTypeKind::FixedLengthList => false,
        WasmTypeKind::List => each(&mut [ty.list_element_type()].into_iter()),
        WasmTypeKind::Record => each(&mut ty.record_fields().map(|(_, ty)| Some(ty))),
        WasmTypeKind::Tuple => each(&mut ty.tuple_element_types().map(Some)),
        WasmTypeKind::Variant => each(&mut ty.variant_cases().map(|(_, ty)| ty)),
        WasmTypeKind::Option => each(&mut [ty.option_some_type()].into_iter()),
        WasmTypeKind::Result => {
            let (ok, error) = ty.result_types().unwrap_or_default();
            each(&mut [ok, error].into_iter())
        }
        _ => true,
    }
}

fn list<T: WasmType>(types: &[T]) -> String {
    let names: Vec<_> = types.iter().map(|ty| component::wasm_wave::wasm::DisplayType(ty).to_string()).collect();
    names.join(", ")
}

/// What a user may name.
pub(crate) fn callable(module: &Module) -> String {
    let functions = module.exports().filter(|export| export.ty().func().is_some());
    let names: Vec<_> = functions.map(|export| export.name().to_owned()).collect();
    it_has(&names)
}

/// As [`callable`], of a component.
pub(crate) fn named(exports: &[(Option<String>, String)]) -> String {
    let names = exports.iter().map(|(interface, function)| match interface {
        Some(interface) => format!("{interface}#{function}"),
        None => function.clone(),
    });
    it_has(&names.collect::<Vec<_>>())
}

fn it_has(names: &[String]) -> String {
    match names.len() {
        0 => "it has none".to_owned(),
        count if count > SHOWN => format!("it has {}, …", names[..SHOWN].join(", ")),
        _ => format!("it has {}", names.join(", ")),
    }
}

/// The functions that a component exports, and those of its interfaces.
pub(crate) fn functions(component: &Component) -> Vec<(Option<String>, String)> {
    let engine = component.engine();
    let mut found = Vec::new();
    for (name, export) in component.component_type().exports(engine) {
        match export.ty {
            ComponentItem::ComponentFunc(_) => found.push((None, name.to_owned())),
            ComponentItem::ComponentInstance(instance) => {
                let functions = instance.exports(engine);
                let functions = functions.filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentFunc(_)));
                found.extend(functions.map(|(function, _)| (Some(name.to_owned()), function.to_owned())));
            }
            _ => {}
        }
    }
    found
}
