//! Functions that are called by name: of reactors and of components, with arguments and results in text.

use crate::Cases;
use crate::output::{image_of, image_with};
use anyhow::{Result, ensure};
use testkit::{Image, Namespace, cases, guests};

pub(crate) const CASES: Cases = cases![
    crate::exports::a_go_reactor,
    crate::exports::a_c_reactor,
    crate::exports::functions_of_a_component,
    crate::exports::functions_of_an_interface,
    crate::exports::a_call_that_fails_has_an_exit_code,
    crate::exports::handles_are_bounded,
    crate::exports::calls_that_cannot_be_made_are_refused,
];

const INVOKE: &str = "io.containerd.wasm.v1/invoke";

fn a_go_reactor(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_reactor.go")?;
    let output = node.run(&image).args(["/app.wasm#greet", "one", "two"]).expect(0)?;
    ensure!(output.text() == "greeted [one two]\n", "{output}");
    let output = node.run(&image).args(["/app.wasm#add", "40", "2"]).expect(0)?;
    ensure!(output.text() == "42\n", "{output}");
    let output = node.run(&image).annotation(INVOKE, "halve(-3)").expect(0)?;
    ensure!(output.text() == "-1.5\n", "{output}");
    Ok(())
}

fn a_c_reactor(node: &Namespace) -> Result<()> {
    let image = image_of(node, "p1_reactor.c")?;
    let output = node.run(&image).args(["/app.wasm#greet"]).expect(0)?;
    ensure!(output.text() == "greeted after constructors\n", "{output}");
    let output = node.run(&image).args(["/app.wasm#multiply(-6000000000, 7)"]).expect(0)?;
    ensure!(output.text() == "-42000000000\n", "{output}");
    Ok(())
}

fn component(node: &Namespace) -> Result<Image> {
    image_with(node, &guests::wat(include_str!("exports.wat"))?)
}

fn functions_of_a_component(node: &Namespace) -> Result<()> {
    let image = component(node)?;
    let output = node.run(&image).args(["/app.wasm#sum", "40", "2"]).expect(0)?;
    ensure!(output.text() == "42\n", "{output}");
    let output = node.run(&image).annotation(INVOKE, r#"text("two \"words\", ünï")"#).expect(0)?;
    ensure!(output.text() == "\"two \\\"words\\\", ünï\"\n", "{output}");
    let pairs = r#"[("a", 1), ("b", 255)]"#;
    let output = node.run(&image).args(["/app.wasm#pairs", pairs]).expect(0)?;
    ensure!(output.text() == format!("{pairs}\n"), "{output}");
    let output = node.run(&image).args(["/app.wasm#nothing", "an argument of nobody's"]).expect(0)?;
    ensure!(output.text().is_empty() && output.errors().is_empty(), "{output}");
    Ok(())
}

fn functions_of_an_interface(node: &Namespace) -> Result<()> {
    let image = component(node)?;
    for name in ["demo:math/whole@1.0.0#add(20, 22)", "demo:math/other@1.0.0#add(20, 22)", "only-here(20, 22)"] {
        let output = node.run(&image).annotation(INVOKE, name).expect(0)?;
        ensure!(output.text() == "42\n", "{name}: {output}");
    }
    Ok(())
}

fn a_call_that_fails_has_an_exit_code(node: &Namespace) -> Result<()> {
    let image = component(node)?;
    let output = node.run(&image).args(["/app.wasm#even", "6"]).expect(0)?;
    ensure!(output.text() == "ok(6)\n", "{output}");
    let output = node.run(&image).args(["/app.wasm#even", "7"]).expect(1)?;
    ensure!(output.text() == "err(7)\n", "{output}");
    let output = node.run(&image).args(["/app.wasm#fail"]).expect(134)?;
    ensure!(output.errors().contains("unreachable"), "{output}");
    Ok(())
}

/// They are the host's memory, which the guest's limit does not see.
fn handles_are_bounded(node: &Namespace) -> Result<()> {
    let image = component(node)?;
    let output = node.run(&image).args(["/app.wasm#open", "9000"]).expect(0)?;
    ensure!(output.text() == "9000\n", "{output}");
    let output = node.run(&image).args(["/app.wasm#open", "11000"]).expect(134)?;
    ensure!(!output.errors().is_empty() && output.text().is_empty(), "{output}");
    Ok(())
}

fn calls_that_cannot_be_made_are_refused(node: &Namespace) -> Result<()> {
    let image = component(node)?;
    let cases: [(&str, &[&str]); 7] = [
        ("walk", &["exports no \"walk\"", "it has sum, text, pairs", "demo:math/whole@1.0.0#add"]),
        ("add(1, 2)", &["exports \"add\" more than once", "demo:math/other@1.0.0#add"]),
        ("sum", &["exports \"sum\"", "(s32, s32)", "they are 2, and 0 follow args[0]"]),
        ("sum(1)", &["exports \"sum\"", "(s32, s32)"]),
        ("sum(1, 2, 3)", &["exports \"sum\"", "(s32, s32)"]),
        ("sum(1, \"two\")", &["exports \"sum\"", "(s32, s32)"]),
        ("text(unquoted)", &["exports \"text\"", "(string)"]),
    ];
    for (call, parts) in cases {
        node.run(&image).annotation(INVOKE, call).refused(parts)?;
    }
    node.run(&image).refused(&["exports no wasi:cli/run", "path#function", "sum, text"])
}
