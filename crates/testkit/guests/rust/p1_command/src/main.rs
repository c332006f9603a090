//! A program of WASI preview 1: prints its arguments and WHO, reads the file its first argument names, writes to stderr, and
//! leaves with the code its second argument says. It knows nothing of the tests.

use std::{env, fs, io, process};

fn main() -> io::Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [file, code] = words.as_slice() else { return Err(io::Error::other("expected FILE CODE")) };
    println!("args {}", words.join(","));
    println!("who {}", env::var("WHO").unwrap_or_default());
    println!("file {}", fs::read_to_string(file)?);
    eprintln!("rust to stderr");
    process::exit(code.parse::<i32>().map_err(io::Error::other)?)
}
