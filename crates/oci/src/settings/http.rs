//! How an http guest is served, from all the places that have a word in it.

use super::keys::{ADDRESS_FORM, Choices};
use plan::{Http, Listen};

/// The port, as platforms for services pass it.
const PORT: &str = "PORT";
/// The address, as today's Wasm shims pass it.
const ADDRESS: &str = "WASMTIME_HTTP_PROXY_SOCKET_ADDR";

/// What annotations ask for goes before the environment, which replaces the defaults of operator and shim; these stay
/// within the operator's maxima.
pub(super) fn choose(asked: &Choices, env: &[String], defaults: &Choices, maxima: &Choices) -> Http {
    let built_in = Http::default();
    let listen = asked.listen.map(Listen::On);
    let listen = listen.or_else(|| of_environment(env)).or(defaults.listen.map(Listen::On));
    Http {
        listen: listen.unwrap_or(built_in.listen),
        max_concurrency: asked
            .max_concurrency
            .or(defaults.max_concurrency)
            .unwrap_or_else(|| least(built_in.max_concurrency, maxima.max_concurrency)),
        max_connections: asked.max_connections.or(defaults.max_connections).or(maxima.max_connections),
        request_timeout: asked
            .request_timeout
            .or(defaults.request_timeout)
            .unwrap_or_else(|| least(built_in.request_timeout, maxima.request_timeout)),
        reuse: asked.reuse.or(defaults.reuse).unwrap_or_else(|| least(built_in.reuse, maxima.reuse)),
        drain_delay: asked
            .drain_delay
            .or(defaults.drain_delay)
            .unwrap_or_else(|| least(built_in.drain_delay, maxima.drain_delay)),
    }
}

fn least<T: Ord>(default: T, maximum: Option<T>) -> T {
    match maximum {
        Some(maximum) => default.min(maximum),
        None => default,
    }
}

/// A value of no use is an error for a server alone: other programs may mean something else by these names.
fn of_environment(env: &[String]) -> Option<Listen> {
    let value = |name: &str| {
        let values = env.iter().filter_map(|entry| entry.split_once('='));
        values.filter(|(known, _)| *known == name).map(|(_, value)| value).next_back()
    };
    let unusable = |variable: &str, expected: &str| Listen::Unusable {
        variable: variable.to_owned(),
        expected: expected.to_owned(),
    };
    if let Some(port) = value(PORT) {
        let port = port.parse().ok().filter(|port| *port > 0);
        return Some(port.map_or_else(|| unusable(PORT, "a port from 1 to 65535"), Listen::port));
    }
    let address = value(ADDRESS)?;
    Some(address.parse().map_or_else(|_| unusable(ADDRESS, ADDRESS_FORM), Listen::On))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(env: &[&str], asked: Option<&str>, default: Option<&str>, wanted: Listen) {
        let env: Vec<String> = env.iter().map(|&entry| entry.to_owned()).collect();
        let of = |listen: Option<&str>| Choices {
            listen: listen.map(|address| address.parse().unwrap()),
            ..Choices::default()
        };
        let http = choose(&of(asked), &env, &of(default), &Choices::default());
        assert_eq!(http.listen, wanted, "{env:?} {asked:?} {default:?}");
    }

    #[test]
    fn the_environment_replaces_defaults_only() {
        let on = |address: &str| Listen::On(address.parse().unwrap());
        let unusable = |variable: &str, expected: &str| Listen::Unusable {
            variable: variable.to_owned(),
            expected: expected.to_owned(),
        };
        check(&[], None, None, on("[::]:8080"));
        check(&["PORT=80", "PORT=81", "WASMTIME_HTTP_PROXY_SOCKET_ADDR=127.0.0.1:1"], None, None, on("[::]:81"));
        check(&["WASMTIME_HTTP_PROXY_SOCKET_ADDR=127.0.0.1:1"], None, Some("0.0.0.0:2"), on("127.0.0.1:1"));
        check(&["PORT=80"], Some("10.0.0.1:3"), None, on("10.0.0.1:3"));
        check(&["PORT=tcp://10.0.0.1:80"], None, None, unusable("PORT", "a port from 1 to 65535"));
        check(&["WASMTIME_HTTP_PROXY_SOCKET_ADDR=x"], None, None, unusable(ADDRESS, ADDRESS_FORM));
    }

    #[test]
    fn what_nobody_asks_for_stays_within_the_maxima() {
        let maxima = Choices { max_concurrency: "4".parse().ok(), ..Choices::default() };
        let defaults = Choices::default();
        assert_eq!(choose(&defaults, &[], &defaults, &maxima).max_concurrency.get(), 4);
        assert_eq!(choose(&defaults, &[], &defaults, &defaults).max_concurrency.get(), 128);
    }
}
