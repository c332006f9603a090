//! Containers that answer requests, and how soon they do.

use crate::bed::{Bed, Container, PATIENCE, Program};
use crate::client::{self, Client};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};
use testkit::api::Api;
use testkit::guests;
use testkit::{Image, image};

/// What the service of [`hello`] answers.
pub(crate) const HELLO: &str = "hello from wasm\n";
/// What that of [`hello_async`] answers.
pub(crate) const HELLO_ASYNC: &str = "hello from async wasm\n";

/// A container that has answered once.
pub(crate) struct Service<'a> {
    pub(crate) container: Container<'a>,
    pub(crate) port: u16,
    pub(crate) pid: i32,
    /// From create to the first answer.
    pub(crate) took: Duration,
}

/// The component that says hello.
pub(crate) fn hello_component() -> Result<Vec<u8>> {
    guests::rust("http_service")
}

/// It in an image, as a layer: the peer compiles a file in each container, and a layer once.
pub(crate) fn hello(bed: &Bed) -> Result<Program> {
    let image = Image::with_layer("bench.local/http-hello:1", image::WASM_LAYERS[2], &hello_component()?).bare();
    bed.program(&image, &["app.wasm"], "")
}

/// One for WASI 0.3 that says it, in an image.
pub(crate) fn hello_async(bed: &Bed) -> Result<Program> {
    let component = guests::rust("async_service")?;
    let image = Image::with_layer("bench.local/http-async:1", image::WASM_LAYERS[2], &component).bare();
    bed.program(&image, &["app.wasm"], "")
}

impl Service<'_> {
    /// Starts one, and asks it; `says` is what it answers.
    pub(crate) fn start<'a>(bed: &Bed, api: &'a Api, program: &Program, says: &str) -> Result<Service<'a>> {
        let port = client::free_port()?;
        let container = bed.container(api, &program.serving(port))?;
        let begun = Instant::now();
        container.create()?;
        let pid = container.start_until_heard()?;
        let heard = Client::connect(port, PATIENCE)?.get()?;
        let took = begun.elapsed();
        ensure!(heard == says, "answered {heard:?} instead of {says:?}");
        Ok(Service { container, port, pid, took })
    }

    /// Kills and removes it.
    pub(crate) fn end(self) -> Result<()> {
        self.container.end()?;
        self.container.remove()
    }
}
