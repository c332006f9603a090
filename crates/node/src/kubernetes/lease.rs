//! The Lease that one node of the cluster holds at a time, while its containerd restarts and until it is verified
//! (coordination.k8s.io/v1). One that is not renewed passes to the next.

use super::{Api, ApiError, ObjectName};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

/// A holder that has not been heard of for so long has gone.
const LASTS: Duration = Duration::from_secs(60);
const RENEWAL: Duration = Duration::from_secs(15);
/// Between two looks whether it is free.
const LOOK: Duration = Duration::from_secs(1);

/// A lease, and who would hold it.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    api: Api,
    name: ObjectName,
    holder: String,
    /// Another's hold, as it was last seen to change.
    seen: Arc<Mutex<Option<Seen>>>,
}

/// Somebody's hold, and since when it is the same by this node's own clock: the clocks of two nodes differ.
#[derive(Debug)]
struct Seen {
    holder: String,
    renewed: String,
    since: Instant,
}

/// It is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    lease: Lease,
    end: Option<Sender<()>>,
    renewals: Option<JoinHandle<()>>,
}

impl Lease {
    pub(crate) fn new(api: Api, name: ObjectName, holder: &str) -> Lease {
        Lease { api, name, holder: holder.to_owned(), seen: Arc::default() }
    }

    /// Waits for its turn, unless it is given up; `told` hears who has it meanwhile, each once.
    pub(crate) fn hold(&self, given_up: &AtomicBool, told: impl Fn(&str)) -> Result<Held, ApiError> {
        let mut last = String::new();
        loop {
            if given_up.load(Ordering::SeqCst) {
                return Err(ApiError::GivenUp);
            }
            match self.attempt()? {
                None => break,
                Some(holder) => {
                    if holder != last {
                        told(&holder);
                        last = holder;
                    }
                    thread::sleep(LOOK);
                }
            }
        }
        let (end, ended) = mpsc::channel();
        let lease = self.clone();
        let renewals = thread::spawn(move || {
            while ended.recv_timeout(RENEWAL) == Err(RecvTimeoutError::Timeout) {
                // The next one may do; without any, the lease passes on, which the verification does not depend on.
                let _ = lease.attempt();
            }
        });
        Ok(Held { lease: self.clone(), end: Some(end), renewals: Some(renewals) })
    }

    /// Takes or renews it; who else has it, if somebody has.
    fn attempt(&self) -> Result<Option<String>, ApiError> {
        let now = SystemTime::now();
        let taken = match self.api.get(&self.path())? {
            None => {
                let metadata = json!({ "name": self.name.name, "namespace": self.name.namespace });
                let kind = json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata });
                self.api.post(&self.folder(), &self.held_by(kind, &self.holder, now))
            }
            Some(lease) => match self.other_holder(&lease, Instant::now()) {
                Some(other) => return Ok(Some(other)),
                None => self.api.put(&self.path(), &self.held_by(lease, &self.holder, now)),
            },
        };
        match taken {
            Ok(_) => Ok(None),
            Err(error) if error.is_conflict() => Ok(Some("another node, just now".to_owned())),
            Err(error) => Err(error),
        }
    }

    fn release(&self) -> Result<(), ApiError> {
        match self.api.get(&self.path())? {
            Some(lease) if lease["spec"]["holderIdentity"] == self.holder => {
                self.api.put(&self.path(), &self.held_by(lease, "", SystemTime::now())).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Who else holds it now: whoever it names, until that has been the same for as long as a lease lasts.
    fn other_holder(&self, lease: &Value, now: Instant) -> Option<String> {
        let text = |key: &str| lease["spec"][key].as_str().unwrap_or_default().to_owned();
        let (holder, renewed) = (text("holderIdentity"), text("renewTime"));
        if holder.is_empty() || holder == self.holder {
            return None;
        }
        let mut seen = self.seen.lock().expect("nobody panics with it");
        match &*seen {
            Some(last) if last.holder == holder && last.renewed == renewed => {
                (now.duration_since(last.since) < LASTS).then_some(holder)
            }
            _ => {
                *seen = Some(Seen { holder: holder.clone(), renewed, since: now });
                Some(holder)
            }
        }
    }

    /// The object, with its version, which the API server compares.
    fn held_by(&self, mut lease: Value, holder: &str, now: SystemTime) -> Value {
        let now = humantime::format_rfc3339_micros(now).to_string();
        lease["spec"] = json!({
            "holderIdentity": holder,
            "leaseDurationSeconds": LASTS.as_secs(),
            "acquireTime": now,
            "renewTime": now,
        });
        lease
    }

    fn folder(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.name.namespace)
    }

    fn path(&self) -> String {
        format!("{}/{}", self.folder(), self.name.name)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.end.take();
        if let Some(renewals) = self.renewals.take() {
            let _ = renewals.join();
        }
        // Else it passes on when its time is over.
        let _ = self.lease.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_passes_on_when_it_is_free_or_not_renewed() {
        let name = "ns/lease".parse().unwrap();
        let lease = Lease::new(Api::nowhere(), name, "a");
        let held = |holder: &str, renewed: &str| json!({"spec": {"holderIdentity": holder, "renewTime": renewed}});
        let begin = Instant::now();
        // Whatever the holder's clock says.
        let cases = [
            (held("b", "1999"), 0, true),
            (held("b", "1999"), 59, true),
            (held("b", "1999"), 61, false),
            (held("b", "2099"), 61, true),
            (held("b", "2100"), 120, true),
            (held("c", "2100"), 181, true),
            (held("a", "2100"), 181, false),
            (held("", "2100"), 181, false),
            (json!({}), 181, false),
        ];
        for (object, after_s, is_held) in cases {
            let other = lease.other_holder(&object, begin + Duration::from_secs(after_s));
            assert_eq!(other.is_some(), is_held, "{object} after {after_s} s");
        }
    }
}
