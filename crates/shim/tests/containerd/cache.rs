//! The node's cache of compiled code: one compilation for the node, bounded, evicted, repaired.

use crate::Cases;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use testkit::guests::{self, Work};
use testkit::{Image, Namespace, cases};

pub(crate) const CASES: Cases = cases![
    crate::cache::thirty_at_once_compile_once,
    crate::cache::a_compiled_image_is_not_compiled_again,
    crate::cache::the_same_wasm_in_two_images_is_compiled_once,
    crate::cache::a_compile_bomb_is_stopped_by_time,
    crate::cache::a_compile_bomb_is_stopped_by_memory,
    crate::cache::the_least_recently_used_is_evicted,
    crate::cache::a_truncated_entry_is_compiled_again,
    crate::cache::a_garbled_entry_is_compiled_again,
    crate::cache::it_belongs_to_root_alone,
];

/// An operator file with a cache of its own, and that cache.
pub(crate) fn own_cache(node: &Namespace, more: &str) -> Result<(PathBuf, PathBuf)> {
    let dir = node.directory("cache")?.join("new");
    let file = node.operator_file(&format!("[cache]\ndir = {:?}\n{more}", dir.display().to_string()))?;
    Ok((file, dir))
}

/// An image with a module that nobody has compiled.
pub(crate) fn fresh_image(node: &Namespace, mark: &str) -> Result<(Image, Vec<u8>)> {
    let mark = format!("{} {mark}", node.name());
    let wasm = guests::padded(&guests::module("p1_hello.wat")?, &mark, 0);
    let image = Image::with_file(&format!("test.local/{}:1", node.fresh("i")), &wasm);
    node.import(&image)?;
    Ok((image, wasm))
}

pub(crate) fn run(node: &Namespace, image: &Image, operator_file: &Path) -> Result<()> {
    let task = node.task(image).operator_file(operator_file).create()?;
    task.start()?;
    let end = task.finish()?;
    ensure!(end.code == 0, "{end:?}");
    Ok(())
}

/// The compiled code in a cache.
pub(crate) fn artifacts(cache: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    collect(cache, &mut found)?;
    // Code is an ELF file; the index, the locks and the rest are not.
    found.retain(|path| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF")));
    Ok(found)
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        match path.is_dir() {
            true => collect(&path, found)?,
            false => found.push(path),
        }
    }
    Ok(())
}

fn thirty_at_once_compile_once(node: &Namespace) -> Result<()> {
    const COUNT: usize = 30;
    let seed = std::process::id() ^ u32::try_from(node.name().len()).unwrap_or(0);
    let wasm = guests::many_functions(Work::FIVE_MEGABYTES, seed);
    let image = Image::with_file("test.local/big:1", &wasm);
    node.import(&image)?;
    let (operator_file, cache) = own_cache(node, "")?;
    let ends: Vec<Result<String>> = thread::scope(|scope| {
        let one = || -> Result<String> {
            let task = node.task(&image).operator_file(&operator_file).create()?;
            task.start()?;
            let end = task.finish()?;
            ensure!(end.code == 0, "{end:?}");
            Ok(end.stdout)
        };
        let threads: Vec<_> = (0..COUNT).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().expect("it returns errors")).collect()
    });
    for end in ends {
        ensure!(end? == "compiled\n", "another output");
    }
    ensure!(node.compilations(&wasm) == 1, "{} compilations", node.compilations(&wasm));
    ensure!(artifacts(&cache)?.len() == 1, "{:?}", artifacts(&cache)?);
    Ok(())
}

fn a_compiled_image_is_not_compiled_again(node: &Namespace) -> Result<()> {
    let (image, wasm) = fresh_image(node, "twice")?;
    let (operator_file, _) = own_cache(node, "")?;
    for _ in 0..3 {
        run(node, &image, &operator_file)?;
    }
    ensure!(node.compilations(&wasm) == 1, "{} compilations", node.compilations(&wasm));
    Ok(())
}

fn the_same_wasm_in_two_images_is_compiled_once(node: &Namespace) -> Result<()> {
    let (image, wasm) = fresh_image(node, "shared")?;
    let (operator_file, _) = own_cache(node, "")?;
    let layer = Image::with_layer("test.local/aslayer:1", "application/wasm", &wasm);
    node.import(&layer)?;
    run(node, &image, &operator_file)?;
    run(node, &layer, &operator_file)?;
    ensure!(node.compilations(&wasm) == 1, "{} compilations", node.compilations(&wasm));
    Ok(())
}

fn refused_bomb(node: &Namespace, bounds: &str, parts: &[&str]) -> Result<()> {
    let wasm = guests::compile_bomb(u32::try_from(bounds.len())?);
    let image = Image::with_file(&format!("test.local/{}:1", node.fresh("bomb")), &wasm);
    node.import(&image)?;
    let (operator_file, cache) = own_cache(node, bounds)?;
    node.run(&image).operator_file(&operator_file).refused(parts)?;
    ensure!(artifacts(&cache)?.is_empty(), "code of a bomb is in the cache");
    node.until_nothing_remains()?;
    // The cache still serves others.
    let (image, _) = fresh_image(node, bounds)?;
    run(node, &image, &operator_file)
}

fn a_compile_bomb_is_stopped_by_time(node: &Namespace) -> Result<()> {
    let parts = ["/app.wasm", "compiling took longer than 1 s", "raise cache.compile-timeout"];
    refused_bomb(node, "compile-timeout = \"1s\"\n", &parts)
}

fn a_compile_bomb_is_stopped_by_memory(node: &Namespace) -> Result<()> {
    let parts = ["/app.wasm", "compiling needed more than 256 MiB", "raise cache.compile-memory"];
    refused_bomb(node, "compile-memory = \"256Mi\"\n", &parts)
}

fn the_least_recently_used_is_evicted(node: &Namespace) -> Result<()> {
    let (measure, _) = fresh_image(node, "measure")?;
    let (operator_file, cache) = own_cache(node, "")?;
    run(node, &measure, &operator_file)?;
    let size = fs::metadata(artifacts(&cache)?.first().context("an artifact")?)?.len();
    // Room for two of them.
    let (operator_file, cache) = own_cache(node, &format!("size = \"{}\"\n", size * 5 / 2))?;
    let images: Vec<_> =
        ["first", "second", "third"].into_iter().map(|mark| fresh_image(node, mark)).collect::<Result<_>>()?;
    let [(first, first_wasm), (second, second_wasm), (third, _)] = &images[..] else { unreachable!("three were made") };
    run(node, first, &operator_file)?;
    run(node, second, &operator_file)?;
    run(node, first, &operator_file)?;
    run(node, third, &operator_file)?;
    ensure!(artifacts(&cache)?.len() == 2, "{:?}", artifacts(&cache)?);
    run(node, first, &operator_file)?;
    ensure!(node.compilations(first_wasm) == 1, "the one just used was evicted");
    run(node, second, &operator_file)?;
    ensure!(node.compilations(second_wasm) == 2, "the one not used was kept");
    Ok(())
}

fn repaired(node: &Namespace, mark: &str, spoil: impl Fn(&Path) -> Result<()>) -> Result<()> {
    let (image, wasm) = fresh_image(node, mark)?;
    let (operator_file, cache) = own_cache(node, "")?;
    run(node, &image, &operator_file)?;
    let entries = artifacts(&cache)?;
    let [entry] = &entries[..] else { anyhow::bail!("{entries:?}") };
    spoil(entry)?;
    run(node, &image, &operator_file)?;
    ensure!(node.compilations(&wasm) == 2, "{} compilations", node.compilations(&wasm));
    run(node, &image, &operator_file)?;
    ensure!(node.compilations(&wasm) == 2, "the repaired entry is no good");
    Ok(())
}

fn a_truncated_entry_is_compiled_again(node: &Namespace) -> Result<()> {
    repaired(node, "halved", |entry| {
        let half = fs::metadata(entry)?.len() / 2;
        Ok(File::options().write(true).open(entry)?.set_len(half)?)
    })?;
    repaired(node, "emptied", |entry| Ok(File::options().write(true).open(entry)?.set_len(0)?))
}

fn a_garbled_entry_is_compiled_again(node: &Namespace) -> Result<()> {
    repaired(node, "garbled", |entry| {
        let size = usize::try_from(fs::metadata(entry)?.len())?;
        Ok(fs::write(entry, vec![0x5a; size])?)
    })
}

fn it_belongs_to_root_alone(node: &Namespace) -> Result<()> {
    let (image, _) = fresh_image(node, "mode")?;
    let base = node.directory("base")?;
    let dir = base.join("made/by/the/shim");
    let file = node.operator_file(&format!("[cache]\ndir = {:?}\n", dir.display().to_string()))?;
    run(node, &image, &file)?;
    let mode = fs::metadata(&dir)?.permissions().mode();
    ensure!(mode & 0o777 == 0o700, "mode {mode:o}");
    Ok(())
}
