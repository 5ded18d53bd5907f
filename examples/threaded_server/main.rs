//! A threaded server on threads or on coroutines: `cargo run --release --example threaded_server --
//! [--threads] [ADDRESS]`, then `nc 127.0.0.1 7001`.
//!
//! `server.rs` is compiled twice, with other imports: once over `std`, once over boson.

use std::error::Error;
use std::process::ExitCode;

#[path = "."]
mod on_threads {
    use std::{net, sync, thread};

    pub(crate) mod server;
}

#[path = "."]
mod on_coroutines {
    use boson::blocking::{net, sync};
    use boson::thread;

    #[expect(clippy::duplicate_mod, reason = "the same program over other imports is what this shows")]
    pub(crate) mod server;
}

fn main() -> ExitCode {
    let (mut address, mut threads) = ("127.0.0.1:7001".to_owned(), false);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--threads" => threads = true,
            option if option.starts_with('-') => {
                eprintln!("usage: threaded_server [--threads] [ADDRESS]");
                return ExitCode::from(2);
            }
            _ => address = argument,
        }
    }
    let served = if threads { on_threads(&address) } else { on_coroutines(address.clone()) };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("threaded_server: {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn on_threads(address: &str) -> Result<(), Box<dyn Error>> {
    let listener = std::net::TcpListener::bind(address)?;
    println!("a thread for each connection on {}", listener.local_addr()?);
    on_threads::server::serve(&listener);
    Ok(())
}

fn on_coroutines(address: String) -> Result<(), Box<dyn Error>> {
    boson::thread::run(move || -> std::io::Result<()> {
        let listener = boson::blocking::net::TcpListener::bind(&address)?;
        println!("a coroutine for each connection on {}", listener.local_addr()?);
        on_coroutines::server::serve(&listener);
        Ok(())
    })?;
    Ok(())
}
