//! Tells by its first bytes what a file or layer is.
//! It must not know where the bytes come from.

/// How many bytes [`classify`] wants to see.
pub(crate) const LENGTH: usize = 8;
const WASM: &[u8; 4] = b"\0asm";
const ELF: &[u8; 4] = b"\x7fELF";
/// Place of the OS ABI in an ELF header (elf.h, `EI_OSABI`).
const ELF_OS_ABI: usize = 7;
/// The OS ABI of Wasmtime's code files (wasmtime, `ELFOSABI_WASMTIME`).
const WASMTIME: u8 = 200;

/// What the bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Magic {
    /// A core module, version 1.
    Module,
    /// A component, in the version that tools write since the component model has settled.
    Component,
    /// Wasm of a version that the engine does not know: the four bytes after the magic.
    OtherWasm([u8; 4]),
    /// The begin of wasm, shorter than a header.
    TruncatedWasm,
    /// Wasm compiled ahead of time by Wasmtime.
    Precompiled,
    /// Anything else.
    Foreign(Foreign),
}

/// What is no wasm at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Foreign {
    Elf,
    Script,
    Empty,
    Unknown,
}

/// Classifies by the first [`LENGTH`] bytes, or all if there are fewer.
pub(crate) fn classify(bytes: &[u8]) -> Magic {
    if bytes.is_empty() {
        return Magic::Foreign(Foreign::Empty);
    }
    if bytes.starts_with(b"#!") {
        return Magic::Foreign(Foreign::Script);
    }
    // Wasmtime's code files are ELF files too: they have to be told apart before programs are.
    if bytes.starts_with(ELF) {
        return match bytes.get(ELF_OS_ABI) {
            Some(&WASMTIME) => Magic::Precompiled,
            _ => Magic::Foreign(Foreign::Elf),
        };
    }
    if bytes.len() < LENGTH && (bytes.starts_with(WASM) || WASM.starts_with(bytes)) {
        return Magic::TruncatedWasm;
    }
    match bytes {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Magic::Module,
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Magic::Component,
        [0, b'a', b's', b'm', a, b, c, d, ..] => Magic::OtherWasm([*a, *b, *c, *d]),
        _ => Magic::Foreign(Foreign::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_decide() {
        let cases: [(&[u8], Magic); 15] = [
            (b"\0asm\x01\0\0\0", Magic::Module),
            (b"\0asm\x01\0\0\0\x01", Magic::Module),
            (b"\0asm\x0d\0\x01\0", Magic::Component),
            (b"\0asm\x02\0\0\0", Magic::OtherWasm([2, 0, 0, 0])),
            (b"\0asm\x0a\0\x01\0", Magic::OtherWasm([10, 0, 1, 0])),
            (b"\0asm\x01\0\0", Magic::TruncatedWasm),
            (b"\0asm", Magic::TruncatedWasm),
            (b"\0a", Magic::TruncatedWasm),
            (b"\x7fELF\x02\x01\x01\xc8", Magic::Precompiled),
            (b"\x7fELF\x02\x01\x01\0", Magic::Foreign(Foreign::Elf)),
            (b"\x7fELF", Magic::Foreign(Foreign::Elf)),
            (b"#!/bin/sh\n", Magic::Foreign(Foreign::Script)),
            (b"", Magic::Foreign(Foreign::Empty)),
            (b"(module)", Magic::Foreign(Foreign::Unknown)),
            (b"x", Magic::Foreign(Foreign::Unknown)),
        ];
        for (bytes, wanted) in cases {
            assert_eq!(classify(bytes), wanted, "{bytes:?}");
        }
    }
}
