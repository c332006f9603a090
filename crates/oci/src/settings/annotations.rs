//! The annotations of the pod and of the container under our prefix.
//! It must not know any other annotation but the one that names the container.

use super::keys::{Choices, KeyError, Maxima};
use std::collections::HashMap;

const PREFIX: &str = "io.containerd.wasm.v1/";
/// The container's name in its pod (containerd, `internal/cri/annotations`).
const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";

/// Why an annotation is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {annotation}")]
pub struct Error {
    /// The whole name.
    pub annotation: String,
    /// What is wrong with its key or value.
    #[source]
    pub source: KeyError,
}

/// What the annotations choose for this container: those for the container first, then those for the whole pod.
///
/// Annotations for another container of the pod have no effect here, but a mistake in them fails this one too: it
/// would otherwise show only where that container lands on the same shim.
pub(crate) fn choose(annotations: &HashMap<String, String>, maxima: &Maxima) -> Result<Choices, Error> {
    let mut ours: Vec<_> =
        annotations.iter().filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, value))).collect();
    // So that of several mistakes the same one is always named.
    ours.sort();
    let container_name = annotations.get(CONTAINER_NAME).map(String::as_str);
    let (mut container, mut pod, mut others) = <(Choices, Choices, Choices)>::default();
    for (name, value) in ours {
        // Neither a container's name (a DNS label) nor a key has an underscore.
        let (choices, key) = match name.split_once('_') {
            Some((of, key)) if Some(of) == container_name => (&mut container, key),
            Some((_, key)) => (&mut others, key),
            None => (&mut pod, name),
        };
        choices
            .set(key, value)
            .and_then(|()| choices.within(maxima))
            .map_err(|source| Error { annotation: format!("{PREFIX}{name}"), source })?;
    }
    Ok(container.or(pod))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain;
    use plan::{NetworkAccess, RootAccess};

    fn check(annotations: &[(&str, &str)], wanted: Result<Choices, &str>) {
        let map = annotations.iter().map(|(name, value)| (name.replace("W/", PREFIX), (*value).to_owned())).collect();
        let mut maxima = Maxima::default();
        for (key, value) in [("limits.memory", "1Gi"), ("rootfs", "ro"), ("network.allow", "tcp:10.0.0.0/8:*")] {
            maxima.set(key, value).unwrap();
        }
        let got = choose(&map, &maxima).map_err(|error| chain(&error));
        let wanted = wanted.map_err(|text| text.replace("W/", PREFIX));
        assert_eq!(got, wanted, "{annotations:?}");
    }

    fn memory(bytes: u64) -> Choices {
        Choices { memory_bytes: Some(bytes), ..Choices::default() }
    }

    #[test]
    fn container_goes_before_pod_and_others_are_ignored() {
        check(&[], Ok(Choices::default()));
        check(&[("other/limits.memory", "x")], Ok(Choices::default()));
        check(&[("W/limits.memory", "64Mi")], Ok(memory(64 << 20)));
        let app = (CONTAINER_NAME, "app");
        check(&[app, ("W/limits.memory", "1"), ("W/app_limits.memory", "2")], Ok(memory(2)));
        check(&[app, ("W/limits.memory", "1"), ("W/db_limits.memory", "2")], Ok(memory(1)));
        check(&[("W/app_limits.memory", "2")], Ok(Choices::default()));
        let none = Choices { network: Some(NetworkAccess::Only(Vec::new())), ..Choices::default() };
        check(&[("W/network.allow", "none")], Ok(none));
        let wanted = Choices { rootfs: Some(RootAccess::Hidden), invoke: Some("run".to_owned()), ..Choices::default() };
        check(&[app, ("W/rootfs", "none"), ("W/app_invoke", "run")], Ok(wanted));
    }

    #[test]
    fn mistakes_are_refused_by_name() {
        let known = "known keys are limits.memory, limits.timeout, limits.fuel, rootfs, http.max-concurrency, http.max-connections, \
                     http.request-timeout, http.reuse, http.drain-delay, network.allow, invoke, http.listen";
        check(&[("W/memory", "1")], Err(&format!("annotation W/memory: unknown key memory: {known}")));
        check(&[("W/db_memory", "1")], Err(&format!("annotation W/db_memory: unknown key memory: {known}")));
        check(&[("W/", "1")], Err(&format!("annotation W/: unknown key : {known}")));
        check(
            &[("W/coredump", "on")],
            Err(&format!(
                "annotation W/coredump: coredump is not built yet: remove it; built {}",
                known.trim_start_matches("known ")
            )),
        );
        check(&[("W/rootfs", "yes")], Err("annotation W/rootfs: bad value \"yes\" of rootfs: expected rw, ro or none"));
        let counts = "expected a whole number above 0";
        check(
            &[("W/http.reuse", "0")],
            Err(&format!("annotation W/http.reuse: bad value \"0\" of http.reuse: {counts}")),
        );
        check(
            &[("W/http.listen", "8080")],
            Err(
                "annotation W/http.listen: bad value \"8080\" of http.listen: expected an address with a port such as [::]:8080, 0.0.0.0:80 or 127.0.0.1:8080",
            ),
        );
        check(
            &[("W/invoke", "")],
            Err("annotation W/invoke: bad value \"\" of invoke: expected the name of an export"),
        );
        check(
            &[("W/limits.memory", "2Gi")],
            Err(
                "annotation W/limits.memory: limits.memory = 2Gi is above the maximum 1Gi: ask for less, or raise it in [maxima]",
            ),
        );
        check(
            &[("W/network.allow", "tcp:10.1.0.0/16:80,http:a")],
            Err(
                "annotation W/network.allow: rule http:a:* of network.allow is not within the maximum tcp:10.0.0.0/8:*: remove it or ask for less, or widen it in [maxima]",
            ),
        );
        check(
            &[("W/rootfs", "rw")],
            Err("annotation W/rootfs: rootfs = rw is above the maximum ro: ask for less, or raise it in [maxima]"),
        );
    }
}
