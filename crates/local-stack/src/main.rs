//! The command line of the local stack.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use local_stack::{Stack, StackError};

/// A real Postgres and a real Kafka on this machine, without containers.
///
/// They are fetched once with Maven, listen on 127.0.0.1 only, outlive this command, and keep their
/// data until `down`. Their state is in a temporary folder of the system, or in
/// LOCAL_STACK_DIR.
#[derive(Debug, Parser)]
#[command(name = "local-stack", version)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start both unless they are running, and print DATABASE_URL and KAFKA_BROKERS
    Up,
    /// Stop both and remove their data
    Down,
    /// Show whether both are running; exits with 0 if they are, or 3
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

const NOT_RUNNING: u8 = 3;

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Action::Up => up(),
        Action::Down => down(),
        Action::Status { json } => status(json),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("local-stack: {error}");
        ExitCode::FAILURE
    })
}

fn up() -> Result<ExitCode, StackError> {
    print(&local_stack::up()?);
    Ok(ExitCode::SUCCESS)
}

fn down() -> Result<ExitCode, StackError> {
    let ran = local_stack::down()?;
    eprintln!(
        "{}",
        if ran {
            "The local stack is down."
        } else {
            "The local stack was not running."
        }
    );
    Ok(ExitCode::SUCCESS)
}

fn status(json: bool) -> Result<ExitCode, StackError> {
    let stack = local_stack::status()?;
    match &stack {
        _ if json => println!(
            "{}",
            serde_json::json!({ "running": stack.is_some(), "stack": stack })
        ),
        Some(stack) => print(stack),
        None => println!("not running"),
    }
    Ok(if stack.is_some() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_RUNNING)
    })
}

fn print(stack: &Stack) {
    println!("DATABASE_URL={}", stack.database_url);
    println!("KAFKA_BROKERS={}", stack.kafka_brokers);
}
