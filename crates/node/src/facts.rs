//! Which nodes are served, and what is said of the others: one row each.

use crate::kubernetes::NodeInfo;

/// A kind of node that is not served, how it is known, and what its users do instead.
struct Unserved {
    name: &'static str,
    sign: fn(&NodeInfo) -> bool,
    remedy: &'static str,
}

const UNSERVED: [Unserved; 8] = [
    Unserved {
        name: "CRI-O",
        sign: |node| node.runtime.starts_with("cri-o:"),
        remedy: "the shim speaks containerd's protocol: use nodes with containerd",
    },
    Unserved {
        name: "Talos",
        sign: |node| node.os_image.starts_with("Talos"),
        remedy: "its files are read-only: build a system extension with the shim, and register it in machine.files",
    },
    Unserved {
        name: "Bottlerocket",
        sign: |node| node.os_image.starts_with("Bottlerocket"),
        remedy: "its files are read-only: the shim has to be part of a custom image",
    },
    Unserved {
        name: "k3s",
        sign: |node| node.kubelet.contains("+k3s"),
        remedy: "k3s writes containerd's configuration itself: add the runtime to its config-v3.toml.tmpl",
    },
    Unserved {
        name: "RKE2",
        sign: |node| node.kubelet.contains("+rke2"),
        remedy: "RKE2 writes containerd's configuration itself: add the runtime to its config-v3.toml.tmpl",
    },
    Unserved {
        name: "k0s",
        sign: |node| node.kubelet.contains("+k0s"),
        remedy: "add the runtime to /etc/k0s/containerd.d",
    },
    Unserved {
        name: "dockershim",
        sign: |node| node.runtime.starts_with("docker:"),
        remedy: "use nodes with containerd",
    },
    Unserved { name: "Windows", sign: |node| node.os_image.starts_with("Windows"), remedy: "the shim runs on Linux" },
];

/// Why this node is not served, if it is not.
pub(crate) fn refusal(node: &NodeInfo) -> Option<String> {
    let row = UNSERVED.iter().find(|row| (row.sign)(node))?;
    Some(format!("{} is not served by wasm-node: {}", row.name, row.remedy))
}

/// What the node's `/etc/os-release` says, where no kubelet is asked.
pub(crate) fn of_release(text: &str) -> NodeInfo {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    NodeInfo { os_image: value("PRETTY_NAME"), ..NodeInfo::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_are_not_served_hear_why() {
        let node = |os_image: &str, runtime: &str, kubelet: &str| NodeInfo {
            os_image: os_image.to_owned(),
            runtime: runtime.to_owned(),
            kubelet: kubelet.to_owned(),
        };
        let cases = [
            (node("Debian GNU/Linux 12 (bookworm)", "containerd://2.3.7", "v1.36.3"), None),
            (node("Talos (v1.9)", "containerd://2.0.5", "v1.36.3"), Some("Talos")),
            (node("Bottlerocket OS 1.20", "containerd://1.7.0", "v1.36.3"), Some("Bottlerocket")),
            (node("Fedora", "cri-o://1.36", "v1.36.3"), Some("CRI-O")),
            (node("Ubuntu 24.04", "containerd://2.0.5-k3s1", "v1.36.3+k3s1"), Some("k3s")),
            (of_release("NAME=Talos\nPRETTY_NAME=\"Talos (v1.9)\"\n"), Some("Talos")),
        ];
        for (node, expected) in cases {
            let said = refusal(&node);
            let name = said.as_deref().and_then(|said| said.split(' ').next());
            assert_eq!(name, expected, "{node:?}");
        }
    }
}
