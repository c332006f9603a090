//! From the wasm of a plan to its compiled code: by the index, by the cache, or by one compile child for the node.

use crate::log;
use crate::spawner::{Spawner, SpawnerError};
use engine::{Artifact, ArtifactKey, Cache, CacheError, CompileJob, HashError, Metering, Pending};
use plan::{Calls, Digest, Failure, Origin, Report};
use sandbox::compiler::{Inputs, Job, spawn};
use sandbox::{Channel, ChannelError, Child, Ended};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// SIGABRT: how a process without memory ends itself.
const ABORT: i32 = 6;
/// SIGKILL.
const KILL: i32 = 9;

/// The wasm of a plan, and where its code is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) origin: &'a Origin,
    pub(crate) guest: &'a oci::Guest,
    /// What its plan has counted.
    pub(crate) metering: Metering,
}

/// Why there is no compiled code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArtifactError {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Read(#[from] oci::Error),
    #[error("read {origin}")]
    Hash {
        origin: String,
        #[source]
        source: HashError,
    },
    #[error("open /dev/null")]
    Null(#[source] io::Error),
    #[error("start the compiler")]
    Spawn(#[from] SpawnerError<io::Error>),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("{origin}: {reason}")]
    Refused { origin: String, reason: String },
    #[error(
        "{origin}: compiling took longer than {seconds} s and was stopped: make it smaller or raise cache.compile-timeout"
    )]
    Slow { origin: String, seconds: u64 },
    #[error(
        "{origin}: compiling needed more than {mib} MiB and was stopped: make it smaller or raise cache.compile-memory"
    )]
    Large { origin: String, mib: u64 },
    #[error(
        "{origin}: the compiler was killed, as the kernel does when the node is out of memory: free some, try again"
    )]
    Killed { origin: String },
    #[error("{origin}: the compiler ended by signal {signal}: report this wasm as a fault of the compiler")]
    Crashed { origin: String, signal: i32 },
    #[error("{origin} changed while it was compiled: start the container again when it is written")]
    Changed { origin: String },
    #[error("{origin}: the compiler ended without a word")]
    Silent { origin: String },
}

/// What became of a compile child.
enum Compiled {
    /// It wrote the artifact.
    Here(Artifact),
    /// Another one had written it by the time this one held the lock.
    Elsewhere,
}

impl Source<'_> {
    /// The compiled code, from the cache if it has it.
    pub(crate) async fn artifact(&self, spawner: &Spawner) -> Result<Artifact, ArtifactError> {
        let cache = Cache::open(&self.guest.cache)?;
        let key = self.key(&cache).await?;
        match cache.lookup(&key).await? {
            Some(artifact) => Ok(artifact),
            None => self.compile(&cache, &key, spawner).await,
        }
    }

    /// The compiled code, made anew.
    pub(crate) async fn fresh_artifact(&self, spawner: &Spawner) -> Result<Artifact, ArtifactError> {
        let cache = Cache::open(&self.guest.cache)?;
        let key = self.key(&cache).await?;
        cache.discard(&key)?;
        self.compile(&cache, &key, spawner).await
    }

    async fn key(&self, cache: &Cache) -> Result<ArtifactKey, ArtifactError> {
        let digest = match self.origin {
            Origin::Layer { digest, .. } => *digest,
            Origin::File { identity, .. } => match identity.and_then(|identity| cache.known_digest(&identity)) {
                Some(digest) => digest,
                None => {
                    let digest = self.hash().await?;
                    if let Some(identity) = identity {
                        cache.remember(identity, &digest)?;
                    }
                    digest
                }
            },
        };
        Ok(ArtifactKey::new(cache, &digest, self.metering)?)
    }

    async fn hash(&self) -> Result<Digest, ArtifactError> {
        let wasm = self.guest.wasm.open().await?;
        let hashed = engine::hash(&wasm, self.guest.cache.compile.wasm_bytes).await;
        hashed.map_err(|source| ArtifactError::Hash { origin: self.origin.to_string(), source })
    }

    /// Compiles unless another shim is quicker: each waits for the lock in a child of its own.
    async fn compile(&self, cache: &Cache, key: &ArtifactKey, spawner: &Spawner) -> Result<Artifact, ArtifactError> {
        loop {
            let pending = cache.begin(key)?;
            if let Compiled::Here(artifact) = self.compile_in_child(cache, key, pending, spawner).await? {
                return Ok(artifact);
            }
            if let Some(artifact) = cache.lookup(key).await? {
                return Ok(artifact);
            }
        }
    }

    async fn compile_in_child(
        &self,
        cache: &Cache,
        key: &ArtifactKey,
        pending: Pending,
        spawner: &Spawner,
    ) -> Result<Compiled, ArtifactError> {
        let wasm = self.guest.wasm.open().await?;
        let null = File::open("/dev/null").map_err(ArtifactError::Null)?;
        let pending = Arc::new(pending);
        let (files, bounds, metering) = (pending.clone(), self.guest.cache.compile, self.metering);
        let fork = move || {
            let job = Job { wasm: &wasm, output: &files.output, lock: &files.lock, null: null.as_fd() };
            spawn(&job, bounds, |inputs, channel| run_compiler(inputs, metering, channel))
        };
        let (child, channel) = spawner.spawn(fork).await?;
        let outcome = self.converse(cache, key, &child, channel).await;
        if !matches!(outcome, Ok(Some(_))) {
            child.kill();
        }
        let ended = child.wait().await.unwrap_or(Ended::Signal(ABORT));
        let Some((calls, duration)) = outcome? else { return Ok(Compiled::Elsewhere) };
        if ended != Ended::Code(0) {
            return Err(self.failure(ended));
        }
        let pending =
            Arc::try_unwrap(pending).map_err(|_| ArtifactError::Silent { origin: self.origin.to_string() })?;
        // The lock is held until its last descriptor is closed, which `pending` holds.
        let artifact = cache.commit(pending, calls).await?;
        tracing::info!(source = %self.origin, key = %key, ?calls, ms = duration.as_millis(), "compiled");
        Ok(Compiled::Here(artifact))
    }

    /// Leads the child through its work. `None` if the artifact was there when the child got the lock.
    async fn converse(
        &self,
        cache: &Cache,
        key: &ArtifactKey,
        child: &Child,
        mut channel: Channel,
    ) -> Result<Option<(Calls, Duration)>, ArtifactError> {
        let bounds = self.guest.cache.compile;
        match channel.reports.next().await? {
            Some(Report::Locked) => {}
            other => return Err(self.unexpected(cache, other, child).await),
        }
        if cache.lookup(key).await?.is_some() {
            return Ok(None);
        }
        let begun = Instant::now();
        channel.orders.go().await?;
        let patience = Duration::from_millis(bounds.time_ms);
        match timeout(patience, channel.reports.next()).await {
            Err(_) => Err(ArtifactError::Slow { origin: self.origin.to_string(), seconds: patience.as_secs() }),
            Ok(report) => match report? {
                Some(Report::Compiled { wasm, calls }) if wasm == *key.source() => Ok(Some((calls, begun.elapsed()))),
                // The code of other bytes must not get the name of these.
                Some(Report::Compiled { .. }) => Err(ArtifactError::Changed { origin: self.origin.to_string() }),
                other => Err(self.unexpected(cache, other, child).await),
            },
        }
    }

    async fn unexpected(&self, cache: &Cache, report: Option<Report>, child: &Child) -> ArtifactError {
        match report {
            Some(Report::Failed(Failure::Message(reason) | Failure::StaleArtifact(reason))) => {
                ArtifactError::Refused { origin: self.origin.to_string(), reason }
            }
            Some(Report::Failed(Failure::NoSpace)) => cache.full().into(),
            Some(_) => ArtifactError::Silent { origin: self.origin.to_string() },
            None => match child.wait().await {
                Ok(ended) => self.failure(ended),
                Err(_) => ArtifactError::Silent { origin: self.origin.to_string() },
            },
        }
    }

    fn failure(&self, ended: Ended) -> ArtifactError {
        let origin = self.origin.to_string();
        match ended {
            Ended::Signal(ABORT) => ArtifactError::Large { origin, mib: self.guest.cache.compile.memory_bytes >> 20 },
            Ended::Signal(KILL) => ArtifactError::Killed { origin },
            Ended::Signal(signal) => ArtifactError::Crashed { origin, signal },
            Ended::Code(_) => ArtifactError::Silent { origin },
        }
    }
}

/// The life of the compile child.
fn run_compiler(inputs: Inputs, metering: Metering, channel: sandbox::channel::ChildEnd) {
    log::mute();
    let channel = std::cell::RefCell::new(channel);
    let Inputs { wasm, output, lock } = inputs;
    let job = CompileJob { wasm, output, lock, metering };
    let go = || channel.borrow_mut().wait_for_go();
    engine::compile(job, go, &mut |report| channel.borrow_mut().report(&report));
}
