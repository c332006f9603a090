//! The Lease that one node of the cluster holds at a time, while its containerd restarts and until it is verified
//! (coordination.k8s.io/v1). One that is not renewed passes to the next.

use super::{Api, ApiError, ObjectName};
use serde_json::{Value, json};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

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
        Lease { api, name, holder: holder.to_owned() }
    }

    /// Waits for its turn; `told` hears who has it meanwhile, each once.
    pub(crate) fn hold(&self, told: impl Fn(&str)) -> Result<Held, ApiError> {
        let mut last = String::new();
        loop {
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
            Some(lease) => match other_holder(&lease, &self.holder, now) {
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
            Some(lease) if other_holder(&lease, &self.holder, SystemTime::now()).is_none() => {
                self.api.put(&self.path(), &self.held_by(lease, "", SystemTime::now())).map(drop)
            }
            _ => Ok(()),
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

/// Who holds it now, other than `holder`.
fn other_holder(lease: &Value, holder: &str, now: SystemTime) -> Option<String> {
    let spec = &lease["spec"];
    let name = spec["holderIdentity"].as_str().unwrap_or_default();
    if name.is_empty() || name == holder {
        return None;
    }
    let renewed = spec["renewTime"].as_str().and_then(|time| humantime::parse_rfc3339(time).ok())?;
    let lasts = Duration::from_secs(spec["leaseDurationSeconds"].as_u64().unwrap_or(LASTS.as_secs()));
    (now < renewed + lasts).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_passes_on_when_it_is_free_or_over() {
        let now = humantime::parse_rfc3339("2026-01-01T00:01:00Z").unwrap();
        let lease = |holder: &str, renewed: &str| json!({"spec": {"holderIdentity": holder, "leaseDurationSeconds": 60, "renewTime": renewed}});
        let cases = [
            (lease("b", "2026-01-01T00:00:30.000000Z"), Some("b".to_owned())),
            (lease("b", "2026-01-01T00:00:00.000000Z"), None),
            (lease("a", "2026-01-01T00:00:30.000000Z"), None),
            (lease("", "2026-01-01T00:00:30.000000Z"), None),
            (json!({}), None),
        ];
        for (lease, expected) in cases {
            assert_eq!(other_holder(&lease, "a", now), expected, "{lease}");
        }
    }
}
