//! A command for `wasi:cli/command` 0.3 that does what its first argument says. It knows nothing of the tests.

use wasip3::cli::{environment, exit, stderr, stdin, stdout};
use wasip3::clocks::monotonic_clock;
use wasip3::exports::cli::run::Guest;
use wasip3::filesystem::preopens;
use wasip3::filesystem::types::{DescriptorFlags, OpenFlags, PathFlags};
use wasip3::http::client;
use wasip3::http::types::{Fields, Request, Response, Scheme};
use wasip3::{spawn_local, wit_future, wit_stream};

wasip3::cli::command::export!(Command);

struct Command;

impl Guest for Command {
    async fn run() -> Result<(), ()> {
        let words = environment::get_arguments();
        let word = |index: usize| words.get(index).map_or("", String::as_str);
        match word(1) {
            "hello" => say("hello from async wasm\n").await,
            "env" => {
                for (name, value) in environment::get_environment() {
                    say(&format!("{name}={value}\n")).await;
                }
            }
            "cat" => {
                let (input, _) = stdin::read_via_stream();
                let _ = stdout::write_via_stream(input).await;
            }
            "complain" => {
                let (mut text, stream) = wit_stream::new();
                spawn_local(async move {
                    text.write_all(b"complaint\n".to_vec()).await;
                });
                let _ = stderr::write_via_stream(stream).await;
            }
            "read" => say(&read(word(2)).await).await,
            "write" => say(&write(word(2), word(3)).await).await,
            "fetch" => say(&fetch(word(2)).await?).await,
            "together" => {
                for number in 0..3 {
                    spawn_local(async move {
                        monotonic_clock::wait_for(1_000_000 * number).await;
                        say(&format!("task {number}\n")).await;
                    });
                }
            }
            "exit" => exit::exit_with_code(word(2).parse().unwrap_or(0)),
            "fail" => return Err(()),
            "trap" => core::arch::wasm32::unreachable(),
            "sleep" => {
                say("sleeping\n").await;
                monotonic_clock::wait_for(3_600_000_000_000).await;
            }
            "spin" => {
                say("spinning\n").await;
                loop {
                    std::hint::black_box(&words);
                }
            }
            other => say(&format!("unknown word: {other}\n")).await,
        }
        Ok(())
    }
}

async fn say(text: &str) {
    let (mut output, stream) = wit_stream::new();
    let bytes = text.as_bytes().to_vec();
    spawn_local(async move {
        output.write_all(bytes).await;
    });
    let _ = stdout::write_via_stream(stream).await;
}

async fn read(path: &str) -> String {
    let Some((root, _)) = preopens::get_directories().into_iter().find(|(_, name)| name == "/") else {
        return "no preopen /\n".to_owned();
    };
    let path = path.trim_start_matches('/').to_owned();
    let opened = root.open_at(PathFlags::SYMLINK_FOLLOW, path, OpenFlags::empty(), DescriptorFlags::READ).await;
    match opened {
        Ok(file) => String::from_utf8_lossy(&file.read_via_stream(0).0.collect().await).into_owned(),
        Err(code) => format!("{code:?}\n"),
    }
}

async fn write(path: &str, text: &str) -> String {
    let Some((root, _)) = preopens::get_directories().into_iter().find(|(_, name)| name == "/") else {
        return "no preopen /\n".to_owned();
    };
    let path = path.trim_start_matches('/').to_owned();
    match root.open_at(PathFlags::empty(), path, OpenFlags::CREATE, DescriptorFlags::WRITE).await {
        Ok(file) => {
            let (mut output, stream) = wit_stream::new();
            let bytes = text.as_bytes().to_vec();
            spawn_local(async move {
                output.write_all(bytes).await;
            });
            match file.write_via_stream(stream, 0).await {
                Ok(()) => "written\n".to_owned(),
                Err(code) => format!("{code:?}\n"),
            }
        }
        Err(code) => format!("{code:?}\n"),
    }
}

/// What a server answers to `AUTHORITY/PATH`; stderr has the reason if nothing does.
async fn fetch(url: &str) -> Result<String, ()> {
    let (authority, path) = url.split_once('/').unwrap_or((url, ""));
    let (_, no_trailers) = wit_future::new(|| Ok(None));
    let (request, _) = Request::new(Fields::new(), None, no_trailers, None);
    let _ = request.set_scheme(Some(&Scheme::Http));
    let _ = request.set_authority(Some(authority));
    let _ = request.set_path_with_query(Some(&format!("/{path}")));
    let response = client::send(request).await.map_err(|code| eprintln!("{code:?}"))?;
    let (_, read) = wit_future::new(|| Ok(()));
    let (body, _trailers) = Response::consume_body(response, read);
    Ok(String::from_utf8_lossy(&body.collect().await).into_owned())
}
