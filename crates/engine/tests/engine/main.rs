//! The engine with real guests: from wasm through the cache to how a guest ended and what it wrote.

mod cache;
mod end;
mod files;
mod guests;
mod interruption;
mod linking;
mod memory;
mod stage;
mod streams;
