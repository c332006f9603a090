//! What this node has, for cases that read its files or that make sense on some nodes only. It asks the kernel and the
//! filesystem, and knows nothing of containerd.
//!
//! `WASM_TEST_NODE=vm` says that the node is the virtual machine of `test/vm.sh`, which has all of them: a suite fails
//! there rather than run without the cases that it was started for.

use crate::process;
use anyhow::{Context, Result, bail};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Where systemd takes calls of root without a D-Bus daemon between.
pub const SYSTEMD_SOCKET: &str = "/run/systemd/private";

const CGROUPS: &str = "/sys/fs/cgroup";
const EXPECTED: &str = "WASM_TEST_NODE";

/// Something that some nodes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// One cgroup hierarchy for all controllers. A hybrid node (version 2 without controllers) has it not.
    CgroupV2,
    /// systemd as process 1, with its [private socket](SYSTEMD_SOCKET).
    Systemd,
    /// AppArmor, on in the kernel.
    AppArmor,
}

impl Feature {
    /// All of them.
    pub const ALL: [Feature; 3] = [Feature::CgroupV2, Feature::Systemd, Feature::AppArmor];

    /// Whether this node has it.
    pub fn is_here(self) -> bool {
        match self {
            Feature::CgroupV2 => statfs(CGROUPS).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC),
            Feature::Systemd => fs::metadata(SYSTEMD_SOCKET).is_ok_and(|found| found.file_type().is_socket()),
            Feature::AppArmor => {
                fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|enabled| enabled.trim() == "Y")
            }
        }
    }
}

/// The directory of a cgroup in the hierarchy of a version 1 controller, or in the only one of version 2.
pub fn cgroup(controller: &str, path: &str) -> PathBuf {
    let path = path.trim_start_matches('/');
    match Feature::CgroupV2.is_here() {
        true => Path::new(CGROUPS).join(path),
        false => Path::new(CGROUPS).join(controller).join(path),
    }
}

/// The cgroup of a process in the hierarchy of a controller, or in the only one.
pub fn cgroup_of(pid: i32, controller: &str) -> Result<PathBuf> {
    process::cgroup(pid, if Feature::CgroupV2.is_here() { "" } else { controller })
}

/// A file of the cgroup that a process is in: controller and name in version 1, name in version 2.
pub fn limit(pid: i32, version_1: (&str, &str), version_2: &str) -> Result<String> {
    let (controller, file) = if Feature::CgroupV2.is_here() { ("", version_2) } else { version_1 };
    let path = cgroup_of(pid, controller)?.join(file);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text.trim().to_owned())
}

/// Fails where the node lacks what its name in the environment promises.
pub(crate) fn check() -> Result<()> {
    let name = std::env::var(EXPECTED).unwrap_or_default();
    let lacking: Vec<Feature> = match name.as_str() {
        "" => Vec::new(),
        "vm" => Feature::ALL.into_iter().filter(|feature| !feature.is_here()).collect(),
        other => bail!("{EXPECTED} is {other}: expected vm, or nothing"),
    };
    if !lacking.is_empty() {
        bail!("this node is said to be {name}, and lacks {lacking:?}");
    }
    Ok(())
}
