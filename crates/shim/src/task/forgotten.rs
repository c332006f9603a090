//! The end of a shim that containerd no longer knows.

use super::{Tasks, locked};
use std::time::Duration;

/// How long a shim may be without a task. Between `start` and the first create, and between the containers of a pod
/// without a pause container, lie milliseconds, on a node out of breath seconds.
const FORGOTTEN: Duration = Duration::from_secs(30);

impl Tasks {
    /// Ends the shim when it has had no task for a while. It is containerd that ends shims, and one that was killed, or
    /// whose client gave up, between the delete of a task and that of its shim never will; nor does the next one, which
    /// finds the shim without a task.
    pub(crate) async fn end_when_forgotten(&self) {
        loop {
            let before = locked(&self.tasks).made;
            tokio::select! {
                () = tokio::time::sleep(FORGOTTEN) => {}
                // Vacant from now on.
                () = self.vacant.notified() => continue,
            }
            let vacant = {
                let registry = locked(&self.tasks);
                registry.tasks.is_empty() && registry.made == before
            };
            if vacant {
                tracing::info!("nobody has asked this shim for a task in {FORGOTTEN:?}: it leaves");
                return self.shut_down();
            }
            self.vacant.notified().await;
        }
    }
}
