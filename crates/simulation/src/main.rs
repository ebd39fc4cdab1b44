//! The program that runs seeds: each in a process of its own, since all that is random in a process
//! begins with its seed.

mod report;
mod search;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use simulation::database::Mutation;
use simulation::run::{Options, run};

/// Runs the relay and the consumer in a simulated world.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one seed, and print everything that happens.
    Replay {
        seed: u64,
        #[command(flatten)]
        world: WorldArgs,
    },
    /// Run seeds until one fails, or until there is no time left.
    Search(SearchArgs),
    /// Run the seeds that found something once.
    Kept,
    /// Run one seed in this process, and print how it ended as JSON.
    #[command(hide = true)]
    One {
        seed: u64,
        #[command(flatten)]
        world: WorldArgs,
    },
}

/// What differs from the world as the seed has it.
#[derive(Args, Clone, Default)]
struct WorldArgs {
    /// Leave out these steps, by their numbers.
    #[arg(long, value_delimiter = ',')]
    without: Vec<usize>,
    /// What the statements of the model lack.
    #[arg(long, value_parser = mutation)]
    mutation: Option<Mutation>,
}

#[derive(Args, Clone)]
struct SearchArgs {
    /// Seconds to search for; without it, until it is stopped.
    #[arg(long)]
    seconds: Option<u64>,
    /// How many seeds to run at most.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed; drawn at random without it.
    #[arg(long)]
    from: Option<u64>,
    /// Seeds to run at once; one for each core without it.
    #[arg(long)]
    jobs: Option<usize>,
    #[command(flatten)]
    world: WorldArgs,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Replay { seed, world } => replay(seed, &world),
        Command::Search(args) => search::search(&args),
        Command::Kept => search::kept(),
        Command::One { seed, world } => one(seed, &world),
    }
}

fn options(world: &WorldArgs, verbose: bool) -> Options {
    Options {
        mutation: world.mutation,
        without: world.without.iter().copied().collect(),
        verbose,
    }
}

fn mutation(name: &str) -> Result<Mutation, String> {
    let all = Mutation::ALL.into_iter();
    let known = |mutation: &Mutation| format!("{mutation:?}") == name;
    all.clone().find(known).ok_or_else(|| {
        let names: Vec<String> = all.map(|mutation| format!("{mutation:?}")).collect();
        format!(
            "there is no mutation {name}; there are {}",
            names.join(", ")
        )
    })
}

fn one(seed: u64, world: &WorldArgs) -> ExitCode {
    let outcome = run(seed, &options(world, false));
    report::say(&serde_json::to_string(&outcome).expect("numbers and text"));
    ExitCode::SUCCESS
}

fn replay(seed: u64, world: &WorldArgs) -> ExitCode {
    let outcome = run(seed, &options(world, true));
    report::say(&report::describe(seed, &outcome));
    if outcome.violation.is_some() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
