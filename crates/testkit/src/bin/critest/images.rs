//! The images that critest asks for, made of busybox and of the program that stands for others.
//! It must not know what is done with them.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;
use testkit::Image;
use testkit::image::Rootfs;
use testkit::registry::Registry;

/// Where Debian's package `busybox-static` has it.
const BUSYBOX: &str = "/bin/busybox";

const TESTS: &str = "k8s-staging-cri-tools";
const E2E: &str = "e2e-test-images";

/// Pushes all of them.
pub(crate) fn push(registry: &Registry, standin: &Path) -> Result<()> {
    let base = base()?;
    let program = fs::read(standin).with_context(|| format!("read {}", standin.display()))?;
    let image = |repository: &str, name: &str| {
        let image = Image::new(&registry.reference(&format!("{repository}/{name}")));
        image.rootfs(base.clone()).entrypoint([]).env("PATH=/usr/sbin:/usr/bin:/sbin:/bin")
    };
    let part = |path: &str| Rootfs::new().file(path, &program);
    let marked = |name: &str| image(TESTS, name).rootfs(Rootfs::new().file(&name.replace([':', '/'], "-"), b""));
    let server = |image: Image, path: &str, port: u16| {
        image.rootfs(part(path)).entrypoint([&format!("/{path}")]).env(&format!("LISTEN=:{port}"))
    };
    let host_nginx = format!("hostnet-nginx-{}:latest", architecture());
    let mut images = vec![
        image(E2E, "busybox:1.29-2").rootfs(part("bin/ipcs")),
        server(image(E2E, "nginx:1.14-2"), "usr/sbin/nginx", 80),
        server(image(E2E, "httpd:2.4.39-4"), "usr/sbin/httpd", 80),
        server(image(TESTS, &host_nginx), "usr/sbin/nginx", 12003),
        image(E2E, "nonewprivs:1.3").rootfs(part("usr/sbin/nnp").mode(0o4755)).entrypoint(["/usr/sbin/nnp"]),
        image(TESTS, "test-image-user-uid:latest").user("1002"),
        image(TESTS, "test-image-user-username:latest").user("www-data"),
        image(TESTS, "test-image-user-uid-group:latest").user("1003:users"),
        image(TESTS, "test-image-user-username-group:latest").user("www-data:100"),
        image(TESTS, "test-image-predefined-group:latest").user("1000"),
    ];
    for name in ["latest:latest", "tag:test", "tag:all", "1:latest", "2:latest", "3:latest"] {
        images.push(marked(&format!("test-image-{name}")));
    }
    let same = marked("test-image-tags:1");
    for tag in 1..=3 {
        images.push(same.clone().named(&registry.reference(&format!("{TESTS}/test-image-tags:{tag}"))));
    }
    images.iter().try_for_each(|image| registry.push(image).map(drop))
}

/// As Go names it, and image names with it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Busybox under all its names, and the accounts that the tests ask for.
fn base() -> Result<Rootfs> {
    let busybox = fs::read(BUSYBOX).with_context(|| format!("read {BUSYBOX} of busybox-static"))?;
    let names = Command::new(BUSYBOX).arg("--list").output()?;
    ensure!(names.status.success(), "{BUSYBOX} --list: {}", names.status);
    let mut rootfs = Rootfs::new();
    for path in ["bin", "dev", "etc", "home", "mnt", "proc", "root", "sys", "usr", "usr/sbin", "var", "var/run"] {
        rootfs = rootfs.directory(path);
    }
    rootfs = rootfs.directory("tmp").mode(0o1777).file("bin/busybox", &busybox);
    for name in String::from_utf8(names.stdout)?.lines().filter(|name| *name != "busybox") {
        rootfs = rootfs.symlink(&format!("bin/{name}"), "busybox");
    }
    // Of the words that the tests call and this busybox lacks.
    rootfs = rootfs.file("bin/pgrep", b"#!/bin/sh\npidof \"$1\"\n");
    let users = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var:/bin/false\nnobody:x:65534:65534::/:/bin/false\n\
                 default-user:x:1000:1000::/home:/bin/sh\n";
    let groups = "root:x:0:\nwww-data:x:33:\nusers:x:100:\ndefault-user:x:1000:\n\
                  group-defined-in-image:x:50000:default-user\nnogroup:x:65534:\n";
    Ok(rootfs.file("etc/passwd", users.as_bytes()).mode(0o644).file("etc/group", groups.as_bytes()).mode(0o644))
}
