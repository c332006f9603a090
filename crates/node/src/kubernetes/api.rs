//! Requests to the API server: JSON over HTTPS, with the pod's service account.

use serde_json::Value;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use ureq::Agent;
use ureq::http::{Response, StatusCode};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

/// Where the kubelet puts the service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest that it may be, in bytes: 100 nodes or pods with all that others note in them.
const LONGEST: u64 = 64 << 20;
/// Objects of one answer.
const PAGE: usize = 100;

/// Why the API server did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("KUBERNETES_SERVICE_HOST is not set: --node, --lease and --cluster work in a pod only")]
    Outside,
    #[error("read the service account's {path}")]
    Account {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("ask the API server to {method} {path}")]
    Transport {
        method: &'static str,
        path: String,
        #[source]
        source: Box<ureq::Error>,
    },
    #[error("waiting for this node's turn was given up: the installer is told to end")]
    GivenUp,
    #[error("the API server answers {status} to {method} {path}: {message}")]
    Refused { method: &'static str, path: String, status: StatusCode, message: String },
}

/// A client of the cluster that this pod is in.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    agent: Agent,
    server: String,
}

impl Api {
    pub(crate) fn of_this_pod() -> Result<Api, ApiError> {
        let variable = |name: &str| std::env::var(name).map_err(|_| ApiError::Outside);
        let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let authority = read("ca.crt")?;
        let roots = parse_pem(&authority).filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        });
        let tls = TlsConfig::builder().root_certs(RootCerts::Specific(Arc::new(roots.collect()))).build();
        let config = Agent::config_builder().tls_config(tls).timeout_global(Some(PATIENCE)).http_status_as_error(false);
        Ok(Api { agent: config.proxy(None).build().into(), server: format!("https://{host}:{port}") })
    }

    /// A client that reaches nobody.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Api {
        Api { agent: Agent::config_builder().build().into(), server: "https://127.0.0.1:1".to_owned() }
    }

    /// An object; none if it is not there.
    pub(crate) fn get(&self, path: &str) -> Result<Option<Value>, ApiError> {
        let request = self.agent.get(self.url(path)).header("Authorization", bearer()?);
        absent_is_none(answer("GET", path, request.call()))
    }

    /// The objects of a list, page by page.
    pub(crate) fn list(&self, path: &str, mut seen: impl FnMut(&Value)) -> Result<(), ApiError> {
        let mark = if path.contains('?') { '&' } else { '?' };
        let mut next = String::new();
        loop {
            let page = self.get(&format!("{path}{mark}limit={PAGE}&continue={next}"))?.unwrap_or_default();
            page["items"].as_array().into_iter().flatten().for_each(&mut seen);
            match page["metadata"]["continue"].as_str() {
                Some(token) if !token.is_empty() => next = token.to_owned(),
                _ => return Ok(()),
            }
        }
    }

    /// Changes what a merge patch names (RFC 7396).
    pub(crate) fn patch(&self, path: &str, change: &Value) -> Result<(), ApiError> {
        let request = self.agent.patch(self.url(path)).header("Authorization", bearer()?);
        let request = request.content_type("application/merge-patch+json");
        answer("PATCH", path, request.send(change.to_string())).map(drop)
    }

    /// Makes an object.
    pub(crate) fn post(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        let request = self.agent.post(self.url(path)).header("Authorization", bearer()?);
        answer("POST", path, request.send_json(object))
    }

    /// Replaces an object, if its version is still the one given.
    pub(crate) fn put(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        let request = self.agent.put(self.url(path)).header("Authorization", bearer()?);
        answer("PUT", path, request.send_json(object))
    }

    /// Removes an object, with those that it owns; it need not be there.
    pub(crate) fn delete(&self, path: &str) -> Result<(), ApiError> {
        let url = format!("{}?propagationPolicy=Background", self.url(path));
        let request = self.agent.delete(url).header("Authorization", bearer()?);
        absent_is_none(answer("DELETE", path, request.call())).map(drop)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server)
    }
}

impl ApiError {
    /// Whether somebody else was quicker.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, ApiError::Refused { status, .. } if *status == StatusCode::CONFLICT)
    }
}

fn answer(
    method: &'static str,
    path: &str,
    response: Result<Response<ureq::Body>, ureq::Error>,
) -> Result<Value, ApiError> {
    let failed = |source| ApiError::Transport { method, path: path.to_owned(), source: Box::new(source) };
    let mut response = response.map_err(failed)?;
    let status = response.status();
    let body: Value = response.body_mut().with_config().limit(LONGEST).read_json().map_err(failed)?;
    if status.is_success() {
        return Ok(body);
    }
    let message = body["message"].as_str().unwrap_or("no reason given").to_owned();
    Err(ApiError::Refused { method, path: path.to_owned(), status, message })
}

fn absent_is_none(answer: Result<Value, ApiError>) -> Result<Option<Value>, ApiError> {
    match answer {
        Err(ApiError::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
        answer => answer.map(Some),
    }
}

/// Read for each request: the kubelet replaces it.
fn bearer() -> Result<String, ApiError> {
    let token = read("token")?;
    Ok(format!("Bearer {}", String::from_utf8_lossy(&token).trim()))
}

fn read(name: &str) -> Result<Vec<u8>, ApiError> {
    let path = Path::new(ACCOUNT).join(name);
    fs::read(&path).map_err(|source| ApiError::Account { path, source })
}
