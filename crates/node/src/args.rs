//! The command line of `wasm-node`, each option also by an environment variable.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Installs the Wasm runtime on a node of containerd, verifies that it runs, and takes it away again.
#[derive(Debug, Parser)]
#[command(name = "wasm-node", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Put the shim and its runtime into containerd, restart it if need be, verify, and label the node last
    Install(Install),
    /// Take all of it away again; refuses while Wasm pods run
    Uninstall(Uninstall),
    /// Run a Wasm container through containerd, and one over CRI
    Verify(Node),
    /// Say what is installed, and whether it was verified
    Status(Status),
    /// Speak to systemd: for this program's own use, in a process that can be given up on
    #[command(hide = true)]
    Systemd {
        #[command(subcommand)]
        asked: Asked,
    },
}

/// What systemd is asked.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Asked {
    /// What it knows of a unit
    Show { unit: String },
    /// To restart it
    Restart { unit: String },
    /// To remove a tree of the node, and directories that are empty, in a unit of this name
    Sweep { unit: String, tree: String, empty: Vec<String> },
}

/// Where things are on the node.
#[derive(Debug, Clone, Args)]
pub(crate) struct Node {
    /// The node's root directory, as this process sees it
    #[arg(long, env = "WASM_NODE_HOST_ROOT", default_value = "/")]
    pub(crate) host_root: PathBuf,
    /// containerd's main configuration file
    #[arg(long, env = "WASM_NODE_CONFIG", default_value = "/etc/containerd/config.toml")]
    pub(crate) config: PathBuf,
    /// containerd's socket
    #[arg(long, env = "WASM_NODE_SOCKET", default_value = "/run/containerd/containerd.sock")]
    pub(crate) socket: PathBuf,
    /// containerd's unit of systemd
    #[arg(long, env = "WASM_NODE_UNIT", default_value = "containerd.service")]
    pub(crate) unit: String,
    /// Where the shim and what is known of the install go
    #[arg(long, env = "WASM_NODE_INSTALL_DIR", default_value = "/opt/wasm")]
    pub(crate) install_dir: PathBuf,
    /// The directory with `containerd-shim-wasm-v1` and `verify.wasm` [default: that of this program]
    #[arg(long, env = "WASM_NODE_PAYLOAD")]
    pub(crate) payload: Option<PathBuf>,
    /// The Kubernetes node to label; without it, Kubernetes is not spoken to
    #[arg(long = "node", env = "WASM_NODE_NODE")]
    pub(crate) name: Option<String>,
    /// This installer's own image, as CRI knows it: its `/verify.wasm` is run over CRI; without it, a sandbox only
    #[arg(long, env = "WASM_NODE_IMAGE")]
    pub(crate) image: Option<String>,
    /// One JSON object a line: step, state, message
    #[arg(long, env = "WASM_NODE_JSON")]
    pub(crate) json: bool,
}

/// How to install.
#[derive(Debug, Clone, Args)]
pub(crate) struct Install {
    #[command(flatten)]
    pub(crate) node: Node,
    /// NAMESPACE/NAME of the Lease that is held from before a restart until the node is verified
    #[arg(long, env = "WASM_NODE_LEASE")]
    pub(crate) lease: Option<String>,
    /// NAMESPACE/NAME of the DaemonSet that this runs in: when it no longer selects the node, the node is cleaned
    #[arg(long, env = "WASM_NODE_DAEMONSET")]
    pub(crate) daemonset: Option<String>,
    /// A file to copy to /etc/containerd-shim-wasm/config.toml
    #[arg(long, env = "WASM_NODE_OPERATOR_CONFIG")]
    pub(crate) operator_config: Option<PathBuf>,
    /// Stay: verify again every 5 minutes and when containerd or its configuration changes, and repair
    #[arg(long, env = "WASM_NODE_STAY")]
    pub(crate) stay: bool,
}

/// How to uninstall.
#[derive(Debug, Clone, Args)]
pub(crate) struct Uninstall {
    #[command(flatten)]
    pub(crate) node: Node,
    /// Stop and remove the Wasm pods of this node instead of refusing
    #[arg(long, env = "WASM_NODE_DRAIN", conflicts_with = "cluster")]
    pub(crate) drain: bool,
    /// Uninstall from all nodes of the cluster, one at a time
    #[arg(long, env = "WASM_NODE_CLUSTER", requires_all = ["namespace", "release"])]
    pub(crate) cluster: bool,
    /// The namespace of the DaemonSet (with --cluster)
    #[arg(long, env = "WASM_NODE_NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// The name of the DaemonSet (with --cluster)
    #[arg(long, env = "WASM_NODE_RELEASE")]
    pub(crate) release: Option<String>,
    /// A node to leave as it is (with --cluster; may be repeated, or given with commas)
    #[arg(long, env = "WASM_NODE_SKIP_NODE", value_delimiter = ',')]
    pub(crate) skip_node: Vec<String>,
}

/// What to say.
#[derive(Debug, Clone, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) node: Node,
    /// Exit with 0 only if the node was verified from this host, or pod; a probe's question
    #[arg(long)]
    pub(crate) ready: bool,
}
