//! Runs the guest programs natively and inside `nacelle do`. See the crate's documentation for the arguments.

fn main() -> std::process::ExitCode {
    conformance::runner::main()
}
