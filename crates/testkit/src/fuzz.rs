//! Feeds a check with the files of a corpus and with variations of them, and keeps the input that fails.
//! It must not know what is checked.
//!
//! Without more said, a run is the same on every machine: each round makes its input from the corpus and its own number.
//! With `FUZZ_SECONDS` it lasts that long and starts from the clock, or from `FUZZ_SEED`.

mod bytes;
mod json;
mod told;
mod toml;
mod tree;

pub use told::assert_told;
pub use tree::{Tree, scratch};

use crate::checkout;
use crate::random::Random;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where the rounds start if nobody says otherwise.
const SEED: u64 = 1;
/// What one round changes at most.
const EDITS: usize = 5;
/// Beyond it an input only takes time.
const LONGEST: usize = 1 << 20;
/// No input may take longer: somebody waits for the answer. Far above what a busy machine needs for any of them.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the inputs are, which decides how they are varied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// JSON text.
    Json,
    /// TOML text.
    Toml,
    /// Anything.
    Bytes,
}

/// A corpus, which is one target's alone, and how much is made of it.
#[derive(Debug)]
pub struct Fuzz {
    corpus: PathBuf,
    form: Form,
    rounds: u64,
}

/// How long the variations go on.
enum Bound {
    Rounds(u64),
    Time(Duration),
}

impl Fuzz {
    /// The corpus `name` of the crate `of`, with this many variations where no time is given.
    pub fn new(of: &str, name: &str, form: Form, rounds: u64) -> Fuzz {
        Fuzz { corpus: checkout::of_crate(of).join("corpus").join(name), form, rounds }
    }

    /// Gives every file of the corpus to `check`, then variations. What makes it panic, or takes seconds, is a failure;
    /// the input is then in the corpus, where the next run meets it first.
    pub fn run(&self, check: impl Fn(&[u8])) {
        let files = self.files();
        assert!(!files.is_empty(), "{} has no files", self.corpus.display());
        for (path, bytes) in &files {
            self.judge(bytes, &path.display().to_string(), &check);
        }
        let seeds: Vec<Vec<u8>> = files.into_iter().map(|(_, bytes)| bytes).collect();
        let bound = match number("FUZZ_SECONDS") {
            Some(seconds) => Bound::Time(Duration::from_secs(seconds)),
            None => Bound::Rounds(self.rounds),
        };
        let seed = number("FUZZ_SEED").unwrap_or(match bound {
            Bound::Rounds(_) => SEED,
            Bound::Time(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        });
        let running = Running::new(&self.corpus);
        let begun = Instant::now();
        let mut round = 0;
        while bound.lasts(round, begun) {
            let input = self.vary(&seeds, Random::new(seed, round));
            running.note(&input);
            self.judge(&input, &format!("round {round} of seed {seed}"), &check);
            round += 1;
        }
        let seconds = begun.elapsed().as_secs_f64();
        println!(
            "{}: {} files, {round} variations of seed {seed} in {seconds:.1} s, {:.0} a second",
            self.corpus.display(),
            seeds.len(),
            round as f64 / seconds
        );
    }

    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let listed = fs::read_dir(&self.corpus).unwrap_or_else(|error| panic!("{}: {error}", self.corpus.display()));
        let mut paths: Vec<PathBuf> = listed.map(|entry| entry.expect("the corpus can be listed").path()).collect();
        // The order is a part of what a round makes.
        paths.sort();
        let files = paths.into_iter().filter_map(|path| Some((fs::read(&path).ok()?, path)));
        files.map(|(bytes, path)| (path, bytes)).collect()
    }

    fn vary(&self, seeds: &[Vec<u8>], mut random: Random) -> Vec<u8> {
        let mut input = random.pick(seeds).clone();
        // Some inputs leave the form, so that the parser itself is met too.
        let loose = random.one_in(6);
        for _ in 0..=random.below(EDITS).min(random.below(EDITS)) {
            let donor = random.pick(seeds);
            let edited = match self.form {
                _ if loose && random.one_in(2) => None,
                Form::Json => json::edit(&input, donor, &mut random),
                Form::Toml => toml::edit(&input, donor, &mut random),
                Form::Bytes => None,
            };
            input = edited.unwrap_or_else(|| bytes::edit(&input, donor, &mut random));
            input.truncate(LONGEST);
        }
        input
    }

    fn judge(&self, input: &[u8], origin: &str, check: &impl Fn(&[u8])) {
        let begun = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| check(input)));
        let took = begun.elapsed();
        if outcome.is_ok() && took < PATIENCE {
            return;
        }
        let hash = Sha256::digest(input);
        let name: String = hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let path = self.corpus.join(format!("failing-{name}"));
        let kept = match fs::write(&path, input) {
            Ok(()) => format!("kept as {}: the same test meets it first when it is run again", path.display()),
            Err(error) => format!("not kept as {}: {error}", path.display()),
        };
        let shown = input[..input.len().min(2000)].escape_ascii();
        eprintln!("{origin}, {} bytes, {:.1} s, {kept}\n{shown}", input.len(), took.as_secs_f64());
        match outcome {
            Err(panic) => resume_unwind(panic),
            Ok(()) => panic!("an input took {:.1} s", took.as_secs_f64()),
        }
    }
}

impl Bound {
    fn lasts(&self, round: u64, begun: Instant) -> bool {
        match self {
            Bound::Rounds(rounds) => round < *rounds,
            Bound::Time(time) => begun.elapsed() < *time,
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} = {text} is not a number")))
}

/// The input that is being checked, as a file of the corpus: it outlives a process that ends without a word, as one that
/// is out of stack does, and the next run meets it.
struct Running(Option<(File, PathBuf)>);

impl Running {
    fn new(corpus: &Path) -> Running {
        let path = corpus.join(format!("running-{}", std::process::id()));
        // Without it where the sources are read-only.
        Running(File::create(&path).ok().map(|file| (file, path)))
    }

    fn note(&self, input: &[u8]) {
        if let Some((file, _)) = &self.0 {
            // Losing a note costs a hint and no more.
            let _ = file.write_all_at(input, 0).and_then(|()| file.set_len(input.len() as u64));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some((_, path)) = &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus() -> (tempfile::TempDir, Fuzz) {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let place = dir.path().join("corpus/numbers");
        fs::create_dir_all(&place).expect("a directory can be made");
        fs::write(place.join("one"), r#"{"number": 1, "list": ["a", {"b": null}]}"#).expect("a file can be written");
        let fuzz = Fuzz::new(dir.path().to_str().expect("the directory is ascii"), "numbers", Form::Json, 2000);
        (dir, fuzz)
    }

    fn number_of(input: &[u8]) -> Option<i64> {
        let value: serde_json::Value = serde_json::from_slice(input).ok()?;
        value.get("number")?.as_i64()
    }

    #[test]
    fn a_failing_input_is_found_and_kept() {
        let (_dir, fuzz) = corpus();
        let check = |input: &[u8]| assert!(number_of(input) != Some(-1), "planted");
        let outcome = catch_unwind(AssertUnwindSafe(|| fuzz.run(check)));
        assert!(outcome.is_err(), "the planted fault was not found");
        let files = fuzz.files();
        let (_, kept) = files.iter().find(|(path, _)| !path.ends_with("one")).expect("the input is kept");
        assert_eq!(number_of(kept), Some(-1));
        assert_eq!(files.len(), 2, "{files:?}");
    }

    #[test]
    fn runs_of_one_seed_are_equal_and_most_inputs_keep_the_form() {
        let (_dir, fuzz) = corpus();
        let seeds: Vec<_> = fuzz.files().into_iter().map(|(_, bytes)| bytes).collect();
        let inputs = || (0..1000).map(|round| fuzz.vary(&seeds, Random::new(1, round))).collect::<Vec<_>>();
        let first = inputs();
        assert!(first == inputs());
        let parsed = first.iter().filter(|input| serde_json::from_slice::<serde_json::Value>(input).is_ok()).count();
        assert!((500..950).contains(&parsed), "{parsed} of 1000 are JSON");
    }
}
