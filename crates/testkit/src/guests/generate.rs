//! Guests that are made by the test itself, because their point is their size or that no two are alike.

use std::borrow::Cow;
use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, CustomSection, DataSection, EntityType, ExportKind, ExportSection, Function,
    FunctionSection, ImportSection, InstructionSink, MemArg, MemorySection, MemoryType, Module, TypeSection, ValType,
};

/// How much there is to compile.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Functions beside `_start`.
    pub functions: u32,
    /// Steps of arithmetic in each; one is about ten bytes.
    pub steps: u32,
}

impl Work {
    /// A module of 5 MB, which takes some seconds to compile.
    pub const FIVE_MEGABYTES: Work = Work { functions: 4_000, steps: 120 };
}

/// The same program with a custom section of `bytes` bytes filled with `mark`: same behaviour, another digest.
pub fn padded(module: &[u8], mark: &str, bytes: usize) -> Vec<u8> {
    let mut filling = mark.as_bytes().to_vec();
    filling.resize(bytes.max(mark.len()), b'.');
    let mut wasm = module.to_vec();
    wasm_encoder::Section::append_to(&CustomSection { name: "padding".into(), data: Cow::Owned(filling) }, &mut wasm);
    wasm
}

/// A command that asks for the function `name` of the module `env`, which no host has.
pub fn importing(name: &str) -> Vec<u8> {
    let mut types = TypeSection::new();
    types.ty().function([], []);
    let mut imports = ImportSection::new();
    imports.import("env", name, EntityType::Function(0));
    let mut exports = ExportSection::new();
    exports.export("_start", ExportKind::Func, 0);
    let mut module = Module::new();
    module.section(&types);
    module.section(&imports);
    module.section(&exports);
    module.finish()
}

/// A program that prints `compiled` and has many more functions to compile than it runs. No two seeds give the same
/// module.
pub fn many_functions(work: Work, seed: u32) -> Vec<u8> {
    let mut code = CodeSection::new();
    code.function(&start());
    for index in 0..work.functions {
        let mut function = Function::new([]);
        let mut body = function.instructions();
        body.local_get(0);
        for step in 0..work.steps {
            let salt = seed ^ index.wrapping_mul(0x9e37_79b9) ^ step.wrapping_mul(0x85eb_ca6b);
            body.i32_const(salt as i32);
            match salt % 4 {
                0 => body.i32_add(),
                1 => body.i32_xor(),
                2 => body.i32_mul(),
                _ => body.i32_sub(),
            };
            body.i32_const((salt >> 27) as i32).i32_rotl();
        }
        body.end();
        code.function(&function);
    }
    program(work.functions, &code)
}

/// A small module that costs the compiler far more than it weighs: one function whose thousands of locals are all alive
/// across thousands of nested loops, so that every loop's head merges every local.
pub fn compile_bomb(seed: u32) -> Vec<u8> {
    const LOCALS: u32 = 20_000;
    const LOOPS: u32 = 400;
    let mut bomb = Function::new([(LOCALS, ValType::I32)]);
    let mut body = bomb.instructions();
    body.i32_const(seed as i32).local_set(1);
    for _ in 0..LOOPS {
        body.loop_(BlockType::Empty);
    }
    for local in 1..LOCALS {
        body.local_get(local).local_get(0).i32_add().local_set(local + 1);
    }
    for depth in 0..LOOPS {
        body.local_get(LOCALS - depth).br_if(0).end();
    }
    body.i32_const(0);
    for local in 1..=LOCALS {
        body.local_get(local).i32_add();
    }
    body.end();
    let mut code = CodeSection::new();
    code.function(&start());
    code.function(&bomb);
    program(1, &code)
}

/// Prints one line.
fn start() -> Function {
    let mut function = Function::new([]);
    let mut body: InstructionSink<'_> = function.instructions();
    let at = |offset| MemArg { offset, align: 2, memory_index: 0 };
    body.i32_const(0).i32_const(16).i32_store(at(0));
    body.i32_const(0).i32_const(9).i32_store(at(4));
    body.i32_const(1).i32_const(0).i32_const(1).i32_const(8);
    body.call(0).drop().end();
    function
}

/// A command with `_start` as the first function of `code` and `others` functions of type i32 -> i32 after it.
fn program(others: u32, code: &CodeSection) -> Vec<u8> {
    let mut types = TypeSection::new();
    types.ty().function([ValType::I32; 4], [ValType::I32]);
    types.ty().function([], []);
    types.ty().function([ValType::I32], [ValType::I32]);
    let mut imports = ImportSection::new();
    imports.import("wasi_snapshot_preview1", "fd_write", EntityType::Function(0));
    let mut functions = FunctionSection::new();
    functions.function(1);
    for _ in 0..others {
        functions.function(2);
    }
    let mut memories = MemorySection::new();
    memories.memory(MemoryType { minimum: 1, maximum: None, memory64: false, shared: false, page_size_log2: None });
    let mut exports = ExportSection::new();
    exports.export("memory", ExportKind::Memory, 0);
    exports.export("_start", ExportKind::Func, 1);
    let mut data = DataSection::new();
    data.active(0, &ConstExpr::i32_const(16), *b"compiled\n");
    let mut module = Module::new();
    module.section(&types);
    module.section(&imports);
    module.section(&functions);
    module.section(&memories);
    module.section(&exports);
    module.section(code);
    module.section(&data);
    module.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_modules_have_their_size_and_differ_by_seed() {
        let one = many_functions(Work::FIVE_MEGABYTES, 1);
        assert!((4_500_000..6_500_000).contains(&one.len()), "{}", one.len());
        assert_ne!(one, many_functions(Work::FIVE_MEGABYTES, 2));
        let bomb = compile_bomb(1);
        assert!(bomb.len() < 1_000_000, "{}", bomb.len());
    }
}
